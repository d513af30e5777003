package procs

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// outcome is how an execution ended.
type outcome string

const (
	acked    outcome = "acked"
	failing  outcome = "failed"
	deferred outcome = "deferred" // 202: the processor acks by itself
	lost     outcome = "lost"     // the claim was lost before the answer came
	undone   outcome = "undone"   // the claim was given back: the workers stop, or the processor runs elsewhere
	unknown  outcome = "unknown"  // the store did not tell whether it acked
)

type metrics struct {
	executions *prometheus.CounterVec
	inFlight   prometheus.Gauge
	calls      prometheus.Histogram
	restarts   prometheus.Counter
}

func newMetrics(r prometheus.Registerer) metrics {
	f := promauto.With(r)
	m := metrics{
		executions: f.NewCounterVec(prometheus.CounterOpts{
			Name: "pipeproc_systemproc_executions_total",
			Help: "Executions of systemProcs, by how they ended.",
		}, []string{"outcome"}),
		inFlight: f.NewGauge(prometheus.GaugeOpts{
			Name: "pipeproc_systemproc_executions_in_flight",
			Help: "Executions of systemProcs that run now.",
		}),
		calls: f.NewHistogram(prometheus.HistogramOpts{
			Name:    "pipeproc_systemproc_call_seconds",
			Help:    "Time that processors took to answer.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}),
		restarts: f.NewCounter(prometheus.CounterOpts{
			Name: "pipeproc_systemproc_worker_restarts_total",
			Help: "Workers that reached their last execution and were replaced.",
		}),
	}
	for _, o := range []outcome{acked, failing, deferred, lost, undone, unknown} {
		m.executions.WithLabelValues(string(o)) // so that rates start at 0
	}
	return m
}

func (m *metrics) count(o outcome) { m.executions.WithLabelValues(string(o)).Inc() }

func (m *metrics) timed(start time.Time) { m.calls.Observe(time.Since(start).Seconds()) }
