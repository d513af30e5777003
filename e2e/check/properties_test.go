package check_test

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"pipeproc/e2e/check"
)

// Whatever a service does that keeps its promises, nothing is found.
func TestLegalHistories(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		h := simulate(
			rapid.Uint64().Draw(t, "seed"),
			time.Duration(rapid.IntRange(1, 40).Draw(t, "ms"))*time.Millisecond,
			rapid.IntRange(1, 8).Draw(t, "committers"),
			rapid.IntRange(0, 6).Draw(t, "workers"),
			rapid.IntRange(0, 4).Draw(t, "tails"),
			rapid.Float64Range(0, 0.3).Draw(t, "lost"))
		for _, v := range check.Verify(h) {
			t.Errorf("%v", v)
		}
	})
}
