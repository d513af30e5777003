package main

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestTable: what misses its bar is told, in the table and by name; a figure at its bar meets what is to be reached, and
// misses what is to be stayed below, as does one that could not be worked out.
func TestTable(t *testing.T) {
	var b table
	if b.missed() != nil {
		t.Errorf("an empty table misses %q", b.missed())
	}
	b.tell("told", 0.123, "ms")
	b.atLeast("reached", 1200, 1200, "logs/s")
	b.atLeast("not reached", 1199.9, 1200, "logs/s")
	b.below("below", 2.99, 3, "%")
	b.below("at the bar", 10, 10, "ms")
	b.below("no figure", math.NaN(), 2, "×")
	b.atLeast("no figure either", math.NaN(), 2, "×")
	if diff := cmp.Diff([]string{"not reached", "at the bar", "no figure", "no figure either"}, b.missed()); diff != "" {
		t.Error(diff)
	}
	var out strings.Builder
	b.print(&out)
	want := `
WORK               FIGURE        BAR
told               0.12 ms
reached            1200 logs/s   ≥ 1200 logs/s   met
not reached        1200 logs/s   ≥ 1200 logs/s   MISSED
below              2.99 %        < 3.00 %        met
at the bar         10.0 ms       < 10.0 ms       MISSED
no figure          NaN ×         < 2.00 ×        MISSED
no figure either   NaN ×         ≥ 2.00 ×        MISSED
`
	var got strings.Builder
	for line := range strings.Lines("\n" + out.String()) {
		got.WriteString(strings.TrimRight(line, " \n") + "\n")
	}
	if diff := cmp.Diff(want, got.String()); diff != "" {
		t.Error(diff)
	}
}

func TestMedianAndPercentile(t *testing.T) {
	for _, tt := range []struct {
		all  []float64
		want float64
	}{{[]float64{3}, 3}, {[]float64{9, 1, 5}, 5}, {[]float64{9, 1, 5, 3}, 4}} {
		if got := median(tt.all); got != tt.want {
			t.Errorf("the median of %v is %v, want %v", tt.all, got, tt.want)
		}
	}
	var all []time.Duration
	if got := percentile(all, 0.5); got != 0 {
		t.Errorf("a percentile of nothing is %v", got)
	}
	for i := range 100 {
		all = append(all, time.Duration(99-i))
	}
	for p, want := range map[float64]time.Duration{0: 0, 0.5: 50, 0.99: 99, 1: 99} {
		if got := percentile(all, p); got != want {
			t.Errorf("percentile %v is %d, want %d", p, got, want)
		}
	}
}
