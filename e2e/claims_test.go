package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestClaim(t *testing.T) {
	t.Parallel()
	s := start(t)

	t.Run("unknown proc", func(t *testing.T) {
		t.Parallel()
		w := wireTo(t, s)
		w.post("/v1/procs/new/claim", "").isProblem(http.StatusNotFound, "invalid_proc")
		w.post("/v1/procs/new/claim", "{}").isProblem(http.StatusNotFound, "invalid_proc")
		w.post("/v1/procs/new/claim", `{"offset":">","wait":100}`).isProblem(http.StatusNotFound, "invalid_proc")
		ids := w.commit("new", 4)
		w.post("/v1/procs/new/claim", `{"topic":"new","offset":":0","count":2,"maxReclaims":3,"reclaimTimeout":-1,"onMaxReclaimsReached":"continue"}`).
			is(http.StatusOK).hasExactly("", "proc", "topic", "claim", "logs").hasExactly("claim", "token", "range", "attempt", "expiresAt").
			has("proc", "new").has("topic", "new").has("claim.range", wireRange(ids[1:3]...)).has("claim.attempt", 1).
			has("claim.expiresAt", nil).hasSeqs("logs", 1, 2)
		w.proc("new").has("offset", ":0").has("count", 2).has("maxReclaims", 3).has("reclaimTimeout", -1).has("onMaxReclaimsReached", "continue")
	})

	t.Run("known proc", func(t *testing.T) {
		t.Parallel()
		w := wireTo(t, s)
		w.commit("known", 9)
		w.ack("known", w.claim("known", `{"topic":"known"}`))
		for i, body := range []string{``, `{}`, `{"topic":"known"}`, `{"topic":null,"wait":0}`,
			`{"offset":"$>","maxReclaims":1,"reclaimTimeout":-1,"onMaxReclaimsReached":"continue"}`} {
			claimed := w.claim("known", body).hasSeqs("logs", int64(i)+1, int64(i)+1)
			w.proc("known").has("offset", ">").has("maxReclaims", 10).has("reclaimTimeout", 10_000).has("onMaxReclaimsReached", "disable").
				has("claim.expiresAt", claimed.num("claim.expiresAt"))
			w.ack("known", claimed)
		}
		w.post("/v1/procs/known/claim", `{"topic":"other"}`).isProblem(http.StatusConflict, "proc_name_not_unique")
		w.get("/v1/topics/other").isProblem(http.StatusNotFound, "invalid_topic")
	})

	t.Run("count", func(t *testing.T) {
		t.Parallel()
		w := wireTo(t, s)
		w.commit("count", 30)
		first := w.claim("count", `{"topic":"count","count":4}`).hasSeqs("logs", 0, 3)
		w.ack("count", first)
		w.ack("count", w.claim("count", `{"count":2}`).hasSeqs("logs", 4, 5)) // for that claim alone
		second := w.claim("count", "").hasSeqs("logs", 6, 9)
		// Beside claimNext, for that claim alone as well.
		next := w.post("/v1/procs/count/ack", `{"token":"`+second.str("claim.token")+`","claimNext":true,"count":3}`).is(http.StatusOK).hasSeqs("next.logs", 10, 12)
		next = w.post("/v1/procs/count/ack", `{"token":"`+next.str("next.claim.token")+`","claimNext":true}`).is(http.StatusOK).hasSeqs("next.logs", 13, 16)
		w.post("/v1/procs/count/ack", "").is(http.StatusOK).has("ackedLogId", next.str("next.claim.range"))
		w.proc("count").has("count", 4)
		w.claim("count", `{"count":10000}`).hasSeqs("logs", 17, 29)

		w.commit("count1", 3)
		w.claim("count1", `{"topic":"count1"}`).hasSeqs("logs", 0, 0) // default 1
	})

	t.Run("bad requests", func(t *testing.T) {
		t.Parallel()
		w := wireTo(t, s)
		w.commit("bad", 1)
		for body, code := range map[string]string{
			`{"topic":"bad","count":0}`:                       "invalid_request",
			`{"topic":"bad","count":10001}`:                   "invalid_request",
			`{"topic":"bad","count":-1}`:                      "invalid_request",
			`{"topic":"bad","count":1.5}`:                     "invalid_request",
			`{"topic":"bad","count":"1"}`:                     "invalid_request",
			`{"topic":"bad","wait":-1}`:                       "invalid_request",
			`{"topic":"bad","wait":60001}`:                    "invalid_request",
			`{"topic":"bad","wait":0.5}`:                      "invalid_request",
			`{"topic":"bad","wait":"1"}`:                      "invalid_request",
			`{"topic":"bad","maxReclaims":-2}`:                "invalid_request",
			`{"topic":"bad","reclaimTimeout":-2}`:             "invalid_request",
			`{"topic":"bad","onMaxReclaimsReached":"resume"}`: "invalid_request",
			`{"topic":"bad","name":"bad"}`:                    "invalid_request",
			`{"topic":"bad","Offset":">"}`:                    "invalid_request",
			`{"topic":"bad","topic":"bad"}`:                   "invalid_request",
			`{"topic":["bad"]}`:                               "invalid_request",
			`{"topic":"b.d"}`:                                 "invalid_topic_format",
			`{"topic":""}`:                                    "invalid_topic_format",
			`{"topic":"bad","offset":"-"}`:                    "invalid_range_offset",
			`{"topic":"bad","offset":5}`:                      "invalid_request",
		} {
			w.post("/v1/procs/bad/claim", body).isProblem(http.StatusBadRequest, code)
		}
		w.get("/v1/procs/bad").isProblem(http.StatusNotFound, "invalid_proc")
	})

	t.Run("nothing to do", func(t *testing.T) {
		t.Parallel()
		w := wireTo(t, s)
		w.post("/v1/procs/idle/claim", `{"topic":"idle"}`).isEmpty(http.StatusNoContent)
		w.get("/v1/topics/idle").isProblem(http.StatusNotFound, "invalid_topic")
		w.proc("idle").has("lastClaimedAt", nil).has("lag", 0)
		begun := time.Now()
		w.post("/v1/procs/idle/claim", `{"wait":200}`).isEmpty(http.StatusNoContent)
		if d := time.Since(begun); d < 200*time.Millisecond {
			t.Errorf("a wait of 200 ms took %s", d)
		}
		w.commit("idle", 1)
		w.claim("idle", "").hasSeqs("logs", 0, 0)
	})

	t.Run("already claimed", func(t *testing.T) {
		t.Parallel()
		w := wireTo(t, s)
		w.commit("held", 3)
		claimed := w.claim("held", `{"topic":"held"}`)
		for _, body := range []string{"", `{"count":2}`, `{"wait":50}`} {
			w.post("/v1/procs/held/claim", body).isProblem(http.StatusConflict, "already_claimed", "expiresAt").
				has("expiresAt", claimed.num("claim.expiresAt"))
		}
		w.claim("held-for-ever", `{"topic":"held","reclaimTimeout":-1}`).has("claim.expiresAt", nil)
		w.post("/v1/procs/held-for-ever/claim", "").isProblem(http.StatusConflict, "already_claimed", "expiresAt").has("expiresAt", nil)
	})

	t.Run("order of checks", func(t *testing.T) {
		t.Parallel()
		w := wireTo(t, s)
		w.commit("order", 3)
		w.claim("order", `{"topic":"order"}`)
		w.post("/v1/procs/order/disable", "").is(http.StatusOK)
		w.post("/v1/procs/order/claim", `{"topic":"other","count":0}`).isProblem(http.StatusBadRequest, "invalid_request")
		w.post("/v1/procs/order/claim", `{"topic":"other"}`).isProblem(http.StatusConflict, "proc_name_not_unique")
		w.post("/v1/procs/order/claim", "").isProblem(http.StatusConflict, "proc_is_disabled")
		w.post("/v1/procs/order/claim", `{"wait":60000}`).isProblem(http.StatusConflict, "proc_is_disabled")
		w.post("/v1/procs/order/resume", "").is(http.StatusOK)
		w.post("/v1/procs/order/claim", `{"topic":"order"}`).isProblem(http.StatusConflict, "already_claimed", "expiresAt")
	})

	t.Run("after a reclaim", func(t *testing.T) {
		t.Parallel()
		w := wireTo(t, s)
		reclaim := func(proc string) { t.Helper(); w.post("/v1/procs/"+proc+"/reclaim", "").is(http.StatusOK) }
		w.commit("again", 2)
		w.claim("again", `{"topic":"again","count":3}`).hasSeqs("logs", 0, 1).has("claim.attempt", 1)
		reclaim("again")
		w.commit("again", 5)
		for attempt, tt := range []struct {
			body string
			last int64
		}{{``, 1}, {`{"topic":"again"}`, 1}, {`{"count":3}`, 1}, // the same range, and no other count
			{`{"count":1}`, 0}, {``, 0}, {`{"count":1}`, 0}, {`{"count":5}`, 4}} {
			w.claim("again", tt.body).hasSeqs("logs", 0, tt.last).has("claim.attempt", attempt+2)
			reclaim("again")
		}
		w.ack("again", w.claim("again", "").hasSeqs("logs", 0, 4).has("claim.attempt", 9))
		w.claim("again", "").hasSeqs("logs", 5, 6).has("claim.attempt", 1)
	})
}

// TestClaimWait holds what a claim with wait is woken by.
func TestClaimWait(t *testing.T) {
	t.Parallel()
	s := start(t)
	wait := `{"wait":60000}`

	for name, tt := range map[string]struct {
		path, body string
		act        func(w procWire, name string)
		then       func(a *wireAnswer)
	}{
		"ack": {act: func(w procWire, name string) { w.post("/v1/procs/"+name+"/ack", "").is(http.StatusOK) },
			then: func(a *wireAnswer) { a.is(http.StatusOK).hasSeqs("logs", 1, 1).has("claim.attempt", 1) }},
		"reclaim": {act: func(w procWire, name string) { w.post("/v1/procs/"+name+"/reclaim", "").is(http.StatusOK) },
			then: func(a *wireAnswer) { a.is(http.StatusOK).hasSeqs("logs", 0, 0).has("claim.attempt", 2) }},
		"disable": {act: func(w procWire, name string) { w.post("/v1/procs/"+name+"/disable", "").is(http.StatusOK) },
			then: func(a *wireAnswer) { a.isProblem(http.StatusConflict, "proc_is_disabled") }},
		"destroy": {act: func(w procWire, name string) { w.send(http.MethodDelete, "/v1/procs/"+name, "").is(http.StatusOK) },
			then: func(a *wireAnswer) { a.isProblem(http.StatusNotFound, "invalid_proc") }},
		"delete-topic": {act: func(w procWire, name string) {
			w.send(http.MethodDelete, "/v1/topics/"+name+"?force=true", "").isEmpty(http.StatusNoContent)
		},
			then: func(a *wireAnswer) { a.isProblem(http.StatusNotFound, "invalid_proc") }},
		"time-out": {act: func(procWire, string) {}, body: `{"topic":"time-out","reclaimTimeout":1500}`,
			then: func(a *wireAnswer) { a.is(http.StatusOK).hasSeqs("logs", 0, 0).has("claim.attempt", 2) }},
	} {
		t.Run("held claim ends by "+name, func(t *testing.T) {
			t.Parallel()
			w := wireTo(t, s)
			w.commit(name, 2)
			body := tt.body
			if body == "" {
				body = `{"topic":"` + name + `"}`
			}
			w.claim(name, body)
			answer := w.background("/v1/procs/"+name+"/claim", wait)
			tt.act(w, name)
			tt.then(w.soon(answer))
		})
	}

	t.Run("a topic comes into being", func(t *testing.T) {
		t.Parallel()
		w := wireTo(t, s)
		answer := w.background("/v1/procs/born/claim", `{"topic":"born","wait":60000}`)
		w.commit("born", 1)
		w.soon(answer).is(http.StatusOK).hasSeqs("logs", 0, 0)
	})

	t.Run("one of many waiters gets the logs", func(t *testing.T) {
		t.Parallel()
		w := wireTo(t, s)
		w.send(http.MethodPut, "/v1/procs/crowd", `{"topic":"crowd"}`).is(http.StatusCreated)
		var answers []<-chan *wireAnswer
		for range 4 {
			answers = append(answers, w.background("/v1/procs/crowd/claim", `{"wait":1500}`))
		}
		w.commit("crowd", 2)
		statuses := map[int]int{}
		for _, answer := range answers {
			statuses[w.soon(answer).Status]++
		}
		if d := cmp.Diff(map[int]int{http.StatusOK: 1, http.StatusConflict: 3}, statuses); d != "" {
			t.Errorf("statuses (-want +got):\n%s", d)
		}
	})

	t.Run("seek", func(t *testing.T) {
		t.Parallel()
		w := wireTo(t, s)
		w.commit("sought", 2)
		w.send(http.MethodPut, "/v1/procs/sought", `{"topic":"sought","offset":"$>"}`).is(http.StatusCreated)
		answer := w.background("/v1/procs/sought/claim", wait)
		w.post("/v1/procs/sought/seek", `{"offset":":0"}`).is(http.StatusOK)
		w.soon(answer).is(http.StatusOK).hasSeqs("logs", 1, 1)
	})
}

// TestClaimWaitIsWoken holds that waiters are woken at once, also through another server: a poll of every 2 s would be
// seen here, since each round begins just after the wake-up of the one before.
func TestClaimWaitIsWoken(t *testing.T) {
	t.Parallel()
	s := start(t)
	other := wireTo(t, startOn(t, s.Database))
	w := wireTo(t, s)
	w.send(http.MethodPut, "/v1/procs/p", `{"topic":"a"}`).is(http.StatusCreated)
	other.claim("held", func() string { w.commit("held", 99); return `{"topic":"held"}` }())

	quick := func(what, path string, act func(), then func(*wireAnswer)) {
		t.Helper()
		best := time.Hour
		for range 4 {
			answer := w.background(path, `{"wait":60000}`)
			begun := time.Now()
			act()
			a := w.soon(answer)
			if best = min(best, time.Since(begun)); a.Status != http.StatusOK {
				t.Fatalf("%s: %d %s", what, a.Status, a.Text)
			}
			then(a)
			if best < time.Second {
				return
			}
		}
		t.Errorf("%s: woken after %s at best", what, best)
	}
	ack := func(a *wireAnswer) { w.ack(a.str("proc"), a) }
	quick("commit", "/v1/procs/p/claim", func() { w.commit("a", 1) }, ack)
	quick("commit through another server", "/v1/procs/p/claim", func() { other.commit("a", 1) }, ack)
	quick("ack", "/v1/procs/held/claim", func() { w.post("/v1/procs/held/ack", "").is(http.StatusOK) }, func(*wireAnswer) {})
	quick("ack through another server", "/v1/procs/held/claim", func() { other.post("/v1/procs/held/ack", "").is(http.StatusOK) }, func(*wireAnswer) {})
	quick("ackCommit through another server", "/v1/procs/p/claim", func() {
		other.post("/v1/procs/held/ack-commit", `{"logs":{"topic":"a","body":{}}}`).is(http.StatusOK)
		other.claim("held", "")
	}, ack)
	w.proc("held").has("status", "active")
}

// TestClaimIsOne holds that a proc has at most one live claim, whoever asks, and that every log reaches it, in order.
func TestClaimIsOne(t *testing.T) {
	t.Parallel()
	s := start(t)
	servers := []procWire{wireTo(t, s), wireTo(t, startOn(t, s.Database))}
	const logs = 12
	w := servers[0]
	w.commit("a", logs)

	var mu sync.Mutex
	var got []string
	var holders atomic.Int32
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	worker := func(i int) error {
		for {
			w := servers[i%2]
			claimed, err := w.try(ctx, http.MethodPost, "/v1/procs/p/claim", `{"topic":"a","wait":20,"reclaimTimeout":-1}`)
			if err != nil {
				return err
			}
			switch {
			case claimed.Status == http.StatusConflict && claimed.at("code") == "already_claimed":
				continue
			case claimed.Status == http.StatusNoContent:
				return nil
			case claimed.Status != http.StatusOK:
				return errors.New(claimed.Text)
			}
			if holders.Add(1) > 1 {
				t.Error("two live claims")
			}
			mu.Lock()
			got = append(got, claimed.ids("logs")...)
			mu.Unlock()
			token := claimed.str("claim.token")
			holders.Add(-1)
			// Several at once with one token: it is applied once.
			var acks [3]*wireAnswer
			atOnce(len(acks), func(j int) {
				a, err := servers[j%2].try(ctx, http.MethodPost, "/v1/procs/p/ack-commit",
					fmt.Sprintf(`{"token":%q,"logs":{"topic":"out","body":{"from":%q}}}`, token, claimed.ids("logs")[0]))
				if err == nil {
					acks[j] = a
				}
			})
			for _, a := range acks {
				// A late repeat may find that another claim was acked since.
				if a == nil || a.Status != http.StatusOK && !(a.Status == http.StatusConflict && a.at("code") == "claim_lost") {
					return fmt.Errorf("ack: %+v", a)
				}
			}
		}
	}
	atOnce(6, func(i int) {
		if err := worker(i); err != nil {
			t.Error(err)
		}
	})
	in := w.get("/v1/topics/a/logs").ids("logs")
	if d := cmp.Diff(in, got); d != "" {
		t.Errorf("logs that reached the proc (-want +got):\n%s", d)
	}
	out := w.get("/v1/topics/out/logs").is(http.StatusOK)
	var from []string
	for i := range out.list("logs") {
		from = append(from, out.str(fmt.Sprintf("logs.%d.body.from", i)))
	}
	if d := cmp.Diff(in, from); d != "" {
		t.Errorf("output (-want +got):\n%s", d)
	}
}

func TestAvailableProc(t *testing.T) {
	t.Parallel()
	s := start(t)
	entries := func(names ...string) string {
		var list []string
		for _, name := range names {
			list = append(list, fmt.Sprintf(`{"name":%q,"topic":%q,"reclaimTimeout":-1}`, name, name))
		}
		return `{"procs":[` + strings.Join(list, ",") + `]}`
	}

	t.Run("the first with work", func(t *testing.T) {
		t.Parallel()
		w := wireTo(t, s)
		all := entries("f1", "f2", "f3")
		w.post("/v1/claims", all).isEmpty(http.StatusNoContent)
		for _, name := range []string{"f1", "f2", "f3"} { // unknown procs are created
			w.proc(name).has("reclaimTimeout", -1).has("lastClaimedAt", nil)
		}
		w.commit("f2", 1)
		a := w.post("/v1/claims", all).is(http.StatusOK).hasExactly("", "proc", "topic", "claim", "logs").
			hasExactly("claim", "token", "range", "attempt", "expiresAt").has("proc", "f2").has("topic", "f2").hasSeqs("logs", 0, 0)
		w.post("/v1/claims", all).isEmpty(http.StatusNoContent)
		w.ack("f2", a)
		w.post("/v1/claims", all).isEmpty(http.StatusNoContent)
	})

	t.Run("the least recently claimed", func(t *testing.T) {
		t.Parallel()
		w := wireTo(t, s)
		for _, name := range []string{"l1", "l2", "l3"} {
			w.commit(name, 5)
		}
		var order []string
		last := int64(0)
		for range 7 {
			a := w.post("/v1/claims", entries("l1", "l2", "l3")).is(http.StatusOK)
			order = append(order, a.str("proc"))
			w.ack(a.str("proc"), a)
			for last == w.proc(a.str("proc")).num("lastClaimedAt") { // two claims in one millisecond have no order
				w.post("/v1/procs/"+a.str("proc")+"/seek", `{"offset":">"}`).is(http.StatusOK)
				w.ack(a.str("proc"), w.claim(a.str("proc"), ""))
			}
			last = w.proc(a.str("proc")).num("lastClaimedAt")
		}
		if d := cmp.Diff([]string{"l1", "l2", "l3", "l1", "l2", "l3", "l1"}, order); d != "" {
			t.Errorf("order (-want +got):\n%s", d)
		}
	})

	t.Run("disabled and claimed ones are passed over", func(t *testing.T) {
		t.Parallel()
		w := wireTo(t, s)
		for _, name := range []string{"d1", "d2", "d3"} {
			w.commit(name, 5)
		}
		w.claim("d1", `{"topic":"d1"}`)
		w.send(http.MethodPut, "/v1/procs/d2", `{"topic":"d2"}`).is(http.StatusCreated)
		w.post("/v1/procs/d2/disable", "").is(http.StatusOK)
		w.post("/v1/claims", `{"procs":[{"name":"d1"},{"name":"d2","count":2},{"name":"d3","topic":"d3","count":3}]}`).is(http.StatusOK).
			has("proc", "d3").hasSeqs("logs", 0, 2)
		w.post("/v1/claims", `{"procs":[{"name":"d1"},{"name":"d2"},{"name":"d3"}]}`).isEmpty(http.StatusNoContent)
	})

	t.Run("waits", func(t *testing.T) {
		t.Parallel()
		w := wireTo(t, s)
		wait := strings.TrimSuffix(entries("w1", "w2"), "}") + `,"wait":60000}`
		answer := w.background("/v1/claims", wait)
		w.commit("w2", 2)
		a := w.soon(answer).is(http.StatusOK).has("proc", "w2").hasSeqs("logs", 0, 0)
		answer = w.background("/v1/claims", wait)
		w.ack("w2", a)
		w.soon(answer).is(http.StatusOK).has("proc", "w2").hasSeqs("logs", 1, 1)
		begun := time.Now()
		w.post("/v1/claims", strings.Replace(wait, "60000", "150", 1)).isEmpty(http.StatusNoContent)
		if d := time.Since(begun); d < 150*time.Millisecond {
			t.Errorf("a wait of 150 ms took %s", d)
		}
	})

	t.Run("refusals", func(t *testing.T) {
		t.Parallel()
		w := wireTo(t, s)
		many := make([]string, 1001)
		for i := range many {
			many[i] = fmt.Sprintf("m%d", i)
		}
		for _, body := range []string{``, `{}`, `{"procs":[]}`, `{"procs":null}`, `{"procs":{}}`, entries(many...), `{"procs":[{"name":"r","topic":"r"}],"wait":60001}`,
			`{"procs":[{"name":"r","topic":"r"}],"wait":-1}`, `{"procs":[{"name":"r","topic":"r","wait":1}]}`, `{"procs":[{"name":"r","topic":"r","count":0}]}`,
			`{"procs":[null]}`, `{"procs":[{"name":"r","topic":"r"}],"x":1}`, `[{"name":"r","topic":"r"}]`} {
			w.post("/v1/claims", body).isProblem(http.StatusBadRequest, "invalid_request")
		}
		w.post("/v1/claims", `{"procs":[{"topic":"r"}]}`).isProblem(http.StatusBadRequest, "invalid_proc_format")
		w.post("/v1/claims", `{"procs":[{"name":"r!","topic":"r"}]}`).isProblem(http.StatusBadRequest, "invalid_proc_format")
		w.post("/v1/claims", `{"procs":[{"name":"r","topic":"r!"}]}`).isProblem(http.StatusBadRequest, "invalid_topic_format")
		w.post("/v1/claims", `{"procs":[{"name":"r","topic":"r","offset":"!"}]}`).isProblem(http.StatusBadRequest, "invalid_range_offset")
		w.post("/v1/claims", `{"procs":[{"name":"r1","topic":"r"},{"name":"r2"}]}`).isProblem(http.StatusNotFound, "invalid_proc")
		w.get("/v1/procs/r1").isProblem(http.StatusNotFound, "invalid_proc")
		w.send(http.MethodPut, "/v1/procs/r3", `{"topic":"r"}`).is(http.StatusCreated)
		w.post("/v1/claims", `{"procs":[{"name":"r3","topic":"other"}]}`).isProblem(http.StatusConflict, "proc_name_not_unique")
		thousand := strings.Replace(entries(many[:1000]...), `,"topic":"m7"`, "", 1) // so that nothing is created
		w.post("/v1/claims", thousand).isProblem(http.StatusNotFound, "invalid_proc")
	})
}
