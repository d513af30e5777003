package check

import (
	"cmp"
	"slices"
)

// checkAcks checks that acks are those of live claims, and that they go through the topic in order, each log once.
func (x *index) checkAcks() {
	for _, p := range x.sortedProcs() {
		x.checkTokens(p)
		if len(p.seeks) > 0 { // where the proc went then is for checkProcs
			continue
		}
		x.checkDeliveries(p)
		x.checkCoverage(p)
	}
}

// checkTokens looks for requests that were carried out with the token of a claim that had ended.
func (x *index) checkTokens(p *proc) {
	// ends[i] is the claim of those from i on that was there first.
	ends := make([]*claim, len(p.claims))
	for i := len(p.claims) - 1; i >= 0; i-- {
		ends[i] = p.claims[i]
		if i+1 < len(ends) && ends[i+1].end < ends[i].end {
			ends[i] = ends[i+1]
		}
	}
	for _, c := range p.claims {
		var next *claim // the first one that was made after c
		if i, _ := slices.BinarySearchFunc(p.claims, c.end, func(b *claim, m Moment) int { return cmp.Compare(b.begin, m) }); i < len(ends) {
			next = ends[i]
		}
		for _, a := range c.acks {
			if a.Outcome == OK && !repeats(c, a) {
				x.checkLives(c, next, "an ack", a.Span)
			}
		}
		for _, r := range c.reclaims {
			if r.Outcome == OK {
				x.checkLives(c, next, "a reclaim", r.Span)
				x.checkNotAcked(c, "a reclaim", r.Span)
			}
		}
		for _, e := range c.extends {
			if e.Outcome == OK {
				x.checkLives(c, next, "an extension", e.Span)
				x.checkNotAcked(c, "an extension", e.Span)
			}
		}
	}
}

// repeats reports whether a may repeat another ack of c.
func repeats(c *claim, a *ack) bool {
	return slices.ContainsFunc(c.acks, func(b *ack) bool { return b != a && b.done != no && b.Begin < a.End })
}

// checkLives checks that c may have lived at a moment of s. next is the claim that was made first after it.
func (x *index) checkLives(c, next *claim, what string, s Span) {
	if next != nil && next != c && next.end < s.Begin {
		x.addf(LostToken, "proc %s: %s with %s by %s was carried out; %s (%d to %d) had been handed out after it, by %s",
			c.Proc, what, c.Token, s, next.Token, next.first, next.last, at(next.end))
		return
	}
	for _, r := range c.reclaims {
		if r.Outcome == OK && r.End < s.Begin {
			x.addf(LostToken, "proc %s: %s with %s by %s was carried out; it had been reclaimed by %s", c.Proc, what, c.Token, s, r.Span)
			return
		}
	}
	extended := slices.ContainsFunc(c.extends, func(e *Extend) bool { return e.Outcome != Failed && e.Begin < s.End })
	if c.expires != Never && c.expires+x.ClockSkew < s.Begin && !extended && !c.proc.Disabled {
		x.addf(LostToken, "proc %s: %s with %s by %s was carried out; it had expired at %s", c.Proc, what, c.Token, s, at(c.expires))
	}
}

func (x *index) checkNotAcked(c *claim, what string, s Span) {
	if done, by := x.acked(c); done == yes && by < s.Begin {
		x.addf(LostToken, "proc %s: %s with %s by %s was carried out; it had been acked by %s", c.Proc, what, c.Token, s, at(by))
	}
}

// step is an ack that moved a proc, or may have.
type step struct {
	claim *claim
	when  Moment
}

// checkDeliveries checks that no claim goes back behind what had been acked, or passes over what cannot have been.
func (x *index) checkDeliveries(p *proc) {
	var certain, possible []step
	for _, c := range p.claims {
		if done, by := x.acked(c); done == yes && by != Never {
			certain = append(certain, step{c, by})
		}
		if begun := c.begun(); begun != Never {
			possible = append(possible, step{c, begun})
		}
	}
	byWhen := func(a, b step) int { return cmp.Compare(a.when, b.when) }
	slices.SortFunc(certain, byWhen)
	slices.SortFunc(possible, byWhen)

	var furthest *claim
	next := 0
	for _, c := range p.claims { // by begin
		for ; next < len(certain) && certain[next].when < c.begin; next++ {
			if furthest == nil || certain[next].claim.last > furthest.last {
				furthest = certain[next].claim
			}
		}
		if furthest != nil && c.first <= furthest.last {
			x.addf(AckedTwice, "proc %s: %d to %d were handed out to %s as %s; %s (%d to %d) had been acked",
				p.Name, c.first, c.last, c.Span, c.Token, furthest.Token, furthest.first, furthest.last)
		}
	}

	if p.Start < 0 {
		return
	}
	byEnd := slices.Clone(p.claims)
	slices.SortFunc(byEnd, func(a, b *claim) int { return cmp.Compare(a.end, b.end) })
	reach := p.Start
	next = 0
	for _, c := range byEnd {
		for ; next < len(possible) && possible[next].when <= c.end; next++ {
			reach = max(reach, possible[next].claim.last+1)
		}
		if c.first > reach {
			x.addf(Skipped, "proc %s: %d to %d were handed out to %s as %s; nothing from %d on can have been acked",
				p.Name, c.first, c.last, c.Span, c.Token, reach)
		}
	}
}

// checkCoverage checks that the acks that were carried out lie side by side, from the proc's start to its position.
func (x *index) checkCoverage(p *proc) {
	var done []stretch
	optional := map[int64][]int64{} // where other acks may have led, by where they begin
	for _, c := range p.claims {
		certain, by := x.acked(c)
		switch certain {
		case no:
		case maybe:
			optional[c.first] = append(optional[c.first], c.last+1)
		case yes:
			done = append(done, stretch{first: c.first, last: c.last, begin: c.begun(), end: by, claim: c})
		}
	}
	disordered(done, func(former, latter *stretch) { // sorts by first
		if former.first > latter.last {
			x.addf(Disorder, "proc %s: %d to %d were acked by %s; the ack of %d to %d began later, at %s",
				p.Name, former.first, former.last, at(former.end), latter.first, latter.last, at(latter.begin))
		}
	})
	start := p.Start
	for _, c := range p.claims {
		if p.Start < 0 && (start < 0 || c.first < start) {
			start = c.first
		}
	}
	if start < 0 { // nothing was handed out
		return
	}
	reach := start
	for i := range done {
		s := &done[i]
		if s.first < reach {
			x.overlap(p, done[:i], s)
		} else if !leads(optional, reach, s.first) {
			x.skipped(p, reach, s.first)
		}
		reach = max(reach, s.last+1)
	}
	switch {
	case p.Position < 0 || p.Destroyed != nil:
	case p.Position < reach:
		x.addf(AckUndone, "proc %s stands at %d at the end; everything up to %d was acked", p.Name, p.Position, reach-1)
	case !leads(optional, reach, p.Position):
		x.skipped(p, reach, p.Position)
	}
	if p.Whole && p.Position >= 0 && p.Position < p.topic.Head {
		x.addf(Skipped, "proc %s stands at %d at the end, though it was run until its lag was 0; the topic's head is %d", p.Name, p.Position, p.topic.Head)
	}
}

// overlap tells of an ack of logs that an earlier one has.
func (x *index) overlap(p *proc, before []stretch, s *stretch) {
	other := &before[len(before)-1]
	for i := range before {
		if before[i].last >= s.first {
			other = &before[i]
			break
		}
	}
	w, v := s.claim.output(), other.claim.output()
	if w != nil && w == v && s.first == other.first && s.last == other.last {
		return // attempts of one range that were answered alike: one of them was carried out
	}
	kind := AckedTwice
	if w != nil && v != nil {
		kind = OutputTwice
	}
	x.addf(kind, "proc %s: %d to %d were acked with %s (handed out to %s), and %d to %d with %s (to %s)", p.Name,
		other.first, other.last, other.claim.Token, other.claim.Span, s.first, s.last, s.claim.Token, s.claim.Span)
}

// output is what an ack of c committed.
func (c *claim) output() *write {
	for _, a := range c.acks {
		if a.done == yes && a.write != nil {
			return a.write
		}
	}
	return nil
}

// skipped tells of logs from one seq up to another that a proc has passed without an ack of them.
func (x *index) skipped(p *proc, from, to int64) {
	for _, c := range p.claims {
		if c.first < from || c.last >= to {
			continue
		}
		for _, a := range c.acks {
			if a.done == no && a.Outcome == Unknown && a.write != nil {
				x.addf(OutputLost, "proc %s went from %d to %d; of the ack of %d to %d by %s the output is not there, %q …",
					p.Name, from, to, c.first, c.last, a.Span, a.Output[0].Value)
				return
			}
		}
	}
	x.addf(Skipped, "proc %s went from %d to %d; no acks lead there", p.Name, from, to)
}

// leads reports whether steps lead from one seq to another one exactly.
func leads(steps map[int64][]int64, from, to int64) bool {
	seen := map[int64]bool{from: true}
	for todo := []int64{from}; len(todo) > 0; {
		at := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if at == to {
			return true
		}
		for _, next := range steps[at] {
			if next <= to && !seen[next] {
				seen[next] = true
				todo = append(todo, next)
			}
		}
	}
	return false
}
