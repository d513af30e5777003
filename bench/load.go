package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// figures are what one phase of load has measured. A rate is of operations a second, in whatever unit the work has.
type figures struct {
	p50, p99, p999 time.Duration
	rate           float64
}

// worker does one operation on its connection, again and again.
type worker func(*wire) error

// grace is how much longer than a phase its last answers may take.
const grace = 30 * time.Second

// closedLoop lets every worker do one operation after the other for d, each on a connection of its own. One that fails
// fails the phase.
func closedLoop(ctx context.Context, address string, d time.Duration, workers []worker) (figures, error) {
	return closedUntil(ctx, address, d, new(atomic.Bool), workers)
}

// closedUntil is closedLoop that also ends when over says so.
func closedUntil(ctx context.Context, address string, d time.Duration, over *atomic.Bool, workers []worker) (figures, error) {
	return onWires(ctx, address, len(workers), d, func(wires []*wire) (figures, error) {
		var failed failure
		times := make([][]time.Duration, len(workers))
		for i := range times {
			times[i] = make([]time.Duration, 0, 1<<14)
		}
		begin := time.Now()
		end := begin.Add(d)
		var all sync.WaitGroup
		for i, work := range workers {
			all.Go(func() {
				for at := time.Now(); at.Before(end) && !over.Load() && !failed.is(); {
					if err := work(wires[i]); err != nil {
						failed.set(err)
						return
					}
					now := time.Now()
					times[i] = append(times[i], now.Sub(at))
					at = now
				}
			})
		}
		all.Wait()
		return summary(slices.Concat(times...), time.Since(begin)), failed.err()
	})
}

// openLoop lets operations arrive at a fixed rate, whether the earlier ones are answered or not; the first connection that
// is free takes the next one. Times count from the moment at which an operation was to be sent, so that a server that
// stalls is charged for all that it kept waiting.
func openLoop(ctx context.Context, address string, d time.Duration, rate float64, workers []worker) (figures, error) {
	return onWires(ctx, address, len(workers), d, func(wires []*wire) (figures, error) {
		var failed failure
		n := int(rate * d.Seconds())
		due := make(chan time.Time, n) // nothing that arrives waits for room
		times := make([][]time.Duration, len(workers))
		var all sync.WaitGroup
		for i, work := range workers {
			all.Go(func() {
				times[i] = make([]time.Duration, 0, n)
				for at := range due {
					if failed.is() {
						return
					}
					if err := work(wires[i]); err != nil {
						failed.set(err)
						return
					}
					times[i] = append(times[i], time.Since(at))
				}
			})
		}
		begin := time.Now()
		arrive(begin, n, rate, due)
		all.Wait()
		return summary(slices.Concat(times...), time.Since(begin)), failed.err()
	})
}

// arrive sends n moments to due, each when it has come. It sleeps by the kernel: the runtime's timers round to a
// millisecond.
func arrive(begin time.Time, n int, rate float64, due chan<- time.Time) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(due)
	for i := range n {
		at := begin.Add(time.Duration(float64(i) / rate * float64(time.Second)))
		if wait := time.Until(at); wait > 0 {
			t := syscall.NsecToTimespec(int64(wait))
			_ = syscall.Nanosleep(&t, nil) // cut short by a signal, it is a little early
		}
		due <- at
	}
}

// onWires opens n connections and closes them after f. Nothing on them lasts longer than d and some grace, or than ctx.
func onWires(ctx context.Context, address string, n int, d time.Duration, f func([]*wire) (figures, error)) (figures, error) {
	wires := make([]*wire, n)
	for i := range wires {
		w, err := dialWire(ctx, address)
		if err != nil {
			return figures{}, err
		}
		defer w.close()
		wires[i] = w
	}
	hurry(wires, time.Now().Add(d+grace))
	defer context.AfterFunc(ctx, func() { hurry(wires, time.Now()) })()
	got, err := f(wires)
	return got, errors.Join(err, ctx.Err())
}

// failure is the first error of many workers.
type failure struct{ first atomic.Pointer[error] }

func (f *failure) set(err error) { f.first.CompareAndSwap(nil, &err) }
func (f *failure) is() bool      { return f.first.Load() != nil }
func (f *failure) err() error {
	if e := f.first.Load(); e != nil {
		return *e
	}
	return nil
}

// summary sorts times.
func summary(times []time.Duration, took time.Duration) figures {
	if len(times) == 0 {
		return figures{}
	}
	slices.Sort(times)
	at := func(p float64) time.Duration { return times[min(len(times)-1, int(p*float64(len(times))))] }
	return figures{p50: at(0.5), p99: at(0.99), p999: at(0.999), rate: float64(len(times)) / took.Seconds()}
}

// times is f in another unit: an operation counts n.
func (f figures) times(n int) figures {
	f.rate *= float64(n)
	return f
}

func (f figures) String() string {
	return fmt.Sprintf("%.0f/s p50 %v p99 %v p99.9 %v", f.rate, f.p50, f.p99, f.p999)
}

// each makes n workers.
func each(n int, f func(i int) worker) []worker {
	all := make([]worker, n)
	for i := range all {
		all[i] = f(i)
	}
	return all
}

// repeats is a worker that sends one request again and again.
func repeats(request []byte, want int) worker {
	return func(w *wire) error {
		_, err := w.do(request, want)
		return err
	}
}
