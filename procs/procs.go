// Package procs is the workers of systemProcs: it claims logs of their procs, hands them to their processors, and commits
// what these answer together with the ack. No transaction is held while a processor works.
//
// The pieces, in the order of an execution: look.go finds the procs with work, turns.go decides whose turn it is,
// worker.go gives the execution its place, execute.go takes it from the claim to the ack, webhook.go makes the call,
// where reach.go permits it, and answer.go reads what came back; or inline.go runs the function, and inlinerun.go makes
// one call of it.
package procs

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"

	"pipeproc/api"
)

const (
	// DefaultGrace is how long executions in flight may go on after the workers were told to stop.
	DefaultGrace = 10 * time.Second

	// settleTime is what acks, and claims given back, have after the last call was cut off.
	settleTime = 5 * time.Second
)

// Config says what the workers work on, and how much of it at a time.
type Config struct {
	Jobs    api.Jobs
	Watcher api.Watcher

	// Workers × Concurrency executions run at a time. When either is 0 (or less) nothing runs.
	Workers     int
	Concurrency int

	// RestartAfter is the number of executions after which a worker ends and a fresh one, with fresh connections, takes
	// its place. 0: never.
	RestartAfter int

	// Grace is how long executions in flight may go on after Run was told to stop. 0: DefaultGrace.
	Grace time.Duration

	// Version is told to webhooks in the User-Agent header, pipeproc/Version. "": dev.
	Version string

	// Dial opens the connections to webhooks. nil: Reach does.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)

	// Reach tells which addresses webhooks may be called at.
	Reach Reach

	// Inline tells whether inline processors run on this server. Where they do not, they are left to servers that do.
	Inline bool

	// TLS is the configuration for https webhooks. nil: Go's defaults, with the system's roots.
	TLS *tls.Config

	// Logger hears of failed attempts and of trouble with the store. nil: slog.Default().
	Logger *slog.Logger

	// Metrics is where the counters are registered. nil: nowhere.
	Metrics prometheus.Registerer

	// Tracer traces executions. nil: nothing is traced; webhooks are told of a trace all the same, for their own log.
	Tracer trace.Tracer
}

// Workers run systemProcs.
type Workers struct {
	config  Config
	metrics metrics
	inline  *inline
	turns   api.Turns

	// hire makes a fresh worker's processors; tests replace it.
	hire func() processors
}

// New makes workers; Run sets them to work.
func New(c Config) *Workers {
	c.Grace = cmp.Or(c.Grace, DefaultGrace)
	c.Version = cmp.Or(c.Version, "dev")
	c.Logger = cmp.Or(c.Logger, slog.Default())
	if c.Dial == nil {
		c.Dial = c.Reach.dial
	}
	in := newInline(&c)
	return &Workers{
		turns:   api.Turns{Name: "systemProcs", Patience: lookPatience},
		config:  c,
		metrics: newMetrics(c.Metrics),
		inline:  in,
		hire: func() processors {
			ps := newProcessors(&c)
			ps.inline = in
			return ps
		},
	}
}

// Check answers CodeNoValidProcessor for a processor that can be seen, without calling it, not to run here: its URL names
// an address that may not be called, or its inline function is none. p is valid by its own rules.
func (w *Workers) Check(p *api.Processor) error {
	if p.Inline != "" {
		return w.inline.check(p.Inline)
	}
	return w.config.Reach.checkURL(p.URL)
}

// Turns tell of each look for procs with work.
func (w *Workers) Turns() *api.Turns { return &w.turns }

// errStopping is the cause with which calls are cut off when their grace is over.
var errStopping = errors.New("the workers stop")

// errLost is the cause with which a call is cut off whose claim was lost: somebody ended it, or destroyed the proc.
var errLost = errors.New("the claim was lost")

// Run works until ctx is cancelled. Then no more work is taken; executions in flight go on for Grace, after which their
// calls are cut off and their claims given back. It answers nil, after all of them have ended: at most a few seconds
// after the grace. It may be called again afterwards, but not twice at once.
func (w *Workers) Run(ctx context.Context) error {
	c := w.config
	if c.Workers <= 0 || c.Concurrency <= 0 {
		<-ctx.Done()
		return nil
	}
	calls, cutOff := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cutOff(nil)
	store, giveUp := context.WithCancel(context.WithoutCancel(ctx))
	defer giveUp()

	w.turns.Start()
	defer w.turns.Stop()
	r := &run{Config: c, metrics: &w.metrics, looks: &w.turns, taking: ctx, calls: calls, store: store, again: make(chan struct{}, 1)}
	seats := make([]*seat, c.Workers)
	for i := range seats {
		seats[i] = newSeat(w.hire, c.RestartAfter, w.metrics.restarts.Inc)
	}
	r.turns = newTurns(seats, c.Concurrency, r.start)

	r.look(ctx)

	r.turns.close()
	defer time.AfterFunc(c.Grace, func() { cutOff(errStopping) }).Stop()
	defer time.AfterFunc(c.Grace+settleTime, giveUp).Stop()
	r.executions.Wait()
	for _, s := range seats {
		s.close()
	}
	return nil
}

// run is one call of Run. Its contexts end one after the other when the workers stop.
type run struct {
	Config
	metrics *metrics
	looks   *api.Turns

	taking context.Context // for taking work: ends at once
	calls  context.Context // for calls of processors: ends after the grace
	store  context.Context // for what is to be told to the store: ends a little later

	turns      *turns
	executions sync.WaitGroup
	again      chan struct{} // wakes look, as the store's hints do
}

// start gives proc, whose turn it is, a goroutine.
func (r *run) start(proc string, s *seat) {
	r.executions.Go(func() {
		again := r.serve(proc, s)
		r.turns.leave(proc, s, again)
		select { // what it left behind, a retry or logs committed meanwhile, is for look to find
		case r.again <- struct{}{}:
		default:
		}
	})
}
