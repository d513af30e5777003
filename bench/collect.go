package main

import (
	"context"
	"fmt"
	"net/http"
	"sync/atomic"
	"time"

	"pipeproc/api"
)

// collects runs GC of 1 M logs while 64 connections commit to another topic, and the same commits without GC before.
func collects(ctx context.Context, x *subject) error {
	// What is committed meanwhile stays: a proc has yet to read it.
	if err := x.ask(ctx, http.MethodPut, "/v1/procs/keeper", `{"topic":"bench","offset":">"}`); err != nil {
		return err
	}
	logs := x.lab.size(1_000_000)
	collected := &series{}
	round := 0
	without := limit{"without GC", func(ctx context.Context) (figures, error) {
		round++
		if err := x.fill(ctx, fmt.Sprintf("old%d-", round), 1, logs); err != nil {
			return figures{}, err
		}
		// Everything there is was acked, as it were.
		if err := x.ask(ctx, http.MethodPut, fmt.Sprintf("/v1/procs/reader%d", round),
			fmt.Sprintf(`{"topic":"old%d-0","offset":"latest"}`, round)); err != nil {
			return figures{}, err
		}
		return x.closed(ctx, x.lab.long(), committers(64))
	}}
	s, err := x.against(ctx, without, func(ctx context.Context) (figures, error) {
		var over atomic.Bool
		var gc figures
		ran := make(chan error, 1)
		f, err := x.watched(ctx, time.Second, func() (figures, error) {
			go func() {
				defer over.Store(true)
				var err error
				gc, err = x.collect(ctx, logs)
				ran <- err
			}()
			return closedUntil(ctx, x.address, time.Minute, &over, committers(64))
		})
		if e := <-ran; err == nil {
			err = e
		}
		if round > 1 { // the first is the warm-up
			collected.work = append(collected.work, gc)
		}
		return f, err
	})
	if err != nil {
		return err
	}
	x.add(x.name, "logs/s collected", collected, rateBar(collected, 150_000, "logs/s"))
	x.add("commits while GC runs, 64 connections", "commits/s", s, ratioBar(s, 0.75))
	return nil
}

// collect runs GC, which has so many logs to collect.
func (x *subject) collect(ctx context.Context, logs int) (figures, error) {
	begin := time.Now()
	run, err := x.GC(ctx)
	if err != nil {
		return figures{}, err
	}
	took := time.Since(begin)
	if got := sum(run.Topics); got != int64(logs) {
		return figures{}, fmt.Errorf("GC has collected %d logs instead of %d", got, logs)
	}
	return figures{rate: float64(logs) / took.Seconds()}, nil
}

func sum(topics []api.Collected) (logs int64) {
	for _, t := range topics {
		logs += t.Collected
	}
	return logs
}
