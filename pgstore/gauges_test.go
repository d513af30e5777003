package pgstore_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"pipeproc/api"
	"pipeproc/pgstore"
	"pipeproc/pgstore/pgtest"
)

// told are the values of metrics, by name and labels' values.
func told(tb testing.TB, r *prometheus.Registry, names ...string) map[string]float64 {
	tb.Helper()
	families, err := r.Gather()
	if err != nil {
		tb.Fatal(err)
	}
	values := map[string]float64{}
	for _, f := range families {
		name := strings.TrimPrefix(f.GetName(), "pipeproc_")
		if !slices.Contains(names, name) {
			continue
		}
		for _, m := range f.Metric {
			key := name
			for _, l := range m.Label {
				key += " " + l.GetValue()
			}
			if v := m.GetGauge().GetValue() + m.GetCounter().GetValue(); v != 0 {
				values[key] = v
			}
		}
	}
	return values
}

// TestGauges holds what is told of procs, and that claims and acks are counted once.
func TestGauges(t *testing.T) {
	url, registry := pgtest.Database(t), prometheus.NewRegistry()
	s, _ := openWith(t, pgstore.Config{URL: url, Metrics: registry})
	for range 5 {
		mustCommit(t, s, api.NewLog{Topic: "t", Body: json.RawMessage(`{}`)})
	}
	c := claimed(t, s, "one", "t")
	if _, err := s.Ack(t.Context(), "one", api.AckRequest{Token: c.Claim.Token, ClaimNext: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Ack(t.Context(), "one", api.AckRequest{Token: c.Claim.Token, ClaimNext: true}); err != nil { // a repeat
		t.Fatal(err)
	}
	claimed(t, s, "two", "t")
	claimed(t, s, "off", "t")
	if _, err := s.DisableProc(t.Context(), "off"); err != nil {
		t.Fatal(err)
	}
	key := &api.IdempotencyKey{Key: "k"}
	for range 2 {
		if _, err := s.Commit(t.Context(), []api.NewLog{{Topic: "other", Body: json.RawMessage(`{}`)}}, key); err != nil {
			t.Fatal(err)
		}
	}
	mustExec(t, outsider(t, url), "UPDATE pipeproc_default.logs SET ts = ts - 3600000 + 60000 * seq")
	got := told(t, registry, "postgres_up", "procs", "proc_lag_logs", "proc_lag_logs_max", "commits_total", "claims_total", "acks_total",
		"proc_oldest_unacked_seconds", "queue_requests")
	for _, status := range []string{"proc active", "proc disabled"} {
		age := got["proc_oldest_unacked_seconds "+status]
		delete(got, "proc_oldest_unacked_seconds "+status)
		if age < 3600 || age > 3660 { // of the first log, which "two" and "off" have yet to ack
			t.Errorf("%s: the oldest log is %v s old", status, age)
		}
	}
	if diff := cmp.Diff(map[string]float64{"postgres_up": 1, "procs proc active": 2, "procs proc disabled": 1,
		"proc_lag_logs proc active": 9, "proc_lag_logs proc disabled": 5, "proc_lag_logs_max proc active": 5,
		"proc_lag_logs_max proc disabled": 5, "commits_total": 6, "claims_total": 4, "acks_total": 1}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestPostgresDown holds that the metrics are told also without a database, which they tell of.
func TestPostgresDown(t *testing.T) {
	registry := prometheus.NewRegistry()
	_, stop := openWith(t, pgstore.Config{URL: pgtest.Database(t), Metrics: registry})
	stop() // closes the pool: nothing answers any more
	if got := told(t, registry, "postgres_up", "procs"); len(got) != 0 {
		t.Error(got)
	}
}

// BenchmarkGauges is what it takes to ask the database for what /metrics tells of procs, all of which have something to do. It
// is asked at most every 5 s.
func BenchmarkGauges(b *testing.B) {
	url := pgtest.Database(b)
	s, _ := openWith(b, pgstore.Config{URL: url})
	createProc(b, s, "p", "t")
	conn := outsider(b, url)
	mustExec(b, conn, `INSERT INTO pipeproc_default.logs (topic_id, seq, ts, body)
		SELECT id, i, i, '{}' FROM pipeproc_default.topics, generate_series(0, 99999) AS i`)
	mustExec(b, conn, "UPDATE pipeproc_default.topics SET head = 100000, last_ts = 100000")
	for _, n := range []int{100, 10_000} {
		mustExec(b, conn, `INSERT INTO pipeproc_default.procs (name, topic_id, kind, start_offset, created_at, status, count, max_reclaims,
				reclaim_timeout, on_max_reclaims, position)
			SELECT 'p' || i, topic_id, kind, start_offset, created_at, status, count, max_reclaims, reclaim_timeout, on_max_reclaims, i * 7
			FROM pipeproc_default.procs, generate_series(1, $1) AS i WHERE name = 'p' ON CONFLICT DO NOTHING`, n)
		mustExec(b, conn, "ANALYZE pipeproc_default.procs, pipeproc_default.logs, pipeproc_default.topics")
		b.Run(fmt.Sprint(n, " procs"), func(b *testing.B) {
			for b.Loop() {
				if err := s.AskGauges(b.Context()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
