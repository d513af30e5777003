//go:build security && linux

package security

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"
)

// bounds are what an attack may cost the server at its peak, more than what it takes at rest, and how its bystander may be
// treated.
type bounds struct {
	memory     int64 // MiB of RSS
	goroutines int64
	aside      bool     // the bystander comes through the Unix socket, since TCP is full
	refusals   []string // codes of problems that the bystander may be told at times
	topics     []string // that the attack may write to; all else is to stay as it is
}

// What may be left after an attack, more than there was before it: the runtime keeps some of what it had.
const (
	leftMemory     = 24 << 20 // of live heap
	leftGoroutines = 12
)

// under runs an attack, beside a bystander, and holds the bounds during it, and that the server has gone back to rest after it.
// When attack returns its connections are to be closed, or about to be closed by the server.
func (s *server) under(b bounds, attack func()) {
	s.t.Helper()
	by := &bystander{s: s, client: s.straight, refusals: b.refusals}
	if b.aside {
		by.client = s.aside
	}
	if err := by.turn(); err != nil { // what is made once is made
		s.t.Fatal(err)
	}
	before, rest := s.state(b.topics...), s.resting()
	s.resetPeak()
	ctx, stop := context.WithCancel(context.Background())
	var beside sync.WaitGroup
	defer beside.Wait()
	defer stop()
	peak := rest
	var unwatched error
	beside.Go(func() {
		every(ctx, 100*time.Millisecond, func() {
			now, err := s.figures()
			if err != nil {
				unwatched = fmt.Errorf("metrics during the attack: %w", err)
			}
			peak = peak.most(now)
		})
	})
	beside.Go(func() { every(ctx, 50*time.Millisecond, by.act) })
	begun := time.Now()
	attack()
	took := time.Since(begun)
	stop()
	beside.Wait()
	s.t.Logf("%.1f s; RSS %d MiB at its peak, %d before; at most %v; at rest %v; bystander: %v", took.Seconds(), s.peakRSS()>>20,
		rest.rss>>20, peak, rest, by)
	if unwatched != nil {
		s.t.Error(unwatched)
	}
	if by.failed != nil || by.answered == 0 {
		s.t.Errorf("the bystander: %d answers, then %v", by.answered, by.failed)
	}
	if more := (s.peakRSS() - rest.rss) >> 20; more > b.memory {
		s.t.Errorf("memory grew by %d MiB, more than %d", more, b.memory)
	}
	if more := peak.goroutines - rest.goroutines; more > b.goroutines {
		s.t.Errorf("%d goroutines more than at rest, more than %d", more, b.goroutines)
	}
	ended := time.Now()
	after := s.resting()
	for ; !after.nearly(rest); after = s.resting() {
		if time.Since(ended) > limit {
			s.t.Errorf("after the attack %v, before it %v\n%.20000s", after, rest, s.goroutines())
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	s.t.Logf("at rest again after %.1f s: %v", time.Since(ended).Seconds(), after)
	s.unchanged(before, b.topics...)
	if err := by.turn(); err != nil {
		s.t.Error("after the attack: ", err)
	}
}

// every calls f, and again each time that so much has passed, until ctx is done.
func every(ctx context.Context, d time.Duration, f func()) {
	tick := time.NewTicker(d)
	defer tick.Stop()
	for ctx.Err() == nil {
		f()
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}

// bystandersTopic is whose logs are left out of the state.
const bystandersTopic = "bystander"

// patience is how long a well-behaved client waits for an answer, beside all that goes on.
const patience = 15 * time.Second

// bystander is a well-behaved client: it commits, and reads what it has committed.
type bystander struct {
	s        *server
	client   *http.Client
	refusals []string

	answered, refused int
	slowest           time.Duration
	failed            error // the first failure
}

// act is a turn, of which is told later.
func (b *bystander) act() {
	if err := b.turn(); err != nil && b.failed == nil {
		b.failed = err
	}
}

func (b *bystander) turn() error {
	body := fmt.Sprintf(`{"n":%d}`, b.answered)
	committed, err := b.ask("POST", "/v1/topics/"+bystandersTopic+"/logs", body, http.StatusCreated)
	if err != nil || committed == nil {
		return err
	}
	var log struct{ ID string }
	if err := json.Unmarshal([]byte(committed.body), &log); err != nil {
		return fmt.Errorf("%s: %w", committed.body, err)
	}
	read, err := b.ask("GET", "/v1/topics/"+bystandersTopic+"/logs/"+log.ID, "", http.StatusOK)
	if err != nil || read == nil {
		return err
	}
	if want := `{"id":"` + log.ID + `","body":` + body + "}\n"; read.body != want {
		return fmt.Errorf("%q was committed, %q read", want, read.body)
	}
	return nil
}

// ask answers nil where it was refused as it may be.
func (b *bystander) ask(method, path, body string, status int) (*answer, error) {
	begun := time.Now()
	a, err := b.s.try(b.client, method, path, body)
	took := time.Since(begun)
	b.slowest = max(b.slowest, took)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	case took > patience:
		return nil, fmt.Errorf("%s %s: answered after %s", method, path, took)
	case a.status == status:
		b.answered++
		return a, nil
	case slices.Contains(b.refusals, a.problem()):
		b.refused++
		return nil, nil
	}
	return nil, fmt.Errorf("%s %s: %d %.500s", method, path, a.status, a.body)
}

func (b *bystander) String() string {
	return fmt.Sprintf("%d answers, %d refusals, the slowest after %d ms", b.answered, b.refused, b.slowest.Milliseconds())
}
