package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/net/http/httpguts"
)

// flushTime is how long the spans that are not sent yet may take when the server ends.
const flushTime = 5 * time.Second

// noticeGap is how often it is told, at most, that traces are not sent.
const noticeGap = time.Minute

// tracing tells whether OpenTelemetry's own variables ask for traces: an endpoint of OTLP does, or to name its exporter. Its
// errors tell what of them cannot be had, or not be read: the exporter would tell the log the very values, which may be secret.
func tracing() (bool, error) {
	given := func(names ...string) string {
		for _, name := range names {
			if v := os.Getenv(name); v != "" {
				return v
			}
		}
		return ""
	}
	switch {
	case given("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_TRACES_EXPORTER") == "",
		strings.EqualFold(given("OTEL_SDK_DISABLED"), "true"), given("OTEL_TRACES_EXPORTER") == "none":
		return false, nil
	}
	if v := given("OTEL_TRACES_EXPORTER"); v != "" && v != "otlp" {
		return false, fmt.Errorf("OTEL_TRACES_EXPORTER is otlp or none, not %q", v)
	}
	if v := given("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"); v != "" && v != "http/protobuf" {
		return false, fmt.Errorf("OTEL_EXPORTER_OTLP_PROTOCOL is http/protobuf, not %q", v)
	}
	for _, name := range []string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"} {
		u, err := url.Parse(os.Getenv(name))
		if os.Getenv(name) != "" && (err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "") {
			return false, fmt.Errorf("%s is not as http://host:4318", name)
		}
	}
	for _, name := range []string{"OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS"} {
		if v := os.Getenv(name); v != "" && !validHeaders(v) {
			return false, fmt.Errorf("%s is not as name=value,name=value, percent-encoded where need be (what is wrong is not told: "+
				"it may be a secret)", name)
		}
	}
	return true, nil
}

// validHeaders reports whether the exporter can read headers for its requests.
func validHeaders(text string) bool {
	for pair := range strings.SplitSeq(text, ",") {
		name, value, ok := strings.Cut(pair, "=")
		if _, err := url.PathUnescape(value); !ok || err != nil || !httpguts.ValidHeaderFieldName(strings.TrimSpace(name)) {
			return false
		}
	}
	return true
}

// openTracer makes the tracer that the variables ask for, nil where they ask for none. end sends what is not sent yet.
func openTracer(ctx context.Context, version string, log *slog.Logger) (_ trace.Tracer, end func() error, err error) {
	on, err := tracing()
	if !on || err != nil {
		return nil, func() error { return nil }, err
	}
	otel.SetLogger(logr.FromSlogHandler(log.Handler()))
	otel.SetErrorHandler(notices(log))
	exporter, err := otlptracehttp.New(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("OTLP: %w", err)
	}
	// The variables win over what is told here.
	res, err := resource.New(ctx, resource.WithAttributes(attribute.String("service.name", "pipeproc"),
		attribute.String("service.version", version)), resource.WithTelemetrySDK(), resource.WithFromEnv())
	if err != nil && !errors.Is(err, resource.ErrPartialResource) {
		return nil, nil, fmt.Errorf("OTEL_RESOURCE_ATTRIBUTES: %w", err)
	}
	provider := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(res))
	return provider.Tracer("pipeproc"), func() error {
		ctx, cancel := context.WithTimeout(context.Background(), flushTime)
		defer cancel()
		if err := provider.Shutdown(ctx); err != nil { // no reason to say that the server failed
			log.Warn("traces are not sent", "error", err)
		}
		return nil
	}, nil
}

// notices tell the log what becomes of traces, once a while: a collector that is away fails every few seconds.
func notices(log *slog.Logger) otel.ErrorHandler {
	var last atomic.Int64 // in Unix ns
	return otel.ErrorHandlerFunc(func(err error) {
		now, before := time.Now().UnixNano(), last.Load()
		if now-before >= int64(noticeGap) && last.CompareAndSwap(before, now) {
			log.Warn("traces are not sent", "error", err)
		}
	})
}
