package pgstore_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"pipeproc/api"
	"pipeproc/pgstore"
	"pipeproc/pgstore/pgtest"
)

// readRun reads the first logs of a run, and answers their seqs.
func readRun(tb testing.TB, s *pgstore.Store, run api.Run, size int) (seqs []int64, err error) {
	tb.Helper()
	err = s.ReadRun(tb.Context(), run, size, func(id api.ID, _ []byte) { seqs = append(seqs, id.Seq) })
	return seqs, err
}

func mustResolve(tb testing.TB, s *pgstore.Store, topic string, q api.RangeQuery) api.Run {
	tb.Helper()
	run, err := s.Resolve(tb.Context(), topic, q)
	if err != nil {
		tb.Fatal(err)
	}
	return run
}

func TestReadRunEndsAtItsSize(t *testing.T) {
	t.Parallel()
	s, _ := openWith(t, pgstore.Config{URL: pgtest.Database(t)})
	body := func(n int) string { return `["` + strings.Repeat("x", n-4) + `"]` }
	mustCommit(t, s, logs("t", body(100), body(200), body(300), body(50_000), body(5))...)
	for _, reverse := range []bool{false, true} {
		run := mustResolve(t, s, "t", api.RangeQuery{Reverse: reverse})
		for size, want := range map[int]string{
			1: "[0] [4]", 100: "[0] [4 3]", 101: "[0 1] [4 3]", 300: "[0 1] [4 3]", 301: "[0 1 2] [4 3]", 600: "[0 1 2] [4 3]", 601: "[0 1 2 3] [4 3]",
			50_005: "[0 1 2 3] [4 3]", 50_505: "[0 1 2 3] [4 3 2 1]", 1 << 20: "[0 1 2 3 4] [4 3 2 1 0]",
		} {
			got, err := readRun(t, s, run, size)
			if err != nil {
				t.Fatal(err)
			}
			forward, backward, _ := strings.Cut(want, "] [")
			want := map[bool]string{false: forward + "]", true: "[" + backward}[reverse]
			if fmt.Sprint(got) != want {
				t.Errorf("size %d, reverse %t: %v, want %s", size, reverse, got, want)
			}
		}
		if got, err := readRun(t, s, run.First(2), 1<<20); err != nil || len(got) != 2 {
			t.Errorf("two of them: %v %v", got, err)
		}
	}
	if run := mustResolve(t, s, "t", api.RangeQuery{Limit: 1 << 40}); run.Len() != 5 {
		t.Errorf("%+v", run)
	}
}

// What GC gave up cannot be read, also while its rows are still there; nor can a topic that is deleted, whatever has its
// name now.
func TestReadRunOfWhatIsGone(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	s, _ := openWith(t, pgstore.Config{URL: url})
	conn := outsider(t, url)
	ids := mustCommit(t, s, many("t", 10)...)
	forward, reverse := mustResolve(t, s, "t", api.RangeQuery{}), mustResolve(t, s, "t", api.RangeQuery{Reverse: true})
	gone := func(run api.Run, firstID *api.ID) {
		t.Helper()
		got, err := readRun(t, s, run, 1)
		if len(got) > 0 {
			t.Errorf("%v can be read", got)
		}
		wantCode(t, err, api.CodeCollected)
		if diff := cmp.Diff(firstID, err.(*api.Error).FirstID); diff != "" {
			t.Error(diff)
		}
	}
	mustExec(t, conn, "UPDATE pipeproc_default.topics SET first = 4")
	gone(forward, &ids[4])
	gone(reverse, &ids[4]) // it cannot be read to its end
	if got, err := readRun(t, s, forward.After(3), 3); err != nil || fmt.Sprint(got) != "[4 5]" {
		t.Error(got, err)
	}
	if got, err := readRun(t, s, reverse.First(6), 3); err != nil || fmt.Sprint(got) != "[9 8]" {
		t.Error(got, err)
	}
	mustExec(t, conn, "UPDATE pipeproc_default.topics SET first = 10")
	gone(forward.After(8), nil)

	if err := s.DeleteTopic(t.Context(), "t", false); err != nil {
		t.Fatal(err)
	}
	mustCommit(t, s, many("t", 10)...)
	for _, run := range []api.Run{forward, reverse} {
		got, err := readRun(t, s, run, 1)
		if len(got) > 0 {
			t.Errorf("%v of a deleted topic can be read", got)
		}
		wantCode(t, err, api.CodeInvalidTopic)
	}
}

// Connections that were cut while they were idle are not the reader's fault; and a reader holds none between its reads.
func TestReadRunConnections(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	s, _ := openWith(t, pgstore.Config{URL: url, Connections: 1})
	conn := outsider(t, url)
	mustCommit(t, s, many("t", 10)...)
	run := mustResolve(t, s, "t", api.RangeQuery{})
	for run.Len() > 0 {
		mustExec(t, conn, `SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = current_database()
			AND application_name = 'pipeproc default'`)
		got, err := readRun(t, s, run, 1)
		if err != nil {
			t.Fatal(err)
		}
		run = run.After(got[len(got)-1])
		if _, err := s.Topic(t.Context(), "t"); err != nil {
			t.Fatal(err)
		}
	}
}
