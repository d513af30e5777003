package service

import (
	"encoding/hex"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	coltrace "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// TestTraces follows a log by OpenTelemetry's own means: the request that commits it, the batch, the batch that claims it, the
// execution, the webhook, which is told of its trace.
func TestTraces(t *testing.T) {
	var mu sync.Mutex
	var spans []*tracepb.Span
	collector := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		var sent coltrace.ExportTraceServiceRequest
		if err := proto.Unmarshal(body, &sent); err != nil || r.URL.Path != "/v1/traces" {
			t.Error(r.URL.Path, err)
		}
		mu.Lock()
		defer mu.Unlock()
		for _, resource := range sent.ResourceSpans {
			for _, scope := range resource.ScopeSpans {
				spans = append(spans, scope.Spans...)
			}
		}
	}))
	defer collector.Close()
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.URL)

	hooked := make(chan string, 1)
	hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		hooked <- r.Header.Get("traceparent")
		w.WriteHeader(http.StatusNoContent)
	}))
	defer hook.Close()
	s, stop := run(t, testConfig(t))
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	post := func(path, body string, parent string) {
		t.Helper()
		req, _ := http.NewRequestWithContext(t.Context(), "POST", s.URLs()[0]+path, strings.NewReader(body))
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Traceparent", parent)
		res, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		if res.StatusCode != http.StatusCreated {
			text, _ := io.ReadAll(res.Body)
			t.Fatalf("%s: %s", res.Status, text)
		}
	}
	post("/v1/system-procs", `{"name": "s", "from": "a", "processor": "`+hook.URL+`/?planted"}`, "")
	const clients = "4bf92f3577b34da6a3ce929d0e0e4736"
	post("/v1/topics/a/logs", `{"x": 1}`, "00-"+clients+"-00f067aa0ba902b7-01")
	parent := <-hooked
	stop()

	mu.Lock()
	defer mu.Unlock()
	id := func(b []byte) string { return hex.EncodeToString(b) }
	find := func(what string, is func(*tracepb.Span) bool) *tracepb.Span {
		t.Helper()
		for _, span := range spans {
			if is(span) {
				return span
			}
		}
		for _, span := range spans {
			t.Logf("%s, trace %s, span %s of %s, links %v", span.Name, id(span.TraceId), id(span.SpanId), id(span.ParentSpanId), span.Links)
		}
		t.Fatalf("there is no span of %s", what)
		return nil
	}
	linked := func(span *tracepb.Span, name string) *tracepb.Span {
		t.Helper()
		return find(name+" that is linked with "+span.Name, func(other *tracepb.Span) bool {
			for _, link := range span.Links {
				if id(link.SpanId) == id(other.SpanId) && other.Name == name {
					return true
				}
			}
			return false
		})
	}
	request := find("the request", func(span *tracepb.Span) bool {
		return span.Name == "POST /v1/topics/{topic}/logs" && id(span.TraceId) == clients && id(span.ParentSpanId) == "00f067aa0ba902b7"
	})
	batch := find("its batch", func(span *tracepb.Span) bool {
		return span.Name == "batch" && id(span.ParentSpanId) == id(request.SpanId)
	})
	webhook := find("the webhook", func(span *tracepb.Span) bool { return span.Name == "webhook" })
	if want := "00-" + id(webhook.TraceId) + "-" + id(webhook.SpanId) + "-01"; parent != want {
		t.Errorf("the webhook was told %q, want %q", parent, want)
	}
	execution := find("the execution", func(span *tracepb.Span) bool {
		return id(span.SpanId) == id(webhook.ParentSpanId) && span.Name == "execution"
	})
	if got := linked(execution, "batch"); id(got.SpanId) != id(batch.SpanId) {
		t.Errorf("the execution is linked with another batch: %v", got)
	}
	find("the batch that claims", func(span *tracepb.Span) bool {
		return span.Name == "batch" && id(span.ParentSpanId) == id(execution.SpanId)
	})
	for _, span := range spans {
		if strings.Contains(span.String(), "planted") {
			t.Errorf("a span tells a webhook's query: %v", span)
		}
	}
}

// TestCollectorThatIsAway holds that a server whose traces nobody takes works and stops as others do, and tells of it once.
func TestCollectorThatIsAway(t *testing.T) {
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
	t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "1") // ms
	t.Setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20s3cr3t")
	var log lockedBuffer
	c := testConfig(t)
	c.Logger = slog.New(slog.NewTextHandler(&log, nil))
	s, stop := run(t, c)
	for range 50 {
		get(t, s.URLs()[0]+"/healthz")
	}
	begun := time.Now()
	stop()
	if took := time.Since(begun); took > drainTime+flushTime {
		t.Errorf("it stopped after %v", took)
	}
	if n := strings.Count(log.String(), "traces are not sent"); n < 1 || n > 2 { // the end tells once more
		t.Errorf("told %d times: %s", n, log.String())
	}
	if strings.Contains(log.String(), "s3cr3t") {
		t.Errorf("the log tells a secret: %s", log.String())
	}
}

func TestTracing(t *testing.T) {
	for _, c := range []struct {
		env  string
		on   bool
		fail bool
	}{
		{"", false, false},
		{"OTEL_EXPORTER_OTLP_ENDPOINT=http://x", true, false},
		{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=http://x", true, false},
		{"OTEL_EXPORTER_OTLP_ENDPOINT=http://x OTEL_SDK_DISABLED=true", false, false},
		{"OTEL_EXPORTER_OTLP_ENDPOINT=http://x OTEL_TRACES_EXPORTER=none", false, false},
		{"OTEL_EXPORTER_OTLP_ENDPOINT=http://x OTEL_TRACES_EXPORTER=zipkin", false, true},
		{"OTEL_EXPORTER_OTLP_ENDPOINT=http://x OTEL_EXPORTER_OTLP_PROTOCOL=grpc", false, true},
		{"OTEL_EXPORTER_OTLP_ENDPOINT=http://x OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf", true, false},
		{"OTEL_TRACES_EXPORTER=otlp", true, false},
		{"OTEL_TRACES_EXPORTER=none", false, false},
		{"OTEL_EXPORTER_OTLP_ENDPOINT=s3cr3t:4318", false, true},
		{"OTEL_EXPORTER_OTLP_ENDPOINT=http://u:s3cr3t@[", false, true},
		{"OTEL_EXPORTER_OTLP_ENDPOINT=http://x OTEL_EXPORTER_OTLP_HEADERS=authorization=Bearer%20s3cr3t,x=y", true, false},
		{"OTEL_EXPORTER_OTLP_ENDPOINT=http://x OTEL_EXPORTER_OTLP_HEADERS=s3cr3t", false, true},
		{"OTEL_EXPORTER_OTLP_ENDPOINT=http://x OTEL_EXPORTER_OTLP_HEADERS=authorization=100%s3cr3t", false, true},
		{"OTEL_EXPORTER_OTLP_ENDPOINT=http://x OTEL_EXPORTER_OTLP_TRACES_HEADERS=s3cr3t:x=y", false, true},
	} {
		t.Run(c.env, func(t *testing.T) {
			for pair := range strings.FieldsSeq(c.env) {
				name, value, _ := strings.Cut(pair, "=")
				t.Setenv(name, value)
			}
			on, err := tracing()
			if on != c.on || (err != nil) != c.fail || err != nil && strings.Contains(err.Error(), "s3cr3t") {
				t.Errorf("%v, %v", on, err)
			}
		})
	}
}
