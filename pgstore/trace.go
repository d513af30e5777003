package pgstore

import (
	"context"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"pipeproc/api"
)

// begin tells that a batch of requests is under way; end, that it is over.
func (l *lane) begin(requests []*request) (end func()) {
	s := l.store
	begun := time.Now()
	s.meters.batches.Observe(float64(len(requests)))
	if l.number == 0 {
		s.batchTurns.Begin()
	}
	l.span = s.traces.begin(l, requests)
	return func() {
		if l.span != nil {
			l.span.End()
			l.span = nil
		}
		if l.number == 0 {
			s.batchTurns.End()
		}
		s.meters.batchSeconds.Observe(time.Since(begun).Seconds())
	}
}

// told counts and traces what a committed batch has done, before its requests are answered.
func (b *batch) told(requests []*request) {
	b.store.meters.count(b, requests)
	if b.lane.span != nil {
		b.store.traces.told(b, requests)
	}
}

// maxLinks is how many requests a batch's span is linked with: the others' spans are linked with the batch's all the same.
const maxLinks = 128

// traces are the spans of batches. A batch is a part of the trace of its first request that is traced, and linked with the
// others, and they with it. The last batch that added logs to a topic of systemProcs is remembered: the execution that
// claims logs of it is linked with it, so that the way of a log can be followed to the webhook.
type traces struct {
	tracer trace.Tracer // nil: nothing is traced
	hub    *hub

	mu      sync.Mutex
	commits map[string]trace.SpanContext // by topic; of topics that systemProcs read alone
}

// begin is the span of a batch; nil where none of its requests is traced.
func (t *traces) begin(l *lane, requests []*request) trace.Span {
	if t.tracer == nil {
		return nil
	}
	var traced []trace.Span
	for _, r := range requests {
		if span := trace.SpanFromContext(r.ctx); span.SpanContext().IsSampled() {
			traced = append(traced, span)
		}
	}
	if len(traced) == 0 {
		return nil
	}
	var links []trace.Link
	for _, span := range traced[1:min(len(traced), maxLinks+1)] {
		links = append(links, trace.Link{SpanContext: span.SpanContext()})
	}
	_, batch := t.tracer.Start(trace.ContextWithSpan(context.Background(), traced[0]), "batch", trace.WithLinks(links...),
		trace.WithAttributes(attribute.Int("pipeproc.batch.requests", len(requests)), attribute.Int("pipeproc.batch.lane", l.number)))
	for _, span := range traced[1:] {
		span.AddLink(trace.Link{SpanContext: batch.SpanContext()})
	}
	return batch
}

// told remembers where logs were committed, and links executions with the batch that brought their logs.
func (t *traces) told(b *batch, requests []*request) {
	committed := map[string]bool{}
	for row := range b.touched {
		committed[row.name] = true
	}
	jobs := t.hub.jobTopicsOf(committed)
	t.mu.Lock()
	defer t.mu.Unlock()
	for i, r := range requests {
		if o, ok := r.op.(*claimOp); ok && b.answers[i] == nil && o.claim != nil && o.role == api.KindSystem {
			if commit, ok := t.commits[o.proc.Topic]; ok {
				trace.SpanFromContext(r.ctx).AddLink(trace.Link{SpanContext: commit})
			}
		}
	}
	for name := range t.commits {
		if !t.hub.isJobTopic(name) {
			delete(t.commits, name)
		}
	}
	for _, name := range jobs {
		t.commits[name] = b.lane.span.SpanContext()
	}
}

// jobTopicsOf answers which of topics systemProcs read.
func (h *hub) jobTopicsOf(topics map[string]bool) (names []string) {
	for name := range topics {
		if h.isJobTopic(name) {
			names = append(names, name)
		}
	}
	return names
}

func (h *hub) isJobTopic(name string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	_, ok := h.jobTopics[name]
	return ok
}

// Turns tell of each turn of the store's loops: batches, wake-ups sent and heard, and the look for those that were lost.
func (s *Store) Turns() []*api.Turns {
	return []*api.Turns{&s.batchTurns, &s.notifyTurns, &s.listenTurns, &s.pollTurns}
}

// What the store's loops may take for a turn: a batch waits for rows and for COMMIT several times before it gives up.
const (
	batchPatience = 2 * time.Minute
	wakePatience  = 30 * time.Second
)
