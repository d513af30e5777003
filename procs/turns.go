package procs

import (
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
	waiting []string        // next first
	running map[string]bool // never waiting
	closed  bool
}

func newTurns(seats []*seat, concurrency int, start func(string, *seat)) *turns {
	return &turns{start: start, concurrency: concurrency, seats: seats, running: map[string]bool{}}
}

// offer tells which procs have work, as the store orders them. It replaces what was known: a proc that is missing has
// none, or will be offered the next time.
func (t *turns) offer(procs []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.waiting = slices.DeleteFunc(slices.Clone(procs), func(proc string) bool { return t.running[proc] })
	t.fill()
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
		t.running[proc] = true
		s.taken++
		t.start(proc, s)
	}
}
