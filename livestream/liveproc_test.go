package livestream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/r3labs/sse/v2"

	"pipeproc/api"
	"pipeproc/livestream/ssetest"
)

// liveProc makes a liveProc and answers the path of its stream.
func liveProc(t *testing.T, m *memory, topic string, mode api.LiveMode) (name, path string) {
	t.Helper()
	p, err := m.CreateLiveProc(t.Context(), api.LiveProcSpec{Topic: topic, Mode: mode})
	if err != nil {
		t.Fatal(err)
	}
	return p.Name, "/v1/live-procs/" + p.Name + "/changes"
}

type logsData struct {
	Proc  string    `json:"proc"`
	Claim api.Claim `json:"claim"`
	Logs  []api.Log `json:"logs"`
}

func decodeAs[T any](t *testing.T, e ssetest.Event) (v T) {
	t.Helper()
	if err := api.DecodeJSON([]byte(e.Data), &v); err != nil {
		t.Fatalf("%s: %v", e.Data, err)
	}
	return v
}

func TestLiveProc(t *testing.T) {
	m := newMemory()
	s := newServer(t, m)
	first := m.commit("numbers", `{"n":1e2,"n":"<&>"}`, `[2]`)
	name, path := liveProc(t, m, "numbers", api.ModeAll)
	want, err := json.Marshal(m.live[name].Proc)
	if err != nil {
		t.Fatal(err)
	}
	c := s.open(t, path, "")

	e, err := c.Next()
	if err != nil || e.Retry < "1000" || e.Retry > "2000" || e.Type != "liveproc" || e.ID != name+":1:" {
		t.Fatalf("first event: %+v %v", e, err)
	}
	if e.Data != string(want) {
		t.Errorf("liveproc: %s, want %s", e.Data, want)
	}

	e = c.next("logs")
	got := decodeAs[logsData](t, e)
	if e.ID != name+":1:"+first[0].ID.String() || got.Proc != name || got.Claim.Attempt != 1 {
		t.Errorf("logs: %+v", e)
	}
	if diff := cmp.Diff(first[:1], got.Logs); diff != "" {
		t.Error(diff)
	}
	m.ack(t, name, got.Claim.Token)
	e = c.next("logs")
	if e.ID != name+":1:"+first[1].ID.String() {
		t.Errorf("second batch: %+v", e)
	}
	m.ack(t, name, decodeAs[logsData](t, e).Claim.Token)
	third := m.commit("numbers", `{"live":true}`)
	if e = c.next("logs"); e.ID != name+":1:"+third[0].ID.String() {
		t.Errorf("live batch: %+v", e)
	}

	m.onLive(t, name, func(p *memoryLiveProc) error { return p.Disable() })
	if e = c.next("end"); e.Data != `{"reason":"disabled"}` || e.ID != name+":1:"+third[0].ID.String() {
		t.Errorf("end: %+v", e)
	}
	c.ends()
	s.refused(t, path, e.ID, 204, "")
	s.refused(t, path, "", 204, "")
	eventually(t, "CloseStream", func() bool { return m.count(&m.closed) == 1 })
}

func TestLiveProcRawStartsWithRetry(t *testing.T) {
	m := newMemory()
	s := newServer(t, m)
	_, path := liveProc(t, m, "numbers", api.ModeAll)
	resp, _ := s.do(t, "GET", path)
	b := make([]byte, 7)
	if _, err := io.ReadFull(resp.Body, b); err != nil || string(b) != "retry: " {
		t.Errorf("the stream begins with %q (%v)", b, err)
	}
}

func TestLiveProcReconnect(t *testing.T) {
	m := newMemory()
	s := newServer(t, m)
	m.fill("numbers", 3)
	name, path := liveProc(t, m, "numbers", api.ModeAll)
	c := s.open(t, path, "")
	c.next("liveproc")
	before := c.next("logs")
	c.close()

	// The id is no integer, which r3labs refuses; what it sent before, it would replay, under numbers of its own.
	again := s.open(t, path, before.ID)
	if e := again.next("liveproc"); e.ID != before.ID {
		t.Errorf("id %q, want %q", e.ID, before.ID)
	}
	after := again.next("logs")
	if after.Data != before.Data || after.ID != before.ID {
		t.Errorf("%+v is not the same as %+v", after, before)
	}

	// The same number again replaces the stream that has it.
	third := s.open(t, path+"?lastEventId="+escape(before.ID), "")
	third.next("liveproc")
	if e := again.next("end"); e.Data != `{"reason":"replaced"}` {
		t.Errorf("end: %+v", e)
	}
	again.ends()
	if third.next("logs").Data != before.Data {
		t.Error("the replacing stream got another claim")
	}
	m.ack(t, name, decodeAs[logsData](t, before).Claim.Token)
	third.next("logs")
}

func TestLiveProcTwoTabs(t *testing.T) {
	m := newMemory()
	s := newServer(t, m)
	name, path := liveProc(t, m, "numbers", api.ModeAll)
	one := s.open(t, path, "")
	id := one.next("liveproc").ID
	two := s.open(t, path, "")
	if e := two.next("liveproc"); e.ID != name+":2:" {
		t.Errorf("second tab: %+v", e)
	}
	if e := one.next("end"); e.Data != `{"reason":"replaced"}` {
		t.Errorf("end: %+v", e)
	}
	s.refused(t, path, id, 204, "")
	m.fill("numbers", 1)
	two.next("logs")
}

func TestLiveProcReclaims(t *testing.T) {
	m := newMemory()
	m.timeouts = 50 // ms
	s := newServer(t, m)
	m.fill("numbers", 1)
	name, path := liveProc(t, m, "numbers", api.ModeAll)
	c := s.open(t, path, "")
	c.next("liveproc")
	first := decodeAs[logsData](t, c.next("logs"))
	second := decodeAs[logsData](t, c.next("logs")) // by the clock alone
	if second.Claim.Token == first.Claim.Token || second.Claim.Attempt != 2 || second.Claim.Range != first.Claim.Range {
		t.Errorf("%+v after %+v", second.Claim, first.Claim)
	}
	m.onLive(t, name, func(p *memoryLiveProc) error {
		p.ReclaimTimeout = -1
		if p.Claim == nil {
			return nil // timed out meanwhile: the next one has no time-out either
		}
		return p.Reclaim(m.now(), "")
	})
	for {
		next := decodeAs[logsData](t, c.next("logs"))
		if next.Claim.ExpiresAt == nil {
			m.ack(t, name, next.Claim.Token)
			break
		}
	}
}

func TestLiveProcGone(t *testing.T) {
	m := newMemory()
	s := newServer(t, m)
	logs := m.fill("numbers", 4)
	s.refused(t, "/v1/live-procs/liveproc-0/changes", "", 404, api.CodeInvalidProc)
	s.refused(t, "/v1/live-procs/liveproc-0/changes", "liveproc-0:1:", 204, "")

	id := "liveproc-0:1:" + logs[2].ID.String()
	c := s.open(t, "/v1/topics/numbers/live", id)
	gap := c.next("gap")
	want := fmt.Sprintf(`{"topic":"numbers","requested":"%s","resumedAt":":4","reason":"recreated"}`, logs[2].ID)
	if gap.Data != want {
		t.Errorf("gap: %s, want %s", gap.Data, want)
	}
	e := c.next("liveproc")
	name := decodeAs[api.Proc](t, e).Name
	if e.ID != name+":1:" || gap.ID != e.ID {
		t.Errorf("ids %q, %q of %q", gap.ID, e.ID, name)
	}
	if _, err := m.DestroyLiveProc(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	if e := c.next("end"); e.Data != `{"reason":"destroyed"}` {
		t.Errorf("end: %+v", e)
	}
	c.ends()
}

func TestLiveCreatesAndResumes(t *testing.T) {
	m := newMemory()
	s := newServer(t, m)
	m.fill("numbers", 5)
	c := s.open(t, "/v1/topics/numbers/live?mode=all&count=2&ttl=-1", "")
	proc := decodeAs[api.Proc](t, c.next("liveproc"))
	batch := c.next("logs")
	if proc.Count != 2 || len(decodeAs[logsData](t, batch).Logs) != 2 {
		t.Errorf("%+v: %s", proc, batch.Data)
	}
	c.close()
	c = s.open(t, "/v1/topics/numbers/live?mode=all&count=2", batch.ID)
	c.next("liveproc")
	if c.next("logs").Data != batch.Data || len(m.live) != 1 {
		t.Error("it did not resume the liveProc that the id names")
	}
	// A disabled one is not to be asked for again.
	m.onLive(t, proc.Name, func(p *memoryLiveProc) error { return p.Disable() })
	c.next("end")
	s.refused(t, "/v1/topics/numbers/live", batch.ID, 204, "")
}

func TestLiveProcRefusals(t *testing.T) {
	m := newMemory()
	s := newServer(t, m)
	name, path := liveProc(t, m, "numbers", api.ModeAll)
	for _, tt := range []struct {
		path, lastID string
		status       int
		code         api.Code
	}{
		{path, name, 400, api.CodeInvalidRequest},
		{path, "1", 400, api.CodeInvalidRequest},
		{path, name + ":0:", 400, api.CodeInvalidRequest},
		{path, name + ":01:", 400, api.CodeInvalidRequest},
		{path, name + ":-1:", 400, api.CodeInvalidRequest},
		{path, name + ":1:5", 400, api.CodeInvalidRequest},
		{path, name + ":1:1-1:", 400, api.CodeInvalidRequest},
		{path, "liveproc-9:1:", 400, api.CodeInvalidRequest},
		{path + "?x=1", "", 400, api.CodeInvalidRequest},
		{path + "?lastEventId=a&lastEventId=b", "", 400, api.CodeInvalidRequest},
		{path + "?lastEventId=%zz", "", 400, api.CodeInvalidRequest},
		{"/v1/live-procs/a.b/changes", "", 400, api.CodeInvalidProcFormat},
		{"/v1/topics/a.b/live", "", 400, api.CodeInvalidTopicFormat},
		{"/v1/topics/a/live?mode=", "", 400, api.CodeInvalidRequest},
		{"/v1/topics/a/live?mode=none", "", 400, api.CodeInvalidRequest},
		{"/v1/topics/a/live?count=0", "", 400, api.CodeInvalidRequest},
		{"/v1/topics/a/live?count=%2B1", "", 400, api.CodeInvalidRequest},
		{"/v1/topics/a/live?count=9223372036854775807", "", 400, api.CodeInvalidRequest},
		{"/v1/topics/a/live?ttl=0", "", 400, api.CodeInvalidRequest},
		{"/v1/topics/a/live?start=latest", "", 400, api.CodeInvalidRequest},
		{"/v1/topics/other/live", name + ":1:", 400, api.CodeInvalidRequest},
	} {
		s.refused(t, tt.path, tt.lastID, tt.status, tt.code)
	}
	resp, _ := s.do(t, "GET", "/v1/topics/numbers/live", "Sec-Fetch-Site", "cross-site")
	if resp.StatusCode != 403 {
		t.Errorf("cross-site: %s", resp.Status)
	}
	for _, p := range []string{path, "/v1/topics/numbers/live", "/v1/tail?topic=a"} {
		resp, _ := s.do(t, "HEAD", p)
		if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "text/event-stream" {
			t.Errorf("HEAD %s: %s", p, resp.Status)
		}
	}
	if resp, _ := s.do(t, "HEAD", "/v1/live-procs/liveproc-9/changes"); resp.StatusCode != 404 {
		t.Errorf("HEAD of an unknown liveProc: %s", resp.Status)
	}
	if len(m.live) != 1 || m.live[name].connections != 0 {
		t.Error("something was created or opened")
	}
	m.openErr = errors.New("out of order")
	s.refused(t, "/v1/topics/numbers/live?ttl=-1", "", 500, api.CodeInternal)
	if len(m.live) != 1 {
		t.Error("a liveProc that nobody knows of is left")
	}
}

// TestLiveProcEndsCleanly: the planned disconnect and Close end the response between two events, without an end event,
// also when the last write was longer ago than a write may take.
func TestLiveProcEndsCleanly(t *testing.T) {
	m := newMemory()
	s := newServer(t, m, func(c *Config) { c.MaxAge, c.WriteTimeout = 400*time.Millisecond, 30*time.Millisecond })
	_, path := liveProc(t, m, "numbers", api.ModeAll)
	c := s.open(t, path, "")
	c.next("liveproc")
	c.ends()
	tail := s.open(t, "/v1/tail?topic=numbers", "")
	tail.ends()

	s = newServer(t, m)
	c, tail = s.open(t, path, ""), s.open(t, "/v1/tail?topic=numbers", "")
	c.next("liveproc")
	s.Close()
	c.ends()
	tail.ends()
	for _, p := range []string{path, "/v1/topics/numbers/live", "/v1/tail?topic=numbers"} {
		s.refused(t, p, "", 503, api.CodeUnavailable)
	}
	if m.count(&m.closed) != 2 {
		t.Errorf("%d streams closed, want 2", m.closed)
	}
}

func TestLiveProcStoreOutOfOrder(t *testing.T) {
	m := newMemory()
	s := newServer(t, m)
	name, path := liveProc(t, m, "numbers", api.ModeAll)
	c := s.open(t, path, "")
	c.next("liveproc")
	m.do(func() { m.fails = errors.New("out of order") }, name)
	eventually(t, "a turn failed", func() bool { return m.count(&m.failed) > 0 })
	m.do(func() {
		m.topics["numbers"] = &memoryTopic{id: 99, logs: []api.Log{{Body: json.RawMessage(`{}`)}}}
		m.fails = nil
	}) // nobody is told
	c.next("logs")
}

// eager acks what was sent before it is asked for the next turn, so that its streams never wait.
type eager struct{ *memory }

func (e eager) Turn(ctx context.Context, s api.Stream, held string) (api.StreamTurn, error) {
	e.do(func() {
		if p := e.live[s.LiveProc]; p != nil && held != "" {
			_, _ = p.Ack(e.now(), held)
		}
	})
	return e.memory.Turn(ctx, s, held)
}

// TestLiveProcHeldBatch: while a batch is out, logs that are committed are no news, and cost the store nothing.
func TestLiveProcHeldBatch(t *testing.T) {
	m := newMemory()
	s := newServer(t, m, func(c *Config) { c.Heartbeat = 5 * time.Millisecond })
	m.commit("numbers", `[0]`)
	_, path := liveProc(t, m, "numbers", api.ModeAll)
	c := s.open(t, path, "")
	for e := (ssetest.Event{}); e.Type != "logs"; {
		var err error
		if e, err = c.Event(); err != nil {
			t.Fatal(err)
		}
	}
	before := m.count(&m.turns)
	for range 10 {
		m.commit("numbers", `[1]`)
		for range 2 { // after which the stream has come round
			if e, err := c.Next(); err != nil || e.Comment == "" {
				t.Fatal(e, err)
			}
		}
	}
	if after := m.count(&m.turns); after != before {
		t.Errorf("%d turns for 10 commits", after-before)
	}
}

// TestLiveProcStalled: a client that does not read loses its connection, and nobody else notices.
func TestLiveProcStalled(t *testing.T) {
	m := newMemory()
	s := newServer(t, m, func(c *Config) { c.WriteTimeout = 100 * time.Millisecond })
	for range 7 {
		m.commit("big", body(1<<20-20))
	}
	count := 7
	p, err := m.CreateLiveProc(t.Context(), api.LiveProcSpec{Topic: "big", Mode: api.ModeAll, Count: &count})
	if err != nil {
		t.Fatal(err)
	}
	s.stall(t, "/v1/live-procs/"+p.Name+"/changes")
	eventually(t, "the stalled client opened", func() bool { return s.Stats().LiveProcs == 1 })

	name, path := liveProc(t, m, "numbers", api.ModeAll)
	other := s.open(t, path, "")
	other.next("liveproc")
	for range 100 {
		m.fill("numbers", 1)
		m.ack(t, name, decodeAs[logsData](t, other.next("logs")).Claim.Token)
	}
	eventually(t, "the stalled client is gone", func() bool { return s.Stats().LiveProcs == 1 && m.count(&m.closed) == 1 })
	other.close()
	eventually(t, "both are gone", func() bool { return s.Stats().LiveProcs == 0 })
	if p, err := m.Proc(t.Context(), p.Name); err != nil || p.Claim == nil {
		t.Error("the claim moved without an ack")
	}
}

// TestStreamsOutliveServerTimeouts: the server's own time-outs are for requests that end.
func TestStreamsOutliveServerTimeouts(t *testing.T) {
	m := newMemory()
	const timeout = time.Second
	s := newTimedServer(t, m, timeout, func(c *Config) { c.Heartbeat = timeout / 10 })
	_, path := liveProc(t, m, "numbers", api.ModeAll)
	clients := []*stream{s.open(t, path, ""), s.open(t, "/v1/tail?topic=numbers", "")}
	for begun := time.Now(); time.Since(begun) < timeout*3/2; {
		for _, c := range clients {
			if _, err := c.Next(); err != nil {
				t.Fatalf("after %v: %v", time.Since(begun), err)
			}
		}
	}
}

// TestLiveProcHeartbeat: r3labs writes an id line with every event that has data, so heartbeats are comments: they leave
// the client's last event id alone.
func TestLiveProcHeartbeat(t *testing.T) {
	m := newMemory()
	s := newServer(t, m, func(c *Config) { c.Heartbeat = 10 * time.Millisecond })
	logs := m.fill("numbers", 1)
	name, path := liveProc(t, m, "numbers", api.ModeAll)
	for _, c := range []*stream{s.open(t, path, ""), s.open(t, "/v1/tail?topic=numbers&start=:0", "")} {
		for e, err := c.Next(); e.Comment == "" || !strings.Contains(e.ID, "1"); e, err = c.Next() {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	c := s.open(t, path, name+":1:"+logs[0].ID.String())
	c.next("liveproc")
	if c.LastEventID() != name+":1:"+logs[0].ID.String() {
		t.Error(c.LastEventID())
	}
}

// TestConnectionLeavesNothing opens and drops many streams at every stage of their lives; the check that no r3labs
// stream, connection or goroutine is left is newServer's and TestMain's.
func TestConnectionLeavesNothing(t *testing.T) {
	m := newMemory()
	s := newServer(t, m)
	var wg sync.WaitGroup
	for i := range 40 {
		name, path := liveProc(t, m, "numbers", api.ModeAll)
		wg.Go(func() {
			resp, cancel := s.do(t, "GET", path)
			switch i % 3 {
			case 0:
				cancel()
			case 1:
				_, _ = ssetest.NewReader(resp.Body).Event()
				cancel()
			case 2: // ended by the liveProc: with r3labs' empty event
				m.onLive(t, name, func(p *memoryLiveProc) error { return p.Disable() })
				r := ssetest.NewReader(resp.Body)
				for {
					if _, err := r.Event(); err != nil {
						break
					}
				}
			}
		})
	}
	wg.Wait()
	eventually(t, "all are gone", func() bool { return s.Stats().LiveProcs == 0 })
}

// TestConnectionData: text with line breaks, and nothing, go through r3labs as what they are.
func TestConnectionData(t *testing.T) {
	s := New(Config{})
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		x, err := newWriter(s.ctx, w, r, time.Second)
		if err != nil {
			t.Error(err)
			return
		}
		defer x.finish()
		s.serve(x, r, nil, func(c *connection) {
			c.publish(&sse.Event{ID: []byte("1"), Data: []byte("a\nid: 2\n\nb")})
		})
	})
	srv := newPlainServer(t, h)
	resp, err := client(t).Get(srv)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	r := ssetest.NewReader(resp.Body)
	e, err := r.Event()
	if err != nil || e.Data != "a\nid: 2\n\nb" || e.ID != "1" {
		t.Errorf("%+v %v", e, err)
	}
	if _, err := r.Event(); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
}

// brokenFlush is a response whose flushes fail though its client is there.
type brokenFlush struct{ http.ResponseWriter }

func (b brokenFlush) FlushError() error           { return errors.New("broken") }
func (b brokenFlush) Unwrap() http.ResponseWriter { return b.ResponseWriter }

// TestConnectionEndsOnError: r3labs takes no notice of what cannot be written; the connection does.
func TestConnectionEndsOnError(t *testing.T) {
	s := New(Config{})
	returned := make(chan bool, 1)
	url := newPlainServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		x, err := newWriter(s.ctx, brokenFlush{w}, r, time.Second)
		if err != nil {
			t.Error(err)
			return
		}
		defer x.finish()
		ran := false
		s.serve(x, r, nil, func(*connection) { ran = true })
		returned <- ran
	}))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	r, _ := http.NewRequestWithContext(ctx, "GET", url, nil)
	resp, err := client(t).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	select {
	case ran := <-returned:
		if ran {
			t.Error("events were published on a broken connection")
		}
	case <-ctx.Done():
		t.Error("the connection lives on")
	}
}

func TestLiveProcByR3labsClient(t *testing.T) {
	m := newMemory()
	s := newServer(t, m)
	m.fill("numbers", 20)
	name, path := liveProc(t, m, "numbers", api.ModeAll)
	c := sse.NewClient(s.URL + path)
	c.Connection = &http.Client{Transport: ssetest.Transport(client(t).Transport, t.Errorf)}
	var events []string
	err := c.SubscribeWithContext(t.Context(), "", func(e *sse.Event) {
		events = append(events, string(e.Event))
		switch string(e.Event) {
		case "logs":
			var d logsData
			if err := json.Unmarshal(e.Data, &d); err != nil {
				t.Error(err)
			}
			m.ack(t, name, d.Claim.Token)
			if d.Logs[0].ID.Seq == 19 {
				m.onLive(t, name, func(p *memoryLiveProc) error { p.cancelled = true; return p.Disable() })
			}
		case "end":
			if string(e.Data) != `{"reason":"cancelled"}` {
				t.Errorf("%s", e.Data)
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(events) != 22 || events[0] != "liveproc" || events[21] != "end" {
		t.Error(events)
	}
}
