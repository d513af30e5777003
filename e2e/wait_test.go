package e2e

import (
	"net/http"
	"testing"
	"time"
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
