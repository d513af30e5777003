//go:build linux

package chaos

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"pipeproc/api/fault"
)

// kind is a kind of fault.
type kind string

const (
	// PostgreSQL.
	crashImmediate    kind = "PostgreSQL: immediate shutdown"
	crashKilled       kind = "PostgreSQL: postmaster killed"
	terminateAll      kind = "PostgreSQL: all backends terminated"
	terminateListener kind = "PostgreSQL: listeners terminated"
	exhausted         kind = "PostgreSQL: connections exhausted"
	diskFull          kind = "PostgreSQL: disk full"
	deadlock          kind = "PostgreSQL: deadlocks"
	refused           kind = "PostgreSQL: deadlock and serialization errors"
	heldLock          kind = "PostgreSQL: a row held by an outsider"
	openSnapshot      kind = "PostgreSQL: a snapshot held open"

	// The network between one server and PostgreSQL.
	netCut      kind = "network: cut"
	netHalfOpen kind = "network: half-open"
	netLatency  kind = "network: 100-500 ms"
	netSlow     kind = "network: 1 KB/s"
	netReset    kind = "network: reset at COMMIT"

	// One server, or its clients.
	serverKilled  kind = "server: SIGKILL"
	serverStopped kind = "server: SIGSTOP"
	serverEnded   kind = "server: SIGTERM"
	clientsCut    kind = "clients: reset"
	migrateKilled kind = "server: SIGKILL in a migration"
)

// event is a fault of the schedule.
type event struct {
	At     time.Duration // after the start, or when the one before it is over
	Kind   kind
	Server int           // whom it meets, where it meets one
	Lasts  time.Duration // 0: it is over at once
	Arm    string        // of migrateKilled
}

func (e event) String() string {
	return fmt.Sprintf("%6.1fs  %-48s server %d  %v %s", e.At.Seconds(), e.Kind, e.Server, e.Lasts, e.Arm)
}

// schedule is what the seed fixes: faults that follow each other, others that go on beside them, and the points at which
// each life of each server is to end.
type schedule struct {
	length time.Duration
	events []event
	beside []event
	arms   [][]string // by server, life by life
}

func (s schedule) String() string {
	var b strings.Builder
	for _, e := range s.events {
		fmt.Fprintln(&b, e)
	}
	for _, e := range s.beside {
		fmt.Fprintln(&b, "beside", e)
	}
	for server, arms := range s.arms {
		fmt.Fprintf(&b, "server %d dies at %s\n", server, strings.Join(arms, " "))
	}
	return b.String()
}

// base is the length of a run for which the figures of demand and the counts below hold; others have more or less of all.
const base = 7*time.Minute + 30*time.Second

// counts are how often each fault comes in a run of length base.
var counts = map[kind]int{
	crashImmediate: 10, crashKilled: 10,
	terminateAll: 3, terminateListener: 4, exhausted: 2, diskFull: 2, deadlock: 3, refused: 3,
	netCut: 3, netHalfOpen: 3, netLatency: 3, netSlow: 2, netReset: 5,
	serverKilled: 20, serverStopped: 4, serverEnded: 8, clientsCut: 6, migrateKilled: 10,
}

// lasts is how long a fault takes, at least and at most; the others are over at once.
var lasts = map[kind][2]time.Duration{
	crashImmediate: {0, time.Second}, crashKilled: {0, time.Second}, // that PostgreSQL stays away
	exhausted: {3 * time.Second, 5 * time.Second}, diskFull: {2 * time.Second, 4 * time.Second},
	deadlock: {2 * time.Second, 3 * time.Second}, refused: {2 * time.Second, 3 * time.Second},
	netCut: {2 * time.Second, 5 * time.Second}, netHalfOpen: {6 * time.Second, 9 * time.Second},
	netLatency: {4 * time.Second, 6 * time.Second}, netSlow: {4 * time.Second, 6 * time.Second},
	netReset:      {300 * time.Millisecond, 600 * time.Millisecond},
	serverStopped: {reclaimTimeout + time.Second, reclaimTimeout + 3*time.Second},
}

// scaled is n for a run of length d instead of base, at least one.
func scaled(n int, d time.Duration) int {
	return max(1, int(float64(n)*d.Seconds()/base.Seconds()+0.5))
}

// newSchedule draws a schedule for a run of length d. With steady the first server is neither killed nor ended.
func newSchedule(seed uint64, d time.Duration, kinds map[kind]int, steady bool) schedule {
	random := rand.New(rand.NewPCG(seed, 0))
	s := schedule{length: d}
	for _, k := range slices.Sorted(maps.Keys(kinds)) {
		for range scaled(kinds[k], d) {
			e := event{Kind: k, Server: random.IntN(servers)}
			if steady && (k == serverKilled || k == serverEnded) {
				e.Server = 1 + random.IntN(servers-1)
			}
			if l := lasts[k]; l[1] > 0 {
				e.Lasts = (l[0] + time.Duration(random.Int64N(int64(l[1]-l[0])))).Round(time.Millisecond)
			}
			if k == migrateKilled {
				e.Arm = migrationArm(random)
			}
			s.events = append(s.events, e)
		}
	}
	random.Shuffle(len(s.events), func(i, j int) { s.events[i], s.events[j] = s.events[j], s.events[i] })
	for i := range s.events {
		s.events[i].At = (d*time.Duration(i)/time.Duration(len(s.events)) + d/time.Duration(len(s.events))/4).Round(time.Millisecond)
	}
	for at := d / 10; at+75*time.Second < d; at += 80 * time.Second {
		s.beside = append(s.beside,
			event{At: at, Kind: heldLock, Lasts: 30 * time.Second, Server: random.IntN(servers)},
			event{At: at + 5*time.Second, Kind: openSnapshot, Lasts: time.Minute})
	}
	slices.SortFunc(s.beside, func(a, b event) int { return cmp.Compare(a.At, b.At) })
	for server := range servers {
		if steady && server == 0 {
			s.arms = append(s.arms, nil)
			continue
		}
		arms := make([]string, 40+int(d/(4*time.Second)))
		for life := range arms {
			arms[life] = arm(random)
		}
		s.arms = append(s.arms, arms)
	}
	return s
}

// target is a point at which servers die, with how often it is passed.
type target struct {
	point string
	most  int // the greatest number of the passing to die at
}

var targets = []target{
	{fault.BatchBegins, 50}, {fault.BatchLocked, 50}, {fault.BatchSent, 50}, {fault.BatchCommitted, 50},
	{fault.AppendBegins, 5}, {fault.AppendCommitted, 5},
	{fault.TopicReserved, 1}, {fault.JobClaimed, 10}, {fault.JobAnswered, 10}, {fault.LiveClaimed, 10},
	{fault.CollectFloorMoved, 4}, {fault.CollectRowsRemoved, 3}, {fault.CollectBatchDone, 3},
}

// arm draws where a life is to end: not before it is a few seconds old, so that it does something.
func arm(random *rand.Rand) string {
	t := targets[random.IntN(len(targets))]
	return fmt.Sprintf("%s:%d@%dms", t.point, 1+random.IntN(t.most), 2_000+random.IntN(8_000))
}

func migrationArm(random *rand.Rand) string {
	point := []string{fault.MigrationBegins, fault.MigrationDone}[random.IntN(2)]
	return fmt.Sprintf("%s:%d", point, 1+random.IntN(4))
}
