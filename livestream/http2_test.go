package livestream

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"pipeproc/api"
	"pipeproc/livestream/ssetest"
)

// newHTTP2Server is a server that speaks HTTP/2 over TLS with time-outs of its own, a client whose streams share one
// connection to it, and the number of connections that it has seen.
func newHTTP2Server(t *testing.T, m *memory, timeout time.Duration) (*server, *http.Client, *atomic.Int64) {
	t.Helper()
	connections := new(atomic.Int64)
	s := startServer(t, m, func(ts *httptest.Server) {
		ts.EnableHTTP2 = true
		ts.Config.ReadTimeout, ts.Config.WriteTimeout = timeout, timeout
		ts.Config.ConnState = func(_ net.Conn, state http.ConnState) {
			if state == http.StateNew {
				connections.Add(1)
			}
		}
		ts.StartTLS()
	}, func(c *Config) { c.WriteTimeout = timeout })
	trusted := x509.NewCertPool()
	trusted.AddCert(s.ts.Certificate())
	transport := &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: trusted},
		HTTP2: &http.HTTP2Config{MaxReceiveBufferPerStream: 64 << 10}} // what is sent to a stream that does not read
	t.Cleanup(transport.CloseIdleConnections)
	return s, &http.Client{Transport: transport}, connections
}

// TestHTTP2IdleStreams: over HTTP/2 a write deadline strikes between writes, too. A stream on which nothing happens for
// longer than a write may take, or than the server's own time-outs, lives on and gets what comes then.
func TestHTTP2IdleStreams(t *testing.T) {
	m := newMemory()
	const timeout = 200 * time.Millisecond
	s, c, connections := newHTTP2Server(t, m, timeout)
	name, path := liveProc(t, m, "a", api.ModeAll)
	live, tail := s.openBy(t, c, path, ""), s.openBy(t, c, "/v1/tail?topic=a", "")
	if live.resp.ProtoMajor != 2 || tail.resp.ProtoMajor != 2 || connections.Load() != 1 {
		t.Fatalf("%s, %s on %d connections", live.resp.Proto, tail.resp.Proto, connections.Load())
	}
	live.next("liveproc")
	tail.opens()
	for range 3 { // also after an event
		type next struct {
			ssetest.Event
			error
		}
		got := make(chan next, 2)
		for _, x := range []*stream{live, tail} {
			go func() {
				e, err := x.Event()
				got <- next{e, err}
			}()
		}
		select {
		case e := <-got:
			t.Fatalf("an idle stream: %+v", e)
		case <-time.After(3 * timeout):
		}
		logs := m.fill("a", 1)
		for range 2 {
			switch e := <-got; {
			case e.error != nil:
				t.Fatal(e)
			case e.Type == "logs":
				m.ack(t, name, decodeAs[logsData](t, e.Event).Claim.Token)
			case e.Type != "log" || e.Data != logOf("a", logs[0]):
				t.Errorf("%+v", e)
			}
		}
	}
}

// TestHTTP2Stalled: a client that does not read one of its streams loses that stream, by its deadline, and not those that
// share its connection.
func TestHTTP2Stalled(t *testing.T) {
	m := newMemory()
	s, c, connections := newHTTP2Server(t, m, 400*time.Millisecond)
	for range 7 {
		m.commit("big", body(1<<20-20))
	}
	count := 7
	big, err := m.CreateLiveProc(t.Context(), api.LiveProcSpec{Topic: "big", Mode: api.ModeAll, Count: &count})
	if err != nil {
		t.Fatal(err)
	}
	name, path := liveProc(t, m, "a", api.ModeAll)
	live, tail := s.openBy(t, c, path, ""), s.openBy(t, c, "/v1/tail?topic=a", "")
	live.next("liveproc")
	tail.opens()
	stalled := map[string]*http.Response{}
	for kind, path := range map[string]string{"tail": "/v1/tail?topic=big&start=earliest", "liveProc": "/v1/live-procs/" + big.Name + "/changes"} {
		stalled[kind], _ = s.doBy(t, c, "GET", path)
	}
	if got := s.Stats(); got.Tails != 2 || got.LiveProcs != 2 {
		t.Fatalf("open: %+v", got)
	}
	rounds := 0
	eventually(t, "the stalled ones are gone", func() bool {
		rounds++
		logs := m.fill("a", 1)
		tail.logs("a", logs...)
		m.ack(t, name, decodeAs[logsData](t, live.next("logs")).Claim.Token)
		got := s.Stats()
		return got.Tails == 1 && got.LiveProcs == 1
	})
	for range 10 {
		tail.logs("a", m.fill("a", 1)...)
		m.ack(t, name, decodeAs[logsData](t, live.next("logs")).Claim.Token)
	}
	for kind, resp := range stalled {
		if n, err := io.Copy(io.Discard, resp.Body); err == nil || n == 0 || n > 1<<20 {
			t.Errorf("the stalled %s got %d bytes, and then %v", kind, n, err)
		}
	}
	again := s.openBy(t, c, "/v1/tail?topic=big&start=:6", "")
	again.next("log")
	if n := connections.Load(); n != 1 || rounds < 3 {
		t.Errorf("%d connections; %d rounds beside the stalled ones", n, rounds)
	}
	if p, err := m.Proc(t.Context(), big.Name); err != nil || p.Claim == nil {
		t.Errorf("the claim moved without an ack: %v", err)
	}
}
