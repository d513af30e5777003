package httpapi

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"pipeproc/api"
)

const benchBody = `{"text":"` + "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx" + `"}`

// BenchmarkReadLogs decodes the body of a commit.
func BenchmarkReadLogs(b *testing.B) {
	log := `{"topic":"orders","body":` + benchBody + `}`
	for _, n := range []int{1, 100, 1_000} {
		data := []byte("[" + strings.TrimSuffix(strings.Repeat(log+",", n), ",") + "]")
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				if l, err := readLogs(data); err != nil || len(l.logs) != n {
					b.Fatal(len(l.logs), err)
				}
			}
		})
	}
}

// BenchmarkRequest is what a request costs from the router to the answer, with a store that costs nothing.
func BenchmarkRequest(b *testing.B) {
	s := New(Config{Logs: logs{commit: func(l []api.NewLog, _ *api.IdempotencyKey) (api.Committed, error) {
		return api.Committed{IDs: make([]api.ID, len(l))}, nil
	}}})
	for name, r := range map[string]struct {
		method, path, body string
		status             int
	}{
		"no-op":  {"GET", "/healthz", "", 200},
		"commit": {"POST", "/v1/topics/orders/logs", benchBody, 201},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				req := httptest.NewRequestWithContext(b.Context(), r.method, r.path, strings.NewReader(r.body))
				if r.body != "" {
					req.Header.Set("Content-Type", "application/json")
				}
				w := httptest.NewRecorder()
				s.ServeHTTP(w, req)
				if w.Code != r.status {
					b.Fatal(w.Code, http.StatusText(w.Code))
				}
			}
		})
	}
}

func BenchmarkEncodeLogs(b *testing.B) {
	page := make([]api.Log, 1_000)
	for i := range page {
		page[i] = api.Log{ID: id(1518951480106, int64(i)), Body: json.RawMessage(benchBody)}
	}
	b.ReportAllocs()
	for b.Loop() {
		var buf bytes.Buffer
		encodeLogs(&buf, page)
		b.SetBytes(int64(buf.Len()))
	}
}
