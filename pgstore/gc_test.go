package pgstore_test

import (
	"context"
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"

	"pipeproc/api"
	"pipeproc/pgstore"
	"pipeproc/pgstore/pgtest"
)

// collected runs GC and answers what it took of each topic.
func collected(tb testing.TB, s *pgstore.Store, minPruneTime int64) map[string]int64 {
	tb.Helper()
	run, err := s.Collect(tb.Context(), minPruneTime)
	if err != nil {
		tb.Fatal(err)
	}
	took := map[string]int64{}
	for _, c := range run.Topics {
		took[c.Topic] = c.Collected
	}
	return took
}

func wantCollected(tb testing.TB, s *pgstore.Store, want map[string]int64) {
	tb.Helper()
	if diff := cmp.Diff(want, collected(tb, s, 0)); diff != "" {
		tb.Error("GC took otherwise (-want +got):", diff)
	}
}

func ackOne(tb testing.TB, s *pgstore.Store, proc, token string) {
	tb.Helper()
	if _, err := s.Ack(tb.Context(), proc, api.AckRequest{Token: token}); err != nil {
		tb.Fatal(err)
	}
}

func TestCollectWithoutProcs(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	s, _ := openWith(t, pgstore.Config{URL: url})
	conn := outsider(t, url)
	ctx := t.Context()
	if run, err := s.LastCollect(ctx); err != nil || run.FinishedAt != nil || run.Topics == nil {
		t.Errorf("before the first run: %+v, %v", run, err)
	}
	pgtest.SetClock(t, url, "default", 1_000_000)
	mustCommit(t, s, logs("t", `[0]`, `[1]`)...)
	pgtest.SetClock(t, url, "default", 1_000_500)
	mustCommit(t, s, logs("t", `[2]`)...)
	pgtest.SetClock(t, url, "default", 1_001_000)

	for _, step := range []struct{ minPruneTime, took int64 }{
		{math.MaxInt64, 0}, {30_000, 0}, {1_001, 0}, {501, 2}, {501, 0},
	} {
		if took := collected(t, s, step.minPruneTime)["t"]; took != step.took {
			t.Errorf("minPruneTime %d took %d, not %d", step.minPruneTime, took, step.took)
		}
	}
	topic, err := s.Topic(ctx, "t")
	if err != nil {
		t.Fatal(err)
	}
	want := api.Topic{Name: "t", Length: 1, Committed: 3, FirstID: &api.ID{TS: 1_000_500, Seq: 2}, LastID: &api.ID{TS: 1_000_500, Seq: 2}, CreatedAt: 1_000_000}
	if diff := cmp.Diff(want, topic); diff != "" {
		t.Error(diff)
	}
	if took := collected(t, s, 0)["t"]; took != 1 {
		t.Errorf("without a minPruneTime it took %d", took)
	}
	run, err := s.LastCollect(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(api.GCRun{FinishedAt: ptr(int64(1_001_000)), Topics: []api.Collected{{Topic: "t", Collected: 1}}}, run); diff != "" {
		t.Error(diff)
	}
	if n := queryOne[int](t, conn, "SELECT count(*) FROM pipeproc_default.logs"); n != 0 {
		t.Errorf("%d rows are left", n)
	}
	if ids := mustCommit(t, s, logs("t", `[3]`)...); ids[0].Seq != 3 {
		t.Error("the next log is", ids[0])
	}
	_, err = s.Log(ctx, "t", api.Bound{Form: api.BoundSeq, ID: api.ID{Seq: 2}})
	wantCode(t, err, api.CodeCollected)
}

func TestCollectKeepsWhatProcsNeed(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	s, _ := openWith(t, pgstore.Config{URL: url})
	conn := outsider(t, url)
	ctx := t.Context()

	t.Run("never claimed", func(t *testing.T) {
		mustCommit(t, s, logs("never", `[0]`, `[1]`, `[2]`)...)
		if _, _, err := s.CreateProc(ctx, "never", api.ProcOptions{Topic: "never", Offset: ":0"}); err != nil {
			t.Fatal(err)
		}
		wantCollected(t, s, map[string]int64{"never": 1})
		if c, err := s.Claim(ctx, "never", api.ClaimRequest{}); err != nil || string(c.Logs[0].Body) != `[1]` {
			t.Error(c, err)
		}
		if err := s.DeleteTopic(ctx, "never", true); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("the previous range and what is not acked", func(t *testing.T) {
		mustCommit(t, s, logs("range", `[0]`, `[1]`, `[2]`, `[3]`)...)
		c := claimed(t, s, "range", "range") // 0
		wantCollected(t, s, map[string]int64{"range": 0})
		ackOne(t, s, "range", c.Claim.Token)
		wantCollected(t, s, map[string]int64{"range": 1})
		c = claimed(t, s, "range", "range") // 1
		wantCollected(t, s, map[string]int64{"range": 0})
		ackOne(t, s, "range", c.Claim.Token)
		c = claimed(t, s, "range", "range") // 2, previous 1
		ackOne(t, s, "range", c.Claim.Token)
		wantCollected(t, s, map[string]int64{"range": 0}) // 1 is the previous range still
		c = claimed(t, s, "range", "range")               // 3, previous 2
		wantCollected(t, s, map[string]int64{"range": 1})
		if _, err := s.Reclaim(ctx, "range", c.Claim.Token); err != nil {
			t.Fatal(err)
		}
		wantCollected(t, s, map[string]int64{"range": 0})
		c = claimed(t, s, "range", "range")
		if string(c.Logs[0].Body) != `[3]` {
			t.Error("claimed again:", c.Logs)
		}
		if err := s.DeleteTopic(ctx, "range", true); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("disabled, and the slowest of several", func(t *testing.T) {
		mustCommit(t, s, logs("slow", `[0]`, `[1]`, `[2]`)...)
		createProc(t, s, "disabled", "slow")
		if _, err := s.DisableProc(ctx, "disabled"); err != nil {
			t.Fatal(err)
		}
		if _, _, err := s.CreateProc(ctx, "latest", api.ProcOptions{Topic: "slow", Offset: "$>"}); err != nil {
			t.Fatal(err)
		}
		wantCollected(t, s, map[string]int64{"slow": 0})
		if _, err := s.DestroyProc(ctx, "disabled"); err != nil {
			t.Fatal(err)
		}
		mustCommit(t, s, logs("slow", `[3]`)...)
		wantCollected(t, s, map[string]int64{"slow": 3})
		if c, err := s.Claim(ctx, "latest", api.ClaimRequest{}); err != nil || string(c.Logs[0].Body) != `[3]` {
			t.Error(c, err)
		}
		if err := s.DeleteTopic(ctx, "slow", true); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("an expired liveProc does not", func(t *testing.T) {
		mustCommit(t, s, logs("live", `[0]`)...)
		if _, err := s.CreateLiveProc(ctx, api.LiveProcSpec{Topic: "live", Mode: api.ModeAll, TTL: ptr(int64(60_000))}); err != nil {
			t.Fatal(err)
		}
		wantCollected(t, s, map[string]int64{"live": 0})
		pgtest.MoveClock(t, url, "default", time.Hour)
		wantCollected(t, s, map[string]int64{"live": 1})
		if err := s.Sweep(ctx); err != nil {
			t.Fatal(err)
		}
		if n := queryOne[int](t, conn, "SELECT count(*) FROM pipeproc_default.procs WHERE kind = 'live'"); n != 0 {
			t.Errorf("%d liveProcs are left", n)
		}
		if err := s.DeleteTopic(ctx, "live", false); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("a liveProc whose life is being prolonged does", func(t *testing.T) {
		mustCommit(t, s, logs("live", `[0]`)...)
		p, err := s.CreateLiveProc(ctx, api.LiveProcSpec{Topic: "live", Mode: api.ModeAll, TTL: ptr(int64(60_000))})
		if err != nil {
			t.Fatal(err)
		}
		mustExec(t, conn, "BEGIN") // an ack that came in time, on its way
		mustExec(t, conn, "UPDATE pipeproc_default.procs SET expires_at = expires_at + 100 * 3600 * 1000 WHERE name = $1", p.Name)
		pgtest.MoveClock(t, url, "default", 2*time.Hour)
		wantCollected(t, s, map[string]int64{"live": 0})
		mustExec(t, conn, "COMMIT")
		if _, _, ok, err := s.OpenStream(ctx, p.Name, 0); err != nil || !ok {
			t.Error("the liveProc is gone:", ok, err)
		}
		wantCollected(t, s, map[string]int64{"live": 0})
		if err := s.DeleteTopic(ctx, "live", true); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("a resumed liveProc streams, whatever is left of its cancellation", func(t *testing.T) {
		p, err := s.CreateLiveProc(ctx, api.LiveProcSpec{Topic: "cancelled", Mode: api.ModeAll})
		if err != nil {
			t.Fatal(err)
		}
		if _, _, ok, err := s.OpenStream(ctx, p.Name, 0); err != nil || !ok {
			t.Fatal("no stream:", ok, err)
		}
		if _, err := s.CancelLiveProc(ctx, p.Name); err != nil {
			t.Fatal(err)
		}
		if _, _, ok, err := s.OpenStream(ctx, p.Name, 1); err != nil || ok {
			t.Error("a cancelled liveProc streams:", ok, err)
		}
		mustExec(t, conn, "UPDATE pipeproc_default.procs SET status = 'active' WHERE name = $1", p.Name) // half of a resume
		stream, _, ok, err := s.OpenStream(ctx, p.Name, 1)
		if err != nil || !ok {
			t.Fatal("no stream:", ok, err)
		}
		if turn, err := s.Turn(ctx, stream, ""); err != nil || turn.End != "" {
			t.Error(turn, err)
		}
		if _, err := s.DestroyLiveProc(ctx, p.Name); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("the name of an expired liveProc is refused until it is swept", func(t *testing.T) {
		mustCommit(t, s, logs("live", `[0]`)...)
		p, err := s.CreateLiveProc(ctx, api.LiveProcSpec{Topic: "live", Mode: api.ModeAll, TTL: ptr(int64(60_000))})
		if err != nil {
			t.Fatal(err)
		}
		pgtest.MoveClock(t, url, "default", 3*time.Hour)
		_, _, err = s.CreateProc(ctx, p.Name, api.ProcOptions{Topic: "live"})
		wantCode(t, err, api.CodeProcIsManaged)
		_, err = s.Claim(ctx, p.Name, api.ClaimRequest{ProcOptions: api.ProcOptions{Topic: "live"}})
		wantCode(t, err, api.CodeProcIsManaged)
		if err := s.DeleteTopic(ctx, "live", false); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("a reserved topic stays while it has one", func(t *testing.T) {
		createProc(t, s, "reserved", "reserved")
		mustExec(t, conn, "INSERT INTO pipeproc_default.topics (name) VALUES ('forgotten')")
		if err := s.Sweep(ctx); err != nil {
			t.Fatal(err)
		}
		wantCollected(t, s, map[string]int64{})
		if n := queryOne[int](t, conn, "SELECT count(*) FROM pipeproc_default.topics WHERE name = 'forgotten'"); n != 0 {
			t.Error("a reserved topic without procs is left")
		}
		_, err := s.Topic(ctx, "reserved")
		wantCode(t, err, api.CodeInvalidTopic)
		if _, err := s.Proc(ctx, "reserved"); err != nil {
			t.Error(err)
		}
		if _, err := s.DestroyProc(ctx, "reserved"); err != nil {
			t.Fatal(err)
		}
		if n := queryOne[int](t, conn, "SELECT count(*) FROM pipeproc_default.topics"); n != 0 {
			t.Errorf("%d topics are left", n)
		}
	})
}

// removeBatch is how many logs one transaction removes.
const removeBatch = 10_000

func many(topic string, n int) (list []api.NewLog) {
	for len(list) < n {
		list = append(list, logs(topic, `[]`)...)
	}
	return list
}

// PostgreSQL's statistics know nothing yet of a topic that is deleted, or of keys that are too old. Their rows are removed all
// the same, each batch in one pass.
func TestRemovalsBeforeStatistics(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	s, _ := openWith(t, pgstore.Config{URL: url})
	conn := outsider(t, url)
	ctx := t.Context()
	mustCommit(t, s, many("old", 100)...)
	if _, err := s.Commit(ctx, logs("old", `[]`), key("k", "", 0)); err != nil {
		t.Fatal(err)
	}
	mustExec(t, conn, "ANALYZE pipeproc_default.logs, pipeproc_default.idempotency_keys")
	for range 2 {
		mustCommit(t, s, many("t", removeBatch)...)
	}
	mustExec(t, conn, `INSERT INTO pipeproc_default.idempotency_keys
		SELECT (jsonb_populate_record(k, jsonb_build_object('key', k.key || i, 'created_at', i))).*
		FROM pipeproc_default.idempotency_keys AS k, generate_series(1, $1) AS i`, 2*removeBatch)
	if err := s.DeleteTopic(ctx, "t", true); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute) // it takes a second
	defer cancel()
	for queryOne[int](t, conn, "SELECT count(*) FROM pipeproc_default.dropped_topics") > 0 {
		if err := s.Sweep(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if n := queryOne[int](t, conn, "SELECT count(*) FROM pipeproc_default.logs"); n != 101 {
		t.Errorf("%d logs are there", n)
	}
	if n := queryOne[int](t, conn, "SELECT count(*) FROM pipeproc_default.idempotency_keys"); n != 1 {
		t.Errorf("%d keys are there", n)
	}
}

func TestDeletedTopics(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	s, _ := openWith(t, pgstore.Config{URL: url})
	conn := outsider(t, url)
	ctx := t.Context()
	wantCode(t, s.DeleteTopic(ctx, "t", false), api.CodeInvalidTopic)
	createProc(t, s, "p", "t")
	wantCode(t, s.DeleteTopic(ctx, "t", true), api.CodeInvalidTopic) // reserved
	for range 3 {
		mustCommit(t, s, many("t", removeBatch-1)...)
	}
	c := claimed(t, s, "p", "t")
	place, err := s.Place(ctx, "t", true, api.Bound{})
	if err != nil {
		t.Fatal(err)
	}
	wantCode(t, s.DeleteTopic(ctx, "t", false), api.CodeTopicInUse)
	if err := s.DeleteTopic(ctx, "t", true); err != nil {
		t.Fatal(err)
	}
	_, err = s.Ack(ctx, "p", api.AckRequest{Token: c.Claim.Token})
	wantCode(t, err, api.CodeInvalidProc)
	_, err = s.Range(ctx, "t", api.RangeQuery{Limit: 1})
	wantCode(t, err, api.CodeInvalidTopic)
	if _, _, exists, err := s.ReadFrom(ctx, place.TopicID, 0, 1, 1); err != nil || exists {
		t.Error("the old topic exists:", exists, err)
	}

	// A later topic of that name is another one, while the logs of the old one are still there.
	if n := queryOne[int](t, conn, "SELECT count(*) FROM pipeproc_default.logs"); n != 3*(removeBatch-1) {
		t.Errorf("%d rows", n)
	}
	if ids := mustCommit(t, s, logs("t", `["new"]`)...); ids[0].Seq != 0 {
		t.Error("the first log of the new topic is", ids[0])
	}
	if diff := cmp.Diff([]string{`["new"]`}, bodies(t, s, "t")); diff != "" {
		t.Error(diff)
	}
	until(t, "no deleted topic is left", func() bool { // a sweep leaves to the next one what would take it long
		if err := s.Sweep(ctx); err != nil {
			t.Fatal(err)
		}
		return queryOne[int](t, conn, "SELECT count(*) FROM pipeproc_default.dropped_topics") == 0
	})
	if n := queryOne[int](t, conn, "SELECT count(*) FROM pipeproc_default.logs"); n != 1 {
		t.Errorf("%d rows are left", n)
	}
}

// One server's removal is not taken for the end of it by another one.
func TestTwoServersRemoveADeletedTopic(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	s, _ := openWith(t, pgstore.Config{URL: url})
	conn := outsider(t, url)
	ctx := t.Context()
	for range 2 {
		mustCommit(t, s, many("t", removeBatch)...)
	}
	if err := s.DeleteTopic(ctx, "t", false); err != nil {
		t.Fatal(err)
	}
	mustExec(t, conn, "BEGIN") // another server's batch, on its way
	mustExec(t, conn, "DELETE FROM pipeproc_default.logs WHERE seq < $1", removeBatch)
	sweep := async(func() (struct{}, error) { return struct{}{}, s.Sweep(ctx) })
	other := outsider(t, url)
	var ended *answer[struct{}]
	until(t, "the sweep waits or has ended", func() bool {
		select {
		case a := <-sweep:
			ended = &a
		default:
		}
		return ended != nil || queryOne[int](t, other, `SELECT count(*) FROM pg_stat_activity
			WHERE datname = current_database() AND wait_event_type = 'Lock'`) > 0
	})
	mustExec(t, conn, "COMMIT")
	if ended == nil {
		_, err := receive(t, sweep)
		ended = &answer[struct{}]{err: err}
	}
	if ended.err != nil {
		t.Fatal(ended.err)
	}
	if err := s.Sweep(ctx); err != nil {
		t.Fatal(err)
	}
	if n := queryOne[int](t, conn, "SELECT count(*) FROM pipeproc_default.logs"); n != 0 {
		t.Errorf("%d rows are left for ever", n)
	}
	if n := queryOne[int](t, conn, "SELECT count(*) FROM pipeproc_default.dropped_topics"); n != 0 {
		t.Errorf("%d deleted topics are left", n)
	}
}

func TestTwoCollectorsAtOnce(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	a, _ := openWith(t, pgstore.Config{URL: url})
	b, _ := openWith(t, pgstore.Config{URL: url})
	conn := outsider(t, url)
	ctx := t.Context()
	const topics = 4
	for i := range topics {
		mustCommit(t, a, many(fmt.Sprint("t", i), removeBatch/2)...)
		mustCommit(t, a, many(fmt.Sprint("t", i), removeBatch)...)
		mustCommit(t, a, many(fmt.Sprint("gone", i), 100)...)
		if err := a.DeleteTopic(ctx, fmt.Sprint("gone", i), false); err != nil {
			t.Fatal(err)
		}
	}
	took := make([]int64, 4)
	var g errgroup.Group
	for i := range took {
		s := []*pgstore.Store{a, b}[i%2]
		g.Go(func() error {
			run, err := s.Collect(ctx, 0)
			for _, c := range run.Topics {
				took[i] += c.Collected
			}
			return err
		})
		g.Go(func() error { return s.Sweep(ctx) })
	}
	committed := 0
	for range 20 {
		committed += len(mustCommit(t, a, logs("t0", `[]`)...))
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	for _, n := range collected(t, a, 0) {
		took[0] += n
	}
	if err := a.Sweep(ctx); err != nil {
		t.Fatal(err)
	}
	var all int64
	for _, n := range took {
		all += n
	}
	if want := int64(topics*removeBatch*3/2 + committed); all != want {
		t.Errorf("together they took %d logs of %d", all, want)
	}
	if n := queryOne[int](t, conn, "SELECT count(*) FROM pipeproc_default.logs"); n != 0 {
		t.Errorf("%d rows are left", n)
	}
	if n := queryOne[int](t, conn, "SELECT count(*) FROM pipeproc_default.topics WHERE removed <> first OR first <> head"); n != 0 {
		t.Errorf("%d topics are not at their end", n)
	}
}

// An outsider who holds a topic's row holds up neither GC of the others nor the sweep.
func TestCollectBesideALockedTopic(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	s, _ := openWith(t, pgstore.Config{URL: url})
	conn := outsider(t, url)
	ctx := t.Context()
	mustCommit(t, s, append(logs("a", `[]`), logs("b", `[]`)...)...)
	wantCollected(t, s, map[string]int64{"a": 1, "b": 1})
	mustCommit(t, s, append(logs("a", `[]`), logs("b", `[]`)...)...)
	mustExec(t, conn, "UPDATE pipeproc_default.topics SET removed = 0 WHERE name = 'a'") // as if its rows were still there
	mustExec(t, conn, "BEGIN")
	mustExec(t, conn, "SELECT FROM pipeproc_default.topics WHERE name = 'a' FOR UPDATE")
	sweep := async(func() (struct{}, error) { return struct{}{}, s.Sweep(ctx) })
	if _, err := receive(t, sweep); err != nil {
		t.Error("the sweep:", err)
	}
	_, err := s.Collect(ctx, 0)
	wantCode(t, err, api.CodeOverloaded)
	if topic, err := s.Topic(ctx, "b"); err != nil || topic.Length != 0 {
		t.Errorf("the other topic is %+v, %v", topic, err)
	}
	mustExec(t, conn, "COMMIT")
	wantCollected(t, s, map[string]int64{"a": 1, "b": 0})
}

func TestSweepAppliesTimeouts(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	s, _ := openWith(t, pgstore.Config{URL: url})
	conn := outsider(t, url)
	ctx := t.Context()
	mustCommit(t, s, logs("t", `[]`)...)
	const procs = 600 // more than one batch
	for i := range procs {
		createProc(t, s, fmt.Sprint("p", i), "t")
	}
	mustExec(t, conn, `UPDATE pipeproc_default.procs SET claim_token = 'x', claim_expires_at = 1,
		last_claimed = (SELECT ts || '-0..' || ts || '-0' FROM pipeproc_default.logs)`)
	if err := s.Sweep(ctx); err != nil {
		t.Fatal(err)
	}
	if n := queryOne[int](t, conn, "SELECT count(*) FROM pipeproc_default.procs WHERE reclaims = 1 AND claim_token = ''"); n != procs {
		t.Errorf("%d of %d time-outs were applied", n, procs)
	}
}
