package pgstore_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"regexp"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"pipeproc/api"
	"pipeproc/migrations"
	"pipeproc/pgstore"
	"pipeproc/pgstore/pgtest"
)

// latestStep is the version that the schema has now.
func latestStep(t *testing.T) int {
	t.Helper()
	names, err := fs.Glob(migrations.Files, "*.up.sql")
	if err != nil {
		t.Fatal(err)
	}
	return len(names)
}

// andSteps are the schema's steps, and more after them.
func andSteps(t *testing.T, more ...string) fs.FS {
	t.Helper()
	files := fstest.MapFS{}
	names, err := fs.Glob(migrations.Files, "*.sql")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		text, err := fs.ReadFile(migrations.Files, name)
		if err != nil {
			t.Fatal(err)
		}
		files[name] = &fstest.MapFile{Data: text}
	}
	next := latestStep(t)
	for i, text := range more {
		name := fmt.Sprintf("%06d_more", next+i+1)
		maps.Copy(files, fstest.MapFS{name + ".up.sql": {Data: []byte(text)}, name + ".down.sql": {Data: []byte("SELECT 1")}})
	}
	return files
}

// expand is a step that a server of the version before can live with: it touches every table that the batches lock.
const expand = `
	ALTER TABLE procs ADD COLUMN more text NOT NULL DEFAULT '';
	ALTER TABLE topics ADD COLUMN more text;
	ALTER TABLE logs ADD COLUMN more int;
	ALTER TABLE lanes ADD COLUMN more int DEFAULT 1;
	CREATE TABLE more (id bigint PRIMARY KEY)`

// TestStepsTellWhoMayGoOn: each step tells in its first line which servers can work with the schema that it leaves, and
// the schema says the same.
func TestStepsTellWhoMayGoOn(t *testing.T) {
	t.Parallel()
	url := pgtest.EmptyDatabase(t)
	m := steps(t, url)
	conn := outsider(t, url)
	told := regexp.MustCompile(`^-- Servers made for version (\d+) may go on\.\n`)
	for version := 1; version <= latestStep(t); version++ {
		if err := m.Steps(1); err != nil {
			t.Fatal(err)
		}
		if version < 6 { // the first that servers ask
			continue
		}
		names, err := fs.Glob(migrations.Files, fmt.Sprintf("%06d_*.up.sql", version))
		if err != nil || len(names) != 1 {
			t.Fatal(names, err)
		}
		text, err := fs.ReadFile(migrations.Files, names[0])
		if err != nil {
			t.Fatal(err)
		}
		first := told.FindSubmatch(text)
		if first == nil {
			t.Errorf("%s does not tell who may go on", names[0])
			continue
		}
		want, _ := strconv.Atoi(string(first[1]))
		if oldest := queryOne[int](t, conn, "SELECT oldest FROM pipeproc_default.namespace"); oldest != want {
			t.Errorf("%s tells of version %d, the schema of %d", names[0], want, oldest)
		}
	}
}

// busy works on a store until stop is called, which answers how often each kind of work was done. Whatever fails is an
// error of the test.
func busy(t *testing.T, s *pgstore.Store) (stop func() map[string]int64) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	counts := map[string]*atomic.Int64{}
	work := func(name string, f func(i int) error) {
		n := new(atomic.Int64)
		counts[name] = n
		done.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				if err := f(i); err != nil {
					if ctx.Err() == nil || !errors.Is(err, context.Canceled) {
						t.Errorf("%s: %v", name, err)
					}
					return
				}
				n.Add(1)
			}
		})
	}
	mustCommit(t, s, append(logs("a", `[0]`), logs("b", `[0]`)...)...)
	for w := range 4 {
		work(fmt.Sprint("commit ", w), func(int) error {
			_, err := s.Commit(ctx, logs("a", `[1]`), nil)
			return err
		})
		work(fmt.Sprint("commit to two ", w), func(int) error {
			_, err := s.Commit(ctx, append(logs("a", `[2]`), logs("b", `[2]`)...), nil)
			return err
		})
		proc := fmt.Sprint("p", w)
		createProc(t, s, proc, "a")
		work("claim and ack "+proc, func(int) error {
			c, err := s.Claim(ctx, proc, api.ClaimRequest{Wait: ptr(int64(1000))})
			if err != nil || c == nil {
				return err
			}
			_, err = s.Ack(ctx, proc, api.AckRequest{Token: c.Claim.Token, Logs: logs("out", `[3]`)})
			return err
		})
	}
	work("range", func(int) error {
		_, err := s.Range(ctx, "a", api.RangeQuery{Limit: 10, Reverse: true, Start: api.Bound{}})
		return err
	})
	work("create and destroy", func(i int) error {
		name := fmt.Sprint("q", i)
		if _, _, err := s.CreateProc(ctx, name, api.ProcOptions{Topic: "b"}); err != nil {
			return err
		}
		_, err := s.DestroyProc(ctx, name)
		return err
	})
	work("sweep", func(int) error { return s.Sweep(ctx) })
	work("collect", func(int) error { _, err := s.Collect(ctx, 0); return err })
	work("ready", func(int) error { return s.Ready(ctx) })
	return sync.OnceValue(func() map[string]int64 {
		cancel()
		done.Wait()
		all := map[string]int64{}
		for name, n := range counts {
			all[name] = n.Load()
		}
		return all
	})
}

// TestUpgradeInPlace: while a newer server changes the schema the older one goes on, under load and without an error; so
// does one that starts afterwards. A schema that has no place for it any more is refused, and told of.
func TestUpgradeInPlace(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	older, _ := openWith(t, pgstore.Config{URL: url})
	conn := outsider(t, url)
	stop := busy(t, older)
	heads := func() int64 { return queryOne[int64](t, conn, "SELECT sum(head)::bigint FROM pipeproc_default.topics") }
	moves := func() {
		t.Helper()
		at := heads()
		until(t, "the older server goes on", func() bool { return t.Failed() || heads() > at+200 })
	}
	moves()
	newer, _ := openWith(t, pgstore.Config{URL: url}.WithSteps(andSteps(t, expand), time.Minute))
	mustCommit(t, newer, logs("a", `[4]`)...)
	moves()
	again, _ := openWith(t, pgstore.Config{URL: url})
	if err := again.Ready(t.Context()); err != nil {
		t.Error("a server of the version before, started later:", err)
	}
	mustCommit(t, again, logs("a", `[5]`)...)
	for name, n := range stop() {
		if n == 0 {
			t.Errorf("%s was never done", name)
		}
	}

	next := latestStep(t) + 1
	contract := fmt.Sprintf("ALTER TABLE more ADD COLUMN x int; UPDATE namespace SET oldest = %d", next)
	newest, _ := openWith(t, pgstore.Config{URL: url}.WithSteps(andSteps(t, expand, contract), time.Minute))
	for s, fits := range map[*pgstore.Store]bool{older: false, again: false, newer: true, newest: true} {
		if err := s.Ready(t.Context()); (err == nil) != fits {
			t.Errorf("ready: %v, want %v", err, fits)
		}
	}
	wantRefused(t, pgstore.Config{URL: url, UnsafeDurability: true}, "newer program", fmt.Sprint("version ", next))
}

// TestStepsWaitForAMoment: a step that does not get its tables does not hold up the batches that need them. It comes back
// until they are free, or says who is in its way.
func TestStepsWaitForAMoment(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	older, _ := openWith(t, pgstore.Config{URL: url})
	dump := outsider(t, url) // what pg_dump does
	mustCommit(t, older, logs("a", `[0]`)...)
	mustExec(t, dump, "BEGIN ISOLATION LEVEL REPEATABLE READ")
	mustExec(t, dump, "LOCK TABLE pipeproc_default.topics, pipeproc_default.logs IN ACCESS SHARE MODE")

	wantRefused(t, pgstore.Config{URL: url, UnsafeDurability: true}.WithSteps(andSteps(t, expand), time.Millisecond), "hold its tables")

	conn := outsider(t, url)
	waits := func() bool {
		return queryOne[bool](t, conn, `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database()
			AND wait_event_type = 'Lock' AND query LIKE 'SET LOCAL lock_timeout%')`)
	}
	opened := async(func() (*pgstore.Store, error) {
		return pgstore.Open(context.Background(), pgstore.Config{URL: url, UnsafeDurability: true, Logger: pgtest.Logger()}.
			WithSteps(andSteps(t, expand), time.Minute))
	})
	for range 3 {
		until(t, "the step waits", waits)
		began := time.Now()
		mustCommit(t, older, logs("a", `[1]`)...)
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("a commit took %v", took)
		}
		until(t, "the step gives way", func() bool { return !waits() })
	}
	mustExec(t, dump, "COMMIT")
	s, err := receive(t, opened)
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	mustCommit(t, older, logs("a", `[2]`)...)
}

// TestStepsAreWhole: a server that dies in a step leaves the schema as it was, and the next ones, all at once, do it.
func TestStepsAreWhole(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	conn := outsider(t, url)
	latest := latestStep(t)
	// What stands before the sleep is done when the connection is cut.
	const slow = expand + "; SELECT pg_sleep(60)"
	failed := async(func() (*pgstore.Store, error) {
		return pgstore.Open(context.Background(), pgstore.Config{URL: url, UnsafeDurability: true, Logger: pgtest.Logger()}.
			WithSteps(andSteps(t, slow), time.Minute))
	})
	until(t, "the step is under way", func() bool {
		return queryOne[int](t, conn, `SELECT count(*) FILTER (WHERE pg_terminate_backend(pid, 5000)) FROM pg_stat_activity
			WHERE datname = current_database() AND wait_event = 'PgSleep'`) == 1
	})
	if _, err := receive(t, failed); err == nil {
		t.Fatal("it has started")
	}
	if version := queryOne[int](t, conn, "SELECT version FROM pipeproc_default.schema_migrations WHERE NOT dirty"); version != latest {
		t.Errorf("the schema has version %d", version)
	}
	s, stop := openWith(t, pgstore.Config{URL: url})
	mustCommit(t, s, logs("a", `[1]`)...)
	stop()
	var all []<-chan answer[*pgstore.Store]
	for range 3 {
		all = append(all, async(func() (*pgstore.Store, error) {
			return pgstore.Open(context.Background(), pgstore.Config{URL: url, UnsafeDurability: true, Logger: pgtest.Logger()}.
				WithSteps(andSteps(t, expand), time.Minute))
		}))
	}
	for _, c := range all {
		s, err := receive(t, c)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Ready(t.Context()); err != nil {
			t.Error(err)
		}
		s.Close()
	}
	mustExec(t, conn, "SELECT more FROM pipeproc_default.logs, pipeproc_default.more")
}
