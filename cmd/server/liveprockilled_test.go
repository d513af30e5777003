package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"pipeproc/livestream/ssetest"
	"pipeproc/pgstore/pgtest"
)

// TestKilledUnderALiveProc: of two servers, the one that a liveProc's stream hangs on is killed again and again, at any
// moment. The client goes on at the other by its last event id, on the same connection, with the claim that was
// outstanding; the acks, which go to either of them, and are repeated when their answer is lost, move the liveProc once.
func TestKilledUnderALiveProc(t *testing.T) {
	t.Parallel()
	const kills, batches = 15, 150
	flags := []string{"--database-url", pgtest.Database(t), "--unsafe-durability", "--listen"}
	l := &liveClient{t: t, batches: batches, data: map[string]string{}}
	var servers [2]*process
	var ports [2]string
	for i := range servers {
		ports[i] = freePort(t)
		servers[i] = launch(t, nil, append(flags, ports[i])...)
		l.urls[i] = servers[i].url(t)
	}
	l.create()

	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- l.run(ctx) }()
	for kill := range kills {
		eventually(t, "batches go on", func() bool { return l.acked.Load() >= int64(1+kill*batches/kills) || len(done) > 0 })
		<-time.After(rand.N(20 * time.Millisecond)) // in the middle of anything
		at := l.at.Load()
		servers[at].kill(t)
		servers[at] = launch(t, nil, append(flags, ports[at])...)
		servers[at].url(t)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if l.lost+l.repeated < kills/2 || l.lost < 1 || l.again < 1 {
		t.Errorf("%d streams were lost, and a claim came again %d times: the kills did not hit", l.lost, l.again)
	}
	t.Logf("%d streams lost, %d claims came again, %d answers to acks lost; back after %v at most", l.lost, l.again, l.repeated, l.slowest)
	if l.slowest > 15*time.Second {
		t.Errorf("a stream was back after %v: the lease of the dead server's is 30 s", l.slowest)
	}

	_, answer := call(t, "GET", l.urls[0], "/v1/procs/"+l.name, "")
	var p struct {
		Lag, Reclaims  int
		Claim          *struct{}
		LastAckedRange string
	}
	if err := json.Unmarshal([]byte(answer), &p); err != nil || p.Lag != 0 || p.Reclaims != 0 || p.Claim != nil ||
		!strings.HasSuffix(p.LastAckedRange, fmt.Sprint("-", l.committed-1)) {
		t.Errorf("in the end it is %s: %v", answer, err)
	}
	for _, s := range servers {
		s.stop(t)
	}
}

// liveClient follows a liveProc at two servers, and commits what it will read.
type liveClient struct {
	t       *testing.T
	urls    [2]string
	batches int

	name        string
	at          atomic.Int64 // where its stream hangs
	last        string       // the id of the last event
	outstanding string       // the token of the claim that is not known to be acked
	data        map[string]string
	next        int // the seq of the next log
	committed   int
	acked       atomic.Int64 // batches

	lost, again, repeated int
	left                  time.Time     // the last stream
	slowest               time.Duration // until the next one began
}

// create makes the liveProc, whose claims do not time out: a claim has one token, whatever happens.
func (l *liveClient) create() {
	l.t.Helper()
	status, answer := call(l.t, "POST", l.urls[0], "/v1/live-procs", `{"topic":"numbers","mode":"all","count":3}`)
	var p struct{ Name string }
	if err := json.Unmarshal([]byte(answer), &p); err != nil || status != http.StatusCreated {
		l.t.Fatal(status, answer, err)
	}
	l.name = p.Name
	if status, answer := call(l.t, "PATCH", l.urls[0], "/v1/procs/"+l.name, `{"reclaimTimeout":-1}`); status != http.StatusOK {
		l.t.Fatal(status, answer)
	}
}

// run acks all batches, over as many streams as it takes.
func (l *liveClient) run(ctx context.Context) error {
	if err := l.commit(ctx); err != nil {
		return err
	}
	l.left = time.Now()
	for !l.done() {
		err := l.stream(ctx)
		if ctx.Err() != nil || err != nil && !lostConnection(err) {
			return fmt.Errorf("after %d batches: %w", l.acked.Load(), err)
		}
		l.at.Store(1 - l.at.Load())
	}
	return nil
}

// done tells that enough batches are acked, and no log is left.
func (l *liveClient) done() bool {
	return int(l.acked.Load()) >= l.batches && l.next == l.committed && l.outstanding == ""
}

// stream follows one stream until it is lost, or all is acked.
func (l *liveClient) stream(ctx context.Context) error {
	resp, err := openChanges(ctx, l.urls[l.at.Load()], l.name, l.last)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusServiceUnavailable {
		return io.EOF
	}
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	defer func() { l.left = time.Now() }()
	events := ssetest.NewReader(resp.Body)
	for first := true; !l.done(); first = false {
		e, err := events.Event()
		if err != nil {
			l.lost++
			return err
		}
		if !strings.HasPrefix(e.ID, l.name+":1:") || (e.Type == "liveproc") != first || e.Type != "liveproc" && e.Type != "logs" {
			return fmt.Errorf("event %q under %q: %s", e.Type, e.ID, e.Data)
		}
		l.last = e.ID
		if first {
			l.slowest = max(l.slowest, time.Since(l.left))
			continue
		}
		if err := l.batch(ctx, e); err != nil {
			return err
		}
	}
	return nil
}

// batch takes a batch: it is the one that is outstanding, as it was, or the next one.
func (l *liveClient) batch(ctx context.Context, e ssetest.Event) error {
	var b struct {
		Claim struct {
			Token   string
			Attempt int
		}
		Logs []struct{ Body struct{ N int } }
	}
	if err := json.Unmarshal([]byte(e.Data), &b); err != nil {
		return err
	}
	token := b.Claim.Token
	before, seen := l.data[token]
	if b.Claim.Attempt != 1 || seen && (before != e.Data || token != l.outstanding) {
		return fmt.Errorf("%s after %s, while %q is outstanding", e.Data, before, l.outstanding)
	}
	if seen {
		l.again++
	} else {
		if l.outstanding != "" { // its ack went out, and its answer was lost: the next batch tells that it was applied
			if err := l.ack(ctx, l.outstanding, false); err != nil {
				return err
			}
		}
		l.data[token], l.outstanding = e.Data, token
		for _, log := range b.Logs {
			if log.Body.N != l.next {
				return fmt.Errorf("log %d, want %d: %s", log.Body.N, l.next, e.Data)
			}
			l.next++
		}
	}
	return l.ack(ctx, token, rand.IntN(2) == 0)
}

// ack acks at either server. When its answer is lost, the stream is lost too, if giveUp is set and more logs are there: what
// comes on the next one tells whether it was applied. Else it is repeated at the other.
func (l *liveClient) ack(ctx context.Context, token string, giveUp bool) error {
	for at := rand.IntN(2); ; at = 1 - at {
		status, answer, err := try("POST", l.urls[at], "/v1/procs/"+l.name+"/ack", `{"token":"`+token+`"}`)
		switch {
		case status == http.StatusOK:
			var a struct{ AckedLogID string }
			if err := json.Unmarshal([]byte(answer), &a); err != nil || !strings.Contains(l.data[token], `"id":"`+firstOf(a.AckedLogID)+`"`) {
				return fmt.Errorf("the ack of %s is answered %s: %w", l.data[token], answer, err)
			}
			l.outstanding = ""
			l.acked.Add(1)
			return l.commit(ctx)
		case ctx.Err() != nil:
			return ctx.Err()
		case err == nil && status != http.StatusServiceUnavailable:
			return fmt.Errorf("the ack of %s is answered %d %s", l.data[token], status, answer)
		case giveUp && l.committed > l.next:
			l.repeated++
			return io.EOF
		}
	}
}

func firstOf(ids string) string {
	first, _, _ := strings.Cut(ids, "..")
	return first
}

// commit adds some logs, one at least where all are read, at either server; none when enough batches are acked.
func (l *liveClient) commit(ctx context.Context) error {
	n := rand.IntN(4)
	switch {
	case int(l.acked.Load()) >= l.batches:
		return nil
	case l.committed == l.next:
		n = max(n, 1)
	}
	for range n {
		for at := rand.IntN(2); ; at = 1 - at {
			req, err := http.NewRequestWithContext(ctx, http.MethodPost, l.urls[at]+"/v1/topics/numbers/logs",
				strings.NewReader(fmt.Sprintf(`{"n":%d}`, l.committed)))
			if err != nil {
				return err
			}
			req.Header.Set("Content-Type", "application/json")
			req.Header.Set("Idempotency-Key", fmt.Sprint("log-", l.committed))
			resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
			if err == nil {
				_, _ = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				if resp.StatusCode < 300 {
					break
				}
				if resp.StatusCode != http.StatusServiceUnavailable {
					return fmt.Errorf("commit: %s", resp.Status)
				}
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
		}
		l.committed++
	}
	return nil
}

// openChanges asks for the stream of a liveProc, after the event of this id unless it is "".
func openChanges(ctx context.Context, url, name, last string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/v1/live-procs/"+name+"/changes", nil)
	if err != nil {
		return nil, err
	}
	if last != "" {
		req.Header.Set("Last-Event-ID", last)
	}
	return (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
}

// TestKilledServersStreamLease: what the database knows of a killed server's streams ends with their lease. Until then
// nobody but the client of the stream, or a new one, may take the liveProc over, and it lives on; a client that does not
// come back leaves nothing when its time is over.
func TestKilledServersStreamLease(t *testing.T) {
	t.Parallel()
	dbURL := pgtest.Database(t)
	flags := []string{"--database-url", dbURL, "--unsafe-durability", "--listen=127.0.0.1:0"}
	a, b := launch(t, nil, flags...), launch(t, nil, flags...)
	there, url := a.url(t), b.url(t)
	commit(t, url, `{"n":0}`)
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	// streams makes a liveProc and opens a stream of it at each of the servers, up to its first batch.
	streams := func(ttl int, urls ...string) (name string, ids []string) {
		t.Helper()
		_, answer := call(t, "POST", url, "/v1/live-procs", fmt.Sprintf(`{"topic":"numbers","mode":"all","ttl":%d}`, ttl))
		var p struct{ Name string }
		if err := json.Unmarshal([]byte(answer), &p); err != nil || p.Name == "" {
			t.Fatal(answer, err)
		}
		for _, url := range urls {
			resp, err := openChanges(ctx, url, p.Name, "")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { resp.Body.Close() })
			events := ssetest.NewReader(resp.Body)
			e, err := events.Event()
			if err == nil {
				e, err = events.Event()
			}
			if err != nil || e.Type != "logs" {
				t.Fatal(e, err)
			}
			ids = append(ids, e.ID)
		}
		return p.Name, ids
	}
	// asked is the answer to a client that comes back after the event of this id.
	asked := func(name, last string) int {
		t.Helper()
		resp, err := openChanges(ctx, url, name, last)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	exists := func(name string) bool {
		t.Helper()
		status, answer := call(t, "GET", url, "/v1/procs/"+name, "")
		if status != http.StatusOK && status != http.StatusNotFound {
			t.Fatal(status, answer)
		}
		return status == http.StatusOK
	}
	mine, mineIDs := streams(-1, there)
	twice, twiceIDs := streams(-1, url, there) // the second one took over
	short, _ := streams(1000, there)
	minute, minuteIDs := streams(60_000, there)
	a.kill(t)

	if status := asked(mine, mineIDs[0]); status != http.StatusOK {
		t.Errorf("the stream's client that comes back is answered %d", status)
	}
	if status := asked(twice, twiceIDs[0]); status != http.StatusNoContent {
		t.Errorf("the client that was replaced is answered %d while the lease of the later one lasts", status)
	}
	collected := func() string {
		t.Helper()
		_, answer := call(t, "POST", url, "/v1/gc", "")
		return answer
	}
	pgtest.MoveClock(t, dbURL, "default", 15*time.Second)
	if !exists(short) || !exists(minute) {
		t.Error("a liveProc is gone before its stream's lease is over")
	}
	if status := asked(twice, twiceIDs[0]); status != http.StatusNoContent {
		t.Errorf("the client that was replaced is answered %d while the lease of the later one lasts", status)
	}
	pgtest.MoveClock(t, dbURL, "default", 31*time.Second)
	if exists(short) || !exists(minute) {
		t.Errorf("after the lease: a liveProc of a second exists: %v, one of a minute: %v", exists(short), exists(minute))
	}
	if status := asked(twice, twiceIDs[0]); status != http.StatusOK {
		t.Errorf("after the lease the other client is answered %d", status)
	}
	for _, name := range []string{mine, twice} {
		if status, answer := call(t, "DELETE", url, "/v1/live-procs/"+name, ""); status != http.StatusOK {
			t.Error(status, answer)
		}
	}
	if got := collected(); !strings.Contains(got, `"collected":0`) {
		t.Errorf("GC: %s, though a liveProc has not acked", got)
	}
	pgtest.MoveClock(t, dbURL, "default", 61*time.Second)
	if exists(minute) || asked(minute, minuteIDs[0]) != http.StatusNoContent {
		t.Error("a liveProc outlives its time")
	}
	if got := collected(); !strings.Contains(got, `"collected":1`) {
		t.Errorf("GC: %s, though nobody is left", got)
	}
	b.stop(t)
}
