// Package gcjob is the periodic work on the store: GC, and the sweep that applies what is due by the clock.
package gcjob

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"
)

// Loop does one thing again and again: NewGC and NewSweep make one.
type Loop struct {
	name     string
	interval time.Duration // from the end of a turn to the beginning of the next
	jitter   time.Duration // the first turn comes after a random part of it
	patience time.Duration // how long a turn may take and the loop still count as healthy
	turn     func(context.Context) error
	logger   *slog.Logger

	mu       sync.Mutex
	running  bool
	failing  bool      // as of the last turn
	began    time.Time // Run
	lastTurn time.Time // its end; zero: none yet
}

// Run makes turns until ctx is cancelled, which is no error: it answers nil. A turn that fails is logged, once until one
// goes well again, and the loop goes on. Turns do not overlap. It may be called again after its end, but not twice at
// once.
func (l *Loop) Run(ctx context.Context) error {
	l.mu.Lock()
	l.running, l.failing, l.began, l.lastTurn = true, false, time.Now(), time.Time{}
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.running = false
	}()

	first := time.Duration(0)
	if l.jitter > 0 {
		first = rand.N(l.jitter)
	}
	timer := time.NewTimer(first)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-ctx.Done():
			return nil
		}
		err := l.runOnce(ctx)
		if ctx.Err() != nil {
			return nil
		}
		l.note(err)
		timer.Reset(l.interval)
	}
}

func (l *Loop) runOnce(ctx context.Context) error { return l.turn(ctx) }

// note remembers how a turn ended, and logs it when that is news.
func (l *Loop) note(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case err != nil && !l.failing:
		l.logger.Warn("periodic work goes wrong", "work", l.name, "error", err)
	case err == nil && l.failing:
		l.logger.Info("periodic work goes well again", "work", l.name)
	}
	l.failing = err != nil
	l.lastTurn = time.Now()
}

// LastTurn is the time at which the last turn ended, well or not; zero before the first one of the current Run.
func (l *Loop) LastTurn() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lastTurn
}

// Healthy reports whether the loop turns: Run is under way, the last turn went well (or is to come), and the next one is
// not overdue.
func (l *Loop) Healthy() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	last := l.lastTurn
	if last.IsZero() {
		last = l.began
	}
	return l.running && !l.failing && time.Since(last) <= l.interval+l.patience
}
