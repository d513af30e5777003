package pgstore_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"pipeproc/api"
	"pipeproc/pgstore"
	"pipeproc/pgstore/pgtest"
)

func TestConcurrentCommitsShareATransaction(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	registry := prometheus.NewRegistry()
	s, _ := openWith(t, pgstore.Config{URL: url, Metrics: registry})
	conn := outsider(t, url)
	mustCommit(t, s, logs("a", `[]`)...)
	before := observedBatches(t, registry)
	server := queryOne[string](t, conn, "SELECT batch::text FROM pipeproc_default.lanes WHERE server::text = $1 AND lane = 0", s.Server())

	st := stall(t, s)
	var answers []<-chan answer[api.Committed]
	for i := range 100 {
		answers = append(answers, st.commit(append(logs("a", fmt.Sprintf("[%d]", i)), logs(fmt.Sprintf("b%d", i%3), "{}")...)))
	}
	st.release()
	for i, c := range answers {
		got, err := receive(t, c)
		if err != nil {
			t.Fatal(err)
		}
		if got.IDs[0].Seq != int64(i+1) || got.IDs[1].Seq != int64(i/3) || got.IDs[0].TS != got.IDs[1].TS {
			t.Errorf("request %d, the %d. to arrive, got %v", i, i, got.IDs)
		}
	}
	if n := transactions(t, conn, "a", "b0", "b1", "b2"); n != 2 { // that of the first log, and the batch
		t.Errorf("%d transactions for 100 requests that waited together", n)
	}
	after := observedBatches(t, registry)
	if batches, requests := after.count-before.count, after.sum-before.sum; batches != 2 || requests != 101 {
		t.Errorf("%d batches of %v requests, not the stalled one and one of 100", batches, requests)
	}
	if now := queryOne[string](t, conn, "SELECT batch::text FROM pipeproc_default.lanes WHERE server::text = $1 AND lane = 0", s.Server()); now == server {
		t.Error("the batch left no mark in its lane's row")
	}
	if list := bodies(t, s, "a"); len(list) != 101 || list[1] != "[0]" || list[100] != "[99]" {
		t.Errorf("the logs are %v", list)
	}
}

func TestRefusalsLeaveTheirNeighboursAlone(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	s, _ := openWith(t, pgstore.Config{URL: url})
	conn := outsider(t, url)
	ctx := t.Context()
	mustCommit(t, s, logs("in", `[1]`, `[2]`)...)
	first := claimed(t, s, "p", "in")
	claimed(t, s, "q", "in")

	st := stall(t, s)
	good := st.commit(logs("out", `["good"]`))
	lost := gather(st, func() (api.Acked, error) {
		return s.Ack(ctx, "p", api.AckRequest{Token: "another", Logs: logs("out", `["lost"]`)})
	})
	unknown := gather(st, func() (api.Acked, error) { return s.Ack(ctx, "nobody", api.AckRequest{}) })
	held := gather(st, func() (*api.Claimed, error) { return s.Claim(ctx, "q", api.ClaimRequest{}) })
	left, leave := context.WithCancel(ctx)
	gone := gather(st, func() (api.Committed, error) { return s.Commit(left, logs("out", `["gone"]`), nil) })
	leave()
	acked := gather(st, func() (api.Acked, error) {
		return s.Ack(ctx, "p", api.AckRequest{Token: first.Claim.Token, ClaimNext: true, Logs: logs("out", `["acked"]`)})
	})
	again := gather(st, func() (api.Acked, error) {
		return s.Ack(ctx, "p", api.AckRequest{Token: first.Claim.Token, ClaimNext: true, Logs: logs("out", `["again"]`)})
	})
	last := st.commit(logs("out", `["last"]`))
	st.release()

	_, err := receive(t, lost)
	wantCode(t, err, api.CodeClaimLost)
	_, err = receive(t, unknown)
	wantCode(t, err, api.CodeInvalidProc)
	_, err = receive(t, held)
	wantCode(t, err, api.CodeAlreadyClaimed)
	if _, err := receive(t, gone); !errors.Is(err, context.Canceled) {
		t.Errorf("the request that was given up got %v", err)
	}
	for i, c := range []<-chan answer[api.Committed]{good, last} {
		if _, err := receive(t, c); err != nil {
			t.Errorf("commit %d: %v", i, err)
		}
	}
	a, err := receive(t, acked)
	if err != nil || a.Next == nil || string(a.Next.Logs[0].Body) != `[2]` {
		t.Fatalf("the ack got %+v, %v", a, err)
	}
	b, err := receive(t, again)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(fmt.Sprint(a.Acked, a.IDs, *a.Next), fmt.Sprint(b.Acked, b.IDs, *b.Next)); diff != "" {
		t.Error("a repeat in the same batch is answered otherwise:", diff)
	}
	if diff := cmp.Diff([]string{`["good"]`, `["acked"]`, `["last"]`}, bodies(t, s, "out")); diff != "" {
		t.Error(diff)
	}
	if n := transactions(t, conn, "out"); n != 1 {
		t.Errorf("%d transactions", n)
	}
}

// One whose rows are spoilt fails alone: what is wrong with it cannot be decided before PostgreSQL is asked.
func TestASpoiltRequestFailsAlone(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	s, _ := openWith(t, pgstore.Config{URL: url})
	conn := outsider(t, url)
	ctx := t.Context()
	mustCommit(t, s, logs("in", `[1]`)...)
	for _, p := range []string{"p", "q"} {
		if _, _, err := s.CreateProc(ctx, p, api.ProcOptions{Topic: "in"}); err != nil {
			t.Fatal(err)
		}
	}
	mustCommit(t, s, logs("in2", `[1]`)...)
	if _, _, err := s.CreateProc(ctx, "r", api.ProcOptions{Topic: "in2"}); err != nil {
		t.Fatal(err)
	}
	mustExec(t, conn, "DELETE FROM pipeproc_default.logs WHERE topic_id = (SELECT id FROM pipeproc_default.topics WHERE name = 'in2')")

	st := stall(t, s)
	good := gather(st, func() (*api.Claimed, error) { return s.Claim(ctx, "p", api.ClaimRequest{}) })
	spoilt := gather(st, func() (*api.Claimed, error) { return s.Claim(ctx, "r", api.ClaimRequest{}) })
	last := st.commit(logs("in", `[2]`))
	st.release()
	if c, err := receive(t, good); err != nil || c == nil {
		t.Errorf("its neighbour got %v, %v", c, err)
	}
	if _, err := receive(t, last); err != nil {
		t.Errorf("its neighbour got %v", err)
	}
	_, err := receive(t, spoilt)
	wantCode(t, err, api.CodeInternal)
}

// One that panics fails alone as well, and the lane goes on.
func TestAPanicFailsAlone(t *testing.T) {
	t.Parallel()
	s, _ := openWith(t, pgstore.Config{URL: pgtest.Database(t)})
	mustCommit(t, s, logs("t", `[0]`)...)
	st := stall(t, s)
	first := st.commit(logs("t", `[1]`))
	fault := gather(st, func() (struct{}, error) { return struct{}{}, s.Panic(t.Context()) })
	last := st.commit(logs("t", `[2]`))
	st.release()
	for _, c := range []<-chan answer[api.Committed]{first, last} {
		if _, err := receive(t, c); err != nil {
			t.Errorf("its neighbour got %v", err)
		}
	}
	_, err := receive(t, fault)
	wantCode(t, err, api.CodeInternal)
	if !strings.Contains(err.Error(), "panic: a fault") || !strings.Contains(err.Error(), "export_test.go") {
		t.Errorf("neither the cause nor the stack is told: %v", err)
	}
	mustCommit(t, s, logs("t", `[3]`)...)
	if diff := cmp.Diff([]string{`[0]`, `[1]`, `[2]`, `[3]`}, bodies(t, s, "t")); diff != "" {
		t.Error(diff)
	}
}

// So many may wait for the pool, and no more: the others are refused at once, whatever they ask.
func TestTheLineForThePoolIsBounded(t *testing.T) {
	t.Parallel()
	s, _ := openWith(t, pgstore.Config{URL: pgtest.Database(t), Connections: 1})
	mustCommit(t, s, logs("t", `[0]`)...)
	createProc(t, s, "p", "t")
	s.Waiting(pgstore.MostWaiting)
	for what, ask := range map[string]func() error{
		"a range": func() error { _, err := s.Range(t.Context(), "t", api.RangeQuery{Limit: 1}); return err },
		"a proc":  func() error { _, err := s.Proc(t.Context(), "p"); return err },
		"heads":   func() error { _, err := s.Heads(t.Context(), []string{"t"}); return err },
		"a wait":  func() error { _, err := s.Wait(t.Context(), api.WaitRequest{}); return err },
		"a write": func() error {
			_, _, err := s.CreateProc(t.Context(), "q", api.ProcOptions{Topic: "t"})
			return err
		},
		"GC": func() error { _, err := s.LastCollect(t.Context()); return err },
	} {
		err := ask()
		if api.CodeOf(err) != api.CodeOverloaded {
			t.Errorf("%s: %v", what, err)
			continue
		}
		wantRetryAfter(t, err)
	}
	if left := s.Waiting(-pgstore.MostWaiting); left > 1 { // a poll may be among them
		t.Errorf("%d still wait", left)
	}
	if _, err := s.Range(t.Context(), "t", api.RangeQuery{Limit: 1}); err != nil {
		t.Error(err)
	}
}

func TestRequestsOfABatchSeeEachOther(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	s, _ := openWith(t, pgstore.Config{URL: url})
	conn := outsider(t, url)
	ctx := t.Context()

	t.Run("an ackCommit's next sees its own output", func(t *testing.T) {
		mustCommit(t, s, logs("loop", `[1]`)...)
		c := claimed(t, s, "looper", "loop")
		a, err := s.Ack(ctx, "looper", api.AckRequest{Token: c.Claim.Token, ClaimNext: true, Count: ptr(5), Logs: logs("loop", `[2]`, `[3]`)})
		if err != nil {
			t.Fatal(err)
		}
		if a.Next == nil || len(a.Next.Logs) != 2 || string(a.Next.Logs[1].Body) != `[3]` {
			t.Errorf("next is %+v", a.Next)
		}
	})
	t.Run("a claim sees what was committed before it", func(t *testing.T) {
		if _, _, err := s.CreateProc(ctx, "p", api.ProcOptions{Topic: "t", Count: ptr(3)}); err != nil {
			t.Fatal(err)
		}
		mustCommit(t, s, logs("t", `[0]`)...)
		st := stall(t, s)
		st.commit(logs("t", `[1]`))
		c := gather(st, func() (*api.Claimed, error) { return s.Claim(ctx, "p", api.ClaimRequest{}) })
		late := st.commit(logs("t", `[2]`))
		st.release()
		got, err := receive(t, c)
		if err != nil || got == nil || len(got.Logs) != 2 || string(got.Logs[1].Body) != `[1]` {
			t.Errorf("the claim got %+v, %v", got, err)
		}
		if _, err := receive(t, late); err != nil {
			t.Error(err)
		}
		if n := queryOne[int](t, conn, `SELECT count(*) FROM pipeproc_default.logs AS l JOIN pipeproc_default.topics AS t ON t.id = l.topic_id,
			pipeproc_default.procs AS p WHERE t.name = 't' AND p.name = 'p' AND l.xmin = p.xmin`); n != 2 {
			t.Errorf("the claim shares its transaction with %d logs, not 2", n)
		}
	})
}

func TestABlockedTopicWaitsAlone(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	s, _ := openWith(t, pgstore.Config{URL: url})
	conn := outsider(t, url)
	mustCommit(t, s, append(logs("free", `[0]`), logs("blocked", `[0]`)...)...)

	mustExec(t, conn, "BEGIN")
	mustExec(t, conn, "SELECT FROM pipeproc_default.topics WHERE name = 'blocked' FOR UPDATE")
	st := stall(t, s)
	blocked := st.commit(logs("blocked", `[1]`))
	free := st.commit(logs("free", `[1]`))
	both := st.commit(append(logs("free", `[2]`), logs("blocked", `[2]`)...))
	st.release()
	if _, err := receive(t, free); err != nil {
		t.Fatal(err)
	}
	if n := s.SideLanes(); n != 1 {
		t.Fatalf("%d side lanes", n)
	}
	late := commitAsync(t, s, logs("blocked", `[3]`)) // goes to the side lane at once
	for range 20 {
		began := time.Now()
		mustCommit(t, s, logs("free", `[3]`)...)
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("a commit beside the blocked topic took %v", took)
		}
	}
	select {
	case a := <-blocked:
		t.Fatal("a commit to a locked topic was answered:", a)
	default:
	}
	mustExec(t, conn, "COMMIT")
	for _, c := range []<-chan answer[api.Committed]{blocked, both, late} {
		if _, err := receive(t, c); err != nil {
			t.Error(err)
		}
	}
	if n := len(bodies(t, s, "blocked")); n != 4 {
		t.Errorf("%d logs", n)
	}
	if n := len(bodies(t, s, "free")); n != 23 {
		t.Errorf("%d logs", n)
	}
	until(t, "the side lane is gone", func() bool { return s.SideLanes() == 0 })
}

func TestABlockedTopicIsRefusedInTheEnd(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	s, _ := openWith(t, pgstore.Config{URL: url}, impatient)
	conn := outsider(t, url)
	mustCommit(t, s, append(logs("free", `[0]`), logs("blocked", `[0]`)...)...)
	mustExec(t, conn, "BEGIN")
	mustExec(t, conn, "SELECT FROM pipeproc_default.topics WHERE name = 'blocked' FOR UPDATE")
	for _, list := range [][]api.NewLog{logs("blocked", `[1]`), append(logs("free", `[1]`), logs("blocked", `[1]`)...)} {
		_, err := receive(t, commitAsync(t, s, list))
		wantCode(t, err, api.CodeOverloaded)
		var refusal *api.Error
		if errors.As(err, &refusal); refusal.RetryAfter <= 0 {
			t.Error("no RetryAfter")
		}
	}
	mustExec(t, conn, "ROLLBACK")
	mustCommit(t, s, append(logs("free", `[2]`), logs("blocked", `[2]`)...)...)
	for _, topic := range []string{"free", "blocked"} {
		if diff := cmp.Diff([]string{`[0]`, `[2]`}, bodies(t, s, topic)); diff != "" {
			t.Error(diff)
		}
	}
}

func TestABlockedProcWaitsAlone(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	s, _ := openWith(t, pgstore.Config{URL: url})
	conn := outsider(t, url)
	ctx := t.Context()
	mustCommit(t, s, logs("t", `[0]`, `[1]`)...)
	c := claimed(t, s, "blocked", "t")
	free := claimed(t, s, "free", "t")
	mustExec(t, conn, "BEGIN")
	mustExec(t, conn, "SELECT FROM pipeproc_default.procs WHERE name = 'blocked' FOR UPDATE")
	st := stall(t, s)
	waiting := gather(st, func() (api.Acked, error) {
		return s.Ack(ctx, "blocked", api.AckRequest{Token: c.Claim.Token, ClaimNext: true, Logs: logs("out", `[0]`)})
	})
	next := gather(st, func() (api.Acked, error) {
		return s.Ack(ctx, "free", api.AckRequest{Token: free.Claim.Token, ClaimNext: true, Logs: logs("out", `[1]`)})
	})
	st.release()
	if a, err := receive(t, next); err != nil || a.Next == nil {
		t.Fatalf("the other proc's ack got %+v, %v", a, err)
	}
	mustCommit(t, s, logs("t", `[2]`)...)
	select {
	case a := <-waiting:
		t.Fatal("an ack on a locked proc was answered:", a)
	default:
	}
	mustExec(t, conn, "COMMIT")
	if a, err := receive(t, waiting); err != nil || a.Next == nil {
		t.Errorf("the ack got %+v, %v", a, err)
	}
}

// More rows than there are side lanes: what finds none is refused, the others wait and are served.
func TestTooManyBlockedTopics(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	s, _ := openWith(t, pgstore.Config{URL: url})
	conn := outsider(t, url)
	const topics = 20
	var all []api.NewLog
	for i := range topics {
		all = append(all, logs(fmt.Sprint("t", i), `[0]`)...)
	}
	mustCommit(t, s, all...)
	mustExec(t, conn, "BEGIN")
	mustExec(t, conn, "SELECT FROM pipeproc_default.topics FOR UPDATE")
	st := stall(t, s)
	var answers []<-chan answer[api.Committed]
	for i := range topics {
		answers = append(answers, st.commit(logs(fmt.Sprint("t", i), `[1]`)))
	}
	st.release()
	until(t, "all side lanes are taken", func() bool { return s.SideLanes() == 16 })
	mustExec(t, conn, "COMMIT")
	refused := 0
	for _, c := range answers {
		if _, err := receive(t, c); err != nil {
			wantCode(t, err, api.CodeOverloaded)
			refused++
		}
	}
	if refused != topics-16 {
		t.Errorf("%d refused", refused)
	}
}

func TestStopWithABlockedTopic(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	s, stop := openWith(t, pgstore.Config{URL: url})
	conn := outsider(t, url)
	mustCommit(t, s, logs("blocked", `[0]`)...)
	mustExec(t, conn, "BEGIN")
	mustExec(t, conn, "SELECT FROM pipeproc_default.topics WHERE name = 'blocked' FOR UPDATE")
	blocked := commitAsync(t, s, logs("blocked", `[1]`))
	until(t, "it waits", func() bool { return s.SideLanes() == 1 })
	began := time.Now()
	stop()
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("the stop took %v", took)
	}
	_, err := receive(t, blocked)
	wantCode(t, err, api.CodeOverloaded)
	_, err = s.Commit(t.Context(), logs("free", `[1]`), nil)
	wantCode(t, err, api.CodeUnavailable)
}

func TestAFullQueueIsRefused(t *testing.T) {
	t.Parallel()
	s, _ := openWith(t, pgstore.Config{URL: pgtest.Database(t)})
	body := json.RawMessage(`["` + strings.Repeat("x", 1<<20-4) + `"]`)
	var big []api.NewLog
	for range 15 {
		big = append(big, api.NewLog{Topic: "big", Body: body})
	}
	st := stall(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	var queued []<-chan answer[api.Committed]
	for range 6 { // 90 of the 96 MiB
		queued = append(queued, gather(st, func() (api.Committed, error) { return s.Commit(ctx, big, nil) }))
	}
	_, err := receive(t, commitAsync(t, s, big))
	wantCode(t, err, api.CodeOverloaded)
	small := st.commit(logs("small", `[1]`)) // what fits is taken
	cancel()
	st.release()
	for _, c := range queued {
		if _, err := receive(t, c); !errors.Is(err, context.Canceled) {
			t.Error("a request that was given up got", err)
		}
	}
	if _, err := receive(t, small); err != nil {
		t.Error(err)
	}
	mustCommit(t, s, big...)
}

// Many procs on new topics at once, by a pool that is smaller: creating one must not hold a connection and ask for another.
func TestASmallPoolSuffices(t *testing.T) {
	t.Parallel()
	s, _ := openWith(t, pgstore.Config{URL: pgtest.Database(t), Connections: 2})
	var g errgroup.Group
	for i := range 20 {
		g.Go(func() error {
			_, _, err := s.CreateProc(t.Context(), fmt.Sprint("p", i), api.ProcOptions{Topic: fmt.Sprint("t", i)})
			return err
		})
		g.Go(func() error {
			_, err := s.Commit(t.Context(), logs(fmt.Sprint("u", i), "[]"), nil)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
}

// Commits wait for no reader, also where they bring new topics.
func TestCommitsNeedNoPool(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	s, _ := openWith(t, pgstore.Config{URL: url, Connections: 1})
	conn := outsider(t, url)
	mustCommit(t, s, logs("t", `[1]`)...)
	mustExec(t, conn, "BEGIN")
	mustExec(t, conn, "LOCK TABLE pipeproc_default.gc_runs") // what a read of it waits for holds the pool's one connection
	reader := async(func() (api.GCRun, error) { return s.LastCollect(t.Context()) })
	until(t, "the reader waits", func() bool {
		return queryOne[int](t, conn, "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'") == 1
	})
	_, err := receive(t, commitAsync(t, s, logs("new", `[1]`)))
	mustExec(t, conn, "ROLLBACK")
	if err != nil {
		t.Error(err)
	}
	if _, err := receive(t, reader); err != nil {
		t.Error(err)
	}
}

func TestTwoStoresDoNotDeadlock(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	conn := outsider(t, url)
	// Lock time-outs would end a deadlock before PostgreSQL looks for it.
	mustExec(t, conn, "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET deadlock_timeout = 20', current_database()); END $$")
	a, stopA := openWith(t, pgstore.Config{URL: url})
	b, stopB := openWith(t, pgstore.Config{URL: url})
	const topics, workers, turns = 6, 6, 60
	ctx := t.Context()
	crossing := func(n int) (list []api.NewLog) {
		for _, i := range rand.Perm(topics)[:n] {
			list = append(list, logs(fmt.Sprint("t", i), `{"x":1}`)...)
		}
		return list
	}
	var g errgroup.Group
	var committed atomic.Int64
	for i, s := range []*pgstore.Store{a, b} {
		for w := range workers {
			g.Go(func() error {
				for range turns {
					list := crossing(1 + rand.IntN(topics))
					if _, err := s.Commit(ctx, list, nil); err != nil {
						return fmt.Errorf("commit: %w", err)
					}
					committed.Add(int64(len(list)))
				}
				return nil
			})
			g.Go(func() error { // every proc has a claimant on each store
				proc, topic := fmt.Sprint("p", w), fmt.Sprint("t", w%topics)
				for range turns {
					c, err := s.Claim(ctx, proc, api.ClaimRequest{ProcOptions: api.ProcOptions{Topic: topic, Count: ptr(3)}})
					if api.CodeOf(err) == api.CodeAlreadyClaimed || err == nil && c == nil {
						continue
					}
					if err != nil {
						return fmt.Errorf("claim: %w", err)
					}
					list := crossing(1 + rand.IntN(3))
					if _, err := s.Ack(ctx, proc, api.AckRequest{Token: c.Claim.Token, Logs: list}); err != nil {
						return fmt.Errorf("ack: %w", err)
					}
					committed.Add(int64(len(list)))
				}
				return nil
			})
		}
		g.Go(func() error { // what runs in transactions of its own
			for j := range 20 {
				name := fmt.Sprint("own", i, "-", j%3)
				if _, _, err := s.CreateProc(ctx, name, api.ProcOptions{Topic: fmt.Sprint("t", j%topics)}); err != nil && api.CodeOf(err) != api.CodeProcOptionsDiffer {
					return fmt.Errorf("create: %w", err)
				}
				if _, err := s.Collect(ctx, 0); err != nil {
					return fmt.Errorf("collect: %w", err)
				}
				if err := s.Sweep(ctx); err != nil {
					return fmt.Errorf("sweep: %w", err)
				}
				if _, err := s.DestroyProc(ctx, name); err != nil {
					return fmt.Errorf("destroy: %w", err)
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	list, err := a.Topics(ctx, "", 100)
	if err != nil {
		t.Fatal(err)
	}
	var all int64
	for _, topic := range list.Topics {
		all += topic.Committed
	}
	if all != committed.Load() {
		t.Errorf("%d logs are there, %d were committed", all, committed.Load())
	}
	stopA() // PostgreSQL's processes tell their statistics when they end, at the latest
	stopB()
	until(t, "the stores' connections are gone", func() bool {
		return queryOne[int](t, conn, "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()") == 0
	})
	if n := queryOne[int](t, conn, "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"); n > 0 {
		t.Errorf("%d deadlocks", n)
	}
}
