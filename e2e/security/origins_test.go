//go:build security && linux

package security

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// TestCrossOrigin: what pages of other origins send does nothing, whatever the route; not by GET, nor by forms, which browsers
// send without asking first.
func TestCrossOrigin(t *testing.T) {
	t.Parallel()
	const app = "https://app.example"
	s := launch(t, "--allow-shutdown", "--workers", "0", "--cors-origin", app)
	filled := s.prepare()
	_, port, _ := strings.Cut(s.address, ":")
	evil := [][]string{
		{"Origin", "https://evil.example"},
		{"Origin", "null"},
		{"Origin", "http://127.0.0.1:1"}, // this host, another port
		{"Origin", "http://127.0.0.1"},
		{"Origin", "http://localhost:" + port}, // this port, another name
		{"Origin", "http://app.example"},
		{"Origin", "https://app.example:444"},
		{"Origin", "https://app.example.evil.example"},
		{"Origin", "https://evil-app.example"},
		{"Origin", "https://app.example@evil.example"},
		{"Origin", "https://app.example, https://evil.example"},
		{"Origin", "file://"},
		{"Origin", "chrome-extension://abc"},
		{"Origin", "*"},
		{"Sec-Fetch-Site", "cross-site"},
		{"Sec-Fetch-Site", "same-site"},
		{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "no-cors", "Sec-Fetch-Dest", "image"},
		{"Sec-Fetch-Site", "cross-site", "Origin", "null"},
		{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "iframe", "Origin", "null"},
		{"Sec-Fetch-Site", "same-site", "Origin", "http://127.0.0.1:1"},
		{"Sec-Fetch-Site", "SAME-ORIGIN", "Origin", "https://evil.example"},
		{"Sec-Fetch-Site", "same-origin, none", "Origin", "https://evil.example"},
	}
	s.under(bounds{memory: 96, goroutines: 200}, func() {
		for _, d := range deeds {
			method, _, _ := strings.Cut(d.route, " ")
			path, body := filled.Replace(d.path), filled.Replace(d.body)
			streams := strings.HasSuffix(d.route, "/changes") || strings.HasSuffix(d.route, "/live") || strings.HasSuffix(d.route, "/tail")
			for _, headers := range evil {
				if method == "GET" && may(roleRead, d.role) { // which may be done, but not read
					if streams {
						path += "&nope=1"
					}
					a := s.call(method, path, body, headers...)
					if a.header.Get("Access-Control-Allow-Origin") != "" || a.header.Get("Cross-Origin-Resource-Policy") != "same-origin" {
						t.Errorf("%s from %v: %v", d.route, headers, a.header)
					}
					continue
				}
				if d.route == "POST /v1/stream-tickets" || d.route == "POST /v1/wait" || method != "GET" || streams || d.role == roleAdmin {
					a := s.call(method, path, body, headers...).isProblem(http.StatusForbidden, "forbidden")
					if a.header.Get("Access-Control-Allow-Origin") != "" {
						t.Errorf("%s from %v may be read", d.route, headers)
					}
				}
				if method == "GET" {
					s.call("HEAD", path, "", headers...).is(http.StatusForbidden)
				}
				for _, form := range []string{"text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"} {
					if method == "POST" {
						s.call(method, path, body, append([]string{"Content-Type", form}, headers...)...).isProblem(http.StatusForbidden, "forbidden")
					}
				}
			}
			if method == "POST" && body != "" { // a form of a browser that tells nothing
				for _, form := range []string{"text/plain", "text/plain;charset=UTF-8", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x",
					"text/plain; application/json", "application/json-patch+json", "application/jsonx", "text/json", "APPLICATION/XML", "", "*/*",
					"application/json; charset=utf-16", "application/json; charset=utf-7", "application/json,text/plain", "text/plain,application/json"} {
					if form == "" {
						continue
					}
					s.call(method, path, body, "Content-Type", form).isProblem(http.StatusUnsupportedMediaType, "unsupported_media_type")
				}
			}
		}
	})
}

// TestForeignPreflights: browsers are told of the origins that are allowed, letter by letter, and of no others.
func TestForeignPreflights(t *testing.T) {
	t.Parallel()
	s := launch(t, "--cors-origin", "https://app.example", "--cors-origin", "http://localhost:3000")
	closed := launch(t)
	wants := []string{"Access-Control-Request-Method", "DELETE", "Access-Control-Request-Headers", "authorization,content-type",
		"Access-Control-Request-Private-Network", "true"}
	s.under(bounds{memory: 64, goroutines: 100}, func() {
		for _, origin := range []string{"https://evil.example", "null", "*", "https://app.example.evil.example", "https://app.example.", "https://xapp.example",
			"https://a.app.example", "https://app.exampl", "https://app.example/", "https://app.example:443", "https://app.example:8443", "http://app.example",
			"HTTPS://app.example", "https://APP.example", "https://app.example%00", "https://app.example@evil.example", "https://evil.example#https://app.example",
			"https://evil.example?https://app.example", "https://app.example,https://evil.example", "https://app.example https://evil.example",
			"https://evil.example https://app.example", "app.example", "https://", "http://localhost", "http://localhost:30000", "http://localhost:300",
			"http://127.0.0.1:3000", "http://[::1]:3000", "http://localhost:3000.evil.example", "https://localhost:3000", "https://app_example",
			"https://app\u3002example", "file://", "about:blank", "data:text/html,x", s.url} {
			for _, of := range []*server{s, closed} {
				for _, method := range []string{"OPTIONS", "GET", "POST", "DELETE"} {
					headers := []string{"Origin", origin}
					path, status := "/v1/topics/none", 0
					if method == "OPTIONS" {
						headers, status = append(headers, wants...), http.StatusMethodNotAllowed
					}
					a := of.call(method, path, "", headers...)
					if status != 0 {
						a.isProblem(status, "method_not_allowed")
					} else if a.status < 400 {
						t.Errorf("%s from %q: %d", method, origin, a.status)
					}
					for name := range a.header {
						if strings.HasPrefix(name, "Access-Control-") {
							t.Errorf("%s from %q is told %s: %s", method, origin, name, a.header[name])
						}
					}
					if (of == s) != (a.header.Get("Vary") == "Origin") {
						t.Errorf("%s from %q: Vary %q", method, origin, a.header["Vary"])
					}
				}
			}
		}
		for _, origin := range []string{"https://app.example", "http://localhost:3000"} {
			a := s.call("OPTIONS", "/v1/topics/none", "", append(wants, "Origin", origin)...).is(http.StatusNoContent)
			if a.header.Get("Access-Control-Allow-Origin") != origin || a.header.Get("Access-Control-Allow-Private-Network") != "" {
				t.Errorf("%s: %v", origin, a.header)
			}
			s.call("DELETE", "/v1/topics/none", "", "Origin", origin, "Sec-Fetch-Site", "cross-site").isProblem(http.StatusNotFound, "invalid_topic")
		}
		for _, twice := range []string{"https://app.example\r\nOrigin: https://evil.example", "https://evil.example\r\nOrigin: https://app.example"} {
			w := s.wire()
			w.send("DELETE /v1/topics/none HTTP/1.1\r\nHost: localhost\r\nOrigin: " + twice + "\r\n\r\n")
			a, err := w.answer("DELETE")
			if err != nil || a.status < 400 || a.header.Get("Access-Control-Allow-Origin") == "https://evil.example" {
				t.Errorf("two origins: %v %v", a, err)
			}
			w.reset()
		}
	})
}

// TestRebinding: over loopback, a request that names another host than this machine is refused, however the name is written, and
// before anything else is looked at. Those are what browsers send for names of others.
func TestRebinding(t *testing.T) {
	t.Parallel()
	s := launch(t, "--workers", "0", "--allowed-host", "pipeproc.example")
	filled := s.prepare()
	_, port, _ := strings.Cut(s.address, ":")
	refused := []string{"evil.example", "evil.example:" + port, "EVIL.EXAMPLE", "evil.example.", "localhost.evil.example", "localhost.evil.example:" + port,
		"127.0.0.1.evil.example", "127.0.0.1.nip.io", "evillocalhost", "evil-localhost", "localhost-evil", "localhost..", "local.host",
		"pipeproc.example.evil.example", "a.pipeproc.example", "xpipeproc.example", "pipeproc.example..", "pipeproc_example", "pipeproc",
		"127.0.0.1@evil.example", "localhost@evil.example", "localhost:" + port + "@evil.example", "evil.example@localhost", "evil.example:80@127.0.0.1",
		"evil.example#localhost", "evil.example;localhost", "evil.example,localhost", "localhost,evil.example", "localhost:" + port + ",evil.example",
		"localhost:evil.example", "localhost:80:evil.example", "127.0.0.1:80.evil.example", "[::1].evil.example", "[::1]evil.example", "[evil.example]",
		"evil.example[::1]", "[::1", "::1]", "[::1%25evil.example]", "[::1%evil.example]", "[127.0.0.1%evil]", "[::2]", "[2001:db8::1]", "[::ffff:192.0.2.1]", "[::]:evil",
		"192.0.2.1", "10.0.0.1", "169.254.169.254", "0177.0.0.1", "0x7f.0.0.1", "2130706433", "127.1", "127.0.0.256", "1.0.0.127",
		"\uff4c\uff4f\uff43\uff41\uff4c\uff48\uff4f\uff53\uff54", "xn--localhost-", "*", "null", "-", ".", "..", "localhost/", "localhost\\", "localhost?", "loc%61lhost",
		"localhost%00.evil.example", "localhost:-1", "localhost:99999x", "localhost:+80"}
	s.under(bounds{memory: 64, goroutines: 100}, func() {
		for _, host := range refused {
			for _, d := range []string{"GET /v1/topics", "GET /healthz", "GET /openapi.yaml", "DELETE /v1/topics/t?force=true", "POST /v1/procs/p/ack", "GET /nowhere",
				"OPTIONS /v1/topics", "HEAD /v1/topics/t/live?mode=all"} {
				w := s.wire()
				w.send(d + " HTTP/1.1\r\nHost: " + host + "\r\nContent-Length: 0\r\n\r\n")
				method, _, _ := strings.Cut(d, " ")
				a, err := w.answer(method)
				w.reset()
				switch {
				case err != nil:
					t.Errorf("%s of %q: %v", d, host, err)
				case method == "HEAD" && (a.status == http.StatusForbidden || a.status == http.StatusBadRequest):
				case a.status == http.StatusBadRequest && strings.HasPrefix(a.header.Get("Content-Type"), "text/plain"): // no host at all
				default:
					a.what = fmt.Sprintf("%s of %q", d, host)
					a.isProblem(http.StatusForbidden, "forbidden")
				}
			}
		}
		for name, c := range map[string]struct{ request, code string }{
			"two hosts":                     {"GET /v1/topics HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n", ""},
			"two hosts, the other first":    {"GET /v1/topics HTTP/1.1\r\nHost: evil.example\r\nHost: localhost\r\n\r\n", ""},
			"no host":                       {"GET /v1/topics HTTP/1.1\r\n\r\n", ""},
			"a host that goes on":           {"GET /v1/topics HTTP/1.1\r\nHost: localhost\r\n .evil.example\r\n\r\n", ""},
			"another one in the line":       {"GET http://evil.example/v1/topics HTTP/1.1\r\nHost: localhost\r\n\r\n", "forbidden"},
			"another one, by name and pass": {"GET http://localhost@evil.example/v1/topics HTTP/1.1\r\nHost: localhost\r\n\r\n", "forbidden"},
			"another one, without scheme":   {"GET //evil.example/v1/topics HTTP/1.1\r\nHost: localhost\r\n\r\n", "not_found"},
			"another one, told by a proxy":  {"GET /v1/topics HTTP/1.1\r\nHost: evil.example\r\nX-Forwarded-Host: localhost\r\nForwarded: host=localhost\r\n\r\n", "forbidden"},
			"a tunnel":                      {"CONNECT evil.example:80 HTTP/1.1\r\nHost: localhost\r\n\r\n", "forbidden"},
		} {
			w := s.wire()
			w.send(c.request)
			a, err := w.answer("GET")
			w.reset()
			if err != nil || a.status < 400 || a.status >= 500 || a.problem() != c.code {
				t.Errorf("%s: %+v %v", name, a, err)
			}
		}
	})
	for _, host := range []string{"localhost", "LocalHost:" + port, "localhost.", "localhost.:" + port, "localhost:", "app.localhost:" + port, "127.0.0.1", "127.0.0.1:" + port,
		"127.8.8.8", "127.0.0.1.", "[::1]", "[::1]:" + port, "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]:" + port, "0.0.0.0", "[::]", "pipeproc.example", "PipeProc.Example.:1", ""} {
		w := s.wire()
		w.send("GET " + filled.Replace("/v1/topics") + " HTTP/1.1\r\nHost: " + host + "\r\n\r\n")
		if a, err := w.answer("GET"); err != nil || a.status != http.StatusOK {
			t.Errorf("%q: %+v %v", host, a, err)
		}
		w.reset()
	}
}
