package gcjob

import (
	"cmp"
	"log/slog"
	"time"

	"pipeproc/api"
)

const (
	sweepInterval = time.Second
	sweepPatience = 30 * time.Second
)

// SweepConfig says what is swept.
type SweepConfig struct {
	Collector api.Collector

	// Logger hears of trouble. nil: slog.Default().
	Logger *slog.Logger
}

// NewSweep makes the loop that applies time-outs, and removes what has expired, every second. It runs whether GC does or
// not; several servers may run it on one database.
func NewSweep(c SweepConfig) *Loop {
	return &Loop{
		interval: sweepInterval,
		jitter:   sweepInterval / 10,
		turns:    &api.Turns{Name: "sweep", Every: sweepInterval, Patience: sweepPatience},
		logger:   cmp.Or(c.Logger, slog.Default()),
		turn:     c.Collector.Sweep,
	}
}
