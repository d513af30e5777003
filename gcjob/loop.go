// Package gcjob is the periodic work on the store: GC, and the sweep that applies what is due by the clock.
package gcjob

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"time"

	"pipeproc/api"
)

// Loop does one thing again and again: NewGC and NewSweep make one.
type Loop struct {
	interval time.Duration // from the end of a turn to the beginning of the next
	jitter   time.Duration // the first turn comes after a random part of it
	turn     func(context.Context) error
	logger   *slog.Logger

	turns   *api.Turns
	failing bool // as of the last turn
}

// Run makes turns until ctx is cancelled, which is no error: it answers nil. A turn that fails is logged, once until one
// goes well again, and the loop goes on. Turns do not overlap. It may be called again after its end, but not twice at
// once.
func (l *Loop) Run(ctx context.Context) error {
	l.failing = false
	l.turns.Start()
	defer l.turns.Stop()

	first := time.Duration(0)
	if l.jitter > 0 {
		first = rand.N(l.jitter) //nolint:gosec // a delay is to be spread, not secret
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

func (l *Loop) runOnce(ctx context.Context) error {
	l.turns.Begin()
	defer l.turns.End()
	return l.turn(ctx)
}

// note remembers how a turn ended, and logs it when that is news.
func (l *Loop) note(err error) {
	switch {
	case err != nil && !l.failing:
		l.logger.Warn("periodic work goes wrong", "work", l.turns.Name, "error", err)
	case err == nil && l.failing:
		l.logger.Info("periodic work goes well again", "work", l.turns.Name)
	}
	l.failing = err != nil
}

// Turns tell of each of the loop's turns.
func (l *Loop) Turns() *api.Turns { return l.turns }
