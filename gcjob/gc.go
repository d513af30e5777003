package gcjob

import (
	"cmp"
	"context"
	"log/slog"
	"time"

	"pipeproc/api"
)

// Defaults of GC.
const (
	DefaultInterval     = 30 * time.Second
	DefaultMinPruneTime = 30_000 // ms
)

// A turn of GC removes logs in batches, and may have many to remove at first.
const gcPatience = 10 * time.Minute

// GCConfig says how often GC runs, and what it leaves alone.
type GCConfig struct {
	Collector api.Collector

	// Interval is the time from one run to the next. 0: DefaultInterval.
	Interval time.Duration

	// MinPruneTime, in ms, is the age that a log must have before it may go. 0 is no age at all.
	MinPruneTime int64

	// Logger hears of what was removed, and of trouble. nil: slog.Default().
	Logger *slog.Logger
}

// NewGC makes the loop that runs GC. Several servers may run it on one database. The first run comes after up to a tenth
// of the interval, so that servers started together do not run it together.
func NewGC(c GCConfig) *Loop {
	c.Interval = cmp.Or(c.Interval, DefaultInterval)
	c.Logger = cmp.Or(c.Logger, slog.Default())
	return &Loop{
		interval: c.Interval,
		jitter:   c.Interval / 10,
		turns:    &api.Turns{Name: "gc", Every: c.Interval, Patience: gcPatience},
		logger:   c.Logger,
		turn:     c.collect,
	}
}

func (c *GCConfig) collect(ctx context.Context) error {
	run, err := c.Collector.Collect(ctx, c.MinPruneTime)
	if err != nil {
		return err
	}
	var logs int64
	topics := 0
	for _, t := range run.Topics {
		logs += t.Collected
		if t.Collected > 0 {
			topics++
		}
	}
	if logs > 0 {
		c.Logger.Info("gc collected logs", "logs", logs, "topics", topics)
	}
	return nil
}
