//go:build linux

package chaos

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"pipeproc/e2e/check"
)

var (
	seedFlag = flag.Uint64("seed", seedOf(os.Getenv("CHAOS_SEED")), "the seed of the schedule of faults; 0 takes another one each time")
	duration = flag.Duration("duration", 0, "how long the faults of TestChaos go on; 0 leaves it out")
	soakFile = flag.String("soak", "", "the CSV file that TestChaos records the servers' and PostgreSQL's figures in, which must stay flat")
	keepLogs = flag.Bool("keep", false, "keep the servers' logs also when all is well")
)

func seedOf(text string) uint64 {
	seed, _ := strconv.ParseUint(text, 10, 64)
	return seed
}

// demand is what a run of length base has to reach, on a slow machine in more time. Where there is less of something, what
// the checker says of it is worth nothing.
func demand(soak bool) map[string]int64 {
	demand := map[string]int64{
		commits: 300_000, claims: 100_000, events: 200_000, kills: 100, crashes: 20,
		acks: 80_000, ranges: 4_000, duplicates: 1_000, reclaims: 200, extends: 200, lostTokens: 200, collected: 10_000, waits: 100,
		calls: 1_000,
	}
	for _, t := range targets {
		demand[killedAt+t.point] = 1
	}
	if soak { // one of the servers lives all the time
		demand[kills] = demand[kills] * (servers - 1) / servers
	}
	return demand
}

// slowest is how many times as long as on a fast machine a run may go on until it has reached what is demanded.
const slowest = 2

// roundTime is the most that the faults of one round take. What a longer run has committed is checked, and removed, round by
// round.
const roundTime = base

// TestChaos breaks everything there is to break, for -duration.
func TestChaos(t *testing.T) {
	if *duration == 0 {
		t.Skip("-duration is not given")
	}
	attempt(t, trial{duration: *duration, kinds: counts, armed: true, timed: true, demand: demand(*soakFile != ""), soak: *soakFile,
		rates: rates{singles: 850, batches: 50, multis: 100, once: 100, fresh: 1, rude: 4, reads: 20, writers: 40, procs: 12, tails: 2, lives: 4}})
}

// TestSmoke is a little of everything.
func TestSmoke(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes a few seconds")
	}
	if *duration > 0 {
		t.Skip("TestChaos does more")
	}
	attempt(t, trial{duration: 3 * time.Second, kinds: map[kind]int{serverKilled: 1, crashKilled: 1, terminateAll: 1, netReset: 1, clientsCut: 1},
		rates: rates{singles: 100, batches: 10, multis: 20, once: 20, fresh: 2, rude: 2, reads: 5, writers: 2, procs: 4, tails: 2, lives: 2}})
}

// trial is what is attempted.
type trial struct {
	duration time.Duration
	kinds    map[kind]int // of faults, how often in a run of length base
	armed    bool         // servers die at failpoints
	timed    bool         // what takes too long is an error; not beside other tests
	rates    rates
	demand   map[string]int64 // of a run of length base
	soak     string           // the CSV file of the figures that are to stay flat
}

func attempt(t *testing.T, trial trial) {
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("seed %d; again by: CHAOS_SEED=%[1]d go test ./e2e/chaos -run %s -duration %v", seed, t.Name(), *duration)
	dir, err := os.MkdirTemp("", "pipeproc-chaos-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil { // PostgreSQL's account is another one
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() || *keepLogs {
			t.Logf("seed %d: the logs are in %s", seed, dir)
			return
		}
		_ = os.RemoveAll(dir)
	})
	rounds := max(1, int(trial.duration.Round(roundTime)/roundTime))
	ctx, cancel := context.WithTimeout(t.Context(), slowest*trial.duration+time.Duration(rounds+1)*(endTime+time.Minute))
	defer cancel()
	c, err := newCluster(ctx, dir, trial.soak != "", trial.timed)
	if err != nil {
		t.Fatalf("seed %d: %v", seed, err)
	}
	sampling, stop := context.WithCancel(ctx)
	sampled := make(chan error, 1)
	var samples [][]float64
	go func() {
		var err error
		if trial.soak != "" {
			samples, err = c.soak(sampling, trial.soak, max(time.Second, trial.duration/360))
		}
		sampled <- err
	}()
	for n := range rounds {
		if err := c.attempt(ctx, t, trial, seed+uint64(n), n, rounds); err != nil {
			t.Errorf("seed %d, round %d: %v", seed, n, err)
			break
		}
	}
	stop()
	if err := errors.Join(<-sampled, c.close()); err != nil {
		t.Errorf("seed %d: %v", seed, err)
	}
	var table strings.Builder
	c.tally.write(&table)
	writeFigures(&table, samples)
	t.Logf("seed %d, %v of faults:\n%s", seed, trial.duration, table.String())
	for _, lack := range c.tally.lacks(trial.demand, trial.duration) {
		t.Errorf("seed %d: %s", seed, lack)
	}
	if late := c.tally.count(lateRecoveries); trial.timed && late*10 > c.tally.count(recoveries) { // a busy machine may be late once
		t.Errorf("seed %d: PostgreSQL was back for more than %v before the first commit %d times", seed, recoveryLimit, late)
	}
	if trial.armed && c.tally.count(killedAtPoints) < c.tally.count(killedAtRandom) {
		t.Errorf("seed %d: most SIGKILLs are to hit a failpoint", seed)
	}
	if trial.soak != "" {
		if err := grown(samples); err != nil {
			t.Errorf("seed %d: %v", seed, err)
		}
	}
}

// attempt is one round: load and faults, the end of both, and what the checker says.
func (c *cluster) attempt(ctx context.Context, t *testing.T, trial trial, seed uint64, round, rounds int) error {
	plan := newSchedule(seed, trial.duration/time.Duration(rounds), trial.kinds, c.steady)
	if err := os.WriteFile(filepath.Join(c.dir, fmt.Sprint("schedule-", round)), []byte(plan.String()), 0o600); err != nil {
		return err
	}
	if trial.armed {
		if err := c.arm(ctx, plan.arms); err != nil {
			return fmt.Errorf("arm: %w", err)
		}
	}
	c.load = newLoad(c.front.url(), seed, round, c.tally)
	r := &run{cluster: c, rates: trial.rates}
	enough := func() bool {
		return c.tally.lacks(trial.demand, trial.duration*time.Duration(round+1)/time.Duration(rounds)) == nil
	}
	err := r.all(ctx, seed, plan, enough)
	for _, text := range c.load.strange {
		t.Logf("round %d, strange: %s", round, text)
	}
	for _, text := range c.load.wrong {
		t.Errorf("seed %d: %s", seed, text)
	}
	begun := time.Now()
	violations := check.Verify(c.load.recorder.History())
	t.Logf("round %d verified in %v: %d violations %v", round, time.Since(begun).Round(time.Millisecond), len(violations), check.Kinds(violations))
	told := map[check.Kind]int{}
	for _, v := range violations {
		if told[v.Kind]++; told[v.Kind] <= 5 {
			t.Errorf("seed %d: %v", seed, v)
		}
	}
	if err == nil && round+1 < rounds {
		err = r.clear(ctx)
	}
	return err
}

// endTime is the most that the end of a round may take: that of its load, and reading what it left.
const endTime = 5 * time.Minute

// all is a round from its begin to what is left in the end. When the schedule is through it goes on, if it is not enough yet,
// and servers go on dying at their points. What is left is read also where something went wrong before: it is the evidence.
func (r *run) all(ctx context.Context, seed uint64, plan schedule, enough func() bool) error {
	phase := func(name string, do func(context.Context) error) error {
		r.notef("--- %s", name)
		if err := do(ctx); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		return nil
	}
	if err := phase("start", func(ctx context.Context) error { return r.start(ctx, seed) }); err != nil {
		return err
	}
	defer r.hook.close()
	defer r.stop.works()
	err := phase("faults", func(ctx context.Context) error {
		r.busy.Store(true)
		defer r.busy.Store(false)
		end := time.Now().Add(slowest * plan.length)
		if err := r.play(ctx, plan); err != nil {
			return err
		}
		for !enough() && time.Now().Before(end) {
			if err := pause(ctx, time.Second); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		err = phase("disarm", func(ctx context.Context) error { return r.arm(ctx, nil) })
	}
	ctx, cancel := context.WithTimeout(ctx, endTime)
	defer cancel()
	err = errors.Join(err, phase("rest", r.rest))
	if err == nil && r.timed {
		err = phase("hand over", r.handOver)
	}
	err = errors.Join(err, phase("quiesce", r.quiesce))
	whole := err == nil
	return errors.Join(err, phase("final", func(ctx context.Context) error { return r.final(ctx, whole) }), r.broken())
}
