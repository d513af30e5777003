package check_test

import (
	"testing"
	"time"

	"pipeproc/e2e/check"
)

// The history of a long run: at least 300,000 commits, 100,000 claims and 200,000 events of streams.
func BenchmarkVerify(b *testing.B) {
	h := simulate(1, 4*time.Second, 24, 96, 3, 0.02)
	if len(h.Commits) < 300_000 || len(h.Claims) < 100_000 || len(h.Events) < 200_000 {
		b.Fatalf("%d commits, %d claims, %d events", len(h.Commits), len(h.Claims), len(h.Events))
	}
	b.Logf("%d commits, %d claims, %d acks, %d ranges, %d events", len(h.Commits), len(h.Claims), len(h.Acks), len(h.Reads), len(h.Events))
	b.ReportAllocs()
	for b.Loop() {
		if violations := check.Verify(h); violations != nil {
			b.Fatal(violations)
		}
	}
}
