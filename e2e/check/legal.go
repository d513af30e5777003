package check

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
)

// Bounds of one question to porcupine. What is not decided in time counts as a violation.
const (
	mostOperations = 500
	patience       = time.Minute // a question takes milliseconds, mostly
)

// checkProcs asks porcupine, proc by proc, whether there is an order of the proc's requests in which the rules of a proc
// give what was answered. The history of a proc is cut where its state is known: at a claim during which nothing else of
// the proc was under way. What was asked for before and may still be carried out holds tokens of claims that have ended,
// and changes nothing any more.
func (x *index) checkProcs() {
	for _, p := range x.sortedProcs() {
		x.checkProc(p)
	}
}

// request is an operation of a proc, as porcupine's input. Its outcome is the output.
type request struct {
	what    string
	claim   *claim
	span    Span
	lost    bool
	to      int64  // of a seek
	expires Moment // of an extension
}

func (r *request) String() string {
	switch r.what {
	case "seek":
		return fmt.Sprintf("seek to %d by %s", r.to, r.span)
	case "claim":
		return fmt.Sprintf("claim %s (%d to %d) by %s", r.claim.Token, r.claim.first, r.claim.last, r.span)
	}
	lost := ""
	if r.lost {
		lost = ", claim lost"
	}
	return fmt.Sprintf("%s %s by %s%s", r.what, r.claim.Token, r.span, lost)
}

// state is that of a proc between its requests.
type state struct {
	position int64
	live     *claim
	expires  Moment // of the live claim
	vague    bool   // the live claim may end at any time, and need not
	acked    *claim // the last one that was; nil: not known, any of the ones that ended at cut
	cut      int64
}

func (x *index) checkProc(p *proc) {
	requests := x.requests(p)
	if len(requests) == 0 {
		return
	}
	start := p.Start
	if start < 0 { // the first claim begins there, and none before
		for _, c := range p.claims {
			if start < 0 || c.first < start {
				start = c.first
			}
		}
	}
	initial := state{position: start, cut: -1}
	for len(requests) > 0 {
		n, last := len(requests), (*claim)(nil)
		if n > mostOperations {
			if n, last = cutAfter(requests, mostOperations); n == 0 {
				x.addf(Undecided, "proc %s: more than %d requests from %s on, at no time only one of them", p.Name, mostOperations, requests[0])
				return
			}
		}
		if !x.askPorcupine(p, initial, requests[:n]) {
			return
		}
		if requests = requests[n:]; len(requests) > 0 {
			initial = state{position: last.first, cut: last.first}.with(last)
		}
	}
}

// requests are those of a proc that say something about its state, by begin.
func (x *index) requests(p *proc) []*request {
	var all []*request
	for i, c := range p.claims {
		span := c.Span
		span.Begin, span.End = c.begin, c.end
		all = append(all, &request{what: "claim", claim: c, span: span})
		gone := goneBy(p.claims[i+1:], c)
		add := func(r *request, lost bool) {
			r.claim, r.lost = c, lost
			switch {
			case r.span.Outcome == Failed && !lost:
				return
			case r.span.Outcome == Unknown:
				// Once another claim was made this one never lives again.
				if r.span.End = gone; r.span.End <= r.span.Begin {
					return
				}
			}
			all = append(all, r)
		}
		for _, a := range c.acks {
			if a.Outcome == Unknown && a.done == no {
				continue // its output tells that it was not carried out
			}
			add(&request{what: "ack", span: a.Span}, a.Lost)
		}
		for _, r := range c.reclaims {
			add(&request{what: "reclaim", span: r.Span}, r.Lost)
		}
		for _, e := range c.extends {
			r := &request{what: "extend", span: e.Span, expires: Never}
			if e.ExpiresAt != 0 {
				r.expires = x.wall(e.ExpiresAt)
			}
			add(r, e.Lost)
		}
	}
	for _, s := range p.seeks {
		span := s.Span
		span.End = s.latest()
		all = append(all, &request{what: "seek", span: span, to: s.Position})
	}
	slices.SortStableFunc(all, func(a, b *request) int { return cmp.Compare(a.span.Begin, b.span.Begin) })
	return all
}

// goneBy is when c had ended for certain: when a claim that was made after it had been handed out.
func goneBy(later []*claim, c *claim) Moment {
	m := Never
	for _, b := range later {
		if b.begin > m {
			break
		}
		if b.begin >= c.end {
			m = min(m, b.end)
		}
	}
	return m
}

// cutAfter is how many of the requests come before the last cut that leaves at most so many; 0: there is none. A cut is
// after a claim that no other claim and no seek was under way with: then that claim lives. claim is that one.
func cutAfter(requests []*request, most int) (n int, claim *claim) {
	var busy Moment = math.MinInt64 // until then a claim or a seek that began before is under way
	for i, r := range requests[:most] {
		if r.what == "claim" && busy < r.span.Begin {
			j := i + 1
			for j < most && requests[j].span.Begin < r.span.End && !requests[j].moves() {
				j++
			}
			if requests[j].span.Begin >= r.span.End {
				n, claim = j, r.claim
			}
		}
		if r.moves() {
			busy = max(busy, r.span.End)
		}
	}
	return n, claim
}

// moves reports whether r can change the state when another claim lives, or none.
func (r *request) moves() bool { return r.what == "claim" || r.what == "seek" }

// askPorcupine reports whether there is an order, and adds a violation when not.
func (x *index) askPorcupine(p *proc, initial state, requests []*request) bool {
	operations := make([]porcupine.Operation, len(requests))
	for i, r := range requests {
		operations[i] = porcupine.Operation{Input: r, Call: int64(r.span.Begin), Return: int64(r.span.End)}
	}
	steps := steps{skew: x.ClockSkew, disabled: p.Disabled}
	model := (&porcupine.NondeterministicModel{
		Init: func() []any { return []any{initial} },
		Step: func(s, in, _ any) []any { return steps.step(s.(state), in.(*request)) },
	}).ToModel()
	switch result, info := porcupine.CheckOperationsVerbose(model, operations, patience); result {
	case porcupine.Ok:
		return true
	case porcupine.Unknown:
		x.addf(Undecided, "proc %s: %d requests from %s on were not put in order within %v", p.Name, len(requests), requests[0], patience)
	case porcupine.Illegal:
		x.addf(Illegal, "proc %s, at %d: there is no order for these requests:%s", p.Name, initial.position, evidence(info, requests))
	}
	return false
}

// evidence is the longest order that was found, its last requests, and the first ones that have no place in it.
func evidence(info porcupine.LinearizationInfo, requests []*request) string {
	const most = 8
	var longest []porcupine.Operation
	for _, partial := range info.PartialLinearizationsOperations()[0] {
		if len(partial) > len(longest) {
			longest = partial
		}
	}
	placed := make(map[*request]bool, len(longest))
	text := &strings.Builder{}
	for i, o := range longest {
		r := o.Input.(*request)
		placed[r] = true
		if len(longest)-i <= most {
			fmt.Fprintf(text, "\n\t%d. %s", i+1, r)
		}
	}
	left := 0
	for _, r := range requests {
		if !placed[r] && left < most {
			left++
			fmt.Fprintf(text, "\n\tno place for: %s", r)
		}
	}
	return text.String()
}

// steps are the rules of a proc.
type steps struct {
	skew     time.Duration
	disabled bool // at times
}

// step tells which states s may become when r is carried out and answered as it was; none: it cannot have been.
func (st steps) step(s state, r *request) (next []any) {
	if s.live == nil || !st.mustHaveEnded(s, r) {
		next = st.apply(next, s, r)
	}
	if s.live != nil && (s.vague || r.span.End >= s.expires-st.skew) {
		s.live, s.vague = nil, false
		next = st.apply(next, s, r)
	}
	return next
}

// mustHaveEnded reports whether the time-out of s's claim was due before r: whatever asks something of the proc applies it.
func (st steps) mustHaveEnded(s state, r *request) bool {
	return !s.vague && !st.disabled && s.expires != Never && s.expires+st.skew < r.span.Begin
}

func (st steps) apply(next []any, s state, r *request) []any {
	if r.span.Outcome == Unknown {
		next = append(next, s)
	}
	holds := s.live != nil && s.live == r.claim
	if r.lost {
		// The last applied ack is answered again.
		if !holds && (r.what != "ack" || s.acked != r.claim) {
			next = append(next, s)
		}
		return next
	}
	switch {
	case r.what == "claim" && s.live == nil && s.position == r.claim.first:
		next = append(next, s.with(r.claim))
	case r.what == "ack" && holds:
		next = append(next, state{position: r.claim.last + 1, acked: r.claim})
	case r.what == "ack" && r.span.Outcome == OK && (s.acked == r.claim || s.acked == nil && r.claim.last+1 == s.cut):
		next = append(next, s)
	case r.what == "reclaim" && holds:
		s.live, s.vague = nil, false
		next = append(next, s)
	case r.what == "extend" && holds:
		s.expires, s.vague = r.expires, s.vague || r.span.Outcome == Unknown
		next = append(next, s)
	case r.what == "seek" && (s.live == nil || st.disabled):
		s.position, s.live, s.vague = r.to, nil, false
		next = append(next, s)
	}
	return next
}

// with is s once c was made. The server may give up the claim of a processor.
func (s state) with(c *claim) state {
	s.live, s.expires, s.vague = c, c.expires, c.Via == ByProcessor
	return s
}
