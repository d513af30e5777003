package pgstore_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"

	"pipeproc/api"
	"pipeproc/pgstore"
	"pipeproc/pgstore/pgtest"
)

func key(name, apiKey string, body byte) *api.IdempotencyKey {
	return &api.IdempotencyKey{Key: name, APIKey: apiKey, Hash: [32]byte{body}}
}

func TestIdempotencyKeys(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	a, _ := openWith(t, pgstore.Config{URL: url})
	b, _ := openWith(t, pgstore.Config{URL: url})
	conn := outsider(t, url)
	ctx := t.Context()
	repeat := func(t *testing.T, s *pgstore.Store, list []api.NewLog, k *api.IdempotencyKey, want api.Committed) {
		t.Helper()
		got, err := s.Commit(ctx, list, k)
		if err != nil {
			t.Fatal(err)
		}
		want.Duplicate = true
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	}

	t.Run("in one batch", func(t *testing.T) {
		st := stall(t, a)
		list := append(logs("one", `[1]`), logs("other", `[1]`)...)
		commit := func(k *api.IdempotencyKey) <-chan answer[api.Committed] {
			return gather(st, func() (api.Committed, error) { return a.Commit(ctx, list, k) })
		}
		first, again, other, stranger := commit(key("k", "", 1)), commit(key("k", "", 1)), commit(key("k", "", 2)), commit(key("k", "s", 2))
		st.release()
		want, err := receive(t, first)
		if err != nil || want.Duplicate {
			t.Fatal(want, err)
		}
		got, err := receive(t, again)
		if err != nil || !got.Duplicate {
			t.Error(got, err)
		}
		if diff := cmp.Diff(want.IDs, got.IDs); diff != "" {
			t.Error(diff)
		}
		_, err = receive(t, other)
		wantCode(t, err, api.CodeKeyReused)
		if got, err := receive(t, stranger); err != nil || got.Duplicate {
			t.Error("another API key's:", got, err)
		}
		if n := len(bodies(t, a, "one")); n != 2 {
			t.Errorf("%d logs", n)
		}
		repeat(t, a, list, key("k", "", 1), want)
		repeat(t, b, list, key("k", "", 1), want)
		_, err = b.Commit(ctx, list, key("k", "", 2))
		wantCode(t, err, api.CodeKeyReused)
	})

	t.Run("at once on two servers", func(t *testing.T) {
		for i := range 10 {
			k := key(fmt.Sprint("race", i), "", 1)
			var g errgroup.Group
			answers := make([]api.Committed, 8)
			for j := range answers {
				s := []*pgstore.Store{a, b}[j%2]
				g.Go(func() (err error) {
					answers[j], err = s.Commit(ctx, logs("race", `[1]`), k)
					return err
				})
			}
			if err := g.Wait(); err != nil {
				t.Fatal(err)
			}
			fresh := 0
			for _, got := range answers {
				if !got.Duplicate {
					fresh++
				}
				if diff := cmp.Diff([]api.ID{answers[0].IDs[0]}, got.IDs); diff != "" {
					t.Error(diff)
				}
			}
			if fresh != 1 {
				t.Errorf("%d of 8 were the first", fresh)
			}
		}
		if n := len(bodies(t, a, "race")); n != 10 {
			t.Errorf("%d logs for 10 keys", n)
		}
	})

	t.Run("for 24 hours", func(t *testing.T) {
		want, err := a.Commit(ctx, logs("day", `[1]`), key("day", "", 1))
		if err != nil {
			t.Fatal(err)
		}
		pgtest.MoveClock(t, url, "default", 24*time.Hour-time.Minute)
		if err := a.Sweep(ctx); err != nil {
			t.Fatal(err)
		}
		repeat(t, b, logs("day", `[1]`), key("day", "", 1), want)
		pgtest.MoveClock(t, url, "default", 24*time.Hour+time.Minute)
		again, err := b.Commit(ctx, logs("day", `[2]`), key("day", "", 2))
		if err != nil || again.Duplicate || again.IDs[0].Seq != 1 {
			t.Fatal("a day later:", again, err)
		}
		repeat(t, a, logs("day", `[2]`), key("day", "", 2), again)
		if err := a.Sweep(ctx); err != nil {
			t.Fatal(err)
		}
		if n := queryOne[int](t, conn, "SELECT count(*) FROM pipeproc_default.idempotency_keys"); n != 1 {
			t.Errorf("%d keys are kept, not the one of today", n)
		}
		repeat(t, a, logs("day", `[2]`), key("day", "", 2), again)
	})

	t.Run("swept away while a commit waits for it", func(t *testing.T) {
		mustExec(t, conn, "BEGIN")
		mustExec(t, conn, "SELECT FROM pipeproc_default.idempotency_keys WHERE key = 'day' FOR UPDATE")
		c := async(func() (api.Committed, error) { return a.Commit(ctx, logs("day", `[3]`), key("day", "", 3)) })
		until(t, "the commit waits", func() bool {
			return queryOne[int](t, conn, `SELECT count(*) FROM pg_locks WHERE NOT granted
				AND pid IN (SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE '% lane 0')`) > 0
		})
		mustExec(t, conn, "DELETE FROM pipeproc_default.idempotency_keys WHERE key = 'day'")
		mustExec(t, conn, "COMMIT")
		if got, err := receive(t, c); err != nil || got.Duplicate {
			t.Error(got, err)
		}
	})
}

// TestCommitsToSeveralTopics share a batch, also when some of the topics do not exist yet.
func TestCommitsToSeveralTopics(t *testing.T) {
	t.Parallel()
	s, _ := openWith(t, pgstore.Config{URL: pgtest.Database(t)})
	mustCommit(t, s, logs("a", `[0]`)...)
	mustCommit(t, s, logs("c", `[0]`, `[1]`)...)
	mustCommit(t, s, logs("e", `[0]`)...)
	for round := range 2 {
		st := stall(t, s)
		answers := map[string]<-chan answer[api.Committed]{}
		for _, topic := range []string{"d", "c", "b", "a", "e"} {
			answers[topic] = st.commit(logs(topic, fmt.Sprintf(`["%s",%d]`, topic, round), `[9]`))
		}
		st.release()
		for topic, c := range answers {
			got, err := receive(t, c)
			if err != nil {
				t.Fatal(err)
			}
			all := bodies(t, s, topic)
			if n := len(all); len(got.IDs) != 2 || got.IDs[0].Seq != int64(n-2) || got.IDs[1].Seq != int64(n-1) ||
				all[n-2] != fmt.Sprintf(`["%s",%d]`, topic, round) || all[n-1] != `[9]` {
				t.Errorf("%v: the topic holds %s", got, all)
			}
			if topic, err := s.Topic(t.Context(), topic); err != nil || topic.CreatedAt != topic.FirstID.TS {
				t.Errorf("%v: the topic is %+v, %v", got, topic, err)
			}
		}
	}
}

// TestCommitsLockInOrder: a batch that waits for one topic does not hold those after it.
func TestCommitsLockInOrder(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	s, _ := openWith(t, pgstore.Config{URL: url})
	for _, topic := range []string{"z", "m", "a"} { // their ids rise
		mustCommit(t, s, logs(topic, `[0]`)...)
	}
	holder, looker := outsider(t, url), outsider(t, url)
	mustExec(t, holder, "BEGIN")
	mustExec(t, holder, "SELECT FROM pipeproc_default.topics WHERE name = 'z' FOR UPDATE")
	st := stall(t, s)
	var answers []<-chan answer[api.Committed]
	for _, topic := range []string{"a", "m", "z"} {
		answers = append(answers, st.commit(logs(topic, `[1]`)))
	}
	st.release()
	until(t, "the batch waits", func() bool {
		return queryOne[bool](t, looker, `SELECT EXISTS (SELECT FROM pg_stat_activity
			WHERE datname = current_database() AND application_name LIKE '% lane 0' AND wait_event_type = 'Lock')`)
	})
	if free := queryOne[int](t, looker, `WITH free AS (SELECT name FROM pipeproc_default.topics WHERE name <> 'z' FOR UPDATE SKIP LOCKED)
		SELECT count(*) FROM free`); free != 2 {
		t.Errorf("%d of the others are free", free)
	}
	mustExec(t, holder, "COMMIT")
	for _, c := range answers {
		if got, err := receive(t, c); err != nil || got.IDs[0].Seq != 1 {
			t.Error(got, err)
		}
	}
}
