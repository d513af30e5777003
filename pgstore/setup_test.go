package pgstore_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"

	"pipeproc/api"
	"pipeproc/pgstore"
	"pipeproc/pgstore/pgtest"
)

// openWith runs a store until the test ends, or until stop is called. tweak may change it before it runs.
func openWith(tb testing.TB, cfg pgstore.Config, tweak ...func(*pgstore.Store)) (s *pgstore.Store, stop func()) {
	tb.Helper()
	cfg.UnsafeDurability = true
	if cfg.Logger == nil {
		cfg.Logger = pgtest.Logger()
	}
	s, err := pgstore.Open(tb.Context(), cfg)
	if err != nil {
		tb.Fatal(err)
	}
	for _, f := range tweak {
		f(s)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				tb.Error(err)
			}
		case <-time.After(30 * time.Second):
			tb.Error("the store does not stop")
		}
		s.Close()
	})
	tb.Cleanup(stop)
	return s, stop
}

// impatient makes a store give up soon.
func impatient(s *pgstore.Store) {
	s.SetPatience(400*time.Millisecond, 400*time.Millisecond, 400*time.Millisecond)
}

// outsider is a connection that is not the store's.
func outsider(tb testing.TB, url string) *pgx.Conn {
	tb.Helper()
	conn, err := pgx.Connect(tb.Context(), url)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

func mustExec(tb testing.TB, conn *pgx.Conn, sql string, args ...any) {
	tb.Helper()
	if _, err := conn.Exec(tb.Context(), sql, args...); err != nil {
		tb.Fatal(err)
	}
}

// queryOne answers the one value that sql selects.
func queryOne[T any](tb testing.TB, conn *pgx.Conn, sql string, args ...any) (v T) {
	tb.Helper()
	if err := conn.QueryRow(tb.Context(), sql, args...).Scan(&v); err != nil {
		tb.Fatal(err)
	}
	return v
}

// until waits for a condition that nothing signals.
func until(tb testing.TB, what string, condition func() bool) {
	tb.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(20 * time.Second)
	for !condition() {
		select {
		case <-tick.C:
		case <-deadline:
			tb.Fatal("in vain waited until", what)
		}
	}
}

func mustCommit(tb testing.TB, s *pgstore.Store, list ...api.NewLog) []api.ID {
	tb.Helper()
	c, err := s.Commit(tb.Context(), list, nil)
	if err != nil {
		tb.Fatal(err)
	}
	return c.IDs
}

// answer is what an asynchronous call comes to.
type answer[T any] struct {
	value T
	err   error
}

// async runs f and answers where its outcome will be.
func async[T any](f func() (T, error)) <-chan answer[T] {
	c := make(chan answer[T], 1)
	go func() {
		v, err := f()
		c <- answer[T]{v, err}
	}()
	return c
}

func commitAsync(tb testing.TB, s *pgstore.Store, list []api.NewLog) <-chan answer[api.Committed] {
	ctx := tb.Context()
	return async(func() (api.Committed, error) { return s.Commit(ctx, list, nil) })
}

// receive waits for an outcome, and not for ever.
func receive[T any](tb testing.TB, c <-chan answer[T]) (T, error) {
	tb.Helper()
	select {
	case a := <-c:
		return a.value, a.err
	case <-time.After(20 * time.Second):
		tb.Fatal("no answer")
	}
	panic("unreachable")
}

func wantCode(tb testing.TB, err error, code api.Code) {
	tb.Helper()
	if api.CodeOf(err) != code {
		tb.Fatalf("the answer is %v, not %q", err, code)
	}
}

// stalled lets requests gather in one batch: each is queued before the next is sent.
type stalled struct {
	tb      testing.TB
	store   *pgstore.Store
	release func()
}

func stall(tb testing.TB, s *pgstore.Store) *stalled {
	return &stalled{tb, s, s.Stall(tb.Context())}
}

// gather sends a request in its turn.
func gather[T any](st *stalled, f func() (T, error)) <-chan answer[T] {
	st.tb.Helper()
	n := st.store.Queued()
	c := async(f)
	until(st.tb, "the request is queued", func() bool { return st.store.Queued() == n+1 })
	return c
}

func (st *stalled) commit(list []api.NewLog) <-chan answer[api.Committed] {
	st.tb.Helper()
	return gather(st, func() (api.Committed, error) { return st.store.Commit(st.tb.Context(), list, nil) })
}

// transactions counts those that wrote the topic's logs.
func transactions(tb testing.TB, conn *pgx.Conn, topics ...string) int {
	tb.Helper()
	return queryOne[int](tb, conn, `SELECT count(DISTINCT l.xmin::text) FROM pipeproc_default.logs AS l
		JOIN pipeproc_default.topics AS t ON t.id = l.topic_id WHERE t.name = ANY($1)`, topics)
}

// bodies are those of a topic's logs, in order; it fails where seqs have holes.
func bodies(tb testing.TB, s *pgstore.Store, topic string) (list []string) {
	tb.Helper()
	q := api.RangeQuery{Limit: api.MaxPageLogs}
	for {
		page, err := s.Range(context.Background(), topic, q)
		if api.CodeOf(err) == api.CodeInvalidTopic {
			return nil
		}
		if err != nil {
			tb.Fatal(err)
		}
		for _, l := range page.Logs {
			if l.ID.Seq != int64(len(list)) {
				tb.Fatalf("log %d of %q has seq %d", len(list), topic, l.ID.Seq)
			}
			list = append(list, string(l.Body))
		}
		if page.Next == nil {
			return list
		}
		q.Start = api.Bound{Form: api.BoundID, ID: *page.Next}
	}
}

func ptr[T any](v T) *T { return &v }

// claimed makes proc on topic and claims its next logs.
func claimed(tb testing.TB, s *pgstore.Store, proc, topic string) *api.Claimed {
	tb.Helper()
	c, err := s.Claim(tb.Context(), proc, api.ClaimRequest{ProcOptions: api.ProcOptions{Topic: topic, ReclaimTimeout: ptr(int64(-1))}})
	if err != nil || c == nil {
		tb.Fatalf("claim: %v, %v", c, err)
	}
	return c
}

type observed struct {
	count uint64
	sum   float64
}

func observedBatches(tb testing.TB, r *prometheus.Registry) observed {
	tb.Helper()
	families, err := r.Gather()
	if err != nil {
		tb.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "pipeproc_batch_requests" {
			h := f.GetMetric()[0].GetHistogram()
			return observed{h.GetSampleCount(), h.GetSampleSum()}
		}
	}
	tb.Fatal("no pipeproc_batch_requests")
	return observed{}
}
