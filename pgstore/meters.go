package pgstore

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// meters count what the store does.
type meters struct {
	batches      prometheus.Histogram
	batchSeconds prometheus.Histogram
	commits      prometheus.Counter
	claims       prometheus.Counter
	acks         prometheus.Counter
	logs         prometheus.Counter
	reclaims     prometheus.Counter
	collected    prometheus.Counter
	runs         *prometheus.CounterVec
	runSeconds   prometheus.Histogram
}

func newMeters(r prometheus.Registerer) *meters {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	m := &meters{
		batches: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "pipeproc_batch_requests",
			Help: "Requests that shared one transaction.", Buckets: prometheus.ExponentialBuckets(1, 2, 11)}),
		batchSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "pipeproc_batch_duration_seconds",
			Help:    "Time that a batch's transaction took, its retries included.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}}),
		commits:   counter("pipeproc_commits_total", "Commits, without repeats; those of acks are not among them."),
		claims:    counter("pipeproc_claims_total", "Claims handed out, to whomever."),
		acks:      counter("pipeproc_acks_total", "Acks applied, with and without logs."),
		logs:      counter("pipeproc_logs_committed_total", "Logs committed."),
		reclaims:  counter("pipeproc_reclaims_total", "Claims that ended without an ack."),
		collected: counter("pipeproc_logs_collected_total", "Logs that GC took."),
		runs: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "pipeproc_gc_runs_total",
			Help: "Runs of GC, asked for or periodic, by whether they went to their end."}, []string{"outcome"}),
		runSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "pipeproc_gc_run_duration_seconds",
			Help: "Time that runs of GC took.", Buckets: prometheus.ExponentialBuckets(.01, 4, 9)}),
	}
	for _, outcome := range []string{outcomeDone, outcomeFailed} {
		m.runs.WithLabelValues(outcome)
	}
	if r != nil {
		r.MustRegister(m.batches, m.batchSeconds, m.commits, m.claims, m.acks, m.logs, m.reclaims, m.collected, m.runs, m.runSeconds)
	}
	return m
}

// The outcomes of a run of GC.
const outcomeDone, outcomeFailed = "done", "failed"

func (m *meters) committed(logs int) { m.logs.Add(float64(logs)) }

// count counts what a committed batch has done for its requests.
func (m *meters) count(b *batch, requests []*request) {
	m.claims.Add(float64(len(b.streamed)))
	for i, r := range requests {
		if b.answers[i] != nil {
			continue
		}
		switch o := r.op.(type) {
		case *commitOp:
			if !o.answer.Duplicate {
				m.commits.Inc()
			}
		case *claimOp:
			if o.claim != nil {
				m.claims.Inc()
			}
		case *ackOp:
			if o.repeat {
				continue
			}
			m.acks.Inc()
			if o.next != nil {
				m.claims.Inc()
			}
		}
	}
}

// ran counts a run of GC.
func (m *meters) ran(begun time.Time, err *error) {
	outcome := outcomeDone
	if *err != nil {
		outcome = outcomeFailed
	}
	m.runs.WithLabelValues(outcome).Inc()
	m.runSeconds.Observe(time.Since(begun).Seconds())
}

// queued is how many requests wait for a batch, and how many bytes they bring.
func (l *lanes) queued() (requests, bytes int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	add := func(lane *lane) {
		lane.mu.Lock()
		defer lane.mu.Unlock()
		requests, bytes = requests+len(lane.queue), bytes+lane.bytes
	}
	add(l.main)
	for _, side := range l.side {
		add(side)
	}
	return requests, bytes
}
