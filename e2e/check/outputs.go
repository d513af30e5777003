package check

import (
	"cmp"
	"slices"
)

// checkOutputs checks that the outputs of a proc stand in each topic in the order of the logs that they come from.
func (x *index) checkOutputs() {
	for _, p := range x.sortedProcs() {
		if len(p.seeks) > 0 {
			continue
		}
		byRange := slices.Clone(p.claims)
		slices.SortFunc(byRange, func(a, b *claim) int { return cmp.Compare(a.first, b.first) })
		before := map[string]place{}
		for _, c := range byRange {
			if w := c.output(); w != nil {
				x.checkOutput(p, w, before)
			}
		}
	}
}

// checkOutput checks an output against the ones before, of which the last log in each topic is given.
func (x *index) checkOutput(p *proc, w *write, before map[string]place) {
	for i, seq := range w.found {
		if seq < 0 {
			continue
		}
		topic := w.logs[i].Topic
		if b, ok := before[topic]; ok && b.write != w && b.write.found[b.log] > seq {
			x.addf(OutputMixed, "proc %s: %q is at %d in topic %s; %q, of logs before, is at %d",
				p.Name, w.logs[i].Value, seq, topic, b.write.logs[b.log].Value, b.write.found[b.log])
		}
		before[topic] = place{w, i}
	}
}
