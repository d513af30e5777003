package api

import (
	"fmt"
	"sync"
	"time"
)

// Turns is the sign of life of a loop: it tells when each turn begins and ends, so that one that is stuck is noticed. Its
// methods may be called at any time, and on a nil *Turns, which nobody listens to.
type Turns struct {
	Name string
	// Every is the time between the end of a turn and the beginning of the next; 0: turns come when there is work.
	Every time.Duration
	// Patience is how long a turn may take, and the next one be late.
	Patience time.Duration

	mu      sync.Mutex
	running bool
	begun   time.Time // the turn under way; zero: none is
	idle    time.Time // since when none is
	ended   time.Time // the last turn; zero: none yet
}

// Start tells that the loop runs, and is expected to turn.
func (t *Turns) Start() {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.begun, t.idle, t.ended, t.running = time.Time{}, time.Now(), time.Time{}, true
}

// Begin tells that a turn begins.
func (t *Turns) Begin() {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.begun, t.running = time.Now(), true
}

// End tells that the turn has ended, well or not.
func (t *Turns) End() {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	t.begun, t.idle, t.ended, t.running = time.Time{}, now, now, true
}

// Stop tells that the loop has ended, and is not expected to turn.
func (t *Turns) Stop() {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.begun, t.running = time.Time{}, false
}

// Last is when the last turn ended; zero before the first since Start.
func (t *Turns) Last() time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.ended
}

// Stuck answers CodeUnavailable where the loop's turn takes too long, or the next one is overdue.
func (t *Turns) Stuck() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch now := time.Now(); {
	case !t.running:
	case !t.begun.IsZero() && now.Sub(t.begun) > t.Patience:
		return t.stuck(now.Sub(t.begun))
	case t.begun.IsZero() && t.Every > 0 && now.Sub(t.idle) > t.Every+t.Patience:
		return t.stuck(now.Sub(t.idle))
	}
	return nil
}

func (t *Turns) stuck(since time.Duration) error {
	return Errorf(CodeUnavailable, "the loop %q has been stuck for %s", t.Name, fmt.Sprint(since.Round(time.Second)))
}
