package pgstore_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"

	"pipeproc/api"
	"pipeproc/pgstore"
	"pipeproc/pgstore/pgtest"
)

// waiting is a store whose waiters look for themselves once an hour: in these tests a wake-up is all there is.
type waiting struct {
	*pgstore.Store
	tb       testing.TB
	registry *prometheus.Registry
}

func openWaiting(tb testing.TB, url string) *waiting {
	tb.Helper()
	registry := prometheus.NewRegistry()
	s, _ := openWith(tb, pgstore.Config{URL: url, PollInterval: time.Hour, Metrics: registry})
	return &waiting{s, tb, registry}
}

// claim waits for logs of a proc that exists. It has looked twice when claim returns, as a waiter does before it sits still.
func (w *waiting) claim(ctx context.Context, proc string) <-chan answer[*api.Claimed] {
	w.tb.Helper()
	before := observedBatches(w.tb, w.registry).sum
	c := async(func() (*api.Claimed, error) {
		return w.Claim(ctx, proc, api.ClaimRequest{Wait: ptr(int64(60_000))})
	})
	until(w.tb, "the claim waits", func() bool {
		return w.Watching(proc) && observedBatches(w.tb, w.registry).sum >= before+2 && w.Queued() == 0
	})
	return c
}

func wantClaimed(tb testing.TB, c <-chan answer[*api.Claimed], body string) *api.Claimed {
	tb.Helper()
	got, err := receive(tb, c)
	if err != nil || got == nil {
		tb.Fatalf("the claim got %v, %v", got, err)
	}
	if string(got.Logs[0].Body) != body {
		tb.Errorf("the claim got %s, not %s", got.Logs[0].Body, body)
	}
	return got
}

func createProc(tb testing.TB, s *pgstore.Store, proc, topic string) {
	tb.Helper()
	if _, _, err := s.CreateProc(tb.Context(), proc, api.ProcOptions{Topic: topic, ReclaimTimeout: ptr(int64(-1))}); err != nil {
		tb.Fatal(err)
	}
}

// listens waits until n connections listen for wake-ups.
func listens(tb testing.TB, conn *pgx.Conn, n int) {
	tb.Helper()
	until(tb, "the listeners listen", func() bool {
		return queryOne[int](tb, conn, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
			AND state = 'idle' AND query LIKE 'LISTEN %'`) == n
	})
}

func TestClaimsWakeUp(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	a, b := openWaiting(t, url), openWaiting(t, url)
	conn := outsider(t, url)
	ctx := t.Context()
	listens(t, conn, 2)

	t.Run("for a log of this store", func(t *testing.T) {
		createProc(t, a.Store, "p", "t")
		c := a.claim(ctx, "p")
		mustCommit(t, a.Store, logs("t", `[1]`)...)
		wantClaimed(t, c, `[1]`)
	})
	t.Run("for a log of another store", func(t *testing.T) {
		createProc(t, a.Store, "q", "u")
		c := b.claim(ctx, "q")
		mustCommit(t, a.Store, logs("u", `[1]`)...)
		wantClaimed(t, c, `[1]`)
	})
	t.Run("at the end of a held claim", func(t *testing.T) {
		mustCommit(t, a.Store, logs("v", `[1]`, `[2]`)...)
		held := claimed(t, a.Store, "r", "v")
		c := b.claim(ctx, "r")
		if _, err := a.Ack(ctx, "r", api.AckRequest{Token: held.Claim.Token}); err != nil {
			t.Fatal(err)
		}
		second := wantClaimed(t, c, `[2]`)
		c = a.claim(ctx, "r")
		if _, err := b.Reclaim(ctx, "r", second.Claim.Token); err != nil {
			t.Fatal(err)
		}
		third := wantClaimed(t, c, `[2]`)
		c = b.claim(ctx, "r")
		if err := a.UndoClaim(ctx, "r", third.Claim.Token); err != nil {
			t.Fatal(err)
		}
		wantClaimed(t, c, `[2]`)
	})
	t.Run("at the time-out of a held claim", func(t *testing.T) {
		mustCommit(t, a.Store, logs("w", `[1]`)...)
		if _, err := a.Claim(ctx, "s", api.ClaimRequest{ProcOptions: api.ProcOptions{Topic: "w", ReclaimTimeout: ptr(int64(300))}}); err != nil {
			t.Fatal(err)
		}
		got, err := b.Claim(ctx, "s", api.ClaimRequest{Wait: ptr(int64(60_000))}) // nobody sweeps here
		if err != nil || got == nil || got.Claim.Attempt != 2 {
			t.Errorf("the claim got %+v, %v", got, err)
		}
	})
	t.Run("when the proc is destroyed or disabled", func(t *testing.T) {
		createProc(t, a.Store, "x", "y")
		c := b.claim(ctx, "x")
		if _, err := a.DestroyProc(ctx, "x"); err != nil {
			t.Fatal(err)
		}
		_, err := receive(t, c)
		wantCode(t, err, api.CodeInvalidProc)
		createProc(t, a.Store, "x", "y")
		c = b.claim(ctx, "x")
		if _, err := a.DisableProc(ctx, "x"); err != nil {
			t.Fatal(err)
		}
		_, err = receive(t, c)
		wantCode(t, err, api.CodeProcIsDisabled)
	})
	t.Run("when the client goes away", func(t *testing.T) {
		createProc(t, a.Store, "away", "nothing")
		left, leave := context.WithCancel(ctx)
		c := a.claim(left, "away")
		leave()
		if _, err := receive(t, c); !errors.Is(err, context.Canceled) {
			t.Error("the claim got", err)
		}
	})
	t.Run("when the time is over", func(t *testing.T) {
		createProc(t, a.Store, "late", "nothing")
		got, err := a.Claim(ctx, "late", api.ClaimRequest{Wait: ptr(int64(50))})
		if err != nil || got != nil {
			t.Error(got, err)
		}
	})
	t.Run("of any proc", func(t *testing.T) {
		c := async(func() (*api.Claimed, error) {
			return b.ClaimAny(ctx, api.ClaimAnyRequest{Wait: ptr(int64(60_000)), Procs: []api.NamedProcOptions{
				{Name: "any1", ProcOptions: api.ProcOptions{Topic: "any1"}}, {Name: "any2", ProcOptions: api.ProcOptions{Topic: "any2"}}}})
		})
		until(t, "the claim waits", func() bool { return b.Watching("any2") })
		mustCommit(t, a.Store, logs("any2", `[1]`)...)
		if got := wantClaimed(t, c, `[1]`); got.Proc != "any2" {
			t.Error("claimed", got.Proc)
		}
	})
	for _, s := range []*waiting{a, b} {
		if n := s.Subscriptions(); n != 0 {
			t.Errorf("%d subscriptions are left", n)
		}
	}
}

// Where a listener was cut off, what it missed is found as soon as it is back; where the one who tells was, he tells
// again.
func TestWakeUpsSurviveTheirConnections(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	a, b := openWaiting(t, url), openWaiting(t, url)
	conn := outsider(t, url)
	ctx := t.Context()
	listens(t, conn, 2)
	terminate := func(what string) {
		t.Helper()
		until(t, what+" is cut off", func() bool {
			return queryOne[int](t, conn, `SELECT count(*) FILTER (WHERE pg_terminate_backend(pid, 5000)) FROM pg_stat_activity
				WHERE datname = current_database() AND pid <> pg_backend_pid() AND query LIKE $1`, what+"%") > 0
		})
	}
	createProc(t, a.Store, "p", "t")

	c := b.claim(ctx, "p")
	terminate("LISTEN")
	mustCommit(t, a.Store, logs("t", `[1]`)...)
	token := wantClaimed(t, c, `[1]`).Claim.Token
	listens(t, conn, 2)
	if _, err := b.Ack(ctx, "p", api.AckRequest{Token: token}); err != nil {
		t.Fatal(err)
	}

	c = b.claim(ctx, "p")
	mustCommit(t, a.Store, logs("t", `[2]`)...)
	token = wantClaimed(t, c, `[2]`).Claim.Token
	if _, err := b.Ack(ctx, "p", api.AckRequest{Token: token}); err != nil {
		t.Fatal(err)
	}

	c = b.claim(ctx, "p")
	terminate("SELECT pg_notify")
	mustCommit(t, a.Store, logs("t", `[3]`)...)
	wantClaimed(t, c, `[3]`)
}

// A poll alone finds what was not told.
func TestPoll(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	s, _ := openWith(t, pgstore.Config{URL: url, PollInterval: 20 * time.Millisecond})
	conn := outsider(t, url)
	mustCommit(t, s, logs("t", `[1]`)...)
	createProc(t, s, "p", "t")
	watch := s.Watch([]string{"t"}, nil)
	defer watch.Close()
	<-watch.C // the head was not known yet
	select {
	case <-watch.C:
		t.Error("woken though nothing has changed")
	case <-time.After(100 * time.Millisecond):
	}
	mustExec(t, conn, `INSERT INTO pipeproc_default.logs SELECT id, 1, last_ts, '[2]' FROM pipeproc_default.topics WHERE name = 't'`)
	mustExec(t, conn, "UPDATE pipeproc_default.topics SET head = 2 WHERE name = 't'")
	select {
	case <-watch.C:
	case <-time.After(20 * time.Second):
		t.Error("the poll does not find it")
	}
}

// A poll wakes those who watch a proc that has changed, or gone, and nobody else.
func TestPollOfProcs(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	s, _ := openWith(t, pgstore.Config{URL: url, PollInterval: 10 * time.Millisecond})
	conn := outsider(t, url)
	stream := openStream(t, s, "a")
	createProc(t, s, "still", "a")
	watch, still := s.Watch(nil, []string{stream.LiveProc}), s.Watch(nil, []string{"still", "unknown"})
	for _, w := range []api.Watch{watch, still} {
		select {
		case <-w.C: // what they stand at was not known yet
		case <-time.After(20 * time.Second):
			t.Fatal("the first look wakes nobody")
		}
	}
	select { // of "still", then of "unknown"
	case <-still.C:
	case <-time.After(50 * time.Millisecond):
	}
	polled := func(tb testing.TB, n int) { // n polls have come to their end
		tb.Helper()
		for range n {
			job := s.WatchJobs() // which every poll wakes
			select {
			case <-job.C:
			case <-time.After(20 * time.Second):
				tb.Fatal("nobody polls")
			}
			job.Close()
		}
	}
	for _, change := range []string{
		"procs SET claim_token = 'x', last_claimed = '1-0..1-0'", "procs SET claim_expires_at = 5e12", "procs SET claim_token = ''",
		"procs SET position = 1", "procs SET status = 'disabled'", "procs SET status = 'active'", "procs SET seeks = 1",
		"procs SET reclaims = 1", "procs SET count = 2", "live_streams SET instance = 'x'", "live_streams SET cancelled = true",
	} {
		if err := s.KeepStreams(t.Context(), []api.Stream{stream}); err != nil {
			t.Fatal(err)
		}
		polled(t, 3)
		select {
		case <-watch.C:
			t.Errorf("before %s: woken though nothing has changed", change)
		default:
		}
		table, set, _ := strings.Cut(change, " ")
		mustExec(t, conn, "UPDATE pipeproc_default."+table+" "+set+` WHERE `+map[string]string{"procs": "id", "live_streams": "proc_id"}[table]+
			` = (SELECT id FROM pipeproc_default.procs WHERE name = $1)`, stream.LiveProc)
		select {
		case <-watch.C:
		case <-time.After(20 * time.Second):
			t.Errorf("%s: the poll does not find it", change)
		}
	}
	mustExec(t, conn, "DELETE FROM pipeproc_default.procs WHERE name = $1", stream.LiveProc)
	select {
	case <-watch.C:
	case <-time.After(20 * time.Second):
		t.Error("the poll does not find that it is gone")
	}
	polled(t, 3)
	for what, w := range map[string]api.Watch{"the one that is gone": watch, "others": still} {
		select {
		case <-w.C:
			t.Errorf("who watches %s is woken though nothing has changed", what)
		default:
		}
		w.Close()
	}
	if n := s.ProcStates(); n != 0 {
		t.Errorf("the states of %d procs are kept for nobody", n)
	}
}

// Who waits for any of several procs times the claims that are in its way.
func TestClaimAnyAtATimeout(t *testing.T) {
	t.Parallel()
	a := openWaiting(t, pgtest.Database(t))
	ctx := t.Context()
	mustCommit(t, a.Store, logs("t", `[1]`)...)
	for proc, timeout := range map[string]int64{"soon": 300, "late": 50_000, "off": 1} {
		if _, err := a.Claim(ctx, proc, api.ClaimRequest{ProcOptions: api.ProcOptions{Topic: "t", ReclaimTimeout: &timeout}}); err != nil {
			t.Fatal(err)
		}
		if proc == "off" {
			if _, err := a.DisableProc(ctx, proc); err != nil { // its claim does not time out
				t.Fatal(err)
			}
		}
	}
	before := observedBatches(t, a.registry).count
	got, err := a.ClaimAny(ctx, api.ClaimAnyRequest{Wait: ptr(int64(60_000)), Procs: []api.NamedProcOptions{
		{Name: "off"}, {Name: "late"}, {Name: "soon"}}})
	if err != nil || got == nil || got.Proc != "soon" || got.Claim.Attempt != 2 {
		t.Errorf("the claim got %+v, %v", got, err)
	}
	if n := observedBatches(t, a.registry).count - before; n > 6 {
		t.Errorf("it looked %d times", n)
	}
}

// What does not fit one NOTIFY is told by several.
func TestManyChangesAreTold(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	a, b := openWaiting(t, url), openWaiting(t, url)
	listens(t, outsider(t, url), 2)
	const topics = 200
	var list []api.NewLog
	var watches []api.Watch
	for i := range topics {
		name := fmt.Sprintf("t%d_%s", i, strings.Repeat("x", 120))
		list = append(list, logs(name, `[]`)...)
		watches = append(watches, b.Watch([]string{name}, nil))
	}
	watches = append(watches, b.Watch(nil, []string{"p"}))
	createProc(t, a.Store, "p", list[0].Topic)
	mustCommit(t, a.Store, list...)
	timeout := time.After(20 * time.Second)
	for i, w := range watches {
		select {
		case <-w.C:
		case <-timeout:
			t.Fatal("not told of topic", i)
		}
		w.Close()
	}
	if n := b.Subscriptions(); n != 0 {
		t.Errorf("%d subscriptions are left", n)
	}
}

// Whoever waits to be created and goes away meanwhile leaves nothing that goes on.
func TestAClientLeavesWhileItsProcIsCreated(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	s, _ := openWith(t, pgstore.Config{URL: url})
	conn := outsider(t, url)
	mustCommit(t, s, logs("t", `[1]`)...)
	mustExec(t, conn, "BEGIN")
	mustExec(t, conn, "SELECT FROM pipeproc_default.topics WHERE name = 't' FOR UPDATE")
	ctx, cancel := context.WithCancel(t.Context())
	c := async(func() (*api.Claimed, error) {
		return s.Claim(ctx, "p", api.ClaimRequest{ProcOptions: api.ProcOptions{Topic: "t"}})
	})
	other := outsider(t, url)
	until(t, "the creation waits", func() bool {
		return queryOne[int](t, other, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`) == 1
	})
	cancel()
	mustExec(t, conn, "COMMIT")
	if _, err := receive(t, c); !errors.Is(err, context.Canceled) {
		t.Error("the claim got", err)
	}
}
