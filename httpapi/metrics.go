package httpapi

import (
	"maps"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"pipeproc/api"
)

type metrics struct {
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	problems *prometheus.CounterVec

	answers atomic.Pointer[map[answer]*counters] // replaced by a greater one, and never changed
	mu      sync.Mutex                           // of who replaces it
}

// answer is what requests are counted by. There are as many as routes, methods and statuses allow.
type answer struct {
	route, method string
	status        int
}

// counters are an answer's own: to look them up by their labels would take longer than to count.
type counters struct {
	requests prometheus.Counter
	duration prometheus.Observer
}

func newMetrics(registry Metrics, bodies, requests *room) *metrics {
	labels := []string{"route", "method", "status"}
	m := &metrics{
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
	for code := range kinds {
		m.problems.WithLabelValues(string(code)) // so that rates start at 0
	}
	held := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "pipeproc_http_bodies_bytes",
		Help: "Bytes that the bodies of requests, and answers of many logs, take in memory now.",
	}, func() float64 { return float64(bodies.held.Load()) })
	underWay := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "pipeproc_http_requests_in_flight",
		Help: "HTTP requests that are being answered now; waits and streams included.",
	}, func() float64 { return float64(requests.held.Load()) })
	m.answers.Store(&map[answer]*counters{})
	registry.MustRegister(m.requests, m.duration, m.problems, held, underWay)
	return m
}

// count counts an answered request.
func (m *metrics) count(r *http.Request, status int, took time.Duration) {
	a := answer{r.Pattern, r.Method, status}
	if a.route == "" {
		a.route = "none"
	}
	if !slices.Contains(methods, a.method) {
		a.method = "other"
	}
	c := (*m.answers.Load())[a]
	if c == nil {
		c = m.add(a)
	}
	c.requests.Inc()
	c.duration.Observe(took.Seconds())
}

// add makes the counters of an answer that is not known yet.
func (m *metrics) add(a answer) *counters {
	m.mu.Lock()
	defer m.mu.Unlock()
	labels := []string{a.route, a.method, strconv.Itoa(a.status)}
	c := &counters{m.requests.WithLabelValues(labels...), m.duration.WithLabelValues(labels...)}
	answers := maps.Clone(*m.answers.Load())
	answers[a] = c
	m.answers.Store(&answers)
	return c
}

// problem counts a refused request.
func (m *metrics) problem(code api.Code) { m.problems.WithLabelValues(string(code)).Inc() }

// serveMetrics handles GET /metrics.
func (s *Server) serveMetrics() handler {
	h := promhttp.HandlerFor(s.Metrics, promhttp.HandlerOpts{DisableCompression: true})
	return func(w http.ResponseWriter, r *http.Request) error {
		_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(writeTimeout))
		h.ServeHTTP(w, r)
		return nil
	}
}
