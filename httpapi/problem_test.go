package httpapi

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"pipeproc/api"
)

// statuses is the table of DESIGN section 4.
var statuses = map[int]string{
	400: "invalid_request invalid_topic_format invalid_proc_format invalid_log_format invalid_range_offset no_valid_processor_provided",
	401: "unauthorized",
	403: "forbidden",
	404: "not_found invalid_topic invalid_proc invalid_system_proc log_not_found",
	405: "method_not_allowed",
	409: "already_claimed claim_lost invalid_ack nothing_to_reclaim proc_is_disabled proc_already_disabled proc_already_active proc_name_not_unique proc_options_differ proc_is_managed topic_in_use",
	410: "collected",
	413: "too_large",
	415: "unsupported_media_type",
	416: "invalid_tone_id_search",
	422: "idempotency_key_reused",
	429: "rate_limited",
	500: "internal",
	503: "overloaded unavailable",
}

// failing is a surface whose store answers err.
func failing(err error) *Server {
	return New(Config{Topics: topics{topic: func(string) (api.Topic, error) { return api.Topic{}, err }}})
}

func TestStatusOfEachCode(t *testing.T) {
	n := 0
	for status, codes := range statuses {
		for code := range strings.FieldsSeq(codes) {
			n++
			// Wrapped, as a store may do it.
			a := call(t, failing(fmt.Errorf("topic: %w", api.Errorf(api.Code(code), "why"))), "GET", "/v1/topics/t", "")
			a.wantsProblem(t, status, api.Code(code))
			if code != "internal" && !strings.Contains(a.body, `"detail":"why"`) {
				t.Errorf("%s: %s", code, a.body)
			}
		}
	}
	if n != len(kinds) {
		t.Errorf("%d codes here, %d in the table", n, len(kinds))
	}
	call(t, failing(api.Errorf("unheard_of", "why")), "GET", "/v1/topics/t", "").wantsProblem(t, 500, api.CodeInternal)
}

func TestExtensions(t *testing.T) {
	held := api.Errorf(api.CodeAlreadyClaimed, "held")
	gone := api.Errorf(api.CodeCollected, "gone")
	for _, c := range []struct {
		err  *api.Error
		want string
	}{{held, `"expiresAt":null}`}, {gone, `"firstId":null}`}} {
		if a := call(t, failing(c.err), "GET", "/v1/topics/t", ""); !strings.Contains(a.body, c.want) {
			t.Errorf("%s, want %s", a.body, c.want)
		}
	}
	held.ExpiresAt, gone.FirstID = new(int64(1234)), &api.ID{TS: 7, Seq: 8}
	for _, c := range []struct {
		err  *api.Error
		want string
	}{{held, `"expiresAt":1234}`}, {gone, `"firstId":"7-8"}`}} {
		if a := call(t, failing(c.err), "GET", "/v1/topics/t", ""); !strings.Contains(a.body, c.want) {
			t.Errorf("%s, want %s", a.body, c.want)
		}
	}
	call(t, failing(api.Errorf(api.CodeClaimLost, "lost")), "GET", "/v1/topics/t", "", "X-Request-Id: its-name").wants(t, 409,
		`{"type":"urn:pipeproc:problem:claim_lost","title":"The claim was lost","status":409,"detail":"lost","code":"claim_lost","requestId":"its-name"}`)
}

func TestRetryAfter(t *testing.T) {
	for _, c := range []struct {
		code  api.Code
		after time.Duration
		want  string
	}{
		{api.CodeOverloaded, 0, "1"},
		{api.CodeUnavailable, 1500 * time.Millisecond, "2"},
		{api.CodeRateLimited, 7 * time.Second, "7"},
		{api.CodeClaimLost, 7 * time.Second, ""},
	} {
		err := api.Errorf(c.code, "later")
		err.RetryAfter = c.after
		if got := call(t, failing(err), "GET", "/v1/topics/t", "").header.Get("Retry-After"); got != c.want {
			t.Errorf("%s after %v: Retry-After %q, want %q", c.code, c.after, got, c.want)
		}
	}
}

// TestQuota holds that the client which has too many of something is told of what, and how many it may have.
func TestQuota(t *testing.T) {
	err := api.Errorf(api.CodeRateLimited, "too many")
	err.Quota = &api.Quota{Name: "streams-per-key", Most: 7}
	h := call(t, failing(err), "GET", "/v1/topics/t", "").header
	if policy, left := h.Get("RateLimit-Policy"), h.Get("RateLimit"); policy != `"streams-per-key";q=7;qu="concurrent-requests"` ||
		left != `"streams-per-key";r=0` {
		t.Errorf("RateLimit-Policy: %s, RateLimit: %s", policy, left)
	}
}

func TestInternalIsToldToTheLogAlone(t *testing.T) {
	for _, err := range []error{errors.New("secret cause"), api.Errorf(api.CodeInternal, "secret cause"),
		fmt.Errorf("secret cause: %w", context.Canceled), // of somebody else's context
		fmt.Errorf("secret cause: %w", context.DeadlineExceeded)} {
		var log bytes.Buffer
		s := failing(err)
		s.Logger = slog.New(slog.NewTextHandler(&log, nil))
		a := call(t, s, "GET", "/v1/topics/t", "")
		a.wantsProblem(t, 500, api.CodeInternal)
		if strings.Contains(a.body, "secret") || !strings.Contains(log.String(), "secret cause") {
			t.Errorf("wire %s, log %s", a.body, log.String())
		}
	}
}

func TestPanicIsAProblem(t *testing.T) {
	var log bytes.Buffer
	s := New(Config{Logger: slog.New(slog.NewTextHandler(&log, nil)),
		Topics: topics{topic: func(string) (api.Topic, error) { panic("secret cause") }}})
	a := call(t, s, "GET", "/v1/topics/t", "")
	a.wantsProblem(t, 500, api.CodeInternal)
	if strings.Contains(a.body, "secret") {
		t.Error(a.body)
	}
	if !strings.Contains(log.String(), "secret cause") || !strings.Contains(log.String(), "problem_test.go") {
		t.Errorf("no cause or stack in the log: %s", log.String())
	}
	if got := counted(t, s, "/v1/topics/{topic}", "GET", "500"); got != 1 {
		t.Errorf("counted %v", got)
	}
}

func TestPanicAfterTheAnswerBeganCutsTheConnection(t *testing.T) {
	for _, v := range []any{"a fault", http.ErrAbortHandler} {
		s := New(Config{Streams: streams(func(_ string, w http.ResponseWriter, _ *http.Request) error {
			_, _ = w.Write([]byte("half"))
			panic(v)
		})})
		func() {
			defer func() {
				if got := recover(); got != http.ErrAbortHandler {
					t.Errorf("panic %v", got)
				}
			}()
			s.ServeHTTP(httptest.NewRecorder(), request("GET", "/v1/tail", ""))
		}()
	}
}

func TestClientThatWentAwayIsNoFault(t *testing.T) {
	var log bytes.Buffer
	ctx, cancel := context.WithCancel(t.Context())
	s := New(Config{Logger: slog.New(slog.NewTextHandler(&log, nil)),
		Topics: topics{topic: func(string) (api.Topic, error) {
			cancel()
			return api.Topic{}, fmt.Errorf("query: %w", ctx.Err())
		}}})
	func() {
		defer func() {
			if got := recover(); got != http.ErrAbortHandler { // an empty 200 would be a lie
				t.Errorf("panic %v", got)
			}
		}()
		s.ServeHTTP(httptest.NewRecorder(), request("GET", "/v1/topics/t", "").WithContext(ctx))
	}()
	if log.Len() > 0 {
		t.Error(log.String())
	}
	if got := counted(t, s, "/v1/topics/{topic}", "GET", "499"); got != 1 {
		t.Errorf("counted %v", got)
	}
}

func TestServerThatStopsSaysSo(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	s := New(Config{Topics: topics{topic: func(string) (api.Topic, error) {
		cancel(api.Errorf(api.CodeUnavailable, "the server stops"))
		return api.Topic{}, ctx.Err()
	}}})
	a := do(t, s, request("GET", "/v1/topics/t", "").WithContext(ctx))
	a.wantsProblem(t, 503, api.CodeUnavailable)
}

func TestStreamErrorsAreProblems(t *testing.T) {
	s := New(Config{Streams: streams(func(what string, _ http.ResponseWriter, r *http.Request) error {
		return api.Errorf(api.CodeInvalidProc, "%s %s%s", what, r.PathValue("name"), r.PathValue("topic"))
	})})
	for path, want := range map[string]string{
		"/v1/live-procs/n/changes":          "changes n",
		"/v1/live-procs/%6e/changes":        "changes n",
		"/v1/topics/t/live?mode=x&count=5":  "live t",
		"/v1/tail?topic=a&topic=a&start=:1": "tail ",
	} {
		a := call(t, s, "GET", path, "")
		a.wantsProblem(t, 404, api.CodeInvalidProc)
		if !strings.Contains(a.body, `"`+want+`"`) {
			t.Errorf("%s: %s", path, a.body)
		}
	}
}
