package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"time"
)

// The load of the suite steady, and how often it is looked at.
const (
	steadyRate   = 10_000 // commits a second
	steadyTopics = 10
	steadyPrune  = 30 * time.Second
	steadyLook   = 10 * time.Second
)

// One line of what is printed.
const (
	steadyHeads = "%6s %9s %7s %8s %5s %5s %7s %7s %10s\n"
	steadyCells = "%6.1f %9.0f %7.2f %8d %5.0f %5.0f %7d %7d %10.0f\n"
)

// moment is one look at a server under steady load.
type moment struct {
	at      time.Duration
	commits figures
	kept    int64   // logs that GC has not given up
	table   float64 // of the logs and their index, MiB
	index   float64 // the index alone, MiB
	dead    int64   // dead tuples, as PostgreSQL estimates them
	vacuums int64
	memory  float64 // of the server, MiB
}

// steady commits at a fixed rate while GC runs by itself, for as long as -minutes says, and tells whether what the logs
// take of the disk levels off.
func steady(ctx context.Context, b *bench) error {
	var curve []moment
	err := withLab(ctx, b, func(l *lab) error {
		return l.withSubject(ctx, "steady", func(x *subject) error {
			var err error
			curve, err = x.steadily(ctx, time.Duration(b.minutes)*time.Minute)
			return err
		}, "--gc", fmt.Sprint("--gc-min-prune-time=", steadyPrune.Milliseconds()), fmt.Sprint("--gc-interval=", steadyPrune.Milliseconds()))
	})
	if err != nil {
		return err
	}
	third := len(curve) / 3
	before, after := curve[third:2*third], curve[2*third:]
	largest := func(moments []moment) (mib float64) {
		for _, m := range moments {
			mib = max(mib, m.table)
		}
		return mib
	}
	rates := make([]float64, len(curve))
	for i, m := range curve {
		rates[i] = m.commits.rate
	}
	b.table.atLeast("commits at a steady rate", median(rates), 0.99*steadyRate, "commits/s")
	b.table.tell("size of logs, middle third, at most", largest(before), "MiB")
	b.table.tell("size of logs, last third, at most", largest(after), "MiB")
	b.table.below("growth of that", largest(after)/largest(before), 1.1, "×")
	if b.markdown == "" {
		return nil
	}
	var text bytes.Buffer
	fmt.Fprintf(&text, "# Steady load with GC\n\n%d commits/s to %d topics, `--gc-min-prune-time %d`, looked at every %v.\n\n",
		steadyRate, steadyTopics, steadyPrune.Milliseconds(), steadyLook)
	text.WriteString("| minute | commits/s | p99 ms | logs kept | logs MiB | of it index MiB | dead rows | vacuums | server MiB |\n|---|---|---|---|---|---|---|---|---|\n")
	for i, m := range curve {
		if i%6 == 5 { // once a minute
			fmt.Fprintf(&text, "| %.0f | %.0f | %.2f | %d | %.0f | %.0f | %d | %d | %.0f |\n", m.at.Minutes(), m.commits.rate,
				millis(m.commits.p99), m.kept, m.table, m.index, m.dead, m.vacuums, m.memory)
		}
	}
	return os.WriteFile(b.markdown, text.Bytes(), 0o644)
}

// steadily puts the load on the server for so long, and prints what it sees as it goes.
func (x *subject) steadily(ctx context.Context, d time.Duration) ([]moment, error) {
	requests := make([][]byte, steadyTopics)
	for i := range requests {
		requests[i] = commitOne(fmt.Sprint("steady", i))
	}
	workers := each(64, func(i int) worker {
		next := i
		return func(w *wire) error {
			next++
			_, err := w.do(requests[next%len(requests)], 201)
			return err
		}
	})
	fmt.Printf(steadyHeads, "MINUTE", "COMMITS/S", "P99 MS", "KEPT", "MIB", "INDEX", "DEAD", "VACUUMS", "SERVER MIB")
	var curve []moment
	begin := time.Now()
	for time.Since(begin) < d {
		f, err := openLoop(ctx, x.address, steadyLook, steadyRate, workers)
		if err != nil {
			return curve, err
		}
		m := moment{at: time.Since(begin), commits: f}
		var table, index int64
		err = x.db.QueryRow(ctx, `SELECT (SELECT sum(head - first) FROM topics), pg_total_relation_size('logs'), pg_indexes_size('logs'),
			n_dead_tup, autovacuum_count FROM pg_stat_user_tables WHERE relid = 'logs'::regclass`).
			Scan(&m.kept, &table, &index, &m.dead, &m.vacuums)
		if err != nil {
			return curve, err
		}
		m.table, m.index = float64(table)/(1<<20), float64(index)/(1<<20)
		if m.memory, err = x.memory(); err != nil {
			return curve, err
		}
		curve = append(curve, m)
		fmt.Printf(steadyCells, m.at.Minutes(), m.commits.rate, millis(m.commits.p99), m.kept, m.table, m.index, m.dead, m.vacuums, m.memory)
	}
	if len(curve) < 6 {
		return curve, errors.New("too short to tell anything")
	}
	return curve, nil
}
