package check_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"pipeproc/e2e/check"
)

// A recorder takes down what many clients tell it at once.
func TestRecorder(t *testing.T) {
	t.Parallel()
	r := check.NewRecorder()
	const clients = 16
	done := make(chan struct{})
	for range clients {
		go func() {
			defer func() { done <- struct{}{} }()
			span := r.Begin("a")
			span = r.End(span, check.Unknown)
			r.Commit(check.Commit{Span: span})
			r.Claim(check.Claim{Span: span})
			r.Ack(check.Ack{Span: span})
			r.Reclaim(check.Reclaim{Span: span})
			r.Extend(check.Extend{Span: span})
			r.Seek(check.Seek{Span: span})
			r.Read(check.Read{Span: span})
			r.Event(check.Event{})
			r.Collection(check.Collection{Span: span})
			r.Stream(check.Stream{})
			r.Proc(check.Proc{})
			r.Excuse(span.Begin, span.End)
			r.Topic("t", check.Topic{Head: 1})
			r.WakeUp(time.Second)
		}()
	}
	for range clients {
		<-done
	}
	h := r.History()
	for name, n := range map[string]int{
		"commits": len(h.Commits), "claims": len(h.Claims), "acks": len(h.Acks), "reclaims": len(h.Reclaims), "extends": len(h.Extends),
		"seeks": len(h.Seeks), "reads": len(h.Reads), "events": len(h.Events), "collections": len(h.Collections),
		"streams": len(h.Streams), "procs": len(h.Procs), "excused": len(h.Excused),
	} {
		if n != clients {
			t.Errorf("%d %s, want %d", n, name, clients)
		}
	}
	if diff := cmp.Diff(map[string]check.Topic{"t": {Head: 1}}, h.Topics); diff != "" || h.WakeUp != time.Second {
		t.Errorf("wake-up %v, topics (-want +got):\n%s", h.WakeUp, diff)
	}
	for _, c := range h.Commits {
		if c.Client != "a" || c.Begin < 0 || c.End < c.Begin || c.End > r.Now() || c.Outcome != check.Unknown {
			t.Errorf("a span %v", c.Span)
		}
	}
	for _, e := range h.Events {
		if e.At == 0 {
			t.Error("an event without its time")
		}
	}
}
