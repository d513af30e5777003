package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const tailOf = "/v1/tail?topic="

// log is the next event of a tail, which is to be this log.
func (s *wireStream) log(topic, id string) wireEvent {
	s.t.Helper()
	e := s.next("log")
	e.hasExactly("", "topic", "id", "body").has("topic", topic).has("id", id)
	if e.ID == "" {
		s.t.Errorf("%s: a log without a cursor", s.what)
	}
	return e
}

// gap is the next event of a tail, which is to be this gap.
func (s *wireStream) gap(topic, requested, resumedAt, reason string) wireEvent {
	s.t.Helper()
	e := s.next("gap")
	e.hasExactly("", "topic", "requested", "resumedAt", "reason").has("topic", topic).has("requested", requested).
		has("resumedAt", resumedAt).has("reason", reason)
	if e.ID == "" {
		s.t.Errorf("%s: a gap without a cursor", s.what)
	}
	return e
}

func TestTailStart(t *testing.T) {
	t.Parallel()
	w := wireTo(t, start(t))
	clock := w.stopClock()
	var ids []string
	for range 3 { // two logs each ten seconds
		ids = append(ids, w.commit("a", 2)...)
		clock.pass(10_000)
	}
	ts := func(offset int64) string { return fmt.Sprint(clock.Now - 30_000 + offset) }

	// Each is opened before the last log is committed.
	cases := map[string]int{ // start → the seq of the first log
		"": 6, "&start=latest": 6, "&start=earliest": 0, "&start=:0": 0, "&start=:4": 4, "&start=:5": 5,
		"&start=" + ids[3]: 3, "&start=" + ids[0]: 0, "&start=" + ts(-1): 0, "&start=" + ts(0): 0, "&start=" + ts(1): 2,
		"&start=" + ts(10_000): 2, "&start=" + ts(20_001): 6, "&start=0": 0, "&start=0-0": 0, "&start=" + ts(5_000) + "-9": 2,
	}
	streams := map[string]*wireStream{}
	for query := range cases {
		streams[query] = w.stream(tailOf+"a"+query, "")
	}
	ids = append(ids, w.commit("a", 1)...)
	for query, first := range cases {
		for _, id := range ids[first:] {
			streams[query].log("a", id)
		}
	}
	w.noStream(tailOf+"a&start=:7", "").isProblem(http.StatusRequestedRangeNotSatisfiable, "invalid_tone_id_search")
}

func TestTailResumes(t *testing.T) {
	t.Parallel()
	server := start(t)

	t.Run("after every log", func(t *testing.T) {
		w := wireTo(t, server)
		ids := w.commit("a", 5)
		last := ""
		for _, id := range ids { // one connection for each log; start no longer counts once there is a cursor
			s := w.stream(tailOf+"a&start=earliest", last)
			last = s.log("a", id).ID
			s.close()
		}
		s := w.stream(tailOf+"a", last)
		s.log("a", w.commit("a", 1)[0])
	})
	t.Run("before the first log", func(t *testing.T) {
		w := wireTo(t, server)
		w.commit("b", 2)
		s := w.stream(tailOf+"b", "")
		block, err := s.Next()
		if err != nil || s.LastEventID() == "" {
			t.Fatalf("the position is not told at the start: %+v %v", block, err)
		}
		s.close()
		ids := w.commit("b", 2)
		s = w.stream(tailOf+"b", s.LastEventID())
		s.log("b", ids[0])
		s.log("b", ids[1])
	})
	t.Run("several topics", func(t *testing.T) {
		w := wireTo(t, server)
		x, y := w.commit("x", 2), w.commit("y", 1)
		path := tailOf + "x&topic=y&topic=z"
		s := w.stream(path+"&start=earliest", "")
		want := map[string][]string{"x": x, "y": y}
		got := map[string][]string{}
		for range 3 {
			e := s.next("log")
			got[e.str("topic")] = append(got[e.str("topic")], e.str("id"))
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("(-want +got)\n%s", d)
		}
		// Each id names the position in all: go back to each of them and see the rest alone.
		last := s.LastEventID()
		s.close()
		z := w.commit("z", 1) // unknown until now
		s = w.stream(path, last)
		e := s.log("z", z[0])
		s.close()
		s = w.stream(path+"&topic=new&start=earliest", e.ID) // a topic that the cursor does not name
		s.log("new", w.commit("new", 1)[0])
		s.close()
		s = w.stream(tailOf+"y", e.ID) // fewer topics
		s.log("y", w.commit("y", 1)[0])
	})
	t.Run("a commit over topics is seen whole", func(t *testing.T) {
		w := wireTo(t, server)
		s := w.stream(tailOf+"m1&topic=m2", "")
		ids := w.post("/v1/commit", `[{"topic":"m1","body":{}},{"topic":"m2","body":[]}]`).strs("ids")
		seen := map[string]bool{}
		for range 2 {
			seen[s.next("log").str("id")] = true
		}
		if !seen[ids[0]] || !seen[ids[1]] {
			t.Errorf("%v, want %v", seen, ids)
		}
	})
	t.Run("the id may be in the query", func(t *testing.T) {
		w := wireTo(t, server)
		ids := w.commit("q", 2)
		s := w.stream(tailOf+"q&start=earliest", "")
		cursor := s.log("q", ids[0]).ID
		w.stream(tailOf+"q&lastEventId="+cursor, "").log("q", ids[1])
	})
	t.Run("a position that never was", func(t *testing.T) {
		w := wireTo(t, server)
		ids := w.commit("n", 2)
		s := w.stream(tailOf+"n&start=earliest", "")
		s.log("n", ids[0])
		cursor := s.log("n", ids[1]).ID
		if !strings.HasSuffix(cursor, ".2") {
			t.Fatalf("the cursor is %q", cursor)
		}
		w.noStream(tailOf+"n", strings.TrimSuffix(cursor, ".2")+".3").isProblem(http.StatusBadRequest, "invalid_request")
	})
}

func TestTailGap(t *testing.T) {
	t.Parallel()
	server := start(t)
	clock := wireTo(t, server).stopClock()
	collect := func(w procWire) {
		w.t.Helper()
		clock.pass(60_000)
		w.post("/v1/gc", "").is(http.StatusOK)
	}

	t.Run("collected", func(t *testing.T) {
		w := wireTo(t, server)
		ids := w.commit("a", 3)
		s := w.stream(tailOf+"a&start=earliest", "")
		cursor := s.log("a", ids[0]).ID
		s.close()
		collect(w)
		ids = w.commit("a", 1)
		s = w.stream(tailOf+"a", cursor)
		gap := s.gap("a", ":1", ids[0], "collected")
		log := s.log("a", ids[0])
		s.close()
		// Who has seen the gap is not told again.
		w.stream(tailOf+"a", gap.ID).log("a", ids[0])
		more := w.commit("a", 1)
		w.stream(tailOf+"a", log.ID).log("a", more[0])
	})
	t.Run("everything collected", func(t *testing.T) {
		w := wireTo(t, server)
		ids := w.commit("b", 2)
		s := w.stream(tailOf+"b&start=earliest", "")
		cursor := s.log("b", ids[0]).ID
		s.close()
		collect(w)
		s = w.stream(tailOf+"b", cursor)
		s.gap("b", ":1", ":2", "collected") // at once, without a log
		s.log("b", w.commit("b", 1)[0])
	})
	t.Run("collected after it was seen", func(t *testing.T) {
		w := wireTo(t, server)
		ids := w.commit("c", 2)
		s := w.stream(tailOf+"c&start=earliest", "")
		s.log("c", ids[0])
		cursor := s.log("c", ids[1]).ID
		collect(w)
		ids = w.commit("c", 1)
		s.log("c", ids[0]) // the stream that stayed, and one that comes back: nothing was lost
		w.stream(tailOf+"c", cursor).log("c", ids[0])
	})
	t.Run("a start that was collected", func(t *testing.T) {
		w := wireTo(t, server)
		ids := w.commit("d", 3)
		collect(w)
		left := w.commit("d", 1)
		for start, requested := range map[string]string{":0": ":0", ":2": ":2", ids[1]: ":1"} {
			s := w.stream(tailOf+"d&start="+start, "")
			s.gap("d", requested, left[0], "collected")
			s.log("d", left[0])
		}
		for _, start := range []string{"earliest", "0", ":3", left[0]} {
			w.stream(tailOf+"d&start="+start, "").log("d", left[0])
		}
	})
	t.Run("made anew while the client was away", func(t *testing.T) {
		w := wireTo(t, server)
		ids := w.commit("e", 2)
		s := w.stream(tailOf+"e&start=earliest", "")
		s.log("e", ids[0])
		cursor := s.log("e", ids[1]).ID
		s.close()
		w.send(http.MethodDelete, "/v1/topics/e", "").isEmpty(http.StatusNoContent)
		ids = w.commit("e", 3) // more than there were: the seq alone would not tell
		s = w.stream(tailOf+"e", cursor)
		gap := s.gap("e", ":2", ids[0], "recreated")
		for _, id := range ids {
			s.log("e", id)
		}
		w.stream(tailOf+"e", gap.ID).log("e", ids[0])
	})
	t.Run("made anew while the client was there", func(t *testing.T) {
		w := wireTo(t, server)
		w.commit("f", 2)
		s := w.stream(tailOf+"f&topic=other", "")
		w.send(http.MethodDelete, "/v1/topics/f", "").isEmpty(http.StatusNoContent)
		end := s.next("end")
		end.hasExactly("", "topic", "reason").has("topic", "f").has("reason", "deleted")
		s.log("other", w.commit("other", 1)[0]) // the others go on
		ids := w.commit("f", 1)
		s.gap("f", ":2", ids[0], "recreated")
		s.log("f", ids[0])
		// The end is told once.
		again := w.stream(tailOf+"f", end.ID)
		again.gap("f", ":2", ids[0], "recreated")
	})
	t.Run("deleted while the client was away", func(t *testing.T) {
		w := wireTo(t, server)
		ids := w.commit("g", 1)
		s := w.stream(tailOf+"g&start=earliest", "")
		cursor := s.log("g", ids[0]).ID
		s.close()
		w.send(http.MethodDelete, "/v1/topics/g", "").isEmpty(http.StatusNoContent)
		s = w.stream(tailOf+"g", cursor)
		s.next("end").has("topic", "g").has("reason", "deleted")
		ids = w.commit("g", 1)
		s.gap("g", ":1", ids[0], "recreated")
		s.log("g", ids[0])
	})
	t.Run("a reserved name is no topic", func(t *testing.T) {
		w := wireTo(t, server)
		w.post("/v1/procs/reserves/claim", `{"topic":"h"}`).isEmpty(http.StatusNoContent)
		s := w.stream(tailOf+"h", "")
		s.log("h", w.commit("h", 1)[0])
	})
}

// TestTailBytes holds that bodies come byte for byte, and that nothing of them can be taken for the stream's own lines.
func TestTailBytes(t *testing.T) {
	t.Parallel()
	w := wireTo(t, start(t))
	s := w.stream(tailOf+"a", "")
	for _, body := range []string{
		`{}`, `[]`, `{"z":1e2,"a":12345678901234567890,"a":1e400,"b":-0.0}`, `["\u0000","\ud800","<>&","ü€😀","\u2028` + "\u2028" + `"]`,
		`{"id: x":"\n\nevent: end\ndata: {}\n\n","":"\r"}`, `[` + strings.Repeat(`"xxxxxxxxxxxxxxxx",`, 50_000) + `0]`,
	} {
		id := w.post("/v1/topics/a/logs", body).is(http.StatusCreated).str("id")
		if e, want := s.log("a", id), fmt.Sprintf(`{"topic":"a","id":"%s","body":%s}`, id, body); e.Data != want {
			t.Errorf("%.300s, want %.300s", e.Data, want)
		}
	}
	id := w.post("/v1/topics/a/logs", " {\n\t\"a\" : [ 1 ,\r\n 2 ] } ").is(http.StatusCreated).str("id")
	if e := s.log("a", id); !strings.HasSuffix(e.Data, `"body":{"a":[1,2]}}`) {
		t.Error(e.Data)
	}
}

// TestTailUnderReconnects commits at two servers while clients of both come and go: each sees every log once, in order.
func TestTailUnderReconnects(t *testing.T) {
	t.Parallel()
	s := start(t)
	servers := []procWire{wireTo(t, s), wireTo(t, startOn(t, s.Database))}
	const logs = 150
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range logs {
			a, err := servers[i%2].try(t.Context(), http.MethodPost, "/v1/commit", `[{"topic":"a","body":{}},{"topic":"b","body":{}}]`)
			if err != nil || a.Status != http.StatusCreated {
				t.Errorf("commit: %v %v", a, err)
				return
			}
		}
	}()
	last, next := "", map[string]int64{}
	for connection := 0; next["a"]+next["b"] < 2*logs; connection++ {
		s := servers[connection%2].stream(tailOf+"a&topic=b&start=earliest", last)
		for range 1 + connection%23 {
			if next["a"]+next["b"] == 2*logs {
				break
			}
			e := s.next("log")
			topic := e.str("topic")
			if id := e.str("id"); !strings.HasSuffix(id, fmt.Sprint("-", next[topic])) {
				t.Fatalf("connection %d: %s of %s, want seq %d", connection, id, topic, next[topic])
			}
			next[topic]++
		}
		last = s.LastEventID()
		s.close()
	}
	<-done
}
