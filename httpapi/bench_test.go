package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

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

// BenchmarkRequest is what a request costs from the router to the answer, with a store and a connection that cost nothing.
func BenchmarkRequest(b *testing.B) {
	s := New(Config{Logs: logs{commit: func(l []api.NewLog, _ *api.IdempotencyKey) (api.Committed, error) {
		return api.Committed{IDs: make([]api.ID, len(l))}, nil
	}}})
	for _, c := range []struct {
		name, method, path, body string
		status                   int
	}{
		{"healthz", "GET", "/healthz", "", 200},
		{"commit", "POST", "/v1/commit", `{"topic":"orders","body":` + benchBody + `}`, 201},
		{"commit body", "POST", "/v1/topics/orders/logs", benchBody, 201},
	} {
		b.Run(c.name, func(b *testing.B) {
			ctx := context.WithValue(b.Context(), http.LocalAddrContextKey, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 8080})
			prototype := httptest.NewRequestWithContext(ctx, c.method, "http://127.0.0.1:8080"+c.path, strings.NewReader(c.body))
			prototype.RemoteAddr = "127.0.0.1:50000"
			if c.body != "" {
				prototype.Header.Set("Content-Type", "application/json")
			}
			body := strings.NewReader(c.body)
			b.ReportAllocs()
			for b.Loop() {
				body.Reset(c.body)
				r := *prototype
				r.Body = io.NopCloser(body)
				w := nowhere{header: http.Header{}}
				s.ServeHTTP(&w, &r)
				if w.status != c.status {
					b.Fatal(w.status, http.StatusText(w.status))
				}
			}
		})
	}
}

// nowhere is where an answer costs nothing.
type nowhere struct {
	header http.Header
	status int
}

func (w *nowhere) Header() http.Header                { return w.header }
func (w *nowhere) WriteHeader(status int)             { w.status = status }
func (w *nowhere) Write(b []byte) (int, error)        { return len(b), nil }
func (w *nowhere) SetReadDeadline(_ time.Time) error  { return nil }
func (w *nowhere) SetWriteDeadline(_ time.Time) error { return nil }

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
