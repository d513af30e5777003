package httpapi

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"pipeproc/api"
)

// fuzzed answers r, which must be answered, and never with a fault of the server.
func fuzzed(t *testing.T, s http.Handler, r *http.Request) *httptest.ResponseRecorder {
	t.Helper()
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	if w.Code >= 500 {
		t.Fatalf("%s %s: %d %s", r.Method, r.URL, w.Code, w.Body)
	}
	if w.Code >= 400 {
		answered{w.Code, w.Header(), w.Body.String()}.code(t)
	}
	return w
}

// FuzzDecodeRequest sends any bytes to every route that takes a body.
func FuzzDecodeRequest(f *testing.F) {
	for i, b := range bodies {
		f.Add(uint8(i), []byte(b.good))
		f.Add(uint8(i), []byte(""))
		f.Add(uint8(i), []byte("null"))
		f.Add(uint8(i), []byte(`{"processor":{"url":"http://[::1"},"name":"s","from":["a",null]}`))
	}
	f.Fuzz(func(t *testing.T, route uint8, body []byte) {
		b := bodies[int(route)%len(bodies)]
		calls := 0
		w := fuzzed(t, willing(&calls), request(b.method, b.path, string(body)))
		if b.path == "/v1/stream-tickets" {
			return // which no store hears of
		}
		if done := w.Code < 300; done != (calls == 1) || calls > 1 {
			t.Errorf("%s %s %q: %d after %d calls", b.method, b.path, body, w.Code, calls)
		}
	})
}

// FuzzDecodeLogs checks what is committed of any bytes: good topics and bodies, 1 to 10,000 of them.
func FuzzDecodeLogs(f *testing.F) {
	for _, text := range bodyTexts {
		f.Add([]byte(`{"topic":"t","body":` + text + `}`))
		f.Add([]byte(`[{"topic":"t","body":` + text + `}, {"body":{},"topic":"u"}]`))
	}
	f.Add([]byte(`[]`))
	f.Add([]byte(`{"topic":"\ud800","body":{}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		l, err := readLogs(data)
		if err != nil {
			if api.CodeOf(err) == api.CodeInternal {
				t.Fatalf("%q: %v", data, err)
			}
			return
		}
		if len(l.logs) < 1 || len(l.logs) > api.MaxCommitLogs || l.one && len(l.logs) != 1 {
			t.Fatalf("%q: %d logs, one %t", data, len(l.logs), l.one)
		}
		for _, log := range l.logs {
			again, err := api.LogBody(log.Body)
			if err != nil || string(again) != string(log.Body) || api.CheckTopic(log.Topic) != nil {
				t.Fatalf("%q: committed %q %q: %v", data, log.Topic, log.Body, err)
			}
		}
	})
}

// FuzzDecodeQuery sends any query and any id to the routes that read logs.
func FuzzDecodeQuery(f *testing.F) {
	for _, query := range []string{"", "start=1-2&end=:5&limit=3&exclusive=true&direction=reverse", "limit=-1", "start=%00", "a=1;b=2",
		"start=9223372036854775808", "start=1&start=2", "%"} {
		f.Add(query, ":5")
		f.Add(query, "1-2")
	}
	f.Fuzz(func(t *testing.T, query, id string) {
		s := New(Config{Logs: logs{
			rng: func(_ string, q api.RangeQuery) (api.Page, error) {
				if q.Limit < 1 || q.Limit > api.MaxPageLogs {
					t.Errorf("%q: limit %d", query, q.Limit)
				}
				for _, b := range []api.Bound{q.Start, q.End} {
					if b.ID.TS < 0 || b.ID.Seq < 0 {
						t.Errorf("%q: bound %+v", query, b)
					}
				}
				return api.Page{}, nil
			},
			log: func(_ string, at api.Bound) (api.Log, error) {
				if at.Form != api.BoundID && at.Form != api.BoundSeq || at.ID.TS < 0 || at.ID.Seq < 0 {
					t.Errorf("%q: %+v", id, at)
				}
				return api.Log{Body: []byte("{}")}, nil
			},
		}})
		r := request("GET", "/v1/topics/t/logs", "")
		r.URL.RawQuery = query
		fuzzed(t, s, r)
		r = request("GET", "/v1/topics/t/logs/:0", "")
		r.URL.Path, r.URL.RawPath = "/v1/topics/t/logs/"+id, ""
		fuzzed(t, s, r)
		r = request("GET", "/v1/topics/t/logs/:0", "")
		r.URL.Path, r.URL.RawPath = "/v1/topics/t/logs/x", "/v1/topics/t/logs/"+strings.ReplaceAll(id, "/", "%2F")
		fuzzed(t, s, r)
	})
}
