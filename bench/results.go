package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// series is what the rounds of one kind of work have measured, and of the limit that it is held against.
type series struct {
	work   []figures
	limit  []figures // as many, or none
	limits string    // the limit's name
}

func (s *series) of(get func(figures) time.Duration) time.Duration {
	var all []float64
	for _, f := range s.work {
		all = append(all, float64(get(f)))
	}
	return time.Duration(median(all))
}

func (s *series) p50() time.Duration  { return s.of(func(f figures) time.Duration { return f.p50 }) }
func (s *series) p99() time.Duration  { return s.of(func(f figures) time.Duration { return f.p99 }) }
func (s *series) p999() time.Duration { return s.of(func(f figures) time.Duration { return f.p999 }) }
func (s *series) rate() float64       { return medianRate(s.work) }
func (s *series) allowed() float64    { return medianRate(s.limit) }

// ratio is the median of the rounds' ratios: what is compared was measured one right after the other.
func (s *series) ratio() float64 {
	all := make([]float64, len(s.limit))
	for i := range all {
		all[i] = s.work[i].rate / s.limit[i].rate
	}
	return median(all)
}

func medianRate(all []figures) float64 {
	rates := make([]float64, len(all))
	for i, f := range all {
		rates[i] = f.rate
	}
	return median(rates)
}

// results is the table of the suite.
type results struct{ lines []resultLine }

type resultLine struct {
	work, p50, p99, p999, throughput, memory, limit, ratio, bar string

	barred, met, skipped bool
}

// bar is what a figure is held against.
type bar struct {
	text string
	met  bool
}

func ratioBar(s *series, least float64) bar {
	return bar{fmt.Sprintf("≥ %.2f ×", least), s.ratio() >= least}
}

func rateBar(s *series, least float64, unit string) bar {
	return bar{"≥ " + number(least, unit), s.rate() >= least}
}

func p99Bar(s *series, below time.Duration) bar {
	return bar{fmt.Sprintf("p99 < %v", below), s.p99() < below}
}

// add tells a series, with the server's memory in MiB (0: not told); without bars it is for information. Works without times of single operations have no percentiles.
func (r *results) add(work, unit string, memory float64, s *series, bars ...bar) {
	l := resultLine{work: work, throughput: number(s.rate(), unit)}
	if memory > 0 {
		l.memory = fmt.Sprintf("%.0f", memory)
	}
	if s.p50() > 0 {
		l.p50, l.p99, l.p999 = inMillis(s.p50()), inMillis(s.p99()), inMillis(s.p999())
	}
	if len(s.limit) > 0 {
		l.limit, l.ratio = fmt.Sprintf("%s: %s", s.limits, strings.TrimSpace(number(s.allowed(), ""))), fmt.Sprintf("%.2f", s.ratio())
	}
	r.judge(l, bars)
}

// tell adds a figure that is no series.
func (r *results) tell(work, figure string, bars ...bar) {
	r.judge(resultLine{work: work, throughput: figure}, bars)
}

// skip adds work that could not be measured, for a reason; its bar counts as missed.
func (r *results) skip(work, reason, bar string) {
	r.lines = append(r.lines, resultLine{work: work, throughput: "not measured: " + reason, bar: bar, barred: true, skipped: true})
}

func (r *results) judge(l resultLine, bars []bar) {
	var texts []string
	l.barred, l.met = len(bars) > 0, true
	for _, b := range bars {
		texts = append(texts, b.text)
		l.met = l.met && b.met
	}
	l.bar = strings.Join(texts, ", ")
	r.lines = append(r.lines, l)
}

// missed are the works that have not met their bars.
func (r *results) missed() (works []string) {
	for _, l := range r.lines {
		if l.barred && !l.met {
			works = append(works, l.work)
		}
	}
	return works
}

func (l resultLine) verdict() string {
	switch {
	case l.skipped:
		return "not measured"
	case !l.barred:
		return ""
	case l.met:
		return "met"
	}
	return "MISSED"
}

var resultColumns = []string{"work", "p50 ms", "p99 ms", "p99.9 ms", "throughput", "MiB", "limit", "ratio", "bar", "verdict"}

func (l resultLine) cells() []string {
	return []string{l.work, l.p50, l.p99, l.p999, l.throughput, l.memory, l.limit, l.ratio, l.bar, l.verdict()}
}

func (r *results) print(w io.Writer) {
	out := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(out, strings.ToUpper(strings.Join(resultColumns, "\t")))
	for _, l := range r.lines {
		fmt.Fprintln(out, strings.Join(l.cells(), "\t"))
	}
	_ = out.Flush()
}

func (r *results) markdown(w io.Writer) {
	fmt.Fprintf(w, "| %s |\n|%s\n", strings.Join(resultColumns, " | "), strings.Repeat("---|", len(resultColumns)))
	for _, l := range r.lines {
		cells := slices.Clone(l.cells())
		for i := range cells {
			cells[i] = strings.ReplaceAll(cells[i], "|", `\|`)
		}
		fmt.Fprintf(w, "| %s |\n", strings.Join(cells, " | "))
	}
}

func inMillis(d time.Duration) string { return fmt.Sprintf("%.2f", millis(d)) }
