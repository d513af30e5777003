package procs

import (
	"context"
	"net/http"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"pipeproc/api"
)

// traced begins the span of an execution, in a trace of its own; the batch that commits its claim is linked with it, and that
// one with the batches that committed its logs. former is the execution which claimed it with its ack. A span that end is not
// called for is not told of: there was nothing to do.
func (r *run) traced(proc string, former trace.SpanContext) (ctx context.Context, end func(outcome)) {
	if r.Tracer == nil {
		return r.store, func(outcome) {}
	}
	options := []trace.SpanStartOption{trace.WithSpanKind(trace.SpanKindConsumer), trace.WithAttributes(attribute.String("pipeproc.proc", proc))}
	if former.IsSampled() {
		options = append(options, trace.WithLinks(trace.Link{SpanContext: former}))
	}
	ctx, span := r.Tracer.Start(r.store, "execution", options...)
	return ctx, func(o outcome) {
		span.SetAttributes(attribute.String("pipeproc.outcome", string(o)))
		if o == failing {
			span.SetStatus(codes.Error, string(o))
		}
		span.End()
	}
}

// called begins the span of a webhook's call, and answers the ids that the webhook is told of. The URL is left out, since its
// path and query may hold what is secret. end ends it; status 0: there was no answer.
func (h *webhook) called(ctx context.Context, e *api.Execution) (spanned context.Context, id, parent string, end func(status int)) {
	if h.tracer == nil {
		id = randomHex(16)
		return ctx, id, "00-" + id + "-" + randomHex(8) + "-01", func(int) {}
	}
	ctx, span := h.tracer.Start(ctx, "webhook", trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(
		attribute.String("http.request.method", http.MethodPost), attribute.String("pipeproc.webhook_id", e.WebhookID),
		attribute.Int("pipeproc.attempt", e.Claim.Attempt), attribute.Int("pipeproc.logs", len(e.Logs))))
	sc := span.SpanContext()
	id = sc.TraceID().String()
	return ctx, id, "00-" + id + "-" + sc.SpanID().String() + "-" + sc.TraceFlags().String(), func(status int) {
		if status != 0 {
			span.SetAttributes(attribute.Int("http.response.status_code", status))
		}
		if status < http.StatusOK || status >= http.StatusMultipleChoices {
			span.SetStatus(codes.Error, "")
		}
		span.End()
	}
}
