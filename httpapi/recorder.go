package httpapi

import (
	"fmt"
	"net/http"
	"runtime/debug"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// recorder is the ResponseWriter that handlers see: it remembers the status.
type recorder struct {
	http.ResponseWriter
	status int // 0 until an answer was begun
}

// WriteHeader begins the answer, which no cache may keep.
func (w *recorder) WriteHeader(status int) {
	if w.status == 0 && status >= http.StatusOK {
		w.status = status
		w.Header().Set("Cache-Control", "no-store")
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *recorder) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	return w.ResponseWriter.Write(b)
}

// Unwrap is for http.ResponseController.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// FlushError is for http.ResponseController, Flush for whoever looks for an http.Flusher.
func (w *recorder) FlushError() error {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// Flush is FlushError for those who cannot be told of errors.
func (w *recorder) Flush() { _ = w.FlushError() }

type metrics struct {
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	problems *prometheus.CounterVec
}

func newMetrics(registry Metrics) metrics {
	labels := []string{"route", "method", "status"}
	m := metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pipeproc_http_requests_total",
			Help: "HTTP requests answered. Status 499: the client went away before its answer.",
		}, labels),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "pipeproc_http_request_duration_seconds",
			Help:    "Time from a request's header to the end of its answer; waits and streams included.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60},
		}, labels),
		problems: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pipeproc_http_problems_total",
			Help: "HTTP requests refused, by problem code.",
		}, []string{"code"}),
	}
	registry.MustRegister(m.requests, m.duration, m.problems)
	return m
}

// observe counts requests. Its labels are bounded: the pattern of the route, known methods, statuses.
func (s *Server) observe(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begun := time.Now()
		rec := &recorder{ResponseWriter: w}
		defer func() {
			route, method, status := r.Pattern, r.Method, rec.status
			if route == "" {
				route = "none"
			}
			if !slices.Contains(methods, method) {
				method = "other"
			}
			if status == 0 {
				status = http.StatusOK
			}
			labels := []string{route, method, strconv.Itoa(status)}
			s.metrics.requests.WithLabelValues(labels...).Inc()
			s.metrics.duration.WithLabelValues(labels...).Observe(time.Since(begun).Seconds())
		}()
		next.ServeHTTP(rec, r)
	})
}

// survive makes a panic a refused request. An answer that was begun is cut off, so that nobody takes it for whole.
func (s *Server) survive(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			v := recover()
			if v == nil {
				return
			}
			if v == http.ErrAbortHandler {
				panic(v)
			}
			s.Logger.Error("panic", "method", r.Method, "path", r.URL.Path, "panic", fmt.Sprint(v),
				"stack", string(debug.Stack()))
			if rec := w.(*recorder); rec.status != 0 {
				rec.status = http.StatusInternalServerError
				panic(http.ErrAbortHandler)
			}
			s.refuse(w, r, fmt.Errorf("panic: %v", v))
		}()
		next.ServeHTTP(w, r)
	})
}

// serveMetrics handles GET /metrics.
func (s *Server) serveMetrics() handler {
	h := promhttp.HandlerFor(s.Metrics, promhttp.HandlerOpts{DisableCompression: true})
	return func(w http.ResponseWriter, r *http.Request) error {
		_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(writeTimeout))
		h.ServeHTTP(w, r)
		return nil
	}
}
