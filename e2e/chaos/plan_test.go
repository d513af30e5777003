//go:build linux

package chaos

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// A seed fixes the whole schedule, and another one is another schedule.
func TestSchedulesAreFixedBySeed(t *testing.T) {
	t.Parallel()
	first := newSchedule(7, base, counts, false).String()
	if diff := cmp.Diff(first, newSchedule(7, base, counts, false).String()); diff != "" {
		t.Errorf("the same seed again (-first +again):\n%s", diff)
	}
	if first == newSchedule(8, base, counts, false).String() {
		t.Error("another seed gives the same schedule")
	}
}

// A run of full length has every fault as often as it is to have, in time, and enough lives that end at a point.
func TestSchedulesHoldAllFaults(t *testing.T) {
	t.Parallel()
	for _, steady := range []bool{false, true} {
		s := newSchedule(7, base, counts, steady)
		got := map[kind]int{}
		for _, e := range s.events {
			got[e.Kind]++
			if e.At < 0 || e.At+e.Lasts > base+10*time.Second {
				t.Errorf("%v: not within %v", e, base)
			}
			if e.Server == 0 && steady && (e.Kind == serverKilled || e.Kind == serverEnded) {
				t.Errorf("%v: the first server is to live", e)
			}
		}
		if diff := cmp.Diff(counts, got); diff != "" {
			t.Errorf("faults (-want +got):\n%s", diff)
		}
		if len(s.beside) < 4 {
			t.Errorf("%d faults go on beside the others", len(s.beside))
		}
		for server, arms := range s.arms {
			if n := len(arms); (n < 100) != (steady && server == 0) {
				t.Errorf("%d lives of server %d end at a point", n, server)
			}
		}
	}
}

// What grows is told, what goes up and down is not.
func TestGrowthIsTold(t *testing.T) {
	t.Parallel()
	sample := func(value func(i int) float64) (samples [][]float64) {
		for i := range 90 {
			row := make([]float64, len(figures)+1)
			row[0] = value(i)
			samples = append(samples, row)
		}
		return samples
	}
	if err := grown(sample(func(i int) float64 { return 1e9 + 1e8*float64(i%7) })); err != nil {
		t.Errorf("up and down: %v", err)
	}
	if err := grown(sample(func(i int) float64 { return 1e9 + 3e7*float64(i) })); err == nil {
		t.Error("growth is not told")
	}
	if err := grown(nil); err == nil {
		t.Error("no samples are taken for flat figures")
	}
}

// What a run lacks is told, by its length.
func TestLacks(t *testing.T) {
	t.Parallel()
	run := newTally()
	run.add(commits, 10)
	for d, want := range map[time.Duration][]string{
		base / 4: nil,
		base / 2: {"0 claims, want 1 at least", "10 commits, want 20 at least"},
	} {
		if diff := cmp.Diff(want, run.lacks(map[string]int64{commits: 40, claims: 3}, d)); diff != "" {
			t.Errorf("of %v (-want +got):\n%s", d, diff)
		}
	}
}

// A body counts as the one that was committed when it is the same, byte for byte.
func TestBodiesHaveOneForm(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`{"v":"a.1"}`:                     "a.1",
		`{"v":"out-a.1","of":"a.1"}`:      "out-a.1",
		`{"v": "a.1"}`:                    `{"v": "a.1"}`,
		`{"v":"a.1","x":1}`:               `{"v":"a.1","x":1}`,
		`{"of":"a.1","v":"out-a.1"}`:      `{"of":"a.1","v":"out-a.1"}`,
		`{"v":"a.1","v":"a.1"}`:           `{"v":"a.1","v":"a.1"}`,
		`{"v":"\u0061.1"}`:                `{"v":"\u0061.1"}`,
		`{"V":"a.1"}`:                     `{"V":"a.1"}`,
		`[{"v":"half`:                     `[{"v":"half`,
		string(logOf("t", "a.2").Body):    "a.2",
		string(body{Value: "b"}.text()):   "b",
		string(body{"c", "input"}.text()): "c",
	} {
		if got := valueOf([]byte(text)); got != want {
			t.Errorf("%s is taken for %s, want %s", text, got, want)
		}
	}
}
