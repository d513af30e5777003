package service

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"pipeproc/livestream"
)

// newMetrics is the registry of one server, with what Go and the process tell of themselves.
func newMetrics() *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
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
