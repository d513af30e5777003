package check

import (
	"cmp"
	"slices"
)

// checkWakeUps checks that whoever waited for a log got it within the bound: after its commit had been answered, after the
// log before it, and after the reader had connected. Times of faults do not count.
func (x *index) checkWakeUps() {
	if x.WakeUp == 0 {
		return
	}
	excused := merged(x.Excused)
	for name, events := range x.events() {
		s := x.stream(name)
		if s == nil {
			continue
		}
		last := map[string]Moment{} // by topic
		for _, e := range events {
			t := x.topics[e.Topic]
			if t == nil {
				continue
			}
			for _, l := range e.Logs {
				since := max(last[e.Topic], x.there(t, l.ID.Seq))
				if n := e.Connection; n > 0 && n <= len(s.Connected) {
					since = max(since, s.Connected[n-1])
				}
				x.checkWakeUp(excused, since, e.At, t, l, "stream "+name)
			}
			last[e.Topic] = e.At
		}
	}
	for _, p := range x.sortedProcs() {
		x.checkWaits(p, excused)
	}
}

// checkWaits checks the claims of p that waited for logs, unless something other than the logs may have kept them.
func (x *index) checkWaits(p *proc, excused []Interval) {
	free := map[int64]Moment{p.Start: 0} // when the logs from a seq on could be claimed, by that seq
	for _, c := range p.claims {
		if done, by := x.acked(c); done == yes && by != Never {
			free[c.last+1] = by
		}
	}
	for _, c := range p.claims {
		since, ok := free[c.first]
		if c.Waited && c.Attempt == 1 && ok && len(p.seeks) == 0 {
			since = max(since, x.there(p.topic, c.first), c.Begin, p.Created.End)
			x.checkWakeUp(excused, since, c.End, p.topic, c.Logs[0], "a claim of proc "+p.Name+" by "+c.Client)
		}
	}
}

func (x *index) checkWakeUp(excused []Interval, since, came Moment, t *topic, l Log, who string) {
	i, _ := slices.BinarySearchFunc(excused, came, func(e Interval, m Moment) int { return cmp.Compare(e.From, m) })
	if i > 0 { // of those that began before
		since = max(since, excused[i-1].To)
	}
	if since != Never && came-since > x.WakeUp {
		x.addf(WakeUpLate, "%s had %s of topic %s at %s, %v after it could have", who, l.ID, t.name, at(came), came-since)
	}
}

// there is when a log was there for certain: acked, or seen by anybody.
func (x *index) there(t *topic, seq int64) Moment {
	if seq >= t.Head {
		return Never
	}
	k := &t.logs[seq]
	m := k.seen
	if of, ok := x.origin[k.value]; ok && of.write.most == 1 {
		m = min(m, of.write.End)
	}
	return m
}

func (x *index) stream(name string) *Stream {
	if x.streams == nil {
		x.streams = make(map[string]*Stream, len(x.Streams))
		for i := range x.Streams {
			x.streams[x.Streams[i].Name] = &x.Streams[i]
		}
	}
	return x.streams[name]
}

// merged are intervals, those that touch each other as one, in order.
func merged(intervals []Interval) []Interval {
	sorted := slices.Clone(intervals)
	slices.SortFunc(sorted, func(a, b Interval) int { return cmp.Compare(a.From, b.From) })
	var out []Interval
	for _, i := range sorted {
		if n := len(out); n > 0 && i.From <= out[n-1].To {
			out[n-1].To = max(out[n-1].To, i.To)
		} else {
			out = append(out, i)
		}
	}
	return out
}
