package procs

import (
	"context"
	"time"
)

const (
	// lookGap is the least time between two looks: under load, hints come with every commit. The first hint after a quiet
	// moment is followed at once.
	lookGap = 5 * time.Millisecond

	// The more systemProcs there are, the more a look costs the database. The time until the next one is so many times what
	// it took, so that looks take a quarter of one connection's time; but no more than maxLookGap.
	lookShare  = 3
	maxLookGap = 500 * time.Millisecond

	// lookAhead is how many more procs than the slots call for are asked for.
	lookAhead = 64

	// lookPatience is how long a look may take before the loop counts as stuck.
	lookPatience = 30 * time.Second

	// A look that the store refuses is repeated after a growing delay.
	firstLookDelay = 100 * time.Millisecond
	maxLookDelay   = 5 * time.Second
)

// look offers the procs with work to turns, whenever there may be new ones, until ctx is cancelled.
func (r *run) look(ctx context.Context) {
	watch := r.Watcher.WatchJobs()
	defer watch.Close()
	var failing time.Duration
	for {
		began := time.Now()
		r.looks.Begin()
		next, err := r.lookOnce(ctx)
		r.looks.End()
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			if failing == 0 {
				r.Logger.Warn("systemProcs: cannot list the procs with work", "error", err)
			}
			failing = min(max(2*failing, firstLookDelay), maxLookDelay)
			if !wait(ctx, failing) {
				return
			}
			continue
		}
		if failing > 0 {
			r.Logger.Info("systemProcs: the procs with work are listed again")
			failing = 0
		}

		var due <-chan time.Time
		if next >= 0 {
			due = time.After(next)
		}
		if !wait(ctx, min(max(lookGap, lookShare*time.Since(began)), maxLookGap)) {
			return
		}
		select {
		case <-watch.C:
		case <-r.again:
		case <-due:
		case <-ctx.Done():
			return
		}
	}
}

// lookOnce offers the procs that have work now, and answers the time until the clock alone gives another one work;
// negative when it will not.
func (r *run) lookOnce(ctx context.Context) (time.Duration, error) {
	// More than the slots: enough to fill them all, and to go round among those that wait until the next look.
	look := r.turns.look()
	procs, next, err := r.Jobs.RunnableJobs(ctx, 2*r.Workers*r.Concurrency+lookAhead, r.Inline)
	if err != nil {
		return 0, err
	}
	r.turns.offer(procs, look)
	return milliseconds(next), nil
}

// wait reports whether d went by before ctx ended.
func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func milliseconds(n int64) time.Duration { return time.Duration(n) * time.Millisecond }
