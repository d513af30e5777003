package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/google/go-cmp/cmp"

	"pipeproc"
	"pipeproc/api"
	"pipeproc/httpapi"
	"pipeproc/livestream"
	"pipeproc/pgstore"
	"pipeproc/pgstore/pgtest"
)

// The routes of the server are the paths of openapi.yaml, both ways.
func TestRoutesAreDocumented(t *testing.T) {
	t.Parallel()
	doc, err := openapi3.NewLoader().LoadFromData(pipeproc.OpenAPI)
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]bool{}
	for path, item := range doc.Paths.Map() {
		for method := range item.Operations() {
			documented[method+" "+path] = true
		}
	}
	routed := map[string]bool{}
	for _, route := range httpapi.New(httpapi.Config{Shutdown: func() {}}).Routes() {
		routed[route] = true
	}
	if diff := cmp.Diff(documented, routed); diff != "" {
		t.Errorf("routes (-documented +routed):\n%s", diff)
	}
}

// The query parameters that are documented are those that the routes take: others are refused with invalid_request, by
// name, before anything else is looked at.
func TestQueryParametersAreDocumented(t *testing.T) {
	t.Parallel()
	doc, err := openapi3.NewLoader().LoadFromData(pipeproc.OpenAPI)
	if err != nil {
		t.Fatal(err)
	}
	w := wireTo(t, start(t))
	names := map[string]bool{"nope": true}
	type operation struct {
		method, path string
		takes        map[string]bool
	}
	var all []operation
	for path, item := range doc.Paths.Map() {
		for method, op := range item.Operations() {
			o := operation{method, strings.NewReplacer("{topic}", "t", "{proc}", "p", "{name}", "n", "{id}", ":0").Replace(path), map[string]bool{}}
			for _, p := range append(item.Parameters, op.Parameters...) {
				if p.Value.In == "query" {
					o.takes[p.Value.Name], names[p.Value.Name] = true, true
				}
			}
			all = append(all, o)
		}
	}
	for _, o := range all {
		if o.path == "/v1/shutdown" {
			continue // not there
		}
		for name := range names {
			// Given twice, with values that none of them has: refused either way, and told why.
			a := w.send(o.method, o.path+"?"+name+"=%20&"+name+"=%20", "").is(400)
			refused := strings.HasPrefix(a.str("detail"), "unknown query parameter")
			if refused == o.takes[name] {
				t.Errorf("%s %s: parameter %s is documented: %t; %s", o.method, o.path, name, o.takes[name], a.str("detail"))
			}
		}
	}
}

// tellMissing lists the documented answers that no test of the run produced. Some of them no test of this package can
// produce: API keys and rate limits are not there to refuse anything.
func tellMissing(w io.Writer) {
	for _, answer := range contract.Missing() {
		fmt.Fprintln(w, "never answered:", answer)
	}
}

// inProcess brings requests to a handler without a connection, and cuts what would not end by itself: streams at their
// first event, and whatever waits.
type inProcess struct {
	http.Handler
	patience time.Duration
}

// errCut is the end of an exchange that the handler cut off, as it may when its client goes away.
var errCut = errors.New("the connection was cut")

// RoundTrip implements http.RoundTripper.
func (h inProcess) RoundTrip(r *http.Request) (resp *http.Response, err error) {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer time.AfterFunc(h.patience, cancel).Stop()
	defer func() {
		if p := recover(); p == http.ErrAbortHandler {
			resp, err = nil, errCut
		} else if p != nil {
			panic(p)
		}
	}()
	w := &hastyRecorder{ResponseRecorder: httptest.NewRecorder(), leave: cancel}
	h.ServeHTTP(w, r.WithContext(ctx))
	return w.Result(), nil
}

// hastyRecorder is a client that leaves a stream when it has seen something of it.
type hastyRecorder struct {
	*httptest.ResponseRecorder
	mu    sync.Mutex
	leave func()
}

func (w *hastyRecorder) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if strings.HasPrefix(w.Header().Get("Content-Type"), "text/event-stream") {
		defer w.leave()
	}
	return w.ResponseRecorder.Write(b)
}

func (w *hastyRecorder) Flush() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ResponseRecorder.Flush()
}

func (*hastyRecorder) SetReadDeadline(time.Time) error  { return nil }
func (*hastyRecorder) SetWriteDeadline(time.Time) error { return nil }

// FuzzRequest sends any request to the surface on a real store: whatever it is, the answer is a documented one, never a
// 5xx, and nothing panics.
func FuzzRequest(f *testing.F) {
	store, err := pgstore.Open(f.Context(), pgstore.Config{URL: pgtest.Database(f), UnsafeDurability: true, Logger: pgtest.Logger()})
	if err != nil {
		f.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = store.Run(ctx) })
	streams := livestream.New(livestream.Config{LiveProcs: store, Procs: store, Tailer: store, Watcher: store, Logger: pgtest.Logger()})
	f.Cleanup(func() {
		streams.Close()
		cancel()
		running.Wait()
		store.Close()
	})
	h := inProcess{httpapi.New(httpapi.Config{Logs: store, Topics: store, Procs: store, SystemProcs: store, LiveProcs: store, Collector: store,
		Health: store, Streams: streams, OpenAPI: pipeproc.OpenAPI, MinPruneTime: 0, Shutdown: func() {}, Logger: pgtest.Logger()}),
		100 * time.Millisecond}

	if _, err := store.Commit(f.Context(), []api.NewLog{{Topic: "t", Body: []byte(`{}`)}, {Topic: "t", Body: []byte(`[]`)}}, nil); err != nil {
		f.Fatal(err)
	}
	for _, seed := range fuzzSeeds {
		f.Add(seed.method, seed.path, seed.query, []byte(seed.body), seed.header)
	}
	f.Fuzz(func(t *testing.T, method, path, query string, body []byte, header string) {
		target := &url.URL{Scheme: "http", Host: "server", Path: "/" + strings.TrimPrefix(path, "/"), RawQuery: query}
		if raw, err := url.PathUnescape(target.Path); err == nil && raw != target.Path {
			target.Path, target.RawPath = raw, target.Path // as net/http reads a path with escapes
		}
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", bytes.NewReader(body))
		r.Method, r.URL, r.RequestURI = method, target, target.RequestURI()
		if method == "" {
			r.Method = http.MethodGet
		}
		if len(body) > 0 {
			r.Header.Set("Content-Type", "application/json")
		}
		name, value, _ := strings.Cut(header, ":")
		if name != "" {
			r.Header.Set(name, value)
		}
		resp, err := contract.Transport(h, t.Errorf).RoundTrip(r)
		if errors.Is(err, errCut) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if resp.StatusCode >= 500 {
			text, _ := io.ReadAll(resp.Body)
			t.Errorf("%s %s: %d %s", method, target, resp.StatusCode, text)
		}
	})
}

// fuzzSeeds touch every route, well and badly.
var fuzzSeeds = []struct{ method, path, query, body, header string }{
	{"POST", "/v1/commit", "", `{"topic":"t","body":{"a":1e400}}`, ""},
	{"POST", "/v1/commit", "", `[{"topic":"t","body":[]},{"topic":"u","body":["\u0000\ud800"]}]`, "Idempotency-Key:k"},
	{"POST", "/v1/commit", "", `{"topic":"\u0000","body":{}}`, "Idempotency-Key:\x00"},
	{"POST", "/v1/topics/t/logs", "", `{"a":1,"a":2}`, "Content-Type:text/plain"},
	{"POST", "/v1/topics/t%00/logs", "", "[\"\xff\"]", ""},
	{"GET", "/v1/topics", "limit=1&after=t", "", ""},
	{"GET", "/v1/topics/t", "", "", ""},
	{"GET", "/v1/topics/%zz", "%zz", "", ""},
	{"GET", "/v1/topics/t/logs", "start=0-0&end=9223372036854775807-9223372036854775807&exclusive=true&limit=1", "", ""},
	{"GET", "/v1/topics/t/logs", "start=9223372036854775807&end=0&direction=reverse", "", ""},
	{"GET", "/v1/topics/t/logs", "start=:9223372036854775807&limit=10000", "", ""},
	{"GET", "/v1/topics/t/logs", "limit=1&direction=reverse", "", "Accept:application/x-ndjson"},
	{"GET", "/v1/topics/t/logs", "start=earliest&lastEventId=t~1.0", "", "Accept:text/event-stream, */*;q=0.1"},
	{"GET", "/v1/topics/t/logs/:0", "", "", ""},
	{"GET", "/v1/topics/t/logs/9223372036854775807-9223372036854775807", "", "", ""},
	{"GET", "/v1/topics/t/logs/:%00", "", "", ""},
	{"PUT", "/v1/procs/p", "", `{"topic":"t","offset":":9223372036854775806","count":10000,"maxReclaims":-1,"reclaimTimeout":31536000000}`, ""},
	{"POST", "/v1/procs/p/claim", "", `{"topic":"t","wait":60000}`, ""},
	{"POST", "/v1/procs/q/claim", "", `{"topic":"t","offset":"0-9223372036854775807","onMaxReclaimsReached":"continue"}`, ""},
	{"POST", "/v1/procs/r/claim", "", `{"topic":"t","offset":"9223372036854775807-9223372036854775807"}`, ""},
	{"POST", "/v1/procs/r/claim", "", `{"topic":"t","offset":"9223372036854775807"}`, ""},
	{"POST", "/v1/claims", "", `{"procs":[{"name":"q","topic":"t"},{"name":"v","topic":"u","offset":"$>"}]}`, ""},
	{"POST", "/v1/procs/q/ack", "", `{"token":"\u0000"}`, ""},
	{"POST", "/v1/procs/q/ack", "", ``, ""},
	{"POST", "/v1/procs/q/ack-commit", "", `{"logs":[{"topic":"t","body":{}}]}`, ""},
	{"POST", "/v1/procs/q/reclaim", "", `{"token":"\ud800"}`, ""},
	{"POST", "/v1/procs/q/extend", "", `{"token":"x"}`, ""},
	{"POST", "/v1/procs/p/seek", "", `{"offset":":9223372036854775806"}`, ""},
	{"POST", "/v1/procs/p/seek", "", `{"offset":"0"}`, ""},
	{"PATCH", "/v1/procs/p", "", `{"maxReclaims":2147483647,"count":1}`, ""},
	{"POST", "/v1/procs/p/disable", "", ``, ""},
	{"POST", "/v1/procs/p/resume", "", `{}`, ""},
	{"GET", "/v1/procs/p", "", "", ""},
	{"GET", "/v1/procs", "topic=t&kind=proc&limit=1000&after=a", "", ""},
	{"DELETE", "/v1/procs/p", "", "", ""},
	{"POST", "/v1/wait", "", `{"timeout":60000}`, ""},
	{"POST", "/v1/wait", "", `{"procs":["q"],"timeout":0}`, ""},
	{"POST", "/v1/wait", "", `{"upTo":{"q":"0-9223372036854775807"},"timeout":0}`, ""},
	{"POST", "/v1/system-procs", "", `{"name":"s","from":["t","u"],"to":"o","processor":{"url":"http://127.0.0.1:1/","headers":{"a":"\u0000"}}}`, ""},
	{"POST", "/v1/system-procs", "", `{"name":"s","from":["t"],"processor":"http://127.0.0.1:1/\u0000"}`, ""},
	{"POST", "/v1/system-procs", "", `{"name":"s","from":"t","processor":{"url":"http://127.0.0.1:1/%00","headers":{"a":"\ud800"}},"count":1}`, ""},
	{"PATCH", "/v1/system-procs/s", "", `{"to":["a","b"],"processor":{"inline":"\u0000"}}`, ""},
	{"GET", "/v1/system-procs", "limit=1", "", ""},
	{"GET", "/v1/system-procs/s", "", "", ""},
	{"POST", "/v1/system-procs", "", `{"name":"s","from":["t","u"],"processor":"http://127.0.0.1:1/","secret":"whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}`, ""},
	{"POST", "/v1/system-procs/s/rotate-secret", "", `{"secret":"whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA","overlap":2592000000}`, ""},
	{"DELETE", "/v1/system-procs/s", "", "", ""},
	{"POST", "/v1/live-procs", "", `{"topic":"t","mode":"all","ttl":31536000000,"count":10000}`, ""},
	{"POST", "/v1/live-procs/liveproc-x/cancel", "", ``, ""},
	{"DELETE", "/v1/live-procs/liveproc-x", "", ``, ""},
	{"GET", "/v1/live-procs/liveproc-x/changes", "", "", "Last-Event-ID:liveproc-x:9223372036854775807:"},
	{"GET", "/v1/topics/t/live", "mode=all&count=10000&ttl=1", "", ""},
	{"GET", "/v1/topics/t/live", "lastEventId=liveproc-x:1:9223372036854775807-9223372036854775807", "", ""},
	{"GET", "/v1/tail", "topic=t&topic=u&start=earliest", "", ""},
	{"GET", "/v1/tail", "topic=t&start=:0", "", "Last-Event-ID:t~9223372036854775807.9223372036854775807!"},
	{"GET", "/v1/tail", "topic=t&start=9223372036854775807-9223372036854775807", "", ""},
	{"DELETE", "/v1/topics/u", "force=true", "", ""},
	{"POST", "/v1/gc", "", `{}`, ""},
	{"GET", "/v1/gc", "", "", ""},
	{"POST", "/v1/shutdown", "", ``, ""},
	{"GET", "/healthz", "", "", ""},
	{"GET", "/readyz", "", "", ""},
	{"GET", "/metrics", "", "", ""},
	{"HEAD", "/openapi.yaml", "", "", ""},
	{"OPTIONS", "/v1/%2e%2e/topics", "a;b", "x", "Expect:100-continue"},
	{"\x00", "//", "", "", ""},
}
