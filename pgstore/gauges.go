package pgstore

import (
	"context"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
)

// gauges tell, when they are asked for, how the store stands: its queue, its connections, and its procs. What the procs
// have left to do is told in sums, by kind and status: a metric for each proc would have no bound.
type gauges struct {
	store *Store

	mu    sync.Mutex
	asked time.Time
	up    bool
	procs []procsGauge
}

// procsGauge is about all procs of a kind and a status.
type procsGauge struct {
	kind, status  string
	n             int64
	lag, greatest int64
	age           int64 // ms
}

const (
	gaugesAge  = 5 * time.Second // for which what the database told is told again
	gaugesTime = 3 * time.Second // for the database to tell
)

var (
	descQueue                            = prometheus.NewDesc("pipeproc_queue_requests", "Requests that wait for a batch.", nil, nil)
	descQueueBytes                       = prometheus.NewDesc("pipeproc_queue_bytes", "Bytes that requests bring which wait for a batch.", nil, nil)
	descConnections                      = prometheus.NewDesc("pipeproc_pool_connections", "Connections of the pool for reads and rare writes, by what they do.", []string{"state"}, nil)
	descMost                             = prometheus.NewDesc("pipeproc_pool_connections_max", "The most connections of the pool.", nil, nil)
	descAcquires                         = prometheus.NewDesc("pipeproc_pool_acquires_total", "Connections taken from the pool.", nil, nil)
	descWaits                            = prometheus.NewDesc("pipeproc_pool_waits_total", "Connections that were waited for, since all were in use.", nil, nil)
	descWaitSeconds                      = prometheus.NewDesc("pipeproc_pool_acquire_seconds_total", "Time that it took to take connections from the pool.", nil, nil)
	descUp                               = prometheus.NewDesc("pipeproc_postgres_up", "1 where PostgreSQL answers, else 0.", nil, nil)
	procsLabels                          = []string{"kind", "status"}
	descProcs                            = prometheus.NewDesc("pipeproc_procs", "Procs, by kind and status.", procsLabels, nil)
	descLag                              = prometheus.NewDesc("pipeproc_proc_lag_logs", "Logs that are committed and not acked, of all procs of the kind and status.", procsLabels, nil)
	descLagMost                          = prometheus.NewDesc("pipeproc_proc_lag_logs_max", "The greatest lag of one proc of the kind and status.", procsLabels, nil)
	descOldest                           = prometheus.NewDesc("pipeproc_proc_oldest_unacked_seconds", "Age of the oldest log that a proc of the kind and status has not acked; 0: none.", procsLabels, nil)
	descriptions                         = []*prometheus.Desc{descQueue, descQueueBytes, descConnections, descMost, descAcquires, descWaits, descWaitSeconds, descUp, descProcs, descLag, descLagMost, descOldest}
	_               prometheus.Collector = (*gauges)(nil)
)

// Describe implements prometheus.Collector.
func (g *gauges) Describe(c chan<- *prometheus.Desc) {
	for _, d := range descriptions {
		c <- d
	}
}

// Collect implements prometheus.Collector.
func (g *gauges) Collect(c chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		c <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	counter := func(d *prometheus.Desc, v float64) {
		c <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v)
	}
	requests, bytes := g.store.lanes.queued()
	gauge(descQueue, float64(requests))
	gauge(descQueueBytes, float64(bytes))
	pool := g.store.pool.Stat()
	gauge(descConnections, float64(pool.AcquiredConns()), "in use")
	gauge(descConnections, float64(pool.IdleConns()), "idle")
	gauge(descConnections, float64(pool.ConstructingConns()), "opening")
	gauge(descMost, float64(pool.MaxConns()))
	counter(descAcquires, float64(pool.AcquireCount()))
	counter(descWaits, float64(pool.EmptyAcquireCount()))
	counter(descWaitSeconds, pool.AcquireDuration().Seconds())

	up, procs := g.ask()
	if !up {
		gauge(descUp, 0)
		return
	}
	gauge(descUp, 1)
	for _, p := range procs {
		gauge(descProcs, float64(p.n), p.kind, p.status)
		gauge(descLag, float64(p.lag), p.kind, p.status)
		gauge(descLagMost, float64(p.greatest), p.kind, p.status)
		gauge(descOldest, float64(p.age)/1000, p.kind, p.status)
	}
}

// ask asks the database, but not again and again: whoever comes soon after is told the same.
func (g *gauges) ask() (up bool, procs []procsGauge) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if time.Since(g.asked) < gaugesAge {
		return g.up, g.procs
	}
	ctx, cancel := context.WithTimeout(context.Background(), gaugesTime)
	defer cancel()
	var err error
	g.procs, err = g.store.procsGauges(ctx)
	g.up, g.asked = err == nil, time.Now()
	return g.up, g.procs
}

// procsGauges reads what is told of the procs; every kind and status is among it.
func (s *Store) procsGauges(ctx context.Context) ([]procsGauge, error) {
	// LIMIT keeps the look for the oldest log one by the primary key, a proc each.
	rows, err := s.pool.Query(ctx, s.q(`SELECT k.kind, st.status, count(p.kind), coalesce(sum(p.lag), 0)::bigint, coalesce(max(p.lag), 0),
			greatest(coalesce(max(p.now - l.ts), 0), 0)
		FROM unnest(ARRAY['proc', 'system', 'live']) AS k (kind) CROSS JOIN unnest(ARRAY['active', 'disabled']) AS st (status)
		LEFT JOIN (SELECT kind, status, topic_id, position, greatest(head - position, 0) AS lag, now
			FROM (SELECT ns.now_ms() AS now OFFSET 0) AS clock CROSS JOIN ns.procs
			JOIN (SELECT id, head FROM ns.topics) AS t ON t.id = topic_id
			WHERE expires_at IS NULL OR expires_at > now) AS p ON p.kind = k.kind AND p.status = st.status
		LEFT JOIN LATERAL (SELECT ts FROM ns.logs WHERE p.lag > 0 AND topic_id = p.topic_id AND seq >= p.position
			ORDER BY seq LIMIT 1) AS l ON true
		GROUP BY 1, 2 ORDER BY 1, 2`))
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (p procsGauge, err error) {
		return p, row.Scan(&p.kind, &p.status, &p.n, &p.lag, &p.greatest, &p.age)
	})
}
