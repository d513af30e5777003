package pgstore_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"pipeproc/api"
	"pipeproc/pgstore"
	"pipeproc/pgstore/embedded"
	"pipeproc/pgstore/pgtest"
)

// ownCluster starts a PostgreSQL that the test may harm. It stops with the test.
func ownCluster(tb testing.TB, dir string, settings map[string]string) *embedded.Cluster {
	tb.Helper()
	cluster, err := embedded.Start(tb.Context(), embedded.Config{Dir: dir, Settings: settings, Logger: pgtest.Logger()})
	if errors.Is(err, embedded.ErrNotFound) {
		tb.Skip(err)
	}
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := cluster.Stop(context.Background()); err != nil {
			tb.Error(err)
		}
	})
	return cluster
}

// openFolder is a folder that PostgreSQL's account can enter.
func openFolder(tb testing.TB) string {
	tb.Helper()
	dir, err := os.MkdirTemp("/tmp", "pgstore-test-*")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o711); err != nil {
		tb.Fatal(err)
	}
	return dir
}

func wantRetryAfter(tb testing.TB, err error) {
	tb.Helper()
	var refusal *api.Error
	if errors.As(err, &refusal); refusal == nil || refusal.RetryAfter <= 0 {
		tb.Errorf("%v tells no time to come again", err)
	}
}

// PostgreSQL takes no more connections, and cuts those that are there: all is refused as unavailable, at once, and goes on
// as soon as there is room.
func TestConnectionsExhausted(t *testing.T) {
	t.Parallel()
	direct := pgtest.Database(t)
	conn := outsider(t, direct)
	role := "r_" + queryOne[string](t, conn, "SELECT current_database()")
	mustExec(t, conn, "CREATE ROLE "+role+" LOGIN PASSWORD 'x'")
	t.Cleanup(func() {
		for _, sql := range []string{"DROP OWNED BY " + role, "DROP ROLE " + role} {
			if _, err := conn.Exec(context.Background(), sql); err != nil {
				t.Error(err)
			}
		}
	})
	for _, sql := range []string{"GRANT ALL ON SCHEMA pipeproc_default TO %s", "GRANT ALL ON ALL TABLES IN SCHEMA pipeproc_default TO %s",
		"GRANT ALL ON ALL SEQUENCES IN SCHEMA pipeproc_default TO %s"} {
		mustExec(t, conn, fmt.Sprintf(sql, role))
	}
	config := conn.Config()
	s, _ := openWith(t, pgstore.Config{URL: fmt.Sprintf("host=%s port=%d dbname=%s user=%s password=x sslmode=disable",
		config.Host, config.Port, config.Database, role), PollInterval: time.Hour}, impatient)
	mustCommit(t, s, logs("t", `[0]`)...)
	createProc(t, s, "p", "t")
	waiter := s.Watch([]string{"t"}, nil)
	defer waiter.Close()

	for round := range 2 {
		mustExec(t, conn, "ALTER ROLE "+role+" CONNECTION LIMIT 0")
		until(t, "no connection is left", func() bool {
			return queryOne[int](t, conn, `SELECT count(*) FILTER (WHERE pg_terminate_backend(pid, 1000)) FROM pg_stat_activity WHERE usename = $1`, role) == 0
		})
		for range 3 {
			began := time.Now()
			_, err := receive(t, commitAsync(t, s, logs("t", `["refused"]`)))
			wantCode(t, err, api.CodeUnavailable)
			wantRetryAfter(t, err)
			_, err = s.Range(t.Context(), "t", api.RangeQuery{Limit: 1})
			wantCode(t, err, api.CodeUnavailable)
			wantRetryAfter(t, err)
			_, err = s.Topic(t.Context(), "t")
			wantCode(t, err, api.CodeUnavailable)
			_, err = s.Claim(t.Context(), "p", api.ClaimRequest{})
			wantCode(t, err, api.CodeUnavailable)
			_, err = s.Collect(t.Context(), 0)
			wantCode(t, err, api.CodeUnavailable)
			wantCode(t, s.Ready(t.Context()), api.CodeUnavailable)
			if took := time.Since(began); took > 10*time.Second {
				t.Errorf("the refusals took %v", took)
			}
		}
		mustExec(t, conn, "ALTER ROLE "+role+" CONNECTION LIMIT -1")
		mustCommit(t, s, logs("t", fmt.Sprintf("[%d]", round+1))...)
		if err := s.Ready(t.Context()); err != nil {
			t.Error(err)
		}
		until(t, "it listens again", func() bool {
			return queryOne[int](t, conn, "SELECT count(*) FROM pg_stat_activity WHERE usename = $1 AND query LIKE 'LISTEN %'", role) == 1
		})
	}
	if diff := cmp.Diff([]string{`[0]`, `[1]`, `[2]`}, bodies(t, s, "t")); diff != "" {
		t.Error(diff)
	}
}

// An outsider locks in the wrong order, and PostgreSQL chooses the server as the one that gives way: it does so, and comes
// again.
func TestDeadlocksByOthers(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		last    string // what the server waits for, and the outsider holds
		blocked string // what the outsider then wants, and the server holds
		do      func(s *pgstore.Store, token string) error
	}{
		{"a commit", "topics WHERE name = 'high'", "topics WHERE name = 'low'", func(s *pgstore.Store, _ string) error {
			_, err := s.Commit(context.Background(), append(logs("low", `[1]`), logs("high", `[1]`)...), nil)
			return err
		}},
		{"an ackCommit", "topics WHERE name = 'high'", "procs WHERE name = 'p'", func(s *pgstore.Store, token string) error {
			_, err := s.Ack(context.Background(), "p", api.AckRequest{Token: token, Logs: logs("high", `[1]`)})
			return err
		}},
		{"a seek", "topics WHERE name = 'low'", "procs WHERE name = 'idle'", func(s *pgstore.Store, _ string) error {
			_, err := s.Seek(context.Background(), "idle", api.Offset{Latest: true})
			return err
		}},
		{"the end of a proc", "topics WHERE name = 'low'", "procs WHERE name = 'idle'", func(s *pgstore.Store, _ string) error {
			_, err := s.DestroyProc(context.Background(), "idle")
			return err
		}},
		{"the end of a topic", "topics WHERE name = 'low'", "procs WHERE name = 'idle'", func(s *pgstore.Store, _ string) error {
			return s.DeleteTopic(context.Background(), "low", true)
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			url := pgtest.Database(t)
			p, through := newProxy(t, url)
			s, _ := openWith(t, pgstore.Config{URL: through}, func(s *pgstore.Store) { s.SetLockPatience(4 * time.Second) })
			conn, other := outsider(t, url), outsider(t, url)
			mustCommit(t, s, logs("low", `[0]`)...)
			mustCommit(t, s, logs("high", `[0]`)...)
			token := claimed(t, s, "p", "low").Claim.Token
			createProc(t, s, "idle", "low")
			mustExec(t, other, "SET deadlock_timeout = '30s'") // the server finds it, and is its victim
			mustExec(t, other, "BEGIN")
			mustExec(t, other, "SELECT FROM pipeproc_default."+test.last+" FOR UPDATE")
			done := async(func() (struct{}, error) { return struct{}{}, test.do(s, token) })
			waits(t, conn, &replica{s, p}, processOf(other))
			mustExec(t, other, "SELECT FROM pipeproc_default."+test.blocked+" FOR UPDATE") // it gets it: the server has given way
			wantOpen(t, test.name, done)
			mustExec(t, other, "COMMIT")
			mustReceive(t, done)
			for _, topic := range []string{"low", "high"} {
				if n := len(bodies(t, s, topic)); n > 2 {
					t.Errorf("%s has %d logs", topic, n)
				}
			}
		})
	}
}

// What works on a topic whose row somebody holds is refused in time; what does not need the row goes on meanwhile.
func TestBesideALockedTopic(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	s, _ := openWith(t, pgstore.Config{URL: url}, impatient)
	conn := outsider(t, url)
	ctx := t.Context()
	mustCommit(t, s, append(logs("t", `[0]`, `[1]`, `[2]`), logs("other", `[0]`)...)...)
	createProc(t, s, "p", "t")
	createProc(t, s, "doomed", "t")
	mustExec(t, conn, "BEGIN")
	mustExec(t, conn, "SELECT FROM pipeproc_default.topics WHERE name = 't' FOR UPDATE")
	blocked := map[string]<-chan answer[struct{}]{}
	for name, do := range map[string]func() error{
		"a commit": func() error {
			_, err := s.Commit(ctx, logs("t", `[3]`), nil)
			return err
		},
		"a new proc": func() error {
			_, _, err := s.CreateProc(ctx, "new", api.ProcOptions{Topic: "t"})
			return err
		},
		"a claim of a new proc": func() error {
			_, err := s.Claim(ctx, "newer", api.ClaimRequest{ProcOptions: api.ProcOptions{Topic: "t"}})
			return err
		},
		"a seek": func() error {
			_, err := s.Seek(ctx, "doomed", api.Offset{Latest: true})
			return err
		},
		"GC": func() error {
			_, err := s.Collect(ctx, 0)
			return err
		},
	} {
		blocked[name] = async(func() (struct{}, error) {
			began := time.Now()
			err := do()
			if took := time.Since(began); took > 12*time.Second {
				t.Errorf("%s waited for %v", name, took)
			}
			return struct{}{}, err
		})
	}
	for range 3 { // a proc of the topic needs its own row alone
		c, err := s.Claim(ctx, "p", api.ClaimRequest{})
		if err != nil {
			t.Fatal(err)
		}
		ackOne(t, s, "p", c.Claim.Token)
		mustCommit(t, s, logs("other", `[1]`)...)
		if n := len(bodies(t, s, "t")); n != 3 {
			t.Errorf("%d logs", n)
		}
		if err := s.Sweep(ctx); err != nil {
			t.Error(err)
		}
	}
	for name, c := range blocked {
		_, err := receive(t, c)
		if api.CodeOf(err) != api.CodeOverloaded {
			t.Errorf("%s got %v", name, err)
			continue
		}
		wantRetryAfter(t, err)
	}
	mustExec(t, conn, "COMMIT")
	mustCommit(t, s, logs("t", `[3]`)...)
	if _, err := s.Collect(ctx, 0); err != nil {
		t.Error(err)
	}
}

// A table that somebody has locked blocks all that is written: the requests of a batch are refused together, not each after
// a wait of its own.
func TestALockedTable(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	s, _ := openWith(t, pgstore.Config{URL: url}, impatient)
	conn := outsider(t, url)
	mustCommit(t, s, logs("t", `[0]`)...)
	mustExec(t, conn, "BEGIN")
	mustExec(t, conn, "LOCK TABLE pipeproc_default.topics")
	st := stall(t, s)
	var answers []<-chan answer[api.Committed]
	for i := range 40 {
		answers = append(answers, st.commit(logs("t", fmt.Sprintf("[%d]", i))))
	}
	st.release()
	began := time.Now()
	for _, c := range answers {
		_, err := receive(t, c)
		wantCode(t, err, api.CodeOverloaded)
		wantRetryAfter(t, err)
	}
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("the refusals took %v", took)
	}
	mustExec(t, conn, "COMMIT")
	mustCommit(t, s, logs("t", `[1]`)...)
	if diff := cmp.Diff([]string{`[0]`, `[1]`}, bodies(t, s, "t")); diff != "" {
		t.Error(diff)
	}
}

// Somebody holds the row of an idempotency key. Those who need it are refused, one after the other; whoever is among them and
// needs other rows is not, however long the others take.
func TestBesideAHeldKey(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	s, _ := openWith(t, pgstore.Config{URL: url}, func(s *pgstore.Store) { s.SetLockPatience(100 * time.Millisecond) })
	conn := outsider(t, url)
	if _, err := s.Commit(t.Context(), logs("t", `[0]`), key("held", "", 0)); err != nil {
		t.Fatal(err)
	}
	mustExec(t, conn, "BEGIN")
	mustExec(t, conn, "SELECT FROM pipeproc_default.idempotency_keys WHERE key = 'held' FOR UPDATE")
	st := stall(t, s)
	var held, free []<-chan answer[api.Committed]
	want := []string{`[0]`}
	for i := range 16 {
		held = append(held, gather(st, func() (api.Committed, error) {
			return s.Commit(context.Background(), logs("t", `[0]`), key("held", "", 0))
		}))
		if i%2 == 1 {
			want = append(want, fmt.Sprintf("[%d]", i))
			free = append(free, st.commit(logs("t", want[len(want)-1])))
		}
	}
	st.release()
	began := time.Now()
	for _, c := range held {
		_, err := receive(t, c)
		wantCode(t, err, api.CodeOverloaded)
	}
	if took := time.Since(began); took < 5*time.Second {
		t.Errorf("the refusals took %v: too little to tell", took)
	}
	for _, c := range free {
		if _, err := receive(t, c); err != nil {
			t.Error(err)
		}
	}
	mustExec(t, conn, "COMMIT")
	if diff := cmp.Diff(want, bodies(t, s, "t")); diff != "" {
		t.Error(diff)
	}
}

// Somebody has had a snapshot open for a while, as a dump does: nobody waits for him.
func TestBesideAnOpenSnapshot(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	s, _ := openWith(t, pgstore.Config{URL: url})
	conn := outsider(t, url)
	ctx := t.Context()
	mustCommit(t, s, logs("t", `[0]`)...)
	mustExec(t, conn, "BEGIN ISOLATION LEVEL REPEATABLE READ")
	if n := queryOne[int](t, conn, "SELECT count(*) FROM pipeproc_default.logs"); n != 1 {
		t.Fatalf("%d logs", n)
	}
	createProc(t, s, "p", "t")
	next := ""
	for i := range 300 {
		mustCommit(t, s, logs("t", fmt.Sprintf("[%d]", i+1))...)
		var err error
		if next == "" {
			var c *api.Claimed
			if c, err = s.Claim(ctx, "p", api.ClaimRequest{}); err == nil {
				next = c.Claim.Token
			}
		} else {
			var a api.Acked
			if a, err = s.Ack(ctx, "p", api.AckRequest{Token: next, ClaimNext: true}); err == nil {
				next = a.Next.Claim.Token
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	run, err := s.Collect(ctx, 0)
	if err != nil || run.Topics[0].Collected != 298 {
		t.Errorf("GC took %+v, %v", run.Topics, err)
	}
	if err := s.Sweep(ctx); err != nil {
		t.Error(err)
	}
	if err := s.DeleteTopic(ctx, "t", true); err != nil {
		t.Error(err)
	}
	if n := queryOne[int](t, conn, "SELECT count(*) FROM pipeproc_default.logs"); n != 1 {
		t.Errorf("the snapshot shows %d logs", n)
	}
	mustExec(t, conn, "COMMIT")
}

// A server whose listener does not come back hears nothing: what it is not told it finds by looking, once each interval.
func TestNobodyWaitsLongerThanThePoll(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	conn := outsider(t, url)
	ctx := t.Context()
	const interval = 400 * time.Millisecond
	a, _ := openWith(t, pgstore.Config{URL: url, PollInterval: time.Hour})
	p, through := newProxy(t, url)
	h := p.hold("LISTEN ")
	b, _ := openWith(t, pgstore.Config{URL: through, PollInterval: interval})
	h.wait(t) // it never listens
	createProc(t, a, "p", "t")
	for _, cut := range []struct{ what, which string }{
		{"without a listener", "false"},
		{"with all connections cut off", "pid <> pg_backend_pid()"},
		{"with the listener cut off", "query LIKE 'LISTEN %'"},
	} {
		quick := 0
		for round := range 5 {
			c := async(func() (*api.Claimed, error) { return b.Claim(ctx, "p", api.ClaimRequest{Wait: ptr(int64(60_000))}) })
			until(t, "the claim waits", func() bool { return b.Watching("p") && b.Queued() == 0 })
			mustExec(t, conn, "SELECT pg_terminate_backend(pid, 1000) FROM pg_stat_activity WHERE datname = current_database() AND "+cut.which)
			began := time.Now()
			mustCommit(t, a, logs("t", fmt.Sprintf("[%d]", round))...)
			got, err := receive(t, c)
			if err != nil || got == nil {
				t.Fatalf("%s: the claim got %v, %v", cut.what, got, err)
			}
			took := time.Since(began)
			t.Logf("%s: woken after %v", cut.what, took)
			if took <= interval+250*time.Millisecond {
				quick++
			}
			ackOne(t, b, "p", got.Claim.Token)
		}
		if quick < 3 { // a machine may be busy for a moment
			t.Errorf("%s: %d of 5 were woken in time", cut.what, quick)
		}
	}
}

// A commit that waits for a standby which is not there is neither acknowledged nor lost: PostgreSQL has written it, and
// nobody knows whether it will stay.
func TestNoStandby(t *testing.T) {
	t.Parallel()
	cluster := ownCluster(t, openFolder(t)+"/data", nil)
	s, _ := openWith(t, pgstore.Config{URL: cluster.URL()}, impatient)
	conn := outsider(t, cluster.URL())
	mustExec(t, conn, "SET synchronous_commit = off")
	standby := func(name string) {
		t.Helper()
		mustExec(t, conn, "ALTER SYSTEM SET synchronous_standby_names = '"+name+"'")
		mustExec(t, conn, "SELECT pg_reload_conf()")
		until(t, "it is so", func() bool {
			return queryOne[string](t, conn, "SHOW synchronous_standby_names") == name
		})
	}
	waiting := func(application string) func() bool {
		return func() bool {
			return queryOne[int](t, conn, "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND application_name LIKE $1", application) > 0
		}
	}
	mustCommit(t, s, logs("t", `[0]`)...)

	standby("nobody")
	until(t, "a commit waits for the standby", func() bool {
		_, err := receive(t, commitAsync(t, s, logs("t", `["unknown"]`)))
		return err != nil
	})
	_, err := receive(t, commitAsync(t, s, logs("t", `["unknown too"]`)))
	wantCode(t, err, api.CodeUnavailable)
	wantRetryAfter(t, err)

	// Its wait is cancelled, PostgreSQL says so by a warning: as good as no answer.
	c := commitAsync(t, s, logs("t", `["cancelled"]`))
	until(t, "it waits for the standby", waiting("% lane 0"))
	mustExec(t, conn, "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND application_name LIKE '% lane 0'")
	_, err = receive(t, c)
	wantCode(t, err, api.CodeUnavailable)

	// The same, but the standby is back while the server finds out what became of it.
	c = commitAsync(t, s, logs("t", `["known"]`))
	until(t, "it waits for the standby", waiting("% lane 0"))
	standby("")
	if got, err := receive(t, c); err != nil || len(got.IDs) != 1 {
		t.Errorf("the commit got %v, %v", got, err)
	}
	mustCommit(t, s, logs("t", `["last"]`)...)
	found := map[string]int{}
	for _, body := range bodies(t, s, "t") {
		found[body]++
	}
	for _, body := range []string{`[0]`, `["known"]`, `["last"]`} {
		if found[body] != 1 {
			t.Errorf("%s is there %d times", body, found[body])
		}
	}
	for body, n := range found {
		if n != 1 && body != `["unknown"]` {
			t.Errorf("%s is there %d times", body, n)
		}
	}
}
