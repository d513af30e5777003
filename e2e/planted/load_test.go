//go:build faults && linux

package planted

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"pipeproc/api"
	"pipeproc/client"
	"pipeproc/e2e/check"
	"pipeproc/pgstore/pgtest"
)

// Each fault comes when there was some progress. loadTime is the most that all of it takes, on a slow machine; silence is how
// long a stream waits for the rest when the load has ended.
const (
	progress       = 40 // commits
	loadTime       = 2 * time.Minute
	silence        = 12 * time.Second
	requestTimeout = 8 * time.Second
	reclaimTimeout = 300 * time.Millisecond
)

// topics are those of the load. What is in them is kept by procs that do not move, but for those in loose.
var topics = []string{"in", "side", "out", "quiet", "loose"}

// load is what clients do to two servers on one database, and what they saw.
type load struct {
	*check.Recorder
	servers  [2]*server // the first one meets the faults
	database string
	values   atomic.Int64
	// committed counts the commits that were answered.
	committed atomic.Int64

	mu    sync.Mutex
	heads map[string]int64 // as far as anybody has seen
	procs []check.Proc
}

// workOut has clients work with two servers that have a bug, while all goes wrong that may.
func workOut(t *testing.T, bug, kill string) check.History {
	t.Helper()
	database := pgtest.Database(t)
	l := &load{database: database, heads: map[string]int64{}}
	l.servers = [2]*server{newServer(t, database, bug, kill), newServer(t, database, bug, "")}
	l.Recorder = check.NewRecorder()
	l.WakeUp(20 * time.Second)
	l.prepare(t)
	busy, stop := context.WithTimeout(context.Background(), loadTime)
	defer stop()

	var clients, streams errgroup.Group
	for i := range 4 {
		clients.Go(func() error { return l.commits(busy, fmt.Sprint("committer", i)) })
	}
	for i := range 2 {
		clients.Go(func() error { return l.reads(busy, fmt.Sprint("reader", i)) })
	}
	for i := range 4 {
		clients.Go(func() error { return l.works(busy, fmt.Sprint("worker", i), fmt.Sprint("proc", i%2), i/2, i%2 == 0) })
	}
	clients.Go(func() error { return l.collects(busy, "gc") })
	clients.Go(func() error {
		defer stop()
		return l.goesWrong(busy)
	})
	clients.Go(func() error { return l.whispers(busy, "whisperer") })
	loaded := make(chan struct{})
	streams.Go(func() error { return l.tails(loaded, "tail of in", "in", 12) })
	streams.Go(func() error { return l.tails(loaded, "tail of quiet", "quiet", 0) })
	streams.Go(func() error { return l.lives(busy, "live") })

	err := clients.Wait()
	close(loaded)
	if err := errors.Join(err, streams.Wait(), l.finish(context.Background())); err != nil {
		t.Fatal(err)
	}
	return l.History()
}

// prepare makes the topics with a log each, and the procs.
func (l *load) prepare(t *testing.T) {
	t.Helper()
	s := l.servers[1] // which does not end
	for _, p := range []struct{ name, topic string }{
		{"proc0", "in"}, {"proc1", "in"}, {"idle", "in"}, {"stopped", "side"}, {"keeper", "out"}, {"listener", "quiet"},
	} {
		made := check.Proc{Name: p.name, Topic: p.topic, Created: l.Begin("prepare")}
		_, _, err := s.CreateProc(t.Context(), p.name, api.ProcOptions{Topic: p.topic, Count: new(3), MaxReclaims: new(-1),
			ReclaimTimeout: new(reclaimTimeout.Milliseconds())})
		if err != nil {
			t.Fatal(err)
		}
		made.Created = l.End(made.Created, check.OK)
		made.Disabled = p.name == "stopped"
		l.procs = append(l.procs, made)
	}
	for _, topic := range topics {
		if l.commit("prepare", s, "", []string{topic}) != check.OK {
			t.Fatal("a first commit failed")
		}
	}
	span := l.Begin("prepare")
	claimed, err := s.Proc(t.Context(), "stopped", api.ClaimRequest{})
	if err != nil || claimed == nil {
		t.Fatal(claimed, err)
	}
	l.handed(l.End(span, check.OK), check.ByClaim, false, claimed)
	if _, o := l.ack("prepare", s, claimed, nil, false); o != check.OK {
		t.Fatal("a first ack failed")
	}
	if _, err := s.DisableProc(t.Context(), "stopped"); err != nil {
		t.Fatal(err)
	}
}

func (l *load) value(client string) string { return fmt.Sprint(client, ":", l.values.Add(1)) }

// body is that of a log with a value.
func body(value string) json.RawMessage {
	text, _ := json.Marshal(map[string]string{"value": value}) // a string alone
	return text
}

func valueOf(body json.RawMessage) string {
	var v struct{ Value string }
	if err := json.Unmarshal(body, &v); err != nil {
		return string(body)
	}
	return v.Value
}

func (l *load) seen(topic string, logs []api.Log) []check.Log {
	out := make([]check.Log, len(logs))
	for i, log := range logs {
		out[i] = check.Log{ID: log.ID, Value: valueOf(log.Body)}
		l.reached(topic, log.ID.Seq)
	}
	return out
}

func (l *load) reached(topic string, seq int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.heads[topic] = max(l.heads[topic], seq+1)
}

func (l *load) head(topic string) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.heads[topic]
}

// outcome is what a client may conclude from an error.
func outcome(err error) check.Outcome {
	status := client.StatusOf(err)
	switch {
	case err == nil:
		return check.OK
	case status == http.StatusConflict, status == http.StatusGone, status == http.StatusRequestedRangeNotSatisfiable:
		return check.Failed
	case status >= 400 && status < 500:
		panic(err) // a mistake of the test
	}
	return check.Unknown
}

// request is the context of one request, which the end of the load does not cut short.
func request() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), requestTimeout)
}

// pause waits up to d; it reports whether ctx goes on.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(rand.N(d) + 1)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func (l *load) anyServer() *server { return l.servers[rand.IntN(2)] }

// commits commits to one topic or to two, some of it under a key, repeated.
func (l *load) commits(ctx context.Context, client string) error {
	for pause(ctx, 6*time.Millisecond) {
		switch rand.IntN(8) {
		case 0, 1:
			l.commit(client, l.anyServer(), "", []string{"side", "in"})
		case 2, 3:
			l.commitOnce(client)
		case 4:
			l.commit(client, l.anyServer(), "", []string{"loose"})
		default:
			l.commit(client, l.anyServer(), "", []string{"in", "in"}[:1+rand.IntN(2)])
		}
	}
	return nil
}

func (l *load) commit(client string, s *server, key string, topics []string) check.Outcome {
	c := check.Commit{Key: key, Logs: make([]check.NewLog, len(topics))}
	for i := range topics {
		c.Logs[i] = check.NewLog{Topic: topics[i], Value: l.value(client)}
	}
	return l.send(client, s, c)
}

// commitOnce commits under a key until that is answered, and once more.
func (l *load) commitOnce(client string) {
	value := l.value(client)
	c := check.Commit{Key: value, Logs: []check.NewLog{{Topic: "in", Value: value}}}
	for range 4 {
		if o := l.send(client, l.anyServer(), c); o == check.OK {
			l.send(client, l.anyServer(), c)
			return
		}
	}
}

func (l *load) send(name string, s *server, c check.Commit) check.Outcome {
	logs := make([]api.NewLog, len(c.Logs))
	for i, log := range c.Logs {
		logs[i] = api.NewLog{Topic: log.Topic, Body: body(log.Value)}
	}
	var options []client.CommitOption
	if c.Key != "" {
		options = append(options, client.IdempotencyKey(c.Key))
	}
	ctx, cancel := request()
	defer cancel()
	span := l.Begin(name)
	done, err := s.CommitAll(ctx, logs, options...)
	c.Span = l.End(span, outcome(err))
	if err == nil {
		c.IDs = done.IDs
		l.committed.Add(1)
		for i, id := range done.IDs {
			l.reached(c.Logs[i].Topic, id.Seq)
		}
	}
	l.Commit(c)
	return c.Outcome
}

// reads reads what is near the end of topics.
func (l *load) reads(ctx context.Context, name string) error {
	for pause(ctx, 4*time.Millisecond) {
		topic := topics[rand.IntN(3)]
		r := check.Read{Topic: topic, From: max(0, l.head(topic)-1-rand.Int64N(30)), Reverse: rand.IntN(3) == 0}
		if r.Reverse && rand.IntN(2) == 0 {
			r.From = -1
		}
		o := client.RangeOptions{Limit: 100}
		if r.From >= 0 {
			o.Start = fmt.Sprint(":", r.From)
		}
		s := l.anyServer()
		read := s.Range
		if r.Reverse {
			read = s.Revrange
		}
		request, cancel := request()
		span := l.Begin(name)
		page, err := read(request, topic, o)
		cancel()
		if r.Span = l.End(span, outcome(err)); err == nil {
			r.Logs, r.More = l.seen(topic, page.Logs), page.Next != nil
			l.Read(r)
		}
	}
	return nil
}

// works claims and acks, now and then after the claim's time-out.
func (l *load) works(ctx context.Context, name, proc string, on int, output bool) error {
	s := l.servers[on]
	for ctx.Err() == nil {
		request, cancel := request()
		span := l.Begin(name)
		claimed, err := s.Proc(request, proc, api.ClaimRequest{Wait: new(int64(100))})
		cancel()
		if err != nil || claimed == nil {
			pause(ctx, 10*time.Millisecond)
			continue
		}
		l.handed(l.End(span, check.OK), check.ByClaim, true, claimed)
		for claimed != nil {
			if rand.IntN(8) == 0 {
				time.Sleep(reclaimTimeout + 80*time.Millisecond)
			}
			var logs []check.NewLog
			if output {
				logs = []check.NewLog{{Topic: "out", Value: l.value(name)}}
			}
			claimed = l.acks(name, s, claimed, logs, ctx.Err() == nil && rand.IntN(2) == 0)
		}
	}
	return nil
}

// acks acks a claim until that is answered, and answers the next one.
func (l *load) acks(name string, s *server, claimed *api.Claimed, output []check.NewLog, next bool) *api.Claimed {
	for range 4 {
		claimed, o := l.ack(name, s, claimed, output, next)
		if o != check.Unknown {
			return claimed
		}
		s = l.anyServer()
	}
	return nil
}

func (l *load) ack(name string, s *server, claimed *api.Claimed, output []check.NewLog, next bool) (*api.Claimed, check.Outcome) {
	a := check.Ack{Proc: claimed.Proc, Token: claimed.Claim.Token, Output: output}
	o := client.AckOptions{Token: a.Token, ClaimNext: next}
	ctx, cancel := request()
	defer cancel()
	span := l.Begin(name)
	var acked api.Acked
	var err error
	if output == nil {
		acked, err = s.Ack(ctx, a.Proc, o)
	} else {
		logs := make([]api.NewLog, len(output))
		for i, log := range output {
			logs[i] = api.NewLog{Topic: log.Topic, Body: body(log.Value)}
		}
		acked, err = s.AckCommitAll(ctx, a.Proc, o, logs)
	}
	a.Span = l.End(span, outcome(err))
	a.IDs, a.Lost = acked.IDs, api.CodeOf(err) == api.CodeClaimLost
	l.Ack(a)
	if acked.Next != nil {
		acked.Next.Topic = claimed.Topic
		l.handed(a.Span, check.ByAck, false, acked.Next)
	}
	return acked.Next, a.Outcome
}

// handed takes a claim down.
func (l *load) handed(s check.Span, via check.Via, waited bool, claimed *api.Claimed) {
	c := check.Claim{Span: s, Proc: claimed.Proc, Token: claimed.Claim.Token, Attempt: claimed.Claim.Attempt,
		Logs: l.seen(claimed.Topic, claimed.Logs), Via: via, Waited: waited}
	if claimed.Claim.ExpiresAt != nil {
		c.ExpiresAt = *claimed.Claim.ExpiresAt
	}
	l.Claim(c)
}

// collects runs GC.
func (l *load) collects(ctx context.Context, name string) error {
	for pause(ctx, 300*time.Millisecond) {
		request, cancel := request()
		span := l.Begin(name)
		run, err := l.servers[1].GC(request)
		cancel()
		if span = l.End(span, outcome(err)); err != nil {
			continue
		}
		for _, topic := range run.Topics {
			if topic.FirstID != nil {
				l.Collection(check.Collection{Span: span, Topic: topic.Topic, First: topic.FirstID.Seq})
			}
		}
	}
	return nil
}

// tails follows a topic, with a new connection after so many events (0: when it breaks), until it has had what was there
// when the load had ended, or nothing more comes.
func (l *load) tails(loaded <-chan struct{}, name, topic string, events int) error {
	stream := check.Stream{Name: name, Starts: map[string]int64{topic: 0}, Whole: true}
	defer func() { l.Stream(stream) }()
	next, last := int64(0), ""
	ctx, done := context.WithCancel(context.Background())
	defer done()
	go l.endTail(ctx, done, loaded, name, topic)
	for ctx.Err() == nil {
		var options []client.StreamOption
		if last != "" {
			options = append(options, client.LastEventID(last))
		}
		connected := l.Now()
		// The second server is not killed: who stays with it has no other chance to hear of what it has missed.
		events := events
		s := l.servers[1]
		if events > 0 {
			s = l.anyServer()
		}
		e, err := s.Tail(ctx, client.TailOptions{Topics: []string{topic}, Start: "earliest"}, options...)
		if err != nil {
			pause(ctx, 20*time.Millisecond)
			continue
		}
		stream.Connected = append(stream.Connected, connected)
		for n := 0; events == 0 || n < events; n++ {
			event, err := e.Next()
			if err != nil {
				break
			}
			last = event.ID
			got := check.Event{Stream: name, Connection: len(stream.Connected), Topic: topic}
			switch event.Type {
			case "log":
				var log client.TailLog
				if err := event.Decode(&log); err != nil {
					return err
				}
				got.Logs = []check.Log{{ID: log.ID, Value: valueOf(log.Body)}}
				next = log.ID.Seq + 1
			case "gap":
				var gap client.Gap
				if err := event.Decode(&gap); err != nil {
					return err
				}
				got.Gap = &check.Gap{Requested: next}
				if _, err := fmt.Sscanf(gap.ResumedAt, ":%d", &got.Gap.ResumedAt); err != nil {
					id, err := api.ParseID(gap.ResumedAt)
					if err != nil {
						return err
					}
					got.Gap.ResumedAt = id.Seq
				}
				next = max(next, got.Gap.ResumedAt)
			}
			l.Event(got)
			l.reached(name, next-1)
		}
		e.Close()
	}
	return nil
}

// endTail ends a tail that waits for news.
func (l *load) endTail(ctx context.Context, done context.CancelFunc, loaded <-chan struct{}, name, topic string) {
	defer done()
	select {
	case <-loaded:
	case <-ctx.Done():
	}
	before, since := l.head(name), time.Now()
	for time.Since(since) < silence && l.head(name) < l.head(topic) && pause(ctx, 20*time.Millisecond) {
		if now := l.head(name); now != before {
			before, since = now, time.Now()
		}
	}
}

// lives acks what the stream of a liveProc brings, or goes away and comes back instead.
func (l *load) lives(ctx context.Context, name string) error {
	made := check.Proc{Topic: "in", Start: -1, Created: l.Begin(name)}
	last := ""
	for ctx.Err() == nil {
		var options []client.StreamOption
		if last != "" {
			options = append(options, client.LastEventID(last))
		}
		e, err := l.anyServer().TopicLive(ctx, "in", client.LiveOptions{Mode: api.ModeAll, Count: 4}, options...)
		if err != nil {
			pause(ctx, 20*time.Millisecond)
			continue
		}
		for {
			event, err := e.Next()
			if err != nil {
				break
			}
			last = e.LastEventID()
			switch event.Type {
			case "liveproc":
				var p api.Proc
				if err := event.Decode(&p); err != nil {
					return err
				}
				if made.Name == "" {
					made.Name, made.Created = p.Name, l.End(made.Created, check.OK)
				}
			case "logs":
				var claimed api.Claimed
				if err := event.Decode(&claimed); err != nil {
					return err
				}
				claimed.Topic = "in"
				l.handed(l.End(check.Span{Client: name}, check.OK), check.ByStream, false, &claimed)
				pause(ctx, 15*time.Millisecond) // the next claim will have more logs
				if rand.IntN(3) > 0 {
					l.acks(name, l.anyServer(), &claimed, nil, false)
					continue
				}
			}
			if event.Type != "liveproc" {
				break
			}
		}
		e.Close()
	}
	if made.Name != "" {
		l.mu.Lock()
		l.procs = append(l.procs, made)
		l.mu.Unlock()
	}
	return nil
}

// sql runs a statement in the database.
func (l *load) sql(ctx context.Context, statement string) error {
	conn, err := pgx.Connect(ctx, l.database)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	_, err = conn.Exec(ctx, statement)
	return err
}

// whispers commits to a topic that nothing else happens in, while the servers do not hear each other.
func (l *load) whispers(ctx context.Context, name string) error {
	for again := true; again; {
		again = pause(ctx, 800*time.Millisecond) // and once more when the load has ended
		request, cancel := request()
		err := l.sql(request, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
			WHERE datname = current_database() AND query LIKE 'LISTEN%'`)
		cancel()
		if err != nil {
			return err
		}
		l.commit(name, l.servers[0], "", []string{"quiet"})
	}
	return nil
}

// goesWrong takes answers, connections, and a server away.
func (l *load) goesWrong(ctx context.Context) error {
	for _, fault := range []func(context.Context) error{l.loseAnswers, l.cutLanes, l.killServer, l.loseAnswers} {
		if !l.progress(ctx) {
			break
		}
		if err := fault(ctx); err != nil {
			return err
		}
	}
	l.progress(ctx)
	return nil
}

func (l *load) loseAnswers(ctx context.Context) error {
	for range 4 { // not all of them are those of commits
		select {
		case <-l.servers[0].wire.loseAnswer():
		case <-l.servers[0].over(): // it has killed itself
			if err := l.servers[0].start(); err != nil {
				return err
			}
		case <-ctx.Done():
			return nil
		}
	}
	return nil
}

func (l *load) cutLanes(ctx context.Context) error {
	return l.sql(ctx, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
		WHERE datname = current_database() AND application_name LIKE '%lane%'`)
}

func (l *load) killServer(context.Context) error {
	l.servers[0].kill()
	return l.servers[0].start()
}

// progress waits until clients have done some more, also the slow ones.
func (l *load) progress(ctx context.Context) bool {
	for until := l.committed.Load() + progress; l.committed.Load() < until; {
		if !pause(ctx, 20*time.Millisecond) {
			return false
		}
	}
	return pause(ctx, 300*time.Millisecond)
}

// finish takes down what is left.
func (l *load) finish(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	s := l.servers[1]
	heads := map[string]int64{}
	for _, name := range topics {
		topic, err := s.Topic(ctx, name)
		if err != nil {
			return err
		}
		final := check.Topic{First: topic.Committed, Head: topic.Committed}
		for log, err := range s.RangeAll(ctx, name, client.RangeOptions{}) {
			if err != nil {
				return err
			}
			final.Logs = append(final.Logs, check.Log{ID: log.ID, Value: valueOf(log.Body)})
		}
		if len(final.Logs) > 0 {
			final.First = final.Logs[0].ID.Seq
		}
		heads[name] = final.Head
		l.Topic(name, final)
	}
	for _, p := range l.procs {
		proc, err := s.InspectProc(ctx, p.Name)
		if err != nil {
			return err
		}
		p.Position = heads[p.Topic] - proc.Lag
		l.Proc(p)
	}
	return nil
}
