package pgstore_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgconn"

	"pipeproc/api"
	"pipeproc/pgstore"
	"pipeproc/pgstore/embedded"
	"pipeproc/pgstore/pgtest"
)

func TestUnknownOutcomes(t *testing.T) {
	for _, test := range []struct {
		name  string
		fault commitFault
	}{
		{"the answer is lost", answerLost},
		{"the answer is late for ever", answerHeld},
		{"the COMMIT is lost", commitLost},
		{"the COMMIT is late for ever", commitHeld},
		{"the answer comes with a warning", answerLate},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			direct := pgtest.Database(t)
			p, url := newProxy(t, direct)
			s, _ := openWith(t, pgstore.Config{URL: url}, impatient)
			mustCommit(t, s, logs("t", `[0]`)...)
			c := claimed(t, s, "p", "t")
			conn := outsider(t, direct)
			lanes := func() []int32 {
				return queryOne[[]int32](t, conn, `SELECT array_agg(pid) FROM pg_stat_activity
					WHERE datname = current_database() AND application_name LIKE '% lane 0'`)
			}
			before := lanes()

			struck := p.strike(test.fault, 0)
			st := stall(t, s)
			first := st.commit(logs("t", `[1]`))
			acked := gather(st, func() (api.Acked, error) {
				return s.Ack(t.Context(), "p", api.AckRequest{Token: c.Claim.Token, ClaimNext: true, Logs: logs("t", `[2]`)})
			})
			lost := gather(st, func() (api.Acked, error) { return s.Ack(t.Context(), "p", api.AckRequest{Token: "another"}) })
			st.release()
			got, err := receive(t, first)
			if err != nil || got.IDs[0].Seq != 1 {
				t.Fatalf("the commit got %v, %v", got, err)
			}
			a, err := receive(t, acked)
			if err != nil || a.IDs[0].Seq != 2 || a.Next == nil || string(a.Next.Logs[0].Body) != `[1]` {
				t.Errorf("the ackCommit got %+v, %v", a, err)
			}
			_, err = receive(t, lost)
			wantCode(t, err, api.CodeClaimLost)
			<-struck
			mustCommit(t, s, logs("t", `[3]`)...)
			if after := lanes(); len(after) != 1 || after[0] == before[0] { // no connection that left a doubt goes on
				t.Errorf("the lane's backend was %v and is %v", before, after)
			}
			if diff := cmp.Diff([]string{`[0]`, `[1]`, `[2]`, `[3]`}, bodies(t, s, "t")); diff != "" {
				t.Error(diff)
			}
			if p, err := s.Proc(t.Context(), "p"); err != nil || p.Claim == nil || p.Claim.Token != a.Next.Claim.Token {
				t.Errorf("the proc is %+v, %v", p, err)
			}
		})
	}
}

// TestUnknownOutcomesOfAppends: commits whose ids PostgreSQL gives get them, too, when its answer is lost, and once.
func TestUnknownOutcomesOfAppends(t *testing.T) {
	for _, fault := range []commitFault{answerLost, answerHeld, commitLost, commitHeld, answerLate} {
		for _, topics := range []int{1, 3} {
			t.Run(fmt.Sprintf("%d to %d", fault, topics), func(t *testing.T) {
				t.Parallel()
				p, url := newProxy(t, pgtest.Database(t))
				s, _ := openWith(t, pgstore.Config{URL: url}, impatient)
				for i := range topics {
					mustCommit(t, s, logs(fmt.Sprint("t", i), `[0]`)...)
				}
				struck := p.strike(fault, 0)
				st := stall(t, s)
				var answers []<-chan answer[api.Committed]
				for i := range 2 * topics {
					answers = append(answers, st.commit(logs(fmt.Sprint("t", i%topics), fmt.Sprintf("[%d]", i/topics+1), `[9]`)))
				}
				st.release()
				<-struck
				for i, c := range answers {
					got, err := receive(t, c)
					if err != nil || len(got.IDs) != 2 {
						t.Fatal(got, err)
					}
					for j, id := range got.IDs {
						want := fmt.Sprintf("[%d]", i/topics+1)
						if j > 0 {
							want = `[9]`
						}
						if got := bodies(t, s, fmt.Sprint("t", i%topics))[id.Seq]; got != want {
							t.Errorf("commit %d is told of %s at %v", i, got, id)
						}
					}
				}
				for i := range topics {
					if diff := cmp.Diff([]string{`[0]`, `[1]`, `[9]`, `[2]`, `[9]`}, bodies(t, s, fmt.Sprint("t", i))); diff != "" {
						t.Error(diff)
					}
				}
			})
		}
	}
}

func TestUnreachable(t *testing.T) {
	t.Parallel()
	p, url := newProxy(t, pgtest.Database(t))
	s, _ := openWith(t, pgstore.Config{URL: url}, impatient)
	mustCommit(t, s, logs("t", `[0]`)...)

	p.strike(unresolvable, 0)
	_, err := receive(t, commitAsync(t, s, logs("t", `[1]`)))
	wantCode(t, err, api.CodeUnavailable)
	var refusal *api.Error
	if errors.As(err, &refusal); refusal.RetryAfter <= 0 {
		t.Error("no RetryAfter")
	}
	p.cut()
	_, err = receive(t, commitAsync(t, s, logs("t", `[2]`))) // nothing can have been done
	wantCode(t, err, api.CodeUnavailable)
	_, err = s.Topic(t.Context(), "t")
	wantCode(t, err, api.CodeUnavailable)
	if err := s.Ready(t.Context()); api.CodeOf(err) != api.CodeUnavailable {
		t.Error("ready, says", err)
	}

	p.heal()
	mustCommit(t, s, logs("t", `[3]`)...)
	if diff := cmp.Diff([]string{`[0]`, `[1]`, `[3]`}, bodies(t, s, "t")); diff != "" {
		t.Error(diff)
	}
	if err := s.Ready(t.Context()); err != nil {
		t.Error(err)
	}
}

// A side lane's batch whose outcome cannot be found out is not done again, though its lane could.
func TestUnknownOutcomeOfASideLane(t *testing.T) {
	t.Parallel()
	direct := pgtest.Database(t)
	p, url := newProxy(t, direct)
	s, _ := openWith(t, pgstore.Config{URL: url}, func(s *pgstore.Store) { s.SetPatience(0, 400*time.Millisecond, 400*time.Millisecond) })
	conn := outsider(t, direct)
	mustCommit(t, s, logs("t", `[0]`)...)
	mustExec(t, conn, "BEGIN")
	mustExec(t, conn, "SELECT FROM pipeproc_default.topics WHERE name = 't' FOR UPDATE")
	first := commitAsync(t, s, logs("t", `[1]`))
	until(t, "it is in flight in the side lane", func() bool { return s.SideLanes() == 1 && s.SideQueued() == 0 })
	var answers []<-chan answer[api.Committed]
	for i := range 3 { // these are its next batch
		answers = append(answers, commitAsync(t, s, logs("t", fmt.Sprintf("[%d]", i+2))))
		until(t, "it is queued", func() bool { return s.SideQueued() == i+1 })
	}
	p.refuseThose(func(application string) bool { return !strings.Contains(application, " lane ") })
	struck := p.strike(answerLost, 1)
	mustExec(t, conn, "COMMIT")
	<-struck
	if _, err := receive(t, first); err != nil {
		t.Error(err)
	}
	for _, c := range answers {
		_, err := receive(t, c)
		wantCode(t, err, api.CodeUnavailable)
	}
	p.heal()
	if diff := cmp.Diff([]string{`[0]`, `[1]`, `[2]`, `[3]`, `[4]`}, bodies(t, s, "t")); diff != "" {
		t.Error(diff)
	}
}

// A side lane that loses its connection before its COMMIT tries again.
func TestASideLaneReconnects(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	s, _ := openWith(t, pgstore.Config{URL: url})
	conn := outsider(t, url)
	mustCommit(t, s, logs("t", `[0]`)...)
	mustExec(t, conn, "BEGIN")
	mustExec(t, conn, "SELECT FROM pipeproc_default.topics WHERE name = 't' FOR UPDATE")
	blocked := commitAsync(t, s, logs("t", `[1]`))
	other := outsider(t, url) // a transaction would go on seeing the same processes
	for range 3 {
		until(t, "the side lane is cut off", func() bool {
			return queryOne[int](t, other, `SELECT count(*) FILTER (WHERE pg_terminate_backend(pid, 1000)) FROM pg_stat_activity
				WHERE datname = current_database() AND application_name LIKE '% lane 1'`) > 0
		})
	}
	mustExec(t, conn, "COMMIT")
	if _, err := receive(t, blocked); err != nil {
		t.Error(err)
	}
}

// load commits until stop is closed and keeps account of the answers.
type load struct {
	store  *pgstore.Store
	topics int
	pad    int // bytes that each body has besides

	mu      sync.Mutex
	acked   map[string]api.ID // by body
	unknown map[string]bool
	bad     []error
	total   atomic.Int64
	refused atomic.Int64 // all that were not done, or may not have been
}

func (l *load) run(ctx context.Context, workers int, stop <-chan struct{}) *sync.WaitGroup {
	l.acked, l.unknown = map[string]api.ID{}, map[string]bool{}
	var g sync.WaitGroup
	for w := range workers {
		g.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				body := fmt.Sprintf("[%d,%d]", w, i)
				if l.pad > 0 {
					body = body[:len(body)-1] + "," + incompressible(l.pad) + "]"
				}
				c, err := l.store.Commit(ctx, logs(fmt.Sprint("t", rand.IntN(l.topics)), body), nil)
				l.mu.Lock()
				switch api.CodeOf(err) {
				case "":
					l.acked[body] = c.IDs[0]
					l.total.Add(1)
				case api.CodeUnavailable:
					l.unknown[body] = true
					l.refused.Add(1)
				case api.CodeOverloaded: // not done
					l.refused.Add(1)
				default:
					l.bad = append(l.bad, err)
				}
				l.mu.Unlock()
			}
		})
	}
	return &g
}

// check compares the account with what is there: what was acked is there once, what is unknown at most once.
func (l *load) check(tb testing.TB) {
	tb.Helper()
	for _, err := range l.bad {
		tb.Error("a commit got", err)
	}
	found := map[string]int{}
	for i := range l.topics {
		for seq, body := range bodies(tb, l.store, fmt.Sprint("t", i)) {
			found[body]++
			if id, ok := l.acked[body]; ok && id.Seq != int64(seq) {
				tb.Errorf("%s was answered %v and is at %d", body, id, seq)
			}
		}
	}
	for body := range l.acked {
		if found[body] != 1 {
			tb.Errorf("%s was committed and is there %d times", body, found[body])
		}
		delete(found, body)
	}
	for body, n := range found {
		if n > 1 || !l.unknown[body] {
			tb.Errorf("%s is there %d times, unknown: %v", body, n, l.unknown[body])
		}
	}
	tb.Logf("%d committed, %d unknown", len(l.acked), len(l.unknown))
}

func TestTerminatedLanes(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	s, _ := openWith(t, pgstore.Config{URL: url})
	conn := outsider(t, url)
	l := &load{store: s, topics: 4}
	stop := make(chan struct{})
	g := l.run(t.Context(), 8, stop)
	for range 15 {
		before := l.total.Load()
		until(t, "commits go on", func() bool { return l.total.Load() > before+5 })
		mustExec(t, conn, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE '% lane %'")
	}
	close(stop)
	g.Wait()
	l.check(t)
	if len(l.unknown) > 0 {
		t.Errorf("%d commits were left unknown though the database was there", len(l.unknown))
	}
}

func TestPostgresKilled(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("/tmp", "pgstore-test-*")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o711); err != nil { // an unprivileged account can enter it
		t.Fatal(err)
	}
	cluster, err := embedded.Start(t.Context(), embedded.Config{Dir: dir + "/data", Logger: pgtest.Logger()})
	if errors.Is(err, embedded.ErrNotFound) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cluster.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	checked, err := pgstore.Open(t.Context(), pgstore.Config{URL: cluster.URL(), Logger: pgtest.Logger()}) // durable: nothing to accept
	if err != nil {
		t.Fatal(err)
	}
	checked.Close()
	s, stopStore := openWith(t, pgstore.Config{URL: cluster.URL()})
	l := &load{store: s, topics: 4}
	stop := make(chan struct{})
	g := l.run(t.Context(), 8, stop)
	for range 2 {
		before := l.total.Load()
		until(t, "commits go on", func() bool { return l.total.Load() > before+50 })
		pid := cluster.PID()
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		until(t, "PostgreSQL is back", func() bool { return cluster.Ready() && cluster.PID() != pid })
	}
	before := l.total.Load()
	until(t, "commits go on", func() bool { return l.total.Load() > before+50 })
	close(stop)
	g.Wait()
	l.check(t)
	until(t, "the store is ready", func() bool { return s.Ready(t.Context()) == nil })
	stopStore()
}

// Errors that end a connection are not taken for a refusal, whatever their code.
func TestFatalErrorsAreNoRefusals(t *testing.T) {
	t.Parallel()
	for _, err := range []*pgconn.PgError{
		{SeverityUnlocalized: "PANIC", Code: "53100"}, // the disk is full: the COMMIT may be on it
		{SeverityUnlocalized: "FATAL", Code: "25P03"},
		{SeverityUnlocalized: "ERROR", Code: "25006"}, // the server has become a standby
	} {
		if !pgstore.Disconnected(err) {
			t.Errorf("%s %s is taken for a refusal", err.SeverityUnlocalized, err.Code)
		}
	}
}
