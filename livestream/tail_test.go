package livestream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
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

// logOf is the data of a log event.
func logOf(topic string, l api.Log) string {
	return fmt.Sprintf(`{"topic":"%s","id":"%s","body":%s}`, topic, l.ID, l.Body)
}

// logs reads the next events, which are to be these logs.
func (s *stream) logs(topic string, logs ...api.Log) (last ssetest.Event) {
	s.t.Helper()
	for _, l := range logs {
		last = s.next("log")
		if want := logOf(topic, l); last.Data != want {
			s.t.Fatalf("log %s, want %s", last.Data, want)
		}
	}
	return last
}

// told reads an event of that type with that data.
func (s *stream) told(event, data string) ssetest.Event {
	s.t.Helper()
	e := s.next(event)
	if e.Data != data {
		s.t.Fatalf("%s: %s, want %s", event, e.Data, data)
	}
	return e
}

// opens reads the block with which a tail opens.
func (s *stream) opens() ssetest.Event {
	s.t.Helper()
	e, err := s.Next()
	if err != nil || e.Dispatched || e.Retry < "1000" || e.Retry > "2000" || e.ID == "" {
		s.t.Fatalf("first block: %+v %v", e, err)
	}
	return e
}

func TestTailStarts(t *testing.T) {
	m := newMemory()
	s := newServer(t, m)
	logs := m.commit("a", `{"n":1e400,"n":"<&>\u0000\ud800"}`, `[]`, `[3]`)
	earliest := s.open(t, "/v1/tail?topic=a&start=earliest", "")
	earliest.logs("a", logs...)
	bySeq := s.open(t, "/v1/tail?topic=a&start=:2", "")
	bySeq.logs("a", logs[2:]...)
	s.open(t, "/v1/tail?topic=a&start=%3E", "").logs("a", logs...)
	latest, empty := s.open(t, "/v1/tail?topic=a", ""), s.open(t, "/v1/tail?topic=a&start=", "")
	latest.opens()
	empty.opens()
	alias := s.open(t, "/v1/tail?topic=a&start=%24%3E", "")
	alias.opens()
	more := m.commit("a", `{"more":1}`, `{"more":2}`)
	for _, c := range []*stream{earliest, bySeq, latest, empty, alias} {
		c.logs("a", more...)
	}
	// The header wins over the query's lastEventId, which wins over start.
	s.open(t, "/v1/tail?topic=a&start=latest&lastEventId="+escape("a~1.3"), "").logs("a", more...)
	s.open(t, "/v1/tail?topic=a&start=earliest&lastEventId="+escape("a~1.0"), "a~1.4").logs("a", more[1:]...)
}

func TestTailRefusals(t *testing.T) {
	m := newMemory()
	s := newServer(t, m)
	m.fill("a", 10)
	m.collect("a", 2)
	many := strings.Repeat("&topic=", 0)
	for i := range MaxTailTopics + 1 {
		many += fmt.Sprintf("&topic=t%d", i)
	}
	for _, tt := range []struct {
		query, lastID string
		status        int
		code          api.Code
	}{
		{"", "", 400, api.CodeInvalidRequest},
		{many[1:], "", 400, api.CodeInvalidRequest},
		{"topic=a&topic=a", "", 400, api.CodeInvalidRequest},
		{"topic=", "", 400, api.CodeInvalidTopicFormat},
		{"topic=a~b", "", 400, api.CodeInvalidTopicFormat},
		{"topic=a&limit=1", "", 400, api.CodeInvalidRequest},
		{"topic=a&start=earliest&start=latest", "", 400, api.CodeInvalidRequest},
		{"topic=a;b", "", 400, api.CodeInvalidRequest},
		{"topic=a&start=first", "", 400, api.CodeInvalidRangeOffset},
		{"topic=a&topic=b&start=:1", "", 404, api.CodeInvalidTopic},
		{"topic=a&topic=b&start=:10", "", 416, api.CodeInvalidToneIDSearch},
		{"topic=a&start=:10", "", 416, api.CodeInvalidToneIDSearch},
		{"topic=unknown&start=:1", "", 404, api.CodeInvalidTopic},
		{"topic=a", "a", 400, api.CodeInvalidRequest},
		{"topic=a", "5", 400, api.CodeInvalidRequest},
		{"topic=a", "a~1", 400, api.CodeInvalidRequest},
		{"topic=a", "a~1.x", 400, api.CodeInvalidRequest},
		{"topic=a", "a~1.-1", 400, api.CodeInvalidRequest},
		{"topic=a", "a~1.01", 400, api.CodeInvalidRequest},
		{"topic=a", "a~0.1", 400, api.CodeInvalidRequest},
		{"topic=a", "a~0.0!", 400, api.CodeInvalidRequest},
		{"topic=a", "a~1.1,", 400, api.CodeInvalidRequest},
		{"topic=a", "a~1.1,a~1.2", 400, api.CodeInvalidRequest},
		{"topic=a", "~1.1", 400, api.CodeInvalidRequest},
		{"topic=a", "a~1.11", 400, api.CodeInvalidRequest}, // beyond the head
		{"topic=a", "a~1.9223372036854775808", 400, api.CodeInvalidRequest},
		{"topic=a&lastEventId=a", "", 400, api.CodeInvalidRequest},
	} {
		s.refused(t, "/v1/tail?"+tt.query, tt.lastID, tt.status, tt.code)
	}
	if resp, _ := s.do(t, "HEAD", "/v1/tail?topic=unknown&start=:1"); resp.StatusCode != 404 {
		t.Errorf("HEAD: %s", resp.Status)
	}
}

func TestTailSeveralTopics(t *testing.T) {
	m := newMemory()
	s := newServer(t, m)
	a, b := m.fill("a", 3), m.fill("b", 2)
	c := s.open(t, "/v1/tail?topic=a&topic=b&topic=later&start=earliest", "")
	if e := c.opens(); e.ID != "a~1.0,b~2.0,later~0.0" {
		t.Errorf("first id: %q", e.ID)
	}
	got := map[string][]string{}
	var ids []string
	for range 5 {
		e := c.next("log")
		topic := e.Data[10:11]
		got[topic] = append(got[topic], e.Data)
		ids = append(ids, e.ID)
	}
	want := map[string][]string{}
	for _, l := range a {
		want["a"] = append(want["a"], logOf("a", l))
	}
	for _, l := range b {
		want["b"] = append(want["b"], logOf("b", l))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	later := m.fill("later", 1)
	if e := c.logs("later", later...); e.ID != "a~1.3,b~2.2,later~3.1" {
		t.Errorf("last id: %q", e.ID)
	}
	// From any id on, the rest comes; a topic that the id does not name starts as start says, one that is not asked for
	// any more is ignored.
	for i, id := range ids {
		c := s.open(t, "/v1/tail?topic=a&topic=b&topic=later", id)
		for range 6 - 1 - i {
			c.next("log")
		}
		c.close()
	}
	s.open(t, "/v1/tail?topic=b&topic=a&start=earliest", "a~1.3,gone~9.9").logs("b", b...)

	// A start of a range holds for every topic.
	both := s.open(t, "/v1/tail?topic=a&topic=b&start=:1", "")
	if e := both.opens(); e.ID != "a~1.1,b~2.1" {
		t.Errorf("id of several topics from :1: %q", e.ID)
	}
}

func TestTailOfTopicToCome(t *testing.T) {
	m := newMemory()
	s := newServer(t, m)
	c, d := s.open(t, "/v1/tail?topic=new", ""), s.open(t, "/v1/tail?topic=new&start=earliest", "")
	id := c.opens().ID
	d.opens()
	c.close()
	logs := m.fill("new", 3)
	d.logs("new", logs...)
	s.open(t, "/v1/tail?topic=new", id).logs("new", logs...)
}

func TestTailOfCollectedLogs(t *testing.T) {
	m := newMemory()
	s := newServer(t, m)
	logs := m.fill("a", 10)
	m.collect("a", 4)
	c := s.open(t, "/v1/tail?topic=a", "a~1.2")
	if e := c.told("gap", fmt.Sprintf(`{"topic":"a","requested":":2","resumedAt":"%s","reason":"collected"}`, logs[4].ID)); e.ID != "a~1.4" {
		t.Errorf("id %q", e.ID)
	}
	c.logs("a", logs[4:]...)
	m.collect("a", 6)
	c = s.open(t, "/v1/tail?topic=a&topic=b", "a~1.2")
	e := c.told("gap", `{"topic":"a","requested":":2","resumedAt":":10","reason":"collected"}`)
	if e.ID != "a~1.10,b~0.0" {
		t.Errorf("id %q", e.ID)
	}
	more := m.fill("a", 1)
	c.logs("a", more...)
	s.open(t, "/v1/tail?topic=a&topic=b", e.ID).logs("a", more...)
}

func TestTailStartsWhereGCWas(t *testing.T) {
	m := newMemory()
	s := newServer(t, m)
	logs := m.fill("a", 6)
	m.collect("a", 4)
	for start, requested := range map[string]string{":1": ":1", logs[2].ID.String(): ":2"} {
		c := s.open(t, "/v1/tail?topic=a&start="+start, "")
		c.told("gap", fmt.Sprintf(`{"topic":"a","requested":"%s","resumedAt":"%s","reason":"collected"}`, requested, logs[4].ID))
		c.logs("a", logs[4:]...)
	}
	// An id that lies before the first log by its time, and behind the head by its seq.
	s.open(t, "/v1/tail?topic=a&start=0-99", "").logs("a", logs[4:]...)
}

func TestTailOfDeletedTopic(t *testing.T) {
	m := newMemory()
	s := newServer(t, m)
	old := m.fill("a", 2)
	c := s.open(t, "/v1/tail?topic=a&start=earliest", "")
	before := c.logs("a", old...).ID
	idle := s.open(t, "/v1/tail?topic=a&topic=b", "")
	idle.opens()

	m.delete("a")
	end := c.told("end", `{"topic":"a","reason":"deleted"}`)
	idle.told("end", `{"topic":"a","reason":"deleted"}`)
	waiting := s.open(t, "/v1/tail?topic=a", before) // deleted while it was away
	waiting.told("end", `{"topic":"a","reason":"deleted"}`)
	knows := s.open(t, "/v1/tail?topic=a", end.ID)
	knows.opens()
	fresh := s.open(t, "/v1/tail?topic=a", "")
	fresh.opens()

	logs := m.fill("a", 3)
	gap := fmt.Sprintf(`{"topic":"a","requested":":2","resumedAt":"%s","reason":"recreated"}`, logs[0].ID)
	for _, c := range []*stream{c, idle, waiting, knows, s.open(t, "/v1/tail?topic=a", before), s.open(t, "/v1/tail?topic=a", end.ID)} {
		e := c.told("gap", gap)
		c.logs("a", logs...)
		s.open(t, "/v1/tail?topic=a", e.ID).logs("a", logs...)
	}
	fresh.logs("a", logs...)
	// Before the gap is told, the client's id is the one it came with.
	if e := s.open(t, "/v1/tail?topic=a", before).opens(); e.ID != before {
		t.Errorf("id %q, want %q", e.ID, before)
	}
}

// TestTailBesideStaleView: a follower that was not told yet that its topic is gone does not give the logs of the old
// topic to a client that came later.
func TestTailBesideStaleView(t *testing.T) {
	m := newMemory()
	s := newServer(t, m)
	early := s.open(t, "/v1/tail?topic=a", "")
	early.opens()
	early.logs("a", m.fill("a", 2)...) // they are in the ring now
	m.do(func() {
		m.deleted[m.topics["a"].id] = true
		delete(m.topics, "a")
	}) // nobody is told
	late := s.open(t, "/v1/tail?topic=a&start=earliest", "")
	if e := late.opens(); e.ID != "a~0.0" {
		t.Errorf("id %q", e.ID)
	}
	early.told("end", `{"topic":"a","reason":"deleted"}`) // for the late one made the follower look
	late.logs("a", m.fill("a", 3)...)
}

// TestTailSeam: tails that start at any time and place while logs are committed get each log once, in order.
func TestTailSeam(t *testing.T) {
	m := newMemory()
	s := newServer(t, m)
	m.fill("a", 3*ringLogs)
	const commits = 100
	var wg sync.WaitGroup
	begun := make(chan struct{}, 100)
	for i := range 12 {
		wg.Go(func() {
			from := rand.IntN(3 * ringLogs)
			path := fmt.Sprintf("/v1/tail?topic=a&start=:%d", from)
			if i%2 == 0 {
				path = fmt.Sprintf("/v1/tail?topic=a&topic=other&lastEventId=%s", escape(fmt.Sprintf("a~1.%d", from)))
			}
			resp, cancel := s.do(t, "GET", path)
			defer cancel()
			r := ssetest.NewReader(resp.Body)
			for seq, told := from, false; ; seq++ {
				e, err := r.Event()
				if err != nil {
					t.Errorf("at %d: %v", seq, err)
					return
				}
				m.mu.Lock()
				l, head := m.topics["a"].logs[seq], len(m.topics["a"].logs)
				m.mu.Unlock()
				if e.Type != "log" || e.Data != logOf("a", l) {
					t.Errorf("at %d: %+v", seq, e)
					return
				}
				if string(l.Body) == `{"last":true}` {
					return
				}
				if !told && head > 3*ringLogs {
					told = true
					begun <- struct{}{}
				}
			}
		})
	}
	for range commits {
		m.fill("a", 1+rand.IntN(20))
	}
	m.commit("a", `{"last":true}`)
	wg.Wait()
}

// TestTailCuts: clients whose connections break off at any byte come back with the id they have, and get exactly the
// topic.
func TestTailCuts(t *testing.T) {
	m := newMemory()
	s := newServer(t, m)
	const clients, rounds = 12, 100
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() {
			c := client(t)
			id, cuts, next := "", 0, 0
			for {
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				r, _ := http.NewRequestWithContext(ctx, "GET", s.URL+"/v1/tail?topic=a&topic=b&start=earliest", nil)
				r.Header.Set("Last-Event-ID", id)
				resp, err := c.Do(r)
				if err != nil || resp.StatusCode != 200 {
					t.Errorf("%v %v", resp, err)
					cancel()
					return
				}
				reader := ssetest.NewReader(io.LimitReader(resp.Body, rand.Int64N(4000)))
				for err == nil && next < 10*rounds {
					var e ssetest.Event
					if e, err = reader.Event(); err == nil {
						m.mu.Lock()
						l := m.topics["a"].logs[next]
						m.mu.Unlock()
						if e.Data != logOf("a", l) {
							t.Errorf("after %d cuts, at %d: %+v", cuts, next, e)
							cancel()
							return
						}
						next++
					}
				}
				if reader.LastEventID() != "" {
					id = reader.LastEventID()
				}
				cancel()
				resp.Body.Close()
				cuts++
				if next == 10*rounds {
					if cuts < 10 {
						t.Errorf("only %d cuts", cuts)
					}
					return
				}
				if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
					t.Error(err)
					return
				}
			}
		})
	}
	for range rounds {
		m.fill("a", 10)
	}
	wg.Wait()
}

// TestTailStalled: a client that does not read is gone by its deadline; the others lose nothing.
func TestTailStalled(t *testing.T) {
	m := newMemory()
	s := newServer(t, m, func(c *Config) { c.WriteTimeout = 400 * time.Millisecond })
	for range 3 {
		s.stall(t, "/v1/tail?topic=big")
	}
	s.stall(t, "/v1/tail?topic=big&topic=b&start=earliest")
	var others []*stream
	for range 3 {
		others = append(others, s.open(t, "/v1/tail?topic=big", ""))
	}
	for _, o := range others {
		o.opens()
	}
	for range 16 {
		logs := m.commit("big", body(1<<20-20))
		var wg sync.WaitGroup
		for _, o := range others {
			wg.Go(func() {
				if e, err := o.Event(); err != nil || e.Data != logOf("big", logs[0]) {
					t.Errorf("%s %v", e.Type, err)
				}
			})
		}
		wg.Wait()
	}
	eventually(t, "the stalled ones are gone", func() bool { return s.Stats().Tails == 3 })
	logs := m.fill("big", 1)
	for _, o := range others {
		o.logs("big", logs...)
		o.close()
	}
	eventually(t, "all are gone, and the follower with them", func() bool { return s.Stats() == Stats{} })
}

// TestTailStalledAtClose: Close does not wait a write's whole time for a client that does not read.
func TestTailStalledAtClose(t *testing.T) {
	m := newMemory()
	s := newServer(t, m, func(c *Config) { c.WriteTimeout = time.Hour })
	for range 8 {
		m.commit("big", body(1<<20-20))
	}
	s.stall(t, "/v1/tail?topic=big&start=earliest")
	eventually(t, "the client is written to", func() bool { return m.count(&m.reads) > 0 })
	closed := make(chan struct{})
	go func() { defer close(closed); s.Close() }()
	select {
	case <-closed:
	case <-time.After(patience):
		t.Fatal("Close waits for a client that does not read")
	}
}

// TestTailQueries: a commit costs one query, however many clients are caught up.
func TestTailQueries(t *testing.T) {
	m := newMemory()
	s := newServer(t, m)
	m.fill("a", 5)
	var clients []*stream
	for range 50 {
		c := s.open(t, "/v1/tail?topic=a", "")
		c.opens()
		clients = append(clients, c)
	}
	before := m.count(&m.reads)
	const commits = 20
	for range commits {
		logs := m.fill("a", 3)
		for _, c := range clients {
			c.logs("a", logs...)
		}
	}
	if got := m.count(&m.reads) - before; got != commits {
		t.Errorf("%d queries for %d commits", got, commits)
	}
}

func TestTailStoreOutOfOrder(t *testing.T) {
	m := newMemory()
	s := newServer(t, m)
	m.fill("a", 5)
	c := s.open(t, "/v1/tail?topic=a", "")
	c.opens()
	m.do(func() { m.fails = errors.New("out of order") }, "a")
	logs := m.fill("a", 5)
	s.refused(t, "/v1/tail?topic=a", "", 500, api.CodeInternal)
	eventually(t, "a read failed", func() bool { return m.count(&m.failed) > 0 })
	m.do(func() { m.fails = nil }) // nobody is told
	c.logs("a", logs...)
}

func TestRingIsBounded(t *testing.T) {
	m := newMemory()
	s := newServer(t, m)
	s.open(t, "/v1/tail?topic=a", "").opens()
	ring := func() *view {
		s.Streams.mu.Lock()
		defer s.Streams.mu.Unlock()
		return s.followers["a"].view.Load()
	}
	m.fill("a", 1) // a topic that is full when it is looked at first is not read from its begin
	eventually(t, "the topic is followed", func() bool { v := ring(); return v != nil && v.next() == 1 })
	for range 20 {
		m.fill("a", ringLogs)
	}
	eventually(t, "all logs are read", func() bool { return ring().next() == 20*ringLogs+1 })
	if n := len(ring().frames); n < ringLogs || n > ringLogs*5/4 {
		t.Errorf("%d frames", n)
	}
	for range 20 {
		m.commit("a", body(1<<20-20))
	}
	eventually(t, "all logs are read", func() bool { return ring().next() == 20*ringLogs+21 })
	v, size := ring(), 0
	for _, f := range v.frames {
		size += f.size()
	}
	if size != v.bytes || size > ringBytes*5/4 || cap(v.frames) > 4*ringLogs {
		t.Errorf("%d bytes (%d counted) in %d frames of %d", size, v.bytes, len(v.frames), cap(v.frames))
	}
}

func TestTailByR3labsClient(t *testing.T) {
	m := newMemory()
	s := newServer(t, m)
	logs := m.fill("a", 200)
	c := sse.NewClient(s.URL + "/v1/tail?topic=a&start=earliest")
	c.Connection = &http.Client{Transport: ssetest.Transport(client(t).Transport, t.Errorf)}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var got []string
	_ = c.SubscribeWithContext(ctx, "", func(e *sse.Event) {
		if string(e.Event) != "log" {
			return
		}
		if got = append(got, string(e.Data)); len(got) == len(logs) {
			s.Close()
		}
	})
	var want []string
	for _, l := range logs {
		want = append(want, logOf("a", l))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if id, _ := c.LastEventID.Load().([]byte); string(id) != "a~1.200" {
		t.Errorf("last event id %q", id)
	}
}

// FuzzFrame: any body goes through frame and parser unchanged, on both kinds of streams.
func FuzzFrame(f *testing.F) {
	for _, s := range []string{`{}`, `[]`, `{"a":"\r\n\u2028"}`, `["id: 5","data: x"]`, "{\"\u2028\ufeff\":\"\x7f\"}", `{"n":1e400}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := api.LogBody(data)
		if err != nil {
			t.Skip()
		}
		l := api.Log{ID: api.ID{TS: 17, Seq: 4}, Body: b}
		fr := newFrame("a", 9, l)
		r := ssetest.NewReader(bytes.NewReader(fr.bytes))
		e, err := r.Event()
		if err != nil || e.Type != "log" || e.ID != "a~9.5" || e.Data != logOf("a", l) {
			t.Fatalf("%q: %+v %v", fr.bytes, e, err)
		}
		if _, err := r.Next(); !errors.Is(err, io.EOF) {
			t.Fatalf("after it: %v", err)
		}
		c := &api.Claimed{Proc: "p", Claim: api.Claim{Range: api.NewRange(l.ID, l.ID)}, Logs: []api.Log{l}}
		r = ssetest.NewReader(bytes.NewReader(append(appendEvent(nil, "logs", appendClaimed(nil, c)), '\n')))
		e, err = r.Event()
		if err != nil {
			t.Fatal(err)
		}
		if got := decodeAs[logsData](t, e); !bytes.Equal(got.Logs[0].Body, b) {
			t.Fatalf("%q, want %q", got.Logs[0].Body, b)
		}
	})
}

func FuzzCursor(f *testing.F) {
	f.Add("a~1.2,b~0.0,c~5.9!")
	f.Fuzz(func(t *testing.T, s string) {
		c, err := parseCursor(s)
		if err != nil || s == "" {
			return
		}
		var again []string
		for entry := range strings.SplitSeq(s, ",") {
			topic, _, _ := strings.Cut(entry, "~")
			again = append(again, string(appendPlace(nil, topic, c[topic].Place, c[topic].ended)))
		}
		if got := strings.Join(again, ","); got != s {
			t.Fatalf("%q became %q", s, got)
		}
	})
}

// The topic may stand in the path, alone.
func TestTailOfTheTopicInThePath(t *testing.T) {
	m := newMemory()
	s := newServer(t, m)
	m.fill("a", 2)
	tail := s.open(t, "/v1/topics/a/logs?start=earliest", "")
	first := tail.next("log")
	if !strings.HasPrefix(first.Data, `{"topic":"a",`) {
		t.Error(first.Data)
	}
	second := tail.next("log")
	for _, again := range []*stream{
		s.open(t, "/v1/topics/a/logs?start=earliest", first.ID),
		s.open(t, "/v1/topics/a/logs?lastEventId="+escape(first.ID), ""),
		s.open(t, "/v1/tail?topic=a", first.ID), // the ids are the same on both routes
	} {
		if e := again.next("log"); e.Data != second.Data {
			t.Errorf("%s, want %s", e.Data, second.Data)
		}
	}
	later := s.open(t, "/v1/topics/b/logs", "")
	m.commit("b", "{}")
	later.next("log")
	for _, query := range []string{"topic=a", "topic=b", "end=:1", "limit=1", "exclusive=true", "direction=reverse", "start=:0&start=:0"} {
		s.refused(t, "/v1/topics/a/logs?"+query, "", 400, api.CodeInvalidRequest)
	}
	s.refused(t, "/v1/topics/a/logs?start=x", "", 400, api.CodeInvalidRangeOffset)
}
