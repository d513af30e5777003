package gcjob

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"pipeproc/api"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// collector is an api.Collector of functions.
type collector struct {
	collect func(ctx context.Context, minPruneTime int64) (api.GCRun, error)
	sweep   func(ctx context.Context) error
}

func (c collector) Collect(ctx context.Context, minPruneTime int64) (api.GCRun, error) {
	return c.collect(ctx, minPruneTime)
}
func (c collector) LastCollect(context.Context) (api.GCRun, error) { return api.GCRun{}, nil }
func (c collector) Sweep(ctx context.Context) error                { return c.sweep(ctx) }

// start runs l until the test, or stop, ends it.
func start(t *testing.T, l *Loop) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- l.Run(ctx) }()
	synctest.Wait()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
	t.Cleanup(stop)
	return stop
}

// passes moves the bubble's clock, and waits until all that is due has happened.
func passes(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func logger() (*slog.Logger, *bytes.Buffer) {
	var b bytes.Buffer
	return slog.New(slog.NewTextHandler(&b, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}})), &b
}

func TestGC(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, text := logger()
		begin := time.Now()
		var turns []time.Duration
		l := NewGC(GCConfig{Logger: log, MinPruneTime: 1234, Collector: collector{
			collect: func(_ context.Context, minPruneTime int64) (api.GCRun, error) {
				if minPruneTime != 1234 {
					t.Errorf("minPruneTime %d, want 1234", minPruneTime)
				}
				turns = append(turns, time.Since(begin))
				time.Sleep(5 * time.Second) // the bubble's clock: turns do not overlap
				if len(turns) > 1 {
					return api.GCRun{Topics: []api.Collected{{Topic: "a"}}}, nil
				}
				return api.GCRun{Topics: []api.Collected{{Topic: "a", Collected: 2}, {Topic: "b", Collected: 3}, {Topic: "c"}}}, nil
			},
		}})
		start(t, l)
		passes(100 * time.Second)
		if len(turns) != 3 || turns[0] < 0 || turns[0] > 3*time.Second {
			t.Fatalf("turns at %v, want 3, the first within 3 s", turns)
		}
		if turns[1]-turns[0] != 35*time.Second || turns[2]-turns[1] != 35*time.Second {
			t.Errorf("turns at %v, want 30 s from the end of one to the next", turns)
		}
		if diff := cmp.Diff("level=INFO msg=\"gc collected logs\" logs=5 topics=2\n", text.String()); diff != "" {
			t.Error(diff)
		}
	})
}

func TestSweep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, text := logger()
		turns := 0
		l := NewSweep(SweepConfig{Logger: log, Collector: collector{sweep: func(context.Context) error {
			turns++
			return nil
		}}})
		start(t, l)
		passes(10 * time.Second)
		if turns != 10 {
			t.Errorf("%d turns in 10 s, want 10", turns)
		}
		if text.Len() > 0 {
			t.Errorf("log %s", text)
		}
	})
}

// TestTrouble: a loop that fails goes on, and says so once.
func TestTrouble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, text := logger()
		var broken atomic.Bool
		l := NewSweep(SweepConfig{Logger: log, Collector: collector{sweep: func(context.Context) error {
			if broken.Load() {
				return errors.New("no database")
			}
			return nil
		}}})
		stop := start(t, l)
		turning := func() {
			t.Helper()
			if err := l.Turns().Stuck(); err != nil {
				t.Error(err)
			}
		}
		turning()
		if !l.Turns().Last().IsZero() {
			t.Error("a turn before the first one")
		}
		for _, b := range []bool{false, true, false, true} {
			broken.Store(b)
			passes(10 * time.Second)
			turning() // a turn that fails is one
			if since := time.Since(l.Turns().Last()); since > time.Second {
				t.Errorf("the last turn was %v ago", since)
			}
		}
		wrong := "level=WARN msg=\"periodic work goes wrong\" work=sweep error=\"no database\"\n"
		well := "level=INFO msg=\"periodic work goes well again\" work=sweep\n"
		if diff := cmp.Diff(wrong+well+wrong, text.String()); diff != "" {
			t.Error(diff)
		}
		broken.Store(false)
		passes(2 * time.Second)
		turning()
		stop()
		passes(time.Hour)
		turning() // it is not expected to
		stop = start(t, l)
		turning()
		stop()
	})
}

// TestHangs: a turn that does not end is noticed, until it does.
func TestHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, _ := logger()
		release := make(chan struct{})
		l := NewSweep(SweepConfig{Logger: log, Collector: collector{sweep: func(ctx context.Context) error {
			select {
			case <-release:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}}})
		stop := start(t, l)
		passes(30 * time.Second)
		if err := l.Turns().Stuck(); err != nil {
			t.Error("after 30 s: ", err)
		}
		passes(2 * time.Second)
		if err := l.Turns().Stuck(); api.CodeOf(err) != api.CodeUnavailable || !strings.Contains(err.Error(), `"sweep"`) {
			t.Error("a turn hangs: ", err)
		}
		release <- struct{}{}
		synctest.Wait()
		if err := l.Turns().Stuck(); err != nil {
			t.Error("the turn has ended: ", err)
		}
		passes(2 * time.Second)
		stop() // in the middle of a turn
	})
}

// TestCancelIsNoTrouble: the error of a turn that was cut off by the end of Run is not logged.
func TestCancelIsNoTrouble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, text := logger()
		l := NewGC(GCConfig{Logger: log, Collector: collector{collect: func(ctx context.Context, _ int64) (api.GCRun, error) {
			<-ctx.Done()
			return api.GCRun{}, ctx.Err()
		}}})
		stop := start(t, l)
		passes(time.Minute)
		stop()
		if text.Len() > 0 {
			t.Errorf("log %s", text)
		}
	})
}
