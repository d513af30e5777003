package main

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"
)

// table is what a suite has measured.
type table struct{ rows []row }

type row struct{ name, figure, bar, verdict string }

// Verdicts of a row that has a bar.
const (
	met    = "met"
	missed = "MISSED"
)

// atLeast adds a figure that is to be bar or more.
func (t *table) atLeast(name string, figure, bar float64, unit string) {
	t.add(name, figure, "≥ ", bar, unit, figure >= bar)
}

// below adds a figure that is to be less than bar.
func (t *table) below(name string, figure, bar float64, unit string) {
	t.add(name, figure, "< ", bar, unit, figure < bar)
}

// tell adds a figure without a bar.
func (t *table) tell(name string, figure float64, unit string) {
	t.rows = append(t.rows, row{name: name, figure: number(figure, unit)})
}

func (t *table) add(name string, figure float64, sign string, bar float64, unit string, reached bool) {
	verdict := missed
	if reached {
		verdict = met
	}
	t.rows = append(t.rows, row{name, number(figure, unit), sign + number(bar, unit), verdict})
}

// missed names the figures that miss their bars.
func (t *table) missed() (names []string) {
	for _, r := range t.rows {
		if r.verdict == missed {
			names = append(names, r.name)
		}
	}
	return names
}

func number(n float64, unit string) string {
	switch {
	case n >= 1000:
		return fmt.Sprintf("%.0f %s", n, unit)
	case n >= 10:
		return fmt.Sprintf("%.1f %s", n, unit)
	}
	return fmt.Sprintf("%.2f %s", n, unit)
}

func (t *table) print(w io.Writer) {
	out := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(out, "WORK\tFIGURE\tBAR\t")
	for _, r := range t.rows {
		fmt.Fprintf(out, "%s\t%s\t%s\t%s\n", r.name, r.figure, r.bar, r.verdict)
	}
	_ = out.Flush()
}

// median of at least one.
func median(all []float64) float64 {
	sorted := slices.Sorted(slices.Values(all))
	if n := len(sorted); n%2 == 0 {
		return (sorted[n/2-1] + sorted[n/2]) / 2
	}
	return sorted[len(sorted)/2]
}

// percentile answers the value that p (0 to 1) of all are not above; 0 of none.
func percentile(all []time.Duration, p float64) time.Duration {
	if len(all) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(all))
	return sorted[min(len(sorted)-1, int(p*float64(len(sorted))))]
}

func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
