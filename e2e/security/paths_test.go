//go:build security && linux

package security

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// raw sends a request with its target as it is, on a connection of its own.
func (s *server) raw(method, target string, headers ...string) *answer {
	s.t.Helper()
	var text strings.Builder
	fmt.Fprintf(&text, "%s %s HTTP/1.1\r\nHost: localhost\r\n", method, target)
	for i := 0; i < len(headers); i += 2 {
		if headers[i+1] != "" {
			fmt.Fprintf(&text, "%s: %s\r\n", headers[i], headers[i+1])
		}
	}
	w := s.wire()
	defer w.reset()
	w.send(text.String() + "Content-Length: 0\r\n\r\n")
	a, err := w.answer(method)
	if err != nil {
		s.t.Fatalf("%s %.300q: %v", method, target, err)
	}
	a.what = fmt.Sprintf("%s %.300q", method, target)
	return a
}

// noHTTP tells that the answer is net/http's own, to what it does not take for a request; no handler has seen it.
func (a *answer) noHTTP() bool {
	return a.status == http.StatusBadRequest && strings.HasPrefix(a.header.Get("Content-Type"), "text/plain")
}

// detours are ways to write "/v1/topics" that a server may take for it, or for something above it.
var detours = []string{
	"/v1/../v1/topics", "/../v1/topics", "/v1/./topics", "/./v1/topics", "/v1/topics/.", "/v1/topics/..", "/v1/procs/../topics", "/healthz/../v1/topics",
	"/openapi.yaml/../v1/topics", "/readyz/../../v1/topics", "//v1/topics", "/v1//topics", "///v1/topics", "/v1/topics//", "//localhost/v1/topics",
	"/v1/topics/", "/%2e%2e/v1/topics", "/v1/%2e%2e/v1/topics", "/v1/%2e/topics", "/v1/.%2e/v1/topics", "/v1/%2E%2E%2Fv1%2Ftopics", "/v1%2ftopics", "/v1%2Ftopics",
	"%2fv1/topics", "/%2fv1/topics", "/healthz%2f..%2fv1%2ftopics", "/healthz/..%2fv1/topics", "/healthz%2f../v1/topics", "/healthz/%2e%2e/v1/topics", "/healthz/..;/v1/topics",
	"/v1/topics;", "/v1/topics;x=y", "/v1;/topics", "/;/v1/topics", "/v1/topics%3b", "/v1/topics%00", "/v1/topics%00.yaml", "/v1%00/topics", "/%00/v1/topics", "/v1/topics%0a",
	"/v1/topics%0d%0aX:y", "/v1/topics%09", "/v1/topics%20", "/%20/v1/topics", "/v1/topics.", "/v1/topics..", "/v1/topics.json", "/v1/topics~", "/v1/topics*", "/v1/topics\\",
	"\\v1\\topics", "/v1\\topics", "/v1/procs\\..\\topics", "/v1/%5c../topics", "/v1%5ctopics", "/%5cv1/topics", "/V1/topics", "/v1/Topics", "/v1/TOPICS", "/v1/top\u0131cs",
	"/v1/topic\u017f", "/v1/topic%c5%bf", "/v%31/topics", "/v1/%74opics", "/%76%31/topics", "/v1/%2574opics", "/v1/%252e%252e/topics", "/v1/%u0074opics", "/v1/topics%ff",
	"/v1/%c0%ae%c0%ae/topics", "/v1/%c0%af/topics", "/v1%c0%aftopics", "/v1%e0%80%aftopics", "/v1%f0%80%80%aftopics", "/v1/%c1%9c/topics", "/v1\uff0ftopics", "/v1%ef%bc%8ftopics",
	"/v1/\uff0e\uff0e/topics", "/v1/%ef%bc%8e%ef%bc%8e/topics", "/v1\u2215topics", "/v1/topics%", "/v1/topics%2", "/v1/topics%zz", "/v1/topics%%32f", "/v1/{topics}", "/v1/*", "/*",
	"/v1/topics#", "/v1/topics%23", "/v1/topics%3f", "/healthz%3f/../v1/topics", "/healthz#/../v1/topics", "/v1/topics\x01", "/v1/topics\x7f", "/v1/topics\x80", "\x00/v1/topics",
	"v1/topics", "v1/../v1/topics", "./v1/topics", "../v1/topics", "/http://localhost/v1/topics", "http://localhost/v1/../v1/topics", "file:///../v1/topics",
	"/api/v1/topics", "/v1/v1/topics", "/v0/topics", "/v1/topics/t/..", "/v1/topics/t/../..", "/v1/topics/t/logs/../../../v1/topics", "/.git/config", "/debug/pprof/",
	"/debug/vars", "/etc/passwd", "/../../../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/v1", "/v1/", "/", "*", "",
}

// TestPaths: whatever looks like a path of the server's, but is not, is refused: by a problem, never by a redirect, and by nobody
// who is behind.
func TestPaths(t *testing.T) {
	t.Parallel()
	s, people := launchGuarded(t, "--allow-shutdown", "--workers", "0")
	s.prepare()
	targets := append([]string{}, detours...)
	for _, n := range []int{1_000, 60_000} {
		targets = append(targets, "/v1/topics/"+strings.Repeat("x", n), "/v1"+strings.Repeat("/", n)+"topics", "/v1"+strings.Repeat("/..", n/3)+"/v1/topics",
			"/v1/topics"+strings.Repeat("%2e", n/3), "/"+strings.Repeat("a/", n/2))
	}
	s.under(bounds{memory: 128, goroutines: 100}, func() {
		for _, target := range targets {
			for _, method := range []string{"GET", "POST", "DELETE", "HEAD", "OPTIONS"} {
				for _, who := range []string{nobody, roleAdmin} {
					a := s.raw(method, target, "Authorization", people.says[who])
					switch {
					case a.noHTTP() || a.header.Get("Location") == "" && method == "HEAD" && 400 <= a.status && a.status < 500:
					case a.header.Get("Location") != "" || a.status < 400 || a.status >= 500 || a.problem() == "":
						t.Errorf("%s by %s: %d %v %.300s", a.what, who, a.status, a.header, a.body)
					case len(a.body) > 2_000:
						t.Errorf("%s: the problem has %d bytes", a.what, len(a.body))
					}
				}
			}
		}
	})
}

// TestDetours: a path that reaches another route than it seems to takes what that route takes. What a role may do of one kind does
// not get it to the other.
func TestDetours(t *testing.T) {
	t.Parallel()
	s, people := launchGuarded(t, "--allow-shutdown", "--workers", "0")
	s.prepare()
	s.under(bounds{memory: 64, goroutines: 100}, func() {
		for _, c := range []struct {
			who, method, target string
			statuses            []int
		}{
			// A route of anybody's, to one of a reader's.
			{nobody, "GET", "/healthz/../metrics", []int{404}},
			{nobody, "GET", "/healthz%2f..%2fmetrics", []int{404}},
			{nobody, "GET", "/healthz/..%2fmetrics", []int{404}},
			{nobody, "GET", "/healthz;/../metrics", []int{404}},
			{nobody, "GET", "/healthz?/../metrics", []int{400}},
			{nobody, "GET", "/healthz%00/metrics", []int{404}},
			{nobody, "GET", "//metrics", []int{404}},
			{nobody, "GET", "/metric%73", []int{401, 404}},
			{nobody, "GET", "/%6detrics", []int{401, 404}},
			{nobody, "GET", "/v1/topics/t/log%73", []int{401, 404}},
			{nobody, "GET", "http://localhost/metrics", []int{401}},
			{nobody, "GET", "http:///metrics", []int{401}},
			{nobody, "GET", "http:/metrics", []int{401}},
			{nobody, "GET", "file:///metrics", []int{401}},
			{nobody, "GET", "javascript:/metrics", []int{401}},
			{nobody, "GET", "http://localhost/healthz/../metrics", []int{404}},
			{nobody, "GET", "/openapi.yaml/../v1/topics/t/logs", []int{404}},
			// A route of a reader's, to one of a writer's.
			{roleRead, "GET", "/v1/topics/t/logs/../live?mode=all", []int{404}},
			{roleRead, "GET", "/v1/topics/t/logs/..%2flive?mode=all", []int{400}},
			{roleRead, "GET", "/v1/topics/t/logs%2f..%2flive?mode=all", []int{404}},
			{roleRead, "GET", "/v1/topics/t%2flive?mode=all", []int{400}},
			{roleRead, "GET", "/v1/topics/t/liv%65?mode=all", []int{403, 404}},
			{roleRead, "GET", "/v1/topics/%74/live?mode=all", []int{403}},
			{roleRead, "GET", "/v1/topics/t%00/live?mode=all", []int{400, 403}},
			{roleRead, "POST", "/v1/wait/../procs/p/ack", []int{404}},
			{roleRead, "POST", "/v1/wait%2f..%2fprocs%2fp%2fack", []int{404}},
			{roleRead, "POST", "/v1/procs/%70/ack", []int{403}},
			{roleRead, "DELETE", "/v1/procs/%70", []int{403}},
			// A route of a writer's, to one of an admin's.
			{roleWrite, "DELETE", "/v1/procs/../topics/t?force=true", []int{404}},
			{roleWrite, "DELETE", "/v1/procs/..%2ftopics%2ft?force=true", []int{400}},
			{roleWrite, "DELETE", "/v1/procs/%2e%2e%2ftopics%2ft", []int{400}},
			{roleWrite, "DELETE", "/v1/live-procs/..%2fsystem-procs%2fs", []int{400}},
			{roleWrite, "DELETE", "/v1/live-procs/..%5csystem-procs%5cs", []int{400}},
			{roleWrite, "DELETE", "/v1/live-procs/..;/system-procs/s", []int{404, 405}},
			{roleWrite, "DELETE", "/v1/topics/%74?force=true", []int{403}},
			{roleWrite, "DELETE", "/v1/topics/t%3fforce=true", []int{403}},
			{roleWrite, "DELETE", "/v1/topics/%74%00?force=true", []int{403}},
			{roleWrite, "DELETE", "/v1/system-procs/%73", []int{403}},
			{roleWrite, "DELETE", "/v1/procs/s", []int{409}}, // a systemProc's proc
			{roleWrite, "POST", "/v1/procs/p/../../gc", []int{404}},
			{roleWrite, "POST", "/v1/procs/p%2f..%2f..%2fgc/ack", []int{400}},
			{roleWrite, "POST", "/v1/topics/..%2f..%2fv1%2fgc%3f/logs", []int{400, 415}},
			{roleWrite, "POST", "/v1/commit/../shutdown", []int{404}},
			{roleWrite, "POST", "/v1/g%63", []int{403, 404}},
			{roleWrite, "POST", "/v1/shutdow%6e", []int{403, 404}},
			{roleWrite, "POST", "http://localhost/v1/shutdown", []int{403}},
			{roleWrite, "GET", "/v1/procs/..%2fsystem-procs", []int{400}},
			{roleWrite, "GET", "/v1/procs/..%2fsystem-procs%2fs", []int{400}},
		} {
			a := s.raw(c.method, c.target, "Authorization", people.says[c.who])
			found := false
			for _, status := range c.statuses {
				found = found || a.status == status
			}
			if !found || a.problem() == "" || a.header.Get("Location") != "" {
				t.Errorf("%s by %s: %d %.300s, want one of %v", a.what, c.who, a.status, a.body, c.statuses)
			}
		}
	})
	// Another spelling of the same names is the same route.
	s.raw("GET", "/v1/topics/%74/logs/%3a0", "Authorization", people.says[roleRead]).is(http.StatusOK)
	s.raw("GET", "http://localhost/v1/topics/t", "Authorization", people.says[roleRead]).is(http.StatusOK)
}
