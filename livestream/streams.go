// Package livestream serves Server-Sent Events: the streams of liveProcs (through r3labs/sse) and the tails of topics
// (through a small writer of its own).
//
// Nothing here ever waits for a client: each write has a deadline, and what a client has not read yet is kept by the
// store, not in memory. A stream is woken by hints and looks for itself where it stands.
package livestream

import (
	"container/list"
	"context"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/r3labs/sse/v2"

	"pipeproc/api"
)

// Defaults of Config.
const (
	DefaultMaxAge       = 10 * time.Minute
	DefaultHeartbeat    = 15 * time.Second
	DefaultWriteTimeout = 10 * time.Second
	DefaultRetry        = time.Second
)

// Config tells what the streams stand on. The roles are required; zero durations take the defaults.
type Config struct {
	LiveProcs api.LiveProcs
	Procs     api.Procs
	Tailer    api.Tailer
	Watcher   api.Watcher

	Logger *slog.Logger // default: slog.Default()

	MaxAge       time.Duration // a stream ends, to be resumed by its client, after 80 to 100 % of it
	Heartbeat    time.Duration // between two comments on a stream
	WriteTimeout time.Duration // for each write; a client that does not read loses its connection
	Retry        time.Duration // clients are told to come back after one to two times of it

	// MaxStreams, MaxStreamsPerAddress and MaxStreamsPerKey are the most streams that are open at a time: in all, from one
	// address of clients, and with one API key; 0: no limit. Whose a request is, its context tells: api.CallerOf.
	MaxStreams, MaxStreamsPerAddress, MaxStreamsPerKey int

	// Leases hears of each turn of the loop that renews leases, while there are any. nil: nobody does.
	Leases *api.Turns
}

// Streams serves all streams of one server. Its three handlers return an error only while nothing is written yet.
type Streams struct {
	Config

	ctx     context.Context // done when Close is called
	cancel  context.CancelFunc
	renewal time.Duration // of the leases of liveProcs' streams
	limits  limits
	room    *room
	rings   rings

	mostFollowed int

	mu        sync.Mutex
	closed    bool
	followers map[string]*follower // of the topics that have readers
	streams   map[string]int       // of each liveProc, as far as they came for one by its name
	leases    leases
	open      sync.WaitGroup // streams, followers, and the loop of the leases

	sse         *sse.Server
	connections sync.Map // the id of an r3labs stream → its *connection

	liveProcs, tails, ranges, followed atomic.Int64
}

// New makes the streams of one server. Close ends them.
func New(c Config) *Streams {
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	for _, d := range []struct {
		value *time.Duration
		def   time.Duration
	}{
		{&c.MaxAge, DefaultMaxAge}, {&c.Heartbeat, DefaultHeartbeat},
		{&c.WriteTimeout, DefaultWriteTimeout}, {&c.Retry, DefaultRetry},
	} {
		if *d.value <= 0 {
			*d.value = d.def
		}
	}
	s := &Streams{Config: c, renewal: api.StreamLease / 3 * time.Millisecond, room: newRoom(roomBytes, c.WriteTimeout),
		rings: rings{most: allRingBytes, order: list.New()}, mostFollowed: mostFollowed, followers: map[string]*follower{},
		streams: map[string]int{}, leases: leases{streams: map[api.Stream]struct{}{}}}
	s.limits = newLimits(&c)
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.sse = s.newSSE()
	return s
}

// Close ends every stream after the event that it is writing, so that its client comes back to resume it, and waits for
// them: a client that does not read is given a second. New streams are refused with CodeUnavailable. It may be called
// twice.
func (s *Streams) Close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.cancel()
	s.open.Wait()
}

// Stats tells what is open on this server.
type Stats struct {
	LiveProcs int64 // streams of liveProcs
	Tails     int64 // tails
	Ranges    int64 // streams that are served elsewhere, see Admit
	Followed  int64 // topics that tails follow
}

// Stats may be called at any time.
func (s *Streams) Stats() Stats {
	return Stats{LiveProcs: s.liveProcs.Load(), Tails: s.tails.Load(), Ranges: s.ranges.Load(), Followed: s.followed.Load()}
}

// Admit counts in a stream that is served elsewhere, so that the limits hold for it, too; Close does not wait for it. done
// is to be called once, when it has ended. Errors: CodeRateLimited, CodeOverloaded, CodeUnavailable.
func (s *Streams) Admit(r *http.Request) (done func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.admit(r, &s.ranges, false)
}

// admit counts a stream in, or refuses it; one that replaces another stream is not held to the limits. s.mu is held.
func (s *Streams) admit(r *http.Request, gauge *atomic.Int64, replaces bool) (done func(), err error) {
	if s.closed {
		return nil, shuttingDown()
	}
	release, err := s.limits.take(api.CallerOf(r.Context()), replaces)
	if err != nil {
		return nil, err
	}
	gauge.Add(1)
	return func() {
		gauge.Add(-1)
		release()
	}, nil
}

// begin counts a stream in. Its context is done when the client is gone, at the planned disconnect and at Close; done is
// to be called when the stream has ended. liveProc is the one that the client asks for, "" none: where it has a stream
// here, the new one will replace it, and a limit that is reached refuses none but a third, since an EventSource that is
// refused does not come again.
func (s *Streams) begin(r *http.Request, gauge *atomic.Int64, liveProc string) (ctx context.Context, done func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	leave, err := s.admit(r, gauge, s.streams[liveProc] == 1)
	if err != nil {
		return nil, nil, err
	}
	forget := s.count(liveProc)
	s.open.Add(1)
	// Jittered: clients are not to come back in a herd.
	age := s.MaxAge - time.Duration(rand.Int64N(int64(s.MaxAge)/5+1)) //nolint:gosec // a delay is to be spread, not secret
	ctx, cancel := context.WithTimeout(r.Context(), age)
	stop := context.AfterFunc(s.ctx, cancel)
	return ctx, func() {
		stop()
		cancel()
		forget()
		leave()
		s.open.Done()
	}, nil
}

// count counts a stream of a liveProc in, if there is one to name; forget counts it out. s.mu is held.
func (s *Streams) count(liveProc string) (forget func()) {
	if liveProc == "" {
		return func() {}
	}
	s.streams[liveProc]++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.streams[liveProc]--; s.streams[liveProc] == 0 {
			delete(s.streams, liveProc)
		}
	}
}

func shuttingDown() error {
	e := api.Errorf(api.CodeUnavailable, "the server is shutting down")
	e.RetryAfter = time.Second
	return e
}

// refused is what the caller is told of an error of the store that came before the stream began: one that Close
// caused is not the store's.
func (s *Streams) refused(err error) error {
	if s.ctx.Err() != nil && api.CodeOf(err) == api.CodeInternal {
		return shuttingDown()
	}
	return err
}

// retry is the line that tells a client when to come back, jittered as well.
func (s *Streams) retry() []byte {
	ms := (s.Retry + time.Duration(rand.Int64N(int64(s.Retry)))).Milliseconds() //nolint:gosec // a delay is to be spread, not secret
	return appendRetry(nil, ms)
}

// setHeaders sets what every stream's answer carries.
func setHeaders(h http.Header) {
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no")
}

// answerHead answers HEAD where GET would stream.
func answerHead(w http.ResponseWriter) {
	setHeaders(w.Header())
	w.WriteHeader(http.StatusOK)
}

// backoff spaces the attempts of a stream whose store does not answer: the stream stays open meanwhile, since a browser
// never comes back to one that was refused.
type backoff struct{ d time.Duration }

const firstBackoff, lastBackoff = 100 * time.Millisecond, 5 * time.Second

// next is how long to wait now. first tells that the attempt before had succeeded.
func (b *backoff) next() (d time.Duration, first bool) {
	first = b.d == 0
	b.d = min(max(2*b.d, firstBackoff), lastBackoff)
	return b.d/2 + rand.N(b.d/2), first //nolint:gosec // a delay is to be spread, not secret
}

func (b *backoff) reset() { b.d = 0 }
