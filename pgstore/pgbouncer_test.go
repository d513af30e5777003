package pgstore_test

import (
	"context"
	"strconv"
	"strings"
	"testing"
	"time"

	"pipeproc/api"
	"pipeproc/pgstore"
	"pipeproc/pgstore/pgtest"
)

// TestThroughPgBouncer: with the direct URL beside it a store works through a PgBouncer that pools transactions: from an
// empty database on, under load, with wake-ups between two stores.
func TestThroughPgBouncer(t *testing.T) {
	t.Parallel()
	for _, roundRobin := range []string{"0", "1"} {
		t.Run("round robin "+roundRobin, func(t *testing.T) {
			t.Parallel()
			direct := pgtest.EmptyDatabase(t)
			bouncer := pgtest.StartPgBouncer(t, direct, map[string]string{"server_round_robin": roundRobin})
			cfg := pgstore.Config{URL: bouncer.URL, DirectURL: direct, PollInterval: time.Hour}
			a, _ := openWith(t, cfg)
			b, _ := openWith(t, cfg)
			stop := busy(t, a)
			conn := outsider(t, direct)
			listens(t, conn, 2)
			for i := range 20 {
				proc := "waits" + strconv.Itoa(i)
				createProc(t, a, proc, proc)
				c := async(func() (*api.Claimed, error) {
					return b.Claim(context.Background(), proc, api.ClaimRequest{Wait: ptr(int64(60_000))})
				})
				until(t, "the claim waits", func() bool { return b.Watching(proc) })
				mustCommit(t, a, logs(proc, `[1]`)...)
				wantClaimed(t, c, `[1]`)
			}
			for name, n := range stop() {
				if n == 0 {
					t.Errorf("%s was never done", name)
				}
			}
			live, err := a.CreateLiveProc(t.Context(), api.LiveProcSpec{Topic: "a", Mode: api.ModeAll})
			if err != nil {
				t.Fatal(err)
			}
			stream, _, ok, err := b.OpenStream(t.Context(), live.Name, 0)
			if err != nil || !ok {
				t.Fatal(ok, err)
			}
			if err := b.KeepStreams(t.Context(), []api.Stream{stream}); err != nil {
				t.Error(err)
			}
			if turn, err := b.Turn(t.Context(), stream, ""); err != nil || turn.Claimed == nil {
				t.Errorf("%+v, %v", turn, err)
			}
			// Two, and one that cancels. Looked at only now: what the load gave up while it was answered, PgBouncer closed.
			if n := len(bouncer.Backends(t)); n == 0 || n > 3 {
				t.Errorf("PgBouncer has %d connections", n)
			}
		})
	}
}

// TestPooledBackendsEnd: what PostgreSQL's processes behind PgBouncer were at when they end is told as such, commits do not
// notice, and everything goes on.
func TestPooledBackendsEnd(t *testing.T) {
	t.Parallel()
	direct := pgtest.Database(t)
	bouncer := pgtest.StartPgBouncer(t, direct, nil)
	s, _ := openWith(t, pgstore.Config{URL: bouncer.URL, DirectURL: direct})
	conn := outsider(t, direct)
	mustCommit(t, s, logs("a", `[0]`)...)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for ctx.Err() == nil {
			if _, err := s.Commit(ctx, logs("a", `[1]`), nil); err != nil && ctx.Err() == nil {
				t.Error("commit:", err)
				return
			}
		}
	}()
	for i := range 20 {
		// Held up in a transaction of the pool, so that it is one under way that ends.
		mustExec(t, conn, "BEGIN")
		proc := "p" + strconv.Itoa(i)
		createProc(t, s, proc, "b")
		mustExec(t, conn, "SELECT FROM pipeproc_default.procs WHERE name = $1 FOR UPDATE", proc)
		c := async(func() (api.Proc, error) { return s.DestroyProc(context.Background(), proc) })
		other := outsider(t, direct)
		until(t, "it waits", func() bool {
			return queryOne[bool](t, other, `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = ANY($1) AND wait_event_type = 'Lock')`,
				bouncer.Backends(t))
		})
		queryOne[int](t, other, "SELECT count(pg_terminate_backend(pid, 5000)) FROM unnest($1::int[]) AS pid", bouncer.Backends(t))
		mustExec(t, conn, "COMMIT")
		if _, err := receive(t, c); err != nil {
			wantCode(t, err, api.CodeUnavailable)
		}
		until(t, "it is answered again", func() bool { return s.Ready(ctx) == nil })
		if _, err := s.Proc(ctx, proc); err != nil && api.CodeOf(err) != api.CodeInvalidProc {
			t.Error(err)
		}
	}
	cancel()
	<-ended
}

// TestUnknownOutcomesBesidePgBouncer: what became of a COMMIT is found out as without it.
func TestUnknownOutcomesBesidePgBouncer(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	bouncer := pgtest.StartPgBouncer(t, url, nil)
	p, direct := newProxy(t, url)
	s, _ := openWith(t, pgstore.Config{URL: bouncer.URL, DirectURL: direct}, impatient)
	mustCommit(t, s, logs("a", `[0]`)...)
	for i, fault := range []commitFault{answerLost, answerHeld, commitLost, commitHeld, answerLate} {
		struck := p.strike(fault, 0)
		body := "[" + strconv.Itoa(i+1) + "]"
		if ids := mustCommit(t, s, append(logs("a", body), logs("b", body)...)...); ids[0].Seq != int64(i+1) {
			t.Errorf("fault %d: the log is %v", fault, ids)
		}
		<-struck
	}
	if got := strings.Join(bodies(t, s, "a"), ""); got != "[0][1][2][3][4][5]" {
		t.Error("the topic holds", got)
	}
}

// TestPoolersAreSeen: what leads through a PgBouncer that pools transactions is refused where a session is needed, with
// words that tell what to do, and leaves nothing behind. One that pools sessions will do.
func TestPoolersAreSeen(t *testing.T) {
	t.Parallel()
	direct := pgtest.Database(t)
	conn := outsider(t, direct)
	for name, settings := range map[string]map[string]string{
		"one":         {"default_pool_size": "1"},
		"two":         {},
		"round robin": {"server_round_robin": "1"},
		"many":        {"default_pool_size": "4", "min_pool_size": "4"},
		"in turn":     {"default_pool_size": "4", "min_pool_size": "4", "server_round_robin": "1"},
	} {
		t.Run(name, func(t *testing.T) {
			bouncer := pgtest.StartPgBouncer(t, direct, settings)
			want := 1
			if n, ok := settings["min_pool_size"]; ok {
				want, _ = strconv.Atoi(n)
				if err := outsider(t, bouncer.URL).PgConn().Exec(t.Context(), "SELECT 1").Close(); err != nil { // makes the pool
					t.Fatal(err)
				}
				until(t, "the pool is full", func() bool { return len(bouncer.Backends(t)) >= want })
			}
			for range 5 {
				wantRefused(t, pgstore.Config{URL: bouncer.URL, UnsafeDurability: true}, "pooler", "PgBouncer", "--database-direct-url")
				wantRefused(t, pgstore.Config{URL: direct, DirectURL: bouncer.URL, UnsafeDurability: true}, "--database-direct-url leads", "pooler")
			}
			if n := queryOne[int](t, conn, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = ANY($1)", bouncer.Backends(t)); n != 0 {
				t.Errorf("%d locks are left in the pool", n)
			}
		})
	}
	t.Run("of sessions", func(t *testing.T) {
		direct := pgtest.EmptyDatabase(t)
		conn := outsider(t, direct)
		bouncer := pgtest.StartPgBouncer(t, direct, map[string]string{"pool_mode": "session", "default_pool_size": "50"})
		a, _ := openWith(t, pgstore.Config{URL: bouncer.URL, PollInterval: time.Hour})
		b, _ := openWith(t, pgstore.Config{URL: bouncer.URL, PollInterval: time.Hour})
		createProc(t, a, "p", "t")
		listens(t, conn, 2)
		c := async(func() (*api.Claimed, error) {
			return b.Claim(context.Background(), "p", api.ClaimRequest{Wait: ptr(int64(60_000))})
		})
		until(t, "the claim waits", func() bool { return b.Watching("p") })
		mustCommit(t, a, logs("t", `[1]`)...)
		wantClaimed(t, c, `[1]`)
	})
	t.Run("of another database", func(t *testing.T) {
		other := pgtest.StartPgBouncer(t, pgtest.Database(t), nil)
		wantRefused(t, pgstore.Config{URL: other.URL, DirectURL: direct, UnsafeDurability: true}, "another PostgreSQL or database")
	})
	t.Run("of statements", func(t *testing.T) {
		bouncer := pgtest.StartPgBouncer(t, direct, map[string]string{"pool_mode": "statement"})
		wantRefused(t, pgstore.Config{URL: bouncer.URL, DirectURL: direct, UnsafeDurability: true}, "--database-url:", "statement pooling")
	})
}
