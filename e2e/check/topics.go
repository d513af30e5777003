package check

// checkTopics looks for holes in what is left, and for timestamps that go back, also among the logs that GC took.
func (x *index) checkTopics() {
	for _, t := range x.sorted() {
		for seq := t.First; seq < t.Head; seq++ {
			if k := &t.logs[seq]; !k.isKnown() {
				x.addf(Hole, "topic %s begins at %d and ends at %d, and has no seq %d", t.name, t.First, t.Head, seq)
			} else if !k.retained {
				x.addf(Missing, "seq %d of topic %s, %q, was seen by %s; it is not there at the end", seq, t.name, k.value, k.by)
			}
		}
		before := int64(-1)
		t.each(func(seq int64, k *known) {
			if before >= 0 && k.ts < t.logs[before].ts {
				x.addf(BackInTime, "topic %s: %d-%d (seen by %s) comes after %d-%d (seen by %s)",
					t.name, k.ts, seq, k.by, t.logs[before].ts, before, t.logs[before].by)
			}
			before = seq
		})
	}
}

// checkCommits holds the logs that are there against those that were committed.
func (x *index) checkCommits() {
	for _, t := range x.sorted() {
		t.each(func(seq int64, k *known) { x.place(t, seq, k) })
	}
	for _, w := range x.writes {
		x.checkWhole(w)
	}
}

// place finds the write that a log comes from.
func (x *index) place(t *topic, seq int64, k *known) {
	of, ok := x.origin[k.value]
	if !ok || of.write.logs[of.log].Topic != t.name {
		x.addf(Foreign, "%d-%d of topic %s (seen by %s) is %q, which nobody committed there", k.ts, seq, t.name, k.by, k.value)
		return
	}
	w := of.write
	if w.Outcome == Failed {
		x.addf(FromFailed, "%d-%d of topic %s (seen by %s) is %q of %s by %s", k.ts, seq, t.name, k.by, k.value, w.what, w.Span)
	}
	w.copies++
	if first := w.found[of.log]; first < 0 {
		w.found[of.log] = seq
	} else if w.most == 1 {
		kind := Doubled
		if w.proc != "" {
			kind = OutputTwice
		}
		x.addf(kind, "%q, of %s by %s, is in topic %s at seq %d and at seq %d", k.value, w.what, w.Span, t.name, first, seq)
	}
}

// checkWhole checks that a write is there as a whole, as it was acked, or not at all.
func (x *index) checkWhole(w *write) {
	if w.most > 1 && w.copies > w.most*len(w.logs) {
		x.addf(Doubled, "%s of %d logs (%q …) by %s was sent %d times; %d logs of it are there",
			w.what, len(w.logs), w.logs[0].Value, w.Span, w.most, w.copies)
	}
	for i, seq := range w.acked {
		// What was acked was seen: that it is gone has been told. Here it is somewhere else.
		if t := x.topics[w.logs[i].Topic]; w.most == 1 && t != nil && seq < t.Head && w.found[i] >= 0 && w.found[i] != seq {
			x.addf(TwoBodies, "%q of %s was acked as seq %d of topic %s, and is at %d", w.logs[i].Value, w.Span, seq, t.name, w.found[i])
		}
	}
	if w.copies == 0 || w.most > 1 {
		return
	}
	ts, first := int64(-1), -1
	last := map[string]int64{}
	for i, l := range w.logs {
		t := x.topics[l.Topic]
		if t == nil || w.found[i] < 0 {
			continue
		}
		k := &t.logs[w.found[i]]
		if first < 0 {
			ts, first = k.ts, i
			if limit := x.Began.Add(w.Begin - x.ClockSkew).UnixMilli(); ts < limit {
				x.addf(TooEarly, "%d-%d of topic %s, %q, is from before %s began, by %d ms", ts, w.found[i], t.name, l.Value, w.Span, limit-ts)
			}
		}
		if there := min(w.End, k.seen); there != Never && k.ts > x.Began.Add(there+x.ClockSkew).UnixMilli() {
			x.addf(TooLate, "%d-%d of topic %s, %q, of %s is from after %s, when it was there", k.ts, w.found[i], t.name, l.Value, w.Span, at(there))
		}
		if k.ts != ts {
			x.addf(Scattered, "%s by %s: %q has the timestamp %d, and %q has %d", w.what, w.Span, w.logs[first].Value, ts, l.Value, k.ts)
		}
		if before, ok := last[l.Topic]; ok && w.found[i] != before+1 {
			x.addf(Scattered, "%s by %s: in topic %s %q has the seq %d, and the log before it %d", w.what, w.Span, t.name, l.Value, w.found[i], before)
		}
		last[l.Topic] = w.found[i]
	}
	for i, l := range w.logs {
		if w.found[i] < 0 && w.acked == nil && !x.topics[l.Topic].mayHaveTaken(ts) {
			x.addf(Partial, "%s by %s: %q is in topic %s at seq %d, and %q is not in topic %s",
				w.what, w.Span, w.logs[first].Value, w.logs[first].Topic, w.found[first], l.Value, l.Topic)
		}
	}
}

// mayHaveTaken reports whether GC may have taken a log of the time ts, or of later, from t; nil is a topic that there is not.
func (t *topic) mayHaveTaken(ts int64) bool {
	if t == nil || t.First == 0 {
		return false
	}
	for seq := t.First; seq < t.Head; seq++ {
		if k := &t.logs[seq]; k.isKnown() {
			return k.ts >= ts
		}
	}
	return true
}
