//go:build security && linux

package security

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const healthz = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"

// wires opens n connections.
func (s *server) wires(n int) []*wire {
	s.t.Helper()
	all := make([]*wire, n)
	for i := range all {
		all[i] = s.wire()
	}
	return all
}

// atOnce calls f for each of the connections, some hundred at a time, and answers the first errors.
func atOnce(wires []*wire, f func(w *wire) error) error {
	var all sync.WaitGroup
	errs := make(chan error, len(wires))
	turn := make(chan struct{}, 250)
	for _, w := range wires {
		turn <- struct{}{}
		all.Go(func() {
			defer func() { <-turn }()
			if err := f(w); err != nil {
				errs <- err
			}
		})
	}
	all.Wait()
	close(errs)
	if n := len(errs); n > 0 {
		return fmt.Errorf("%d of %d, as: %w", n, len(wires), <-errs)
	}
	return nil
}

// asks sends a request for /healthz and reads its answer.
func (w *wire) asks(status int) error {
	w.send(healthz)
	a, err := w.answer("GET")
	if err != nil {
		return err
	}
	if a.status != status {
		return fmt.Errorf("%d %s", a.status, a.body)
	}
	return nil
}

// TestIdleConnections: 10,000 connections that have asked once and stay take little memory, and slow nobody down. As many that
// never ask are gone after 10 s.
func TestIdleConnections(t *testing.T) {
	t.Parallel()
	const connections = 10_000
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		t.Fatal(err)
	}
	if files.Cur < connections+1_000 {
		t.Fatalf("this needs %d open files (ulimit -n), and may have %d", connections+1_000, files.Cur)
	}
	s := launch(t)
	s.under(bounds{memory: 300, goroutines: connections + 500}, func() {
		var wires []*wire
		for len(wires) < connections { // before those that wait for their turn are taken for slow ones
			more := s.wires(500)
			if err := atOnce(more, func(w *wire) error { return w.asks(http.StatusOK) }); err != nil {
				t.Error("the idle ones: ", err)
			}
			wires = append(wires, more...)
		}
		f, err := s.figures()
		if err != nil || f.connections < connections {
			t.Errorf("%v, %v; want %d connections", f, err, connections)
		}
		t.Logf("%d idle connections: RSS %d MiB, %v", connections, f.rss>>20, f)
		if err := atOnce(wires, func(w *wire) error { return w.asks(http.StatusOK) }); err != nil {
			t.Error("the idle ones, once more: ", err)
		}
		for _, w := range wires {
			w.reset()
		}
	})
	s.under(bounds{memory: 300, goroutines: connections + 500}, func() {
		begun := time.Now()
		wires := s.wires(connections)
		for _, w := range wires {
			if text, err := w.end(headerTime + slack); err != nil || text != "" {
				t.Fatalf("a silent one: %q, %v", text, err)
			}
			w.reset()
		}
		if took := time.Since(begun); took > headerTime+2*slack {
			t.Errorf("they were gone after %s", took)
		}
	})
}

// TestConnectionsBeyond: when all connections that there may be are taken, each further one is told so and closed; the Unix socket
// stays open to those who may use it, and one that closes makes room for another.
func TestConnectionsBeyond(t *testing.T) {
	t.Parallel()
	const most = 200
	s := launch(t, "--max-connections", fmt.Sprint(most))
	s.under(bounds{memory: 64, goroutines: most + 400, aside: true}, func() {
		s.straight.CloseIdleConnections()
		s.eventually("no connection is open", func() bool { f, err := s.figures(); return err == nil && f.connections == 0 })
		full := s.wires(most)
		if err := atOnce(full, func(w *wire) error { return w.asks(http.StatusOK) }); err != nil {
			t.Fatal(err)
		}
		for range 20 { // one by one each is told
			w := s.wire()
			w.send(healthz)
			a, err := w.answer("GET")
			if err != nil {
				t.Fatal(err)
			}
			a.isProblem(http.StatusServiceUnavailable, "overloaded")
			if a.header.Get("Retry-After") == "" {
				t.Errorf("no Retry-After: %v", a.header)
			}
			if rest, err := w.end(limit); err != nil || rest != "" {
				t.Errorf("and then %q, %v", rest, err)
			}
		}
		told := 0
		var mu sync.Mutex
		flood := s.wires(3_000) // as many at once as come: told or not, each is closed
		if err := atOnce(flood, func(w *wire) error {
			w.send(healthz)
			text, err := w.end(limit)
			mu.Lock()
			defer mu.Unlock()
			switch status(text) {
			case http.StatusServiceUnavailable:
				told++
			case 0:
			default:
				return fmt.Errorf("%q", text)
			}
			return err
		}); err != nil {
			t.Error("the flood: ", err)
		}
		t.Logf("%d of %d of a flood were told", told, len(flood))
		if a := s.callBy(s.aside, "GET", "/metrics", "").is(http.StatusOK); a.metric("pipeproc_connections_refused_total") != int64(20+len(flood)) {
			t.Errorf("%d connections refused", a.metric("pipeproc_connections_refused_total"))
		}
		if err := atOnce(full, func(w *wire) error { return w.asks(http.StatusOK) }); err != nil {
			t.Error("those who were there: ", err)
		}
		full[0].reset()
		s.eventually("one that closes makes room", func() bool { return s.wire().asks(http.StatusOK) == nil })
		for _, w := range full {
			w.reset()
		}
	})
}

// TestBrokenBodies: bodies that break off change nothing, however they do.
func TestBrokenBodies(t *testing.T) {
	t.Parallel()
	s := launch(t)
	s.call("POST", "/v1/topics/t/logs", "{}").is(http.StatusCreated)
	head := "POST /v1/topics/t/logs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
	s.under(bounds{memory: 384, goroutines: 1_200}, func() {
		for _, start := range []string{
			"Content-Length: 3\r\n\r\n{}",
			"Content-Length: 16000000\r\n\r\n{}" + strings.Repeat(" ", 1<<20),
			"Transfer-Encoding: chunked\r\n\r\n2\r\n{}",
			"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n",
			"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0",
			"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n",
			"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX: y\r\n",
			"Content-Length: 2\r\n\r\n",
		} {
			// Half closed: the client may still hear what was wrong.
			w := s.wire()
			w.send(head + start)
			half(w)
			all := w.answers("POST")
			if len(all) != 1 {
				t.Errorf("%.80q, half closed: %d answers", start, len(all))
				continue
			}
			all[0].what = fmt.Sprintf("%.80q, half closed", start)
			all[0].isProblem(http.StatusBadRequest, "invalid_request")
			// Closed, in order and not.
			if err := atOnce(s.wires(50), func(w *wire) error {
				w.send(head + start)
				return w.Close()
			}); err != nil {
				t.Error(err)
			}
			if err := atOnce(s.wires(50), func(w *wire) error {
				w.send(head + start)
				w.reset()
				return nil
			}); err != nil {
				t.Error(err)
			}
		}
	})
}

// half closes the connection for sending.
func half(w *wire) {
	if c, ok := w.Conn.(interface{ CloseWrite() error }); ok {
		_ = c.CloseWrite()
	}
}

// TestExpect: 100 Continue is said to those alone whose body is wanted, and what is refused is refused before the body.
func TestExpect(t *testing.T) {
	t.Parallel()
	s := launch(t)
	s.call("POST", "/v1/topics/t/logs", "{}").is(http.StatusCreated)
	const head = "Host: localhost\r\nContent-Type: application/json\r\nExpect: 100-continue\r\n"
	const second = "POST /v1/topics/t/logs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
	s.under(bounds{memory: 64, goroutines: 600}, func() {
		for _, c := range []struct {
			request, code string
			status        int
		}{
			{"POST /v1/topics/t/logs HTTP/1.1\r\n" + head + "Content-Length: 17000000\r\n\r\n", "too_large", http.StatusRequestEntityTooLarge},
			{"POST /v1/topics/t/logs HTTP/1.1\r\n" + head + "Content-Encoding: gzip\r\nContent-Length: 100\r\n\r\n", "unsupported_media_type", http.StatusUnsupportedMediaType},
			{"POST /v1/topics/a.b/logs HTTP/1.1\r\n" + head + "Content-Length: 100\r\n\r\n", "invalid_topic_format", http.StatusBadRequest},
			{"POST /v1/nowhere HTTP/1.1\r\n" + head + "Content-Length: 100\r\n\r\n", "not_found", http.StatusNotFound},
			{"POST /v1/topics/t/logs HTTP/1.1\r\n" + head + "Expect: x\r\nOrigin: http://other.example\r\nSec-Fetch-Site: cross-site\r\nContent-Length: 100\r\n\r\n", "forbidden", http.StatusForbidden},
		} {
			// What is sent all the same, although it was not asked for, is never another request.
			for _, more := range []string{"", second, second + second} {
				w := s.wire()
				w.send(c.request + more)
				all := w.answers("POST")
				if len(all) != 1 {
					t.Errorf("%.80q: %d answers", c.request, len(all))
					continue
				}
				all[0].isProblem(c.status, c.code)
			}
		}
		w := s.wire() // another expectation
		w.send("POST /v1/topics/t/logs HTTP/1.1\r\nHost: localhost\r\nExpect: 200-ok\r\nContent-Length: 2\r\n\r\n{}")
		if a, err := w.answer("POST"); err != nil || a.status != http.StatusExpectationFailed {
			t.Errorf("another expectation: %v %v", a, err)
		}
		// Hundreds who are told to go on, and go away instead.
		waiting := s.wires(500)
		if err := atOnce(waiting, func(w *wire) error {
			w.send("POST /v1/topics/t/logs HTTP/1.1\r\n" + head + "Content-Length: 1000000\r\n\r\n")
			told := make([]byte, len("HTTP/1.1 100 Continue\r\n\r\n"))
			if _, err := io.ReadFull(w.r, told); err != nil || string(told) != "HTTP/1.1 100 Continue\r\n\r\n" {
				return fmt.Errorf("%q %w", told, err)
			}
			return nil
		}); err != nil {
			t.Error("those who wait: ", err)
		}
		for _, w := range waiting {
			w.reset()
		}
	})
}
