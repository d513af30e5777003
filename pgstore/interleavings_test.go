package pgstore_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"pipeproc/api"
	"pipeproc/pgstore"
	"pipeproc/pgstore/pgtest"
)

// These tests go through two servers' transactions step by step: one is held at a statement, the other one is seen to
// wait for it in PostgreSQL, or not to.

// replica is a server whose every statement can be held.
type replica struct {
	*pgstore.Store
	*proxy
}

// openReplicas runs two servers on the database at url. They wait for each other's rows for longer than a step takes.
func openReplicas(tb testing.TB, url string) (a, b *replica) {
	tb.Helper()
	list := make([]*replica, 2)
	for i := range list {
		p, through := newProxy(tb, url)
		s, _ := openWith(tb, pgstore.Config{URL: through, PollInterval: time.Hour}, func(s *pgstore.Store) {
			s.SetPatience(0, time.Minute, 0)
			s.SetLockPatience(4 * time.Second)
		})
		list[i] = &replica{s, p}
	}
	return list[0], list[1]
}

// inBothOrders runs f with two servers, and once more with their parts changed.
func inBothOrders(t *testing.T, f func(t *testing.T, conn *pgx.Conn, first, second *replica)) {
	for i, name := range []string{"one first", "the other first"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := pgtest.Database(t)
			a, b := openReplicas(t, url)
			if i > 0 {
				a, b = b, a
			}
			f(t, outsider(t, url), a, b)
		})
	}
}

// waits waits until PostgreSQL has the waiter wait for one of the holders. Whoever looks must not be in a transaction.
func waits(tb testing.TB, conn *pgx.Conn, waiter *replica, holders ...func() []int32) {
	tb.Helper()
	until(tb, "one waits for the other", func() bool {
		var pids []int32
		for _, of := range holders {
			pids = append(pids, of()...)
		}
		return queryOne[bool](tb, conn, "SELECT coalesce(bool_or(pg_blocking_pids(pid) && $2::int[]), false) FROM unnest($1::int[]) AS pid",
			waiter.backends(), pids)
	})
}

func processOf(conn *pgx.Conn) func() []int32 {
	return func() []int32 { return []int32{int32(conn.PgConn().PID())} }
}

func (h *held) wait(tb testing.TB) {
	tb.Helper()
	tb.Cleanup(h.release)
	select {
	case <-h.reached:
	case <-time.After(20 * time.Second):
		tb.Fatalf("nobody comes to %q", h.fragment)
	}
}

func wantOpen[T any](tb testing.TB, what string, c <-chan answer[T]) {
	tb.Helper()
	select {
	case a := <-c:
		tb.Fatalf("%s got %v, %v before its time", what, a.value, a.err)
	default:
	}
}

func mustReceive[T any](tb testing.TB, c <-chan answer[T]) T {
	tb.Helper()
	v, err := receive(tb, c)
	if err != nil {
		tb.Fatal(err)
	}
	return v
}

func procOf(tb testing.TB, s *pgstore.Store, name string) api.Proc {
	tb.Helper()
	p, err := s.Proc(tb.Context(), name)
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

// Two commits name the same topics in opposite orders: both lock the lower one first, so that neither holds what the other
// one needs; the one that was first is first in every topic.
func TestCrossingCommits(t *testing.T) {
	t.Parallel()
	for _, form := range []string{"each over both topics", "two to one topic each"} {
		t.Run(form, func(t *testing.T) {
			inBothOrders(t, func(t *testing.T, conn *pgx.Conn, first, second *replica) {
				url := conn.Config().ConnString()
				mustExec(t, conn, "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET deadlock_timeout = 20', current_database()); END $$")
				mustCommit(t, first.Store, logs("low", `[0]`)...)
				mustCommit(t, first.Store, logs("high", `[0]`)...)
				holder := outsider(t, url)
				mustExec(t, holder, "BEGIN")
				mustExec(t, holder, "SELECT FROM pipeproc_default.topics WHERE name = 'low' FOR UPDATE")
				commit := func(r *replica, names ...string) (answers []<-chan answer[api.Committed]) {
					body := fmt.Sprintf("[%q]", names[0])
					if form == "each over both topics" {
						return append(answers, commitAsync(t, r.Store, append(logs(names[0], body), logs(names[1], body)...)))
					}
					st := stall(t, r.Store)
					for _, name := range names {
						answers = append(answers, st.commit(logs(name, body)))
					}
					st.release()
					return answers
				}
				a := commit(first, "low", "high")
				waits(t, conn, first, processOf(holder))
				b := commit(second, "high", "low")
				waits(t, conn, second, first.backends, processOf(holder))
				if free := queryOne[int](t, conn, `WITH free AS (SELECT FROM pipeproc_default.topics WHERE name = 'high' FOR UPDATE SKIP LOCKED)
					SELECT count(*) FROM free`); free != 1 {
					t.Error("who waits for the lower topic holds the higher one")
				}
				mustExec(t, holder, "COMMIT")
				var ids []api.ID
				for _, c := range append(a, b...) {
					ids = append(ids, mustReceive(t, c).IDs...)
				}
				if form == "each over both topics" && (ids[0].TS != ids[1].TS || ids[2].TS != ids[3].TS) {
					t.Error("a commit has two timestamps:", ids)
				}
				for i, id := range ids {
					if id.Seq != int64(i/2)+1 {
						t.Error("the commits are in different orders in their topics:", ids)
					}
				}
				if ids[2].TS < ids[1].TS || ids[3].TS < ids[0].TS {
					t.Error("a timestamp goes back:", ids)
				}
				for _, topic := range []string{"low", "high"} {
					if diff := cmp.Diff([]string{`[0]`, `["low"]`, `["high"]`}, bodies(t, first.Store, topic)); diff != "" {
						t.Error(diff)
					}
				}
			})
		})
	}
}

// A commit that has waited for its topic takes its timestamp from the clock as it is then, not as it was before.
func TestTimestampsAreOfTheLock(t *testing.T) {
	t.Parallel()
	for _, topics := range [][]string{{"t"}, {"t", "u"}} {
		t.Run(fmt.Sprint(topics), func(t *testing.T) {
			inBothOrders(t, func(t *testing.T, conn *pgx.Conn, first, second *replica) {
				var list []api.NewLog
				for _, topic := range topics {
					mustCommit(t, first.Store, logs(topic, `[0]`)...)
					list = append(list, logs(topic, `[2]`)...)
				}
				clock := func() int64 { return queryOne[int64](t, conn, "SELECT pipeproc_default.now_ms()") }
				h := first.hold("^COMMIT$")
				one := commitAsync(t, first.Store, logs("t", `[1]`))
				h.wait(t)
				two := commitAsync(t, second.Store, list)
				waits(t, conn, second, first.backends)
				begun := clock()
				until(t, "the clock goes on", func() bool { return clock() > begun+20 })
				locked := clock()
				h.release()
				mustReceive(t, one)
				if ts := mustReceive(t, two).IDs[0].TS; ts < locked {
					t.Errorf("its timestamp is %d ms older than its lock", locked-ts)
				}
			})
		})
	}
}

// So it does where who held the topic has changed nothing.
func TestTimestampsAfterALock(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	s, conn := open(t, url), connect(t, url)
	mustCommit(t, s, logs("t", `[0]`)...)
	mustExec(t, conn, "BEGIN")
	mustExec(t, conn, "SELECT FROM pipeproc_default.topics FOR UPDATE")
	clock := func() int64 { return queryOne[int64](t, conn, "SELECT pipeproc_default.now_ms()") }
	one := commitAsync(t, s, logs("t", `[1]`))
	until(t, "the commit waits", func() bool {
		return queryOne[bool](t, conn, "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pg_backend_pid() = ANY (pg_blocking_pids(pid)))")
	})
	begun := clock()
	until(t, "the clock goes on", func() bool { return clock() > begun+20 })
	locked := clock()
	mustExec(t, conn, "ROLLBACK")
	if ts := mustReceive(t, one).IDs[0].TS; ts < locked {
		t.Errorf("its timestamp is %d ms older than its lock", locked-ts)
	}
}

// A range sees all of a commit or nothing, up to the moment of its COMMIT; and no later log of another server before it.
func TestRangesBesideACommit(t *testing.T) {
	t.Parallel()
	inBothOrders(t, func(t *testing.T, conn *pgx.Conn, first, second *replica) {
		mustCommit(t, first.Store, append(logs("a", `[0]`), logs("b", `[0]`)...)...)
		seen := func(want ...string) {
			t.Helper()
			for _, topic := range []string{"a", "b"} {
				if diff := cmp.Diff(want, bodies(t, second.Store, topic)); diff != "" {
					t.Errorf("a range of %s: %s", topic, diff)
				}
			}
		}
		for _, last := range []string{`INSERT INTO "pipeproc_default".lanes`, "^COMMIT$"} {
			before := bodies(t, second.Store, "a")
			h := first.hold(last)
			one := commitAsync(t, first.Store, append(logs("a", `["one"]`), logs("b", `["one"]`)...))
			h.wait(t)
			two := commitAsync(t, second.Store, append(logs("b", `["two"]`), logs("a", `["two"]`)...))
			waits(t, conn, second, first.backends)
			seen(before...)
			wantOpen(t, "the second commit", two)
			h.release()
			mustReceive(t, one)
			mustReceive(t, two)
			seen(append(before, `["one"]`, `["two"]`)...)
		}
	})
}

// A commit that comes while a range is under way is not in it, not even in part.
func TestACommitBesideARange(t *testing.T) {
	t.Parallel()
	inBothOrders(t, func(t *testing.T, _ *pgx.Conn, first, second *replica) {
		mustCommit(t, first.Store, logs("t", `[0]`, `[1]`)...)
		h := first.hold("WINDOW w AS")
		page := async(func() (api.Page, error) {
			return first.Range(context.Background(), "t", api.RangeQuery{Limit: 10})
		})
		h.wait(t)
		mustCommit(t, second.Store, logs("t", `[2]`, `[3]`)...)
		h.release()
		if p := mustReceive(t, page); len(p.Logs) != 2 || p.Next != nil {
			t.Errorf("the range got %d logs, and next %v", len(p.Logs), p.Next)
		}
		if n := len(bodies(t, first.Store, "t")); n != 4 {
			t.Errorf("then there are %d", n)
		}
	})
}

// Of two claims on two servers one wins; the other one waits for its COMMIT and is told of it.
func TestTwoClaims(t *testing.T) {
	t.Parallel()
	inBothOrders(t, func(t *testing.T, conn *pgx.Conn, first, second *replica) {
		mustCommit(t, first.Store, logs("t", `[0]`, `[1]`)...)
		if _, _, err := first.CreateProc(t.Context(), "p", api.ProcOptions{Topic: "t", ReclaimTimeout: ptr(int64(60_000))}); err != nil {
			t.Fatal(err)
		}
		claim := func(s *pgstore.Store) <-chan answer[*api.Claimed] {
			return async(func() (*api.Claimed, error) { return s.Claim(context.Background(), "p", api.ClaimRequest{}) })
		}
		h := first.hold("^COMMIT$")
		winner := claim(first.Store)
		h.wait(t)
		loser := claim(second.Store)
		waits(t, conn, second, first.backends)
		wantOpen(t, "the second claim", loser)
		if p := procOf(t, second.Store, "p"); p.Claim != nil {
			t.Error("a claim is seen before its COMMIT:", p.Claim)
		}
		h.release()
		c := mustReceive(t, winner)
		if c == nil || len(c.Logs) != 1 || c.Claim.Attempt != 1 {
			t.Fatalf("the first claim got %+v", c)
		}
		_, err := receive(t, loser)
		wantCode(t, err, api.CodeAlreadyClaimed)
		p := procOf(t, second.Store, "p")
		if p.Claim == nil || p.Claim.Token != c.Claim.Token {
			t.Errorf("the live claim is %+v, not that of %+v", p.Claim, c)
		}
	})
}

// ackCase is a proc with a claim that is about to time out.
type ackCase struct {
	t             *testing.T
	conn          *pgx.Conn
	url           string
	first, second *replica
	token         string
}

func newAckCase(t *testing.T, conn *pgx.Conn, first, second *replica) *ackCase {
	c := &ackCase{t: t, conn: conn, url: conn.Config().ConnString(), first: first, second: second}
	mustCommit(t, first.Store, logs("in", `[0]`, `[1]`)...)
	mustCommit(t, first.Store, logs("out", `["before"]`)...)
	got, err := first.Claim(t.Context(), "p", api.ClaimRequest{ProcOptions: api.ProcOptions{Topic: "in", ReclaimTimeout: ptr(int64(60_000))}})
	if err != nil {
		t.Fatal(err)
	}
	c.token = got.Claim.Token
	return c
}

func (c *ackCase) expire() { pgtest.MoveClock(c.t, c.url, "default", 2*time.Minute) }

func (c *ackCase) ack(r *replica) <-chan answer[api.Acked] {
	return async(func() (api.Acked, error) {
		return r.Ack(context.Background(), "p", api.AckRequest{Token: c.token, Logs: logs("out", `["acked"]`)})
	})
}

func (c *ackCase) claim(r *replica) <-chan answer[*api.Claimed] {
	return async(func() (*api.Claimed, error) { return r.Claim(context.Background(), "p", api.ClaimRequest{}) })
}

// applied says whether the ack was, by all that can be seen.
func (c *ackCase) applied(want bool, reclaims int) {
	c.t.Helper()
	output, acked := []string{`["before"]`}, ""
	if want {
		output, acked = append(output, `["acked"]`), "0"
	}
	if diff := cmp.Diff(output, bodies(c.t, c.second.Store, "out")); diff != "" {
		c.t.Error(diff)
	}
	p := procOf(c.t, c.second.Store, "p")
	if got := p.LastAckedRange.String() != ""; got != want || p.Reclaims != reclaims {
		c.t.Errorf("acked %q (want %q), %d reclaims", p.LastAckedRange, acked, p.Reclaims)
	}
}

// An ack meets the time-out of its claim: one of the two is applied, the other one finds it so.
func TestAckAtATimeout(t *testing.T) {
	t.Parallel()
	t.Run("the sweep is first", func(t *testing.T) {
		inBothOrders(t, func(t *testing.T, conn *pgx.Conn, first, second *replica) {
			c := newAckCase(t, conn, first, second)
			c.expire()
			h := second.hold("^commit$")
			sweep := async(func() (struct{}, error) { return struct{}{}, second.Sweep(context.Background()) })
			h.wait(t)
			ack := c.ack(first)
			waits(t, conn, first, second.backends)
			wantOpen(t, "the ack", ack)
			h.release()
			_, err := receive(t, ack)
			wantCode(t, err, api.CodeClaimLost)
			mustReceive(t, sweep)
			c.applied(false, 1)
		})
	})
	t.Run("another claim is first", func(t *testing.T) {
		inBothOrders(t, func(t *testing.T, conn *pgx.Conn, first, second *replica) {
			c := newAckCase(t, conn, first, second)
			c.expire()
			h := second.hold("^COMMIT$")
			claim := c.claim(second)
			h.wait(t)
			ack := c.ack(first)
			waits(t, conn, first, second.backends)
			h.release()
			_, err := receive(t, ack)
			wantCode(t, err, api.CodeClaimLost)
			got := mustReceive(t, claim)
			if got == nil || got.Claim.Attempt != 2 || string(got.Logs[0].Body) != `[0]` || got.Claim.Token == c.token {
				t.Errorf("the claim got %+v", got)
			}
			c.applied(false, 1)
		})
	})
	t.Run("the ack is first, then a sweep", func(t *testing.T) {
		inBothOrders(t, func(t *testing.T, conn *pgx.Conn, first, second *replica) {
			c := newAckCase(t, conn, first, second)
			h := first.hold("^COMMIT$")
			ack := c.ack(first)
			h.wait(t) // it came in time
			c.expire()
			if err := second.Sweep(t.Context()); err != nil { // passes over it
				t.Fatal(err)
			}
			wantOpen(t, "the ack", ack)
			h.release()
			mustReceive(t, ack)
			if err := second.Sweep(t.Context()); err != nil {
				t.Fatal(err)
			}
			c.applied(true, 0)
		})
	})
	t.Run("the ack is first, then another claim", func(t *testing.T) {
		inBothOrders(t, func(t *testing.T, conn *pgx.Conn, first, second *replica) {
			c := newAckCase(t, conn, first, second)
			h := first.hold("^COMMIT$")
			ack := c.ack(first)
			h.wait(t)
			c.expire()
			claim := c.claim(second)
			waits(t, conn, second, first.backends)
			wantOpen(t, "the claim", claim)
			h.release()
			mustReceive(t, ack)
			if got := mustReceive(t, claim); got == nil || got.Claim.Attempt != 1 || string(got.Logs[0].Body) != `[1]` {
				t.Errorf("the claim got %+v", got)
			}
			c.applied(true, 0)
		})
	})
}

// ackCommit and commit write to the same topics, named in opposite orders: whoever is first is first everywhere, and of an
// ackCommit nothing is seen before all of it is.
func TestAckCommitBesideACommit(t *testing.T) {
	t.Parallel()
	setUp := func(t *testing.T, r *replica) string {
		mustCommit(t, r.Store, append(logs("in", `[0]`), append(logs("low", `[0]`), logs("high", `[0]`)...)...)...)
		return claimed(t, r.Store, "p", "in").Claim.Token
	}
	ackCommit := func(r *replica, token string) <-chan answer[api.Acked] {
		return async(func() (api.Acked, error) {
			return r.Ack(context.Background(), "p", api.AckRequest{Token: token,
				Logs: append(logs("high", `["acked"]`), logs("low", `["acked"]`, `["too"]`)...)})
		})
	}
	commit := func(r *replica) <-chan answer[api.Committed] {
		return async(func() (api.Committed, error) {
			return r.Commit(context.Background(), append(logs("low", `["plain"]`), logs("high", `["plain"]`)...), nil)
		})
	}
	holds := func(t *testing.T, r *replica, topic string, want ...string) {
		t.Helper()
		if diff := cmp.Diff(want, bodies(t, r.Store, topic)); diff != "" {
			t.Errorf("%s: %s", topic, diff)
		}
	}
	t.Run("the ackCommit is first", func(t *testing.T) {
		inBothOrders(t, func(t *testing.T, conn *pgx.Conn, first, second *replica) {
			token := setUp(t, first)
			h := first.hold(`INSERT INTO "pipeproc_default".lanes`)
			acked := ackCommit(first, token)
			h.wait(t)
			plain := commit(second)
			waits(t, conn, second, first.backends)
			holds(t, second, "low", `[0]`)
			holds(t, second, "high", `[0]`)
			if p := procOf(t, second.Store, "p"); p.Claim == nil || p.LastAckedRange.String() != "" {
				t.Errorf("the ack is seen before its COMMIT: %+v", p)
			}
			h.release()
			a, b := mustReceive(t, acked), mustReceive(t, plain)
			if a.IDs[0].TS != a.IDs[2].TS || b.IDs[0].TS < a.IDs[0].TS {
				t.Error("timestamps:", a.IDs, b.IDs)
			}
			holds(t, second, "low", `[0]`, `["acked"]`, `["too"]`, `["plain"]`)
			holds(t, second, "high", `[0]`, `["acked"]`, `["plain"]`)
			if p := procOf(t, second.Store, "p"); p.Claim != nil || p.Lag != 0 {
				t.Errorf("the proc is %+v", p)
			}
		})
	})
	t.Run("the commit is first", func(t *testing.T) {
		inBothOrders(t, func(t *testing.T, conn *pgx.Conn, first, second *replica) {
			token := setUp(t, first)
			h := first.hold(`INSERT INTO "pipeproc_default".lanes`)
			plain := commit(first)
			h.wait(t)
			acked := ackCommit(second, token)
			waits(t, conn, second, first.backends)
			wantOpen(t, "the ackCommit", acked)
			if p := procOf(t, second.Store, "p"); p.Claim == nil || p.Claim.Token != token {
				t.Errorf("the ack is seen before its COMMIT: %+v", p)
			}
			h.release()
			a, b := mustReceive(t, acked), mustReceive(t, plain)
			if a.IDs[0].TS != a.IDs[2].TS || a.IDs[0].TS < b.IDs[0].TS {
				t.Error("timestamps:", a.IDs, b.IDs)
			}
			holds(t, second, "low", `[0]`, `["plain"]`, `["acked"]`, `["too"]`)
			holds(t, second, "high", `[0]`, `["plain"]`, `["acked"]`)
		})
	})
}

// A commit with an Idempotency-Key that is delivered twice at once, to two servers: the second one waits for the COMMIT of
// the first and answers the same; where that COMMIT never comes it is the first itself, and the other one finds it so.
func TestCommitDeliveredTwice(t *testing.T) {
	t.Parallel()
	commit := func(r *replica) <-chan answer[api.Committed] {
		return async(func() (api.Committed, error) {
			return r.Commit(context.Background(), append(logs("t", `[1]`), logs("u", `[1]`)...), key("k", "", 1))
		})
	}
	for _, lost := range []bool{false, true} {
		t.Run(fmt.Sprintf("the first COMMIT is lost: %v", lost), func(t *testing.T) {
			inBothOrders(t, func(t *testing.T, conn *pgx.Conn, first, second *replica) {
				mustCommit(t, first.Store, append(logs("t", `[0]`), logs("u", `[0]`)...)...)
				h := first.hold("^COMMIT$")
				one := commit(first)
				h.wait(t)
				two := commit(second)
				waits(t, conn, second, first.backends)
				wantOpen(t, "the second delivery", two)
				if lost {
					first.cut()
				}
				h.release()
				a, b := mustReceive(t, one), mustReceive(t, two)
				if a.Duplicate != lost || b.Duplicate == lost {
					t.Errorf("duplicates: the first %v, the second %v", a.Duplicate, b.Duplicate)
				}
				if diff := cmp.Diff(a.IDs, b.IDs); diff != "" {
					t.Error(diff)
				}
				for _, topic := range []string{"t", "u"} {
					if diff := cmp.Diff([]string{`[0]`, `[1]`}, bodies(t, second.Store, topic)); diff != "" {
						t.Error(diff)
					}
				}
			})
		})
	}
}

// An ackCommit that is delivered twice at once, to two servers, is applied once, and both are told the same; so is one that
// comes late, until the next ack is applied: then it changes nothing.
func TestAckDeliveredTwice(t *testing.T) {
	t.Parallel()
	for _, lost := range []bool{false, true} {
		t.Run(fmt.Sprintf("the first COMMIT is lost: %v", lost), func(t *testing.T) {
			inBothOrders(t, func(t *testing.T, conn *pgx.Conn, first, second *replica) {
				mustCommit(t, first.Store, logs("in", `[0]`, `[1]`, `[2]`)...)
				token := claimed(t, first.Store, "p", "in").Claim.Token
				ack := func(r *replica) <-chan answer[api.Acked] {
					return async(func() (api.Acked, error) {
						return r.Ack(context.Background(), "p", api.AckRequest{Token: token, ClaimNext: true, Logs: logs("out", `["of 0"]`)})
					})
				}
				same := func(a, b api.Acked) {
					t.Helper()
					if diff := cmp.Diff(fmt.Sprint(a.Acked, a.IDs, *a.Next), fmt.Sprint(b.Acked, b.IDs, *b.Next)); diff != "" {
						t.Error("a repeat is answered otherwise:", diff)
					}
					if diff := cmp.Diff([]string{`["of 0"]`}, bodies(t, second.Store, "out")); diff != "" {
						t.Error(diff)
					}
				}
				h := first.hold("^COMMIT$")
				one := ack(first)
				h.wait(t)
				two := ack(second)
				waits(t, conn, second, first.backends)
				wantOpen(t, "the second delivery", two)
				if lost {
					first.cut()
				}
				h.release()
				a, b := mustReceive(t, one), mustReceive(t, two)
				same(a, b)
				same(a, mustReceive(t, ack(first))) // and later
				ackOne(t, second.Store, "p", a.Next.Claim.Token)
				_, err := receive(t, ack(first))
				wantCode(t, err, api.CodeClaimLost)
				if p := procOf(t, second.Store, "p"); p.Claim != nil || p.Lag != 1 {
					t.Errorf("the proc is %+v", p)
				}
			})
		})
	}
}
