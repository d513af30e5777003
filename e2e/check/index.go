package check

import (
	"cmp"
	"slices"
	"time"

	"pipeproc/api"
)

// index is the history, arranged for the checks.
type index struct {
	*History
	*report
	topics  map[string]*topic
	writes  []*write
	origin  map[string]place // by value
	procs   map[string]*proc
	tokens  map[string]*claim
	streams map[string]*Stream
}

// topic is what is known of a topic.
type topic struct {
	Topic
	name string
	logs []known // by seq, up to the head
}

// known is what is known of a log. Of one that GC took nobody may know anything.
type known struct {
	ts       int64
	value    string
	by       string // who told of it first; "" for nobody
	seen     Moment // the first time that it had been seen
	retained bool   // it is there at the end
}

func (k *known) isKnown() bool { return k.by != "" }

// atEnd is who sees what a topic holds at the end.
const atEnd = "the end"

// write is a commit with all its repeats, or what an ack commits.
type write struct {
	Span          // of all of it: from the first begin to the moment at which it had been carried out for certain
	what   string // for evidence
	key    string // that repeats share
	proc   string // of an ackCommit
	logs   []NewLog
	acked  []int64 // the seqs that an answer told; nil without one
	found  []int64 // the seqs at which the logs are; -1: nowhere
	most   int     // how often it may be there
	copies int     // how many logs of it are there
}

// place is a log of a write.
type place struct {
	write *write
	log   int
}

// wall is the moment of a time of the database's clock.
func (h *History) wall(ms int64) Moment { return time.UnixMilli(ms).Sub(h.Began) }

func newIndex(h *History, r *report) *index {
	x := &index{History: h, report: r, topics: make(map[string]*topic, len(h.Topics)),
		origin: make(map[string]place, len(h.Commits)+len(h.Acks))}
	for name, final := range h.Topics {
		x.addTopic(name, final)
	}
	for i := range h.Commits {
		x.addCommit(&h.Commits[i])
	}
	for i := range h.Acks {
		if h.Acks[i].Output != nil {
			x.addOutput(&h.Acks[i])
		}
	}
	x.observe()
	x.addProcs()
	return x
}

func (x *index) addTopic(name string, final Topic) {
	if final.First < 0 || final.First > final.Head {
		x.addf(Unsound, "topic %s is to begin at %d and end at %d", name, final.First, final.Head)
		final.First, final.Head = 0, 0
	}
	t := &topic{Topic: final, name: name, logs: make([]known, final.Head)}
	x.topics[name] = t
	for _, l := range final.Logs {
		if l.ID.Seq < t.First || l.ID.Seq >= t.Head {
			x.addf(Hole, "topic %s begins at %d and ends at %d, and holds %s", name, t.First, t.Head, l.ID)
			continue
		}
		x.see(t, l, atEnd, Never)
		t.logs[l.ID.Seq].retained = true
	}
}

// see takes down that somebody saw a log.
func (x *index) see(t *topic, l Log, by string, when Moment) {
	if l.ID.Seq >= t.Head {
		x.addf(Missing, "%s in topic %s, %q, was seen by %s; at the end the topic's head is %d", l.ID, t.name, l.Value, by, t.Head)
		return
	}
	k := &t.logs[l.ID.Seq]
	switch {
	case !k.isKnown():
		*k = known{ts: l.ID.TS, value: l.Value, by: by, seen: when}
	case k.ts != l.ID.TS || k.value != l.Value:
		x.addf(TwoBodies, "seq %d of topic %s: %s saw %d %q, %s saw %d %q", l.ID.Seq, t.name, k.by, k.ts, k.value, by, l.ID.TS, l.Value)
	default:
		k.seen = min(k.seen, when)
	}
}

// observe takes down what everybody saw.
func (x *index) observe() {
	for i := range x.Commits {
		c := &x.Commits[i]
		x.seeAcked(c.Span, c.Logs, c.IDs)
	}
	for i := range x.Acks {
		a := &x.Acks[i]
		x.seeAcked(a.Span, a.Output, a.IDs)
	}
	for i := range x.Reads {
		r := &x.Reads[i]
		x.seeAll(r.Topic, r.Logs, r.Client, r.End)
	}
	for i := range x.Events {
		e := &x.Events[i]
		x.seeAll(e.Topic, e.Logs, e.Stream, e.At)
	}
	topics := make(map[string]string, len(x.Procs))
	for i := range x.Procs {
		topics[x.Procs[i].Name] = x.Procs[i].Topic
	}
	for i := range x.Claims {
		c := &x.Claims[i]
		if name, ok := topics[c.Proc]; ok {
			x.seeAll(name, c.Logs, c.Client, c.End)
		}
	}
}

func (x *index) seeAcked(s Span, logs []NewLog, ids []api.ID) {
	if s.Outcome != OK || len(ids) != len(logs) { // the latter is told where requests are added
		return
	}
	for i, id := range ids {
		if t := x.find(logs[i].Topic); t != nil {
			x.see(t, Log{id, logs[i].Value}, s.Client, s.End)
		}
	}
}

func (x *index) seeAll(name string, logs []Log, by string, when Moment) {
	if len(logs) == 0 {
		return
	}
	if t := x.find(name); t != nil {
		for _, l := range logs {
			x.see(t, l, by, when)
		}
	}
}

// find answers a topic; nil, which is a mistake of the test, when nobody told what it holds at the end.
func (x *index) find(name string) *topic {
	t, ok := x.topics[name]
	if !ok {
		x.topics[name] = nil
	}
	if t == nil && !ok {
		x.addf(Unsound, "it is not known what topic %s holds at the end", name)
	}
	return t
}

func (x *index) addCommit(c *Commit) {
	key := ""
	if c.Key != "" {
		key = "key " + c.Key
	}
	x.addWrite(c.Span, "a commit", key, "", c.Logs, c.IDs, max(1, c.Sent))
}

func (x *index) addOutput(a *Ack) {
	x.addWrite(a.Span, "an ackCommit", "proc "+a.Proc, a.Proc, a.Output, a.IDs, 1)
}

func (x *index) addWrite(s Span, what, key, proc string, logs []NewLog, ids []api.ID, most int) {
	if len(logs) == 0 {
		return
	}
	if s.Outcome != OK {
		ids = nil
	} else if len(ids) != len(logs) {
		kind := Missing
		if proc != "" {
			kind = OutputLost
		}
		x.addf(kind, "%s of %d logs (%q …) by %s was answered with %d ids", what, len(logs), logs[0].Value, s, len(ids))
		ids = nil
	}
	var w *write
	if of, ok := x.origin[logs[0].Value]; ok {
		w = of.write
		if key == "" || w.key != key || !slices.Equal(w.logs, logs) {
			x.addf(Unsound, "%q was committed by %s and by %s", logs[0].Value, w.Span, s)
			return
		}
		x.addRepeat(w, s)
	} else {
		s.End = s.latest()
		w = &write{Span: s, what: what, key: key, proc: proc, logs: logs, most: most}
		w.found = make([]int64, len(logs))
		for i := range logs {
			w.found[i] = -1
			if of, ok := x.origin[logs[i].Value]; ok {
				x.addf(Unsound, "%q was committed by %s and by %s", logs[i].Value, of.write.Span, s)
				continue
			}
			x.origin[logs[i].Value] = place{w, i}
		}
		x.writes = append(x.writes, w)
	}
	x.addIDs(w, s, ids)
}

// addRepeat widens w's span by that of a repeat.
func (x *index) addRepeat(w *write, s Span) {
	switch {
	case s.Outcome == Failed && w.Outcome != Failed: // another answer says more
	case w.Outcome == Failed && s.Outcome != Failed:
		s.End = s.latest()
		w.Span = s
	default:
		w.Begin, w.End = min(w.Begin, s.Begin), min(w.End, s.latest())
		if s.Outcome == OK {
			w.Outcome = OK
		}
	}
}

func (x *index) addIDs(w *write, s Span, ids []api.ID) {
	switch {
	case ids == nil:
	case w.acked == nil:
		w.acked = make([]int64, len(ids))
		for i, id := range ids {
			w.acked[i] = id.Seq
		}
	default:
		for i, id := range ids {
			if w.acked[i] != id.Seq {
				x.addf(RepeatDiffers, "%s of %q (%s) was answered with seq %d, and its repeat by %s with %d",
					w.what, w.logs[i].Value, w.Span, w.acked[i], s, id.Seq)
			}
		}
	}
}

// each calls f for every known log, by seq.
func (t *topic) each(f func(seq int64, k *known)) {
	if t == nil {
		return
	}
	for seq := range t.logs {
		if t.logs[seq].isKnown() {
			f(int64(seq), &t.logs[seq])
		}
	}
}

// sorted are the topics by name, so that reports are the same each time.
func (x *index) sorted() []*topic {
	topics := make([]*topic, 0, len(x.topics))
	for _, t := range x.topics {
		if t != nil {
			topics = append(topics, t)
		}
	}
	slices.SortFunc(topics, func(a, b *topic) int { return cmp.Compare(a.name, b.name) })
	return topics
}
