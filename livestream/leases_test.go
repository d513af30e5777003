package livestream

import (
	"context"
	"errors"
	"io"
	"slices"
	"testing"
	"time"

	"pipeproc/api"
)

// renewals are the calls of KeepStreams.
func (m *memory) renewals() [][]api.Stream {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.kept)
}

// renewed waits until a stream's lease was renewed n times.
func (m *memory) renewed(t *testing.T, what, liveProc string, n int) {
	t.Helper()
	before := len(m.renewals())
	eventually(t, "the lease of "+what+" is renewed", func() bool {
		times := 0
		for _, streams := range m.renewals()[before:] {
			if slices.ContainsFunc(streams, func(s api.Stream) bool { return s.LiveProc == liveProc }) {
				times++
			}
		}
		return times >= n
	})
}

// TestLeases: all open streams keep their leases by one call at a time: one that is idle, one that is never idle and one
// whose client does not read; those that are closed are left out, and without any there are no calls.
func TestLeases(t *testing.T) {
	m := newMemory()
	s := newServer(t, m, func(c *Config) { c.LiveProcs = eager{m} })
	s.renewal = time.Millisecond
	m.commit("numbers", make([]string, 1<<17)...)
	m.commit("big", body(1<<20-20), body(1<<20-20), body(1<<20-20), body(1<<20-20), body(1<<20-20), body(1<<20-20))
	idle, idlePath := liveProc(t, m, "nothing", api.ModeAll)
	busy, busyPath := liveProc(t, m, "numbers", api.ModeAll)
	count := 6
	slow, err := m.CreateLiveProc(t.Context(), api.LiveProcSpec{Topic: "big", Mode: api.ModeAll, Count: &count})
	if err != nil {
		t.Fatal(err)
	}
	one, two := s.open(t, idlePath, ""), s.open(t, busyPath, "")
	go func() { _, _ = io.Copy(io.Discard, two.resp.Body) }()
	s.stall(t, "/v1/live-procs/"+slow.Name+"/changes")
	for name, what := range map[string]string{idle: "an idle stream", busy: "a busy stream", slow.Name: "a slow stream"} {
		m.renewed(t, what, name, 5)
	}
	if p, _ := m.Proc(t.Context(), busy); p.Position >= 1<<17 {
		t.Error("the busy stream came to wait")
	}
	for _, streams := range m.renewals() {
		if len(streams) == 0 || len(streams) > 3 {
			t.Errorf("%d streams in one call", len(streams))
		}
	}
	two.close()
	eventually(t, "the busy one is closed", func() bool { return m.count(&m.closed) == 1 })
	m.renewed(t, "the idle one", idle, 2)
	if last := m.renewals()[len(m.renewals())-1]; slices.ContainsFunc(last, func(s api.Stream) bool { return s.LiveProc == busy }) {
		t.Error("the lease of a stream that is closed was renewed")
	}
	one.close()
}

// TestLeaseLoopComesAndGoes: the loop runs while there are streams, as often as there are.
func TestLeaseLoopComesAndGoes(t *testing.T) {
	m := newMemory()
	s := newServer(t, m)
	s.renewal = time.Millisecond
	name, path := liveProc(t, m, "a", api.ModeAll)
	for range 3 {
		c := s.open(t, path, "")
		m.renewed(t, "the stream", name, 2)
		c.close()
		eventually(t, "it is closed", func() bool { return s.Stats().LiveProcs == 0 })
		s.mu.Lock()
		left := len(s.leases.streams)
		s.mu.Unlock()
		if left != 0 {
			t.Fatalf("%d leases are left", left)
		}
		s.rests(t)
	}
}

// rests waits for whatever runs without a stream to come to its end.
func (s *server) rests(t *testing.T) {
	t.Helper()
	ended := make(chan struct{})
	go func() { defer close(ended); s.Streams.open.Wait() }()
	select {
	case <-ended:
	case <-time.After(patience):
		t.Fatal("something runs on without a stream")
	}
}

// refusing keeps no stream until it is told to.
type refusing struct {
	*memory
	calls chan struct{}
}

func (r refusing) KeepStreams(ctx context.Context, streams []api.Stream) error {
	_ = r.memory.KeepStreams(ctx, streams)
	if _, ok := <-r.calls; ok {
		return errors.New("out of order")
	}
	return nil
}

// TestLeasesAreTriedAgain: where the store does not renew the leases, it is asked again soon, not when the next renewal is
// due.
func TestLeasesAreTriedAgain(t *testing.T) {
	m := newMemory()
	calls := make(chan struct{}, 2)
	s := newServer(t, m, func(c *Config) { c.LiveProcs = refusing{m, calls} })
	s.renewal = patience / 4
	calls <- struct{}{}
	calls <- struct{}{}
	close(calls)
	name, path := liveProc(t, m, "a", api.ModeAll)
	s.open(t, path, "")
	begun := time.Now()
	m.renewed(t, "the stream", name, 3)
	if took := time.Since(begun); took > patience/2 {
		t.Errorf("it took %v", took)
	}
}
