package contracttest

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
)

func document(tb testing.TB) *Contract {
	tb.Helper()
	doc, err := os.ReadFile("../../openapi.yaml")
	if err != nil {
		tb.Fatal(err)
	}
	c, err := New(doc)
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// canned is an answer; header lines are "Name: value".
func canned(status int, body string, headers ...string) *http.Response {
	resp := &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body)),
		ContentLength: int64(len(body))}
	for _, line := range headers {
		name, value, _ := strings.Cut(line, ": ")
		resp.Header.Add(name, value)
	}
	return resp
}

func problem(status int, code, more string) string {
	return fmt.Sprintf(`{"type":"urn:pipeproc:problem:%s","title":"t","status":%d,"detail":"d","code":%q%s}`, code, status,
		code, more)
}

const (
	noStore = "Cache-Control: no-store"
	asJSON  = "Content-Type: application/json"
	asProb  = "Content-Type: application/problem+json"
	proc    = `{"name":"p","topic":"t","kind":"proc","status":"active","offset":">","count":1,"createdAt":1,` +
		`"lastClaimedRange":"","previousClaimedRange":"","lastAckedRange":"1-0..1-0","lastClaimedAt":null,` +
		`"lastAckedAt":1,"reclaims":0,"maxReclaims":10,"reclaimTimeout":-1,"onMaxReclaimsReached":"disable","lag":0,` +
		`"claim":null}`
	claim = `{"token":"x","range":"1-0..1-0","attempt":1,"expiresAt":null}`
	logs  = `[{"id":"1-0","body":{"n":1e400,"s":"\ud800"}}]`
)

func TestAnswers(t *testing.T) {
	c := document(t)
	for _, test := range []struct {
		name    string
		request string // method and path
		answer  *http.Response
		wrong   string // part of what is told; "" when the answer is right
	}{
		{"commit one", "POST /v1/commit", canned(201, `{"id":"1-0"}`, asJSON, noStore), ""},
		{"commit several", "POST /v1/commit", canned(201, `{"ids":["1-0"]}`, asJSON, noStore), ""},
		{"commit neither", "POST /v1/commit", canned(201, `{}`, asJSON, noStore), "body"},
		{"commit both", "POST /v1/commit", canned(201, `{"id":"1-0","ids":["1-0"]}`, asJSON, noStore), "body"},
		{"not an id", "POST /v1/commit", canned(201, `{"id":"1"}`, asJSON, noStore), "body"},
		{"duplicate", "POST /v1/commit", canned(200, `{"id":"1-0","duplicate":true}`, asJSON, noStore), ""},
		{"duplicate untold", "POST /v1/commit", canned(200, `{"id":"1-0"}`, asJSON, noStore), "body"},
		{"not told not to store", "POST /v1/commit", canned(201, `{"id":"1-0"}`, asJSON), "Cache-Control is missing"},
		{"told to store", "POST /v1/commit", canned(201, `{"id":"1-0"}`, asJSON, "Cache-Control: private"), "Cache-Control"},
		{"location", "POST /v1/topics/t/logs",
			canned(201, `{"id":"1-0"}`, asJSON, noStore, "Location: /v1/topics/t/logs/1-0"), ""},
		{"no location", "POST /v1/topics/t/logs", canned(201, `{"id":"1-0"}`, asJSON, noStore), "Location is missing"},
		{"not JSON", "GET /v1/topics/t/logs", canned(200, `{"logs":`, asJSON, noStore), "not JSON"},
		{"page", "GET /v1/topics/t/logs?limit=1", canned(200, `{"logs":`+logs+`,"next":"1-1"}`, asJSON, noStore), ""},
		{"charset", "GET /v1/topics/t/logs", canned(200, `{"logs":[]}`, asJSON+"; charset=utf-8", noStore), ""},
		{"null for no logs", "GET /v1/topics/t/logs", canned(200, `{"logs":null}`, asJSON, noStore), "body"},
		{"null for no next", "GET /v1/topics/t/logs", canned(200, `{"logs":[],"next":null}`, asJSON, noStore), "body"},
		{"scalar body", "GET /v1/topics/t/logs/:0", canned(200, `{"id":"1-0","body":1}`, asJSON, noStore), "body"},
		{"unknown member", "GET /v1/topics/t/logs/:0", canned(200, `{"id":"1-0","body":[],"x":1}`, asJSON, noStore), "body"},
		{"escaped path", "GET /v1/topics/a%2Fb/logs/%3A0",
			canned(400, problem(400, "invalid_topic_format", ""), asProb, noStore), ""},
		{"proc", "GET /v1/procs/p", canned(200, proc, asJSON, noStore), ""},
		{"proc with an error", "GET /v1/procs/p",
			canned(200, strings.Replace(proc, `"lag"`, `"nextAttemptAt":5,"lastError":"x","lag"`, 1), asJSON, noStore), ""},
		{"proc with a claim", "GET /v1/procs/p",
			canned(200, strings.Replace(proc, `"claim":null`, `"claim":`+claim, 1), asJSON, noStore), ""},
		{"proc with half a claim", "GET /v1/procs/p",
			canned(200, strings.Replace(proc, `"claim":null`, `"claim":{"token":"x"}`, 1), asJSON, noStore), "body"},
		{"proc with more", "GET /v1/procs/p",
			canned(200, strings.Replace(proc, `"lag"`, `"changes":"/v1","lag"`, 1), asJSON, noStore), "body"},
		{"proc with less", "GET /v1/procs/p", canned(200, strings.Replace(proc, `"lag":0,`, ``, 1), asJSON, noStore), "body"},
		{"live proc", "POST /v1/live-procs",
			canned(201, strings.Replace(proc, `"lag"`, `"changes":"/v1/live-procs/p/changes","lag"`, 1), asJSON, noStore), ""},
		{"live proc without changes", "POST /v1/live-procs", canned(201, proc, asJSON, noStore), "body"},
		{"claimed", "POST /v1/procs/p/claim",
			canned(200, `{"proc":"p","topic":"t","claim":`+claim+`,"logs":`+logs+`}`, asJSON, noStore), ""},
		{"nothing to do", "POST /v1/procs/p/claim", canned(204, ``, noStore), ""},
		{"content without content", "POST /v1/procs/p/claim", canned(204, ``, noStore, asJSON), "none is documented"},
		{"held", "POST /v1/procs/p/claim",
			canned(409, problem(409, "already_claimed", `,"expiresAt":null`), asProb, noStore), ""},
		{"held, until untold", "POST /v1/procs/p/claim",
			canned(409, problem(409, "already_claimed", ``), asProb, noStore), "body"},
		{"disabled, until told", "POST /v1/procs/p/claim",
			canned(409, problem(409, "proc_is_disabled", `,"expiresAt":1`), asProb, noStore), "body"},
		{"code of elsewhere", "POST /v1/procs/p/claim",
			canned(409, problem(409, "topic_in_use", ``), asProb, noStore), "body"},
		{"unknown code", "POST /v1/procs/p/claim", canned(409, problem(409, "oops", ``), asProb, noStore), "body"},
		{"status differs", "POST /v1/procs/p/claim",
			canned(409, problem(400, "proc_is_disabled", ``), asProb, noStore), "status"},
		{"type differs", "POST /v1/procs/p/claim", canned(409,
			strings.Replace(problem(409, "proc_is_disabled", ``), "problem:proc_is_disabled", "problem:x", 1), asProb,
			noStore), "its type"},
		{"problem as JSON", "POST /v1/procs/p/claim",
			canned(409, problem(409, "proc_is_disabled", ``), asJSON, noStore), "not documented"},
		{"undocumented status", "POST /v1/procs/p/claim", canned(418, ``), "does not answer this status"},
		{"collected", "GET /v1/topics/t/logs?start=:1",
			canned(410, problem(410, "collected", `,"firstId":"5-5"`), asProb, noStore), ""},
		{"acked", "POST /v1/procs/p/ack", canned(200, `{"ackedLogId":"1-0"}`, asJSON, noStore), ""},
		{"acked, no more", "POST /v1/procs/p/ack", canned(200, `{"ackedLogId":"1-0..1-1","next":null}`, asJSON, noStore), ""},
		{"acked, more", "POST /v1/procs/p/ack",
			canned(200, `{"ackedLogId":"1-0","next":{"claim":`+claim+`,"logs":`+logs+`}}`, asJSON, noStore), ""},
		{"acked with ids", "POST /v1/procs/p/ack", canned(200, `{"ackedLogId":"1-0","ids":[]}`, asJSON, noStore), "body"},
		{"ack-committed", "POST /v1/procs/p/ack-commit", canned(200, `{"ackedLogId":"1-0","id":"1-0"}`, asJSON, noStore), ""},
		{"ack-committed twice", "POST /v1/procs/p/ack-commit",
			canned(200, `{"ackedLogId":"1-0","id":"1-0","ids":["1-0"]}`, asJSON, noStore), "body"},
		{"systemProc", "GET /v1/system-procs/s", canned(200, `{"name":"s","from":"a","to":[],"processor":`+
			`{"url":"http://x","headers":{"a":"[redacted]"}},"createdAt":1,"procs":[`+proc+`]}`, asJSON, noStore), ""},
		{"collected now", "POST /v1/gc", canned(200, `{"topics":[]}`, asJSON, noStore), ""},
		{"collected now, when told", "POST /v1/gc", canned(200, `{"topics":[],"finishedAt":1}`, asJSON, noStore), "body"},
		{"collected last", "GET /v1/gc", canned(200, `{"topics":[],"finishedAt":null}`, asJSON, noStore), ""},
		{"overloaded", "POST /v1/commit",
			canned(503, problem(503, "overloaded", ``), asProb, noStore, "Retry-After: 1"), ""},
		{"overloaded for a while", "POST /v1/commit",
			canned(503, problem(503, "overloaded", ``), asProb, noStore, "Retry-After: soon"), "whole number"},
		{"stream", "GET /v1/tail?topic=t",
			canned(200, ``, "Content-Type: text/event-stream", "X-Accel-Buffering: no"), ""},
		{"stream as JSON", "GET /v1/tail?topic=t", canned(200, `{}`, asJSON, "X-Accel-Buffering: no"), "not documented"},
		{"head", "HEAD /v1/topics/t", canned(200, ``, asJSON, noStore), ""},
		{"head of nothing", "HEAD /v1/topics/t", canned(404, ``, asProb, noStore), ""},
		{"unknown route", "GET /nope", canned(404, problem(404, "not_found", ``), asProb, noStore), ""},
		{"unknown route by another name", "GET /nope", canned(404, problem(404, "invalid_topic", ``), asProb, noStore), "body"},
		{"unknown route, done", "GET /nope", canned(200, ``), "no operation matches"},
		{"unknown route, known method", "GET /nope",
			canned(405, problem(405, "method_not_allowed", ``), asProb, noStore, "Allow: GET"), "no such route"},
		{"unknown method", "PUT /v1/commit",
			canned(405, problem(405, "method_not_allowed", ``), asProb, noStore, "Allow: POST"), ""},
		{"unknown method, which ones untold", "PUT /v1/commit",
			canned(405, problem(405, "method_not_allowed", ``), asProb, noStore), "Allow is missing"},
		{"unknown method, unknown route", "PUT /v1/commit",
			canned(404, problem(404, "not_found", ``), asProb, noStore), "another method"},
		{"empty name, taken", "GET /v1/procs/", canned(400, problem(400, "invalid_proc_format", ``), asProb, noStore), ""},
		{"empty name, not taken", "GET /v1/procs/", canned(404, problem(404, "not_found", ``), asProb, noStore), ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			want, err := io.ReadAll(test.answer.Body)
			if err != nil {
				t.Fatal(err)
			}
			test.answer.Body = io.NopCloser(strings.NewReader(string(want)))
			var told string
			transport := c.Transport(roundTrip(func(*http.Request) (*http.Response, error) { return test.answer, nil }),
				func(format string, args ...any) { told += fmt.Sprintf(format, args...) })
			method, path, _ := strings.Cut(test.request, " ")
			req, err := http.NewRequest(method, "http://server"+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := transport.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			switch {
			case test.wrong == "" && told != "":
				t.Errorf("refused: %s", told)
			case test.wrong != "" && !strings.Contains(told, test.wrong):
				t.Errorf("told %q, want something of %q", told, test.wrong)
			}
			if got, err := io.ReadAll(resp.Body); err != nil || string(got) != string(want) {
				t.Errorf("the caller reads %q, %v", got, err)
			}
		})
	}
}

// What was answered is recorded, and no longer missing; general answers count for every operation.
func TestMissing(t *testing.T) {
	c := document(t)
	all := len(c.Missing())
	answers := map[string]*http.Response{
		"/v1/topics/t":    canned(404, problem(404, "invalid_topic", ``), asProb, noStore),
		"/v1/procs/p":     canned(500, problem(500, "internal", ``), asProb, noStore),
		"/v1/procs/q":     canned(200, `{}`, asJSON, noStore), // wrong, so not recorded
		"/v1/procs/p/ack": canned(405, problem(405, "method_not_allowed", ``), asProb, noStore, "Allow: POST"),
	}
	transport := c.Transport(roundTrip(func(r *http.Request) (*http.Response, error) { return answers[r.URL.Path], nil }),
		func(string, ...any) {})
	for path := range answers {
		req, err := http.NewRequest("GET", "http://server"+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := transport.RoundTrip(req); err != nil {
			t.Fatal(err)
		}
	}
	want := map[Answer]int{
		{"topic", 404, "invalid_topic"}:           1,
		{AnyOperation, 500, "internal"}:           1,
		{AnyOperation, 405, "method_not_allowed"}: 1,
	}
	got := c.Produced()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("produced %v, want %v", got, want)
	}
	missing := c.Missing()
	if len(missing) != all-len(want) {
		t.Errorf("%d answers are missing, of %d", len(missing), all)
	}
	for _, a := range missing {
		if want[a] > 0 {
			t.Errorf("%v is missing, but was produced", a)
		}
	}
}

// A stream is passed on unread, and a body that breaks off is the caller's to see.
func TestBodiesArePassedOn(t *testing.T) {
	c := document(t)
	told := func(format string, args ...any) { t.Errorf(format, args...) }
	unread := &http.Response{StatusCode: 200, ContentLength: -1, Header: http.Header{"Content-Type": {"text/event-stream"},
		"X-Accel-Buffering": {"no"}}, Body: io.NopCloser(failing{t})}
	req, err := http.NewRequest("GET", "http://server/v1/tail?topic=t", nil)
	if err != nil {
		t.Fatal(err)
	}
	transport := c.Transport(roundTrip(func(*http.Request) (*http.Response, error) { return unread, nil }), told)
	if _, err := transport.RoundTrip(req); err != nil {
		t.Fatal(err)
	}

	short := canned(200, "", asJSON, noStore)
	short.Body = io.NopCloser(io.MultiReader(strings.NewReader(`{"logs":`), broken{io.ErrUnexpectedEOF}))
	transport = c.Transport(roundTrip(func(*http.Request) (*http.Response, error) { return short, nil }), told)
	if req, err = http.NewRequest("GET", "http://server/v1/topics/t/logs", nil); err != nil {
		t.Fatal(err)
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(resp.Body); string(got) != `{"logs":` || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("the caller reads %q, %v", got, err)
	}
}

// failing is a body that must not be read.
type failing struct{ t *testing.T }

func (f failing) Read([]byte) (int, error) {
	f.t.Error("the stream is read")
	return 0, io.EOF
}

func TestNewRefusesWhatIsNoDocument(t *testing.T) {
	for _, doc := range []string{"", "openapi: 3.1.0", "{", "openapi: 3.1.0\ninfo: {title: x, version: '1'}\npaths: {x: {}}"} {
		if _, err := New([]byte(doc)); err == nil {
			t.Errorf("%q is taken", doc)
		}
	}
}

func BenchmarkTransport(b *testing.B) {
	c := document(b)
	req, err := http.NewRequest("GET", "http://server/v1/procs/p", nil)
	if err != nil {
		b.Fatal(err)
	}
	transport := c.Transport(roundTrip(func(*http.Request) (*http.Response, error) {
		return canned(200, proc, asJSON, noStore), nil
	}), b.Errorf)
	for b.Loop() {
		if _, err := transport.RoundTrip(req); err != nil {
			b.Fatal(err)
		}
	}
}
