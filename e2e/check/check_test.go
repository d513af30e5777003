package check_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"pipeproc/api"
	"pipeproc/e2e/check"
)

// epoch is the wall clock at moment 0 of the histories here, whose moments and timestamps count ms from it.
const epoch = 1_000_000_000

func ms(n float64) check.Moment { return time.Duration(n * float64(time.Millisecond)) }

func span(client string, begin, end float64, o check.Outcome) check.Span {
	return check.Span{Client: client, Begin: ms(begin), End: ms(end), Outcome: o}
}

func log(ts, seq int64, value string) check.Log { return check.Log{ID: id(ts, seq), Value: value} }

func id(ts, seq int64) api.ID { return api.ID{TS: epoch + ts, Seq: seq} }

func news(pairs ...string) (logs []check.NewLog) {
	for pair := range slices.Chunk(pairs, 2) {
		logs = append(logs, check.NewLog{Topic: pair[0], Value: pair[1]})
	}
	return logs
}

// The logs of the clean history. GC has taken v0.
var (
	v0, v1, v2, v3 = log(2, 0, "v0"), log(5, 1, "v1"), log(8, 2, "v2"), log(11, 3, "v3")
	w1             = log(5, 0, "w1")
	o0, o1         = log(7, 0, "o0"), log(14, 1, "o1")
)

// clean is a history in which all is well.
func clean() check.History {
	return check.History{
		Began: time.UnixMilli(epoch), ClockSkew: time.Millisecond, WakeUp: ms(10),
		Commits: []check.Commit{
			{Span: span("a", 1, 3, check.OK), Logs: news("in", "v0"), IDs: []api.ID{v0.ID}},
			{Span: span("a", 4, 6, check.OK), Logs: news("in", "v1", "side", "w1"), IDs: []api.ID{v1.ID, w1.ID}},
			{Span: span("a", 7, 9, check.OK), Key: "k", Logs: news("in", "v2"), IDs: []api.ID{v2.ID}},
			{Span: span("a", 10, 11, check.OK), Key: "k", Logs: news("in", "v2"), IDs: []api.ID{v2.ID}},
			{Span: span("b", 10, 12, check.Unknown), Logs: news("in", "v3")},
			{Span: span("b", 13, 14, check.Failed), Logs: news("in", "v4")},
			{Span: span("b", 15, 16, check.Unknown), Logs: news("in", "v5", "side", "w5")},
		},
		Reads: []check.Read{
			{Span: span("r", 20, 21, check.OK), Topic: "in", From: 0, Logs: []check.Log{v0, v1, v2, v3}},
			{Span: span("r", 22, 23, check.OK), Topic: "in", From: 2, Reverse: true, Logs: []check.Log{v2, v1}, More: true},
			{Span: span("r", 24, 25, check.OK), Topic: "in", From: -1, Reverse: true, Logs: []check.Log{v3, v2, v1, v0}},
			{Span: span("r", 26, 27, check.OK), Topic: "side", From: -1, Logs: []check.Log{w1}},
			{Span: span("r", 28, 29, check.OK), Topic: "side", From: 1},
		},
		Procs: []check.Proc{
			{Name: "p", Topic: "in", Created: span("p", 0, 1, check.OK), Start: 0, Position: 4, Whole: true},
			{Name: "q", Topic: "in", Created: span("q", 0, 1, check.OK), Start: 0, Position: 1},
		},
		Claims: []check.Claim{
			{Span: span("p", 4, 6, check.OK), Proc: "p", Token: "p1", Attempt: 1, ExpiresAt: epoch + 105, Logs: []check.Log{v0, v1}, Waited: true},
			{Span: span("p", 12, 13, check.OK), Proc: "p", Token: "p2", Attempt: 1, ExpiresAt: epoch + 112, Logs: []check.Log{v2, v3}},
			{Span: span("q1", 5, 6, check.OK), Proc: "q", Token: "q1", Attempt: 1, ExpiresAt: epoch + 106, Logs: []check.Log{v0}},
			{Span: span("q2", 9, 10, check.OK), Proc: "q", Token: "q2", Attempt: 2, ExpiresAt: epoch + 12, Logs: []check.Log{v0}},
			{Span: span("q2", 13, 14, check.OK), Proc: "q", Token: "q3", Attempt: 1, ExpiresAt: epoch + 114, Logs: []check.Log{v1}, Via: check.ByAck},
		},
		Acks: []check.Ack{
			{Span: span("p", 7, 8, check.OK), Proc: "p", Token: "p1", Output: news("out", "o0"), IDs: []api.ID{o0.ID}},
			{Span: span("p", 14, 15, check.Unknown), Proc: "p", Token: "p2", Output: news("out", "o1")},
			{Span: span("q2", 13, 14, check.OK), Proc: "q", Token: "q2"},
			{Span: span("q2", 15, 16, check.OK), Proc: "q", Token: "q2"},
			{Span: span("q1", 17, 18, check.Failed), Proc: "q", Token: "q1", Lost: true},
		},
		Reclaims:    []check.Reclaim{{Span: span("q1", 7, 8, check.OK), Proc: "q", Token: "q1"}},
		Extends:     []check.Extend{{Span: span("q2", 11, 12, check.OK), Proc: "q", Token: "q2", ExpiresAt: epoch + 112}},
		Collections: []check.Collection{{Span: span("gc", 30, 31, check.OK), Topic: "in", First: 1}},
		Streams:     []check.Stream{{Name: "s", Starts: map[string]int64{"in": 0}, Connected: []check.Moment{ms(2), ms(8)}, Whole: true}},
		Events: []check.Event{
			{At: ms(4), Stream: "s", Connection: 1, Topic: "in", Logs: []check.Log{v0}},
			{At: ms(7), Stream: "s", Connection: 1, Topic: "in", Logs: []check.Log{v1}},
			{At: ms(9), Stream: "s", Connection: 2, Topic: "in", Logs: []check.Log{v2}},
			{At: ms(13), Stream: "s", Connection: 2, Topic: "in", Logs: []check.Log{v3}},
		},
		Topics: map[string]check.Topic{
			"in":   {First: 1, Head: 4, Logs: []check.Log{v1, v2, v3}},
			"side": {First: 0, Head: 1, Logs: []check.Log{w1}},
			"out":  {First: 0, Head: 2, Logs: []check.Log{o0, o1}},
		},
	}
}

// with changes what a topic holds at the end.
func with(h *check.History, topic string, head int64, logs ...check.Log) {
	t := h.Topics[topic]
	t.Head, t.Logs = head, logs
	h.Topics[topic] = t
}

// calls makes the claims of q's first log calls of a processor.
func calls(h *check.History, first, second string) {
	h.Claims[2].Call, h.Claims[3].Call = first, second
}

func TestCleanHistory(t *testing.T) {
	t.Parallel()
	if violations := check.Verify(clean()); violations != nil {
		t.Errorf("%v", violations)
	}
	if violations := check.Verify(check.History{}); violations != nil {
		t.Errorf("of an empty one: %v", violations)
	}
}

// Each violation is found, and what it is is told.
func TestViolations(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name  string
		spoil func(*check.History)
		want  []check.Kind
		text  string // that the evidence must hold
	}{
		{"the last acked log is gone", func(h *check.History) {
			h.Commits = append(h.Commits, check.Commit{Span: span("c", 40, 41, check.OK), Logs: news("side", "w2"), IDs: []api.ID{id(40, 1)}})
		}, []check.Kind{check.Missing}, "1000000040-1"},
		{"an acked log in the middle is gone", func(h *check.History) { with(h, "in", 4, v1, v3) },
			[]check.Kind{check.Missing}, "v2"},
		{"a log that only a reader saw is gone", func(h *check.History) {
			h.Commits = append(h.Commits, check.Commit{Span: span("c", 30, 31, check.Unknown), Logs: news("in", "v6")})
			h.Reads = append(h.Reads, check.Read{Span: span("r", 40, 41, check.OK), Topic: "in", From: 4, Logs: []check.Log{log(30, 4, "v6")}})
		}, []check.Kind{check.Missing}, "1000000030-4"},
		{"a seq was never used", func(h *check.History) {
			h.Commits = append(h.Commits, check.Commit{Span: span("c", 30, 31, check.OK), Logs: news("side", "w6"), IDs: []api.ID{id(30, 2)}})
			with(h, "side", 3, w1, log(30, 2, "w6"))
		}, []check.Kind{check.Hole}, "no seq 1"},
		{"a range has a hole that stays", func(h *check.History) {
			h.Commits = append(h.Commits, check.Commit{Span: span("c", 30, 31, check.OK), Logs: news("side", "w6"), IDs: []api.ID{id(30, 2)}})
			with(h, "side", 3, w1, log(30, 2, "w6"))
			h.Reads = append(h.Reads, check.Read{Span: span("r", 40, 41, check.OK), Topic: "side", Logs: []check.Log{w1, log(30, 2, "w6")}})
		}, []check.Kind{check.Hole}, "has 2 where 1"},
		{"an id has two bodies", func(h *check.History) { h.Reads[0].Logs = []check.Log{v0, v1, log(8, 2, "v3"), v3} },
			[]check.Kind{check.TwoBodies}, `r saw 1000000008 "v3"`},
		{"a seq has two timestamps", func(h *check.History) { h.Events[1].Logs = []check.Log{log(6, 1, "v1")} },
			[]check.Kind{check.TwoBodies}, "seq 1 of topic in"},
		{"a timestamp goes back", func(h *check.History) {
			h.Commits = append(h.Commits, check.Commit{Span: span("c", 5, 41, check.OK), Logs: news("in", "v6"), IDs: []api.ID{id(10, 4)}})
			with(h, "in", 5, v1, v2, v3, log(10, 4, "v6"))
			h.Procs[0].Whole, h.Streams[0].Whole = false, false
		}, []check.Kind{check.BackInTime}, "1000000010-4"},
		{"a timestamp goes back among logs that GC took", func(h *check.History) {
			h.Topics["in"] = check.Topic{First: 4, Head: 4}
			h.Procs = h.Procs[:1]
			h.Claims, h.Acks, h.Reclaims, h.Extends = h.Claims[:2], h.Acks[:2], nil, nil
			h.Commits = append(h.Commits, check.Commit{Span: span("c", 3, 41, check.OK), Logs: news("side", "w0"), IDs: []api.ID{id(4, 1)}})
			h.Topics["side"] = check.Topic{First: 2, Head: 2}
		}, []check.Kind{check.BackInTime}, "topic side"},
		{"a timestamp is from before the request", func(h *check.History) {
			h.Commits[4].Span = span("b", 10, 12, check.Unknown)
			h.Commits = append(h.Commits, check.Commit{Span: span("c", 30, 31, check.OK), Logs: news("side", "w6"), IDs: []api.ID{id(20, 1)}})
			with(h, "side", 2, w1, log(20, 1, "w6"))
		}, []check.Kind{check.TooEarly}, "by 9 ms"},
		{"a timestamp is from after the answer", func(h *check.History) {
			h.Commits = append(h.Commits, check.Commit{Span: span("c", 30, 31, check.OK), Logs: news("side", "w6"), IDs: []api.ID{id(33, 1)}})
			with(h, "side", 2, w1, log(33, 1, "w6"))
		}, []check.Kind{check.TooLate}, "w6"},
		{"a timestamp is from after its log was seen", func(h *check.History) {
			h.Commits[4].Span = span("b", 10, 12, check.Unknown)
			with(h, "in", 4, v1, v2, log(15, 3, "v3"))
			h.Claims[1].Logs, h.Events[3].Logs = []check.Log{v2, log(15, 3, "v3")}, []check.Log{log(15, 3, "v3")}
			h.Reads = h.Reads[3:]
		}, []check.Kind{check.TooLate}, "v3"},
		{"a log turns up late in a range", func(h *check.History) { h.Reads[0].Logs = []check.Log{v0, v1, v3} },
			[]check.Kind{check.Late}, "has 3 where 2"},
		{"a range does not reach what had been seen", func(h *check.History) { h.Reads[0].Logs = []check.Log{v0, v1, v2} },
			[]check.Kind{check.Late}, "ends at 2"},
		{"a range downwards begins below what had been seen", func(h *check.History) { h.Reads[2].Logs = []check.Log{v2, v1, v0} },
			[]check.Kind{check.Late}, "ends at 2"},
		{"a range is empty though logs had been seen", func(h *check.History) { h.Reads[0].Logs = nil },
			[]check.Kind{check.Late}, "had seen 3"},
		{"a multi-topic commit is seen in part", func(h *check.History) {
			h.Commits[1].Outcome = check.Unknown
			h.Reads = append(h.Reads[:0], check.Read{Span: span("r", 20, 21, check.OK), Topic: "side", From: 0})
		}, []check.Kind{check.Partial}, "in another topic"},
		{"a multi-topic commit is there in part", func(h *check.History) {
			h.Commits[6].Span = span("b", 15, 16, check.Unknown)
			with(h, "in", 5, v1, v2, v3, log(16, 4, "v5"))
			h.Procs[0].Whole, h.Streams[0].Whole = false, false
		}, []check.Kind{check.Partial}, `"w5" is not in topic side`},
		{"a commit is there but for a topic that is not", func(h *check.History) {
			h.Commits = append(h.Commits, check.Commit{Span: span("c", 30, 31, check.Unknown), Logs: news("side", "w6", "new", "n6")})
			with(h, "side", 2, w1, log(31, 1, "w6"))
		}, []check.Kind{check.Partial}, `"n6" is not in topic new`},
		{"a commit has two timestamps", func(h *check.History) {
			with(h, "in", 5, v1, v2, v3, log(16, 4, "v5"))
			with(h, "side", 2, w1, log(17, 1, "w5"))
			h.Procs[0].Whole, h.Streams[0].Whole = false, false
		}, []check.Kind{check.Scattered}, "timestamp"},
		{"another log stands between those of a commit", func(h *check.History) {
			h.Commits = append(h.Commits,
				check.Commit{Span: span("c", 30, 33, check.OK), Logs: news("side", "w6", "side", "w7"), IDs: []api.ID{id(31, 1), id(31, 3)}},
				check.Commit{Span: span("d", 30, 33, check.OK), Logs: news("side", "w8"), IDs: []api.ID{id(31, 2)}})
			with(h, "side", 4, w1, log(31, 1, "w6"), log(31, 2, "w8"), log(31, 3, "w7"))
		}, []check.Kind{check.Scattered}, "w7"},
		{"a failed commit is there", func(h *check.History) {
			with(h, "in", 5, v1, v2, v3, log(13, 4, "v4"))
			h.Procs[0].Whole, h.Streams[0].Whole = false, false
		}, []check.Kind{check.FromFailed}, "v4"},
		{"a log comes from nobody", func(h *check.History) { with(h, "side", 2, w1, log(13, 1, "w9")) },
			[]check.Kind{check.Foreign}, "w9"},
		{"a log is in the wrong topic", func(h *check.History) { with(h, "side", 2, w1, log(16, 1, "v5")) },
			[]check.Kind{check.Foreign}, "v5"},
		{"a log is there twice", func(h *check.History) { with(h, "side", 2, w1, log(5, 1, "w1")) },
			[]check.Kind{check.Doubled}, "at seq 0 and at seq 1"},
		{"a log is there more often than it was sent", func(h *check.History) {
			h.Commits[1].Sent = 2
			with(h, "side", 5, w1, log(5, 1, "w1"), log(5, 2, "w1"), log(5, 3, "w1"), log(5, 4, "w1"))
		}, []check.Kind{check.Doubled}, "sent 2 times"},
		{"a log with a key is there twice", func(h *check.History) {
			h.Commits = append(h.Commits,
				check.Commit{Span: span("c", 30, 31, check.OK), Key: "l", Logs: news("side", "w6"), IDs: []api.ID{id(30, 1)}},
				check.Commit{Span: span("c", 32, 33, check.OK), Key: "l", Logs: news("side", "w6"), IDs: []api.ID{id(32, 2)}})
			with(h, "side", 3, w1, log(30, 1, "w6"), log(32, 2, "w6"))
		}, []check.Kind{check.Doubled, check.RepeatDiffers}, "w6"},
		{"commits are out of order", func(h *check.History) {
			h.Commits = append(h.Commits,
				check.Commit{Span: span("c", 30, 31, check.OK), Logs: news("side", "w6"), IDs: []api.ID{id(31, 2)}},
				check.Commit{Span: span("c", 32, 33, check.OK), Logs: news("side", "w7"), IDs: []api.ID{id(31, 1)}})
			with(h, "side", 3, w1, log(31, 1, "w7"), log(31, 2, "w6"))
		}, []check.Kind{check.Disorder}, `seq 2, "w6"`},
		{"a commit goes before one that had only been seen", func(h *check.History) {
			h.Commits = append(h.Commits,
				check.Commit{Span: span("c", 30, 31, check.Unknown), Logs: news("side", "w6")},
				check.Commit{Span: span("c", 35, 36, check.OK), Logs: news("side", "w7"), IDs: []api.ID{id(34, 1)}})
			h.Reads = append(h.Reads, check.Read{Span: span("r", 32, 33, check.OK), Topic: "side", From: 2, Logs: []check.Log{log(34, 2, "w6")}})
			with(h, "side", 3, w1, log(34, 1, "w7"), log(34, 2, "w6"))
		}, []check.Kind{check.Disorder}, `seq 2, "w6"`},

		{"two claims live", func(h *check.History) {
			h.Reclaims = nil
			h.Acks = h.Acks[:4]
		}, []check.Kind{check.Illegal, check.TwoClaims}, "q1"},
		{"a claim is sent with other logs", func(h *check.History) {
			h.Claims = append(h.Claims, check.Claim{Span: span("p", 0, 13.5, check.OK), Proc: "p", Token: "p2", Attempt: 1,
				Logs: []check.Log{v2}, Via: check.ByStream})
		}, []check.Kind{check.ClaimChanged}, "p2"},
		{"a claim has a hole", func(h *check.History) { h.Claims[0].Logs = []check.Log{v0, v2} },
			[]check.Kind{check.AckedTwice, check.ClaimChanged, check.Illegal, check.OutputTwice, check.TooLate}, "seq 2 after 0"},
		{"an ack by a reclaimed claim", func(h *check.History) {
			h.Acks = append(h.Acks, check.Ack{Span: span("q1", 8.5, 8.8, check.OK), Proc: "q", Token: "q1"})
		}, []check.Kind{check.AckedTwice, check.Illegal, check.LostToken}, "reclaimed"},
		{"an ack by a claim after which another was made", func(h *check.History) {
			h.Reclaims = nil
			h.Claims[2].ExpiresAt = epoch + 7
			h.Procs[1].Disabled = true
			h.Acks[4] = check.Ack{Span: span("q1", 17, 18, check.OK), Proc: "q", Token: "q1"}
		}, []check.Kind{check.AckedTwice, check.Illegal, check.LostToken}, "handed out after it"},
		{"an ack after the time-out", func(h *check.History) {
			h.Claims[1].ExpiresAt = epoch + 13
			h.Acks[1].Span = span("p", 30, 31, check.OK)
			h.Acks[1].IDs = []api.ID{o1.ID}
			h.Acks[1].Output = news("out", "o1")
			h.Topics["out"] = check.Topic{Head: 2, Logs: []check.Log{o0, log(30, 1, "o1")}}
			h.Acks[1].IDs = []api.ID{id(30, 1)}
		}, []check.Kind{check.Illegal, check.LostToken}, "expired"},
		{"an extension of an acked claim", func(h *check.History) { h.Extends[0].Span = span("q2", 17, 18, check.OK) },
			[]check.Kind{check.Illegal, check.LostToken}, "acked by"},
		{"an ack is refused though its claim lives", func(h *check.History) {
			h.Acks = append(h.Acks, check.Ack{Span: span("q2", 20, 21, check.Failed), Proc: "q", Token: "q3", Lost: true})
		}, []check.Kind{check.Illegal}, "no place for: ack q3"},
		{"acked logs are handed out again", func(h *check.History) {
			h.Claims = append(h.Claims, check.Claim{Span: span("p", 20, 21, check.OK), Proc: "p", Token: "p3", Attempt: 1, Logs: []check.Log{v1}})
		}, []check.Kind{check.AckedTwice, check.Illegal}, "p3"},
		{"logs are acked twice", func(h *check.History) {
			h.Claims = append(h.Claims, check.Claim{Span: span("p", 14.5, 20, check.OK), Proc: "p", Token: "p3", Attempt: 1, Logs: []check.Log{v3}})
			h.Acks = append(h.Acks, check.Ack{Span: span("p", 21, 22, check.OK), Proc: "p", Token: "p3"})
		}, []check.Kind{check.AckedTwice, check.Illegal}, "p3"},
		{"logs are passed over", func(h *check.History) {
			h.Claims[1].Logs = []check.Log{v3}
		}, []check.Kind{check.Illegal, check.Skipped}, "from 2 on"},
		{"a proc has passed logs that nobody acked", func(h *check.History) { h.Procs[1].Position = 2 },
			[]check.Kind{check.Skipped}, "from 1 to 2"},
		{"a proc did not reach the end", func(h *check.History) { h.Procs[1].Whole = true },
			[]check.Kind{check.Skipped}, "head is 4"},
		{"an ack is undone", func(h *check.History) { h.Procs[0].Position, h.Procs[0].Whole = 2, false },
			[]check.Kind{check.AckUndone}, "proc p stands at 2"},
		{"acks are out of order", func(h *check.History) {
			h.Acks[0] = check.Ack{Span: span("p", 16, 17, check.OK), Proc: "p", Token: "p1", Output: news("out", "o0"), IDs: []api.ID{id(17, 1)}}
			h.Topics["out"] = check.Topic{Head: 2, Logs: []check.Log{log(14, 0, "o1"), log(17, 1, "o0")}}
			h.Acks[1] = check.Ack{Span: span("p", 14, 15, check.OK), Proc: "p", Token: "p2", Output: news("out", "o1"), IDs: []api.ID{id(14, 0)}}
		}, []check.Kind{check.Disorder, check.Illegal, check.LostToken, check.OutputMixed, check.Skipped, check.TwoClaims}, "p1"},
		{"an output is lost", func(h *check.History) { with(h, "out", 1, o0) },
			[]check.Kind{check.OutputLost}, "o1"},
		{"an acked output is lost", func(h *check.History) {
			h.Acks[1].Outcome, h.Acks[1].IDs = check.OK, []api.ID{o1.ID}
			with(h, "out", 1, o0)
		}, []check.Kind{check.Missing}, "o1"},
		{"an output is there twice", func(h *check.History) { with(h, "out", 3, o0, o1, log(14, 2, "o1")) },
			[]check.Kind{check.OutputTwice}, "at seq 1 and at seq 2"},
		{"two outputs of the same logs", func(h *check.History) {
			h.Claims = append(h.Claims, check.Claim{Span: span("p", 14.5, 17, check.OK), Proc: "p", Token: "p3", Attempt: 2, Logs: []check.Log{v2, v3}})
			h.Acks = append(h.Acks, check.Ack{Span: span("p", 18, 19, check.OK), Proc: "p", Token: "p3", Output: news("out", "o2"), IDs: []api.ID{id(18, 2)}})
			with(h, "out", 3, o0, o1, log(18, 2, "o2"))
		}, []check.Kind{check.Illegal, check.OutputTwice}, "p2"},
		{"GC takes what a proc has not acked", func(h *check.History) {
			h.Collections[0].First = 2
			h.Topics["in"] = check.Topic{First: 2, Head: 4, Logs: []check.Log{v2, v3}}
		}, []check.Kind{check.CollectedUnread}, "proc q"},
		{"GC takes what a proc acked only later", func(h *check.History) { h.Collections[0].Span = span("gc", 11, 12, check.OK) },
			[]check.Kind{check.CollectedUnread}, "proc q"},
		{"GC gives back what it took", func(h *check.History) {
			h.Collections[0].First = 1
			h.Topics["in"] = check.Topic{First: 0, Head: 4, Logs: []check.Log{v0, v1, v2, v3}}
		}, []check.Kind{check.Missing}, "begins at 1"},

		{"a stream passes a log over", func(h *check.History) { h.Events = slices.Delete(h.Events, 2, 3) },
			[]check.Kind{check.StreamLoss}, "3 where 2"},
		{"a stream ends too early", func(h *check.History) { h.Events = h.Events[:3] },
			[]check.Kind{check.StreamLoss}, "head is 4"},
		{"a stream sends a log again", func(h *check.History) { h.Events[2].Logs = []check.Log{v1, v2} },
			[]check.Kind{check.StreamTwice}, "1 again"},
		{"a stream sends logs in another order", func(h *check.History) {
			h.Events[2].Logs, h.Events[3].Logs = []check.Log{v3}, []check.Log{v2}
			h.Commits[4].Span = span("b", 7, 12, check.Unknown)
		}, []check.Kind{check.StreamLoss, check.StreamMixed, check.TooLate}, "2 comes after 3"},
		{"a stream has a gap where nothing is gone", func(h *check.History) {
			h.Events[2] = check.Event{At: ms(9), Stream: "s", Connection: 2, Topic: "in", Gap: &check.Gap{Requested: 2, ResumedAt: 3}}
		}, []check.Kind{check.CollectedUnread, check.StreamGap}, "from 2 to 3"},
		{"a stream has a gap of what a proc had still to get", func(h *check.History) {
			h.Events[0] = check.Event{At: ms(5), Stream: "s", Connection: 1, Topic: "in", Gap: &check.Gap{Requested: 0, ResumedAt: 1}}
		}, []check.Kind{check.CollectedUnread}, "the gap of s"},
		{"a processor is called again under another id", func(h *check.History) { calls(h, "a", "b") },
			[]check.Kind{check.CallChanged}, "0 to 0 came under the id b, and 0 to 0 under a"},
		{"a processor is called for other logs under an id", func(h *check.History) {
			calls(h, "a", "a")
			h.Claims[4].Call = "a"
		}, []check.Kind{check.CallChanged}, "1 to 1 came under the id a, as 0 to 0"},
		{"a claim that is sent again under another id", func(h *check.History) {
			calls(h, "a", "a")
			again := h.Claims[2]
			again.Call = "b"
			h.Claims = append(h.Claims, again)
		}, []check.Kind{check.ClaimChanged}, "q1"},
		{"a stream's log comes late", func(h *check.History) { h.Events[3].At = ms(25) },
			[]check.Kind{check.WakeUpLate}, "stream s"},
		{"a waiting claim is woken late", func(h *check.History) {
			h.Claims[0].Span = span("p", 0, 14, check.OK)
			h.Acks[0].Span = span("p", 15, 16, check.OK)
			h.Acks[0].IDs, h.Topics["out"] = []api.ID{id(15, 0)}, check.Topic{Head: 2, Logs: []check.Log{log(15, 0, "o0"), log(25, 1, "o1")}}
			h.Claims[1].Span, h.Acks[1].Span = span("p", 18, 19, check.OK), span("p", 24, 25, check.Unknown)
		}, []check.Kind{check.WakeUpLate}, "a claim of proc p"},

		{"a log outside its topic", func(h *check.History) { with(h, "side", 1, w1, log(9, 1, "w5")) },
			[]check.Kind{check.Hole}, "1000000009-1"},
		{"an acked log is at another seq", func(h *check.History) {
			h.Commits = append(h.Commits,
				check.Commit{Span: span("c", 30, 31, check.OK), Logs: news("side", "w6"), IDs: []api.ID{id(30, 2)}},
				check.Commit{Span: span("d", 30, 31, check.OK), Logs: news("side", "w7"), IDs: []api.ID{id(30, 1)}})
			with(h, "side", 3, w1, log(30, 1, "w6"), log(30, 2, "w7"))
		}, []check.Kind{check.TwoBodies}, "w6"},
		{"an answer without ids", func(h *check.History) {
			h.Commits = append(h.Commits, check.Commit{Span: span("c", 30, 31, check.OK), Logs: news("side", "w6")})
		}, []check.Kind{check.Missing}, "0 ids"},
		{"an ackCommit's answer without ids", func(h *check.History) {
			h.Acks[1].Outcome = check.OK
		}, []check.Kind{check.OutputLost}, "0 ids"},
		{"a stream's log of a topic that it does not follow", func(h *check.History) {
			h.Events = append(h.Events, check.Event{At: ms(20), Stream: "s", Connection: 2, Topic: "side", Logs: []check.Log{w1}})
		}, []check.Kind{check.StreamMixed, check.WakeUpLate}, "topic side"},
		{"a range downwards that ends too early", func(h *check.History) { h.Reads[2].Logs = []check.Log{v3, v2} },
			[]check.Kind{check.Hole}, "ends at 2"},
		{"two claims live until a seek", func(h *check.History) {
			h.Seeks = []check.Seek{{Span: span("q1", 30, 31, check.OK), Proc: "q", Position: 0}}
			h.Reclaims = nil
			h.Acks = h.Acks[:4]
		}, []check.Kind{check.Illegal, check.TwoClaims}, "q1"},
		{"a seek that changes nothing", func(h *check.History) {
			h.Seeks = []check.Seek{{Span: span("p", 9, 10, check.OK), Proc: "p", Position: 0}}
		}, []check.Kind{check.Illegal}, "p2"},

		{"a stream of which nothing is known", func(h *check.History) { h.Streams = nil }, []check.Kind{check.Unsound}, "stream s"},
		{"two procs of one name", func(h *check.History) { h.Procs = append(h.Procs, h.Procs[0]) }, []check.Kind{check.Unsound}, "procs p"},
		{"a claim of an unknown proc", func(h *check.History) {
			h.Claims = append(h.Claims, check.Claim{Span: span("c", 30, 31, check.OK), Proc: "x", Token: "x", Logs: []check.Log{v0}})
		}, []check.Kind{check.Unsound}, "proc x"},
		{"a claim without logs", func(h *check.History) {
			h.Claims = append(h.Claims, check.Claim{Span: span("c", 30, 31, check.OK), Proc: "p", Token: "x"})
		}, []check.Kind{check.Unsound}, "without token or logs"},
		{"a value of two commits", func(h *check.History) {
			h.Commits = append(h.Commits, check.Commit{Span: span("c", 30, 31, check.Failed), Logs: news("in", "v1")})
		}, []check.Kind{check.Unsound}, "v1"},
		{"an ack without a claim", func(h *check.History) {
			h.Acks = append(h.Acks, check.Ack{Span: span("c", 30, 31, check.Unknown), Proc: "p", Token: "p9"})
		}, []check.Kind{check.Unsound}, "p9"},
		{"a topic without an end", func(h *check.History) { delete(h.Topics, "out") }, []check.Kind{check.OutputLost, check.Unsound}, "topic out"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			h := clean()
			test.spoil(&h)
			violations := check.Verify(h)
			if diff := cmp.Diff(test.want, check.Kinds(violations)); diff != "" {
				t.Errorf("kinds (-want +got):\n%s", diff)
			}
			if !slices.ContainsFunc(violations, func(v check.Violation) bool { return strings.Contains(v.Text, test.text) }) || t.Failed() {
				t.Errorf("no %q in:", test.text)
				for _, v := range violations {
					t.Errorf("%v", v)
				}
			}
		})
	}
}

// What may be right is no violation.
func TestNoViolations(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*check.History){
		"a request that arrived twice": func(h *check.History) {
			h.Commits[1].Sent = 2
			with(h, "in", 5, v1, v2, v3, log(20, 4, "v1"))
			with(h, "side", 2, w1, log(20, 1, "w1"))
			h.Procs[0].Whole, h.Streams[0].Whole = false, false
			h.Reads[2].Logs = []check.Log{log(20, 4, "v1"), v3, v2, v1, v0}
		},
		"the rest of a commit that GC took": func(h *check.History) {
			h.Commits[1].Outcome = check.Unknown
			h.Topics["side"] = check.Topic{First: 1, Head: 1}
			h.Reads = h.Reads[:3]
		},
		"a time-out": func(h *check.History) {
			h.Reclaims = nil
			h.Claims[2].ExpiresAt = epoch + 8
		},
		"an ack without an answer that went through": func(h *check.History) { h.Acks[2].Outcome, h.Acks[3].Outcome = check.Unknown, check.Unknown },
		"answers of two attempts, one of which went through": func(h *check.History) {
			h.Claims[1].ExpiresAt, h.Claims[1].Via = epoch+15, check.ByProcessor
			h.Acks = append(h.Acks, check.Ack{Span: span("p", 18, 19, check.Unknown), Proc: "p", Token: "p3", Output: news("out", "o2")})
			h.Claims = append(h.Claims, check.Claim{Span: span("p", 0, 17, check.OK), Proc: "p", Token: "p3", Attempt: 2, Logs: []check.Log{v2, v3}, Via: check.ByProcessor})
			with(h, "out", 2, o0, log(19, 1, "o2"))
		},
		"a processor that is called again": func(h *check.History) {
			calls(h, "a", "a")
			h.Claims[4].Call = "b"
		},
		"a seek": func(h *check.History) {
			h.Seeks = []check.Seek{{Span: span("p", 16, 17, check.OK), Proc: "p", Position: 1}}
			h.Claims = append(h.Claims, check.Claim{Span: span("p", 20, 21, check.OK), Proc: "p", Token: "p3", Attempt: 1, Logs: []check.Log{v1}})
			h.Procs[0].Whole, h.Procs[0].Position = false, 1
		},
		"a gap where GC took logs": func(h *check.History) {
			h.Events[0] = check.Event{At: ms(13.5), Stream: "s", Connection: 1, Topic: "in", Gap: &check.Gap{Requested: 0, ResumedAt: 1}}
			h.Events[1].At, h.Events[2].At, h.Events[3].At = ms(14), ms(15), ms(16)
			h.Streams[0].Connected[1] = ms(14.5)
		},
		"a key that was refused, then got no answer, then one": func(h *check.History) {
			again := h.Commits[2]
			refused, lost := again, again
			again.Span = span("a", 12, 13, check.OK)
			refused.Span, refused.IDs = span("a", 1, 2, check.Failed), nil
			lost.Span, lost.IDs = span("a", 3, 4, check.Unknown), nil
			h.Commits = append(h.Commits, refused, lost, again, refused)
		},
		"a destroyed proc and what GC took then": func(h *check.History) {
			gone := span("q2", 25, 26, check.OK)
			h.Procs[1].Destroyed, h.Procs[1].Position = &gone, -1
			h.Collections[0].First = 4
			h.Topics["in"] = check.Topic{First: 4, Head: 4}
		},
		"an extension without an answer": func(h *check.History) { h.Extends[0].Outcome, h.Extends[0].ExpiresAt = check.Unknown, 0 },
		"a claim that never expires": func(h *check.History) {
			h.Claims[1].ExpiresAt = 0
			h.Extends = append(h.Extends, check.Extend{Span: span("p", 13.2, 13.5, check.OK), Proc: "p", Token: "p2"})
		},
		"a late log in a time of faults": func(h *check.History) {
			h.Events[3].At = ms(25)
			h.Excused = []check.Interval{{From: ms(11), To: ms(12)}, {From: ms(11.5), To: ms(16)}}
		},
		"a liveProc's claim that is sent again": func(h *check.History) {
			h.Claims[1].Via, h.Claims[1].Begin = check.ByStream, 0
			again := h.Claims[1]
			again.End = ms(13.5)
			h.Claims = append(h.Claims, again)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := clean()
			change(&h)
			for _, v := range check.Verify(h) {
				t.Errorf("%v", v)
			}
		})
	}
}
