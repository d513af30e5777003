package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"pipeproc/livestream/ssetest"
	"pipeproc/pgstore/pgtest"
)

// TestTailsResume cuts the connections of many tails at any byte while logs are committed: what each client has seen in
// the end is the topic, byte for byte.
func TestTailsResume(t *testing.T) {
	t.Parallel()
	t.Run("one server", func(t *testing.T) {
		t.Parallel()
		p := launch(t, nil, onDatabase(t)...)
		url := p.url(t)
		r := newResume(t, url)
		r.run(func() {})
		p.stop(t)
	})
	t.Run("killed and restarted", func(t *testing.T) {
		t.Parallel()
		flags := []string{"--database-url", pgtest.Database(t), "--unsafe-durability", "--listen", freePort(t)}
		p := launch(t, nil, flags...)
		r := newResume(t, p.url(t))
		r.run(func() {
			for kill := range 3 {
				r.reached(int64(1+kill) * resumeLogs / 4)
				p.kill(t)
				p = launch(t, nil, flags...)
				p.url(t)
			}
		})
		p.stop(t)
	})
	t.Run("two replicas", func(t *testing.T) {
		t.Parallel()
		flags := onDatabase(t)
		a, b := launch(t, nil, flags...), launch(t, nil, flags...)
		r := newResume(t, "http://"+roundRobin(t, a.url(t), b.url(t)))
		r.run(func() {})
		a.stop(t)
		b.stop(t)
	})
}

const (
	resumeClients = 200
	resumeLogs    = 400
	resumeCuts    = 10 // of each client, at least
)

// resume is clients that follow a topic which is being committed to.
type resume struct {
	t         *testing.T
	url       string
	committed atomic.Int64
	seen      atomic.Int64 // by all clients
	bodies    [resumeLogs]string
}

func newResume(t *testing.T, url string) *resume {
	r := &resume{t: t, url: url}
	for i := range r.bodies {
		r.bodies[i] = fmt.Sprintf(`{"n":%d,"é\n\u0000":"%s","big":12345678901234567890}`, i, strings.Repeat("data: \\n\\n", i%37))
	}
	return r
}

// run commits, lets the clients follow, and meanwhile calls trouble.
func (r *resume) run(trouble func()) {
	ctx, cancel := context.WithTimeout(r.t.Context(), 3*time.Minute)
	defer cancel()
	var all sync.WaitGroup
	all.Go(func() { r.commit(ctx) })
	for client := range resumeClients {
		all.Go(func() { r.follow(ctx, client) })
	}
	trouble()
	all.Wait()
}

// reached waits until n logs are committed.
func (r *resume) reached(n int64) {
	eventually(r.t, "commits go on", func() bool { return r.committed.Load() >= n || r.t.Failed() })
}

// commit adds the logs one by one; a commit whose answer is lost is repeated under its key.
func (r *resume) commit(ctx context.Context) {
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	for i, body := range r.bodies {
		// Not far ahead of the clients: they are to be cut while they follow, not only while they catch up.
		for r.seen.Load() < int64(i-resumeLogs/20)*resumeClients/2 && ctx.Err() == nil {
			time.Sleep(time.Millisecond)
		}
		for {
			req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.url+"/v1/topics/numbers/logs", strings.NewReader(body))
			if err != nil {
				r.t.Error(err)
				return
			}
			req.Header.Set("Content-Type", "application/json")
			req.Header.Set("Idempotency-Key", fmt.Sprint("log-", i))
			resp, err := transport.RoundTrip(req)
			if err == nil {
				_, _ = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				if resp.StatusCode < 300 {
					break
				}
			}
			if ctx.Err() != nil {
				r.t.Errorf("log %d cannot be committed: %v", i, err)
				return
			}
		}
		r.committed.Add(1)
	}
}

// follow reads the topic to its end over connections that are cut, and holds what it has seen against it.
func (r *resume) follow(ctx context.Context, client int) {
	random := rand.New(rand.NewPCG(uint64(client), 0))
	var seen []string
	last, cuts := "", 0
	for len(seen) < resumeLogs {
		allowed := int64(1) << 40
		if cuts < resumeCuts || len(seen) < resumeLogs/2 {
			allowed = 1 + random.Int64N(9_000)
		}
		cut, err := r.connection(ctx, allowed, &last, &seen)
		if cut {
			cuts++
		}
		if ctx.Err() != nil {
			r.t.Errorf("client %d has seen %d logs after %d cuts: %v", client, len(seen), cuts, err)
			return
		}
		if !cut && !lostConnection(err) {
			r.t.Errorf("client %d: %v", client, err)
			return
		}
	}
	if cuts < resumeCuts {
		r.t.Errorf("client %d was cut %d times", client, cuts)
	}
	for i, body := range r.bodies {
		if seen[i] != body {
			r.t.Errorf("client %d: log %d is %s, want %s", client, i, seen[i], body)
			return
		}
	}
}

// connection follows until its connection breaks, or all is seen. It is cut after so many bytes, those of the answer's
// head included.
func (r *resume) connection(ctx context.Context, allowed int64, last *string, seen *[]string) (cut bool, _ error) {
	var wire *cuttable
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		var d net.Dialer
		conn, err := d.DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		wire = &cuttable{Conn: conn, allowed: allowed}
		return wire, nil
	}}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.url+"/v1/tail?topic=numbers&start=earliest", nil)
	if err != nil {
		return false, err
	}
	if *last != "" {
		req.Header.Set("Last-Event-ID", *last)
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return wire != nil && wire.cut.Load(), err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusServiceUnavailable { // a server that starts or stops
		return false, io.EOF
	}
	if resp.StatusCode != http.StatusOK {
		return false, errors.New(resp.Status)
	}
	for stream := ssetest.NewReader(resp.Body); len(*seen) < resumeLogs; {
		e, err := stream.Event()
		if err != nil {
			return wire.cut.Load(), err
		}
		body, found := strings.CutSuffix(e.Data, "}")
		_, body, _ = strings.Cut(body, `,"body":`)
		if e.Type != "log" || !found {
			return false, fmt.Errorf("event %q: %s", e.Type, e.Data)
		}
		*last = e.ID
		*seen = append(*seen, body)
		r.seen.Add(1)
	}
	return false, io.EOF
}

func lostConnection(err error) bool {
	var op *net.OpError
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.As(err, &op)
}

// cuttable is a connection that breaks when so many bytes were read.
type cuttable struct {
	net.Conn
	allowed int64
	cut     atomic.Bool
}

func (c *cuttable) Read(b []byte) (int, error) {
	if c.allowed <= 0 {
		c.cut.Store(true)
		c.Close()
		return 0, io.ErrUnexpectedEOF
	}
	n, err := c.Conn.Read(b[:min(int64(len(b)), c.allowed)])
	c.allowed -= int64(n)
	return n, err
}

// roundRobin is the address of a proxy that connects to the servers in turn.
func roundRobin(t *testing.T, urls ...string) string {
	t.Helper()
	var turn atomic.Int64
	return proxy(t, "127.0.0.1:0", func() (net.Conn, error) {
		return net.Dial("tcp", strings.TrimPrefix(urls[int(turn.Add(1))%len(urls)], "http://"))
	})
}
