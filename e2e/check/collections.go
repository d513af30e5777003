package check

import (
	"cmp"
	"slices"
)

// checkCollections looks for logs that GC took before a proc had acked them (promise 7), by what each run told and by what
// is left at the end.
func (x *index) checkCollections() {
	byTopic := map[string][]*Collection{}
	for i := range x.Collections {
		if c := &x.Collections[i]; c.Outcome == OK && x.find(c.Topic) != nil {
			byTopic[c.Topic] = append(byTopic[c.Topic], c)
		}
	}
	for i := range x.Events { // a gap tells what GC took as well
		e := &x.Events[i]
		if s := x.stream(e.Stream); e.Gap != nil && s != nil && x.find(e.Topic) != nil {
			c := &Collection{Span: Span{Client: "the gap of " + e.Stream, End: e.At}, Topic: e.Topic, First: e.Gap.ResumedAt}
			if n := e.Connection; n > 0 && n <= len(s.Connected) {
				c.Begin = s.Connected[n-1]
			}
			byTopic[e.Topic] = append(byTopic[e.Topic], c)
		}
	}
	for _, t := range x.sorted() {
		slices.SortFunc(byTopic[t.name], func(a, b *Collection) int { return cmp.Compare(a.End, b.End) })
		if n := len(byTopic[t.name]); n > 0 && byTopic[t.name][n-1].First > t.First {
			x.addf(Missing, "GC by %s told that topic %s begins at %d; at the end it begins at %d",
				byTopic[t.name][n-1].Span, t.name, byTopic[t.name][n-1].First, t.First)
		}
	}
	for _, p := range x.sortedProcs() {
		x.checkFloor(p, byTopic[p.Topic])
	}
}

// checkFloor checks what GC left of the topic of p, while p existed.
func (x *index) checkFloor(p *proc, runs []*Collection) {
	if p.Created.Outcome != OK {
		return
	}
	start := p.Start
	if start < 0 { // then it is the first that was handed out
		if len(p.claims) == 0 || len(p.seeks) > 0 {
			return
		}
		start = p.claims[0].first
		for _, c := range p.claims {
			start = min(start, c.first)
		}
	}
	type move struct {
		when Moment
		to   int64
	}
	var moves []move
	for _, c := range p.claims {
		if begun := c.begun(); begun != Never {
			moves = append(moves, move{begun, c.last + 1})
		}
	}
	for _, s := range p.seeks {
		moves = append(moves, move{s.Begin, s.Position})
	}
	slices.SortFunc(moves, func(a, b move) int { return cmp.Compare(a.when, b.when) })
	reach, next := start, 0
	for _, r := range runs {
		for ; next < len(moves) && moves[next].when <= r.End; next++ {
			reach = max(reach, moves[next].to)
		}
		if p.Created.End < r.Begin && (p.Destroyed == nil || p.Destroyed.Begin > r.End) && r.First > reach {
			x.addf(CollectedUnread, "GC by %s took the logs of topic %s up to %d; proc %s, made at %s, can have acked those up to %d",
				r.Span, r.Topic, r.First-1, p.Name, at(p.Created.End), reach-1)
		}
	}
	for ; next < len(moves); next++ {
		reach = max(reach, moves[next].to)
	}
	if p.Position >= 0 {
		reach = min(reach, p.Position)
	}
	if p.Destroyed == nil && p.topic.First > reach {
		x.addf(CollectedUnread, "topic %s begins at %d at the end; proc %s, made at %s, has acked those up to %d",
			p.Topic, p.topic.First, p.Name, at(p.Created.End), reach-1)
	}
}
