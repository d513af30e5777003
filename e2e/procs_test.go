package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"pipeproc/cmd/server/service"
)

// procMembers are those of a proc on the wire.
var procMembers = []string{"name", "topic", "kind", "status", "offset", "count", "createdAt", "lastClaimedRange",
	"previousClaimedRange", "lastAckedRange", "lastClaimedAt", "lastAckedAt", "reclaims", "maxReclaims", "reclaimTimeout",
	"onMaxReclaimsReached", "lag", "claim"}

func TestProcShape(t *testing.T) {
	t.Parallel()
	w := wireTo(t, start(t))
	clock := w.stopClock()
	ids := w.commit("a", 5)

	created := w.send(http.MethodPut, "/v1/procs/p", `{"topic":"a"}`).is(http.StatusCreated).hasExactly("", procMembers...)
	for member, want := range map[string]any{"name": "p", "topic": "a", "kind": "proc", "status": "active", "offset": ">",
		"count": 1, "createdAt": clock.Now, "lastClaimedRange": "", "previousClaimedRange": "", "lastAckedRange": "",
		"lastClaimedAt": nil, "lastAckedAt": nil, "reclaims": 0, "maxReclaims": 10, "reclaimTimeout": 10_000,
		"onMaxReclaimsReached": "disable", "lag": 5, "claim": nil} {
		created.has(member, want)
	}
	w.proc("p").tellsAs(&wireAnswer{Status: http.StatusOK, JSON: created.JSON})

	clock.pass(1)
	claimed := w.claim("p", "").hasExactly("", "proc", "topic", "claim", "logs").
		hasExactly("claim", "token", "range", "attempt", "expiresAt").hasExactly("logs.0", "id", "body").
		has("proc", "p").has("topic", "a").has("claim.range", wireRange(ids[0])).has("claim.attempt", 1).
		has("claim.expiresAt", clock.Now+10_000).has("logs.0.id", ids[0])
	p := w.proc("p").hasExactly("", procMembers...).has("lastClaimedRange", wireRange(ids[0])).has("previousClaimedRange", "").
		has("lastAckedRange", "").has("lastClaimedAt", clock.Now).has("lastAckedAt", nil).has("lag", 5)
	if d := cmp.Diff(claimed.at("claim"), p.at("claim")); d != "" {
		t.Errorf("the claim of the proc (-answer +proc):\n%s", d)
	}

	clock.pass(1)
	w.ack("p", claimed).hasExactly("", "ackedLogId").has("ackedLogId", ids[0])
	w.proc("p").hasExactly("", procMembers...).has("lastAckedRange", wireRange(ids[0])).has("lastAckedAt", clock.Now).
		has("lastClaimedAt", clock.Now-1).has("lastClaimedRange", wireRange(ids[0])).has("previousClaimedRange", "").
		has("claim", nil).has("lag", 4)

	clock.pass(1)
	w.claim("p", `{"count":3}`).hasSeqs("logs", 1, 3)
	w.proc("p").has("lastClaimedRange", wireRange(ids[1:4]...)).has("previousClaimedRange", wireRange(ids[0])).has("lag", 4).
		has("count", 1)
	w.post("/v1/procs/p/reclaim", "").is(http.StatusOK).hasExactly("", "lastClaimedRange").has("lastClaimedRange", wireRange(ids[0]))
	w.proc("p").has("lastClaimedRange", wireRange(ids[0])).has("reclaims", 1).has("claim", nil).has("lag", 4)

	before := w.proc("p")
	w.send(http.MethodDelete, "/v1/procs/p", "").is(http.StatusOK).tellsAs(before)
	w.get("/v1/procs/p").isProblem(http.StatusNotFound, "invalid_proc")
	w.send(http.MethodDelete, "/v1/procs/p", "").isProblem(http.StatusNotFound, "invalid_proc")
}

func TestProcPut(t *testing.T) {
	t.Parallel()
	w := wireTo(t, start(t))
	w.commit("a", 2)
	put := func(name, body string) *wireAnswer {
		t.Helper()
		return w.send(http.MethodPut, "/v1/procs/"+name, body)
	}

	created := put("p", `{"topic":"a"}`).is(http.StatusCreated)
	for _, again := range []string{`{"topic":"a"}`, `{"topic":"a","offset":">"}`, `{"topic":"a","offset":"earliest"}`, `{"topic":"a","count":null}`,
		`{"topic":"a","count":1,"maxReclaims":10,"reclaimTimeout":10000,"onMaxReclaimsReached":"disable"}`, `{"topic":"a","maxReclaims":0}`} {
		put("p", again).tellsAs(&wireAnswer{Status: http.StatusOK, JSON: created.JSON})
	}
	for _, other := range []string{`{"topic":"b"}`, `{"topic":"a","offset":"$>"}`, `{"topic":"a","count":2}`, `{"topic":"a","maxReclaims":-1}`,
		`{"topic":"a","reclaimTimeout":-1}`, `{"topic":"a","onMaxReclaimsReached":"continue"}`} {
		put("p", other).isProblem(http.StatusConflict, "proc_options_differ")
	}
	w.proc("p").tellsAs(&wireAnswer{Status: http.StatusOK, JSON: created.JSON})
	w.get("/v1/topics/b").isProblem(http.StatusNotFound, "invalid_topic")

	put("all", `{"topic":"a","offset":"$>","count":7,"maxReclaims":-1,"reclaimTimeout":-1,"onMaxReclaimsReached":"continue"}`).is(http.StatusCreated).
		has("offset", "$>").has("count", 7).has("maxReclaims", -1).has("reclaimTimeout", -1).has("onMaxReclaimsReached", "continue").has("lag", 0)
	put("zero", `{"topic":"a","maxReclaims":0,"count":10000}`).is(http.StatusCreated).has("maxReclaims", 10).has("count", 10_000)

	for _, tt := range []struct {
		name, body, code string
	}{
		{"q", ``, "invalid_request"},
		{"q", `null`, "invalid_request"},
		{"q", `[]`, "invalid_request"},
		{"q", `{"topic":"a"`, "invalid_request"},
		{"q", `{"topic":"a","topic":"a"}`, "invalid_request"},
		{"q", `{"topic":"a","Count":1}`, "invalid_request"},
		{"q", `{"topic":"a","wait":1}`, "invalid_request"},
		{"q", `{"topic":"a","name":"q"}`, "invalid_request"},
		{"q", `{"topic":5}`, "invalid_request"},
		{"q", `{"topic":""}`, "invalid_topic_format"},
		{"q", `{"topic":"a b"}`, "invalid_topic_format"},
		{"q", `{"topic":"` + strings.Repeat("a", 129) + `"}`, "invalid_topic_format"},
		{"q", `{"topic":"a","count":0}`, "invalid_request"},
		{"q", `{"topic":"a","count":10001}`, "invalid_request"},
		{"q", `{"topic":"a","count":-1}`, "invalid_request"},
		{"q", `{"topic":"a","count":1.5}`, "invalid_request"},
		{"q", `{"topic":"a","count":"1"}`, "invalid_request"},
		{"q", `{"topic":"a","count":99999999999999999999}`, "invalid_request"},
		{"q", `{"topic":"a","maxReclaims":-2}`, "invalid_request"},
		{"q", `{"topic":"a","maxReclaims":true}`, "invalid_request"},
		{"q", `{"topic":"a","reclaimTimeout":-2}`, "invalid_request"},
		{"q", `{"topic":"a","reclaimTimeout":1e99}`, "invalid_request"},
		{"q", `{"topic":"a","onMaxReclaimsReached":"Disable"}`, "invalid_request"},
		{"q", `{"topic":"a","onMaxReclaimsReached":""}`, "invalid_request"},
		{"q", `{"topic":"a","offset":"x"}`, "invalid_range_offset"},
		{"a%20b", `{"topic":"a"}`, "invalid_proc_format"},
		{"%C3%A9", `{"topic":"a"}`, "invalid_proc_format"},
		{strings.Repeat("q", 129), `{"topic":"a"}`, "invalid_proc_format"},
	} {
		put(tt.name, tt.body).isProblem(http.StatusBadRequest, tt.code)
	}
	w.get("/v1/procs/q").isProblem(http.StatusNotFound, "invalid_proc")
	put(strings.Repeat("q", 128), `{"topic":"a"}`).is(http.StatusCreated)
}

func TestProcPatch(t *testing.T) {
	t.Parallel()
	w := wireTo(t, start(t))
	w.commit("a", 9)
	patch := func(name, body string) *wireAnswer {
		t.Helper()
		return w.send(http.MethodPatch, "/v1/procs/"+name, body)
	}

	claimed := w.claim("p", `{"topic":"a"}`)
	patch("p", `{"count":3,"maxReclaims":-1,"reclaimTimeout":99,"onMaxReclaimsReached":"continue"}`).is(http.StatusOK).hasExactly("", procMembers...).
		has("count", 3).has("maxReclaims", -1).has("reclaimTimeout", 99).has("onMaxReclaimsReached", "continue").
		has("claim.token", claimed.str("claim.token")).has("claim.expiresAt", claimed.num("claim.expiresAt"))
	patch("p", `{"maxReclaims":0,"reclaimTimeout":-1}`).is(http.StatusOK).has("count", 3).has("maxReclaims", 10).has("reclaimTimeout", -1).
		has("onMaxReclaimsReached", "continue")
	before := w.proc("p")
	patch("p", `{}`).tellsAs(before)
	patch("p", ``).tellsAs(before)
	patch("p", `{"count":null}`).tellsAs(before)
	for _, body := range []string{`{"topic":"a"}`, `{"offset":">"}`, `{"status":"disabled"}`, `{"count":0}`, `{"count":10001}`, `{"maxReclaims":-2}`,
		`{"reclaimTimeout":-2}`, `{"onMaxReclaimsReached":"stop"}`, `{"count":1,"count":2}`, `{"Count":1}`, `[]`, `null`, `{`} {
		patch("p", body).isProblem(http.StatusBadRequest, "invalid_request")
	}
	w.proc("p").tellsAs(before)
	patch("q", `{"count":1}`).isProblem(http.StatusNotFound, "invalid_proc")

	w.ack("p", claimed)
	w.claim("p", "").hasSeqs("logs", 1, 3).has("claim.expiresAt", nil)
}

func TestProcList(t *testing.T) {
	t.Parallel()
	w := wireTo(t, start(t, func(c *service.Config) { c.Workers = 0 }))
	w.get("/v1/procs").is(http.StatusOK).hasExactly("", "procs").hasSeqs("procs", 0, -1)
	w.commit("a", 3)
	w.commit("b", 1)
	for _, p := range []string{"e", "d", "c", "b", "a"} {
		topic := "a"
		if p == "d" {
			topic = "b"
		}
		w.send(http.MethodPut, "/v1/procs/"+p, `{"topic":"`+topic+`"}`).is(http.StatusCreated)
	}
	live := w.post("/v1/live-procs", `{"topic":"a","mode":"all"}`).is(http.StatusCreated).str("name")
	w.post("/v1/system-procs", `{"name":"s","from":"b","processor":"http://127.0.0.1:9/"}`).is(http.StatusCreated)

	names := func(query string) []string {
		t.Helper()
		a := w.get("/v1/procs" + query).is(http.StatusOK)
		list := []string{}
		for i := range a.list("procs") {
			list = append(list, a.str(fmt.Sprintf("procs.%d.name", i)))
		}
		return list
	}
	for query, want := range map[string][]string{
		"":                           {"a", "b", "c", "d", "e", live, "s"},
		"?topic=a":                   {"a", "b", "c", "e", live},
		"?topic=b":                   {"d", "s"},
		"?topic=none":                {},
		"?kind=proc":                 {"a", "b", "c", "d", "e"},
		"?kind=live":                 {live},
		"?kind=system":               {"s"},
		"?kind=system&topic=a":       {},
		"?limit=2":                   {"a", "b"},
		"?limit=2&after=b":           {"c", "d"},
		"?kind=proc&limit=2&after=d": {"e"},
		"?after=bb&limit=1":          {"c"},
		"?after=zzz":                 {},
		"?limit=1000":                {"a", "b", "c", "d", "e", live, "s"},
	} {
		if d := cmp.Diff(want, names(query)); d != "" {
			t.Errorf("%s (-want +got):\n%s", query, d)
		}
	}
	first := w.get("/v1/procs?kind=proc&limit=3").hasExactly("", "procs", "next").hasExactly("procs.0", procMembers...)
	w.get("/v1/procs?kind=proc&limit=3&after="+first.str("next")).hasExactly("", "procs").has("procs.0.name", "d").has("procs.1.name", "e")
	w.get("/v1/procs?kind=proc&limit=5").hasExactly("", "procs")
	w.proc("a").tellsAs(&wireAnswer{Status: 200, JSON: first.at("procs.0")})

	for query, code := range map[string]string{"?limit=0": "invalid_request", "?limit=-1": "invalid_request", "?limit=x": "invalid_request",
		"?limit=": "invalid_request", "?kind=live-proc": "invalid_request", "?kind=": "invalid_request", "?Topic=a": "invalid_request",
		"?topic=a&topic=b": "invalid_request", "?x=1": "invalid_request", "?topic=a%20b": "invalid_topic_format", "?topic=": "invalid_topic_format",
		"?after=a%20b": "invalid_proc_format"} {
		w.get("/v1/procs"+query).isProblem(http.StatusBadRequest, code)
	}
	w.get("/v1/procs/a?x=1").isProblem(http.StatusBadRequest, "invalid_request")
	w.get("/v1/procs/x%20y").isProblem(http.StatusBadRequest, "invalid_proc_format")
}

// TestProcManaged holds what users may do with the procs of systemProcs and liveProcs by the proc routes.
func TestProcManaged(t *testing.T) {
	t.Parallel()
	w := wireTo(t, start(t, func(c *service.Config) { c.Workers = 0 }))
	w.commit("a", 3)
	live := w.post("/v1/live-procs", `{"topic":"a","mode":"all"}`).is(http.StatusCreated).str("name")
	w.post("/v1/system-procs", `{"name":"s","from":"a","processor":"http://127.0.0.1:9/"}`).is(http.StatusCreated)
	for name, kind := range map[string]string{live: "live", "s": "system"} {
		at := "/v1/procs/" + name
		w.proc(name).hasExactly("", procMembers...).has("kind", kind).has("lag", 3).has("claim", nil)
		w.post(at+"/claim", "").isProblem(http.StatusConflict, "proc_is_managed")
		w.post(at+"/claim", `{"topic":"other"}`).isProblem(http.StatusConflict, "proc_is_managed")
		w.post(at+"/claim", `{"count":0}`).isProblem(http.StatusBadRequest, "invalid_request")
		w.post(at+"/claim", `{"wait":100}`).isProblem(http.StatusConflict, "proc_is_managed")
		w.post("/v1/claims", `{"procs":[{"name":"`+name+`"}]}`).isProblem(http.StatusConflict, "proc_is_managed")
		w.send(http.MethodPut, at, `{"topic":"a"}`).isProblem(http.StatusConflict, "proc_is_managed")
		w.send(http.MethodDelete, at, "").isProblem(http.StatusConflict, "proc_is_managed")
		w.post(at+"/disable", "").is(http.StatusOK).has("status", "disabled")
		w.post(at+"/claim", "").isProblem(http.StatusConflict, "proc_is_managed")
		w.post(at+"/disable", "").isProblem(http.StatusConflict, "proc_already_disabled")
		w.post(at+"/resume", "").is(http.StatusOK).has("status", "active")
		w.post(at+"/seek", `{"offset":":1"}`).is(http.StatusOK).has("lag", 1)
		w.send(http.MethodPatch, at, `{"count":2}`).is(http.StatusOK).has("count", 2)
		w.post(at+"/ack", `{"token":"x"}`).isProblem(http.StatusConflict, "claim_lost")
		w.post(at+"/reclaim", `{"token":"x"}`).isProblem(http.StatusConflict, "claim_lost")
	}
	for _, route := range []string{"ack", "reclaim"} {
		w.post("/v1/procs/s/"+route, "").isProblem(http.StatusConflict, "proc_is_managed")
	}
	w.post("/v1/procs/s/ack-commit", `{"logs":{"topic":"b","body":{}}}`).isProblem(http.StatusConflict, "proc_is_managed")
	w.post("/v1/procs/"+live+"/ack", "").isProblem(http.StatusConflict, "invalid_ack")
	w.post("/v1/procs/"+live+"/reclaim", "").isProblem(http.StatusConflict, "nothing_to_reclaim")
}

// TestProcRoutes holds what all routes of procs have in common.
func TestProcRoutes(t *testing.T) {
	t.Parallel()
	w := wireTo(t, start(t))
	w.commit("a", 3)
	w.claim("p", `{"topic":"a"}`)

	for route, body := range map[string]string{"claim": "", "ack": "", "ack-commit": `{"logs":{"topic":"b","body":{}}}`, "reclaim": "",
		"extend": `{"token":"x"}`, "seek": `{"offset":">"}`, "disable": "", "resume": ""} {
		w.post("/v1/procs/unknown/"+route, body).isProblem(http.StatusNotFound, "invalid_proc")
		w.post("/v1/procs/bad%21/"+route, body).isProblem(http.StatusBadRequest, "invalid_proc_format")
		w.post("/v1/procs/p/"+route+"?x=1", body).isProblem(http.StatusBadRequest, "invalid_request")
		a := w.get("/v1/procs/p/"+route).isProblem(http.StatusMethodNotAllowed, "method_not_allowed")
		if allow := a.Header.Get("Allow"); allow != "POST" {
			t.Errorf("%s: Allow: %q", route, allow)
		}
	}
	if allow := w.post("/v1/procs/p", "{}").isProblem(http.StatusMethodNotAllowed, "method_not_allowed").Header.Get("Allow"); !strings.Contains(allow, "GET") ||
		!strings.Contains(allow, "HEAD") || !strings.Contains(allow, "PUT") || !strings.Contains(allow, "PATCH") || !strings.Contains(allow, "DELETE") {
		t.Errorf("Allow: %q", allow)
	}
	w.post("/v1/procs/p/unknown", "{}").isProblem(http.StatusNotFound, "not_found")

	// Bodies, beyond what the members' own tests say.
	for route, required := range map[string]bool{"claim": false, "ack": false, "ack-commit": true, "reclaim": false, "extend": true, "seek": true,
		"disable": false, "resume": false} {
		for _, body := range []string{`{"x":1}`, `[]`, `null`, `"x"`, `{`, `{} {}`, `{"":1}`, "\xff"} {
			w.post("/v1/procs/p/"+route, body).isProblem(http.StatusBadRequest, "invalid_request")
		}
		if required {
			w.post("/v1/procs/p/"+route, "").isProblem(http.StatusBadRequest, "invalid_request")
			w.post("/v1/procs/p/"+route, "{}").isProblem(http.StatusBadRequest, "invalid_request")
		}
		resp, err := w.Do(t.Context(), http.MethodPost, "/v1/procs/p/"+route, strings.NewReader("{}"), http.Header{"Content-Type": {"text/plain"}})
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusUnsupportedMediaType {
			t.Errorf("%s: %s for text/plain", route, resp.Status)
		}
	}
	w.proc("p").has("status", "active").has("lag", 3).has("reclaims", 0)

	// HEAD, and no caches.
	for _, path := range []string{"/v1/procs", "/v1/procs/p", "/v1/gc"} {
		if a := w.send(http.MethodHead, path, "").isEmpty(http.StatusOK); a.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("HEAD %s: Cache-Control: %q", path, a.Header.Get("Cache-Control"))
		}
	}
	w.send(http.MethodHead, "/v1/procs/unknown", "").isEmpty(http.StatusNotFound)
	for _, a := range []*wireAnswer{w.proc("p"), w.post("/v1/procs/p/claim", ""), w.post("/v1/procs/q/claim", `{"topic":"none"}`)} {
		if a.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %d: Cache-Control: %q", a.what, a.Status, a.Header.Get("Cache-Control"))
		}
	}
}
