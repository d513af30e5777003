package e2e

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestTimeout holds when a claim ends by itself, and that every operation applies that first. The clock stands still, so
// the moment is exact.
func TestTimeout(t *testing.T) {
	t.Parallel()
	s := start(t)
	w := wireTo(t, s)
	clock := w.stopClock()
	ids := w.commit("a", 6)

	// Each operation on a proc of its own, whose claim ended just now.
	tokens := map[string]string{}
	acts := map[string]func(at, token string){
		"ack": func(at, token string) {
			w.post(at+"/ack", `{"token":"`+token+`"}`).isProblem(http.StatusConflict, "claim_lost")
		},
		"ack-next": func(at, token string) {
			w.post(at+"/ack", `{"token":"`+token+`","claimNext":true}`).isProblem(http.StatusConflict, "claim_lost")
		},
		"ack-any": func(at, _ string) { w.post(at+"/ack", "").isProblem(http.StatusConflict, "invalid_ack") },
		"ack-commit": func(at, token string) {
			w.post(at+"/ack-commit", `{"token":"`+token+`","logs":{"topic":"out","body":{}}}`).isProblem(http.StatusConflict, "claim_lost")
			w.get("/v1/topics/out").isProblem(http.StatusNotFound, "invalid_topic")
		},
		"reclaim": func(at, token string) {
			w.post(at+"/reclaim", `{"token":"`+token+`"}`).isProblem(http.StatusConflict, "claim_lost")
		},
		"reclaim-any": func(at, _ string) {
			w.post(at+"/reclaim", "").isProblem(http.StatusConflict, "nothing_to_reclaim")
		},
		"extend": func(at, token string) {
			w.post(at+"/extend", `{"token":"`+token+`"}`).isProblem(http.StatusConflict, "claim_lost")
		},
		"get": func(at, _ string) { w.get(at).is(http.StatusOK).has("claim", nil).has("reclaims", 1) },
		"patch": func(at, _ string) {
			w.send(http.MethodPatch, at, `{}`).is(http.StatusOK).has("claim", nil).has("reclaims", 1)
		},
		"put": func(at, _ string) {
			w.send(http.MethodPut, at, `{"topic":"a"}`).is(http.StatusOK).has("claim", nil).has("reclaims", 1)
		},
		"disable": func(at, _ string) {
			w.post(at+"/disable", "").is(http.StatusOK).has("claim", nil).has("reclaims", 1)
			w.post(at+"/resume", "").is(http.StatusOK).has("claim", nil).has("reclaims", 0)
		},
		"resume": func(at, _ string) { w.post(at+"/resume", "").isProblem(http.StatusConflict, "proc_already_active") },
		"seek": func(at, _ string) {
			w.post(at+"/seek", `{"offset":">"}`).is(http.StatusOK).has("claim", nil).has("reclaims", 0)
		},
		"claim": func(at, _ string) {
			w.post(at+"/claim", "").is(http.StatusOK).has("claim.attempt", 2).has("logs.0.id", ids[0])
		},
		"claims": func(at, _ string) {
			w.post("/v1/claims", `{"procs":[{"name":"claims"}]}`).is(http.StatusOK).has("claim.attempt", 2).has("logs.0.id", ids[0])
		},
		"destroy": func(at, _ string) {
			w.send(http.MethodDelete, at, "").is(http.StatusOK).has("claim", nil).has("reclaims", 1)
		},
		"list": func(string, string) {},
	}
	for name := range acts {
		claimed := w.claim(name, `{"topic":"a"}`).has("claim.expiresAt", clock.Now+10_000)
		tokens[name] = claimed.str("claim.token")
	}
	for name, expiry := range map[string]any{"one": int64(1), "long": int64(20_000), "never": nil} {
		timeout := int64(-1)
		if ms, ok := expiry.(int64); ok {
			timeout, expiry = ms, clock.Now+ms
		}
		tokens[name] = w.claim("timeout-"+name, fmt.Sprintf(`{"topic":"a","reclaimTimeout":%d}`, timeout)).has("claim.expiresAt", expiry).str("claim.token")
	}

	clock.pass(9_999)
	w.proc("timeout-one").has("claim", nil).has("reclaims", 1)
	for name := range acts {
		w.proc(name).has("claim.token", tokens[name]).has("reclaims", 0)
		w.post("/v1/procs/"+name+"/claim", "").isProblem(http.StatusConflict, "already_claimed", "expiresAt").has("expiresAt", clock.Now+1)
	}
	clock.pass(1)
	for name, act := range acts {
		act("/v1/procs/"+name, tokens[name])
	}
	for i, name := range w.get("/v1/procs").is(http.StatusOK).list("procs") {
		if p := name.(map[string]any); p["name"] == "list" && (p["claim"] != nil || fmt.Sprint(p["reclaims"]) != "1") {
			t.Errorf("proc %d of the list: %v", i, p)
		}
	}
	for _, name := range []string{"ack", "ack-any", "reclaim", "extend"} {
		w.proc(name).has("claim", nil).has("reclaims", 1).has("lastClaimedRange", "").has("status", "active").has("lag", 6)
		w.claim(name, "").has("claim.attempt", 2).has("claim.range", wireRange(ids[0])).has("claim.expiresAt", clock.Now+10_000)
	}

	w.post("/v1/procs/timeout-long/ack", `{"token":"`+tokens["long"]+`"}`).is(http.StatusOK)
	clock.pass(400 * 24 * 3_600_000)
	w.post("/v1/procs/timeout-never/ack", `{"token":"`+tokens["never"]+`"}`).is(http.StatusOK)
}

func TestExtend(t *testing.T) {
	t.Parallel()
	w := wireTo(t, start(t))
	clock := w.stopClock()
	w.commit("a", 2)
	claimed := w.claim("p", `{"topic":"a"}`)
	token := `{"token":"` + claimed.str("claim.token") + `"}`
	for range 3 {
		clock.pass(9_000)
		w.post("/v1/procs/p/extend", token).is(http.StatusOK).hasExactly("", "claim").hasExactly("claim", "token", "range", "attempt", "expiresAt").
			has("claim.token", claimed.str("claim.token")).has("claim.range", claimed.str("claim.range")).has("claim.attempt", 1).
			has("claim.expiresAt", clock.Now+10_000)
		w.proc("p").has("claim.expiresAt", clock.Now+10_000)
	}
	for body, code := range map[string]string{``: "invalid_request", `{}`: "invalid_request", `{"token":null}`: "invalid_request", `{"token":""}`: "invalid_request",
		`{"token":1}`: "invalid_request"} {
		w.post("/v1/procs/p/extend", body).isProblem(http.StatusBadRequest, code)
	}
	w.send(http.MethodPatch, "/v1/procs/p", `{"reclaimTimeout":-1}`).is(http.StatusOK).has("claim.expiresAt", clock.Now+10_000)
	w.post("/v1/procs/p/extend", token).is(http.StatusOK).has("claim.expiresAt", nil)
	w.proc("p").has("claim.expiresAt", nil)
	w.post("/v1/procs/p/ack", token).is(http.StatusOK)
	w.post("/v1/procs/p/extend", token).isProblem(http.StatusConflict, "claim_lost")
}

func TestReclaim(t *testing.T) {
	t.Parallel()
	s := start(t)

	t.Run("restores the previous range", func(t *testing.T) {
		t.Parallel()
		w := wireTo(t, s)
		ids := w.commit("restored", 5)
		claimed := w.claim("restored", `{"topic":"restored"}`)
		w.post("/v1/procs/restored/reclaim", `{"token":"`+claimed.str("claim.token")+`"}`).is(http.StatusOK).hasExactly("", "lastClaimedRange").
			has("lastClaimedRange", "")
		w.ack("restored", w.claim("restored", `{"count":2}`))
		w.claim("restored", "")
		w.proc("restored").has("lastClaimedRange", wireRange(ids[2])).has("previousClaimedRange", wireRange(ids[:2]...))
		w.post("/v1/procs/restored/reclaim", "").is(http.StatusOK).has("lastClaimedRange", wireRange(ids[:2]...))
		w.proc("restored").has("lastClaimedRange", wireRange(ids[:2]...)).has("reclaims", 1).has("claim", nil).has("lag", 3)
	})

	t.Run("maxReclaims", func(t *testing.T) {
		t.Parallel()
		w := wireTo(t, s)
		w.commit("most", 1)
		for name, tt := range map[string]struct {
			options string
			most    int // the reclaim that disables; 0: none
		}{"one": {`"maxReclaims":1`, 1}, "three": {`"maxReclaims":3`, 3}, "default": {`"count":1`, 10}, "zero": {`"maxReclaims":0`, 10},
			"none": {`"maxReclaims":-1`, 0}, "continue": {`"maxReclaims":2,"onMaxReclaimsReached":"continue"`, 0}} {
			at := "/v1/procs/most-" + name
			for i := 1; i <= 12; i++ {
				w.post(at+"/claim", `{"topic":"most",`+tt.options+`}`).is(http.StatusOK).has("claim.attempt", i)
				w.post(at+"/reclaim", "").is(http.StatusOK)
				p := w.get(at).has("reclaims", i)
				if i != tt.most {
					p.has("status", "active")
					continue
				}
				p.has("status", "disabled").has("claim", nil)
				w.post(at+"/claim", "").isProblem(http.StatusConflict, "proc_is_disabled")
				w.post(at+"/reclaim", "").isProblem(http.StatusConflict, "proc_is_disabled")
				w.post(at+"/resume", "").is(http.StatusOK).has("reclaims", 0).has("status", "active")
				w.post(at+"/claim", "").is(http.StatusOK).has("claim.attempt", 1)
				break
			}
		}
	})

	t.Run("an applied ack starts the count anew", func(t *testing.T) {
		t.Parallel()
		w := wireTo(t, s)
		w.commit("anew", 4)
		for range 3 {
			w.claim("anew", `{"topic":"anew","maxReclaims":2}`)
			w.post("/v1/procs/anew/reclaim", "").is(http.StatusOK)
			w.proc("anew").has("reclaims", 1)
			w.ack("anew", w.claim("anew", "").has("claim.attempt", 2))
			w.proc("anew").has("reclaims", 0).has("status", "active")
		}
	})

	t.Run("by time-out", func(t *testing.T) {
		t.Parallel()
		w := wireTo(t, start(t))
		clock := w.stopClock()
		w.commit("a", 2)
		for name, status := range map[string]string{"disable": "disabled", "continue": "active"} {
			at := "/v1/procs/" + name
			token := w.post(at+"/claim", `{"topic":"a","maxReclaims":2,"onMaxReclaimsReached":"`+name+`"}`).is(http.StatusOK).str("claim.token")
			clock.pass(10_000)
			w.get(at).has("reclaims", 1).has("status", "active")
			w.post(at+"/claim", "").is(http.StatusOK).has("claim.attempt", 2)
			clock.pass(10_000)
			w.get(at).has("reclaims", 2).has("status", status)
			w.post(at+"/ack", `{"token":"`+token+`"}`).isProblem(http.StatusConflict, "claim_lost")
		}
		w.post("/v1/procs/disable/claim", "").isProblem(http.StatusConflict, "proc_is_disabled")
		w.claim("continue", "").has("claim.attempt", 3)

		// A repeat tells no next that has timed out.
		w.send(http.MethodPut, "/v1/procs/next", `{"topic":"a"}`).is(http.StatusCreated)
		body := `{"claimNext":true,"token":"` + w.claim("next", "").str("claim.token") + `"}`
		first := w.post("/v1/procs/next/ack", body).is(http.StatusOK).hasSeqs("next.logs", 1, 1)
		clock.pass(9_999)
		w.post("/v1/procs/next/ack", body).tellsAs(first)
		clock.pass(1)
		w.post("/v1/procs/next/ack", body).is(http.StatusOK).has("next", nil)
	})
}

// TestSweep holds that time-outs are applied without a caller: the metrics tell of it.
func TestSweep(t *testing.T) {
	t.Parallel()
	w := wireTo(t, start(t))
	w.commit("a", 1)
	w.claim("p", `{"topic":"a"}`)
	reclaims := func() float64 {
		for line := range strings.Lines(w.get("/metrics").is(http.StatusOK).Text) {
			if value, ok := strings.CutPrefix(line, "pipeproc_reclaims_total "); ok {
				n, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
				if err != nil {
					t.Fatal(err)
				}
				return n
			}
		}
		t.Fatal("no metric of reclaims")
		return 0
	}
	if n := reclaims(); n != 0 {
		t.Fatalf("%v reclaims at first", n)
	}
	w.stopClock().pass(10_000)
	for deadline := time.Now().Add(20 * time.Second); reclaims() == 0; {
		if time.Now().After(deadline) {
			t.Fatal("no sweep")
		}
	}
	w.proc("p").has("reclaims", 1)
}

func TestDisable(t *testing.T) {
	t.Parallel()
	s := start(t)

	t.Run("twice", func(t *testing.T) {
		t.Parallel()
		w := wireTo(t, s)
		w.send(http.MethodPut, "/v1/procs/twice", `{"topic":"twice"}`).is(http.StatusCreated)
		w.post("/v1/procs/twice/resume", "").isProblem(http.StatusConflict, "proc_already_active")
		w.post("/v1/procs/twice/disable", "{}").is(http.StatusOK).hasExactly("", procMembers...).has("status", "disabled")
		w.post("/v1/procs/twice/disable", "").isProblem(http.StatusConflict, "proc_already_disabled")
		w.post("/v1/procs/twice/resume", "{}").is(http.StatusOK).hasExactly("", procMembers...).has("status", "active")
		w.post("/v1/procs/twice/resume", "").isProblem(http.StatusConflict, "proc_already_active")
	})

	t.Run("a live claim stays", func(t *testing.T) {
		t.Parallel()
		w := wireTo(t, s)
		ids := w.commit("stays", 4)
		for i, ack := range []string{"ack", "ack-commit", "ack without token"} {
			claimed := w.claim("stays", `{"topic":"stays"}`)
			token := claimed.str("claim.token")
			w.post("/v1/procs/stays/disable", "").is(http.StatusOK).has("claim.token", token).has("claim.expiresAt", claimed.num("claim.expiresAt"))
			w.post("/v1/procs/stays/claim", "").isProblem(http.StatusConflict, "proc_is_disabled")
			w.post("/v1/procs/stays/reclaim", "").isProblem(http.StatusConflict, "proc_is_disabled")
			w.post("/v1/procs/stays/reclaim", `{"token":"`+token+`"}`).isProblem(http.StatusConflict, "proc_is_disabled")
			w.post("/v1/procs/stays/ack", `{"token":"x"}`).isProblem(http.StatusConflict, "claim_lost")
			var a *wireAnswer
			switch ack {
			case "ack":
				a = w.post("/v1/procs/stays/ack", `{"token":"`+token+`"}`).is(http.StatusOK)
			case "ack-commit":
				a = w.post("/v1/procs/stays/ack-commit", `{"token":"`+token+`","logs":{"topic":"stays-out","body":{}}}`).is(http.StatusOK)
				w.get("/v1/topics/stays-out").is(http.StatusOK).has("length", 1)
			default:
				a = w.post("/v1/procs/stays/ack", "").is(http.StatusOK)
			}
			a.has("ackedLogId", ids[i])
			w.post("/v1/procs/stays/resume", "").is(http.StatusOK).has("claim", nil).has("lag", 3-i)
		}
	})

	t.Run("no time-out applies, and resume ends an expired claim uncounted", func(t *testing.T) {
		t.Parallel()
		w := wireTo(t, start(t))
		clock := w.stopClock()
		ids := w.commit("a", 3)
		w.ack("p", w.claim("p", `{"topic":"a","maxReclaims":2}`))
		w.claim("p", "")
		w.post("/v1/procs/p/reclaim", "").is(http.StatusOK)
		token := w.claim("p", "").has("claim.attempt", 2).str("claim.token")
		live := w.claim("q", `{"topic":"a"}`).str("claim.token")
		kept := w.claim("r", `{"topic":"a"}`).str("claim.token")
		for _, name := range []string{"p", "q", "r"} {
			w.post("/v1/procs/"+name+"/disable", "").is(http.StatusOK)
		}
		clock.pass(9_999)
		w.post("/v1/procs/r/resume", "").is(http.StatusOK).has("claim.token", kept)
		w.post("/v1/procs/r/ack", `{"token":"`+kept+`"}`).is(http.StatusOK)
		clock.pass(90_000)
		w.proc("p").has("claim.token", token).has("reclaims", 1).has("status", "disabled")
		w.post("/v1/procs/p/resume", "").is(http.StatusOK).has("claim", nil).has("reclaims", 0).has("status", "active").
			has("lastClaimedRange", wireRange(ids[0]))
		w.post("/v1/procs/p/ack", `{"token":"`+token+`"}`).isProblem(http.StatusConflict, "claim_lost")
		w.claim("p", "").has("claim.attempt", 1).has("claim.range", wireRange(ids[1]))
		// Long after its time-out, the answer is still applied.
		w.post("/v1/procs/q/ack", `{"token":"`+live+`"}`).is(http.StatusOK).has("ackedLogId", ids[0])
		w.proc("q").has("lag", 2).has("claim", nil).has("status", "disabled")
	})

	t.Run("destroy forgets everything", func(t *testing.T) {
		t.Parallel()
		w := wireTo(t, s)
		w.commit("forget", 4)
		w.ack("forget", w.claim("forget", `{"topic":"forget","maxReclaims":3}`))
		w.claim("forget", "")
		w.post("/v1/procs/forget/reclaim", "").is(http.StatusOK)
		w.claim("forget", "")
		w.post("/v1/procs/forget/disable", "").is(http.StatusOK)
		before := w.proc("forget")
		w.send(http.MethodDelete, "/v1/procs/forget", "").tellsAs(before)
		w.post("/v1/procs/forget/resume", "").isProblem(http.StatusNotFound, "invalid_proc")
		w.claim("forget", `{"topic":"forget"}`).hasSeqs("logs", 0, 0).has("claim.attempt", 1)
		w.proc("forget").has("maxReclaims", 10).has("reclaims", 0).has("lastAckedRange", "").has("lastAckedAt", nil).has("previousClaimedRange", "").
			has("status", "active").has("lag", 4)
	})
}

func TestSeek(t *testing.T) {
	t.Parallel()
	s := start(t)

	t.Run("an active proc", func(t *testing.T) {
		t.Parallel()
		w := wireTo(t, s)
		w.commit("active", 6)
		claimed := w.claim("active", `{"topic":"active","offset":":0","count":2}`).hasSeqs("logs", 1, 2)
		before := w.proc("active")
		w.post("/v1/procs/active/seek", `{"offset":">"}`).isProblem(http.StatusConflict, "already_claimed", "expiresAt").
			has("expiresAt", claimed.num("claim.expiresAt"))
		w.proc("active").tellsAs(before)
		w.ack("active", claimed)
		w.claim("active", "")
		w.post("/v1/procs/active/reclaim", "").is(http.StatusOK)
		w.post("/v1/procs/active/seek", `{"offset":">"}`).is(http.StatusOK).hasExactly("", procMembers...).has("lastClaimedRange", "").
			has("previousClaimedRange", "").has("lastAckedRange", "").has("reclaims", 0).has("lag", 6).has("claim", nil).has("status", "active").
			has("offset", ":0")
		w.ack("active", w.claim("active", "").hasSeqs("logs", 0, 1).has("claim.attempt", 1)) // replayed
		w.post("/v1/procs/active/seek", `{"offset":":4"}`).is(http.StatusOK).has("lag", 1)
		w.claim("active", "").hasSeqs("logs", 5, 5) // skipped
	})

	t.Run("a disabled proc", func(t *testing.T) {
		t.Parallel()
		w := wireTo(t, s)
		w.commit("poisoned", 3)
		token := w.claim("poisoned", `{"topic":"poisoned","maxReclaims":1}`).str("claim.token")
		w.post("/v1/procs/poisoned/disable", "").is(http.StatusOK)
		w.post("/v1/procs/poisoned/seek", `{"offset":":0"}`).is(http.StatusOK).has("claim", nil).has("status", "disabled").has("lag", 2)
		w.post("/v1/procs/poisoned/ack", `{"token":"`+token+`"}`).isProblem(http.StatusConflict, "claim_lost")
		w.post("/v1/procs/poisoned/ack", "").isProblem(http.StatusConflict, "invalid_ack")
		w.post("/v1/procs/poisoned/resume", "").is(http.StatusOK)
		w.claim("poisoned", "").hasSeqs("logs", 1, 1).has("claim.attempt", 1)
		w.post("/v1/procs/poisoned/reclaim", "").is(http.StatusOK)
		w.post("/v1/procs/poisoned/seek", `{"offset":"latest"}`).is(http.StatusOK).has("status", "disabled").has("reclaims", 0).has("lag", 0)
		w.post("/v1/procs/poisoned/resume", "").is(http.StatusOK)
		w.post("/v1/procs/poisoned/claim", "").isEmpty(http.StatusNoContent)
		w.commit("poisoned", 1)
		w.claim("poisoned", "").hasSeqs("logs", 3, 3)
	})
}
