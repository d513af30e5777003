//go:build linux

package chaos

import (
	"context"
	"encoding/json"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"pipeproc/api"
	"pipeproc/e2e/check"
)

// hook is the processor of a systemProc: one output for each log, the same one whenever it is asked. Now and then it
// behaves as no processor should.
type hook struct {
	load     *load
	server   *http.Server
	listener net.Listener
	bad      atomic.Bool // whether it misbehaves at all

	mu     sync.Mutex
	random *rand.Rand
	called map[string]int // by value, how often
	doomed string         // whose first call is not answered
	next   chan struct{}  // closed at the next call
}

// hookTimeout is what the server waits for an answer.
const hookTimeout = time.Second

func newHook(l *load, seed uint64) (*hook, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	h := &hook{load: l, listener: ln, random: rand.New(rand.NewPCG(seed, 1)), called: map[string]int{}, next: make(chan struct{})}
	h.bad.Store(true)
	h.server = &http.Server{Handler: h, ReadHeaderTimeout: time.Minute}
	go func() { _ = h.server.Serve(ln) }()
	return h, nil
}

// create makes the systemProc, and answers its proc.
func (h *hook) create(ctx context.Context, u *visitor) (check.Proc, error) {
	p := check.Proc{Name: h.load.own("hook"), Topic: h.load.hookInput(), Created: h.load.recorder.Begin(u.name)}
	_, _, err := u.SystemProc(ctx, api.SystemProcSpec{Name: p.Name, From: api.Names{List: []string{h.load.hookInput()}, Single: true},
		To:        api.Names{List: []string{h.load.hookOutput()}, Single: true},
		Processor: &api.Processor{URL: "http://" + h.listener.Addr().String() + "/", Timeout: new(hookTimeout.Milliseconds())},
		Count:     new(10), MaxReclaims: new(-1), ReclaimTimeout: new(reclaimTimeout.Milliseconds())})
	p.Created = h.load.recorder.End(p.Created, h.load.outcome(err))
	return p, err
}

// call is what the server asks.
type call struct {
	Proc  string    `json:"proc"`
	Topic string    `json:"topic"`
	Claim api.Claim `json:"claim"`
	Logs  []api.Log `json:"logs"`
}

func (h *hook) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var c call
	text, err := io.ReadAll(r.Body)
	if err != nil || json.Unmarshal(text, &c) != nil {
		return // the server died while it asked
	}
	l := h.load
	l.tally.add(calls, 1)
	span := check.Span{Client: "hook"}
	claimed := check.Claim{Span: l.recorder.End(span, check.OK), Proc: c.Proc, Token: c.Claim.Token, Attempt: c.Claim.Attempt,
		Logs: seen(c.Logs), Via: check.ByProcessor, Call: r.Header.Get("webhook-id")}
	if c.Claim.ExpiresAt != nil {
		claimed.ExpiresAt = *c.Claim.ExpiresAt
	}
	l.recorder.Claim(claimed)
	l.tally.add(claims, 1)

	h.mu.Lock()
	behaviour := h.random.IntN(1_600)
	for _, log := range claimed.Logs {
		h.called[log.Value]++
	}
	close(h.next)
	h.next = make(chan struct{})
	doomed := claimed.Logs[0].Value == h.doomed && h.called[h.doomed] == 1
	h.mu.Unlock()
	if doomed || h.bad.Load() && behaviour < 8 {
		span.Begin = l.recorder.Now()
		defer func() {
			l.recorder.Reclaim(check.Reclaim{Span: l.recorder.End(span, check.Unknown), Proc: c.Proc, Token: c.Claim.Token})
		}()
		if doomed {
			behaviour = 0
		}
		h.misbehave(w, r, behaviour)
		return
	}
	output := make([]body, len(c.Logs))
	a := check.Ack{Proc: c.Proc, Token: c.Claim.Token, Span: check.Span{Client: "hook", Begin: l.recorder.Now()}}
	for i, log := range claimed.Logs {
		output[i] = body{Value: "out-" + log.Value, Of: log.Value}
		a.Output = append(a.Output, check.NewLog{Topic: h.load.hookOutput(), Value: output[i].Value})
	}
	a.Span = l.recorder.End(a.Span, check.Unknown)
	l.recorder.Ack(a)
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(output)
}

// misbehave answers nothing that is any good.
func (h *hook) misbehave(w http.ResponseWriter, r *http.Request, how int) {
	w.Header().Set("Content-Type", "application/json")
	flush := http.NewResponseController(w)
	switch how % 4 {
	case 0:
		h.load.tally.add("fault webhook: hangs", 1)
		<-r.Context().Done()
	case 1:
		h.load.tally.add("fault webhook: half a body, then reset", 1)
		_, _ = io.WriteString(w, `[{"v":"half`)
		_ = flush.Flush()
		if conn, _, err := flush.Hijack(); err == nil {
			_ = conn.(*net.TCPConn).SetLinger(0)
			conn.Close()
		}
	case 2:
		h.load.tally.add("fault webhook: 10 GB", 1)
		blanks := make([]byte, 64<<10)
		for i := range blanks {
			blanks[i] = ' '
		}
		for range (10 << 30) / len(blanks) {
			if _, err := w.Write(blanks); err != nil {
				return
			}
		}
	case 3:
		h.load.tally.add("fault webhook: one byte a second", 1)
		for i := 0; ; i++ {
			if _, err := io.WriteString(w, " "); err != nil || flush.Flush() != nil || pause(r.Context(), time.Second) != nil {
				return
			}
		}
	}
}

// calledAgain waits until the processor was called n times with a value.
func (h *hook) calledAgain(ctx context.Context, value string, n int) error {
	for {
		h.mu.Lock()
		enough, next := h.called[value] >= n, h.next
		h.mu.Unlock()
		if enough {
			return nil
		}
		select {
		case <-next:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (h *hook) close() { _ = h.server.Close() }
