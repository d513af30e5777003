package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

func TestAck(t *testing.T) {
	t.Parallel()
	s := start(t)

	t.Run("with and without a token", func(t *testing.T) {
		t.Parallel()
		w := wireTo(t, s)
		ids := w.commit("plain", 5)
		w.claim("plain", `{"topic":"plain"}`)
		w.post("/v1/procs/plain/ack", "").is(http.StatusOK).hasExactly("", "ackedLogId").has("ackedLogId", ids[0])
		claimed := w.claim("plain", `{"count":2}`)
		w.post("/v1/procs/plain/ack", `{"token":"`+claimed.str("claim.token")+`","claimNext":false}`).is(http.StatusOK).
			hasExactly("", "ackedLogId").has("ackedLogId", wireRange(ids[1:3]...))
		w.claim("plain", "")
		w.post("/v1/procs/plain/ack", `{"token":null}`).is(http.StatusOK).has("ackedLogId", ids[3])
		w.proc("plain").has("lastAckedRange", wireRange(ids[3])).has("lag", 1)
	})

	t.Run("claimNext", func(t *testing.T) {
		t.Parallel()
		w := wireTo(t, s)
		ids := w.commit("next", 4)
		a := w.claim("next", `{"topic":"next"}`)
		for _, body := range []string{`{"claimNext":true}`, `{"claimNext":true,"token":null}`, `{"claimNext":true,"token":""}`,
			`{"claimNext":"true","token":"x"}`, `{"token":5}`, `{"count":0}`, `{"count":10001}`, `{"count":"1"}`, `{"Token":"x"}`, `{"logs":[]}`} {
			w.post("/v1/procs/next/ack", body).isProblem(http.StatusBadRequest, "invalid_request")
		}
		a = w.post("/v1/procs/next/ack", `{"token":"`+a.str("claim.token")+`","claimNext":true,"count":2}`).is(http.StatusOK).
			hasExactly("", "ackedLogId", "next").hasExactly("next", "claim", "logs").hasExactly("next.logs.0", "id", "body").
			hasExactly("next.claim", "token", "range", "attempt", "expiresAt").has("ackedLogId", ids[0]).
			has("next.claim.range", wireRange(ids[1:3]...)).has("next.claim.attempt", 1).hasSeqs("next.logs", 1, 2)
		w.proc("next").has("claim.token", a.str("next.claim.token")).has("claim.expiresAt", a.num("next.claim.expiresAt"))
		a = w.post("/v1/procs/next/ack", `{"token":"`+a.str("next.claim.token")+`","claimNext":true}`).is(http.StatusOK).hasSeqs("next.logs", 3, 3)
		w.post("/v1/procs/next/ack", `{"token":"`+a.str("next.claim.token")+`","claimNext":true}`).is(http.StatusOK).
			hasExactly("", "ackedLogId", "next").has("ackedLogId", ids[3]).has("next", nil)
		w.proc("next").has("claim", nil).has("lag", 0)
	})

	t.Run("claimNext of a disabled proc", func(t *testing.T) {
		t.Parallel()
		w := wireTo(t, s)
		w.commit("stopped", 3)
		a := w.claim("stopped", `{"topic":"stopped"}`)
		w.post("/v1/procs/stopped/disable", "").is(http.StatusOK)
		body := `{"token":"` + a.str("claim.token") + `","claimNext":true}`
		first := w.post("/v1/procs/stopped/ack", body).is(http.StatusOK).hasExactly("", "ackedLogId", "next").has("next", nil)
		w.post("/v1/procs/stopped/ack", body).tellsAs(first)
		w.proc("stopped").has("status", "disabled").has("lag", 2).has("claim", nil)
	})

	t.Run("nothing claimed", func(t *testing.T) {
		t.Parallel()
		w := wireTo(t, s)
		w.commit("unclaimed", 1)
		w.send(http.MethodPut, "/v1/procs/unclaimed", `{"topic":"unclaimed"}`).is(http.StatusCreated)
		for range 2 {
			w.post("/v1/procs/unclaimed/ack", "").isProblem(http.StatusConflict, "invalid_ack")
			w.post("/v1/procs/unclaimed/ack-commit", `{"logs":{"topic":"unclaimed","body":{}}}`).isProblem(http.StatusConflict, "invalid_ack")
			w.post("/v1/procs/unclaimed/reclaim", "").isProblem(http.StatusConflict, "nothing_to_reclaim")
			w.post("/v1/procs/unclaimed/disable", "").is(http.StatusOK)
			w.post("/v1/procs/unclaimed/ack", "").isProblem(http.StatusConflict, "invalid_ack")
			w.post("/v1/procs/unclaimed/resume", "").is(http.StatusOK)
			w.ack("unclaimed", w.claim("unclaimed", "")) // and again after an ack
			w.post("/v1/procs/unclaimed/seek", `{"offset":">"}`).is(http.StatusOK)
		}
		w.get("/v1/topics/unclaimed").has("committed", 1)
	})

	t.Run("a token that is not the live claim's", func(t *testing.T) {
		t.Parallel()
		w := wireTo(t, s)
		w.commit("lost", 6)
		w.send(http.MethodPut, "/v1/procs/lost", `{"topic":"lost"}`).is(http.StatusCreated)
		refused := func(token string) {
			t.Helper()
			before := w.proc("lost")
			for route, body := range map[string]string{"ack": `{"token":%q}`, "reclaim": `{"token":%q}`, "extend": `{"token":%q}`,
				"ack-commit": `{"token":%q,"logs":{"topic":"lost-out","body":{}}}`} {
				w.post("/v1/procs/lost/"+route, fmt.Sprintf(body, token)).isProblem(http.StatusConflict, "claim_lost")
			}
			w.post("/v1/procs/lost/ack", fmt.Sprintf(`{"token":%q,"claimNext":true}`, token)).isProblem(http.StatusConflict, "claim_lost")
			w.proc("lost").tellsAs(before)
			w.get("/v1/topics/lost-out").isProblem(http.StatusNotFound, "invalid_topic")
		}
		refused("x") // nothing is claimed
		first := w.claim("lost", "").str("claim.token")
		refused("x")
		refused(strings.ToUpper(first) + "x")
		w.post("/v1/procs/lost/reclaim", "").is(http.StatusOK)
		refused(first)
		second := w.claim("lost", "").str("claim.token")
		refused(first)
		w.post("/v1/procs/lost/ack", "").is(http.StatusOK)
		third := w.claim("lost", "").str("claim.token")
		refused(first)
		w.post("/v1/procs/lost/ack", `{"token":"`+third+`"}`).is(http.StatusOK)
		refused(second) // acked, but not the last applied ack
		for _, token := range []string{second, third} {
			w.post("/v1/procs/lost/extend", `{"token":"`+token+`"}`).isProblem(http.StatusConflict, "claim_lost")
			w.post("/v1/procs/lost/reclaim", `{"token":"`+token+`"}`).isProblem(http.StatusConflict, "claim_lost")
		}

		// Nor by a proc destroyed and made again.
		fourth := w.claim("lost", "").str("claim.token")
		w.send(http.MethodDelete, "/v1/procs/lost", "").is(http.StatusOK)
		fifth := w.claim("lost", `{"topic":"lost"}`).str("claim.token")
		for _, token := range []string{first, second, third, fourth} {
			refused(token)
		}
		if seen := map[string]bool{first: true, second: true, third: true, fourth: true, fifth: true}; len(seen) != 5 {
			t.Errorf("a token was used twice: %v", seen)
		}
	})
}

func TestAckCommit(t *testing.T) {
	t.Parallel()
	s := start(t)

	t.Run("answers", func(t *testing.T) {
		t.Parallel()
		w := wireTo(t, s)
		ids := w.commit("in", 5)
		a := w.claim("in", `{"topic":"in"}`)
		a = w.post("/v1/procs/in/ack-commit", `{"token":"`+a.str("claim.token")+`","logs":{"topic":"out1","body":{"a": 1e2}},"claimNext":true}`).
			is(http.StatusOK).hasExactly("", "ackedLogId", "id", "next").has("ackedLogId", ids[0]).hasSeqs("next.logs", 1, 1)
		w.get("/v1/topics/out1/logs").has("logs.0.id", a.str("id"))
		w.get("/v1/topics/out1/logs/:0").has("id", a.str("id"))
		if text := w.get("/v1/topics/out1/logs/:0").Text; !strings.Contains(text, `{"a":1e2}`) {
			t.Errorf("the body came back as %s", text)
		}
		b := w.post("/v1/procs/in/ack-commit", `{"logs":[{"topic":"out1","body":[]},{"topic":"out2","body":{}},{"topic":"out1","body":{}}]}`).
			is(http.StatusOK).hasExactly("", "ackedLogId", "ids").has("ackedLogId", ids[1])
		if got := b.strs("ids"); len(got) != 3 || !strings.HasSuffix(got[0], "-1") || !strings.HasSuffix(got[1], "-0") || !strings.HasSuffix(got[2], "-2") {
			t.Errorf("ids %v", got)
		}
		w.claim("in", `{"count":2}`)
		w.post("/v1/procs/in/ack-commit", `{"logs":[{"topic":"out3","body":[]}]}`).is(http.StatusOK).hasExactly("", "ackedLogId", "ids").
			has("ackedLogId", wireRange(ids[2:4]...))
	})

	t.Run("next sees its own output", func(t *testing.T) {
		t.Parallel()
		w := wireTo(t, s)
		w.commit("loop", 1)
		a := w.claim("loop", `{"topic":"loop"}`)
		a = w.post("/v1/procs/loop/ack-commit", `{"token":"`+a.str("claim.token")+`","claimNext":true,"logs":{"topic":"loop","body":{}}}`).is(http.StatusOK).
			hasSeqs("next.logs", 1, 1)
		a.has("next.logs.0.id", a.str("id"))
	})

	t.Run("bad logs change nothing", func(t *testing.T) {
		t.Parallel()
		w := wireTo(t, s)
		w.commit("strict", 2)
		a := w.claim("strict", `{"topic":"strict"}`)
		before := w.proc("strict")
		for logs, code := range map[string]string{
			`[]`:                               "invalid_request",
			`null`:                             "invalid_request",
			`{}`:                               "invalid_topic_format",
			`"x"`:                              "invalid_request",
			`[null]`:                           "invalid_request",
			`[[]]`:                             "invalid_request",
			`{"topic":"o"}`:                    "invalid_log_format",
			`{"topic":"o","body":null}`:        "invalid_log_format",
			`{"topic":"o","body":5}`:           "invalid_log_format",
			`{"topic":"o","body":"x"}`:         "invalid_log_format",
			`{"topic":"o!","body":{}}`:         "invalid_topic_format",
			`{"body":{}}`:                      "invalid_topic_format",
			`{"topic":"o","body":{},"x":1}`:    "invalid_request",
			`{"topic":"o","body":{},"body":1}`: "invalid_request",
			`[{"topic":"o","body":{}},{"topic":"o","body":true}]`: "invalid_log_format",
		} {
			w.post("/v1/procs/strict/ack-commit", `{"token":"`+a.str("claim.token")+`","logs":`+logs+`}`).isProblem(http.StatusBadRequest, code)
		}
		w.post("/v1/procs/strict/ack-commit", `{"logs":[`+strings.Repeat(`{"topic":"o","body":{}},`, 10_000)+`{"topic":"o","body":{}}]}`).
			isProblem(http.StatusRequestEntityTooLarge, "too_large")
		w.proc("strict").tellsAs(before)
		w.get("/v1/topics/o").isProblem(http.StatusNotFound, "invalid_topic")
		w.ack("strict", a)
	})
}

// TestAckRepeat holds that an ack with the token of the last applied one answers the same again and changes nothing.
func TestAckRepeat(t *testing.T) {
	t.Parallel()
	s := start(t)
	other := startOn(t, s.Database)
	// The bodies of repeats: whatever they carry.
	carry := func(token string) map[string]string {
		return map[string]string{
			"ack":         `{"token":"` + token + `"}`,
			"ack ":        `{"token":"` + token + `","claimNext":true,"count":2}`,
			"ack-commit":  `{"token":"` + token + `","logs":{"topic":"repeated","body":{"again":1}}}`,
			"ack-commit ": `{"token":"` + token + `","claimNext":true,"logs":[{"topic":"repeated","body":{}},{"topic":"repeated2","body":{}}]}`,
		}
	}

	for name, tt := range map[string]struct {
		route, body string
		members     []string
	}{
		"ack":                 {"ack", ``, []string{"ackedLogId"}},
		"ack-next":            {"ack", `,"claimNext":true,"count":2`, []string{"ackedLogId", "next"}},
		"ack-commit-one":      {"ack-commit", `,"logs":{"topic":"out","body":{}}`, []string{"ackedLogId", "id"}},
		"ack-commit-list":     {"ack-commit", `,"logs":[{"topic":"out","body":{}}]`, []string{"ackedLogId", "ids"}},
		"ack-commit-one-next": {"ack-commit", `,"claimNext":true,"logs":{"topic":"out","body":{}}`, []string{"ackedLogId", "id", "next"}},
		"ack-commit-two-next": {"ack-commit", `,"claimNext":true,"logs":[{"topic":"out","body":{}},{"topic":"out2","body":{}}]`,
			[]string{"ackedLogId", "ids", "next"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, o := wireTo(t, s), wireTo(t, other)
			w.commit(name, 6)
			token := w.claim(name, `{"topic":"`+name+`","count":2,"reclaimTimeout":-1}`).str("claim.token")
			first := w.post("/v1/procs/"+name+"/"+tt.route, `{"token":"`+token+`"`+tt.body+`}`).is(http.StatusOK).hasExactly("", tt.members...)
			before := w.proc(name)
			repeat := func(want *wireAnswer) {
				t.Helper()
				for route, body := range carry(token) {
					path := "/v1/procs/" + name + "/" + strings.TrimSpace(route)
					w.post(path, body).tellsAs(want)
					o.post(path, body).tellsAs(want)
				}
			}
			repeat(first)
			w.proc(name).tellsAs(before)

			// Without next, or with one that no longer lives.
			later := first
			_, next := first.JSON.(map[string]any)["next"]
			if next {
				second := first.str("next.claim.token")
				w.post("/v1/procs/"+name+"/disable", "").is(http.StatusOK)
				later = w.post("/v1/procs/"+name+"/ack", `{"token":"`+token+`"}`).is(http.StatusOK).hasExactly("", tt.members...).has("next", nil)
				repeat(later)
				w.post("/v1/procs/"+name+"/resume", "").is(http.StatusOK)
				repeat(first) // it lives again
				w.post("/v1/procs/"+name+"/reclaim", `{"token":"`+second+`"}`).is(http.StatusOK)
				repeat(later)
				w.claim(name, "").has("claim.range", first.str("next.claim.range")) // the same logs, another claim
				repeat(later)
			} else {
				w.claim(name, "").hasSeqs("logs", 2, 3)
				repeat(first)
			}
			w.post("/v1/procs/"+name+"/disable", "").is(http.StatusOK)
			repeat(later)
			w.post("/v1/procs/"+name+"/seek", `{"offset":">"}`).is(http.StatusOK)
			repeat(later)
			w.post("/v1/procs/"+name+"/resume", "").is(http.StatusOK)
			w.claim(name, "").hasSeqs("logs", 0, 1)
			repeat(later)
			w.post("/v1/procs/"+name+"/ack", "").is(http.StatusOK)
			w.post("/v1/procs/"+name+"/ack", `{"token":"`+token+`"}`).isProblem(http.StatusConflict, "claim_lost")

			w.get("/v1/topics/repeated").isProblem(http.StatusNotFound, "invalid_topic")
			w.get("/v1/topics/repeated2").isProblem(http.StatusNotFound, "invalid_topic")
		})
	}

	t.Run("without a token there is no repeat", func(t *testing.T) {
		t.Parallel()
		w := wireTo(t, s)
		w.commit("untold", 3)
		token := w.claim("untold", `{"topic":"untold"}`).str("claim.token")
		acked := w.post("/v1/procs/untold/ack", "").is(http.StatusOK)
		w.post("/v1/procs/untold/ack", "").isProblem(http.StatusConflict, "invalid_ack")
		w.post("/v1/procs/untold/ack", `{"token":"`+token+`"}`).tellsAs(acked) // the token was that claim's
	})

	t.Run("at once", func(t *testing.T) {
		t.Parallel()
		w, o := wireTo(t, s), wireTo(t, other)
		w.commit("once", 1)
		body := `{"token":"` + w.claim("once", `{"topic":"once"}`).str("claim.token") + `","claimNext":true,"logs":[{"topic":"once","body":{}},{"topic":"once-out","body":{}}]}`
		answers := make([]*wireAnswer, 10)
		atOnce(len(answers), func(i int) {
			to := w
			if i%2 == 1 {
				to = o
			}
			if a, err := to.try(t.Context(), http.MethodPost, "/v1/procs/once/ack-commit", body); err == nil {
				answers[i] = a
			}
		})
		for _, a := range answers {
			a.is(http.StatusOK).hasSeqs("next.logs", 1, 1).tellsAs(answers[0])
		}
		w.get("/v1/topics/once").has("committed", 2)
		w.get("/v1/topics/once-out").has("committed", 1)
	})
}
