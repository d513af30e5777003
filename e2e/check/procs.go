package check

import (
	"cmp"
	"math"
	"slices"
)

// proc is what is known of a proc.
type proc struct {
	*Proc
	topic  *topic
	claims []*claim // by begin
	seeks  []*Seek  // those that may have been carried out
}

// claim is one claim, however often its holder was told of it.
type claim struct {
	*Claim
	proc        *proc
	first, last int64
	begin, end  Moment // it was made between them
	expires     Moment // without an extension; Never
	acks        []*ack // with its token
	reclaims    []*Reclaim
	extends     []*Extend
}

// ack is one request to ack.
type ack struct {
	*Ack
	claim *claim
	write *write // its output
	done  certainty
}

// certainty tells whether something was carried out.
type certainty uint8

const (
	no certainty = iota
	maybe
	yes
)

func (x *index) addProcs() {
	x.procs, x.tokens = make(map[string]*proc, len(x.Procs)), make(map[string]*claim, len(x.Claims))
	for i := range x.Procs {
		p := &x.Procs[i]
		if x.procs[p.Name] != nil {
			x.addf(Unsound, "there are two procs %s", p.Name)
			continue
		}
		if t := x.find(p.Topic); t != nil {
			x.procs[p.Name] = &proc{Proc: p, topic: t}
		}
	}
	for i := range x.Claims {
		x.addClaim(&x.Claims[i])
	}
	for i := range x.Seeks {
		if s := &x.Seeks[i]; x.procs[s.Proc] != nil && s.Outcome != Failed {
			x.procs[s.Proc].seeks = append(x.procs[s.Proc].seeks, s)
		}
	}
	for i := range x.Reclaims {
		if c := x.holder(x.Reclaims[i].Proc, x.Reclaims[i].Token, x.Reclaims[i].Span); c != nil {
			c.reclaims = append(c.reclaims, &x.Reclaims[i])
		}
	}
	for i := range x.Extends {
		if c := x.holder(x.Extends[i].Proc, x.Extends[i].Token, x.Extends[i].Span); c != nil {
			c.extends = append(c.extends, &x.Extends[i])
		}
	}
	for i := range x.Acks {
		if c := x.holder(x.Acks[i].Proc, x.Acks[i].Token, x.Acks[i].Span); c != nil {
			c.acks = append(c.acks, &ack{Ack: &x.Acks[i], claim: c})
		}
	}
}

// holder is the claim of a token. Whoever sends one has got it before.
func (x *index) holder(proc, token string, s Span) *claim {
	c := x.tokens[token]
	if c == nil || c.Proc != proc {
		x.addf(Unsound, "%s sent a token %q for proc %s that nobody was given for it", s, token, proc)
		return nil
	}
	return c
}

func (x *index) addClaim(c *Claim) {
	p := x.procs[c.Proc]
	if p == nil {
		x.addf(Unsound, "nothing is known of proc %s, which %s claimed", c.Proc, c.Span)
		return
	}
	if c.Outcome != OK || c.Token == "" || len(c.Logs) == 0 {
		x.addf(Unsound, "a claim without token or logs: proc %s, %s", c.Proc, c.Span)
		return
	}
	for i := 1; i < len(c.Logs); i++ {
		if c.Logs[i].ID.Seq != c.Logs[i-1].ID.Seq+1 {
			x.addf(ClaimChanged, "claim %s of proc %s by %s has seq %d after %d", c.Token, c.Proc, c.Span, c.Logs[i].ID.Seq, c.Logs[i-1].ID.Seq)
			break
		}
	}
	first, last := c.Logs[0].ID.Seq, c.Logs[len(c.Logs)-1].ID.Seq
	if was := x.tokens[c.Token]; was != nil {
		if was.proc != p || was.first != first || was.last != last || was.Call != c.Call {
			x.addf(ClaimChanged, "claim %s of proc %s was sent as %d to %d to %s, and as %d to %d of proc %s to %s",
				c.Token, was.Proc, was.first, was.last, was.Span, first, last, c.Proc, c.Span)
		}
		was.begin, was.end = min(was.begin, c.Begin), min(was.end, c.End)
		return
	}
	known := &claim{Claim: c, proc: p, first: first, last: last, begin: c.Begin, end: c.End, expires: Never}
	if c.ExpiresAt != 0 {
		known.expires = x.wall(c.ExpiresAt)
	}
	x.tokens[c.Token] = known
	p.claims = append(p.claims, known)
}

// judgeAcks finds out which acks were carried out, as far as that can be told: by the answer, or by the output.
func (x *index) judgeAcks() {
	for _, p := range x.procs {
		for _, c := range p.claims {
			for _, a := range c.acks {
				if len(a.Output) > 0 {
					a.write = x.origin[a.Output[0].Value].write
				}
				a.done = x.judge(a)
			}
		}
	}
	for _, p := range x.procs {
		x.tighten(p)
		slices.SortFunc(p.claims, func(a, b *claim) int { return cmp.Compare(a.begin, b.begin) })
	}
}

func (x *index) judge(a *ack) certainty {
	switch {
	case a.Outcome == OK:
		return yes
	case a.Outcome == Failed:
		return no
	case a.write == nil:
		return maybe
	case a.write.copies > 0:
		return yes
	}
	since := x.Began.Add(a.Begin - x.ClockSkew).UnixMilli()
	for _, l := range a.Output {
		if !x.topics[l.Topic].mayHaveTaken(since) {
			return no
		}
	}
	return maybe
}

// tighten bounds the begin of claims: one that begins at seq n was made after an ack up to n−1 had begun. Of those that
// nobody asked for (or that came with a repeated ack) it is the only bound.
func (x *index) tighten(p *proc) {
	if len(p.seeks) > 0 {
		return
	}
	begins := map[int64]Moment{}
	for _, c := range p.claims {
		for _, a := range c.acks {
			if was, ok := begins[c.last+1]; a.done != no && (!ok || a.Begin < was) {
				begins[c.last+1] = a.Begin
			}
		}
	}
	for _, c := range p.claims {
		begin, ok := begins[c.first]
		if !ok || begin > c.end {
			begin = 0
		}
		if c.Via == ByClaim {
			begin = max(begin, c.begin)
		}
		c.begin = begin
	}
}

// begun is the first moment at which c may have been acked; Never.
func (c *claim) begun() Moment {
	m := Never
	for _, a := range c.acks {
		if a.done != no {
			m = min(m, a.Begin)
		}
	}
	return m
}

// acked tells whether c was acked, and by when for certain.
func (x *index) acked(c *claim) (done certainty, by Moment) {
	by = Never
	for _, a := range c.acks {
		done = max(done, a.done)
		if a.Outcome == OK {
			by = min(by, a.End)
		}
		if a.done == yes && a.write != nil {
			for i, seq := range a.write.found {
				if seq >= 0 {
					by = min(by, x.topics[a.write.logs[i].Topic].logs[seq].seen)
				}
			}
		}
	}
	return done, by
}

// lives is the last moment at which c lives for certain, if nothing else ended it than what was asked for.
func (x *index) lives(c *claim) Moment {
	if c.Via == ByProcessor {
		return c.end
	}
	m := c.begun()
	for _, r := range c.reclaims {
		if r.Outcome != Failed {
			m = min(m, r.Begin)
		}
	}
	for _, s := range c.proc.seeks { // on a disabled proc it ends the claim
		m = min(m, s.Begin)
	}
	if c.proc.Destroyed != nil {
		m = min(m, c.proc.Destroyed.Begin)
	}
	if c.expires != Never {
		m = min(m, c.expires-x.ClockSkew)
	}
	return m
}

// sortedProcs are the procs by name.
func (x *index) sortedProcs() []*proc {
	procs := make([]*proc, 0, len(x.procs))
	for _, p := range x.procs {
		procs = append(procs, p)
	}
	slices.SortFunc(procs, func(a, b *proc) int { return cmp.Compare(a.Name, b.Name) })
	return procs
}

// checkClaims looks for claims that were made while another one lived.
func (x *index) checkClaims() {
	x.judgeAcks()
	for _, p := range x.sortedProcs() {
		byEnd := slices.Clone(p.claims)
		slices.SortFunc(byEnd, func(a, b *claim) int { return cmp.Compare(a.end, b.end) })
		next, longest, longestLives := 0, (*claim)(nil), Moment(math.MinInt64)
		for _, b := range p.claims {
			for ; next < len(byEnd) && byEnd[next].end < b.begin; next++ {
				if lives := x.lives(byEnd[next]); lives > longestLives {
					longest, longestLives = byEnd[next], lives
				}
			}
			if longest != nil && longest != b && b.end < longestLives {
				x.addf(TwoClaims, "proc %s: %s (%d to %d) was handed out to %s; %s (%d to %d) was handed out before, by %s, and lives until %s",
					p.Name, b.Token, b.first, b.last, b.Span, longest.Token, longest.first, longest.last, at(longest.end), at(longestLives))
			}
		}
	}
}

// checkCalls looks for calls of a processor for the same logs under another id, and for other logs under the same one.
func (x *index) checkCalls() {
	calls := map[string]*claim{} // by id
	for _, p := range x.sortedProcs() {
		ids := map[int64]*claim{} // by the first log
		for _, c := range p.claims {
			if c.Call == "" {
				continue
			}
			same, before := ids[c.first], calls[c.Call]
			switch {
			case before != nil && (before.proc != p || before.first != c.first || before.last != c.last):
				x.addf(CallChanged, "proc %s: %d to %d came under the id %s, as %d to %d of proc %s had", p.Name, c.first, c.last, c.Call,
					before.first, before.last, before.Proc)
			case same != nil && same.Call != c.Call && len(p.seeks) == 0:
				x.addf(CallChanged, "proc %s: %d to %d came under the id %s, and %d to %d under %s", p.Name, c.first, c.last, c.Call,
					same.first, same.last, same.Call)
			}
			ids[c.first], calls[c.Call] = c, c
		}
	}
}
