package pgstore

import "github.com/prometheus/client_golang/prometheus"

// meters count what the store does.
type meters struct {
	batches   prometheus.Histogram
	logs      prometheus.Counter
	reclaims  prometheus.Counter
	collected prometheus.Counter
}

func newMeters(r prometheus.Registerer) *meters {
	m := &meters{
		batches: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "pipeproc_batch_requests",
			Help: "Requests that shared one transaction.", Buckets: prometheus.ExponentialBuckets(1, 2, 11)}),
		logs:      prometheus.NewCounter(prometheus.CounterOpts{Name: "pipeproc_logs_committed_total", Help: "Logs committed."}),
		reclaims:  prometheus.NewCounter(prometheus.CounterOpts{Name: "pipeproc_reclaims_total", Help: "Claims that ended without an ack."}),
		collected: prometheus.NewCounter(prometheus.CounterOpts{Name: "pipeproc_logs_collected_total", Help: "Logs that GC took."}),
	}
	if r != nil {
		r.MustRegister(m.batches, m.logs, m.reclaims, m.collected)
	}
	return m
}

func (m *meters) batch(requests int) { m.batches.Observe(float64(requests)) }
func (m *meters) committed(logs int) { m.logs.Add(float64(logs)) }
