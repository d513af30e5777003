package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"

	"pipeproc/cmd/server/service"
)

// sendWith sends one request with exactly these headers, pairs of name and value; body "" is none.
func (w procWire) sendWith(method, path, body string, header ...string) *wireAnswer {
	w.t.Helper()
	var r io.Reader
	if body != "" {
		r = strings.NewReader(body)
	}
	return w.sendBody(method, path, r, header...)
}

// sendBody is sendWith of whatever body; one that is no strings.Reader goes without Content-Length.
func (w procWire) sendBody(method, path string, body io.Reader, header ...string) *wireAnswer {
	w.t.Helper()
	h := http.Header{}
	for i := 0; i < len(header); i += 2 {
		h.Add(header[i], header[i+1])
	}
	resp, err := w.Do(w.t.Context(), method, path, body, h)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	a := &wireAnswer{t: w.t, what: fmt.Sprintf("%s %s %q", method, path, header), Status: resp.StatusCode, Header: resp.Header,
		Text: string(data)}
	if strings.Contains(resp.Header.Get("Content-Type"), "json") && len(data) > 0 {
		d := json.NewDecoder(bytes.NewReader(data))
		d.UseNumber()
		if err := d.Decode(&a.JSON); err != nil {
			w.t.Fatalf("%s: %v", a.what, err)
		}
	}
	return a
}

// surface is every route, with a path that exists once newSurface has filled it.
var surface = map[string]string{ // the path: its methods, as Allow tells them
	"/v1/commit":                       "POST",
	"/v1/topics":                       "GET, HEAD",
	"/v1/topics/t":                     "GET, HEAD, DELETE",
	"/v1/topics/t/logs":                "GET, HEAD, POST",
	"/v1/topics/t/logs/:0":             "GET, HEAD",
	"/v1/topics/t/live":                "GET, HEAD",
	"/v1/claims":                       "POST",
	"/v1/procs":                        "GET, HEAD",
	"/v1/procs/p":                      "GET, HEAD, PUT, PATCH, DELETE",
	"/v1/procs/p/claim":                "POST",
	"/v1/procs/p/ack":                  "POST",
	"/v1/procs/p/ack-commit":           "POST",
	"/v1/procs/p/reclaim":              "POST",
	"/v1/procs/p/extend":               "POST",
	"/v1/procs/p/seek":                 "POST",
	"/v1/procs/p/disable":              "POST",
	"/v1/procs/p/resume":               "POST",
	"/v1/system-procs":                 "GET, HEAD, POST",
	"/v1/system-procs/s":               "GET, HEAD, PATCH, DELETE",
	"/v1/system-procs/s/rotate-secret": "POST",
	"/v1/live-procs":                   "POST",
	"/v1/live-procs/live":              "DELETE",
	"/v1/live-procs/live/cancel":       "POST",
	"/v1/live-procs/live/changes":      "GET, HEAD",
	"/v1/tail":                         "GET, HEAD",
	"/v1/wait":                         "POST",
	"/v1/gc":                           "GET, HEAD, POST",
	"/healthz":                         "GET, HEAD",
	"/readyz":                          "GET, HEAD",
	"/metrics":                         "GET, HEAD",
	"/openapi.yaml":                    "GET, HEAD",
}

// newSurface is a server that has what the paths of surface name, and the name of its liveProc.
func newSurface(t *testing.T) (w procWire, live string) {
	t.Helper()
	w = wireTo(t, start(t, func(c *service.Config) { c.Workers = 0 }))
	w.commit("t", 2)
	w.send("PUT", "/v1/procs/p", `{"topic":"t"}`).is(201)
	w.post("/v1/system-procs", `{"name":"s","from":"t","processor":"http://127.0.0.1:1/"}`).is(201)
	return w, w.post("/v1/live-procs", `{"topic":"t","mode":"all"}`).is(201).str("name")
}

func TestUnknownRoutesAndMethods(t *testing.T) {
	t.Parallel()
	w, _ := newSurface(t)
	for _, path := range []string{"/", "/v1", "/v1/", "/v2/topics", "/topics", "/v1/topics/", "/v1/topics/t/", "/v1/topics/t/logs/", "/v1/topics/t/nope",
		"/v1/topics/t/logs/:0/x", "/v1//topics", "/V1/topics", "/v1/Topics", "/v1/commit/", "/v1/procs/p/nope", "/v1/procs/p/ack/x",
		"/v1/procs/p/ackCommit", "/v1/live-procs/x/nope", "/healthz/", "/openapi.json", "/favicon.ico",
		"/v1/topics/../topics", "/v1/topics%2Ft", "/v1/topics/b.d/nope"} {
		for _, query := range []string{"", "?x=1", "?x=1&x=1", "?%zz"} {
			for _, method := range []string{"GET", "POST", "DELETE", "OPTIONS", "PROPFIND"} {
				a := w.send(method, path+query, "").isProblem(404, "not_found")
				if a.Header.Get("Allow") != "" {
					t.Errorf("%s: a 404 with Allow", a.what)
				}
			}
		}
	}
	for path, allow := range surface {
		for _, query := range []string{"", "?x=1"} {
			for _, method := range []string{"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PURGE", "get"} {
				if !slices.Contains(strings.Split(allow, ", "), method) {
					a := w.send(method, path+query, `{`).isProblem(405, "method_not_allowed")
					if got := a.Header.Get("Allow"); got != allow {
						t.Errorf("%s: Allow is %q, want %q", a.what, got, allow)
					}
				}
			}
			if !strings.Contains(allow, "GET") {
				if a := w.send("HEAD", path+query, ""); a.Status != 405 || a.Header.Get("Allow") != allow || a.Text != "" {
					t.Errorf("%s: %d, Allow %q, %q", a.what, a.Status, a.Header.Get("Allow"), a.Text)
				}
			}
		}
	}
	w.get("/v1/topics/t").is(200).has("length", 2) // TRACE, PURGE and so on did nothing
}

func TestProblemShape(t *testing.T) {
	t.Parallel()
	w := wireTo(t, start(t))
	w.commit("t", 1)
	w.claim("p", `{"topic":"t","reclaimTimeout":-1}`)
	for _, test := range []struct {
		a          *wireAnswer
		status     int
		code       string
		extensions []string
	}{
		{w.get("/nope"), 404, "not_found", nil},
		{w.get("/v1/topics/nope"), 404, "invalid_topic", nil},
		{w.post("/v1/commit", "{"), 400, "invalid_request", nil},
		{w.post("/v1/procs/p/claim", ""), 409, "already_claimed", []string{"expiresAt"}},
	} {
		a := test.a.isProblem(test.status, test.code, test.extensions...)
		if a.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: Cache-Control is %q", a.what, a.Header.Get("Cache-Control"))
		}
		if u, err := url.Parse(a.str("type")); err != nil || !u.IsAbs() || !strings.HasSuffix(a.str("type"), test.code) {
			t.Errorf("%s: type is %q", a.what, a.str("type"))
		}
		if d := a.str("detail"); d != strings.ToLower(d[:1])+d[1:] || strings.Contains(d, "failed to") {
			t.Errorf("%s: detail is %q", a.what, d)
		}
	}
	w.post("/v1/procs/p/claim", "").has("expiresAt", nil)
}

// HEAD works where GET does, and does no more.
func TestHead(t *testing.T) {
	t.Parallel()
	w, live := newSurface(t)
	before := w.get("/v1/procs").is(200)
	paths := []string{"/v1/topics/unknown", "/v1/topics/b.d", "/v1/topics/t/logs?limit=0", "/v1/topics/t/logs?start=:9", "/v1/topics/t/logs/:9", "/v1/procs/x",
		"/nope", "/v1/topics?x=1", "/v1/topics?limit=1"}
	for path, allow := range surface {
		if strings.HasPrefix(allow, "GET") && path != "/v1/tail" && path != "/metrics" && !strings.HasSuffix(path, "/live") && !strings.HasSuffix(path, "/changes") {
			paths = append(paths, path)
		}
	}
	for _, path := range paths {
		get, head := w.get(path), w.send("HEAD", path, "")
		if head.Status != get.Status || head.Text != "" {
			t.Errorf("HEAD %s: %d %q, GET %d", path, head.Status, head.Text, get.Status)
		}
		for _, name := range []string{"Content-Type", "Content-Length", "Cache-Control"} {
			if got, want := head.Header.Get(name), get.Header.Get(name); got != want || want == "" {
				t.Errorf("HEAD %s: %s is %q, of GET %q", path, name, got, want)
			}
		}
	}
	for _, path := range []string{"/v1/tail?topic=t", "/v1/topics/t/live?mode=all", "/v1/live-procs/" + live + "/changes"} {
		head := w.send("HEAD", path, "").isEmpty(200)
		for name, want := range map[string]string{"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"} {
			if got := head.Header.Get(name); got != want {
				t.Errorf("HEAD %s: %s is %q", path, name, got)
			}
		}
	}
	w.send("HEAD", "/metrics", "").isEmpty(200)
	w.get("/v1/procs").tellsAs(before) // no liveProc was made, nothing was claimed
}

// Answers carry Cache-Control: no-store, whatever they are.
func TestNoAnswerIsStored(t *testing.T) {
	t.Parallel()
	w, live := newSurface(t)
	held := w.claim("p", "")
	for _, a := range []*wireAnswer{
		w.post("/v1/commit", `{"topic":"t","body":{}}`).is(201), w.post("/v1/topics/t/logs", `{}`).is(201),
		w.get("/v1/topics").is(200), w.get("/v1/topics/t").is(200), w.get("/v1/topics/t/logs").is(200), w.get("/v1/topics/t/logs/:0").is(200),
		held, w.get("/v1/procs").is(200), w.get("/v1/procs/p").is(200), w.ack("p", held),
		w.post("/v1/procs/idle/claim", `{"topic":"t","offset":"$>"}`).isEmpty(204), w.get("/v1/system-procs").is(200),
		w.post("/v1/wait", `{"timeout":0}`).is(200), w.post("/v1/gc", "").is(200), w.get("/v1/gc").is(200),
		w.get("/healthz").is(200), w.get("/readyz").is(200), w.get("/metrics").is(200), w.get("/openapi.yaml").is(200),
		w.send("DELETE", "/v1/live-procs/"+live, "").is(200), w.send("DELETE", "/v1/topics/t?force=true", "").isEmpty(204),
		w.get("/nope").is(404), w.send("PATCH", "/v1/gc", "").is(405),
	} {
		if got := a.Header.Get("Cache-Control"); got != "no-store" {
			t.Errorf("%s: Cache-Control is %q", a.what, got)
		}
	}
	for _, path := range []string{"/v1/tail?topic=t", "/v1/topics/t/live"} {
		resp, err := w.Do(t.Context(), "GET", path, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if got := resp.Header.Get("Cache-Control"); got != "no-store" {
			t.Errorf("%s: Cache-Control is %q", path, got)
		}
	}
}

// A null member is an absent one; white space means nothing.
func TestNullMembers(t *testing.T) {
	t.Parallel()
	w := wireTo(t, start(t))
	w.commit("t", 1)
	w.post("/v1/procs/p/claim", ` { "topic" : "t" , "offset" : null , "count":null,"maxReclaims":null,"reclaimTimeout":null,
		"onMaxReclaimsReached":null, "wait":null } `).is(200)
	w.proc("p").has("offset", ">").has("count", 1).has("maxReclaims", 10).has("reclaimTimeout", 10_000).has("onMaxReclaimsReached", "disable")
	w.post("/v1/procs/p/ack", `{"token":null,"claimNext":null,"count":null}`).is(200).hasExactly("", "ackedLogId")
	w.post("/v1/wait", `{"procs":null,"timeout":null}`).is(200).has("done", true)
}

// Arrays are [], never null; next is absent on the last page.
func TestEmptyLists(t *testing.T) {
	t.Parallel()
	w := wireTo(t, start(t))
	for _, test := range []struct {
		a    *wireAnswer
		want string
	}{
		{w.get("/v1/topics"), `{"topics":[]}`},
		{w.get("/v1/procs"), `{"procs":[]}`},
		{w.get("/v1/procs?topic=nope&kind=live"), `{"procs":[]}`},
		{w.get("/v1/system-procs"), `{"systemProcs":[]}`},
		{w.get("/v1/gc"), `{"topics":[],"finishedAt":null}`},
		{w.post("/v1/wait", ""), `{"done":true,"procs":[]}`},
		{w.post("/v1/gc", ""), `{"topics":[]}`},
	} {
		if got := strings.TrimSpace(test.a.is(200).Text); got != test.want {
			t.Errorf("%s: %s, want %s", test.a.what, got, test.want)
		}
	}
	w.commit("t", 1)
	w.get("/v1/topics/t/logs?start=1&end=0").is(200).hasExactly("", "logs").hasSeqs("logs", 0, -1)
	w.post("/v1/system-procs", `{"name":"s","from":"t","processor":{"url":"http://127.0.0.1:1/"}}`).is(201)
	w.get("/v1/system-procs/s").is(200).hasExactly("", "name", "from", "to", "processor", "createdAt", "procs").hasSeqs("to", 0, -1)
}

// All names of members are camelCase.
func TestMembersAreCamelCase(t *testing.T) {
	t.Parallel()
	w, _ := newSurface(t)
	camel := regexp.MustCompile(`^[a-z][A-Za-z]*$`)
	var check func(what string, v any)
	check = func(what string, v any) {
		switch v := v.(type) {
		case map[string]any:
			for name, value := range v {
				if !camel.MatchString(name) {
					t.Errorf("%s: a member %q", what, name)
				}
				check(what, value)
			}
		case []any:
			for _, value := range v {
				check(what, value)
			}
		}
	}
	for _, a := range []*wireAnswer{w.get("/v1/topics/t"), w.claim("p", ""), w.get("/v1/procs"), w.get("/v1/system-procs"), w.get("/v1/gc"),
		w.post("/v1/gc", ""), w.post("/v1/wait", `{"timeout":0}`)} {
		check(a.what, a.JSON)
	}
}
