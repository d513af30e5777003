package service

import (
	"cmp"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"pipeproc/api"
	"pipeproc/livestream"
)

// newMetrics is the registry of one server, with what Go and the process tell of themselves.
func newMetrics(version string) *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	built := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "pipeproc_build_info", Help: "1, with the server's version."},
		[]string{"version"})
	built.WithLabelValues(cmp.Or(version, "unknown")).Set(1)
	r.MustRegister(built)
	return r
}

// registerTurns tells when each loop of the server has turned last.
func registerTurns(r prometheus.Registerer, loops []*api.Turns) {
	for _, loop := range loops {
		r.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "pipeproc_loop_last_turn_timestamp_seconds",
			Help: "When the loop's last turn ended, in Unix time; 0: there was none yet.", ConstLabels: prometheus.Labels{"loop": loop.Name}},
			func() float64 {
				if last := loop.Last(); !last.IsZero() {
					return float64(last.UnixMilli()) / 1000
				}
				return 0
			}), prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "pipeproc_loop_stuck",
			Help: "1 where the loop's turn takes too long, or is overdue, for which the server is not ready; else 0.", ConstLabels: prometheus.Labels{"loop": loop.Name}},
			func() float64 {
				if loop.Stuck() != nil {
					return 1
				}
				return 0
			}))
	}
}

// registerStreams tells what is open on this server.
func registerStreams(r prometheus.Registerer, s *livestream.Streams) {
	gauge := func(name, help string, labels prometheus.Labels, value func(livestream.Stats) int64) {
		r.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help, ConstLabels: labels},
			func() float64 { return float64(value(s.Stats())) }))
	}
	const streams, help = "pipeproc_streams_open", "Streams that are open now: of Server-Sent Events, and ranges as lines."
	gauge(streams, help, prometheus.Labels{"kind": "liveproc"}, func(s livestream.Stats) int64 { return s.LiveProcs })
	gauge(streams, help, prometheus.Labels{"kind": "tail"}, func(s livestream.Stats) int64 { return s.Tails })
	gauge(streams, help, prometheus.Labels{"kind": "range"}, func(s livestream.Stats) int64 { return s.Ranges })
	gauge("pipeproc_streams_followed_topics", "Topics that open tails follow.", nil,
		func(s livestream.Stats) int64 { return s.Followed })
}
