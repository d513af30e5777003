package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"pipeproc/api"
	"pipeproc/cmd/server/service"
)

// TestWorkersTimesConcurrency: so many executions run at a time on a server, and no more.
func TestWorkersTimesConcurrency(t *testing.T) {
	t.Parallel()
	const workers, concurrency, procs = 2, 3, 14
	s := start(t, func(c *service.Config) { c.Workers, c.WorkerConcurrency = workers, concurrency })
	w := wireTo(t, s)
	p := newProcessor(t)
	for i := range procs {
		w.commit(fmt.Sprintf("t%d", i), 1)
		w.patientSystemProc(fmt.Sprintf("sp%d", i), fmt.Sprintf("t%d", i), p.URL)
	}
	held := map[string]*webhookCall{}
	for range workers * concurrency {
		c := p.next()
		if held[c.Proc] != nil {
			t.Errorf("%s is called twice at a time", c.Proc)
		}
		held[c.Proc] = c
	}
	// One ends, one begins, from here to the end. The server has had many occasions to begin more.
	for range procs - workers*concurrency {
		w.post("/v1/wait", `{"timeout":20}`).is(200).has("done", false)
		p.idle()
		for proc, c := range held {
			delete(held, proc)
			c.answer(204, ``)
			break
		}
		c := p.next()
		if held[c.Proc] != nil {
			t.Errorf("%s is called twice at a time", c.Proc)
		}
		held[c.Proc] = c
	}
	for _, c := range held {
		c.answer(204, ``)
	}
	w.post("/v1/wait", `{}`).is(200).has("done", true)
}

// TestServersShareSystemProcs: several servers on one database share the work; one of them stops in the middle. Every
// log is processed once and in order, and no proc has two live calls at a time.
func TestServersShareSystemProcs(t *testing.T) {
	t.Parallel()
	const procs, logs = 6, 30
	first := start(t)
	second, third := startOn(t, first.Database), startOn(t, first.Database)
	idle := startOn(t, first.Database, noWorkers)

	var mu sync.Mutex
	running, ids := map[string]int{}, map[string]int{}
	half := make(chan struct{})
	calls := 0
	url := serveWebhook(t, func(rw http.ResponseWriter, r *http.Request) {
		d, _, err := readDelivery(r)
		if err != nil {
			t.Error(err)
			return
		}
		mu.Lock()
		running[d.Proc]++
		if running[d.Proc] > 1 {
			t.Errorf("%s is called twice at a time", d.Proc)
		}
		ids[r.Header.Get("webhook-id")]++
		if calls++; calls == procs*logs/2 {
			close(half)
		}
		mu.Unlock()
		defer func() { mu.Lock(); running[d.Proc]--; mu.Unlock() }()
		rw.Header().Set("Content-Type", "application/json")
		_, _ = rw.Write(d.Logs[0].Body)
	})
	w := wireTo(t, idle)
	var names []string
	for i := range procs {
		names = append(names, fmt.Sprintf("sp%d", i))
		w.systemProc(names[i], fmt.Sprintf("in%d", i), url, fmt.Sprintf(`"to":"out%d"`, i))
	}
	for i := range procs { // through each of the servers
		wireTo(t, []*server{first, second, third, idle}[i%4]).commit(fmt.Sprintf("in%d", i), logs)
	}
	select {
	case <-half:
	case <-time.After(30 * time.Second):
		t.Fatal("the work is not done")
	}
	second.Stop() // in order: what it has begun, it ends
	w.done(names...)
	for i := range procs {
		in, out := w.bodies(fmt.Sprintf("in%d", i)), w.bodies(fmt.Sprintf("out%d", i))
		if in != out {
			t.Errorf("in\n%s\nout\n%s", in, out)
		}
	}
	if len(ids) != procs*logs {
		t.Errorf("%d deliveries, want %d", len(ids), procs*logs)
	}
	for id, n := range ids {
		if n != 1 {
			t.Errorf("%s was delivered %d times without a failure", id, n)
		}
	}
}

// TestStopDuringWebhook: a server that is stopped lets its calls end and commits their answers.
func TestStopDuringWebhook(t *testing.T) {
	t.Parallel()
	s := start(t)
	other := wireTo(t, startOn(t, s.Database, noWorkers))
	p := newProcessor(t)
	other.commit("a", 2)
	other.systemProc("sp", "a", p.URL, `"to":"o"`)
	c := p.next()
	stopped := make(chan struct{})
	go func() { defer close(stopped); s.Stop() }()
	// It refuses requests before it stops its workers.
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
		resp, err := http.Get(s.URL + "/healthz")
		if err != nil {
			break
		}
		resp.Body.Close()
	}
	c.answer(200, `{"n":1}`)
	select {
	case <-stopped:
	case <-time.After(20 * time.Second):
		t.Fatal("the server does not stop")
	}
	if got := other.bodies("o"); got != `{"n":1}` {
		t.Errorf("output %s", got)
	}
	other.proc("sp").has("claim", nil).has("lag", 1)
	p.idle()
}

// TestOtherServersCommit: a commit through a server without workers is processed at once by another one.
func TestOtherServersCommit(t *testing.T) {
	t.Parallel()
	working := start(t)
	w := wireTo(t, startOn(t, working.Database, noWorkers))
	w.systemProc("sp", "a", serveWebhook(t, echoes), `"to":"o"`)
	w.commit("a", 1)
	w.done("sp")
	var fastest time.Duration
	for i := range 5 {
		began := time.Now()
		w.commit("a", 1)
		w.done("sp")
		if took := time.Since(began); i == 0 || took < fastest {
			fastest = took
		}
	}
	if fastest > time.Second { // the poll comes every two
		t.Errorf("a commit elsewhere is processed after %v", fastest)
	}
}

// TestSystemProcsSurviveRestart: definitions, positions and retries are the database's.
func TestSystemProcsSurviveRestart(t *testing.T) {
	t.Parallel()
	s := start(t)
	w := wireTo(t, s)
	p := newProcessor(t)
	w.commit("a", 2)
	w.systemProc("sp", "a", p.URL, `"to":"o"`)
	p.next().answer(200, `{"n":0}`)
	c := p.next()
	c.answer(500, ``)
	w.until("sp", "failed", func(p api.Proc) bool { return p.Reclaims == 1 })
	before := w.get("/v1/system-procs/sp").is(200).at("processor")
	s.Stop()

	w = wireTo(t, startOn(t, s.Database))
	again := p.next()
	for again.Header.Get("webhook-id") != c.Header.Get("webhook-id") {
		t.Fatalf("after a restart: %s", again.Body)
	}
	again.answer(200, `{"n":1}`)
	w.done("sp")
	if got := w.bodies("o"); got != "{\"n\":0}\n{\"n\":1}" {
		t.Errorf("output %s", got)
	}
	if after := w.get("/v1/system-procs/sp").is(200).at("processor"); after != before {
		t.Errorf("processor %v, was %v", after, before)
	}
}

// TestManySystemProcs: nobody starves with more procs than slots, some of which hang.
func TestManySystemProcs(t *testing.T) {
	t.Parallel()
	s := start(t, func(c *service.Config) { c.WorkerConcurrency = 4 })
	w := wireTo(t, s)
	hang := newProcessor(t) // never answers
	url := serveWebhook(t, echoes)
	for i := range 3 {
		w.commit("in", 1)
		w.patientSystemProc(fmt.Sprintf("hangs%d", i), "in", hang.URL)
		hang.next()
	}
	var names []string
	for i := range 20 {
		names = append(names, fmt.Sprintf("sp%d", i))
		w.systemProc(names[i], "in", url, fmt.Sprintf(`"to":"out%d"`, i))
	}
	w.commit("in", 5)
	w.done(names...)
	want := w.bodies("in")
	for i := range names {
		if got := w.bodies(fmt.Sprintf("out%d", i)); got != want {
			t.Errorf("output of %s:\n%s", names[i], got)
		}
	}
	if n := strings.Count(want, "\n"); n != 7 {
		t.Errorf("%d logs", n+1)
	}
	for i := range 3 { // so that the server need not wait for them
		w.send(http.MethodDelete, fmt.Sprintf("/v1/system-procs/hangs%d", i), "").is(200)
	}
}
