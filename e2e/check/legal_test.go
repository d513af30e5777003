package check_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pipeproc/api"
	"pipeproc/e2e/check"
)

// A proc with thousands of requests is checked to its end, and no less for being cut.
func TestLongHistoryOfAProc(t *testing.T) {
	t.Parallel()
	h := simulate(7, 1500*time.Millisecond, 4, 2, 0, 0.05)
	if n := len(h.Claims) + len(h.Acks); n < 1_500 {
		t.Fatalf("only %d claims and acks", n)
	}
	for _, v := range check.Verify(h) {
		t.Errorf("%v", v)
	}
	acks := slices.Clone(h.Acks)
	slices.SortFunc(acks, func(a, b check.Ack) int { return int(a.Begin - b.Begin) })
	for _, part := range []float64{0.1, 0.5, 0.99} {
		// The last ack before that time is refused, when it is repeated at once.
		i := int(part * float64(len(acks)))
		for acks[i].Outcome != check.OK || acks[i+1].Begin <= acks[i].End+2 {
			i--
		}
		spoilt := h
		again := acks[i]
		again.Span = check.Span{Client: "again", Begin: acks[i].End + 1, End: acks[i].End + 2, Outcome: check.Failed}
		again.IDs, again.Output, again.Lost = nil, nil, true
		spoilt.Acks = append(slices.Clone(h.Acks), again)
		if kinds := check.Kinds(check.Verify(spoilt)); !slices.Equal(kinds, []check.Kind{check.Illegal}) {
			t.Errorf("a wrong answer after %v of the history: %v", part, kinds)
		}
	}
}

// What cannot be cut into parts of at most 500 requests is not called right.
func TestTooManyRequestsAtOnce(t *testing.T) {
	t.Parallel()
	v := log(1, 0, "v")
	h := check.History{
		Began:   time.UnixMilli(epoch),
		Commits: []check.Commit{{Span: span("a", 0, 1, check.OK), Logs: news("in", "v"), IDs: []api.ID{v.ID}}},
		Procs:   []check.Proc{{Name: "p", Topic: "in", Created: span("p", 0, 1, check.OK), Position: -1}},
		Topics:  map[string]check.Topic{"in": {Head: 1, Logs: []check.Log{v}}},
	}
	for i := range 501 {
		h.Claims = append(h.Claims, check.Claim{Span: span("p", 1, 1_000, check.OK), Proc: "p", Token: fmt.Sprint("t", i), Attempt: i + 1,
			ExpiresAt: epoch + 2, Logs: []check.Log{v}})
	}
	if kinds := check.Kinds(check.Verify(h)); !slices.Equal(kinds, []check.Kind{check.Undecided}) {
		t.Errorf("%v", kinds)
	}
}
