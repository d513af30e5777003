package check_test

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"pipeproc/e2e/check"
)

// spoiling is one way in which a service may break its promises, or a client's view of it: it spoils a history at a place
// that is drawn, and tells whether there was one. One of the kinds is to be found.
type spoiling struct {
	spoil func(t *rapid.T, h *check.History) bool
	want  []check.Kind
}

var spoilings = map[string]spoiling{
	"a log is not there": {func(t *rapid.T, h *check.History) bool {
		return spoilTopic(t, h, func(logs []check.Log, i int) []check.Log { return slices.Delete(logs, i, i+1) })
	}, []check.Kind{check.Missing, check.Hole}},
	"a log is another one": {func(t *rapid.T, h *check.History) bool {
		return spoilTopic(t, h, func(logs []check.Log, i int) []check.Log {
			logs[i].Value = logs[(i+1)%len(logs)].Value
			return logs
		})
	}, []check.Kind{check.TwoBodies, check.Doubled, check.OutputTwice}},
	"a log is older than the one before": {func(t *rapid.T, h *check.History) bool {
		return spoilTopic(t, h, func(logs []check.Log, i int) []check.Log {
			logs[max(i, 1)].ID.TS = logs[max(i, 1)-1].ID.TS - 1
			return logs
		})
	}, []check.Kind{check.BackInTime, check.TwoBodies}},
	"an event does not come": {func(t *rapid.T, h *check.History) bool {
		return spoilEvent(t, h, func(i int) { h.Events = slices.Delete(h.Events, i, i+1) })
	}, []check.Kind{check.StreamLoss}},
	"an event comes again": {func(t *rapid.T, h *check.History) bool {
		return spoilEvent(t, h, func(i int) { h.Events = slices.Insert(h.Events, i, h.Events[i]) })
	}, []check.Kind{check.StreamTwice}},
	"a range lacks a log": {func(t *rapid.T, h *check.History) bool {
		return spoil(t, len(h.Reads), func(i int) bool { return h.Reads[i].Outcome == check.OK && len(h.Reads[i].Logs) > 2 },
			func(i int) { h.Reads[i].Logs = slices.Delete(slices.Clone(h.Reads[i].Logs), 1, 2) })
	}, []check.Kind{check.Late, check.Hole}},
	"a proc is too far": {func(t *rapid.T, h *check.History) bool {
		// An ack without an answer might have led there.
		last := map[string]bool{}
		for _, a := range h.Acks {
			last[a.Proc] = last[a.Proc] || a.Outcome == check.Unknown
		}
		return spoil(t, len(h.Procs), func(i int) bool { return !last[h.Procs[i].Name] && h.Procs[i].Position > 0 },
			func(i int) { h.Procs[i].Position++ })
	}, []check.Kind{check.Skipped}},
	"a proc is back at its start": {func(t *rapid.T, h *check.History) bool {
		acked := map[string]bool{}
		for _, a := range h.Acks {
			acked[a.Proc] = acked[a.Proc] || a.Outcome == check.OK
		}
		return spoil(t, len(h.Procs), func(i int) bool { return acked[h.Procs[i].Name] }, func(i int) { h.Procs[i].Position = 0 })
	}, []check.Kind{check.AckUndone}},
	"a commit is refused and there": {func(t *rapid.T, h *check.History) bool {
		return spoil(t, len(h.Commits), func(i int) bool { return h.Commits[i].Outcome == check.OK && h.Commits[i].Key == "" },
			func(i int) { h.Commits[i].Outcome, h.Commits[i].IDs = check.Failed, nil })
	}, []check.Kind{check.FromFailed}},
	"an ack of a lost claim goes through": {func(t *rapid.T, h *check.History) bool {
		asked := map[string]int{} // one of several might be what went through
		for _, a := range h.Acks {
			asked[a.Token]++
		}
		return spoil(t, len(h.Acks), func(i int) bool { return h.Acks[i].Lost && h.Acks[i].Output == nil && asked[h.Acks[i].Token] == 1 },
			func(i int) { h.Acks[i].Outcome, h.Acks[i].Lost = check.OK, false })
	}, []check.Kind{check.LostToken, check.Illegal, check.AckUndone}},
}

// spoil changes one of n things that may be changed.
func spoil(t *rapid.T, n int, may func(int) bool, change func(int)) bool {
	var at []int
	for i := range n {
		if may(i) {
			at = append(at, i)
		}
	}
	if len(at) == 0 {
		return false
	}
	change(rapid.SampledFrom(at).Draw(t, "place"))
	return true
}

func spoilTopic(t *rapid.T, h *check.History, change func(logs []check.Log, i int) []check.Log) bool {
	names := []string{"a", "b", "out"}
	return spoil(t, len(names), func(i int) bool { return len(h.Topics[names[i]].Logs) > 2 }, func(i int) {
		topic := h.Topics[names[i]]
		topic.Logs = change(slices.Clone(topic.Logs), rapid.IntRange(1, len(topic.Logs)-1).Draw(t, "log"))
		h.Topics[names[i]] = topic
	})
}

func spoilEvent(t *rapid.T, h *check.History, change func(i int)) bool {
	h.Events = slices.Clone(h.Events)
	return spoil(t, len(h.Events), func(i int) bool { return h.Events[i].Logs != nil && h.Events[i].Logs[0].ID.Seq > 0 }, change)
}

// Whatever is spoilt, wherever in a history, it is found.
func TestSpoiltHistories(t *testing.T) {
	t.Parallel()
	for name, s := range spoilings {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			spoilt := 0
			rapid.Check(t, func(t *rapid.T) {
				h := simulate(rapid.Uint64().Draw(t, "seed"), 10*time.Millisecond, 3, 4, 2, 0.05)
				if !s.spoil(t, &h) {
					return
				}
				spoilt++
				found := check.Verify(h)
				if !slices.ContainsFunc(found, func(v check.Violation) bool { return slices.Contains(s.want, v.Kind) }) {
					t.Errorf("none of %v was found, but %v", s.want, found)
				}
			})
			if spoilt == 0 {
				t.Error("no history could be spoilt so")
			}
		})
	}
}
