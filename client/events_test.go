package client_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"pipeproc/api"
	"pipeproc/client"
)

// stream writes a stream's head and text.
func stream(w http.ResponseWriter, text string) {
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no")
	_, _ = io.WriteString(w, text)
	w.(http.Flusher).Flush()
}

// next is the next event, in short, or the error.
func next(e *client.Events) string {
	event, err := e.Next()
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%s %s %s", event.Type, event.ID, event.Data)
}

func TestStreams(t *testing.T) {
	for _, test := range []struct {
		name string
		open func(ctx context.Context, c *client.Client) (*client.Events, error)
		want string
	}{
		{"Tail", func(ctx context.Context, c *client.Client) (*client.Events, error) {
			return c.Tail(ctx, client.TailOptions{Topics: []string{"a", "b"}, Start: "earliest"})
		}, "/v1/tail?start=earliest&topic=a&topic=b "},
		{"Tail from an id", func(ctx context.Context, c *client.Client) (*client.Events, error) {
			return c.Tail(ctx, client.TailOptions{Topics: []string{"a"}}, client.LastEventID("x"))
		}, "/v1/tail?topic=a x"},
		{"LiveProcChanges", func(ctx context.Context, c *client.Client) (*client.Events, error) {
			return c.LiveProcChanges(ctx, "l")
		}, "/v1/live-procs/l/changes "},
		{"TopicLive", func(ctx context.Context, c *client.Client) (*client.Events, error) {
			return c.TopicLive(ctx, "t", client.LiveOptions{Mode: api.ModeAll, Count: 2})
		}, "/v1/topics/t/live?count=2&mode=all "},
		{"TopicLive without options", func(ctx context.Context, c *client.Client) (*client.Events, error) {
			return c.TopicLive(ctx, "t", client.LiveOptions{})
		}, "/v1/topics/t/live "},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := open(t, func(w http.ResponseWriter, r *http.Request) {
				if got := r.RequestURI + " " + r.Header.Get("Last-Event-ID"); got != test.want || r.Header.Get("Accept") != "text/event-stream" {
					t.Errorf("asked %q for %s, want %q", got, r.Header.Get("Accept"), test.want)
				}
				stream(w, "retry: 5\n\nevent: log\nid: 1\ndata: {}\n\n: x\n\nid: 2\n\n")
			})
			e, err := test.open(t.Context(), c)
			if err != nil {
				t.Fatal(err)
			}
			defer e.Close()
			got := []string{next(e), next(e), next(e), e.LastEventID()}
			if diff := cmp.Diff([]string{"log 1 {}", "EOF", "EOF", "2"}, got); diff != "" {
				t.Errorf("events (-want +got):\n%s", diff)
			}
		})
	}
}

func TestLiveProc(t *testing.T) {
	var asked []string
	c := open(t, func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.Method+" "+r.URL.Path)
		switch r.URL.Path {
		case "/v1/live-procs":
			body, _ := io.ReadAll(r.Body)
			if string(body) != `{"topic":"t","mode":"live","count":2,"ttl":-1}` {
				t.Errorf("sent %s", body)
			}
			answer(w, 201, procText[:len(procText)-1]+`,"changes":"/v1/live-procs/p/changes"}`)
		case "/v1/live-procs/p/changes":
			stream(w, "event: logs\ndata: {\"proc\":\"p\",\"claim\":"+claimText+",\"logs\":"+logsText+"}\n\nevent: end\ndata: {\"reason\":\"expired\"}\n\n")
		case "/v1/procs/p/ack", "/v1/procs/p/ack-commit":
			answer(w, 200, `{"ackedLogId":"1-0"}`)
		case "/v1/procs/p/reclaim":
			answer(w, 200, `{"lastClaimedRange":""}`)
		default:
			answer(w, 200, procText)
		}
	})
	ctx := t.Context()
	l, err := c.LiveProc(ctx, api.LiveProcSpec{Topic: "t", Mode: api.ModeLive, Count: new(2), TTL: new(int64(-1))})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(proc, l.Proc, compare); diff != "" {
		t.Errorf("proc (-want +got):\n%s", diff)
	}
	e, err := l.Changes(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	event, err := e.Next()
	if err != nil {
		t.Fatal(err)
	}
	var logs api.Claimed
	if err := event.Decode(&logs); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(api.Claimed{Proc: "p", Claim: claim, Logs: []api.Log{log0}}, logs, compare); diff != "" {
		t.Errorf("logs (-want +got):\n%s", diff)
	}
	var end client.End
	if event, err = e.Next(); err != nil || event.Decode(&end) != nil || end.Reason != api.EndExpired {
		t.Errorf("end %s: %v", event.Data, err)
	}
	for name, call := range map[string]func() error{
		"ack": func() error { _, err := l.Ack(ctx, client.AckOptions{}); return err },
		"ackCommit": func() error {
			_, err := l.AckCommit(ctx, client.AckOptions{}, api.NewLog{Body: []byte("{}")})
			return err
		},
		"ackCommits": func() error {
			_, err := l.AckCommitAll(ctx, client.AckOptions{}, []api.NewLog{{Body: []byte("{}")}})
			return err
		},
		"reclaim": func() error { _, err := l.Reclaim(ctx, ""); return err },
		"inspect": func() error { _, err := l.Inspect(ctx); return err },
		"disable": func() error { _, err := l.Disable(ctx); return err },
		"resume":  func() error { _, err := l.Resume(ctx); return err },
		"cancel":  func() error { _, err := l.Cancel(ctx); return err },
		"destroy": func() error { _, err := l.Destroy(ctx); return err },
	} {
		if err := call(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	seen := map[string]bool{}
	for _, line := range asked {
		seen[line] = true
	}
	for _, line := range []string{"POST /v1/procs/p/ack", "POST /v1/procs/p/ack-commit", "POST /v1/procs/p/reclaim", "GET /v1/procs/p",
		"POST /v1/procs/p/disable", "POST /v1/procs/p/resume", "POST /v1/live-procs/p/cancel", "DELETE /v1/live-procs/p"} {
		if !seen[line] {
			t.Errorf("never asked: %s", line)
		}
	}
}

// Where there is no stream, opening one tells why.
func TestNoStream(t *testing.T) {
	c := open(t, func(w http.ResponseWriter, _ *http.Request) { answer(w, 204, "") })
	if _, err := c.LiveProcChanges(t.Context(), "l", client.Reconnecting()); !errors.Is(err, client.ErrNoStream) {
		t.Errorf("204: %v", err)
	}
	c = open(t, func(w http.ResponseWriter, _ *http.Request) { answer(w, 404, problem(404, "invalid_proc", "")) })
	if _, err := c.LiveProcChanges(t.Context(), "l"); api.CodeOf(err) != api.CodeInvalidProc {
		t.Errorf("404: %v", err)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { answer(w, 200, "{}") }))
	t.Cleanup(server.Close)
	if _, err := plain(t, server.URL).LiveProcChanges(t.Context(), "l"); err == nil {
		t.Error("JSON is taken for a stream")
	}
}

// Close ends a Next that waits, and so does the end of the context.
func TestStreamsEnd(t *testing.T) {
	for name, end := range map[string]struct {
		do   func(cancel context.CancelFunc, e *client.Events)
		want error
	}{
		"Close":   {func(_ context.CancelFunc, e *client.Events) { e.Close() }, client.ErrClosed},
		"context": {func(cancel context.CancelFunc, _ *client.Events) { cancel() }, context.Canceled},
	} {
		for _, options := range [][]client.StreamOption{nil, {client.Reconnecting()}} {
			c := open(t, func(w http.ResponseWriter, r *http.Request) {
				stream(w, "data: a\n\n")
				<-r.Context().Done()
			})
			ctx, cancel := context.WithCancel(t.Context())
			e, err := c.Tail(ctx, client.TailOptions{Topics: []string{"t"}}, options...)
			if err != nil {
				t.Fatal(err)
			}
			if got := next(e); got != "message  a" {
				t.Errorf("%s: %s", name, got)
			}
			ended := make(chan error)
			go func() {
				_, err := e.Next()
				ended <- err
			}()
			end.do(cancel, e)
			if err := <-ended; !errors.Is(err, end.want) {
				t.Errorf("%s: %v, want %v", name, err, end.want)
			}
			if _, err := e.Next(); !errors.Is(err, end.want) {
				t.Errorf("%s: then %v, want %v", name, err, end.want)
			}
			e.Close()
			cancel()
		}
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// A reconnecting stream goes on where it was, waits as it is told, and ends with a 204 or a refusal for good.
func TestReconnecting(t *testing.T) {
	text := func(status int, contentType, body string) *http.Response {
		rec := httptest.NewRecorder()
		rec.Header().Set("Content-Type", contentType)
		rec.WriteHeader(status)
		_, _ = rec.WriteString(body)
		return rec.Result()
	}
	events := func(s string) *http.Response { return text(200, "text/event-stream", s) }
	busy := text(503, "application/problem+json", problem(503, "overloaded", ""))
	busy.Header.Set("Retry-After", "60")
	for _, test := range []struct {
		name    string
		answers []*http.Response // nil: the connection fails
		want    []string         // events, and the end
		asked   []string         // Last-Event-ID of each request
		waited  []time.Duration  // at least, before each request
	}{
		{"goes on", []*http.Response{events("retry: 20\nid: 1\ndata: a\n\n"), events("id: 2\ndata: b\n\n"), text(204, "", "")},
			[]string{"message 1 a", "message 2 b", "EOF"}, []string{"", "1", "2"},
			[]time.Duration{0, 20 * time.Millisecond, 20 * time.Millisecond}},
		{"keeps an event's id, not a cut one's", []*http.Response{events("id: 1\ndata: a\n\nid: 2\ndata: b\n"), text(204, "", "")},
			[]string{"message 1 a", "EOF"}, []string{"", "1"}, []time.Duration{0, time.Second}},
		{"waits longer and longer", []*http.Response{events("id: 1\ndata: a\n\n"), nil, nil, nil, text(204, "", "")},
			[]string{"message 1 a", "EOF"}, []string{"", "1", "1", "1", "1"},
			[]time.Duration{0, time.Second, time.Second, 2 * time.Second, 4 * time.Second}},
		{"waits as a refusal asks", []*http.Response{events(""), busy, text(204, "", "")},
			[]string{"EOF"}, []string{"", "", ""}, []time.Duration{0, time.Second, time.Minute}},
		{"ends with a refusal", []*http.Response{events("data: a\n\n"), text(410, "application/problem+json", problem(410, "collected", ""))},
			[]string{"message  a", "GET /v1/tail?topic=t: 410: collected: d"}, []string{"", ""}, []time.Duration{0, time.Second}},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var asked []string
				var waited []time.Duration
				last := time.Now()
				c, err := client.New("http://server", client.WithHTTPClient(&http.Client{Transport: roundTrip(
					func(r *http.Request) (*http.Response, error) {
						asked = append(asked, r.Header.Get("Last-Event-ID"))
						waited = append(waited, time.Since(last))
						last = time.Now()
						resp := test.answers[len(asked)-1]
						if resp == nil {
							return nil, errors.New("no connection")
						}
						resp.Request = r
						return resp, nil
					})}))
				if err != nil {
					t.Fatal(err)
				}
				e, err := c.Tail(t.Context(), client.TailOptions{Topics: []string{"t"}}, client.Reconnecting())
				if err != nil {
					t.Fatal(err)
				}
				defer e.Close()
				var got []string
				for range test.want {
					got = append(got, next(e))
				}
				if diff := cmp.Diff(test.want, got); diff != "" {
					t.Errorf("events (-want +got):\n%s", diff)
				}
				if diff := cmp.Diff(test.asked, asked); diff != "" {
					t.Errorf("asked after (-want +got):\n%s", diff)
				}
				for i, least := range test.waited {
					if i < len(waited) && (waited[i] < least || waited[i] > 2*least) {
						t.Errorf("request %d came after %v, want %v to twice that", i, waited[i], least)
					}
				}
			})
		})
	}
}

// The time-out of the client holds for calls, not for streams.
func TestStreamsHaveNoTimeout(t *testing.T) {
	release := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		stream(w, "")
		<-release
		stream(w, "data: a\n\n")
	}))
	t.Cleanup(server.Close)
	hurried := &http.Client{Timeout: 50 * time.Millisecond, Transport: &http.Transport{}}
	t.Cleanup(hurried.CloseIdleConnections)
	c := plain(t, server.URL, client.WithHTTPClient(hurried))
	e, err := c.Tail(t.Context(), client.TailOptions{Topics: []string{"t"}})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	// A call that is timed out tells that the stream would have been, too.
	if err := c.Healthz(t.Context()); err == nil {
		t.Error("the call is not timed out")
	}
	close(release)
	if got := next(e); got != "message  a" {
		t.Error(got)
	}
}
