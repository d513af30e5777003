//go:build linux

package chaos

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"
)

// What is counted, as the table names it.
const (
	commits    = "commits"
	duplicates = "commits answered as duplicates"
	ranges     = "ranges read"
	collected  = "logs that GC took"
	claims     = "claims"
	acks       = "acks"
	reclaims   = "reclaims"
	extends    = "extends"
	lostTokens = "requests with a token that was given up"
	waits      = "waits"
	events     = "stream events"
	calls      = "calls of the processor"

	recoveries     = "recoveries"
	lateRecoveries = "recoveries that took too long"

	kills          = "SIGKILLs"
	killedAtPoints = "SIGKILLs at failpoints"
	killedAt       = "killed at "
	killedAtRandom = "SIGKILLs at random"
	crashes        = "PostgreSQL crashes"
	terminated     = "SIGTERMs under load"
	didNotStart    = "starts without a database"

	terminateTime = "SIGTERM to exit"
	recoveryTime  = "PostgreSQL back to the first commit"
	handOverTime  = "a dead worker's claim to the next one"
)

// tally counts what a run did, and keeps the longest of what it measured.
type tally struct {
	mu     sync.Mutex
	counts map[string]int64
	times  map[string]time.Duration
}

func newTally() *tally {
	return &tally{counts: map[string]int64{}, times: map[string]time.Duration{}}
}

func (t *tally) add(name string, n int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.counts[name] += n
}

func (t *tally) count(name string) int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.counts[name]
}

// lacks are the demands on a run of length d that are not met; they hold for one of length base.
func (t *tally) lacks(demand map[string]int64, d time.Duration) (lacks []string) {
	for _, name := range slices.Sorted(maps.Keys(demand)) {
		least := int64(float64(demand[name]) * d.Seconds() / base.Seconds())
		if n := t.count(name); n < least {
			lacks = append(lacks, fmt.Sprintf("%d %s, want %d at least", n, name, least))
		}
	}
	return lacks
}

func (t *tally) longest(name string, d time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.times[name] = max(t.times[name], d)
}

// write prints a table of all that was counted and measured.
func (t *tally) write(w io.Writer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, name := range slices.SortedFunc(maps.Keys(t.counts), strings.Compare) {
		fmt.Fprintf(table, "%s\t%d\n", name, t.counts[name])
	}
	for _, name := range slices.Sorted(maps.Keys(t.times)) {
		fmt.Fprintf(table, "%s, the longest\t%v\n", name, t.times[name].Round(time.Millisecond))
	}
	_ = table.Flush()
}
