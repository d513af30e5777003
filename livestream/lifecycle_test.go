package livestream

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pipeproc/api"
	"pipeproc/livestream/ssetest"
)

var errOutOfOrder = errors.New("out of order")

// moody is a store whose answers a test decides on; nil: as ever.
type moody struct {
	*memory
	keep, turn, close func(context.Context) error
	mu                sync.Mutex
	kept, turns       []time.Time
}

func (m *moody) KeepStreams(ctx context.Context, streams []api.Stream) error {
	m.mu.Lock()
	m.kept = append(m.kept, time.Now())
	keep := m.keep
	m.mu.Unlock()
	if keep != nil {
		if err := keep(ctx); err != nil {
			return err
		}
	}
	return m.memory.KeepStreams(ctx, streams)
}

func (m *moody) Turn(ctx context.Context, s api.Stream, held string) (api.StreamTurn, error) {
	m.mu.Lock()
	m.turns = append(m.turns, time.Now())
	turn := m.turn
	m.mu.Unlock()
	if turn != nil {
		if err := turn(ctx); err != nil {
			return api.StreamTurn{}, err
		}
	}
	return m.memory.Turn(ctx, s, held)
}

func (m *moody) CloseStream(ctx context.Context, s api.Stream) error {
	if m.close != nil {
		if err := m.close(ctx); err != nil {
			return err
		}
	}
	return m.memory.CloseStream(ctx, s)
}

func (m *moody) change(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f()
}

// times are how long after begun the calls came, and forgets them.
func (m *moody) times(of *[]time.Time, begun time.Time) (list []time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, t := range *of {
		list = append(list, t.Sub(begun))
	}
	*of = nil
	return list
}

func silent(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

// life is one stream in a bubble, whose clock goes on when nobody works.
type life struct {
	*Streams
	store *moody
	paper paper
	leave context.CancelFunc // of the client
	begun time.Time
	ended chan time.Duration
}

// inLife runs f beside a stream of a liveProc on topic "a"; it holds that the stream ends with its server.
func inLife(t *testing.T, f func(t *testing.T, l *life)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		l := &life{store: &moody{memory: newMemory()}, paper: paper{httptest.NewRecorder()}, begun: time.Now(), ended: make(chan time.Duration, 1)}
		l.Streams = New(Config{LiveProcs: l.store, Procs: l.store, Tailer: l.store, Watcher: l.store, MaxAge: time.Hour,
			Logger: slog.New(slog.DiscardHandler)})
		_, path := liveProc(t, l.store.memory, "a", api.ModeAll)
		ctx, leave := context.WithCancel(t.Context())
		l.leave = leave
		r := httptest.NewRequestWithContext(ctx, http.MethodGet, path, nil)
		go func() {
			l.routes().ServeHTTP(l.paper, r)
			l.ended <- time.Since(l.begun)
		}()
		synctest.Wait()
		f(t, l)
		l.Close()
		leave()
		<-l.ended
		if got := l.Stats(); got != (Stats{}) {
			t.Errorf("open at the end: %+v", got)
		}
	})
}

// events are what the client has got; the stream has ended.
func (l *life) events(t *testing.T) (types []string, beats int) {
	t.Helper()
	read := ssetest.NewReader(l.paper.Body)
	for {
		e, err := read.Next()
		if err != nil {
			return types, beats
		}
		if e.Comment != "" {
			beats++
		}
		if e.Dispatched {
			types = append(types, e.Type)
		}
	}
}

// An idle stream costs one question at its begin, one renewal of its lease in a third of it, and a heartbeat each 15 s.
func TestAnIdleStream(t *testing.T) {
	inLife(t, func(t *testing.T, l *life) {
		time.Sleep(10*time.Minute + time.Second)
		synctest.Wait()
		if turns := l.store.times(&l.store.turns, l.begun); len(turns) != 1 || turns[0] != 0 {
			t.Errorf("it asked at %v", turns)
		}
		for i, at := range l.store.times(&l.store.kept, l.begun) {
			if want := time.Duration(i+1) * api.StreamLease / 3 * time.Millisecond; at != want {
				t.Errorf("renewal %d came after %v, not %v", i, at, want)
			}
		}
		l.leave()
		l.ended <- <-l.ended
		if types, beats := l.events(t); len(types) != 1 || beats != 40 {
			t.Errorf("it told %v and %d heartbeats", types, beats)
		}
	})
}

// Where the store refuses, leases are tried again after delays that grow to five seconds and no more, and come to their
// rhythm again; so that a store which is back within a lease finds no stream taken for dead.
func TestLeasesOfAStoreThatRefuses(t *testing.T) {
	inLife(t, func(t *testing.T, l *life) {
		l.store.change(func() { l.store.keep = func(context.Context) error { return errOutOfOrder } })
		const rhythm = api.StreamLease / 3 * time.Millisecond
		time.Sleep(rhythm + time.Minute)
		synctest.Wait()
		calls := l.store.times(&l.store.kept, l.begun)
		delay := firstBackoff
		for i := range calls[1:] {
			if gap := calls[i+1] - calls[i]; gap < delay/2 || gap > delay {
				t.Errorf("try %d came after %v, not %v to %v", i+1, gap, delay/2, delay)
			}
			delay = min(2*delay, lastBackoff)
		}
		if n := len(calls); n < 15 || calls[0] != rhythm {
			t.Errorf("it was tried at %v", calls)
		}
		l.store.change(func() { l.store.keep = nil })
		time.Sleep(lastBackoff)
		synctest.Wait()
		back := l.store.times(&l.store.kept, l.begun)
		if len(back) == 0 {
			t.Fatal("it is not tried again")
		}
		time.Sleep(3 * rhythm)
		synctest.Wait()
		for i, at := range l.store.times(&l.store.kept, l.begun.Add(back[0])) {
			if want := time.Duration(i+1) * rhythm; at != want && len(back) == 1 {
				t.Errorf("renewal %d came after %v, not %v", i, at, want)
			}
		}
	})
}

// A store that does not answer is asked again; its stream stays open meanwhile, and goes on when it does.
func TestAStreamOfASilentStore(t *testing.T) {
	inLife(t, func(t *testing.T, l *life) {
		l.store.change(func() { l.store.turn = silent })
		l.store.commit("a", `{}`)
		time.Sleep(time.Minute)
		synctest.Wait()
		calls := l.store.times(&l.store.turns, l.begun)
		delay := firstBackoff
		for i := range calls[2:] { // after the first one, which was answered
			if gap := calls[i+2] - calls[i+1] - storeTimeout; gap < delay/2 || gap > delay {
				t.Errorf("question %d came %v after the last one was given up, not %v to %v", i+2, gap, delay/2, delay)
			}
			delay = min(2*delay, lastBackoff)
		}
		if len(calls) < 5 {
			t.Errorf("it asked at %v", calls)
		}
		l.store.change(func() { l.store.turn = nil })
		time.Sleep(storeTimeout + lastBackoff)
		synctest.Wait()
		l.leave()
		l.ended <- <-l.ended
		if types, _ := l.events(t); len(types) != 2 || types[1] != "logs" {
			t.Errorf("it told %v", types)
		}
	})
}

// Nothing keeps a stream whose client has left, or whose server closes: not a store that is silent, nor the wait until it is
// asked again; and the end of the stream is told to the store for two seconds at most.
func TestAStreamEndsAtOnce(t *testing.T) {
	for name, turn := range map[string]func(context.Context) error{
		"while it waits": nil, "while it asks": silent, "between two questions": func(context.Context) error { return errOutOfOrder },
	} {
		for _, end := range []string{"the client leaves", "the server closes"} {
			t.Run(name+", "+end, func(t *testing.T) {
				inLife(t, func(t *testing.T, l *life) {
					l.store.change(func() { l.store.turn, l.store.close = turn, silent })
					l.store.commit("a", `{}`)
					time.Sleep(20 * time.Second) // past many a question
					synctest.Wait()
					at := time.Since(l.begun)
					if end == "the client leaves" {
						l.leave()
					} else {
						l.Close()
					}
					ended := <-l.ended
					l.ended <- ended
					if took := ended - at; took > closeTimeout {
						t.Errorf("it ended after %v", took)
					}
				})
			})
		}
	}
}
