package procs

import (
	"context"
	"slices"
	"sync"
)

// turns decides which proc gets the next free slot: the one that waits longest. A proc has one slot at a time.
//
// Whenever a proc waits, every slot is taken.
type turns struct {
	start       func(proc string, s *seat) // must not block
	concurrency int

	mu      sync.Mutex
	seats   []*seat
	waiting []string         // next first
	running map[string]*call // never waiting
	looks   int              // that have begun
	closed  bool
}

// call is what a running proc does: the call of its processor, or, with a nil cut, something else.
type call struct {
	cut   context.CancelCauseFunc
	looks int // that had begun when the call began
}

func newTurns(seats []*seat, concurrency int, start func(string, *seat)) *turns {
	return &turns{start: start, concurrency: concurrency, seats: seats, running: map[string]*call{}}
}

// look numbers a look that is about to begin.
func (t *turns) look() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.looks++
	return t.looks
}

// offer tells which procs have work, as the store orders them. It replaces what was known: a proc that is missing has
// none, or will be offered the next time.
//
// A proc with work has no claim. Where its processor was called before the look began, that claim was lost meanwhile:
// the call is cut off, so that the next attempt need not wait for it.
func (t *turns) offer(procs []string, look int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.waiting = slices.DeleteFunc(slices.Clone(procs), func(proc string) bool {
		c := t.running[proc]
		if c != nil && c.cut != nil && c.looks < look {
			c.cut(errLost)
		}
		return c != nil
	})
	t.fill()
}

// begin tells that the processor of proc, which is running, is called, and how that is cut off. end tells of its end.
func (t *turns) begin(proc string, cut context.CancelCauseFunc) (end func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.running[proc]
	c.cut, c.looks = cut, t.looks
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		c.cut = nil
		cut(nil)
	}
}

// contended reports whether a proc waits for a slot.
func (t *turns) contended() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.waiting) > 0
}

// leave frees proc's slot. With again the proc may have more work, and goes to the back.
func (t *turns) leave(proc string, s *seat, again bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s.taken--
	delete(t.running, proc)
	if again {
		t.waiting = append(t.waiting, proc)
	}
	t.fill()
}

// close ends the handing out of slots.
func (t *turns) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
}

// fill gives the free slots away, at the least busy worker first.
func (t *turns) fill() {
	for len(t.waiting) > 0 && !t.closed {
		s := slices.MinFunc(t.seats, func(a, b *seat) int { return a.taken - b.taken })
		if s.taken == t.concurrency {
			return
		}
		proc := t.waiting[0]
		t.waiting = t.waiting[1:]
		t.running[proc] = &call{}
		s.taken++
		t.start(proc, s)
	}
}
