package pgstore_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"pipeproc/api"
	"pipeproc/pgstore"
	"pipeproc/pgstore/pgtest"
)

// lapse ends the leases of all streams.
func lapse(tb testing.TB, conn *pgx.Conn) {
	tb.Helper()
	mustExec(tb, conn, "UPDATE pipeproc_default.live_streams SET open_until = 1")
}

// leased tells whether the liveProc of a stream takes it for open.
func leased(tb testing.TB, conn *pgx.Conn, stream api.Stream) bool {
	tb.Helper()
	return queryOne[bool](tb, conn, `SELECT open_until > pipeproc_default.now_ms() + $2 FROM pipeproc_default.live_streams
		WHERE proc_id = (SELECT id FROM pipeproc_default.procs WHERE name = $1)`, stream.LiveProc, api.StreamLease-10_000)
}

// TestKeepStreams: the leases of all are renewed in one transaction, and nobody else's.
func TestKeepStreams(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	s, _ := openWith(t, pgstore.Config{URL: url})
	conn := outsider(t, url)
	var streams []api.Stream
	for range 40 {
		streams = append(streams, openStream(t, s, "a"))
	}
	other, replaced, closed := openStream(t, s, "a"), openStream(t, s, "a"), openStream(t, s, "a")
	if _, _, _, err := s.OpenStream(t.Context(), replaced.LiveProc, 0); err != nil {
		t.Fatal(err)
	}
	if err := s.CloseStream(t.Context(), closed); err != nil {
		t.Fatal(err)
	}
	lapse(t, conn)
	unknown := api.Stream{LiveProc: "liveproc-x", Instance: "x"}
	if err := s.KeepStreams(t.Context(), append(slices.Clone(streams), replaced, closed, unknown)); err != nil {
		t.Fatal(err)
	}
	for i, stream := range streams {
		if !leased(t, conn, stream) {
			t.Errorf("stream %d has no lease", i)
		}
	}
	for what, stream := range map[string]api.Stream{"another server's": other, "a replaced stream's": replaced, "a closed stream's": closed} {
		if leased(t, conn, stream) {
			t.Errorf("%s lease was renewed", what)
		}
	}
	if n := queryOne[int](t, conn, "SELECT count(DISTINCT xmin::text) FROM pipeproc_default.live_streams WHERE open_until > 1"); n != 1 {
		t.Errorf("%d transactions renewed the leases", n)
	}
	if err := s.KeepStreams(t.Context(), nil); err != nil {
		t.Error(err)
	}
}

// TestKeptStreamsLive: with a lease a liveProc lives on, whatever its ttl is; one that has expired does not come back.
func TestKeptStreamsLive(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	s, _ := openWith(t, pgstore.Config{URL: url})
	ttls := map[int64]api.Stream{}
	for _, ttl := range []int64{-1, 10_000, 60_000} {
		p, err := s.CreateLiveProc(t.Context(), api.LiveProcSpec{Topic: "a", Mode: api.ModeAll, TTL: &ttl})
		if err == nil {
			ttls[ttl], _, _, err = s.OpenStream(t.Context(), p.Name, 0)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	alive := func(ttl int64) bool {
		_, err := s.Proc(t.Context(), ttls[ttl].LiveProc)
		return err == nil
	}
	for i := range 6 { // beyond the lease, and the longest ttl
		pgtest.MoveClock(t, url, "default", time.Duration(i)*20*time.Second)
		if err := s.KeepStreams(t.Context(), []api.Stream{ttls[-1], ttls[10_000], ttls[60_000]}); err != nil {
			t.Fatal(err)
		}
	}
	for ttl := range ttls {
		if !alive(ttl) {
			t.Errorf("the liveProc of ttl %d is gone", ttl)
		}
	}
	pgtest.MoveClock(t, url, "default", 135*time.Second)
	if err := s.KeepStreams(t.Context(), []api.Stream{ttls[10_000], ttls[-1]}); err != nil {
		t.Fatal(err)
	}
	if alive(10_000) || !alive(60_000) || !alive(-1) {
		t.Error("after 35 s without:", alive(10_000), alive(60_000), alive(-1))
	}
}

// TestKeepStreamsPassesHeldRows: rows that somebody holds keep no other stream from its lease, and are tried again.
func TestKeepStreamsPassesHeldRows(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	s, _ := openWith(t, pgstore.Config{URL: url})
	for what, lock := range map[string]string{
		"proc":   "SELECT FROM pipeproc_default.procs WHERE name = $1 FOR UPDATE",
		"stream": "SELECT FROM pipeproc_default.live_streams AS l JOIN pipeproc_default.procs AS p ON p.id = l.proc_id WHERE name = $1 FOR UPDATE OF l",
	} {
		t.Run(what, func(t *testing.T) {
			holder, conn := outsider(t, url), outsider(t, url)
			streams := []api.Stream{openStream(t, s, "a"), openStream(t, s, "a"), openStream(t, s, "a")}
			lapse(t, conn)
			mustExec(t, holder, "BEGIN")
			mustExec(t, holder, lock, streams[1].LiveProc)
			ctx, cancel := context.WithCancel(t.Context())
			kept := async(func() (any, error) { return nil, s.KeepStreams(ctx, streams) })
			until(t, "the others are renewed", func() bool { return leased(t, conn, streams[0]) && leased(t, conn, streams[2]) })
			cancel()
			if _, err := receive(t, kept); err == nil || leased(t, conn, streams[1]) {
				t.Error("the held one:", err)
			}
			mustExec(t, conn, "UPDATE pipeproc_default.live_streams SET open_until = 2 WHERE open_until > 1") // the held one is as it was
			kept = async(func() (any, error) { return nil, s.KeepStreams(t.Context(), streams) })
			until(t, "the others are renewed", func() bool { return leased(t, conn, streams[0]) && leased(t, conn, streams[2]) })
			mustExec(t, holder, "COMMIT")
			if _, err := receive(t, kept); err != nil || !leased(t, conn, streams[1]) {
				t.Error("the one that was held:", err)
			}
		})
	}
}

// TestKeepStreamsAmongBatches: two servers renew leases of the same liveProcs in opposite order, while batches and streams
// that come and go lock them: all go on, and nobody is told of a deadlock.
func TestKeepStreamsAmongBatches(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	a, _ := openWith(t, pgstore.Config{URL: url})
	b, _ := openWith(t, pgstore.Config{URL: url})
	conn := outsider(t, url)
	var streams []api.Stream
	for i := range 12 {
		streams = append(streams, openStream(t, a, fmt.Sprint("t", i%3)))
	}
	backwards := slices.Clone(streams)
	slices.Reverse(backwards)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for s, list := range map[*pgstore.Store][]api.Stream{a: streams, b: backwards} {
		wg.Go(func() {
			for ctx.Err() == nil {
				if err := s.KeepStreams(t.Context(), list); err != nil {
					t.Error(err)
				}
			}
		})
	}
	var busy sync.WaitGroup
	for i, stream := range streams {
		busy.Go(func() {
			s := []*pgstore.Store{a, b}[i%2]
			for n := range 30 {
				mustCommit(t, s, logs(fmt.Sprint("t", n%3), `[1]`)...)
				if i < 2 {
					if _, _, ok, err := s.OpenStream(t.Context(), stream.LiveProc, 0); err != nil || !ok {
						t.Error(ok, err)
					}
					continue
				}
				turn, err := s.Turn(t.Context(), stream, "")
				if err != nil || turn.End != "" {
					t.Error(turn, err)
				} else if turn.Claimed != nil {
					ackOne(t, s, stream.LiveProc, turn.Claimed.Claim.Token)
				}
			}
		})
	}
	busy.Wait()
	cancel()
	wg.Wait()
	for i, stream := range streams {
		if !leased(t, conn, stream) {
			t.Errorf("stream %d has no lease", i)
		}
	}
	if n := queryOne[int](t, conn, "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"); n != 0 {
		t.Errorf("%d deadlocks", n)
	}
}
