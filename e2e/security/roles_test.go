//go:build security && linux

package security

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/google/go-cmp/cmp"

	"pipeproc/httpapi"
)

// deeds are the routes, each called so that it does what it is there for, where prepare was. They can be done in this order.
var deeds = []struct {
	route, path, body string
	role              string // that it takes, as users are told
	status            int
}{
	{"GET /healthz", "/healthz", "", roleNone, 200},
	{"GET /readyz", "/readyz", "", roleNone, 200},
	{"GET /openapi.yaml", "/openapi.yaml", "", roleNone, 200},

	{"GET /metrics", "/metrics", "", roleRead, 200},
	{"GET /v1/gc", "/v1/gc", "", roleRead, 200},
	{"GET /v1/topics", "/v1/topics", "", roleRead, 200},
	{"GET /v1/topics/{topic}", "/v1/topics/t", "", roleRead, 200},
	{"GET /v1/topics/{topic}/logs", "/v1/topics/t/logs", "", roleRead, 200},
	{"GET /v1/topics/{topic}/logs/{id}", "/v1/topics/t/logs/:0", "", roleRead, 200},
	{"GET /v1/procs", "/v1/procs", "", roleRead, 200},
	{"GET /v1/procs/{proc}", "/v1/procs/p", "", roleRead, 200},
	{"POST /v1/wait", "/v1/wait", `{"timeout":0}`, roleRead, 200},
	{"GET /v1/tail", "/v1/tail?topic=t&start=earliest", "", roleRead, 200},
	{"POST /v1/stream-tickets", "/v1/stream-tickets", `{"path":"/v1/tail"}`, roleRead, 201},

	{"POST /v1/commit", "/v1/commit", `{"topic":"t","body":{}}`, roleWrite, 201},
	{"POST /v1/topics/{topic}/logs", "/v1/topics/t/logs", `{}`, roleWrite, 201},
	{"POST /v1/procs/{proc}/extend", "/v1/procs/p/extend", `{"token":"TOKEN"}`, roleWrite, 200},
	{"POST /v1/procs/{proc}/ack", "/v1/procs/p/ack", "", roleWrite, 200},
	{"POST /v1/procs/{proc}/claim", "/v1/procs/p/claim", "", roleWrite, 200},
	{"POST /v1/procs/{proc}/reclaim", "/v1/procs/p/reclaim", "", roleWrite, 200},
	{"POST /v1/claims", "/v1/claims", `{"procs":[{"name":"p","topic":"t"}]}`, roleWrite, 200},
	{"POST /v1/procs/{proc}/ack-commit", "/v1/procs/p/ack-commit", `{"logs":{"topic":"t","body":[]}}`, roleWrite, 200},
	{"POST /v1/procs/{proc}/seek", "/v1/procs/p/seek", `{"offset":">"}`, roleWrite, 200},
	{"POST /v1/procs/{proc}/disable", "/v1/procs/p/disable", "", roleWrite, 200},
	{"POST /v1/procs/{proc}/resume", "/v1/procs/p/resume", "", roleWrite, 200},
	{"PATCH /v1/procs/{proc}", "/v1/procs/p", `{"count":2}`, roleWrite, 200},
	{"PUT /v1/procs/{proc}", "/v1/procs/q", `{"topic":"t"}`, roleWrite, 201},
	{"DELETE /v1/procs/{proc}", "/v1/procs/p", "", roleWrite, 200},
	{"POST /v1/live-procs", "/v1/live-procs", `{"topic":"t","mode":"all"}`, roleWrite, 201},
	{"GET /v1/live-procs/{name}/changes", "/v1/live-procs/LIVEPROC/changes", "", roleWrite, 200},
	{"GET /v1/topics/{topic}/live", "/v1/topics/t/live?mode=all", "", roleWrite, 200},
	{"POST /v1/live-procs/{name}/cancel", "/v1/live-procs/LIVEPROC/cancel", "", roleWrite, 200},
	{"DELETE /v1/live-procs/{name}", "/v1/live-procs/LIVEPROC", "", roleWrite, 200},

	{"GET /v1/system-procs", "/v1/system-procs", "", roleAdmin, 200},
	{"GET /v1/system-procs/{name}", "/v1/system-procs/s", "", roleAdmin, 200},
	{"POST /v1/system-procs", "/v1/system-procs", `{"name":"r","from":"t","processor":"http://processor.example/"}`, roleAdmin, 201},
	{"PATCH /v1/system-procs/{name}", "/v1/system-procs/s", `{"count":3}`, roleAdmin, 200},
	{"POST /v1/system-procs/{name}/rotate-secret", "/v1/system-procs/s/rotate-secret", "", roleAdmin, 200},
	{"DELETE /v1/system-procs/{name}", "/v1/system-procs/s", "", roleAdmin, 200},
	{"DELETE /v1/topics/{topic}", "/v1/topics/t?force=true", "", roleAdmin, 204},
	{"POST /v1/gc", "/v1/gc", "", roleAdmin, 200},
	{"POST /v1/shutdown", "/v1/shutdown", "", roleAdmin, 0}, // which is not done
}

// prepare makes what deeds are done to, and answers what their words in capitals stand for. The server runs no systemProcs.
func (s *server) prepare() *strings.Replacer {
	s.t.Helper()
	for range 3 {
		s.call("POST", "/v1/commit", `[{"topic":"t","body":{}},{"topic":"u","body":{"a":1}}]`).is(http.StatusCreated)
	}
	var claimed struct{ Claim struct{ Token string } }
	s.call("POST", "/v1/procs/p/claim", `{"topic":"t","reclaimTimeout":-1}`).is(http.StatusOK).into(&claimed)
	s.call("POST", "/v1/system-procs", `{"name":"s","from":"t","processor":"http://processor.example/"}`).is(http.StatusCreated)
	var live struct{ Name string }
	s.call("POST", "/v1/live-procs", `{"topic":"t","mode":"all","ttl":-1}`).is(http.StatusCreated).into(&live)
	return strings.NewReplacer("TOKEN", claimed.Claim.Token, "LIVEPROC", live.Name)
}

// document is the OpenAPI document that the server serves.
func (s *server) document() *openapi3.T {
	s.t.Helper()
	doc, err := openapi3.NewLoader().LoadFromData([]byte(s.get("/openapi.yaml").is(http.StatusOK).body))
	if err != nil {
		s.t.Fatal(err)
	}
	return doc
}

// documentedRoles are the roles that the document tells, route by route, and the routes that a ticket opens.
func documentedRoles(t *testing.T, doc *openapi3.T) (takes map[string]string, tickets map[string]bool) {
	t.Helper()
	takes, tickets = map[string]string{}, map[string]bool{}
	for path, item := range doc.Paths.Map() {
		for method, op := range item.Operations() {
			route := method + " " + path
			takes[route] = roleNone
			if op.Security == nil {
				t.Errorf("%s does not tell its role", route)
				continue
			}
			for _, way := range *op.Security {
				for scheme, scopes := range way {
					switch {
					case scheme == "bearer" && len(scopes) == 1 && slices.Contains(roles[1:], scopes[0]):
						takes[route] = scopes[0]
					case scheme == "ticket" && len(scopes) == 0 && method == "GET":
						tickets[route] = true
					default:
						t.Errorf("%s tells of %s %v", route, scheme, scopes)
					}
				}
			}
		}
	}
	return takes, tickets
}

// TestRoutesOfTheMatrix: the routes of the server, of its document, and of the matrix are the same, and so are the roles that
// these two tell.
func TestRoutesOfTheMatrix(t *testing.T) {
	t.Parallel()
	s, _ := launchGuarded(t, "--allow-shutdown")
	doc := s.document()
	documented, tickets := documentedRoles(t, doc)
	told := map[string]string{}
	for _, d := range deeds {
		if told[d.route] != "" {
			t.Errorf("%s is there twice", d.route)
		}
		told[d.route] = d.role
	}
	if diff := cmp.Diff(told, documented); diff != "" {
		t.Errorf("roles (-matrix +openapi.yaml):\n%s", diff)
	}
	routed := map[string]string{}
	for _, route := range httpapi.New(httpapi.Config{Shutdown: func() {}}).Routes() {
		routed[route] = documented[route]
	}
	if diff := cmp.Diff(documented, routed); diff != "" {
		t.Errorf("routes (-openapi.yaml +server):\n%s", diff)
	}
	if want := map[string]bool{"GET /v1/tail": true, "GET /v1/topics/{topic}/logs": true, "GET /v1/topics/{topic}/live": true,
		"GET /v1/live-procs/{name}/changes": true}; !cmp.Equal(want, tickets) {
		t.Errorf("tickets open %v", tickets)
	}

	// As the process itself has it: a method that is not documented is not there, whoever comes.
	fill := strings.NewReplacer("{topic}", "t", "{proc}", "p", "{name}", "n", "{id}", ":0")
	for path, item := range doc.Paths.Map() {
		var allow []string
		for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"} {
			if item.GetOperation(method) != nil || method == "HEAD" && item.Get != nil {
				allow = append(allow, method)
			}
		}
		for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "get", "Get", "DELETEX"} {
			if slices.Contains(allow, method) {
				continue
			}
			for _, key := range []string{"Bearer " + s.key, ""} {
				a := s.call(method, fill.Replace(path), "", "Authorization", key).is(http.StatusMethodNotAllowed)
				if method != "HEAD" {
					a.isProblem(http.StatusMethodNotAllowed, "method_not_allowed")
				}
				if got := a.header.Get("Allow"); got != strings.Join(allow, ", ") {
					t.Errorf("%s %s: Allow %q, want %q", method, path, got, allow)
				}
			}
		}
	}
}

// TestRoles is every route × everybody: who may not is refused before anything is done, by GET and by HEAD, and whatever else the
// request says; who may is not; and whoever has just the role that a route takes can do what it is there for.
func TestRoles(t *testing.T) {
	t.Parallel()
	s, people := launchGuarded(t, "--allow-shutdown", "--workers", "0")
	filled := s.prepare()
	s.under(bounds{memory: 64, goroutines: 100}, func() {
		for _, d := range deeds {
			method, _, _ := strings.Cut(d.route, " ")
			path, body := filled.Replace(d.path), filled.Replace(d.body)
			for who, says := range people.says {
				status, code := http.StatusForbidden, "forbidden"
				switch {
				case d.role == roleNone || may(role(who), d.role): // refused for a query that no route has
					status, code = http.StatusBadRequest, "invalid_request"
					path, _, _ = strings.Cut(path, "?")
					path += "?nope=1"
				case role(who) == roleNone:
					status, code = http.StatusUnauthorized, "unauthorized"
				}
				a := s.call(method, path, body, "Authorization", says).isProblem(status, code)
				a.asksForKey()
				if method == "GET" {
					s.call("HEAD", path, "", "Authorization", says).is(status).asksForKey()
				}
				if status == http.StatusBadRequest {
					continue
				}
				for _, headers := range [][]string{
					{"X-HTTP-Method-Override", "GET", "X-HTTP-Method", "GET", "X-Method-Override", "GET"},
					{"X-Forwarded-For", "127.0.0.1", "X-Real-IP", "127.0.0.1", "Forwarded", "for=127.0.0.1", "X-Forwarded-Host", "localhost"},
					{"X-Original-URL", "/healthz", "X-Rewrite-URL", "/healthz", "X-Forwarded-Prefix", "/healthz"},
					{"Cookie", "key=" + s.key, "Proxy-Authorization", "Bearer " + s.key, "X-API-Key", s.key},
					{"Connection", "Authorization, close", "Host", "127.0.0.1"},
				} {
					s.call(method, path, body, append(headers, "Authorization", says)...).isProblem(status, code)
				}
				separator := "?"
				if strings.Contains(path, "?") {
					separator = "&"
				}
				for _, query := range []string{"key=", "access_token=", "token=", "Authorization=Bearer%20", "api_key="} {
					s.call(method, path+separator+query+s.key, body, "Authorization", says).isProblem(status, code)
				}
			}
		}
	})
	// By HEAD nothing is done either, not even by who may.
	s.under(bounds{memory: 64, goroutines: 100}, func() {
		for _, d := range deeds {
			if strings.HasPrefix(d.route, "GET ") {
				a := s.call("HEAD", filled.Replace(d.path), "", "Authorization", people.says[d.role]).is(d.status)
				if a.body != "" {
					t.Errorf("%s: %q", a.what, a.body)
				}
			}
		}
	})
	for _, d := range deeds {
		method, _, _ := strings.Cut(d.route, " ")
		switch {
		case d.status == 0:
		case strings.HasSuffix(d.route, "/changes"), strings.HasSuffix(d.route, "/live"), strings.HasSuffix(d.route, "/tail"):
			stream := s.open(filled.Replace(d.path), "Authorization", people.says[d.role])
			if stream.StatusCode != d.status || !strings.HasPrefix(stream.Header.Get("Content-Type"), "text/event-stream") {
				t.Errorf("%s: %s %s", d.route, stream.Status, stream.Header)
			}
			stream.Body.Close()
		default:
			s.call(method, filled.Replace(d.path), filled.Replace(d.body), "Authorization", people.says[d.role]).is(d.status)
		}
	}
}

// asksForKey holds that the answer tells how to be let in where that is why it was refused, and only there.
func (a *answer) asksForKey() {
	a.t.Helper()
	if asked := a.header.Get("WWW-Authenticate"); (asked == "Bearer") != (a.status == http.StatusUnauthorized) {
		a.t.Errorf("%.200s: %d, WWW-Authenticate %q", a.what, a.status, asked)
	}
}

// open asks for a stream; who gets it closes it.
func (s *server) open(path string, headers ...string) *http.Response {
	s.t.Helper()
	req, err := http.NewRequest("GET", s.url+path, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Accept", "text/event-stream")
	for i := 0; i < len(headers); i += 2 {
		if headers[i+1] != "" {
			req.Header.Set(headers[i], headers[i+1])
		}
	}
	res, err := s.straight.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	return res
}

// refusal is the answer to a request for a stream, which is to be none.
func (s *server) refusal(path string, headers ...string) *answer {
	s.t.Helper()
	res := s.open(path, headers...)
	defer res.Body.Close()
	a := &answer{t: s.t, what: "GET " + path, status: res.StatusCode, header: res.Header}
	if res.StatusCode == http.StatusOK {
		a.body = "(a stream)"
		return a
	}
	text, err := io.ReadAll(res.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	a.body = string(text)
	return a
}

// TestAuthorizations: a key is taken as it is, from one header of the right scheme, or not at all.
func TestAuthorizations(t *testing.T) {
	t.Parallel()
	s, people := launchGuarded(t)
	s.call("POST", "/v1/topics/t/logs", "{}").is(http.StatusCreated)
	good := people.says[roleAdmin]
	key := strings.TrimPrefix(good, "Bearer ")
	var bad []string
	for i := range key { // each letter another one, and each beginning of it
		turned := []byte(key)
		if turned[i]++; turned[i] == 0x7f {
			turned[i] = 'A'
		}
		bad = append(bad, "Authorization: Bearer "+string(turned), "Authorization: Bearer "+key[:i])
	}
	hash := people.lines[roleAdmin][strings.LastIndexByte(people.lines[roleAdmin], ' ')+1:]
	for _, b := range []string{key, "Bearer", "Bearer ", "Bearer " + hash, "Bearer " + strings.TrimPrefix(hash, "sha256:"),
		"Bearer " + people.lines[roleAdmin], "Bearer admin", "Basic " + key, "Digest " + key, "Bearer\t" + key, "Bearer=" + key, "Bearer:" + key,
		"Bearer \"" + key + "\"", "Bearer " + key + ",Bearer " + key, "Bearer " + key + " " + key, "Bearer " + key + "\x00", "Bearer " + strings.ToUpper(key),
		"Bearer " + strings.ToLower(key), "Bearer pipeproc_", "Bearer *", "Bearer null", "Bearer ' OR ''='", "Bearer " + strings.Repeat("A", 50_000)} {
		bad = append(bad, "Authorization: "+b)
	}
	bad = append(bad, "Authorization: "+good+"\r\nAuthorization: "+good, "Authorization: x\r\nAuthorization: "+good,
		"Authorization:\r\nAuthorization: "+good, "X-Authorization: "+good, "Authorization : "+good,
		"Authorization\x00: "+good, "Authorisation: "+good)
	s.under(bounds{memory: 96, goroutines: 200}, func() {
		for _, header := range bad {
			for _, line := range []string{"GET /v1/topics", "DELETE /v1/topics/t"} {
				w := s.wire()
				w.send(line + " HTTP/1.1\r\nHost: localhost\r\n" + header + "\r\n\r\n")
				a, err := w.answer("GET")
				w.reset()
				switch {
				case err != nil:
					t.Errorf("%.200q: %v", header, err)
				case a.status == http.StatusBadRequest && strings.HasPrefix(a.header.Get("Content-Type"), "text/plain"): // no HTTP at all
				default:
					a.what = fmt.Sprintf("%s with %.200q", line, header)
					a.isProblem(http.StatusUnauthorized, "unauthorized").asksForKey()
					if len(a.body) > 1_000 || strings.Contains(a.body, key) {
						t.Errorf("%s: it tells %.2000s", a.what, a.body)
					}
				}
			}
		}
	})
}
