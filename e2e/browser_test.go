//go:build browser

package e2e

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"pipeproc/cmd/server/service"
)

// TestBrowser holds what a browser's own EventSource makes of the streams. What the page does is in testdata/page.html.
func TestBrowser(t *testing.T) {
	browser := startChromium(t)
	for name, test := range map[string]func(*testing.T, *chromium){
		"a tail resumes":                           tailResumes,
		"a tail outlives its server":               tailOutlivesServer,
		"a liveProc resumes":                       liveProcResumes,
		"the second tab replaces the first":        secondTabReplacesFirst,
		"a destroyed liveProc closes its stream":   destroyedLiveProcCloses,
		"a page of another site makes no liveProc": otherSitesAreRefused,
		"an allowed origin streams by a ticket":    allowedOriginStreams,
		"no other origin does":                     otherOriginsAreRefused,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, browser)
		})
	}
}

// The readyStates of an EventSource.
const (
	connecting = 0
	open       = 1
	closed     = 2
)

// browserBody is the i-th of bodies that a stream could mangle; some are long, so that connections break within them.
func browserBody(i int) string {
	switch i % 5 {
	case 0:
		return fmt.Sprintf(`{"i":%d,"long":"%s"}`, i, strings.Repeat("ü€😀\u2028 ", 2000))
	case 1:
		return fmt.Sprintf(`{"i":%d,"n":[1e2,12345678901234567890,1e400,-0.0],"n":"again"}`, i)
	case 2:
		return fmt.Sprintf(`{"i":%d,"\r\n\r\nid: 0\n\nevent: end\ndata: {}\n\n":"\u0000\ud800<>&"}`, i)
	case 3:
		return fmt.Sprintf(`[%d,"ü€😀"]`, i)
	}
	return fmt.Sprintf(`{"i":%d}`, i)
}

// tailData is the data of a tail's event.
func tailData(topic, id, body string) string {
	return fmt.Sprintf(`{"topic":%q,"id":%q,"body":%s}`, topic, id, body)
}

// tailed holds that the page has all these events, in this order and each once, when it has the last one, and that its
// EventSource never gave up.
func (p *tab) tailed(want []string) {
	p.t.Helper()
	p.until(fmt.Sprintf("events.some(e => e.data.includes(%q))", `"end":"of the test"`))
	var got []string
	p.read("events.map(e => e.data)", &got)
	for i := range max(len(got), len(want)) {
		if i >= len(got) || i >= len(want) || got[i] != want[i] {
			p.t.Fatalf("%d events, want %d; event %d is %.200q, want %.200q", len(got), len(want), i,
				slices.Concat(got, []string{"none"})[min(i, len(got))], slices.Concat(want, []string{"none"})[min(i, len(want))])
		}
	}
	p.recovered()
}

// recovered holds that the EventSource is open and always was, or on its way to be. It answers how often it was opened.
func (p *tab) recovered() (times int) {
	p.t.Helper()
	p.until("source.readyState === EventSource.OPEN")
	states := p.states()
	for _, state := range states {
		switch state {
		case open:
			times++
		case closed:
			p.t.Errorf("%s: the EventSource gave up: %v", p.url, states)
		}
	}
	return times
}

// states are the readyStates at each open and each error, in order.
func (p *tab) states() (states []int) {
	p.t.Helper()
	p.read("states", &states)
	return states
}

// tailResumes breaks the connection of a tail at random bytes while logs are committed.
func tailResumes(t *testing.T, browser *chromium) {
	const breaks = 6
	w := wireTo(t, start(t))
	s := startSite(t, w.URL)
	s.breakStreams(breaks, 200_000)
	p := browser.open(t, s.page("/v1/tail?topic=t&start=earliest"))

	stop, done := make(chan struct{}), make(chan []string, 1)
	stopCommits := sync.OnceValue(func() []string { close(stop); return <-done })
	defer stopCommits()
	go func() {
		var want []string
		defer func() { done <- want }()
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-tick.C:
			}
			a, err := w.try(t.Context(), http.MethodPost, "/v1/topics/t/logs", browserBody(i))
			if err != nil || a.Status != http.StatusCreated {
				t.Errorf("commit: %v %v", a, err)
				return
			}
			want = append(want, tailData("t", a.str("id"), browserBody(i)))
		}
	}()
	s.awaitBreaks(breaks)
	p.until("source.readyState === EventSource.OPEN") // committed to until here
	want := append(stopCommits(), w.lastLog("t"))

	p.tailed(want)
	if n := p.recovered(); n < 2 {
		t.Errorf("opened %d times", n)
	}
	if s.inEvent == 0 {
		t.Error("no connection broke within an event")
	}
	t.Logf("%d events, %d of %d breaks within one, readyStates %v", len(want), s.inEvent, breaks, p.states())
}

// lastLog commits the log by which a page knows that it has everything, and answers its event's data.
func (w procWire) lastLog(topic string) string {
	w.t.Helper()
	const body = `{"end":"of the test"}`
	return tailData(topic, w.post("/v1/topics/"+topic+"/logs", body).is(http.StatusCreated).str("id"), body)
}

// tailOutlivesServer stops a server under a tail and starts it again at the same address. Meanwhile logs are committed
// at another one.
func tailOutlivesServer(t *testing.T, browser *chromium) {
	address := steadyAddress(t)
	listen := func(c *service.Config) { c.Listen = []string{address} }
	first := start(t, listen)
	w := wireTo(t, startOn(t, first.Database))
	s := startSite(t, first.URL)
	p := browser.open(t, s.page("/v1/tail?topic=t&start=earliest"))
	var want []string
	commit := func() {
		for i := range 5 {
			id := w.post("/v1/topics/t/logs", browserBody(i)).is(http.StatusCreated).str("id")
			want = append(want, tailData("t", id, browserBody(i)))
		}
	}
	commit()
	p.until("events.length === 5")
	first.Stop()
	commit()
	p.until("states.filter(state => state === EventSource.CONNECTING).length >= 2") // it tried, and nobody was there
	startOn(t, first.Database, listen)
	p.until("events.length === 10")
	commit()
	want = append(want, w.lastLog("t"))
	p.tailed(want)
	t.Logf("readyStates %v", p.states())
}

// steadyAddress is an address that nobody else takes while a server is down: its port is none that systems give away.
func steadyAddress(t *testing.T) string {
	t.Helper()
	for range 100 {
		ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 20_000+rand.IntN(10_000)))
		if err == nil {
			defer ln.Close()
			return ln.Addr().String()
		}
	}
	t.Fatal("no port is free")
	return ""
}

// liveProcResumes breaks the connection of a liveProc between a batch and its ack, and then within batches.
func liveProcResumes(t *testing.T, browser *chromium) {
	const logs, breaks = 60, 3
	w := wireTo(t, start(t))
	var acks, batches []string // what is expected: the answers to the acks, the ends of the events' data
	for i := range logs / 2 {
		bodies := []string{browserBody(5 * i), browserBody(5*i + 1)}
		ids := w.post("/v1/commit", fmt.Sprintf(`[{"topic":"t","body":%s},{"topic":"t","body":%s}]`, bodies[0], bodies[1])).
			is(http.StatusCreated).strs("ids")
		acks = append(acks, wireRange(ids...))
		batches = append(batches, fmt.Sprintf(`"logs":[{"id":%q,"body":%s},{"id":%q,"body":%s}]}`, ids[0], bodies[0], ids[1], bodies[1]))
	}
	s := startSite(t, w.URL)
	p := browser.open(t, s.page("/v1/topics/t/live?mode=all&count=2"))
	p.until("events.length === 2")
	var name string
	p.read("JSON.parse(events[0].data).name", &name)
	// However long the browser takes to come back, its claim is to be there.
	w.send(http.MethodPatch, "/v1/procs/"+name, `{"reclaimTimeout":-1}`).is(http.StatusOK)
	p.read("allow(3)", nil)
	p.until("acks.length === 3 && events.length === 5")

	s.breakStreams(breaks, 80_000)
	s.breakNow()
	p.until("events.filter(e => e.type === 'logs').length === 5")
	var again []struct{ Type, ID, Data string }
	p.read("events.filter(e => e.type === 'logs').slice(3)", &again)
	if d := cmp.Diff(again[0], again[1]); d != "" { // token included
		t.Errorf("the outstanding batch came again otherwise (-before +after):\n%s", d)
	}
	p.read("allow(Infinity)", nil)
	s.awaitBreaks(breaks)
	p.until(fmt.Sprintf("acks.length >= %d", len(acks)))
	opened := p.recovered()

	var acked []struct {
		Token, AckedLogID string
		Status            int
	}
	p.read("acks", &acked)
	var got []string
	tokens := map[string]bool{}
	for _, a := range acked {
		if tokens[a.Token] = true; a.Status != http.StatusOK {
			t.Errorf("an ack was answered %d", a.Status)
		}
		got = append(got, a.AckedLogID)
	}
	if d := cmp.Diff(acks, got); d != "" || len(tokens) != len(acks) {
		t.Errorf("acks of %d claims (-want +got):\n%s", len(tokens), d)
	}
	var events []struct{ Type, Data string }
	p.read("events", &events)
	var liveProcs int
	var came []string
	for _, e := range events {
		switch {
		case e.Type == "liveproc" && strings.HasPrefix(e.Data, fmt.Sprintf(`{"name":%q,`, name)):
			liveProcs++
		case e.Type == "logs" && (len(came) == 0 || came[len(came)-1] != e.Data):
			came = append(came, e.Data)
		case e.Type != "logs":
			t.Errorf("%s: %.300s", e.Type, e.Data)
		}
	}
	if len(came) != len(batches) || !slices.EqualFunc(came, batches, strings.HasSuffix) {
		t.Errorf("%d batches came, want %d, or they differ", len(came), len(batches))
	}
	if liveProcs > opened || liveProcs < 2 {
		t.Errorf("%d events liveproc, opened %d times", liveProcs, opened)
	}
	w.get("/v1/procs?kind=live").is(http.StatusOK).has("procs.0.name", name)
	w.proc(name).has("lag", 0).has("claim", nil).has("reclaims", 0).has("lastAckedRange", acks[len(acks)-1])
	if n := len(w.get("/v1/procs?kind=live").list("procs")); n != 1 {
		t.Errorf("%d liveProcs", n)
	}
	t.Logf("%d of %d breaks within an event, readyStates %v", s.inEvent, breaks, p.states())
}

// ended holds that the page has had these types of events, the last one for this reason, that it came back once, and
// was told by a 204 not to come again.
func (p *tab) ended(reason string, types ...string) {
	p.t.Helper()
	p.until("source.readyState === EventSource.CLOSED")
	var events []struct{ Type, Data string }
	p.read("events", &events)
	var got []string
	for _, e := range events {
		got = append(got, e.Type)
	}
	if d := cmp.Diff(types, got); d != "" {
		p.t.Fatalf("%s (-want +got):\n%s", p.url, d)
	}
	if want := fmt.Sprintf(`{"reason":%q}`, reason); events[len(events)-1].Data != want {
		p.t.Errorf("the end is %s, want %s", events[len(events)-1].Data, want)
	}
	if d := cmp.Diff([]int{open, connecting, closed}, p.states()); d != "" {
		p.t.Errorf("readyStates of the closed EventSource (-want +got):\n%s", d)
	}
}

func secondTabReplacesFirst(t *testing.T, browser *chromium) {
	w := wireTo(t, start(t))
	s := startSite(t, w.URL)
	w.commit("t", 2)
	name, changes := w.live(`{"topic":"t","mode":"all"}`)
	w.send(http.MethodPatch, "/v1/procs/"+name, `{"reclaimTimeout":-1}`).is(http.StatusOK) // however long it takes
	first := browser.open(t, s.page(changes))
	first.until("events.length === 2")
	second := browser.open(t, s.page(changes))
	second.until("events.length === 2")

	first.ended("replaced", "liveproc", "logs", "end")
	if d := cmp.Diff([]int{200, 200, 204}, s.answered()); d != "" {
		t.Errorf("answers to requests for streams (-want +got):\n%s", d)
	}
	second.read("allow(1)", nil)
	second.until("acks.length === 1 && events.length === 3")
	if n := second.recovered(); n != 1 {
		t.Errorf("the second tab was opened %d times", n)
	}
}

func destroyedLiveProcCloses(t *testing.T, browser *chromium) {
	w := wireTo(t, start(t))
	s := startSite(t, w.URL)
	name, changes := w.live(`{"topic":"t","mode":"all"}`)
	p := browser.open(t, s.page(changes))
	p.until("events.length === 1")
	w.send(http.MethodDelete, changesOf+name, "").is(http.StatusOK)
	p.ended("destroyed", "liveproc", "end")
	if d := cmp.Diff([]int{200, 204}, s.answered()); d != "" {
		t.Errorf("answers to requests for streams (-want +got):\n%s", d)
	}
}

// otherSitesAreRefused opens streams from a page of http://localhost, which is another site than http://127.0.0.1: a GET
// that writes is refused, and one that reads is not for that page to see.
func otherSitesAreRefused(t *testing.T, browser *chromium) {
	w := wireTo(t, start(t))
	w.commit("t", 1)
	for path, status := range map[string]int{
		"/v1/topics/t/live?mode=all":      http.StatusForbidden,
		"/v1/tail?topic=t&start=earliest": http.StatusOK,
	} {
		s := startSite(t, w.URL)
		other := strings.Replace(s.URL, "127.0.0.1", "localhost", 1)
		p := browser.open(t, other+"/page?stream="+url.QueryEscape(s.URL+path))
		p.until("source.readyState === EventSource.CLOSED")
		if d := cmp.Diff([]int{status}, s.answered()); d != "" {
			t.Errorf("%s: answers (-want +got):\n%s", path, d)
		}
		var events int
		if p.read("events.length", &events); events != 0 {
			t.Errorf("%s: the page of another site got %d events", path, events)
		}
	}
	if n := len(w.get("/v1/procs?kind=live").list("procs")); n != 0 {
		t.Errorf("%d liveProcs", n)
	}
}
