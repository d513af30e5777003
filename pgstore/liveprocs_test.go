package pgstore_test

import (
	"testing"
	"time"

	"pipeproc/api"
	"pipeproc/pgstore"
	"pipeproc/pgstore/pgtest"
)

func openStream(tb testing.TB, s *pgstore.Store, topic string) api.Stream {
	tb.Helper()
	p, err := s.CreateLiveProc(tb.Context(), api.LiveProcSpec{Topic: topic, Mode: api.ModeAll})
	if err != nil {
		tb.Fatal(err)
	}
	stream, _, ok, err := s.OpenStream(tb.Context(), p.Name, 0)
	if err != nil || !ok {
		tb.Fatal(ok, err)
	}
	return stream
}

// TestKeepStreamsIsNoNews: to renew a lease wakes nobody up.
func TestKeepStreamsIsNoNews(t *testing.T) {
	t.Parallel()
	s, err := pgstore.Open(t.Context(), pgstore.Config{URL: pgtest.Database(t), UnsafeDurability: true, Logger: pgtest.Logger()})
	if err != nil { // it does not run: nothing but what is called wakes anybody up
		t.Fatal(err)
	}
	defer s.Close()
	stream := openStream(t, s, "a")
	watch := s.Watch(nil, []string{stream.LiveProc})
	defer watch.Close()
	if err := s.KeepStreams(t.Context(), []api.Stream{stream}); err != nil {
		t.Fatal(err)
	}
	select {
	case <-watch.C:
		t.Error("somebody was woken up")
	default:
	}
}

// TestUnknownConnection: a number that was never given is refused, and disturbs no stream.
func TestUnknownConnection(t *testing.T) {
	t.Parallel()
	s, _ := openWith(t, pgstore.Config{URL: pgtest.Database(t)})
	stream := openStream(t, s, "a")
	for _, connection := range []int64{2, 1<<63 - 1} {
		if _, _, _, err := s.OpenStream(t.Context(), stream.LiveProc, connection); api.CodeOf(err) != api.CodeInvalidRequest {
			t.Errorf("connection %d: %v", connection, err)
		}
	}
	if turn, err := s.Turn(t.Context(), stream, ""); err != nil || turn.End != "" {
		t.Errorf("the stream: %+v %v", turn, err)
	}
	if next, _, ok, err := s.OpenStream(t.Context(), stream.LiveProc, 0); err != nil || !ok || next.Connection != 2 {
		t.Errorf("the next one: %+v %v %v", next, ok, err)
	}
}

// TestLogsAreKeptForAStream: what an ack claims for a stream of this server is kept while that stream is open, whoever
// else watches the proc.
func TestLogsAreKeptForAStream(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	s, _ := openWith(t, pgstore.Config{URL: url})
	elsewhere, _ := openWith(t, pgstore.Config{URL: url})
	mustCommit(t, s, logs("a", `[0]`, `[1]`, `[2]`, `[3]`)...)
	stream := openStream(t, s, "a")
	watch := s.Watch(nil, []string{stream.LiveProc})
	defer watch.Close()
	held := s.Subscriptions()
	turn, err := s.Turn(t.Context(), stream, "")
	if err != nil || turn.Claimed == nil {
		t.Fatal(turn, err)
	}
	ackOne(t, s, stream.LiveProc, turn.Claimed.Claim.Token)
	if got := s.Subscriptions() - held; got != 1 || s.Kept(0) != len(`[1]`) {
		t.Errorf("%d claims are kept, of %d bytes", got, s.Kept(0))
	}
	if turn, err = s.Turn(t.Context(), stream, turn.Claimed.Claim.Token); err != nil || turn.Claimed == nil || len(turn.Claimed.Logs) != 1 {
		t.Fatal(turn, err)
	}
	if got := s.Subscriptions() - held; got != 0 {
		t.Errorf("%d claims are kept after they were sent", got)
	}
	waiter := elsewhere.Watch(nil, []string{stream.LiveProc})
	defer waiter.Close()
	there := elsewhere.Subscriptions()
	ackOne(t, elsewhere, stream.LiveProc, turn.Claimed.Claim.Token)
	if got := elsewhere.Subscriptions() - there; got != 0 {
		t.Errorf("%d claims are kept where there is no stream", got)
	}
	if turn, err = s.Turn(t.Context(), stream, turn.Claimed.Claim.Token); err != nil || turn.Claimed == nil || len(turn.Claimed.Logs) != 1 {
		t.Fatal(turn, err)
	}
	ackOne(t, s, stream.LiveProc, turn.Claimed.Claim.Token)
	if s.Kept(0) != len(`[3]`) {
		t.Errorf("%d bytes are kept", s.Kept(0))
	}
	if err := s.CloseStream(t.Context(), stream); err != nil {
		t.Fatal(err)
	}
	if s.Kept(0) != 0 {
		t.Errorf("%d bytes are kept without a stream", s.Kept(0))
	}
	if got := s.Subscriptions() - held; got != -1 { // nor is the stream known any more
		t.Errorf("%d claims are kept without a stream", got+1)
	}
}

// TestLittleIsKeptForStreams: where enough is kept, a stream reads what an ack has claimed for it.
func TestLittleIsKeptForStreams(t *testing.T) {
	t.Parallel()
	s, _ := openWith(t, pgstore.Config{URL: pgtest.Database(t)})
	mustCommit(t, s, logs("a", `[0]`, `[1]`, `[2]`)...)
	stream := openStream(t, s, "a")
	turn, err := s.Turn(t.Context(), stream, "")
	if err != nil || turn.Claimed == nil {
		t.Fatal(turn, err)
	}
	s.Kept(pgstore.KeptBytes - len(`[1]`)) // there is room for just one
	ackOne(t, s, stream.LiveProc, turn.Claimed.Claim.Token)
	if n := s.Kept(1); n != pgstore.KeptBytes+1 {
		t.Errorf("%d bytes are kept", n)
	}
	if turn, err = s.Turn(t.Context(), stream, turn.Claimed.Claim.Token); err != nil || len(turn.Claimed.Logs) != 1 {
		t.Fatal(turn, err)
	}
	ackOne(t, s, stream.LiveProc, turn.Claimed.Claim.Token)
	if n := s.Kept(0); n != pgstore.KeptBytes-len(`[1]`)+1 {
		t.Errorf("%d bytes are kept", n)
	}
	if turn, err = s.Turn(t.Context(), stream, turn.Claimed.Claim.Token); err != nil || string(turn.Claimed.Logs[0].Body) != `[2]` {
		t.Fatal(turn, err)
	}
}

// TestDestroyedStreamsAreForgotten: a stream goes with its liveProc.
func TestDestroyedStreamsAreForgotten(t *testing.T) {
	t.Parallel()
	s, _ := openWith(t, pgstore.Config{URL: pgtest.Database(t)})
	before := s.Subscriptions()
	if _, err := s.DestroyLiveProc(t.Context(), openStream(t, s, "a").LiveProc); err != nil {
		t.Fatal(err)
	}
	if got := s.Subscriptions() - before; got != 0 {
		t.Errorf("%d are left", got)
	}
}

// TestTopicMadeAnewUnheard: a topic deleted and made anew, with the same number of logs, is found by the poll when no word
// of it came.
func TestTopicMadeAnewUnheard(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	s, _ := openWith(t, pgstore.Config{URL: url, PollInterval: 10 * time.Millisecond})
	conn := outsider(t, url)
	mustCommit(t, s, logs("a", `[0]`)...)
	watch := s.Watch([]string{"a"}, nil)
	defer watch.Close()
	<-watch.C // the first look at it
	mustExec(t, conn, `DELETE FROM pipeproc_default.topics WHERE name = 'a';
		INSERT INTO pipeproc_default.topics (name, head, last_ts, created_at) VALUES ('a', 1, 1, 1)`) // in one transaction
	select {
	case <-watch.C:
	case <-time.After(10 * time.Second):
		t.Error("nobody is woken up")
	}
}

// TestReadFromIsBounded: a tail that is behind takes no more than it asks for, and at least one log.
func TestReadFromIsBounded(t *testing.T) {
	t.Parallel()
	s, _ := openWith(t, pgstore.Config{URL: pgtest.Database(t)})
	mustCommit(t, s, logs("a", `["four"]`, `["four"]`, `["four"]`)...) // 8 bytes each
	heads, err := s.Heads(t.Context(), []string{"a"})
	if err != nil {
		t.Fatal(err)
	}
	for size, want := range map[int]int{1: 1, 15: 1, 16: 2, 24: 3, 1000: 3} {
		if got, _, _, err := s.ReadFrom(t.Context(), heads["a"].ID, 0, 10, size); err != nil || len(got) != want {
			t.Errorf("%d bytes: %d logs, want %d: %v", size, len(got), want, err)
		}
	}
}
