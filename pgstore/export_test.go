package pgstore

import (
	"context"
	"io/fs"
	"time"
)

// Be as patient as told. Call it before Run; zero leaves as it is.
func (s *Store) SetPatience(side, commit, resolve time.Duration) {
	for _, p := range []struct {
		to *time.Duration
		d  time.Duration
	}{{&s.patience.side, side}, {&s.patience.commit, commit}, {&s.patience.resolve, resolve}} {
		if p.d > 0 {
			*p.to = p.d
		}
	}
}

// SetLockPatience has the main lane wait so long for a row. Call it before Run.
func (s *Store) SetLockPatience(d time.Duration) { s.patience.lock = d }

// WithSteps answers a configuration whose schema has other steps, each of which waits so long for its locks.
func (c Config) WithSteps(steps fs.FS, time time.Duration) Config {
	c.steps, c.migrateTime = steps, time
	return c
}

// Queued is the number of requests that wait for the main lane's next batch.
func (s *Store) Queued() int { return s.lanes.main.queued() }

// SideLanes is the number of rows that have a lane of their own.
func (s *Store) SideLanes() int {
	s.lanes.mu.Lock()
	defer s.lanes.mu.Unlock()
	return len(s.lanes.side)
}

// SideQueued is the number of requests that wait in side lanes, those in flight left out.
func (s *Store) SideQueued() (n int) {
	s.lanes.mu.Lock()
	defer s.lanes.mu.Unlock()
	for _, side := range s.lanes.side {
		n += side.queued()
	}
	return n
}

// Watching reports whether somebody watches the proc.
func (s *Store) Watching(proc string) bool {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	return len(s.hub.procs[proc]) > 0
}

// Subscriptions is the number of topics and procs that somebody watches, of heads remembered, and of streams with what is
// kept for them.
func (s *Store) Subscriptions() int {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	return len(s.hub.topics) + len(s.hub.procs) + len(s.hub.jobs) + len(s.hub.heads) + len(s.hub.streams) + len(s.hub.claimed)
}

// ProcStates is the number of procs whose state the polls remember.
func (s *Store) ProcStates() int {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	return len(s.hub.states)
}

// Kept is the size of what is kept for streams. more is counted in as well from now on.
func (s *Store) Kept(more int) int {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	s.hub.kept += more
	return s.hub.kept
}

// KeptBytes is keptBytes.
const KeptBytes = keptBytes

// Server names the store in the table lanes.
func (s *Store) Server() string { return s.server }

// Stall holds the main lane in a batch of its own until release is called: what is asked for meanwhile gathers.
func (s *Store) Stall(ctx context.Context) (release func()) {
	o := &stallOp{entered: make(chan struct{}), release: make(chan struct{})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.submit(ctx, o)
	}()
	<-o.entered
	return func() {
		close(o.release)
		<-done
	}
}

type stallOp struct{ entered, release chan struct{} }

func (o *stallOp) needs(*needs) {}
func (o *stallOp) size() int    { return 0 }
func (o *stallOp) apply(context.Context, *batch) error {
	close(o.entered)
	<-o.release
	return nil
}

// Panic submits a request that panics whenever it decides.
func (s *Store) Panic(ctx context.Context) error { return s.submit(ctx, panicOp{}) }

type panicOp struct{}

func (panicOp) needs(*needs)                        {}
func (panicOp) size() int                           { return 0 }
func (panicOp) apply(context.Context, *batch) error { panic("a fault") }

// Waiting counts so many more among those who wait for the pool.
func (s *Store) Waiting(more int64) int64 { return s.pool.waiting.Add(more) }

// MostWaiting is mostWaiting.
const MostWaiting = mostWaiting

// AskGauges asks the database what /metrics tells of procs.
func (s *Store) AskGauges(ctx context.Context) error {
	_, err := s.procsGauges(ctx)
	return err
}

// Disconnected is disconnected.
var Disconnected = disconnected
