package check

import (
	"cmp"
	"slices"
)

// stretch is a run of something's places, first to last, and when whatever put it there may have taken effect.
type stretch struct {
	topic       *topic // of a write
	first, last int64
	begin, end  Moment // it took effect after begin and before end
	write       *write
	claim       *claim
}

// disordered calls f for stretches of which the former has the higher places, though it ended before the other began. Of
// those before one it tells that which ended first.
func disordered(all []stretch, f func(former, latter *stretch)) {
	slices.SortFunc(all, func(a, b stretch) int { return cmp.Compare(a.first, b.first) })
	var soonest *stretch // to end, of those with higher places
	for i := len(all) - 1; i >= 0; i-- {
		if soonest != nil && soonest.end < all[i].begin {
			f(soonest, &all[i])
		}
		if soonest == nil || all[i].end < soonest.end {
			soonest = &all[i]
		}
	}
}

// checkOrder checks that of two commits to a topic, of which one began after the other one had ended or been seen, that
// one has the higher seqs. A log of the later one that has a smaller seq has turned up late.
func (x *index) checkOrder() {
	stretches := make(map[*topic][]stretch, len(x.topics))
	var of []stretch
	for _, w := range x.writes {
		if w.most > 1 { // a request that arrives again has no end
			continue
		}
		of = x.stretches(of[:0], w)
		for _, s := range of {
			stretches[s.topic] = append(stretches[s.topic], s)
		}
	}
	for _, t := range x.sorted() {
		disordered(stretches[t], func(former, latter *stretch) {
			x.addf(Disorder, "topic %s: seq %d, %q, of %s by %s was there at %s; seq %d, %q, of %s by %s began later", t.name,
				former.first, t.logs[former.first].value, former.write.what, former.write.Span, at(former.end),
				latter.first, t.logs[latter.first].value, latter.write.what, latter.write.Span)
		})
	}
}

// stretches appends those of w, one for each topic.
func (x *index) stretches(all []stretch, w *write) []stretch {
	end := w.End
	for i, seq := range w.found {
		if seq < 0 {
			continue
		}
		t := x.topics[w.logs[i].Topic]
		end = min(end, t.logs[seq].seen)
		at := slices.IndexFunc(all, func(s stretch) bool { return s.topic == t })
		if at < 0 {
			at = len(all)
			all = append(all, stretch{topic: t, first: seq, last: seq, begin: w.Begin, write: w})
		}
		all[at].first, all[at].last = min(all[at].first, seq), max(all[at].last, seq)
	}
	for i := range all {
		all[i].end = end
	}
	return all
}
