package e2e

import (
	"net/http"
	"testing"
	"time"

	"pipeproc/api"
)

func TestWait(t *testing.T) {
	t.Parallel()
	s := start(t)

	t.Run("done", func(t *testing.T) {
		t.Parallel()
		w := wireTo(t, s)
		w.commit("d", 2)
		w.send(http.MethodPut, "/v1/procs/d1", `{"topic":"d","offset":"$>"}`).is(http.StatusCreated)
		w.send(http.MethodPut, "/v1/procs/d2", `{"topic":"d","offset":":9"}`).is(http.StatusCreated)
		w.send(http.MethodPut, "/v1/procs/d3", `{"topic":"reserved"}`).is(http.StatusCreated)
		for _, body := range []string{`{"procs":["d2","d1","d3"]}`, `{"procs":["d2","d1","d3"],"timeout":0}`, `{"procs":["d2","d1","d3"],"timeout":60000}`} {
			w.post("/v1/wait", body).is(http.StatusOK).hasExactly("", "done", "procs").hasExactly("procs.0", "name", "lag").has("done", true).
				has("procs.0.name", "d2").has("procs.0.lag", 0).has("procs.1.name", "d1").has("procs.1.lag", 0).has("procs.2.name", "d3")
		}
	})

	t.Run("over the timeout", func(t *testing.T) {
		t.Parallel()
		w := wireTo(t, s)
		w.commit("o", 3)
		w.send(http.MethodPut, "/v1/procs/o1", `{"topic":"o","offset":":0"}`).is(http.StatusCreated)
		w.claim("o2", `{"topic":"o","count":10,"reclaimTimeout":-1}`) // claimed logs count
		w.send(http.MethodPut, "/v1/procs/o3", `{"topic":"o","offset":"$>"}`).is(http.StatusCreated)
		w.post("/v1/wait", `{"procs":["o1","o2","o3"],"timeout":0}`).is(http.StatusOK).hasExactly("", "done", "procs").has("done", false).
			has("procs.0.name", "o1").has("procs.0.lag", 2).has("procs.1.name", "o2").has("procs.1.lag", 3).has("procs.2.lag", 0)
		begun := time.Now()
		w.post("/v1/wait", `{"procs":["o1"],"timeout":150}`).is(http.StatusOK).has("done", false)
		if d := time.Since(begun); d < 150*time.Millisecond {
			t.Errorf("a timeout of 150 ms took %s", d)
		}
	})

	t.Run("refusals", func(t *testing.T) {
		t.Parallel()
		w := wireTo(t, s)
		w.commit("r", 1)
		w.send(http.MethodPut, "/v1/procs/r", `{"topic":"r"}`).is(http.StatusCreated)
		w.send(http.MethodPut, "/v1/procs/r-disabled", `{"topic":"r","offset":"$>"}`).is(http.StatusCreated)
		w.post("/v1/procs/r-disabled/disable", "").is(http.StatusOK)
		w.post("/v1/wait", `{"procs":["unknown"]}`).isProblem(http.StatusNotFound, "invalid_proc")
		w.post("/v1/wait", `{"procs":["r","unknown"]}`).isProblem(http.StatusNotFound, "invalid_proc")
		w.post("/v1/wait", `{"procs":["r-disabled"],"timeout":0}`).isProblem(http.StatusConflict, "proc_is_disabled")
		w.post("/v1/wait", `{"procs":["r","r-disabled"]}`).isProblem(http.StatusConflict, "proc_is_disabled")
		for _, body := range []string{`{"procs":[]}`, `{"procs":"r"}`, `{"procs":[1]}`, `{"procs":[null]}`, `{"timeout":-1}`, `{"timeout":60001}`,
			`{"timeout":"1"}`, `{"timeout":1.5}`, `{"proc":["r"]}`, `{"procs":["r"],"procs":["r"]}`, `[]`, `null`, `{`} {
			w.post("/v1/wait", body).isProblem(http.StatusBadRequest, "invalid_request")
		}
		w.post("/v1/wait", `{"procs":["r!"]}`).isProblem(http.StatusBadRequest, "invalid_proc_format")
		w.get("/v1/wait").isProblem(http.StatusMethodNotAllowed, "method_not_allowed")
	})

	t.Run("ends early", func(t *testing.T) {
		t.Parallel()
		w := wireTo(t, s)
		w.commit("e", 1)
		for _, name := range []string{"e1", "e2", "e3"} {
			w.send(http.MethodPut, "/v1/procs/"+name, `{"topic":"e"}`).is(http.StatusCreated)
		}
		answer := w.background("/v1/wait", `{"procs":["e1"],"timeout":60000}`)
		w.post("/v1/procs/e1/disable", "").is(http.StatusOK)
		w.soon(answer).isProblem(http.StatusConflict, "proc_is_disabled")
		answer = w.background("/v1/wait", `{"procs":["e2"],"timeout":60000}`)
		w.send(http.MethodDelete, "/v1/procs/e2", "").is(http.StatusOK)
		w.soon(answer).isProblem(http.StatusNotFound, "invalid_proc")
		answer = w.background("/v1/wait", `{"procs":["e3"],"timeout":60000}`)
		w.post("/v1/procs/e3/seek", `{"offset":"$>"}`).is(http.StatusOK)
		w.soon(answer).is(http.StatusOK).has("done", true)
	})
}

// TestWaitForAll holds that without procs every active proc is meant, and that a wait is woken through any server.
func TestWaitForAll(t *testing.T) {
	t.Parallel()
	s := start(t)
	w, other := wireTo(t, s), wireTo(t, startOn(t, s.Database))
	w.post("/v1/wait", "").is(http.StatusOK).hasExactly("", "done", "procs").has("done", true).hasSeqs("procs", 0, -1)
	w.commit("a", 2)
	w.commit("b", 1)
	for name, topic := range map[string]string{"p": "a", "q": "b", "off": "a"} {
		w.send(http.MethodPut, "/v1/procs/"+name, `{"topic":"`+topic+`"}`).is(http.StatusCreated)
	}
	w.post("/v1/procs/off/disable", "").is(http.StatusOK)
	w.post("/v1/wait", `{"timeout":0}`).is(http.StatusOK).has("done", false).has("procs.0.name", "p").has("procs.0.lag", 2).
		has("procs.1.name", "q").has("procs.1.lag", 1)

	answers := []<-chan *wireAnswer{w.background("/v1/wait", ""), other.background("/v1/wait", `{"procs":["p","q"],"timeout":60000}`)}
	begun := time.Now()
	p := w.claim("p", "")
	other.ack("q", w.claim("q", ""))
	w.post("/v1/procs/p/ack", `{"claimNext":true,"token":"`+p.str("claim.token")+`"}`).is(http.StatusOK)
	for _, answer := range answers {
		select {
		case a := <-answer:
			t.Errorf("done too early: %s", a.Text)
		default:
		}
	}
	other.post("/v1/procs/p/ack", "").is(http.StatusOK)
	for _, answer := range answers {
		a := w.soon(answer).is(http.StatusOK).has("done", true).has("procs.0.name", "p").has("procs.0.lag", 0).has("procs.1.name", "q")
		if len(a.list("procs")) != 2 {
			t.Errorf("procs waited for: %s", a.Text)
		}
	}
	if d := time.Since(begun); d > 10*time.Second {
		t.Errorf("it took %s", d)
	}
}

// TestWaitUpTo holds what upTo waits for: a proc's position beyond the log, whatever its lag.
func TestWaitUpTo(t *testing.T) {
	t.Parallel()
	s := start(t)

	t.Run("done or not", func(t *testing.T) {
		t.Parallel()
		w := wireTo(t, s)
		ids := w.commit("d", 5)
		// d2 has acked two logs and claimed two more, d5 starts after all of them, d9 beyond the head.
		w.claim("d2", `{"topic":"d","count":2}`)
		w.post("/v1/procs/d2/ack", "").is(http.StatusOK)
		w.claim("d2", "")
		w.send(http.MethodPut, "/v1/procs/d5", `{"topic":"d","offset":"$>"}`).is(http.StatusCreated)
		w.send(http.MethodPut, "/v1/procs/d9", `{"topic":"d","offset":":8"}`).is(http.StatusCreated)
		for _, c := range []struct {
			body string
			done bool
		}{
			{`{"upTo":{"d2":"` + ids[0] + `"}}`, true},
			{`{"upTo":{"d2":"` + ids[1] + `"}}`, true},
			{`{"upTo":{"d2":"` + ids[2] + `"}}`, false}, // claimed
			{`{"upTo":{"d2":"` + ids[4] + `"}}`, false},
			{`{"upTo":{"d2":"0-1"}}`, true}, // the seq decides, the log need not exist
			{`{"upTo":{"d2":"9223372036854775807-1"}}`, true},
			{`{"upTo":{"d2":"0-2"}}`, false},
			{`{"upTo":{"d5":"` + ids[4] + `"}}`, true},
			{`{"upTo":{"d5":"0-5"}}`, false}, // not there yet, so not acked
			{`{"upTo":{"d9":"0-8"}}`, true},
			{`{"upTo":{"d9":"0-9223372036854775807"}}`, false},
			{`{"procs":["d2"],"upTo":{"d2":"` + ids[1] + `"}}`, true},
			{`{"procs":["d2","d5"],"upTo":{"d2":"` + ids[1] + `"}}`, true},
			{`{"procs":["d2","d5"],"upTo":{"d5":"` + ids[1] + `"}}`, false}, // d2 has a lag
			{`{"procs":["d5"],"upTo":{}}`, true},
			{`{"procs":["d2"],"upTo":null}`, false},
			{`{"procs":["d2"],"upTo":{"d2":null}}`, false},
			{`{"upTo":{"d2":"` + ids[1] + `","d5":"` + ids[4] + `"}}`, true},
			{`{"upTo":{"d2":"` + ids[2] + `","d5":"` + ids[4] + `"}}`, false},
		} {
			w.post("/v1/wait", `{"timeout":0,`+c.body[1:]).is(http.StatusOK).hasExactly("", "done", "procs").has("done", c.done)
		}
		// The lag is the proc's; the order that of procs, or by name.
		w.post("/v1/wait", `{"upTo":{"d5":"0-0","d2":"0-0"}}`).is(http.StatusOK).has("done", true).hasExactly("procs.0", "name", "lag").
			has("procs.0.name", "d2").has("procs.0.lag", 3).has("procs.1.name", "d5").has("procs.1.lag", 0)
		w.post("/v1/wait", `{"procs":["d5","d2"],"upTo":{"d2":"0-0"}}`).is(http.StatusOK).has("procs.0.name", "d5").has("procs.1.name", "d2")
	})

	t.Run("refusals", func(t *testing.T) {
		t.Parallel()
		w := wireTo(t, s)
		w.send(http.MethodPut, "/v1/procs/r", `{"topic":"r"}`).is(http.StatusCreated)
		w.send(http.MethodPut, "/v1/procs/r-disabled", `{"topic":"r"}`).is(http.StatusCreated)
		w.post("/v1/procs/r-disabled/disable", "").is(http.StatusOK)
		for _, body := range []string{`{"upTo":{}}`, `{"upTo":[]}`, `{"upTo":"0-0"}`, `{"upTo":{"r":5}}`, `{"upTo":{"r":{}}}`, `{"upTo":{"r":["0-0"]}}`,
			`{"upTo":{"r":"0-0","r":"0-0"}}`, `{"procs":["r"],"upTo":{"other":"0-0"}}`, `{"procs":[],"upTo":{"r":"0-0"}}`, `{"upto":{"r":"0-0"}}`} {
			w.post("/v1/wait", body).isProblem(http.StatusBadRequest, "invalid_request")
		}
		for _, id := range []string{"", "0", ":0", ">", "$>", "latest", "0-", "-0", "0-0-0", "0-0 ", "+0-0", "x-0", "9223372036854775808-0", "0-9223372036854775808"} {
			w.post("/v1/wait", `{"upTo":{"r":"`+id+`"}}`).isProblem(http.StatusBadRequest, "invalid_range_offset")
		}
		w.post("/v1/wait", `{"upTo":{"r!":"0-0"}}`).isProblem(http.StatusBadRequest, "invalid_proc_format")
		w.post("/v1/wait", `{"upTo":{"unknown":"0-0"}}`).isProblem(http.StatusNotFound, "invalid_proc")
		w.post("/v1/wait", `{"upTo":{"r-disabled":"0-0"}}`).isProblem(http.StatusConflict, "proc_is_disabled")
	})

	t.Run("at the very ack", func(t *testing.T) {
		t.Parallel()
		w, other := wireTo(t, s), wireTo(t, startOn(t, s.Database))
		ids := w.commit("a", 3)
		first := w.claim("a1", `{"topic":"a"}`)
		w.claim("a2", `{"topic":"a","count":3}`)
		body := `{"upTo":{"a1":"` + ids[1] + `","a2":"` + ids[2] + `"},"timeout":60000}`
		answers := []<-chan *wireAnswer{w.background("/v1/wait", body), other.background("/v1/wait", body)}
		begun := time.Now()
		w.post("/v1/procs/a2/ack", "").is(http.StatusOK)
		w.post("/v1/procs/a1/ack", `{"claimNext":true,"token":"`+first.str("claim.token")+`"}`).is(http.StatusOK)
		for _, answer := range answers {
			select {
			case a := <-answer:
				t.Errorf("done too early: %s", a.Text)
			default:
			}
		}
		w.post("/v1/procs/a1/ack", "").is(http.StatusOK)
		for _, answer := range answers {
			w.soon(answer).is(http.StatusOK).has("done", true).has("procs.0.name", "a1").has("procs.0.lag", 1).has("procs.1.lag", 0)
		}
		if d := time.Since(begun); d > 10*time.Second {
			t.Errorf("it took %s", d)
		}
	})

	t.Run("through the client", func(t *testing.T) {
		t.Parallel()
		w := wireTo(t, s)
		w.commit("c", 2)
		w.send(http.MethodPut, "/v1/procs/c", `{"topic":"c","offset":":0"}`).is(http.StatusCreated)
		for seq, done := range []bool{true, false} {
			waited, err := w.WaitForProcs(t.Context(), api.WaitRequest{UpTo: map[string]api.ID{"c": {Seq: int64(seq)}}, Timeout: new(int64(0))})
			if err != nil || waited.Done != done || len(waited.Procs) != 1 || waited.Procs[0].Lag != 1 {
				t.Errorf("up to %d: %+v %v", seq, waited, err)
			}
		}
	})
}
