package livestream

import (
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pipeproc/api"
	"pipeproc/livestream/ssetest"
)

// A paper is a response that reaches nobody.
type paper struct{ *httptest.ResponseRecorder }

func (paper) SetReadDeadline(time.Time) error  { return nil }
func (paper) SetWriteDeadline(time.Time) error { return nil }

// TestStreamsEndWithinTheirAge: streams that begin at one moment end in the last fifth of their age, spread over all of it,
// so that their clients do not come back in a herd; and each of them between two events, with nothing else to tell.
func TestStreamsEndWithinTheirAge(t *testing.T) {
	const streams, parts = 200, 5
	for kind, path := range map[string]func(*testing.T, *memory) string{
		"tail":      func(*testing.T, *memory) string { return "/v1/tail?topic=a" },
		"its topic": func(*testing.T, *memory) string { return "/v1/topics/a/logs" },
		"liveProc": func(t *testing.T, m *memory) string {
			_, path := liveProc(t, m, "a", api.ModeAll)
			return path
		},
		"live": func(*testing.T, *memory) string { return "/v1/topics/a/live" },
	} {
		t.Run(kind, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMemory()
				s := New(Config{LiveProcs: m, Procs: m, Tailer: m, Watcher: m, Logger: slog.New(slog.DiscardHandler)})
				defer s.Close()
				routes := s.routes()
				var spread [parts]int
				var mu sync.Mutex
				var all sync.WaitGroup
				begun := time.Now()
				for range streams {
					w, r := paper{httptest.NewRecorder()}, httptest.NewRequest(http.MethodGet, path(t, m), nil)
					all.Go(func() {
						routes.ServeHTTP(w, r)
						age := time.Since(begun)
						part := int((age - s.MaxAge*4/5) * parts / (s.MaxAge / 5))
						if age < s.MaxAge*4/5 || age > s.MaxAge {
							t.Errorf("a stream ended after %v", age)
							return
						}
						mu.Lock()
						spread[min(part, parts-1)]++
						mu.Unlock()
						read := ssetest.NewReader(w.Body)
						e, err := read.Next()
						for beats := 0; err == nil; e, err = read.Next() {
							if e.Comment != "" {
								beats++
							}
							if e.Dispatched && (e.Type != "liveproc" || beats > 0) {
								t.Errorf("the event %q after %d heartbeats", e.Type, beats)
							}
						}
						if !errors.Is(err, io.EOF) {
							t.Error(err)
						}
						if read.LastEventID() == "" {
							t.Error("there is no id to resume after")
						}
					})
				}
				all.Wait()
				for i, n := range spread { // 40 each on the average
					if n < 10 {
						t.Errorf("%d of %d streams ended in part %d of %d", n, streams, i, parts)
					}
				}
			})
		})
	}
}
