package httpapi

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"pipeproc/api"
)

// surface is DESIGN section 4, route by route.
var surface = []string{
	"GET /healthz",
	"GET /metrics",
	"GET /openapi.yaml",
	"GET /readyz",
	"POST /v1/claims",
	"POST /v1/commit",
	"GET /v1/gc",
	"POST /v1/gc",
	"POST /v1/live-procs",
	"DELETE /v1/live-procs/{name}",
	"POST /v1/live-procs/{name}/cancel",
	"GET /v1/live-procs/{name}/changes",
	"GET /v1/procs",
	"DELETE /v1/procs/{proc}",
	"GET /v1/procs/{proc}",
	"PATCH /v1/procs/{proc}",
	"PUT /v1/procs/{proc}",
	"POST /v1/procs/{proc}/ack",
	"POST /v1/procs/{proc}/ack-commit",
	"POST /v1/procs/{proc}/claim",
	"POST /v1/procs/{proc}/disable",
	"POST /v1/procs/{proc}/extend",
	"POST /v1/procs/{proc}/reclaim",
	"POST /v1/procs/{proc}/resume",
	"POST /v1/procs/{proc}/seek",
	"POST /v1/shutdown",
	"POST /v1/stream-tickets",
	"GET /v1/system-procs",
	"POST /v1/system-procs",
	"DELETE /v1/system-procs/{name}",
	"GET /v1/system-procs/{name}",
	"PATCH /v1/system-procs/{name}",
	"POST /v1/system-procs/{name}/rotate-secret",
	"GET /v1/tail",
	"GET /v1/topics",
	"DELETE /v1/topics/{topic}",
	"GET /v1/topics/{topic}",
	"GET /v1/topics/{topic}/live",
	"GET /v1/topics/{topic}/logs",
	"POST /v1/topics/{topic}/logs",
	"GET /v1/topics/{topic}/logs/{id}",
	"POST /v1/wait",
}

// fill gives a pattern good names.
var fill = strings.NewReplacer("{topic}", "t", "{proc}", "p", "{name}", "n", "{id}", ":0")

func TestRoutes(t *testing.T) {
	if diff := cmp.Diff(surface, New(Config{Shutdown: func() {}}).Routes()); diff != "" {
		t.Errorf("surface (-want +got):\n%s", diff)
	}
	without := slices.DeleteFunc(slices.Clone(surface), func(s string) bool { return s == "POST /v1/shutdown" })
	if diff := cmp.Diff(without, New(Config{}).Routes()); diff != "" {
		t.Errorf("surface without shutdown (-want +got):\n%s", diff)
	}
	call(t, New(Config{}), "POST", "/v1/shutdown", "").wantsProblem(t, 404, api.CodeNotFound)
}

func TestEveryRouteRefusesUnknownAndRepeatedParameters(t *testing.T) {
	s := New(Config{Shutdown: func() { t.Error("shut down") }})
	for _, route := range surface {
		method, pattern, _ := strings.Cut(route, " ")
		for _, query := range []string{"?nope=1", "?=", "?Limit=1", "?limit=1&limit=2", "?start=1&start=1", "?mode=all&mode=all",
			"?a;b", "?%zz", "?topic%E2%80%A6=a"} {
			a := call(t, s, method, fill.Replace(pattern)+query, "")
			if got := a.code(t); a.status != 400 || got != api.CodeInvalidRequest {
				t.Errorf("%s%s: %d %s", route, query, a.status, got)
			}
		}
	}
}

func TestEveryRouteChecksNames(t *testing.T) {
	s := New(Config{})
	for _, route := range surface {
		method, pattern, _ := strings.Cut(route, " ")
		for _, bad := range []string{"a.b", "%20", "%61%2F", "%00", "%FF", strings.Repeat("x", 129), "é"} {
			path, code := pattern, api.Code("")
			switch {
			case strings.Contains(pattern, "{topic}"):
				path, code = strings.Replace(path, "{topic}", bad, 1), api.CodeInvalidTopicFormat
			case strings.Contains(pattern, "{proc}"), strings.Contains(pattern, "{name}"):
				path = strings.NewReplacer("{proc}", bad, "{name}", bad).Replace(path)
				code = api.CodeInvalidProcFormat
			default:
				continue
			}
			call(t, s, method, fill.Replace(path), "{").wantsProblem(t, 400, code)
		}
	}
}

func TestEscapedPath(t *testing.T) {
	s := New(Config{Logs: logs{log: func(topic string, at api.Bound) (api.Log, error) {
		return api.Log{ID: at.ID, Body: []byte(`{"topic":"` + topic + `"}`)}, nil
	}}})
	for _, path := range []string{"/v1/topics/abc/logs/:5", "/v1/topics/%61bc/logs/%3A5", "/v1/topics/abc/logs/%3a5"} {
		call(t, s, "GET", path, "").wants(t, 200, `{"id":"0-5","body":{"topic":"abc"}}`)
	}
	// Unescaped once, not twice.
	call(t, s, "GET", "/v1/topics/%2561bc/logs/:5", "").wantsProblem(t, 400, api.CodeInvalidTopicFormat)
}

func TestNotFound(t *testing.T) {
	s := New(Config{})
	for _, path := range []string{"/", "/v1", "/v1/", "/v2/topics", "/v1/topics/", "/v1/topics/t/", "/v1/topics/t/logs/",
		"/v1/topics/t/nope?x=1", "/v1/procs/p/claim/x", "/v1//topics", "/metrics/", "/V1/topics", "/v1/topics/bad%20name/nope"} {
		for _, method := range []string{"GET", "HEAD", "POST", "DELETE", "OPTIONS", "PROPFIND"} {
			a := call(t, s, method, path, "")
			if got := a.code(t); a.status != 404 || got != api.CodeNotFound {
				t.Errorf("%s %s: %d %s", method, path, a.status, got)
			}
		}
	}
}

func TestMethodNotAllowed(t *testing.T) {
	s := New(Config{Shutdown: func() {}})
	allow := map[string][]string{} // by pattern
	for _, route := range surface {
		method, pattern, _ := strings.Cut(route, " ")
		allow[pattern] = append(allow[pattern], method)
		if method == "GET" {
			allow[pattern] = append(allow[pattern], "HEAD")
		}
	}
	for pattern, allowed := range allow {
		for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "NOPE"} {
			if slices.Contains(allowed, method) {
				continue
			}
			a := call(t, s, method, fill.Replace(pattern)+"?any=1", "")
			a.wantsProblem(t, 405, api.CodeMethodNotAllowed)
			got := strings.Split(a.header.Get("Allow"), ", ")
			slices.Sort(got)
			slices.Sort(allowed)
			if diff := cmp.Diff(allowed, got); diff != "" {
				t.Errorf("%s %s: Allow (-want +got):\n%s", method, pattern, diff)
			}
		}
	}
}

func TestHeadWorksWhereGetDoes(t *testing.T) {
	s := New(Config{
		OpenAPI: []byte("openapi: 3.1.0\n"),
		Logs: logs{rng: func(string, api.RangeQuery) (api.Page, error) { return api.Page{}, nil },
			log: func(string, api.Bound) (api.Log, error) { return api.Log{Body: []byte("{}")}, nil }},
		Topics: topics{topic: func(string) (api.Topic, error) { return api.Topic{}, nil },
			list: func(string, int) (api.TopicList, error) { return api.TopicList{}, nil }},
		Procs: procs{one: func(string, string) (api.Proc, error) { return api.Proc{}, nil },
			list: func(api.ProcQuery) (api.ProcList, error) { return api.ProcList{}, nil }},
		SystemProcs: systemProcs{one: func(string, string) (api.SystemProc, error) { return api.SystemProc{}, nil },
			list: func(string, int) (api.SystemProcList, error) { return api.SystemProcList{}, nil }},
		Collector: collector{last: func() (api.GCRun, error) { return api.GCRun{}, nil }},
		Streams: streams(func(what string, w http.ResponseWriter, r *http.Request) error {
			w.Header().Set("Content-Type", "text/"+what)
			w.WriteHeader(http.StatusOK)
			return nil
		}),
	})
	s.Health = healthy
	server := serve(t, s)
	for _, route := range surface {
		method, pattern, _ := strings.Cut(route, " ")
		if method != "GET" || strings.HasSuffix(pattern, "/live") || strings.HasSuffix(pattern, "/changes") ||
			strings.HasSuffix(pattern, "/tail") || pattern == "/metrics" { // below
			continue
		}
		head, headBody := send1(t, server, "HEAD", fill.Replace(pattern))
		get, getBody := send1(t, server, "GET", fill.Replace(pattern))
		if head.StatusCode != 200 || get.StatusCode != 200 || headBody != "" || getBody == "" ||
			head.ContentLength != int64(len(getBody)) || head.Header.Get("Content-Type") != get.Header.Get("Content-Type") {
			t.Errorf("%s: HEAD %d %d %q, GET %d %q", pattern, head.StatusCode, head.ContentLength, headBody, get.StatusCode, getBody)
		}
	}
	for _, path := range []string{"/metrics", "/v1/tail?topic=a&topic=b", "/v1/topics/t/live?mode=all", "/v1/live-procs/n/changes"} {
		head, body := send1(t, server, "HEAD", path)
		if head.StatusCode != 200 || body != "" || !strings.HasPrefix(head.Header.Get("Content-Type"), "text/") {
			t.Errorf("HEAD %s: %d %q %q", path, head.StatusCode, head.Header.Get("Content-Type"), body)
		}
	}
	call(t, s, "HEAD", "/v1/topics/a.b/live", "").wantsProblem(t, 400, api.CodeInvalidTopicFormat)
}
