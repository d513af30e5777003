package e2e

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"pipeproc/cmd/server/service"
	"pipeproc/pgstore/pgtest"
)

func (w procWire) gc(topic string, collected int, firstID any) {
	w.t.Helper()
	a := w.post("/v1/gc", "").is(http.StatusOK).hasExactly("", "topics")
	for i := range a.list("topics") {
		at := fmt.Sprintf("topics.%d", i)
		if a.str(at+".topic") == topic {
			a.hasExactly(at, "topic", "collected", "firstId").has(at+".collected", collected).has(at+".firstId", firstID)
			return
		}
	}
	if collected > 0 {
		w.t.Errorf("GC tells nothing of topic %q: %s", topic, a.Text)
	}
}

// TestGC holds that POST /v1/gc works with --gc off, and takes logs older than minPruneTime alone.
func TestGC(t *testing.T) {
	t.Parallel()
	w := wireTo(t, start(t))
	clock := w.stopClock()
	w.get("/v1/gc").is(http.StatusOK).hasSeqs("topics", 0, -1)
	w.post("/v1/gc", "").is(http.StatusOK).hasExactly("", "topics").hasSeqs("topics", 0, -1)
	ids := w.commit("a", 2)
	clock.pass(20_000)
	ids = append(ids, w.commit("a", 2)...)
	w.gc("a", 0, ids[0])
	clock.pass(9_999)
	w.gc("a", 0, ids[0]) // 29,999 ms old
	clock.pass(2)
	w.gc("a", 2, ids[2])
	w.get("/v1/topics/a").has("length", 2).has("committed", 4).has("firstId", ids[2]).has("lastId", ids[3])
	w.get("/v1/topics/a/logs").hasSeqs("logs", 2, 3)
	w.get("/v1/gc").is(http.StatusOK).has("topics.0.topic", "a").has("topics.0.collected", 2).has("topics.0.firstId", ids[2])
	w.gc("a", 0, ids[2])
	w.get("/v1/gc").has("topics.0.collected", 0)

	// What GC took is gone, and says so.
	for _, query := range []string{"/logs?start=:0", "/logs?end=:1", "/logs?start=" + ids[1], "/logs/:1", "/logs/" + ids[0]} {
		w.get("/v1/topics/a"+query).isProblem(http.StatusGone, "collected", "firstId").has("firstId", ids[2])
	}
	w.get("/v1/topics/a/logs?start="+ids[0][:strings.Index(ids[0], "-")]).hasSeqs("logs", 2, 3)

	clock.pass(40_000)
	w.gc("a", 2, nil)
	w.get("/v1/topics/a").has("length", 0).has("committed", 4).has("firstId", nil).has("lastId", nil)
	w.get("/v1/topics/a/logs").hasExactly("", "logs").hasSeqs("logs", 0, -1)
	w.get("/v1/topics/a/logs?start=:0").isProblem(http.StatusGone, "collected", "firstId").has("firstId", nil)
	w.commit("a", 1)
	w.get("/v1/topics/a/logs").hasSeqs("logs", 4, 4)

	for _, body := range []string{`{"x":1}`, `[]`, `{`} {
		w.post("/v1/gc", body).isProblem(http.StatusBadRequest, "invalid_request")
	}
	w.post("/v1/gc?x=1", "").isProblem(http.StatusBadRequest, "invalid_request")
	w.post("/v1/gc", "{}").is(http.StatusOK)
}

// TestGCKeeps holds that GC never takes what an existing proc has not acked, nor its previous claimed range; every topic
// has nine logs, all of them old.
func TestGCKeeps(t *testing.T) {
	t.Parallel()
	s := start(t, func(c *service.Config) { c.GCMinPruneTime, c.Workers = 1000, 0 })
	w := wireTo(t, s)
	clock := w.stopClock()
	put := func(name, topic, offset string) {
		t.Helper()
		w.send(http.MethodPut, "/v1/procs/"+name, fmt.Sprintf(`{"topic":%q,"offset":%q}`, topic, offset)).is(http.StatusCreated)
	}
	take := func(name string, n int) {
		t.Helper()
		w.ack(name, w.claim(name, fmt.Sprintf(`{"topic":%q,"count":%d}`, topicOf(name), n)))
	}
	do := func(name, route string) { t.Helper(); w.post("/v1/procs/"+name+"/"+route, "").is(http.StatusOK) }

	tests := map[string]struct {
		prepare func(topic string)
		first   int64 // the first log that stays
	}{
		"no-proc":        {func(string) {}, 9},
		"never-claimed":  {func(topic string) { put(topic+"--p", topic, ">") }, 0},
		"from-the-third": {func(topic string) { put(topic+"--p", topic, ":1") }, 2},
		"from-the-head":  {func(topic string) { put(topic+"--p", topic, "$>") }, 9},
		"beyond":         {func(topic string) { put(topic+"--p", topic, ":20") }, 9},
		"never-claimed-and-disabled": {func(topic string) {
			put(topic+"--p", topic, ":3")
			do(topic+"--p", "disable")
		}, 4},
		"claimed":        {func(topic string) { w.claim(topic+"--p", fmt.Sprintf(`{"topic":%q,"count":3}`, topic)) }, 0},
		"acked-once":     {func(topic string) { take(topic+"--p", 3) }, 3},
		"previous-range": {func(topic string) { take(topic+"--p", 2); take(topic+"--p", 2); take(topic+"--p", 2) }, 2},
		"all-acked":      {func(topic string) { take(topic+"--p", 8); take(topic+"--p", 1) }, 0},
		"one-by-one": {func(topic string) {
			for range 9 {
				take(topic+"--p", 1)
			}
		}, 7},
		"claimed-again": {func(topic string) { take(topic+"--p", 2); take(topic+"--p", 2); w.claim(topic+"--p", "") }, 2},
		"reclaimed":     {func(topic string) { take(topic+"--p", 4); w.claim(topic+"--p", ""); do(topic+"--p", "reclaim") }, 0},
		"disabled":      {func(topic string) { take(topic+"--p", 4); do(topic+"--p", "disable") }, 4},
		"sought": {func(topic string) {
			take(topic+"--p", 4)
			w.post("/v1/procs/"+topic+"--p/seek", `{"offset":":5"}`).is(http.StatusOK)
		}, 6},
		"the-slowest": {func(topic string) {
			take(topic+"--p", 7)
			take(topic+"--q", 3)
			put(topic+"--r", topic, ":3")
			do(topic+"--q", "disable")
		}, 3},
		"destroyed": {func(topic string) {
			put(topic+"--p", topic, ">")
			w.send(http.MethodDelete, "/v1/procs/"+topic+"--p", "").is(http.StatusOK)
		}, 9},
		"live-proc": {func(topic string) {
			w.post("/v1/live-procs", fmt.Sprintf(`{"topic":%q,"mode":"all"}`, topic)).is(http.StatusCreated)
		}, 0},
		"system-proc": {func(topic string) {
			w.post("/v1/system-procs", fmt.Sprintf(`{"name":%q,"from":%q,"offset":":2","processor":"http://127.0.0.1:9/"}`, topic, topic)).is(http.StatusCreated)
		}, 3},
	}
	for topic, tt := range tests {
		w.commit(topic, 9)
		tt.prepare(topic)
	}
	clock.pass(1001)
	a := w.post("/v1/gc", "").is(http.StatusOK)
	told := map[string]int64{}
	for i := range a.list("topics") {
		told[a.str(fmt.Sprintf("topics.%d.topic", i))] = a.num(fmt.Sprintf("topics.%d.collected", i))
	}
	for topic, tt := range tests {
		if told[topic] != tt.first {
			t.Errorf("%s: %d collected, want %d", topic, told[topic], tt.first)
		}
		w.get("/v1/topics/"+topic).has("length", 9-tt.first).has("committed", 9)
		w.get("/v1/topics/"+topic+"/logs").hasSeqs("logs", tt.first, 8)
	}

	// Every log that was not acked still reaches its proc.
	for name, first := range map[string]int64{"never-claimed--p": 0, "from-the-third--p": 2, "acked-once--p": 3, "reclaimed--p": 4, "sought--p": 6, "the-slowest--r": 4} {
		w.claim(name, `{"count":100}`).hasSeqs("logs", first, 8)
	}
	do("never-claimed-and-disabled--p", "resume")
	w.claim("never-claimed-and-disabled--p", `{"count":100}`).hasSeqs("logs", 4, 8)
	do("claimed--p", "reclaim")
	w.claim("claimed--p", `{"count":100}`).hasSeqs("logs", 0, 8)
}

// topicOf is the topic of a proc "topic--p".
func topicOf(proc string) string {
	topic, _, _ := strings.Cut(proc, "--")
	return topic
}

// TestDeleteTopicOfProcs holds what DELETE of a topic does to its procs, and to a later topic of that name.
func TestDeleteTopicOfProcs(t *testing.T) {
	t.Parallel()
	s := start(t)
	w := wireTo(t, s)
	del := func(path string) *wireAnswer { t.Helper(); return w.send(http.MethodDelete, path, "") }
	w.commit("a", 3)
	token := w.claim("p", `{"topic":"a"}`).str("claim.token")
	w.send(http.MethodPut, "/v1/procs/q", `{"topic":"a"}`).is(http.StatusCreated)
	w.post("/v1/procs/q/disable", "").is(http.StatusOK)

	del("/v1/topics/a").isProblem(http.StatusConflict, "topic_in_use")
	del("/v1/topics/a?force=false").isProblem(http.StatusConflict, "topic_in_use")
	del("/v1/topics/a?force=yes").isProblem(http.StatusBadRequest, "invalid_request")
	del("/v1/topics/a?force=").isProblem(http.StatusBadRequest, "invalid_request")
	del("/v1/topics/none").isProblem(http.StatusNotFound, "invalid_topic")
	del("/v1/topics/none?force=true").isProblem(http.StatusNotFound, "invalid_topic")
	w.get("/v1/topics/a").has("length", 3)
	w.proc("p").has("claim.token", token)

	del("/v1/topics/a?force=true").isEmpty(http.StatusNoContent)
	for _, name := range []string{"p", "q"} {
		w.get("/v1/procs/"+name).isProblem(http.StatusNotFound, "invalid_proc")
	}
	w.post("/v1/procs/p/ack", `{"token":"`+token+`"}`).isProblem(http.StatusNotFound, "invalid_proc")
	w.get("/v1/topics/a").isProblem(http.StatusNotFound, "invalid_topic")
	w.get("/v1/topics/a/logs").isProblem(http.StatusNotFound, "invalid_topic")
	w.get("/v1/topics").hasSeqs("topics", 0, -1)
	del("/v1/topics/a").isProblem(http.StatusNotFound, "invalid_topic")

	// A later topic of that name is another one, from seq 0.
	w.post("/v1/procs/p/claim", `{"topic":"a"}`).isEmpty(http.StatusNoContent)
	id := w.commit("a", 1)[0]
	w.get("/v1/topics/a").has("length", 1).has("committed", 1).has("firstId", id).has("lastId", id)
	w.claim("p", "").hasSeqs("logs", 0, 0)
	w.post("/v1/procs/p/ack", `{"token":"`+token+`"}`).isProblem(http.StatusConflict, "claim_lost")
	w.send(http.MethodDelete, "/v1/procs/p", "").is(http.StatusOK)
	del("/v1/topics/a").isEmpty(http.StatusNoContent)
}

// TestGCByItself holds that with --gc on nobody need call.
func TestGCByItself(t *testing.T) {
	t.Parallel()
	w := wireTo(t, start(t, func(c *service.Config) { c.GC, c.GCMinPruneTime, c.GCInterval = true, 1000, 50 }))
	w.commit("a", 3)
	w.claim("p", `{"topic":"a","offset":":0"}`)
	pgtest.MoveClock(t, w.Database, "default", 2*time.Second)
	for deadline := time.Now().Add(20 * time.Second); len(w.get("/v1/gc").is(http.StatusOK).list("topics")) == 0 ||
		w.get("/v1/topics/a").num("length") == 3; {
		if time.Now().After(deadline) {
			t.Fatal("no GC")
		}
	}
	w.get("/v1/topics/a").has("length", 2)
	w.get("/v1/gc").has("topics.0.topic", "a")
}

// TestGCRaces runs GC, through two servers, while procs are made, claim and ack: each gets every log from its start on.
func TestGCRaces(t *testing.T) {
	t.Parallel()
	everything := func(c *service.Config) { c.GCMinPruneTime = 0 }
	s := start(t, everything)
	servers := []procWire{wireTo(t, s), wireTo(t, startOn(t, s.Database, everything))}
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	post := func(i int, path, body string) (*wireAnswer, error) {
		return servers[i%2].try(ctx, http.MethodPost, path, body)
	}
	const rounds = 25
	servers[0].commit("a", 1)
	var working atomic.Int32
	working.Store(3)
	workers := []func(i int) error{
		func(i int) error { // commits
			defer working.Add(-1)
			for range 2 * rounds {
				if a, err := post(i, "/v1/commit", `[{"topic":"a","body":[]},{"topic":"a","body":[]}]`); err != nil || a.Status != http.StatusCreated {
					return fmt.Errorf("commit: %v, %v", a, err)
				}
			}
			return nil
		},
		func(i int) error { // one proc that goes on
			defer working.Add(-1)
			next, body := int64(0), `{"topic":"a"}`
			for range rounds {
				claimed, err := post(i, "/v1/procs/steady/claim", body)
				if err != nil || claimed.Status != http.StatusOK && claimed.Status != http.StatusNoContent {
					return fmt.Errorf("claim: %v, %v", claimed, err)
				}
				if body = `{"count":3}`; claimed.Status == http.StatusNoContent {
					continue
				}
				seqs := claimed.seqs("logs")
				if seqs[0] != next && next > 0 {
					return fmt.Errorf("steady got %d, want %d", seqs[0], next)
				}
				next = seqs[len(seqs)-1] + 1
				if a, err := post(i, "/v1/procs/steady/ack", ""); err != nil || a.Status != http.StatusOK {
					return fmt.Errorf("ack: %v, %v", a, err)
				}
			}
			return nil
		},
		func(i int) error { // procs that come, look twice, and go
			defer working.Add(-1)
			for n := range rounds {
				at := fmt.Sprintf("/v1/procs/p%d", n)
				made, err := servers[i%2].try(ctx, http.MethodPut, at, `{"topic":"a","count":2}`)
				if err != nil || made.Status != http.StatusCreated {
					return fmt.Errorf("create: %v, %v", made, err)
				}
				// What was the lag then is what it gets, and more.
				claimed, err := post(i+1, at+"/claim", `{"count":10000}`)
				if lag := made.num("lag"); err != nil || lag > 0 && (claimed.Status != http.StatusOK || int64(len(claimed.ids("logs"))) < lag) {
					return fmt.Errorf("claim after lag %d: %v, %v", lag, claimed, err)
				}
				if _, err := servers[i%2].try(ctx, http.MethodDelete, at, ""); err != nil {
					return err
				}
			}
			return nil
		},
		func(i int) error {
			for ; working.Load() > 0; i++ {
				if a, err := post(i, "/v1/gc", ""); err != nil || a.Status != http.StatusOK {
					return fmt.Errorf("gc: %v, %v", a, err)
				}
			}
			return nil
		},
	}
	atOnce(len(workers), func(i int) {
		if err := workers[i](i); err != nil {
			t.Error(err)
			stop()
		}
	})
}
