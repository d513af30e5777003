//go:build security && linux

package security

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// drip sends first, and then more again and again, until the server has closed the connection. It answers what came, and after
// what time the end did.
func (w *wire) drip(first, more string, pause time.Duration) (text string, took time.Duration, err error) {
	begun := time.Now()
	w.send(first)
	done := make(chan struct{})
	var sending sync.WaitGroup
	sending.Go(func() {
		tick := time.NewTicker(pause)
		defer tick.Stop()
		for i := 0; ; i++ {
			select {
			case <-done:
				return
			case <-tick.C:
				if more != "" {
					w.send(more[i%len(more):][:1])
				}
			}
		}
	})
	text, err = w.end(time.Minute)
	took = time.Since(begun)
	close(done)
	sending.Wait()
	return text, took, err
}

// slow is how a client takes its time: what it sends at once, and what byte by byte.
type slow struct{ name, first, more string }

// dripping has n clients of each kind drip at once. got judges what each of them was answered, and after what time; an empty
// string is no fault.
func (s *server) dripping(n int, pause time.Duration, kinds []slow, open func() *wire, got func(k slow, text string, took time.Duration) string) {
	s.t.Helper()
	wires := make([]*wire, n*len(kinds))
	for i := range wires {
		wires[i] = open()
	}
	faults := make([]string, len(kinds)) // one of each kind is enough
	var mu sync.Mutex
	var all sync.WaitGroup
	for i, w := range wires {
		k := i % len(kinds)
		all.Go(func() {
			defer w.reset()
			text, took, err := w.drip(kinds[k].first, kinds[k].more, pause)
			fault := got(kinds[k], text, took)
			if err != nil {
				fault = err.Error()
			}
			if fault != "" {
				mu.Lock()
				defer mu.Unlock()
				faults[k] = fmt.Sprintf("%s (after %.1f s; %.300q)", fault, took.Seconds(), text)
			}
		})
	}
	all.Wait()
	for k, fault := range faults {
		if fault != "" {
			s.t.Errorf("%s: %s", kinds[k].name, fault)
		}
	}
}

// Headers have 10 s, and a busy machine a few more.
const headerTime, slack = 10 * time.Second, 5 * time.Second

// TestSlowHeaders: whoever has not sent a header within 10 s is cut off, whatever it sends, and however much of a connection's
// life lies behind it.
func TestSlowHeaders(t *testing.T) {
	t.Parallel()
	s := launch(t)
	const answered400 = "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n400 Bad Request"
	const answered = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
	kinds := []slow{
		{"nothing", "", ""},
		{"a method", "", "POST"},
		{"a line without end", "GET /", "x"},
		{"a header without end", "GET / HTTP/1.1\r\nHost: localhost\r\nX-A: ", "y"},
		{"headers without end", "GET / HTTP/1.1\r\nHost: localhost\r\n", "X-B: z\r\n"},
		{"empty lines", "", "\r\n"},
		{"all but the last line", "GET /healthz HTTP/1.1\r\nHost: localhost\r\n", ""},
		{"a second request", answered + "GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-C: ", "c"},
	}
	s.under(bounds{memory: 64, goroutines: 1_000}, func() {
		s.dripping(60, 500*time.Millisecond, kinds, s.wire, func(k slow, text string, took time.Duration) string {
			want := 0
			if k.name == "a second request" {
				want = http.StatusOK
			}
			switch {
			case text == answered400: // which is said of a line that broke off
			case status(text) != want || strings.Count(text, "HTTP/1.1 ") > 1:
				return "it was answered"
			}
			if took > headerTime+slack {
				return "not cut off after 10 s"
			}
			return ""
		})
	})
}

// TestSlowHandshakes: the same before TLS is spoken, and before HTTP/2 is.
func TestSlowHandshakes(t *testing.T) {
	t.Parallel()
	s, config := launchTLS(t)
	hello := "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" // of 512 bytes
	s.under(bounds{memory: 64, goroutines: 1_000}, func() {
		var all sync.WaitGroup
		cut := func(k slow, _ string, took time.Duration) string {
			if took > headerTime+slack {
				return "not cut off after 10 s"
			}
			return ""
		}
		all.Go(func() {
			s.dripping(100, 500*time.Millisecond, []slow{{"nothing", "", ""}, {"a hello without end", hello, "x"}}, s.wire, cut)
		})
		for _, protocol := range []string{"h2", "http/1.1"} {
			all.Go(func() {
				open := func() *wire { return s.secure(config, protocol) }
				s.dripping(30, 500*time.Millisecond, []slow{{protocol + ", nothing", "", ""}, {protocol + ", a part", "PRI * HT", ""}}, open, cut)
			})
		}
		all.Wait()
	})
}

// Bodies have 30 s for each MiB.
const bodyTime = 30 * time.Second

// TestSlowBodies: whoever takes more than 30 s for a MiB of a body is told so and cut off; also where nobody wants the body.
// One that is slow, but not as slow, gets through.
func TestSlowBodies(t *testing.T) {
	t.Parallel()
	s := launch(t)
	s.call("POST", "/v1/topics/t/logs", "{}").is(http.StatusCreated)
	head := func(line string, more ...string) string {
		return line + " HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n" + strings.Join(more, "\r\n") + "\r\n\r\n"
	}
	const long, chunked = "Content-Length: 1000", "Transfer-Encoding: chunked"
	kinds := []slow{
		{"nothing of a body", head("POST /v1/topics/t/logs", long), ""},
		{"byte by byte", head("POST /v1/topics/t/logs", long), " "},
		{"a large one", head("POST /v1/commit", "Content-Length: 16000000"), " "},
		{"no chunk", head("POST /v1/topics/t/logs", chunked), ""},
		{"chunks", head("POST /v1/topics/t/logs", chunked), "1\r\n \r\n"},
		{"a chunk's size", head("POST /v1/topics/t/logs", chunked), "0"},
		{"a chunk's extension", head("POST /v1/topics/t/logs", chunked) + "1;", "x"},
		{"trailers", head("POST /v1/topics/t/logs", chunked) + "2\r\n{}\r\n0\r\nX: ", "y"},
		{"nothing after 100 Continue", head("POST /v1/topics/t/logs", long, "Expect: 100-continue"), ""},
		{"where no body is wanted", head("GET /v1/topics", long), ""},
		{"where no body is wanted, chunked", head("GET /v1/topics", chunked), "1\r\n \r\n"},
		{"to a probe", head("GET /healthz", long), " "},
		{"to HEAD", head("HEAD /v1/topics", long), " "},
		{"to a stream", head("GET /v1/tail?topic=t", long), " "},
		{"to a range as lines", head("GET /v1/topics/t/logs", long, "Accept: application/x-ndjson"), " "},
		{"to DELETE", head("DELETE /v1/topics/none", long), " "},
		{"to a stream that a page asks for", head("OPTIONS /v1/tail", long, "Origin: http://a.example", "Access-Control-Request-Method: GET"), " "},
		{"to nothing in particular", head("OPTIONS *", long), " "},
		{"asked for where none is wanted", head("GET /v1/topics", long, "Expect: 100-continue"), ""},
		{"asked for by a stream", head("GET /v1/tail?topic=t", long, "Expect: 100-continue"), ""},
		{"asked for and refused", head("POST /nowhere", long, "Expect: 100-continue"), ""},
		{"asked for as nobody can", strings.Replace(head("POST /nowhere", long, "Expect: 100-continue"), "1.1", "1.0", 1), ""},
		{"to a tunnel", head("CONNECT localhost:80", long), " "},
		{"to no route", head("POST /nowhere", long), " "},
		{"to another method", head("PUT /v1/topics", long), " "},
		{"of another type", head("POST /v1/topics/t/logs", long, "Content-Encoding: gzip"), " "},
	}
	s.under(bounds{memory: 96, goroutines: 2_000, topics: []string{"patient"}}, func() {
		var all sync.WaitGroup
		all.Go(func() { // 10 KiB a second are slow, but 300 KiB of a MiB come in its time
			w := s.wire()
			body := `{"x":"` + strings.Repeat("x", 300<<10-8) + `"}`
			w.send(head("POST /v1/topics/patient/logs", fmt.Sprintf("Content-Length: %d", len(body))))
			tick := time.NewTicker(250 * time.Millisecond)
			defer tick.Stop()
			for len(body) > 0 {
				n := min(len(body), 3<<10)
				w.send(body[:n])
				body = body[n:]
				<-tick.C
			}
			if a, err := w.answer("POST"); err != nil || a.status != http.StatusCreated {
				t.Errorf("a patient client: %v %v", a, err)
			}
			w.reset()
		})
		all.Go(func() {
			s.dripping(30, time.Second, kinds, s.wire, func(k slow, text string, took time.Duration) string {
				text = strings.TrimPrefix(text, "HTTP/1.1 100 Continue\r\n\r\n")
				switch code := status(text); {
				case code == 0 || code >= 500 || code == http.StatusCreated || code == http.StatusNoContent:
					return "the status is not a refusal's"
				case strings.Count(text, "HTTP/1.1 ") > 1:
					return "answered twice"
				case took > bodyTime+slack+slack:
					return "not cut off after 30 s"
				}
				return ""
			})
		})
		all.Wait()
	})
}

// secure speaks TLS and has agreed on a protocol.
func (s *server) secure(config *tls.Config, protocol string) *wire {
	s.t.Helper()
	config = config.Clone()
	config.NextProtos = []string{protocol}
	conn, err := tls.Dial("tcp", s.address, config)
	if err != nil {
		s.t.Fatal(err)
	}
	if got := conn.ConnectionState().NegotiatedProtocol; got != protocol {
		s.t.Fatalf("%s was agreed on, not %s", got, protocol)
	}
	return newWire(s.t, conn)
}
