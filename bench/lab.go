package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"pipeproc/pgstore/embedded"
)

// lab is a PostgreSQL of its own with its default durability, on which servers run, each on a database of its own. Both
// the servers and pgbench reach it through its Unix socket.
type lab struct {
	*bench
	cluster   *embedded.Cluster
	dir       string
	databases int
	results   results
	peak      float64 // the most memory that a server took under load, MiB
}

// withLab runs f on a new lab and removes it.
func withLab(ctx context.Context, b *bench, f func(*lab) error) (err error) {
	dir, err := os.MkdirTemp("", "pipeproc-bench-*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := os.Chmod(dir, 0o711); err != nil { // started as root, PostgreSQL runs under another account
		return err
	}
	c, err := embedded.Start(ctx, embedded.Config{Dir: filepath.Join(dir, "postgres"), MaxConnections: 200,
		Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))})
	if err != nil {
		return err
	}
	defer func() {
		stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		err = errors.Join(err, c.Stop(stopping))
	}()
	return f(&lab{bench: b, cluster: c, dir: dir})
}

// subject is a server on a database of its own, with what the bench itself needs of that.
type subject struct {
	*server
	lab     *lab
	address string // host:port
	dbURL   string
	db      *pgx.Conn // its search path is the server's schema
	name    string    // of the case
	profile string    // the address of --pprof-listen
	phases  int
	peak    float64 // the most memory seen under load, MiB
}

// withSubject runs f with a fresh server on a fresh database.
func (l *lab) withSubject(ctx context.Context, name string, f func(*subject) error, flags ...string) (err error) {
	l.databases++
	database := fmt.Sprintf("bench%d", l.databases)
	if err := l.execute(ctx, l.cluster.URL(), "CREATE DATABASE "+database); err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, l.execute(context.WithoutCancel(ctx), l.cluster.URL(), "DROP DATABASE "+database+" WITH (FORCE)"))
	}()
	at, err := url.Parse(l.cluster.URL())
	if err != nil {
		return err
	}
	at.Path = "/" + database
	x := &subject{lab: l, dbURL: at.String(), name: name}
	flags = append(flags, "--database-url", x.dbURL)
	if l.profiles != "" {
		if x.profile, err = freeAddress(); err != nil {
			return err
		}
		flags = append(flags, "--pprof-listen", x.profile)
	}
	if x.server, err = startServer(ctx, l.binary, flags...); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, x.stop()) }()
	x.address = strings.TrimPrefix(x.url, "http://")
	if x.db, err = pgx.Connect(ctx, x.dbURL); err != nil {
		return err
	}
	defer x.db.Close(context.WithoutCancel(ctx))
	if err := x.exec(ctx, `SET search_path = "pipeproc_default"`); err != nil {
		return err
	}
	return f(x)
}

func (l *lab) execute(ctx context.Context, dbURL, sql string) error {
	conn, err := pgx.Connect(ctx, dbURL)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, sql)
	return err
}

func (x *subject) exec(ctx context.Context, sql string, args ...any) error {
	_, err := x.db.Exec(ctx, sql, args...)
	return err
}

// closed puts closed-loop load on the server, with a connection for each worker.
func (x *subject) closed(ctx context.Context, d time.Duration, workers []worker) (figures, error) {
	return x.watched(ctx, d, func() (figures, error) { return closedLoop(ctx, x.address, d, workers) })
}

// open puts open-loop load on the server.
func (x *subject) open(ctx context.Context, d time.Duration, rate float64, workers []worker) (figures, error) {
	return x.watched(ctx, d, func() (figures, error) { return openLoop(ctx, x.address, d, rate, workers) })
}

// watched samples the server's memory while it is under load, and takes a profile if that is asked for.
func (x *subject) watched(ctx context.Context, d time.Duration, load func() (figures, error)) (figures, error) {
	x.phases++
	profiled := x.takeProfile(ctx, d)
	stop := x.sampleMemory()
	f, err := load()
	return f, errors.Join(err, stop(), <-profiled)
}

// sampleMemory keeps the peak until stop is called.
func (x *subject) sampleMemory() (stop func() error) {
	done, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			used, err := x.memory()
			x.peak = max(x.peak, used)
			if err != nil {
				ended <- err
				return
			}
			select {
			case <-tick.C:
			case <-done:
				ended <- nil
				return
			}
		}
	}()
	return func() error { close(done); return <-ended }
}

// add tells a series with the most memory that the server has taken so far.
func (x *subject) add(work, unit string, s *series, bars ...bar) {
	x.lab.peak = max(x.lab.peak, x.peak)
	x.lab.results.add(work, unit, x.peak, s, bars...)
}

// fill adds topics with so many logs of 100 bytes each, by SQL: prefix0, prefix1 … Ten logs share a millisecond; the last
// one is of now.
func (x *subject) fill(ctx context.Context, prefix string, topics, logs int) error {
	if err := x.exec(ctx, `WITH made AS (INSERT INTO topics (name, head, last_ts, created_at)
			SELECT $1 || i, $3::bigint, now_ms(), now_ms() - ($3::bigint - 1) / 10 FROM generate_series(0, $2::int - 1) AS i
			RETURNING id, last_ts)
		INSERT INTO logs (topic_id, seq, ts, body)
		SELECT id, seq, last_ts - ($3::bigint - 1 - seq) / 10, $4::bytea FROM made, generate_series(0, $3::bigint - 1) AS seq`,
		prefix, topics, int64(logs), []byte(body)); err != nil {
		return err
	}
	return x.settle(ctx)
}

// settle does now what PostgreSQL would do soon after a great change, while others are being measured.
func (x *subject) settle(ctx context.Context) error {
	for _, sql := range []string{"VACUUM (ANALYZE) topics", "VACUUM (ANALYZE) logs", "VACUUM (ANALYZE) procs", "CHECKPOINT"} {
		if err := x.exec(ctx, sql); err != nil {
			return err
		}
	}
	return nil
}

// fsyncs answers how many times a second 8 KiB can be written and flushed, where PostgreSQL's data are.
func (l *lab) fsyncs(ctx context.Context, d time.Duration) (figures, error) {
	f, err := os.CreateTemp(l.dir, "fsync-*")
	if err != nil {
		return figures{}, err
	}
	defer func() { f.Close(); _ = os.Remove(f.Name()) }()
	const page, pages = 8 << 10, 2 << 10 // 16 MiB written before, as PostgreSQL's log is
	if _, err := io.CopyN(f, zeros{}, page*pages); err != nil {
		return figures{}, err
	}
	if err := f.Sync(); err != nil {
		return figures{}, err
	}
	data := make([]byte, page)
	var times []time.Duration
	begin := time.Now()
	for at := begin; at.Sub(begin) < d && ctx.Err() == nil; {
		if _, err := f.WriteAt(data, int64(len(times)%pages)*page); err != nil {
			return figures{}, err
		}
		if err := datasync(f); err != nil {
			return figures{}, err
		}
		now := time.Now()
		times = append(times, now.Sub(at))
		at = now
	}
	return summary(times, time.Since(begin)), ctx.Err()
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}
