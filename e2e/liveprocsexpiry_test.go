package e2e

import (
	"net/http"
	"testing"

	"github.com/jackc/pgx/v5"
)

// rows counts the rows of the tables that keep procs and topics.
func (w procWire) rows() (n int) {
	w.t.Helper()
	conn, err := pgx.Connect(w.t.Context(), w.Database)
	if err != nil {
		w.t.Fatal(err)
	}
	defer conn.Close(w.t.Context())
	err = conn.QueryRow(w.t.Context(), `SELECT (SELECT count(*) FROM pipeproc_default.procs) +
		(SELECT count(*) FROM pipeproc_default.live_streams) + (SELECT count(*) FROM pipeproc_default.ack_answers) +
		(SELECT count(*) FROM pipeproc_default.topics)`).Scan(&n)
	if err != nil {
		w.t.Fatal(err)
	}
	return n
}

// TestLiveProcExpires holds that a liveProc lives for its ttl after its last stream or ack, by the database's clock.
func TestLiveProcExpires(t *testing.T) {
	t.Parallel()
	w := wireTo(t, start(t))
	w.commit("a", 2)
	clock := w.stopClock()
	inADay, changesInADay := w.live(`{"topic":"a","mode":"all","ttl":86400000}`)
	byDefault, changes := w.live(`{"topic":"a","mode":"all"}`)
	never, _ := w.live(`{"topic":"a","mode":"all","ttl":-1}`)
	unused, _ := w.live(`{"topic":"unused","mode":"live","ttl":1}`)

	clock.pass(1)
	w.get("/v1/procs/"+unused).isProblem(http.StatusNotFound, "invalid_proc")
	clock.pass(5*60_000 - 2)
	w.proc(byDefault)
	clock.pass(1)
	w.get("/v1/procs/"+byDefault).isProblem(http.StatusNotFound, "invalid_proc") // at once, also before a sweep
	for _, route := range []string{"ack", "reclaim", "disable", "resume", "claim"} {
		w.post("/v1/procs/"+byDefault+"/"+route, "").isProblem(http.StatusNotFound, "invalid_proc")
	}
	w.post(changesOf+byDefault+"/cancel", "").isProblem(http.StatusNotFound, "invalid_proc")
	w.send(http.MethodDelete, changesOf+byDefault, "").isProblem(http.StatusNotFound, "invalid_proc")
	w.noStream(changes, "").isEmpty(http.StatusNoContent)
	w.noStream(changes, byDefault+":1:").isEmpty(http.StatusNoContent)
	if n := len(w.get("/v1/procs").list("procs")); n != 2 {
		t.Errorf("%d procs are listed, 2 live", n)
	}

	// A stream and an ack begin its time anew.
	clock.pass(86_400_000 - 5*60_000 - 1000)
	s := w.stream(changesInADay, "")
	s.opens(inADay, 1, "")
	s.logs(0, 0)
	w.send(http.MethodPatch, "/v1/procs/"+inADay, `{"reclaimTimeout":-1}`).is(http.StatusOK)
	w.post("/v1/procs/"+inADay+"/reclaim", "").is(http.StatusOK)
	claimed := s.logs(0, 0)
	clock.pass(86_399_000) // it is its stream that keeps it
	s.close()
	w.streamsAreClosed()
	clock.pass(86_399_999)
	w.ack(inADay, claimed.wireAnswer)
	clock.pass(86_399_999)
	w.proc(inADay)
	clock.pass(1)
	w.get("/v1/procs/"+inADay).isProblem(http.StatusNotFound, "invalid_proc")

	clock.pass(10 * 365 * 86_400_000)
	w.proc(never)
	w.send(http.MethodDelete, changesOf+never, "").is(http.StatusOK)
	w.eventually("nothing but the topic with logs is left", func() bool { return w.rows() == 1 })
}

// TestLiveProcIsKeptByItsStream holds that a short ttl begins when the stream is gone.
func TestLiveProcIsKeptByItsStream(t *testing.T) {
	t.Parallel()
	w := wireTo(t, start(t))
	clock := w.stopClock()
	name, changes := w.live(`{"topic":"a","mode":"all","ttl":1000}`)
	s := w.stream(changes, "")
	s.opens(name, 1, "")
	clock.pass(20_000)
	w.proc(name)
	w.commit("a", 1)
	claimed := s.logs(0, 0)
	s.close()
	w.streamsAreClosed()
	clock.pass(999)
	w.proc(name)
	again := w.stream(changes, claimed.ID) // within its time
	again.opens(name, 1, claimed.str("logs.0.id"))
	clock.pass(20_000)
	w.proc(name)
	again.close()
	w.streamsAreClosed()
	clock.pass(1000)
	w.get("/v1/procs/"+name).isProblem(http.StatusNotFound, "invalid_proc")

	live := w.stream("/v1/topics/a/live?mode=all", claimed.ID)
	live.next("gap").has("requested", claimed.str("logs.0.id")).has("resumedAt", ":0").has("reason", "recreated")
	live.next("liveproc").has("lag", 1)
	live.next("logs").has("logs.0.id", claimed.str("logs.0.id"))
}

// TestLiveProcStreamTellsExpiry holds what a client is told whose stream the database did not hear of for too long.
func TestLiveProcStreamTellsExpiry(t *testing.T) {
	t.Parallel()
	w := wireTo(t, start(t))
	clock := w.stopClock()
	name, changes := w.live(`{"topic":"a","mode":"all","ttl":1000}`)
	s := w.stream(changes, "")
	s.opens(name, 1, "")
	clock.pass(3_600_000)
	s.endsBecause("expired").isUnder(name, 1, "")
	w.noStream(changes, name+":1:").isEmpty(http.StatusNoContent)
	w.eventually("nothing is left", func() bool { return w.rows() == 0 })
}

// TestLiveProcHoldsGC holds that GC keeps what a liveProc has not acked, and that an expired one holds nothing.
func TestLiveProcHoldsGC(t *testing.T) {
	t.Parallel()
	w := wireTo(t, start(t))
	clock := w.stopClock()
	ids := w.commit("a", 4)
	name, changes := w.live(`{"topic":"a","mode":"all","count":2,"ttl":3600000}`)
	s := w.stream(changes, "")
	s.opens(name, 1, "")
	collected := func(n int, firstID any) {
		t.Helper()
		w.post("/v1/gc", "").is(http.StatusOK).has("topics.0.topic", "a").has("topics.0.collected", n).has("topics.0.firstId", firstID)
	}
	s.logs(0, 1)
	clock.pass(100_000) // beyond minPruneTime; the claim timed out, and is made again
	again := s.logs(0, 1)
	again.has("claim.attempt", 2)
	w.ack(name, again.wireAnswer)
	s.logs(2, 3)
	collected(0, ids[0]) // the previous claimed range is kept as well
	w.post("/v1/procs/"+name+"/ack", "").is(http.StatusOK)
	w.commit("a", 1)
	s.logs(4, 4)
	collected(2, ids[2])
	s.close()
	w.streamsAreClosed()
	clock.pass(3_599_999)
	collected(0, ids[2])
	clock.pass(1)
	collected(3, nil)
}
