//go:build security && linux

package security

import (
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// launchFull starts a server whose topic "big" holds 40 MiB.
func launchFull(t *testing.T) *server {
	t.Helper()
	s := launch(t)
	log := `{"topic":"big","body":["` + strings.Repeat("x", 512<<10) + `"]}`
	for range 4 {
		s.call("POST", "/v1/commit", "["+strings.Repeat(log+",", 19)+log+"]").is(http.StatusCreated)
	}
	return s
}

// unread asks for path, and reads nothing of the answer.
func (s *server) unread(n int, path string, headers ...string) []*wire {
	s.t.Helper()
	wires := s.wires(n)
	for _, w := range wires {
		_ = w.Conn.(*net.TCPConn).SetReadBuffer(32 << 10)
		w.send("GET " + path + " HTTP/1.1\r\nHost: localhost\r\n" + strings.Join(append(headers, ""), "\r\n") + "\r\n")
	}
	return wires
}

// TestUnreadStreams: streams that are not read are cut off after 10 s; until then they take no more memory than there is for them.
func TestUnreadStreams(t *testing.T) {
	t.Parallel()
	s := launchFull(t)
	s.under(bounds{memory: 1_000, goroutines: 4_000}, func() {
		begun := time.Now()
		lines := s.unread(600, "/v1/topics/big/logs", "Accept: application/x-ndjson")
		tails := s.unread(200, "/v1/tail?topic=big&start=earliest")
		s.eventually("the streams are open", func() bool { f, err := s.figures(); return err == nil && f.streams >= 200 })
		s.eventually("the streams that nobody reads are cut off", func() bool { f, err := s.figures(); return err == nil && f.streams == 0 })
		t.Logf("the streams were cut off after %.1f s", time.Since(begun).Seconds())
		for _, w := range append(lines, tails...) {
			w.reset()
		}
	})
}

// TestUnreadPages: a page that is not read is given up after 30 s for a MiB.
func TestUnreadPages(t *testing.T) {
	t.Parallel()
	s := launchFull(t)
	s.under(bounds{memory: 512, goroutines: 500}, func() {
		begun := time.Now()
		pages := s.unread(15, "/v1/topics/big/logs")
		s.eventually("pages are held", func() bool { f, err := s.figures(); return err == nil && f.bodies > 100<<20 })
		for end := begun.Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
			if f, err := s.figures(); err == nil && f.bodies == 0 {
				break
			}
			if time.Now().After(end) {
				t.Error("pages that nobody reads are held after a minute")
				break
			}
		}
		t.Logf("the pages were given up after %.1f s", time.Since(begun).Seconds())
		for _, w := range pages {
			w.reset()
		}
	})
}

// TestManyPagesUnread: pages that nobody reads share what there is for bodies. Who finds no room is told so.
func TestManyPagesUnread(t *testing.T) {
	t.Parallel()
	s := launchFull(t)
	s.under(bounds{memory: 1_200, goroutines: 1_000, refusals: []string{"overloaded"}}, func() {
		wires := s.unread(60, "/v1/topics/big/logs")
		var mu sync.Mutex
		held, refused := 0, 0
		if err := atOnce(wires, func(w *wire) error {
			_ = w.SetReadDeadline(time.Now().Add(limit))
			line, err := w.r.ReadString('\n')
			mu.Lock()
			defer mu.Unlock()
			switch {
			case strings.HasPrefix(line, "HTTP/1.1 200"):
				held++
			case strings.HasPrefix(line, "HTTP/1.1 503"):
				refused++
			default:
				return fmt.Errorf("%q %w", line, err)
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
		f, err := s.figures()
		if err != nil || f.bodies > maxBodies || held == 0 || refused == 0 {
			t.Errorf("%d pages are held, %d refused, %v, %v", held, refused, f, err)
		}
		t.Logf("%d pages are held, %d refused; RSS %d MiB, %v", held, refused, f.rss>>20, f)
		for _, w := range wires {
			w.reset()
		}
	})
}
