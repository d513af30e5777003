package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

// speed measures commits, claims, reads and GC against what the machine allows: each round measures a limit and then the
// work, so that a machine that drifts does so for both.
func speed(ctx context.Context, b *bench) error {
	if !slices.ContainsFunc(speedCases, func(c speedCase) bool { return b.wants(c.name) }) {
		return fmt.Errorf("no case has %q in its name", b.only)
	}
	return withLab(ctx, b, func(l *lab) error {
		err := l.all(ctx)
		l.results.print(os.Stdout)
		if err == nil && b.markdown != "" {
			err = l.writeMarkdown(ctx, b.markdown)
		}
		if missed := l.results.missed(); err == nil && len(missed) > 0 {
			err = fmt.Errorf("missed: %s", strings.Join(missed, "; "))
		}
		return err
	})
}

// speedCase is one kind of work on a server of its own.
type speedCase struct {
	name  string
	run   func(context.Context, *subject) error
	flags []string // of the server
}

var speedCases = []speedCase{
	{name: "limits of this machine", run: limitsAlone},
	{name: "single commits, 1 topic, 64 connections", run: commitsToOne},
	{name: "single commits, 1,000 topics at random, 64 connections", run: commitsToMany},
	{name: "single commits beside webdis, 64 connections", run: besideWebdis},
	{name: "single commits, 1 connection", run: commitsAlone},
	{name: "batches of 100, 4 connections", run: batchesOf(100, 0.40)},
	{name: "batches of 1,000, 4 connections", run: batchesOf(1_000, 0.50)},
	{name: "claim + ack, 64 procs, 64 connections", run: claimsAndAcks},
	{name: "ack with claimNext, 64 procs, 64 connections", run: acksWithNext},
	{name: "ackCommit with claimNext, 64 procs, 64 connections", run: ackCommitsWithNext},
	{name: "one proc, ack with claimNext, 1 connection", run: oneProc},
	{name: "range of 1 M logs as NDJSON", run: wholeRange},
	{name: "page of 1,000 logs, 16 connections", run: pages},
	{name: "100 logs by timestamp in a topic of 10 M", run: byTimestamp},
	{name: "GC of 1 M logs while commits run", run: collects, flags: []string{"--gc-min-prune-time", "0"}},
	{name: "cost of growth", run: growth},
}

// all runs the cases that are asked for.
func (l *lab) all(ctx context.Context) error {
	for _, c := range speedCases {
		if !l.wants(c.name) {
			continue
		}
		begin := time.Now()
		err := l.withSubject(ctx, c.name, func(x *subject) error { return c.run(ctx, x) }, c.flags...)
		if err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		fmt.Fprintf(os.Stderr, "%s: %s\n", c.name, time.Since(begin).Round(time.Second))
	}
	if l.peak > 0 {
		l.results.tell("server memory under load, at most", number(l.peak, "MiB"), bar{"< 250 MiB", l.peak < 250})
	}
	return nil
}

// How long phases of load last, and how large what is filled before is.

func (l *lab) long() time.Duration {
	if l.quick {
		return 500 * time.Millisecond
	}
	return 3 * time.Second
}

func (l *lab) short() time.Duration {
	if l.quick {
		return 500 * time.Millisecond
	}
	return 2 * time.Second
}

func (l *lab) size(n int) int {
	if l.quick {
		return n / 20
	}
	return n
}

// against runs the limit, if there is one, and the work in turns, after a warm-up of both.
func (x *subject) against(ctx context.Context, to limit, work func(context.Context) (figures, error)) (*series, error) {
	s := &series{limits: to.name}
	for round := range 1 + x.lab.rounds {
		if to.measure != nil {
			allowed, err := to.measure(ctx)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", to.name, err)
			}
			if allowed.rate <= 0 {
				return nil, fmt.Errorf("%s: nothing was done", to.name)
			}
			s.limit = append(s.limit, allowed)
		}
		got, err := work(ctx)
		if err != nil {
			return nil, err
		}
		s.work = append(s.work, got)
		if round == 0 {
			s.limit, s.work = nil, nil
		}
	}
	return s, nil
}

// limitsAlone tells the limits without anything held against them.
func limitsAlone(ctx context.Context, x *subject) error {
	time.Sleep(x.lab.long()) // idle
	idle, err := x.memory()
	if err != nil {
		return err
	}
	if err := x.fill(ctx, "bench", 1, x.lab.size(1_000_000)); err != nil {
		return err
	}
	fsync := limit{"write and flush 8 KiB", func(ctx context.Context) (figures, error) { return x.lab.fsyncs(ctx, x.lab.short()) }}
	for _, l := range []struct {
		limit
		unit string
	}{
		{x.noOp(64), "/s"}, {x.noOp(1), "/s"}, {x.pgbench(1), "commits/s"}, {x.pgbench(64), "commits/s"},
		{x.copyRows(), "rows/s"}, {x.copyTo("bench0"), "rows/s"}, {fsync, "/s"},
	} {
		s := &series{}
		for range x.lab.rounds {
			f, err := l.measure(ctx)
			if err != nil {
				return fmt.Errorf("%s: %w", l.name, err)
			}
			s.work = append(s.work, f)
		}
		x.lab.results.add(l.name, l.unit, 0, s)
	}
	x.lab.results.tell("server memory, idle", number(idle, "MiB"), bar{"< 60 MiB", idle < 60})
	return nil
}
