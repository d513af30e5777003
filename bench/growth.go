package main

import (
	"context"
	"fmt"
)

// growth does the same work, in turns, on an empty database and on one with 10 M logs, 10,000 topics and 10,000 procs.
func growth(ctx context.Context, x *subject) error {
	return x.lab.withSubject(ctx, x.name, func(grown *subject) error {
		const topics = 10_000
		if err := grown.fill(ctx, "grown", topics, x.lab.size(1_000)); err != nil {
			return err
		}
		if err := grown.exec(ctx, `INSERT INTO procs (name, topic_id, kind, start_offset, created_at, status, count, max_reclaims,
				reclaim_timeout, on_max_reclaims, position)
			SELECT name, id, 'proc', '>', now_ms(), 'active', 1, 10, 10000, 'disable', 0 FROM topics`); err != nil {
			return err
		}
		if err := grown.settle(ctx); err != nil {
			return err
		}

		commits := func(x *subject) func(context.Context) (figures, error) {
			return func(ctx context.Context) (figures, error) {
				return x.closed(ctx, x.lab.long(), committers(64))
			}
		}
		s, err := grown.against(ctx, limit{"empty database", commits(x)}, commits(grown))
		if err != nil {
			return err
		}
		grown.add(fmt.Sprintf("%s: single commits, 1 topic, 64 connections", x.name), "commits/s", s, ratioBar(s, 0.85))

		onEmpty, err := x.newCycles(ctx, 64, false, claimAndAck)
		if err != nil {
			return err
		}
		onGrown, err := grown.newCycles(ctx, 64, false, claimAndAck)
		if err != nil {
			return err
		}
		s, err = grown.against(ctx, limit{"empty database", onEmpty.run}, onGrown.run)
		if err != nil {
			return err
		}
		grown.add(fmt.Sprintf("%s: claim + ack, 64 procs, 64 connections", x.name), "cycles/s", s, ratioBar(s, 0.85))
		return nil
	})
}
