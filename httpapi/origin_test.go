package httpapi

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"pipeproc/api"
)

// from is a request over a connection to the address.
func from(local, host string) *http.Request {
	r := httptest.NewRequest("GET", "/healthz", nil)
	r.Host = host
	if local == "" {
		return r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, &net.UnixAddr{Name: "/s"}))
	}
	return r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, &net.TCPAddr{IP: net.ParseIP(local), Port: 8080}))
}

func TestHosts(t *testing.T) {
	for _, c := range []struct {
		local, host string
		allowed     []string
		ok          bool
	}{
		{"127.0.0.1", "127.0.0.1:8080", nil, true},
		{"127.0.0.1", "localhost", nil, true},
		{"127.0.0.1", "LOCALHOST.:8080", nil, true},
		{"127.0.0.1", "app.localhost:8080", nil, true},
		{"::1", "[::1]:8080", nil, true},
		{"127.0.0.1", "[::ffff:127.0.0.1]", nil, true},
		{"127.0.0.1", "", nil, true},
		{"127.0.0.1", "evil.example:8080", nil, false},
		{"127.0.0.1", "192.0.2.1", nil, false},
		{"127.0.0.1", "localhost.evil.example", nil, false},
		{"127.0.0.1", "127.0.0.1.evil.example", nil, false},
		{"127.0.0.1", "evillocalhost", nil, false},
		{"127.0.0.1", "localhost:80@evil.example", nil, false},
		{"127.0.0.1", "localhost:evil.example", nil, false},
		{"::1", "[::1%evil.example]", nil, false},
		{"::1", "[::1", nil, false},
		{"127.0.0.1", ".", nil, false},
		{"::1", "[::1]", nil, true},
		{"::1", "evil.example", nil, false},
		{"127.0.0.1", "pipeproc.example", []string{"pipeproc.example"}, true},
		{"127.0.0.1", "PipeProc.Example.:443", []string{"pipeproc.example"}, true},
		{"127.0.0.1", "x.pipeproc.example", []string{"pipeproc.example"}, false},
		{"192.0.2.7", "evil.example", nil, true},
		{"192.0.2.7", "evil.example", []string{"pipeproc.example"}, false},
		{"192.0.2.7", "localhost", []string{"pipeproc.example"}, true},
		{"192.0.2.7", "192.0.2.7:8080", []string{"pipeproc.example"}, true},
		{"192.0.2.7", "192.0.2.8", []string{"pipeproc.example"}, false},
		{"2001:db8::7", "[2001:db8::7]:8080", []string{"pipeproc.example"}, true},
		{"", "evil.example", []string{"pipeproc.example"}, true},
	} {
		a := do(t, New(Config{AllowedHosts: c.allowed}), from(c.local, c.host))
		if (a.status == 200) != c.ok || !c.ok && a.status != 403 {
			t.Errorf("%q over %q, allowed %v: %d", c.host, c.local, c.allowed, a.status)
		}
	}
}

func TestCORS(t *testing.T) {
	const app = "https://app.example"
	s, people := guarded(t, Config{CORSOrigins: []string{app}, Topics: topics{
		list: func(string, int) (api.TopicList, error) { return api.TopicList{}, nil }}})
	names := []string{"Vary", "Access-Control-Allow-Origin", "Access-Control-Allow-Methods", "Access-Control-Expose-Headers", "Allow"}
	told := func(a answered) map[string]string {
		all := map[string]string{}
		for _, name := range names {
			if v := a.header.Get(name); v != "" {
				all[name] = v
			}
		}
		return all
	}
	for _, c := range []struct {
		method, origin string
		headers        []string
		status         int
		want           map[string]string
	}{
		{"OPTIONS", app, []string{"Access-Control-Request-Method: DELETE", "Access-Control-Request-Headers: authorization"}, 204,
			map[string]string{"Vary": "Origin", names[1]: app, names[2]: "GET, HEAD, POST, PUT, PATCH, DELETE"}},
		{"GET", app, []string{"Authorization: " + people["read"].key}, 200, map[string]string{"Vary": "Origin", names[1]: app, names[3]: corsRead}},
		{"GET", app, nil, 401, map[string]string{"Vary": "Origin", names[1]: app, names[3]: corsRead}},
		{"GET", "https://evil.example", []string{"Authorization: " + people["read"].key}, 200, map[string]string{"Vary": "Origin"}},
		{"GET", "https://app.example.evil.example", nil, 401, map[string]string{"Vary": "Origin"}},
		{"GET", "http://app.example", nil, 401, map[string]string{"Vary": "Origin"}},
		{"GET", "null", nil, 401, map[string]string{"Vary": "Origin"}},
		{"OPTIONS", "https://evil.example", []string{"Access-Control-Request-Method: GET"}, 405, map[string]string{"Vary": "Origin", "Allow": "GET, HEAD"}},
	} {
		a := call(t, s, c.method, "/v1/topics", "", append(c.headers, "Origin: "+c.origin)...)
		if diff := cmp.Diff(c.want, told(a)); diff != "" || a.status != c.status {
			t.Errorf("%s from %s: %d (-want +got):\n%s", c.method, c.origin, a.status, diff)
		}
	}
	// Off, unless asked for.
	off := call(t, New(Config{}), "OPTIONS", "/v1/topics", "", "Origin: "+app, "Access-Control-Request-Method: GET")
	if diff := cmp.Diff(map[string]string{"Allow": "GET, HEAD"}, told(off)); diff != "" || off.status != 405 {
		t.Errorf("without origins: %d (-want +got):\n%s", off.status, diff)
	}
}

// What a page of another origin sends reaches no handler of a route that changes anything, be it by GET.
func TestCrossOriginWrites(t *testing.T) {
	const app = "https://app.example"
	s := New(Config{CORSOrigins: []string{app}, Shutdown: func() { t.Error("shut down") }})
	for _, route := range s.Routes() {
		method, pattern, _ := strings.Cut(route, " ")
		writes := method != "GET" || toldRoles(route) > RoleRead && !strings.HasPrefix(pattern, "/v1/system-procs")
		for _, c := range []struct {
			headers []string
			other   bool
		}{
			{[]string{"Sec-Fetch-Site: cross-site", "Origin: https://evil.example"}, true},
			{[]string{"Sec-Fetch-Site: same-site", "Origin: https://evil.example.com"}, true},
			{[]string{"Sec-Fetch-Site: cross-site"}, true},
			{[]string{"Origin: https://evil.example"}, true},
			{[]string{"Origin: null"}, true},
			{[]string{"Sec-Fetch-Site: cross-site", "Origin: " + app}, false},
			{[]string{"Sec-Fetch-Site: same-origin", "Origin: http://example.com"}, false},
			{[]string{"Origin: http://example.com"}, false},
			{[]string{"Sec-Fetch-Site: none"}, false},
			{nil, false},
		} {
			if !writes && method == "GET" && toldRoles(route) > RoleRead {
				continue // of an admin's, which but reads
			}
			want := api.CodeInvalidRequest
			if writes && c.other {
				want = api.CodeForbidden
			}
			a := do(t, s, request(method, fill.Replace(pattern)+"?nope=1", "", c.headers...))
			if got := a.code(t); got != want {
				t.Errorf("%s with %v: %d %s, want %s", route, c.headers, a.status, got, want)
			}
		}
	}
}

func TestPagesAreGuarded(t *testing.T) {
	s := New(Config{OpenAPI: []byte("openapi: 3.1.0\n")})
	for _, path := range []string{"/openapi.yaml", "/healthz", "/metrics", "/nowhere", "/v1/topics?nope=<script>"} {
		h := call(t, s, "GET", path, "").header
		if h.Get("X-Content-Type-Options") != "nosniff" || !strings.Contains(h.Get("Content-Security-Policy"), "default-src 'none'") ||
			!strings.Contains(h.Get("Content-Security-Policy"), "frame-ancestors 'none'") || h.Get("Referrer-Policy") != "no-referrer" ||
			h.Get("Cross-Origin-Resource-Policy") != "same-origin" {
			t.Errorf("%s: %v", path, h)
		}
	}
}

func TestOriginsAndHosts(t *testing.T) {
	for origin, ok := range map[string]bool{"https://app.example": true, "http://localhost:3000": true, "http://[::1]:80": true,
		"*": false, "null": false, "app.example": false, "https://app.example/": false, "https://App.example": false,
		"https://u@app.example": false, "https://app.example?x": false, "ftp://app.example": false, "": false, "https://": false} {
		if err := ParseOrigin(origin); (err == nil) != ok {
			t.Errorf("origin %q: %v", origin, err)
		}
	}
	for host, ok := range map[string]bool{"pipeproc.example": true, "PipeProc": true, "192.0.2.1": true, "a:80": false, "": false,
		"*.example": false, "http://a": false, "a/": false} {
		if err := ParseHost(host); (err == nil) != ok {
			t.Errorf("host %q: %v", host, err)
		}
	}
}
