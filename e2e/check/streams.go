package check

import (
	"cmp"
	"slices"
)

// checkStreams checks that each tail had every log of each of its topics once and in order, over all its connections.
func (x *index) checkStreams() {
	byStream := x.events()
	for i := range x.Streams {
		s := &x.Streams[i]
		cursors := make(map[string]*cursor, len(s.Starts))
		for name, start := range s.Starts {
			cursors[name] = &cursor{next: start}
		}
		for _, e := range byStream[s.Name] {
			t := x.find(e.Topic)
			if t == nil {
				continue
			}
			c, ok := cursors[e.Topic]
			if !ok {
				x.addf(StreamMixed, "stream %s: at %s a log of topic %s, which it does not follow", s.Name, at(e.At), e.Topic)
				continue
			}
			x.checkEvent(s, t, e, c)
		}
		for _, t := range x.sorted() {
			c, ok := cursors[t.name]
			if ok && s.Whole && c.next < t.Head && (c.next >= 0 || t.First < t.Head) {
				x.addf(StreamLoss, "stream %s of topic %s had everything up to %d when it was closed; the topic's head is %d",
					s.Name, t.name, c.next-1, t.Head)
			}
		}
		delete(byStream, s.Name)
	}
	for name, events := range byStream {
		x.addf(Unsound, "there are %d events of stream %s, of which nothing is known", len(events), name)
	}
}

// events are the events of each stream, as they came.
func (x *index) events() map[string][]*Event {
	byStream := map[string][]*Event{}
	for i := range x.Events {
		e := &x.Events[i]
		byStream[e.Stream] = append(byStream[e.Stream], e)
	}
	for _, events := range byStream {
		slices.SortStableFunc(events, func(a, b *Event) int {
			return cmp.Or(cmp.Compare(a.Connection, b.Connection), cmp.Compare(a.At, b.At))
		})
	}
	return byStream
}

// cursor is where a stream is in a topic.
type cursor struct {
	next   int64 // what is to come; -1: anything
	passed []run // what did not come
}

// run is a run of seqs, last not included.
type run struct{ first, last int64 }

// checkEvent checks one event of a stream, and moves its cursor.
func (x *index) checkEvent(s *Stream, t *topic, e *Event, c *cursor) {
	if g := e.Gap; g != nil {
		if g.ResumedAt <= c.next || g.ResumedAt > t.First {
			x.addf(StreamGap, "stream %s of topic %s, connection %d, at %s: a gap from %d to %d; it was to go on at %d, and GC took the logs up to %d",
				s.Name, t.name, e.Connection, at(e.At), g.Requested, g.ResumedAt, c.next, t.First-1)
		}
		c.next = max(c.next, g.ResumedAt)
		return
	}
	for _, l := range e.Logs {
		seq := l.ID.Seq
		switch {
		case c.next < 0 || seq == c.next:
		case seq > c.next:
			x.addf(StreamLoss, "stream %s of topic %s, connection %d, at %s: %d where %d was to come", s.Name, t.name, e.Connection, at(e.At), seq, c.next)
			c.passed = append(c.passed, run{c.next, seq})
		case slices.ContainsFunc(c.passed, func(r run) bool { return r.first <= seq && seq < r.last }):
			x.addf(StreamMixed, "stream %s of topic %s, connection %d, at %s: %d comes after %d", s.Name, t.name, e.Connection, at(e.At), seq, c.next-1)
			continue
		default:
			x.addf(StreamTwice, "stream %s of topic %s, connection %d, at %s: %d again, after everything up to %d", s.Name, t.name, e.Connection, at(e.At), seq, c.next-1)
			continue
		}
		c.next = seq + 1
	}
}
