package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"pipeproc/api"
	"pipeproc/client"
	"pipeproc/cmd/server/service"
	"pipeproc/livestream/ssetest"
)

// streamPatience is how long a test waits for an event, and for what the server comes to by itself.
const streamPatience = 40 * time.Second

// wireStream is an open stream of Server-Sent Events, read as an EventSource reads it, but strictly.
type wireStream struct {
	*ssetest.Reader
	t      *testing.T
	what   string
	body   io.ReadCloser
	cancel context.CancelFunc
}

// wireEvent is an event of a stream; its data is the answer's JSON.
type wireEvent struct {
	ssetest.Event
	*wireAnswer
}

// askStream sends GET, with Last-Event-ID unless lastID is "".
func (w procWire) askStream(path, lastID string) (*http.Response, context.CancelFunc) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), streamPatience)
	header := http.Header{"Accept": {"text/event-stream"}}
	if lastID != "" {
		header.Set("Last-Event-ID", lastID)
	}
	resp, err := w.Do(ctx, http.MethodGet, path, nil, header)
	if err != nil {
		cancel()
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		cancel()
		resp.Body.Close()
	})
	return resp, cancel
}

// stream opens a stream. A lastID that is not "" is presented as the id of the last event seen.
func (w procWire) stream(path, lastID string) *wireStream {
	w.t.Helper()
	resp, cancel := w.askStream(path, lastID)
	what := fmt.Sprintf("stream %s after %q", path, lastID)
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(resp.Body)
		w.t.Fatalf("%s: %d %s", what, resp.StatusCode, text)
	}
	for name, want := range map[string]string{"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no",
		"Content-Encoding": "", "Content-Length": ""} {
		if got := strings.Join(resp.Header[name], "|"); got != want {
			w.t.Errorf("%s: %s: %q, want %q", what, name, got, want)
		}
	}
	return &wireStream{ssetest.NewReader(resp.Body), w.t, what, resp.Body, cancel}
}

// noStream is the answer where no stream is to be had.
func (w procWire) noStream(path, lastID string) *wireAnswer {
	w.t.Helper()
	resp, cancel := w.askStream(path, lastID)
	defer cancel()
	a := &wireAnswer{t: w.t, what: fmt.Sprintf("stream %s after %q", path, lastID), Status: resp.StatusCode, Header: resp.Header}
	if resp.StatusCode == http.StatusOK {
		w.t.Fatalf("%s: there is a stream", a.what)
	}
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	if a.Text = string(text); len(text) > 0 {
		a.JSON = decodeWire(w.t, a.what, text)
	}
	return a
}

func decodeWire(t *testing.T, what string, text []byte) (v any) {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		t.Fatalf("%s: %v in %.300s", what, err, text)
	}
	return v
}

// next is the next event, which is to be of this type. Comments, and blocks that no listener sees, are passed over.
func (s *wireStream) next(event string) wireEvent {
	s.t.Helper()
	e, err := s.Event()
	if err != nil || e.Type != event {
		s.t.Fatalf("%s: %q %.300s %v, want %q", s.what, e.Type, e.Data, err, event)
	}
	a := &wireAnswer{t: s.t, what: s.what + ": " + event, Text: e.Data}
	a.JSON = decodeWire(s.t, a.what, []byte(e.Data))
	return wireEvent{e, a}
}

// ends holds that the response ends as HTTP says, between two events, without another one.
func (s *wireStream) ends() {
	s.t.Helper()
	if e, err := s.Event(); !errors.Is(err, io.EOF) {
		s.t.Fatalf("%s: %q %.300s %v, want the end", s.what, e.Type, e.Data, err)
	}
	s.close()
}

// close is the client's going away.
func (s *wireStream) close() {
	s.cancel()
	s.body.Close()
}

// streamsAreClosed waits until the server knows that no stream is open on it.
func (w procWire) streamsAreClosed() {
	w.t.Helper()
	w.eventually("all streams are closed", func() bool {
		metrics := w.get("/metrics").is(http.StatusOK).Text
		for line := range strings.Lines(metrics) {
			if strings.HasPrefix(line, "pipeproc_streams_open") && !strings.HasSuffix(line, " 0\n") {
				return false
			}
		}
		return strings.Contains(metrics, "pipeproc_streams_open")
	})
}

// eventually waits for what the server comes to by itself.
func (w procWire) eventually(what string, done func() bool) {
	w.t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(streamPatience); !done(); <-tick.C {
		if time.Now().After(end) {
			w.t.Fatalf("never: %s", what)
		}
	}
}

// TestStreamsBeginWithRetry holds the first bytes of streams, before anything has happened: they come at once, and they
// are of use to a plain client.
func TestStreamsBeginWithRetry(t *testing.T) {
	t.Parallel()
	w := wireTo(t, start(t))
	for _, path := range []string{"/v1/tail?topic=none-yet", "/v1/topics/none-yet/live?mode=live"} {
		resp, _ := w.askStream(path, "")
		r := bufio.NewReader(resp.Body)
		line, err := r.ReadString('\n')
		var ms int
		if n, _ := fmt.Sscanf(line, "retry: %d\n", &ms); n != 1 || err != nil || ms < 100 || ms > 60_000 {
			t.Errorf("%s begins with %q %v", path, line, err)
		}
		for line != "\n" { // the first block is complete
			if line, err = r.ReadString('\n'); err != nil {
				t.Fatalf("%s: %v", path, err)
			}
		}
	}
}

// TestStreamsOfOneServerSeeAnother commits and acks at one server what streams at another.
func TestStreamsOfOneServerSeeAnother(t *testing.T) {
	t.Parallel()
	s := start(t)
	here, there := wireTo(t, s), wireTo(t, startOn(t, s.Database))

	tail := here.stream("/v1/tail?topic=a&start=earliest", "")
	live := here.stream("/v1/topics/a/live?mode=all", "")
	name := live.next("liveproc").str("name")
	for i, id := range there.commit("a", 3) {
		tail.next("log").has("id", id)
		there.ack(name, live.next("logs").hasSeqs("logs", int64(i), int64(i)))
	}
	ids := there.commit("a", 1)
	outstanding := live.next("logs")

	t.Run("a claim that is reclaimed elsewhere comes again", func(t *testing.T) {
		there := wireTo(t, there.server)
		there.post("/v1/procs/"+name+"/reclaim", "").is(http.StatusOK)
		again := live.next("logs")
		again.has("claim.attempt", 2).has("logs.0.id", ids[0])
		if again.str("claim.token") == outstanding.str("claim.token") {
			t.Error("the token is the same after a reclaim")
		}
		outstanding = again
	})
	t.Run("a client changes servers", func(t *testing.T) {
		moved := there.stream("/v1/live-procs/"+name+"/changes", outstanding.ID)
		moved.next("liveproc").has("name", name)
		moved.next("logs").has("claim.token", outstanding.str("claim.token"))
		live.next("end").has("reason", "replaced")
		live.ends()
		here.ack(name, outstanding.wireAnswer)
		here.commit("a", 1)
		moved.next("logs").hasSeqs("logs", 4, 4)

		again := there.stream("/v1/tail?topic=a", tail.LastEventID())
		again.next("log").has("id", ids[0])
		again.next("log")
		here.commit("a", 1)
		if id := again.next("log").str("id"); !strings.HasSuffix(id, "-5") {
			t.Errorf("%s, want seq 5", id)
		}
		here.post("/v1/live-procs/"+name+"/cancel", "").is(http.StatusOK)
		moved.next("end").has("reason", "cancelled")
		moved.ends()
	})
}

// TestShutdownEndsStreams holds that streams end between two events, and that a client goes on at another server
// without a loss or a repeat.
func TestShutdownEndsStreams(t *testing.T) {
	t.Parallel()
	s := start(t)
	w, other := wireTo(t, s), wireTo(t, startOn(t, s.Database))
	w.commit("a", 2)
	tail := w.stream("/v1/tail?topic=a&start=earliest", "")
	tail.next("log")
	tail.next("log")
	live := w.stream("/v1/topics/a/live?mode=all", "")
	name := live.next("liveproc").str("name")
	logs := live.next("logs")

	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		s.Stop()
	}()
	tail.ends()
	live.ends() // no event: end, since the liveProc lives on
	<-stopped

	other.commit("a", 1)
	other.stream("/v1/tail?topic=a", tail.LastEventID()).next("log").has("topic", "a").has("body.i", 0)
	again := other.stream("/v1/topics/a/live?mode=all", live.LastEventID())
	again.next("liveproc").has("name", name)
	again.next("logs").has("claim.token", logs.str("claim.token"))
}

// TestHeartbeats holds that an idle stream has a comment every 15 seconds.
func TestHeartbeats(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("it takes a heartbeat's time")
	}
	w := wireTo(t, start(t))
	begun := time.Now()
	for _, s := range []*wireStream{w.stream("/v1/tail?topic=a", ""), w.stream("/v1/topics/a/live", "")} {
		for {
			block, err := s.Next()
			if err != nil {
				t.Fatalf("%s: %v", s.what, err)
			}
			if block.Comment != "" {
				if block.Dispatched {
					t.Errorf("%s: a comment within an event", s.what)
				}
				break
			}
		}
	}
	if d := time.Since(begun); d > 20*time.Second {
		t.Errorf("the first heartbeat came after %v", d)
	}
}

// TestStreamRequests holds what requests for streams are refused, and with what.
func TestStreamRequests(t *testing.T) {
	t.Parallel()
	w := wireTo(t, start(t))
	w.commit("a", 3)
	live := w.post("/v1/live-procs", `{"topic":"a","mode":"all"}`).is(http.StatusCreated)
	name, changes := live.str("name"), live.str("changes")
	w.claim("p", `{"topic":"a"}`)
	id := func(proc, connection, last string) string { return proc + ":" + connection + ":" + last }

	many := make(url.Values)
	for i := range 101 {
		many.Add("topic", fmt.Sprint("t", i))
	}
	for _, tt := range []struct {
		path, lastID string
		status       int
		code         string
	}{
		{"/v1/tail", "", 400, "invalid_request"},
		{"/v1/tail?topic=", "", 400, "invalid_topic_format"},
		{"/v1/tail?topic=a%20b", "", 400, "invalid_topic_format"},
		{"/v1/tail?topic=a&topic=a", "", 400, "invalid_request"},
		{"/v1/tail?" + many.Encode(), "", 400, "invalid_request"},
		{"/v1/tail?topic=a&nope=1", "", 400, "invalid_request"},
		{"/v1/tail?topic=a&start=1&start=2", "", 400, "invalid_request"},
		{"/v1/tail?topic=a&start=x", "", 400, "invalid_range_offset"},
		{"/v1/tail?topic=a&start=:-1", "", 400, "invalid_range_offset"},
		{"/v1/tail?topic=a&start=9223372036854775808", "", 400, "invalid_range_offset"},
		{"/v1/tail?topic=a&start=:3", "", 416, "invalid_tone_id_search"},
		{"/v1/tail?topic=a", "x", 400, "invalid_request"},
		{"/v1/tail?topic=a", "1518951480106-0", 400, "invalid_request"},
		{"/v1/tail?topic=a", strings.Repeat("x", 5000), 400, "invalid_request"},

		{"/v1/topics/a%20b/live", "", 400, "invalid_topic_format"},
		{"/v1/topics/a/live?mode=both", "", 400, "invalid_request"},
		{"/v1/topics/a/live?mode=", "", 400, "invalid_request"},
		{"/v1/topics/a/live?count=0", "", 400, "invalid_request"},
		{"/v1/topics/a/live?count=10001", "", 400, "invalid_request"},
		{"/v1/topics/a/live?count=x", "", 400, "invalid_request"},
		{"/v1/topics/a/live?mode=all&mode=live", "", 400, "invalid_request"},
		{"/v1/topics/a/live?nope=1", "", 400, "invalid_request"},
		{"/v1/topics/a/live", "x", 400, "invalid_request"},
		{"/v1/topics/a/live", id(name, "0", ""), 400, "invalid_request"},
		{"/v1/topics/a/live", id(name, "1", "x"), 400, "invalid_request"},
		{"/v1/topics/a/live", id(name, "1", "1-1") + ":", 400, "invalid_request"},
		{"/v1/topics/b/live", id(name, "1", ""), 400, "invalid_request"}, // a liveProc of another topic

		{changes + "?mode=all", "", 400, "invalid_request"},
		{changes, "x", 400, "invalid_request"},
		{changes, id("liveproc-other", "1", ""), 400, "invalid_request"},
		{"/v1/live-procs/a%20b/changes", "", 400, "invalid_proc_format"},
		{"/v1/live-procs/liveproc-unknown/changes", "", 404, "invalid_proc"},
		{"/v1/live-procs/p/changes", "", 404, "invalid_proc"}, // a proc, but no liveProc
	} {
		w.noStream(tt.path, tt.lastID).isProblem(tt.status, tt.code)
	}
	for _, path := range []string{"/v1/tail?topic=a", "/v1/topics/a/live", changes} {
		if a := w.send(http.MethodPost, path, "{}").isProblem(http.StatusMethodNotAllowed, "method_not_allowed"); a.Header.Get("Allow") != "GET, HEAD" {
			t.Errorf("%s: Allow: %q", path, a.Header.Get("Allow"))
		}
		if got := w.send(http.MethodHead, path, "").isEmpty(http.StatusOK).Header.Get("Content-Type"); got != "text/event-stream" {
			t.Errorf("HEAD %s: %s", path, got)
		}
	}
	// A GET that writes is not for pages of other sites.
	w.sendWith(http.MethodGet, "/v1/topics/a/live", "", "Sec-Fetch-Site", "cross-site").isProblem(http.StatusForbidden, "forbidden")
	for _, origin := range []string{"http://elsewhere.example", "http://127.0.0.1:1", "null"} { // all that plain http tells
		w.sendWith(http.MethodGet, "/v1/topics/a/live", "", "Origin", origin).isProblem(http.StatusForbidden, "forbidden")
	}
	// Nothing of it made a liveProc or moved one, HEAD included.
	w.get("/v1/procs?kind=live").is(http.StatusOK).has("procs.0.name", name).has("procs.0.lag", 3).has("procs.0.claim", nil)
	if n := len(w.get("/v1/procs?kind=live").list("procs")); n != 1 {
		t.Errorf("%d liveProcs", n)
	}
}

// TestClientOutlivesItsConnections follows a liveProc and a tail through planned disconnects, with the client that comes
// back by itself: each log comes in order, acked once.
func TestClientOutlivesItsConnections(t *testing.T) {
	t.Parallel()
	w := wireTo(t, start(t, func(c *service.Config) { c.StreamMaxAge = time.Second }))
	ctx, cancel := context.WithTimeout(t.Context(), streamPatience)
	defer cancel()
	tail, err := w.Tail(ctx, client.TailOptions{Topics: []string{"a"}}, client.Reconnecting())
	if err != nil {
		t.Fatal(err)
	}
	defer tail.Close()
	live, err := w.TopicLive(ctx, "a", client.LiveOptions{Mode: api.ModeLive}, client.Reconnecting())
	if err != nil {
		t.Fatal(err)
	}
	defer live.Close()

	var name, acked string
	var ids []string
	for connections := 0; connections < 3; {
		e, err := live.Next()
		if err != nil {
			t.Fatal(err)
		}
		switch e.Type {
		case "liveproc":
			var p api.Proc
			if err := e.Decode(&p); err != nil || name != "" && p.Name != name {
				t.Fatalf("%s after %s: %v", p.Name, name, err)
			}
			name = p.Name
			if connections++; connections == 1 {
				ids = append(ids, w.commit("a", 1)...)
			}
		case "logs":
			var c api.Claimed
			if err := e.Decode(&c); err != nil || len(c.Logs) != 1 || c.Logs[0].ID.String() != ids[len(ids)-1] {
				t.Fatalf("%s %v, want %s", e.Data, err, ids[len(ids)-1])
			}
			if c.Claim.Token == acked {
				t.Fatalf("a claim comes after its ack: %s", e.Data)
			}
			if _, err := w.Ack(ctx, name, client.AckOptions{Token: c.Claim.Token}); err != nil {
				t.Fatal(err)
			}
			acked = c.Claim.Token
			ids = append(ids, w.commit("a", 1)...)
		default:
			t.Fatalf("%s: %s", e.Type, e.Data)
		}
	}
	for _, id := range ids {
		var l client.TailLog
		if e, err := tail.Next(); err != nil || e.Type != "log" || e.Decode(&l) != nil || l.ID.String() != id {
			t.Fatalf("%s %s %v, want %s", e.Type, e.Data, err, id)
		}
	}
}
