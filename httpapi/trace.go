package httpapi

import (
	"context"
	"net/http"
	"slices"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"pipeproc/api"
)

// span begins the span of a request, as a part of the client's trace where there is one. end ends it, with what became of
// the request. The query is left out, which may hold a ticket.
func (s *Server) span(r *http.Request) (spanned *http.Request, end func(*recorder)) {
	caller := api.CallerOf(r.Context())
	method := r.Method
	if !slices.Contains(methods, method) {
		method = "other"
	}
	ctx := propagation.TraceContext{}.Extract(r.Context(), propagation.HeaderCarrier(r.Header))
	ctx, span := s.Tracer.Start(ctx, method, trace.WithSpanKind(trace.SpanKindServer), trace.WithAttributes(
		attribute.String("http.request.method", method),
		attribute.String("url.path", toldPath(r)),
		attribute.String("client.address", caller.Address.String()),
		attribute.String("pipeproc.request_id", caller.RequestID)))
	spanned = r.WithContext(ctx)
	return spanned, func(rec *recorder) {
		if spanned.Pattern != "" {
			span.SetName(method + " " + spanned.Pattern)
			span.SetAttributes(attribute.String("http.route", spanned.Pattern))
		}
		span.SetAttributes(attribute.Int("http.response.status_code", rec.status))
		if rec.code != "" {
			span.SetAttributes(attribute.String("error.type", string(rec.code)))
		}
		if rec.status >= http.StatusInternalServerError {
			span.SetStatus(codes.Error, string(rec.code))
		}
		span.End()
	}
}

// traceID is the trace that ctx belongs to; "" none that is kept.
func traceID(ctx context.Context) string {
	if span := trace.SpanContextFromContext(ctx); span.IsSampled() {
		return span.TraceID().String()
	}
	return ""
}
