package check

import (
	"cmp"
	"slices"
)

// checkVisible checks ranges by promise 4: whoever has seen seq n could have seen every one below. A range that began after
// anybody had seen seq n, or any log of a commit that reaches up to n, must hold all logs up to n; and none has holes.
func (x *index) checkVisible() {
	f := x.newFrontiers()
	reads := make([]*Read, 0, len(x.Reads))
	for i := range x.Reads {
		if r := &x.Reads[i]; r.Outcome == OK && x.topics[r.Topic] != nil {
			reads = append(reads, r)
		}
	}
	slices.SortFunc(reads, func(a, b *Read) int { return cmp.Compare(a.Begin, b.Begin) })
	for _, r := range reads {
		f.advance(r.Begin)
		x.checkRead(x.topics[r.Topic], r, f.of[r.Topic])
	}
}

// sight is that somebody has seen seq of a topic, at a moment.
type sight struct {
	at    Moment
	topic *topic
	seq   int64
	by    string
	// whole is the commit to several topics of which another log was seen.
	whole *write
}

// frontiers follow how far each topic has been seen.
type frontiers struct {
	topics map[string]*topic
	sights []sight // by moment; those before next are in of
	next   int
	of     map[string]sight
	spread map[string][]spread // the commits to several topics, by seq; those that were passed are gone
}

// spread is a commit to several topics, and its first seq in one of them.
type spread struct {
	seq   int64
	write *write
}

func (x *index) newFrontiers() *frontiers {
	f := &frontiers{topics: x.topics, of: map[string]sight{}, spread: map[string][]spread{},
		sights: make([]sight, 0, len(x.writes)+len(x.Reads)+len(x.Events)+len(x.Claims)+len(x.Collections))}
	see := func(name string, seq int64, when Moment, by string) {
		if t := x.topics[name]; t != nil && seq >= 0 && seq < t.Head {
			f.sights = append(f.sights, sight{when, t, seq, by, nil})
		}
	}
	seeLogs := func(name string, logs []Log, when Moment, by string) {
		if len(logs) > 0 {
			see(name, max(logs[0].ID.Seq, logs[len(logs)-1].ID.Seq), when, by)
		}
	}
	for _, w := range x.writes {
		for i, seq := range w.acked {
			if i+1 == len(w.acked) || w.logs[i+1].Topic != w.logs[i].Topic { // the last of a run
				see(w.logs[i].Topic, seq, w.End, w.Client)
			}
		}
		x.addSpread(f, w)
	}
	for i := range x.Reads {
		seeLogs(x.Reads[i].Topic, x.Reads[i].Logs, x.Reads[i].End, x.Reads[i].Client)
	}
	for i := range x.Events {
		seeLogs(x.Events[i].Topic, x.Events[i].Logs, x.Events[i].At, x.Events[i].Stream)
	}
	for i := range x.Claims {
		if p := x.procs[x.Claims[i].Proc]; p != nil {
			seeLogs(p.Topic, x.Claims[i].Logs, x.Claims[i].End, x.Claims[i].Client)
		}
	}
	for i := range x.Collections {
		if c := &x.Collections[i]; c.Outcome == OK {
			see(c.Topic, c.First-1, c.End, c.Client)
		}
	}
	slices.SortFunc(f.sights, func(a, b sight) int { return cmp.Compare(a.at, b.at) })
	for _, s := range f.spread {
		slices.SortFunc(s, func(a, b spread) int { return cmp.Compare(a.seq, b.seq) })
	}
	return f
}

func (x *index) addSpread(f *frontiers, w *write) {
	if w.most > 1 || !slices.ContainsFunc(w.logs, func(l NewLog) bool { return l.Topic != w.logs[0].Topic }) {
		return
	}
	for _, s := range x.stretches(nil, w) {
		f.spread[s.topic.name] = append(f.spread[s.topic.name], spread{s.first, w})
	}
}

// advance takes in what had been seen before m.
func (f *frontiers) advance(m Moment) {
	for ; f.next < len(f.sights) && f.sights[f.next].at < m; f.next++ {
		f.take(f.sights[f.next])
	}
}

// take takes in a sight, and with it the rest of all commits that reach into what could be seen.
func (f *frontiers) take(s sight) {
	todo := []sight{s}
	for len(todo) > 0 {
		s := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		name := s.topic.name
		if was, ok := f.of[name]; ok && was.seq >= s.seq {
			continue
		}
		f.of[name] = s
		for len(f.spread[name]) > 0 && f.spread[name][0].seq <= s.seq {
			w := f.spread[name][0].write
			f.spread[name] = f.spread[name][1:]
			todo = append(todo, f.rest(w, s)...)
		}
	}
}

// rest are the last logs of w in each of its topics, seen when one of them was.
func (f *frontiers) rest(w *write, s sight) (rest []sight) {
	for i, seq := range w.found {
		if seq >= 0 {
			rest = append(rest, sight{s.at, f.topics[w.logs[i].Topic], seq, s.by, w})
		}
	}
	return rest
}

// checkRead checks one range; seen is how far its topic had been seen when it began.
func (x *index) checkRead(t *topic, r *Read, seen sight) {
	step := int64(1)
	if r.Reverse {
		step = -1
	}
	for i := range r.Logs {
		seq := r.Logs[i].ID.Seq
		want := r.From
		if i > 0 {
			want = r.Logs[i-1].ID.Seq + step
		}
		if want == -1 && i == 0 || seq == want {
			continue
		}
		kind := Hole
		if want >= 0 && want < t.Head && t.logs[want].isKnown() {
			kind = Late
		}
		x.addf(kind, "a range of topic %s from %d on by %s has %d where %d was to be", t.name, r.From, r.Span, seq, want)
		return
	}
	n := len(r.Logs)
	if !r.Reverse && !r.More || r.Reverse && (r.From < 0 || n == 0) {
		x.checkReach(t, r, seen)
	}
	if r.Reverse && !r.More && n > 0 && r.Logs[n-1].ID.Seq > t.First {
		x.addf(Hole, "a range of topic %s downwards by %s ends at %d; the topic begins at %d", t.name, r.Span, r.Logs[n-1].ID.Seq, t.First)
	}
}

// checkReach checks that a range reaches up to what had been seen.
func (x *index) checkReach(t *topic, r *Read, seen sight) {
	if seen.topic == nil {
		return
	}
	reach := r.From - 1
	if n := len(r.Logs); n > 0 {
		reach = max(r.Logs[0].ID.Seq, r.Logs[n-1].ID.Seq)
	} else if r.Reverse && r.From >= 0 {
		seen.seq = min(seen.seq, r.From)
		reach = -1
	}
	if seen.seq <= reach || len(r.Logs) == 0 && seen.seq < t.First { // GC may have taken it all
		return
	}
	if seen.whole != nil {
		x.addf(Partial, "a range of topic %s by %s ends at %d; %s by %s reaches up to %d, and %s had seen a log of it in another topic at %s",
			t.name, r.Span, reach, seen.whole.what, seen.whole.Span, seen.seq, seen.by, at(seen.at))
		return
	}
	x.addf(Late, "a range of topic %s by %s ends at %d; %s had seen %d at %s", t.name, r.Span, reach, seen.by, seen.seq, at(seen.at))
}
