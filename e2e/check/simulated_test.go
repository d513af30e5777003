package check_test

import (
	"container/heap"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"pipeproc/api"
	"pipeproc/e2e/check"
)

// simulation is a service that keeps its promises, with its clients, on a clock of its own. Each request takes effect at a
// moment between its begin and its end; an answer may be lost, before the effect or after it.
type simulation struct {
	random *rand.Rand
	now    time.Duration
	until  time.Duration // nothing new begins after it
	lost   float64       // how many answers are
	queue  moments
	number int
	// following is how many tails there still are; each of them has one moment in the queue, or is what happens now.
	following int

	topics   map[string]*simTopic
	procs    map[string]*simProc
	keys     map[string][]api.ID
	recorder *check.History
}

type simTopic struct {
	first int64
	logs  []check.Log
}

type simProc struct {
	topic    string
	position int64
	token    string
	first    int64 // of the live claim
	last     int64
	expires  time.Duration
	attempt  int
	acked    string // the last applied ack's token
	ids      []api.ID
}

// moment is something that happens at a time.
type moment struct {
	at time.Duration
	do func()
}

type moments []moment

func (m moments) Len() int           { return len(m) }
func (m moments) Less(i, j int) bool { return m[i].at < m[j].at }
func (m moments) Swap(i, j int)      { m[i], m[j] = m[j], m[i] }
func (m *moments) Push(one any)      { *m = append(*m, one.(moment)) }
func (m *moments) Pop() any {
	last := len(*m) - 1
	one := (*m)[last]
	*m = (*m)[:last]
	return one
}

// reclaimAfter is the time-out of a claim.
const reclaimAfter = 20 * time.Millisecond

// simulate runs a service for that long.
func simulate(seed uint64, length time.Duration, committers, workers, tails int, lost float64) check.History {
	s := &simulation{random: rand.New(rand.NewPCG(seed, 0)), until: length, lost: lost, topics: map[string]*simTopic{},
		procs: map[string]*simProc{}, keys: map[string][]api.ID{}}
	s.recorder = &check.History{Began: time.UnixMilli(epoch), ClockSkew: time.Millisecond, WakeUp: 5 * time.Millisecond}
	for _, name := range []string{"a", "b", "out"} {
		s.topics[name] = &simTopic{}
	}
	for i := range committers {
		s.after(0, func() { s.commits(fmt.Sprint("committer", i)) })
	}
	for i := range workers {
		s.after(0, func() { s.works(fmt.Sprint("worker", i), fmt.Sprint("proc", i/2), i%4 == 0) })
	}
	for i := range (workers + 1) / 2 {
		s.procs[fmt.Sprint("proc", i)] = &simProc{topic: []string{"a", "b"}[i%2]}
	}
	for i := range tails {
		s.after(0, func() { s.tails(fmt.Sprint("tail", i), []string{"a", "b", "out"}[i%3]) })
	}
	s.after(0, func() { s.reads("reader") })
	s.after(0, func() { s.collects("gc") })
	for len(s.queue) > 0 {
		next := heap.Pop(&s.queue).(moment)
		s.now = next.at
		next.do()
	}
	s.finish()
	return *s.recorder
}

func (s *simulation) after(d time.Duration, do func()) { heap.Push(&s.queue, moment{s.now + d, do}) }

// some is a random time up to 200 µs.
func (s *simulation) some() time.Duration { return time.Duration(1 + s.random.Int64N(200_000)) }

// request lets something take effect and answers its span to done, unless the answer is lost: then effect may come late, or
// never.
func (s *simulation) request(client string, effect func() check.Outcome, done func(check.Span)) {
	span := check.Span{Client: client, Begin: s.now}
	if s.random.Float64() >= s.lost {
		s.after(s.some(), func() {
			span.Outcome = effect()
			s.after(s.some(), func() {
				span.End = s.now
				done(span)
			})
		})
		return
	}
	if s.random.IntN(2) == 0 {
		s.after(time.Duration(s.random.IntN(4))*s.some(), func() { effect() })
	}
	s.after(s.some(), func() {
		span.End, span.Outcome = s.now, check.Unknown
		done(span)
	})
}

func (s *simulation) value() string {
	s.number++
	return fmt.Sprint("value ", s.number)
}

// add commits logs.
func (s *simulation) add(logs []check.NewLog) (ids []api.ID) {
	ts := epoch + s.now.Milliseconds()
	for _, l := range logs {
		if t := s.topics[l.Topic]; len(t.logs) > 0 {
			ts = max(ts, t.logs[len(t.logs)-1].ID.TS)
		}
	}
	for _, l := range logs {
		t := s.topics[l.Topic]
		id := api.ID{TS: ts, Seq: int64(len(t.logs))}
		t.logs = append(t.logs, check.Log{ID: id, Value: l.Value})
		ids = append(ids, id)
	}
	return ids
}

// commits commits, some of it to two topics, some under a key until it is answered.
func (s *simulation) commits(client string) {
	if s.now > s.until {
		return
	}
	logs := make([]check.NewLog, 1+s.random.IntN(3))
	for i := range logs {
		logs[i] = check.NewLog{Topic: []string{"a", "b"}[s.random.IntN(2)], Value: s.value()}
	}
	key := ""
	if s.random.IntN(3) == 0 {
		key = logs[0].Value
	}
	s.commit(client, key, logs)
}

func (s *simulation) commit(client, key string, logs []check.NewLog) {
	c := check.Commit{Key: key, Logs: logs}
	refused := s.random.IntN(50) == 0
	s.request(client, func() check.Outcome {
		ids, repeated := s.keys[key]
		switch {
		case refused && !repeated:
			return check.Failed
		case !repeated:
			ids = s.add(logs)
		}
		if key != "" {
			s.keys[key] = ids
		}
		c.IDs = ids
		return check.OK
	}, func(span check.Span) {
		c := c
		if c.Span = span; span.Outcome != check.OK {
			c.IDs = nil
		}
		s.recorder.Commits = append(s.recorder.Commits, c)
		if key != "" && (span.Outcome == check.Unknown || s.random.IntN(4) == 0) {
			s.commit(client, key, logs)
			return
		}
		s.after(s.some(), func() { s.commits(client) })
	})
}

// expire applies the time-out that is due.
func (p *simProc) expire(now time.Duration) {
	if p.token != "" && p.expires <= now {
		p.token = ""
		p.attempt++
	}
}

// works claims and acks, sometimes too late, sometimes twice, sometimes not at all.
func (s *simulation) works(client, proc string, output bool) {
	p := s.procs[proc]
	if s.now > s.until {
		return
	}
	var c *check.Claim
	s.request(client, func() check.Outcome {
		c = s.claim(proc)
		return check.OK
	}, func(span check.Span) {
		if c == nil || span.Outcome != check.OK {
			s.after(s.some(), func() { s.works(client, proc, output) })
			return
		}
		c.Span = span
		s.recorder.Claims = append(s.recorder.Claims, *c)
		pause := s.some()
		switch s.random.IntN(20) {
		case 0:
			pause = reclaimAfter + s.some() - s.some()
		case 1:
			s.after(pause, func() { s.reclaims(client, proc, c.Token) })
			s.after(2*pause, func() { s.works(client, proc, output) })
			return
		case 2:
			s.after(pause/2, func() { s.extends(client, p, c) })
		}
		s.after(pause, func() { s.acks(client, proc, c, output) })
	})
}

func (s *simulation) claim(proc string) *check.Claim {
	p := s.procs[proc]
	p.expire(s.now)
	t := s.topics[p.topic]
	if p.token != "" || p.position >= int64(len(t.logs)) {
		return nil
	}
	s.number++
	p.token, p.expires = fmt.Sprint("token ", s.number), s.now+reclaimAfter
	p.first, p.last = p.position, min(p.position+s.random.Int64N(3), int64(len(t.logs)-1))
	return &check.Claim{Proc: proc, Token: p.token, Attempt: p.attempt + 1, ExpiresAt: epoch + p.expires.Milliseconds(),
		Logs: slices.Clone(t.logs[p.first : p.last+1])}
}

func (s *simulation) reclaims(client, proc, token string) {
	r := check.Reclaim{Proc: proc, Token: token}
	s.request(client, func() check.Outcome {
		p := s.procs[proc]
		p.expire(s.now)
		if p.token != token {
			r.Lost = true
			return check.Failed
		}
		p.token = ""
		p.attempt++
		return check.OK
	}, func(span check.Span) {
		r := r
		r.Span, r.Lost = span, r.Lost && span.Outcome == check.Failed
		s.recorder.Reclaims = append(s.recorder.Reclaims, r)
	})
}

func (s *simulation) extends(client string, p *simProc, c *check.Claim) {
	e := check.Extend{Proc: c.Proc, Token: c.Token}
	s.request(client, func() check.Outcome {
		p.expire(s.now)
		if p.token != c.Token {
			e.Lost = true
			return check.Failed
		}
		p.expires = s.now + reclaimAfter
		e.ExpiresAt = epoch + p.expires.Milliseconds()
		return check.OK
	}, func(span check.Span) {
		e := e
		e.Span, e.Lost = span, e.Lost && span.Outcome == check.Failed
		s.recorder.Extends = append(s.recorder.Extends, e)
	})
}

// acks acks a claim, and again when it got no answer; with claimNext it goes on with the next one.
func (s *simulation) acks(client, proc string, c *check.Claim, output bool) {
	a := check.Ack{Proc: proc, Token: c.Token}
	if output {
		for range c.Logs {
			a.Output = append(a.Output, check.NewLog{Topic: "out", Value: s.value()})
		}
	}
	s.ack(client, a, output)
}

func (s *simulation) ack(client string, a check.Ack, output bool) {
	var next *check.Claim
	p, claimNext := s.procs[a.Proc], s.random.IntN(3) == 0
	s.request(client, func() check.Outcome {
		p.expire(s.now)
		switch {
		case p.token == a.Token:
			p.acked, p.token, p.position, p.attempt = p.token, "", p.last+1, 0
			p.ids = s.add(a.Output)
			if claimNext {
				next = s.claim(a.Proc)
			}
		case p.acked != a.Token:
			a.Lost = true
			return check.Failed
		}
		a.IDs = p.ids
		return check.OK
	}, func(span check.Span) {
		a := a
		a.Span, a.Lost = span, a.Lost && span.Outcome == check.Failed
		if span.Outcome != check.OK {
			a.IDs = nil
		}
		s.recorder.Acks = append(s.recorder.Acks, a)
		switch {
		case span.Outcome == check.Unknown && s.random.IntN(4) > 0:
			a.IDs = nil
			s.ack(client, a, output)
		case span.Outcome == check.OK && next != nil:
			next.Span, next.Via = span, check.ByAck
			s.recorder.Claims = append(s.recorder.Claims, *next)
			s.after(s.some(), func() { s.acks(client, a.Proc, next, output) })
		default:
			s.after(s.some(), func() { s.works(client, a.Proc, output) })
		}
	})
}

// reads reads ranges, both ways.
func (s *simulation) reads(client string) {
	if s.now > s.until {
		return
	}
	names := slices.Sorted(maps.Keys(s.topics))
	r := check.Read{Topic: names[s.random.IntN(len(names))], From: -1, Reverse: s.random.IntN(2) == 0}
	t := s.topics[r.Topic]
	if head := int64(len(t.logs)); t.first < head && s.random.IntN(2) == 0 {
		r.From = t.first + s.random.Int64N(head-t.first)
	}
	s.request(client, func() check.Outcome {
		head := int64(len(t.logs))
		from, most := r.From, 1+s.random.Int64N(50)
		if from >= 0 && from < t.first {
			return check.Failed
		}
		if r.Reverse {
			if from < 0 {
				from = head - 1
			}
			down := max(t.first-1, from-most)
			for seq := from; seq > down; seq-- {
				r.Logs = append(r.Logs, t.logs[seq])
			}
			r.More = down >= t.first
			return check.OK
		}
		from = max(from, t.first)
		r.Logs = slices.Clone(t.logs[from:min(head, from+most)])
		r.More = from+most < head
		return check.OK
	}, func(span check.Span) {
		r := r
		r.Span = span
		s.recorder.Reads = append(s.recorder.Reads, r)
		s.after(s.some(), func() { s.reads(client) })
	})
}

// tails follows a topic over many connections.
func (s *simulation) tails(name, topic string) {
	stream := check.Stream{Name: name, Starts: map[string]int64{topic: 0}, Whole: true}
	t, next := s.topics[topic], int64(0)
	s.following++
	var follow func()
	follow = func() {
		if next == int64(len(t.logs)) && len(s.queue) < s.following { // nothing else will happen
			s.following--
			s.recorder.Streams = append(s.recorder.Streams, stream)
			return
		}
		if len(stream.Connected) == 0 || s.random.IntN(50) == 0 {
			stream.Connected = append(stream.Connected, s.now)
		}
		e := check.Event{At: s.now, Stream: name, Connection: len(stream.Connected), Topic: topic}
		pause := s.some()
		switch {
		case next < t.first:
			e.Gap = &check.Gap{Requested: next, ResumedAt: t.first}
			next = t.first
			s.recorder.Events = append(s.recorder.Events, e)
		case next < int64(len(t.logs)):
			e.Logs = t.logs[next : next+1]
			next++
			s.recorder.Events = append(s.recorder.Events, e)
			pause /= 4
		}
		s.after(pause, follow)
	}
	follow()
}

// collects runs GC up to what all procs have acked.
func (s *simulation) collects(client string) {
	if s.now > s.until {
		return
	}
	var runs []check.Collection
	s.request(client, func() check.Outcome {
		for name, t := range s.topics {
			floor := max(0, int64(len(t.logs))-100)
			for _, p := range s.procs {
				if p.topic == name {
					floor = min(floor, p.position)
				}
			}
			t.first = max(t.first, floor)
			runs = append(runs, check.Collection{Topic: name, First: t.first})
		}
		return check.OK
	}, func(span check.Span) {
		for _, r := range runs {
			r.Span = span
			s.recorder.Collections = append(s.recorder.Collections, r)
		}
		s.after(20*s.some(), func() { s.collects(client) })
	})
}

func (s *simulation) finish() {
	s.recorder.Topics = map[string]check.Topic{}
	for name, t := range s.topics {
		s.recorder.Topics[name] = check.Topic{First: t.first, Head: int64(len(t.logs)), Logs: t.logs[t.first:]}
	}
	for name, p := range s.procs {
		s.recorder.Procs = append(s.recorder.Procs, check.Proc{Name: name, Topic: p.topic, Start: -s.random.Int64N(2), Position: p.position})
	}
}
