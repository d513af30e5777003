package pgstore_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"pipeproc/api"
	"pipeproc/pgstore"
)

// collectAsync runs GC of everything that no proc keeps.
func collectAsync(s *pgstore.Store) <-chan answer[api.GCRun] {
	return async(func() (api.GCRun, error) { return s.Collect(context.Background(), 0) })
}

// Whoever takes a place among a topic's logs, and GC: who is first holds the topic until its COMMIT, and the other one
// finds what it has done. So GC takes nothing that a new proc still needs, and no proc stands before the first log.
func TestGCBesideANewPlace(t *testing.T) {
	t.Parallel()
	for _, place := range []struct {
		name string
		take func(ctx context.Context, s *pgstore.Store) (proc string, err error)
	}{
		{"a proc", func(ctx context.Context, s *pgstore.Store) (string, error) {
			p, _, err := s.CreateProc(ctx, "p", api.ProcOptions{Topic: "t"})
			return p.Name, err
		}},
		{"a liveProc", func(ctx context.Context, s *pgstore.Store) (string, error) {
			p, err := s.CreateLiveProc(ctx, api.LiveProcSpec{Topic: "t", Mode: api.ModeAll})
			return p.Name, err
		}},
		{"a systemProc", func(ctx context.Context, s *pgstore.Store) (string, error) {
			_, _, err := s.CreateSystemProc(ctx, api.SystemProcSpec{Name: "sp", From: api.Names{List: []string{"t"}, Single: true},
				Processor: &api.Processor{URL: "http://127.0.0.1/"}})
			return "sp", err
		}},
		{"a seek", func(ctx context.Context, s *pgstore.Store) (string, error) {
			p, err := s.Seek(ctx, "seeker", api.Offset{})
			return p.Name, err
		}},
	} {
		t.Run(place.name, func(t *testing.T) {
			setUp := func(t *testing.T, r *replica) {
				mustCommit(t, r.Store, logs("t", `[0]`, `[1]`)...)
				if place.name == "a seek" { // of a proc that keeps nothing
					if _, _, err := r.CreateProc(t.Context(), "seeker", api.ProcOptions{Topic: "t", Offset: "$>"}); err != nil {
						t.Fatal(err)
					}
				}
			}
			t.Run("before GC", func(t *testing.T) {
				inBothOrders(t, func(t *testing.T, conn *pgx.Conn, first, second *replica) {
					setUp(t, first)
					h := first.hold("^commit$")
					taken := async(func() (string, error) { return place.take(context.Background(), first.Store) })
					h.wait(t)
					gc := collectAsync(second.Store)
					waits(t, conn, second, first.backends)
					wantOpen(t, "GC", gc)
					h.release()
					proc := mustReceive(t, taken)
					if run := mustReceive(t, gc); run.Topics[0].Collected != 0 {
						t.Errorf("GC took %d logs of a proc", run.Topics[0].Collected)
					}
					if lag := procOf(t, second.Store, proc).Lag; lag != 2 {
						t.Errorf("the proc's lag is %d", lag)
					}
					if diff := cmp.Diff([]string{`[0]`, `[1]`}, bodies(t, second.Store, "t")); diff != "" {
						t.Error(diff)
					}
				})
			})
			t.Run("after GC", func(t *testing.T) {
				inBothOrders(t, func(t *testing.T, conn *pgx.Conn, first, second *replica) {
					setUp(t, first)
					h := first.hold("^commit$")
					gc := collectAsync(first.Store)
					h.wait(t)
					taken := async(func() (string, error) { return place.take(context.Background(), second.Store) })
					waits(t, conn, second, first.backends)
					wantOpen(t, place.name, taken)
					h.release()
					if run := mustReceive(t, gc); run.Topics[0].Collected != 2 {
						t.Errorf("GC took %d logs", run.Topics[0].Collected)
					}
					proc := mustReceive(t, taken)
					if lag := procOf(t, second.Store, proc).Lag; lag != 0 {
						t.Errorf("the proc waits for %d logs that are gone", lag)
					}
				})
			})
		})
	}
}

// A page is read as of one instant: GC that comes meanwhile, rows and all, takes nothing of it.
func TestGCDuringARange(t *testing.T) {
	t.Parallel()
	inBothOrders(t, func(t *testing.T, conn *pgx.Conn, first, second *replica) {
		mustCommit(t, first.Store, logs("t", `[0]`, `[1]`, `[2]`)...)
		h := first.hold("WINDOW w AS")
		page := async(func() (api.Page, error) { return first.Range(context.Background(), "t", api.RangeQuery{Limit: 2}) })
		h.wait(t)
		mustReceive(t, collectAsync(second.Store))
		if n := queryOne[int](t, conn, "SELECT count(*) FROM pipeproc_default.logs"); n != 0 {
			t.Fatalf("GC has left %d rows", n)
		}
		h.release()
		p := mustReceive(t, page)
		if len(p.Logs) != 2 || p.Logs[0].ID.Seq != 0 || p.Logs[1].ID.Seq != 1 || p.Next == nil || p.Next.Seq != 2 {
			t.Fatalf("the page is %+v", p)
		}
		_, err := first.Range(t.Context(), "t", api.RangeQuery{Limit: 2, Start: api.Bound{Form: api.BoundID, ID: *p.Next}})
		wantCode(t, err, api.CodeCollected) // told, and no hole
	})
}

// A run of logs is read page by page, without a transaction: what GC has taken meanwhile is told, also where it took a part
// of the page alone, and before its rows are removed.
func TestGCBetweenPages(t *testing.T) {
	t.Parallel()
	inBothOrders(t, func(t *testing.T, conn *pgx.Conn, first, second *replica) {
		ctx := t.Context()
		mustCommit(t, first.Store, logs("t", `[0]`, `[1]`, `[2]`, `[3]`)...)
		run, err := first.Resolve(ctx, "t", api.RangeQuery{})
		if err != nil {
			t.Fatal(err)
		}
		read := func(r *replica) (list []int64, err error) {
			err = r.ReadRun(ctx, run, api.MaxPageBytes, func(id api.ID, _ []byte) { list = append(list, id.Seq) })
			return list, err
		}
		if _, _, err := first.CreateProc(ctx, "p", api.ProcOptions{Topic: "t", Offset: ":1"}); err != nil { // keeps 2 and 3
			t.Fatal(err)
		}
		h := second.hold(`DELETE FROM "pipeproc_default".logs`)
		gc := collectAsync(second.Store) // in two steps: it gives the logs up, then removes their rows
		h.wait(t)
		for _, step := range []string{"given up", "removed"} {
			list, err := read(first)
			wantCode(t, err, api.CodeCollected)
			if len(list) > 0 {
				t.Errorf("%s: %v were read of a run that has lost its begin", step, list)
			}
			_, err = first.Range(ctx, "t", api.RangeQuery{Limit: 4, Start: api.Bound{Form: api.BoundSeq, ID: api.ID{Seq: 1}}})
			wantCode(t, err, api.CodeCollected)
			page, err := first.Range(ctx, "t", api.RangeQuery{Limit: 4})
			if err != nil || fmt.Sprint(len(page.Logs), page.Logs[0].ID.Seq) != "2 2" {
				t.Errorf("%s: what is left is %+v, %v", step, page.Logs, err)
			}
			if step == "given up" {
				if n := queryOne[int](t, conn, "SELECT count(*) FROM pipeproc_default.logs"); n != 4 {
					t.Fatalf("%d rows are there", n)
				}
				h.release()
				mustReceive(t, gc)
			}
		}
	})
}

// GC meets a commit: logs that are on their way are not taken, and those that GC has taken come back in nobody's answer.
func TestGCBesideACommit(t *testing.T) {
	t.Parallel()
	t.Run("the commit is first", func(t *testing.T) {
		inBothOrders(t, func(t *testing.T, conn *pgx.Conn, first, second *replica) {
			mustCommit(t, first.Store, logs("t", `[0]`)...)
			h := first.hold("^COMMIT$")
			c := commitAsync(t, first.Store, logs("t", `[1]`))
			h.wait(t)
			gc := collectAsync(second.Store)
			waits(t, conn, second, first.backends)
			h.release()
			id := mustReceive(t, c).IDs[0]
			if run := mustReceive(t, gc); id.Seq != 1 || run.Topics[0].Collected != 2 || run.Topics[0].FirstID != nil {
				t.Errorf("the commit got %v, GC %+v", id, run.Topics)
			}
		})
	})
	t.Run("GC is first", func(t *testing.T) {
		inBothOrders(t, func(t *testing.T, conn *pgx.Conn, first, second *replica) {
			mustCommit(t, first.Store, logs("t", `[0]`)...)
			h := first.hold("^commit$")
			gc := collectAsync(first.Store)
			h.wait(t)
			c := commitAsync(t, second.Store, logs("t", `[1]`))
			waits(t, conn, second, first.backends)
			h.release()
			mustReceive(t, gc)
			if id := mustReceive(t, c).IDs[0]; id.Seq != 1 {
				t.Errorf("the commit got %v", id)
			}
			topic, err := first.Topic(t.Context(), "t")
			if err != nil || topic.Length != 1 || topic.FirstID.Seq != 1 {
				t.Errorf("the topic is %+v, %v", topic, err)
			}
		})
	})
}
