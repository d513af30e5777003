package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"pipeproc/api"
)

// systemProcs measures webhooks: how fast one systemProc goes, how fast many do, how soon a commit is at its webhook,
// and what one dead processor costs the others.
func systemProcs(ctx context.Context, b *bench) (err error) {
	s, err := startServer(ctx, b.binary)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	hook, err := startEcho()
	if err != nil {
		return err
	}
	defer hook.close()
	r := &jobs{server: s, hook: hook}

	for _, c := range []struct {
		name        string
		procs, logs int // logs of each proc
		count       int
		bar         float64
	}{
		{"1 systemProc, count 1", 1, 8_000, 1, 1_200},
		{"1 systemProc, count 100", 1, 400_000, 100, 60_000},
		{"64 systemProcs, count 1", 64, 800, 1, 6_000},
	} {
		if !b.wants(c.name) {
			continue
		}
		var rates []float64
		for range b.rounds {
			rate, err := r.drain(ctx, c.procs, c.logs, c.count)
			if err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
			rates = append(rates, rate)
		}
		b.table.atLeast(c.name, median(rates), c.bar, "logs/s")
	}
	if name := "commit to webhook, idle server"; b.wants(name) {
		var p50, p99 []float64
		for range b.rounds {
			all, err := r.wakeUps(ctx, 500)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			p50, p99 = append(p50, millis(percentile(all, 0.5))), append(p99, millis(percentile(all, 0.99)))
		}
		b.table.tell(name+", p50", median(p50), "ms")
		b.table.below(name+", p99", median(p99), 10, "ms")
	}
	if name := "49 systemProcs beside a dead one"; b.wants(name) {
		var ratios []float64
		for range b.rounds {
			healthy, err := r.beside(ctx, false)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			beside, err := r.beside(ctx, true)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			ratios = append(ratios, beside/healthy)
		}
		b.table.atLeast(name+", of their throughput without", median(ratios), 0.9, "×")
	}
	return nil
}

// jobs makes systemProcs, each case with names of its own.
type jobs struct {
	*server
	hook  *echo
	cases int
}

// prefix begins the names of the next case.
func (r *jobs) prefix() string {
	r.cases++
	return fmt.Sprintf("case%d-", r.cases)
}

// fill commits logs of 100 bytes.
func (r *jobs) fill(ctx context.Context, topic string, n int) error {
	for n > 0 {
		logs := make([]api.NewLog, min(n, 5_000))
		for i := range logs {
			logs[i] = api.NewLog{Topic: topic, Body: body}
		}
		if _, err := r.CommitAll(ctx, logs); err != nil {
			return err
		}
		n -= len(logs)
	}
	return nil
}

// body is a log of 100 bytes.
var body = json.RawMessage(`{"text":"` + strings.Repeat("x", 100-len(`{"text":""}`)) + `"}`)

// create makes a systemProc from its topic's first log on, to a topic beside it.
func (r *jobs) create(ctx context.Context, name, url string, count int) error {
	_, _, err := r.SystemProc(ctx, api.SystemProcSpec{Name: name, From: api.Names{List: []string{name + "-in"}, Single: true},
		To: api.Names{List: []string{name + "-out"}, Single: true}, Count: &count, Processor: &api.Processor{URL: url, Bare: true}})
	return err
}

// drain lets procs work off logs that are there when they begin, and answers the logs per second of all.
func (r *jobs) drain(ctx context.Context, procs, logs, count int) (float64, error) {
	prefix := r.prefix()
	names := make([]string, procs)
	for i := range names {
		names[i] = fmt.Sprint(prefix, i)
		if err := r.fill(ctx, names[i]+"-in", logs); err != nil {
			return 0, err
		}
	}
	release := r.hook.hold()
	for _, name := range names {
		if err := r.create(ctx, name, r.hook.url+name, count); err != nil {
			release()
			return 0, err
		}
	}
	begin := time.Now()
	release()
	if err := r.wait(ctx, names, procs*((logs+count-1)/count)); err != nil {
		return 0, err
	}
	rate := float64(procs*logs) / time.Since(begin).Seconds()
	for _, name := range names {
		if topic, err := r.Topic(ctx, name+"-out"); err != nil || topic.Committed != int64(logs) {
			return 0, fmt.Errorf("%s gave %d logs for %d: %w", name, topic.Committed, logs, err)
		}
		if _, err := r.DestroySystemProc(ctx, name); err != nil {
			return 0, err
		}
	}
	return rate, nil
}

// wait returns when the webhook was called so often since it was released, and procs have nothing left to do. The server
// is asked in the end alone: asking costs it as much as working.
func (r *jobs) wait(ctx context.Context, procs []string, calls int) error {
	for r.hook.calls.Load() < int64(calls) {
		select {
		case <-time.After(2 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	for {
		waited, err := r.WaitForProcs(ctx, api.WaitRequest{Procs: procs, Timeout: new(int64(60_000))})
		if err != nil || waited.Done {
			return err
		}
	}
}

// wakeUps commits n logs, one after the other with pauses between them, and answers the times from the sending of each
// commit to its arrival at the webhook.
func (r *jobs) wakeUps(ctx context.Context, n int) ([]time.Duration, error) {
	name := r.prefix() + "wake"
	if err := r.create(ctx, name, r.hook.url+name, 1); err != nil {
		return nil, err
	}
	arrived := r.hook.listen(name)
	all := make([]time.Duration, 0, n)
	for range n {
		begin := time.Now()
		if _, err := r.Commit(ctx, api.NewLog{Topic: name + "-in", Body: body}); err != nil {
			return nil, err
		}
		select {
		case at := <-arrived:
			all = append(all, at.Sub(begin))
		case <-time.After(10 * time.Second):
			return nil, errors.New("a commit did not reach the webhook")
		}
		time.Sleep(time.Duration(5+rand.IntN(20)) * time.Millisecond)
	}
	_, err := r.DestroySystemProc(ctx, name)
	return all, err
}

// beside answers the logs per second that 49 systemProcs do, with a 50th beside them whose processor never answers, or
// without it.
func (r *jobs) beside(ctx context.Context, dead bool) (float64, error) {
	prefix := r.prefix()
	if dead {
		name := prefix + "dead"
		if err := r.fill(ctx, name+"-in", 10); err != nil {
			return 0, err
		}
		silent, err := listenSilently()
		if err != nil {
			return 0, err
		}
		defer silent.Close()
		if err := r.create(ctx, name, "http://"+silent.Addr().String(), 1); err != nil {
			return 0, err
		}
		defer func() { _, _ = r.DestroySystemProc(context.WithoutCancel(ctx), name) }()
	}
	return r.drain(ctx, 49, 600, 1)
}

func listen() (net.Listener, error) {
	var c net.ListenConfig
	return c.Listen(context.Background(), "tcp", "127.0.0.1:0")
}

// listenSilently accepts connections and never answers.
func listenSilently() (net.Listener, error) {
	l, err := listen()
	if err != nil {
		return nil, err
	}
	go func() {
		var open []net.Conn
		for {
			c, err := l.Accept()
			if err != nil {
				for _, c := range open {
					c.Close()
				}
				return
			}
			open = append(open, c)
		}
	}()
	return l, nil
}

// echo is a webhook that answers the logs that it is given.
type echo struct {
	url      string // a proc's is below it
	server   *http.Server
	calls    atomic.Int64
	gate     atomic.Pointer[chan struct{}] // open when closed
	arrivals sync.Map                      // path → chan time.Time
}

func startEcho() (*echo, error) {
	l, err := listen()
	if err != nil {
		return nil, err
	}
	e := &echo{url: "http://" + l.Addr().String() + "/"}
	e.hold()()
	e.server = &http.Server{Handler: e, ReadHeaderTimeout: time.Minute}
	go func() { _ = e.server.Serve(l) }()
	return e, nil
}

func (e *echo) close() { _ = e.server.Close() }

// hold lets calls wait until they are released.
func (e *echo) hold() (release func()) {
	gate := make(chan struct{})
	e.gate.Store(&gate)
	e.calls.Store(0)
	return func() { close(gate) }
}

// listen answers when calls of a proc arrive from now on.
func (e *echo) listen(proc string) <-chan time.Time {
	c := make(chan time.Time, 16)
	e.arrivals.Store("/"+proc, c)
	return c
}

func (e *echo) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if c, ok := e.arrivals.Load(r.URL.Path); ok {
		c.(chan time.Time) <- time.Now()
	}
	<-*e.gate.Load()
	data := make([]byte, r.ContentLength)
	_, err := io.ReadFull(r.Body, data)
	_, logs, ok := bytes.Cut(data, []byte(`,"logs":`))
	if err != nil || !ok {
		http.Error(w, "this is no call of a processor", http.StatusInternalServerError)
		return
	}
	e.calls.Add(1)
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(logs[:len(logs)-1])
}
