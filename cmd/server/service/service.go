package service

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"pipeproc"
	"pipeproc/api"
	"pipeproc/gcjob"
	"pipeproc/httpapi"
	"pipeproc/livestream"
	"pipeproc/pgstore"
	"pipeproc/procs"
)

// Service is one server. New makes it, Run runs it, once.
type Service struct {
	cfg       Config
	log       *slog.Logger
	tls       *tls.Config   // nil: none
	keys      *httpapi.Keys // nil: nobody needs one
	tickets   []byte        // the secret of --ticket-secret-file; nil: none
	reloaders []*reloader   // of files that may change
	endpoints []endpoint
	profiles  *net.TCPAddr   // nil: none
	opened    []netip.Prefix // to webhooks
	proxies   httpapi.Proxies
	urls      []string
	serving   chan struct{}
	stopping  atomic.Bool
}

// New checks cfg, resolves its addresses and reads its files. An error tells what is wrong with which flag; nothing
// was started.
func New(cfg Config) (*Service, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	s := &Service{cfg: cfg, log: logger(&cfg), serving: make(chan struct{})}
	var err error
	if err := s.readFiles(); err != nil {
		return nil, err
	}
	if s.endpoints, err = endpoints(&cfg); err != nil {
		return nil, err
	}
	if s.profiles, err = profilesAddress(&cfg); err != nil {
		return nil, err
	}
	if s.opened, err = webhookAllow(cfg.WebhookAllow); err != nil {
		return nil, err
	}
	if s.proxies, err = trustedProxies(cfg.TrustedProxies); err != nil {
		return nil, err
	}
	return s, nil
}

// readFiles reads the TLS files and the one of API keys.
func (s *Service) readFiles() (err error) {
	var certificates, keys *reloader
	if s.tls, certificates, err = secure(&s.cfg, s.log); err != nil {
		return err
	}
	if s.keys, keys, err = apiKeys(&s.cfg, s.log); err != nil {
		return err
	}
	for _, r := range []*reloader{certificates, keys} {
		if r != nil {
			s.reloaders = append(s.reloaders, r)
		}
	}
	s.tickets, err = ticketSecret(&s.cfg)
	return err
}

// Ready is closed when every listener serves. It stays open when Run ends before that.
func (s *Service) Ready() <-chan struct{} { return s.serving }

// URLs are the listeners' addresses as clients name them, in the order of Config.Listen: http://host:port with the
// actual port, https://host:port, unix:/path.sock. They are known from Ready on.
func (s *Service) URLs() []string {
	<-s.serving
	return s.urls
}

// errAsked ends a server that POST /v1/shutdown was sent to.
var errAsked = errors.New("shutdown asked for over HTTP")

// Run starts PostgreSQL (unless there is a database URL), the store, the listeners and the loops, and blocks until asked
// is done, POST /v1/shutdown is called, or one of them fails. Then it stops all of them in the reverse order: new
// connections are refused, streams and waits end, requests are answered, the workers stop, the store is drained and
// closed, PostgreSQL is stopped.
//
// It answers nil after an orderly stop, also when asked ends while it is still starting.
func (s *Service) Run(asked context.Context) (err error) {
	ctx, stop := context.WithCancelCause(asked)
	defer stop(nil)
	s.warn()

	db, err := openDatabase(ctx, &s.cfg, s.log)
	if err != nil {
		return unlessStopped(ctx, err)
	}
	defer also(&err, db.stop)

	tracer, endTraces, err := openTracer(ctx, s.cfg.Version, s.log)
	if err != nil {
		return err
	}
	defer also(&err, endTraces)

	metrics := newMetrics(s.cfg.Version)
	store, err := pgstore.Open(ctx, pgstore.Config{URL: db.url, DirectURL: db.direct, Namespace: s.cfg.Namespace,
		UnsafeDurability: s.cfg.UnsafeDurability || s.cfg.Memory, Logger: s.log, Metrics: metrics, Tracer: tracer})
	if err != nil {
		return unlessStopped(ctx, err)
	}
	defer store.Close()
	defer also(&err, start(stop, store.Run))

	hosts, err := databaseHosts(db.url, db.direct)
	if err != nil {
		return err
	}
	profiles, err := s.listenForProfiles()
	if err != nil {
		return err
	}
	for _, l := range profiles {
		defer l.Close()
	}
	listeners, err := s.listen(ctx) // before the workers, which are to know the actual ports
	if err != nil {
		return unlessStopped(ctx, err)
	}

	workers := procs.New(procs.Config{Jobs: store, Watcher: store, Workers: s.cfg.Workers,
		Concurrency: s.cfg.WorkerConcurrency, RestartAfter: s.cfg.WorkerRestartAfter, Version: s.cfg.Version, Logger: s.log,
		Metrics: metrics, Tracer: tracer, Reach: webhookReach(s.opened, slices.Concat(listeners, profiles), hosts), Inline: s.cfg.InlineProcessors})
	leases := &api.Turns{Name: "leases", Patience: leasesPatience}
	streams := livestream.New(livestream.Config{LiveProcs: store, Procs: store, Tailer: store, Watcher: store,
		Logger: s.log, MaxAge: s.cfg.StreamMaxAge, MaxStreams: s.cfg.MaxStreams,
		MaxStreamsPerAddress: s.cfg.MaxStreamsPerAddress, MaxStreamsPerKey: s.cfg.MaxStreamsPerKey, Leases: leases})
	registerStreams(metrics, streams)
	loops, turns := s.work(store, workers)
	turns = append(turns, leases)
	registerTurns(metrics, turns)
	surface := httpapi.New(httpapi.Config{
		Logs: store, Topics: store, Procs: store, SystemProcs: store, LiveProcs: store, Collector: store,
		Health:         readiness{store, db, &s.stopping, turns},
		Streams:        streams,
		OpenAPI:        pipeproc.OpenAPI,
		MinPruneTime:   s.cfg.GCMinPruneTime,
		CheckProcessor: workers.Check,
		Shutdown:       s.shutdown(stop),
		Metrics:        metrics,
		Logger:         s.log,
		Tracer:         tracer,
		Keys:           s.keys,
		TicketSecret:   s.tickets,
		AllowedHosts:   s.cfg.AllowedHosts,
		CORSOrigins:    s.cfg.CORSOrigins,
		Proxies:        s.proxies,
		RateLimit:      s.cfg.RateLimit,
	})

	for _, l := range profiles {
		loops = append(loops, s.serveProfiles(l))
	}
	defer also(&err, start(stop, loops...))
	limited, end := s.limitConnections(listeners, metrics)
	defer end()
	defer s.serve(stop, surface, streams.Close, limited)()
	if err := s.announce(listeners); err != nil {
		return err
	}
	close(s.serving)

	<-ctx.Done()
	cause := context.Cause(ctx)
	s.log.Info("stopping", "because", cause)
	if asked.Err() != nil || errors.Is(cause, errAsked) {
		return nil
	}
	return cause
}

// leasesPatience is what the renewal of all streams' leases may take: it ends each of its tries by itself.
const leasesPatience = time.Minute

// work is what the server does besides answering requests, and the turns of all its loops, the store's included.
func (s *Service) work(store *pgstore.Store, workers *procs.Workers) (loops []func(context.Context) error, turns []*api.Turns) {
	sweep := gcjob.NewSweep(gcjob.SweepConfig{Collector: store, Logger: s.log})
	loops = []func(context.Context) error{workers.Run, sweep.Run}
	turns = append(store.Turns(), workers.Turns(), sweep.Turns())
	if s.cfg.GC {
		gc := gcjob.NewGC(gcjob.GCConfig{Collector: store, MinPruneTime: s.cfg.GCMinPruneTime,
			Interval: time.Duration(s.cfg.GCInterval) * time.Millisecond, Logger: s.log})
		loops, turns = append(loops, gc.Run), append(turns, gc.Turns())
	}
	reloads, looks := runs(s.reloaders)
	loops, turns = append(loops, reloads...), append(turns, looks...)
	return loops, turns
}

// unlessStopped is err, or nil where err is that the start was cut short.
func unlessStopped(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// also calls end and adds its error, unless it is told already.
func also(err *error, end func() error) {
	if e := end(); e != nil && !errors.Is(*err, e) {
		*err = errors.Join(*err, e)
	}
}

// shutdown is what POST /v1/shutdown calls; nil where that is not allowed.
func (s *Service) shutdown(stop context.CancelCauseFunc) func() {
	if !s.cfg.AllowShutdown {
		return nil
	}
	return func() { stop(errAsked) }
}

// announce tells where the server listens.
func (s *Service) announce(listeners []listener) error {
	for _, l := range listeners {
		s.urls = append(s.urls, l.url)
		if s.cfg.Out == nil {
			continue
		}
		if _, err := fmt.Fprintln(s.cfg.Out, "pipeproc listening on", l.url); err != nil {
			return fmt.Errorf("tell the address: %w", err)
		}
	}
	return nil
}

// readiness is ready when the store is, PostgreSQL is not being restarted, every loop turns, and the server does not stop.
type readiness struct {
	store    api.Health
	db       *database
	stopping *atomic.Bool
	loops    []*api.Turns
}

func (r readiness) Ready(ctx context.Context) error {
	if r.stopping.Load() {
		return errStopping
	}
	if err := r.db.ready(); err != nil {
		return err
	}
	if err := r.store.Ready(ctx); err != nil {
		return err
	}
	for _, loop := range r.loops {
		if err := loop.Stuck(); err != nil {
			return err
		}
	}
	return nil
}

// errStopping is what requests are told that still wait while the server stops.
var errStopping = api.Errorf(api.CodeUnavailable, "the server stops; ask again, another one may answer")
