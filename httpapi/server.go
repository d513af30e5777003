// Package httpapi is PipeProc's HTTP surface: it decodes and validates requests, calls one role of the store, and renders
// the answer. Whatever is wrong becomes an RFC 9457 problem.
package httpapi

import (
	"cmp"
	"context"
	"log/slog"
	"net/http"
	"slices"
	"sync"

	"github.com/go-chi/chi/v5"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"

	"pipeproc/api"
)

// Config tells what the surface stands on. All roles are to be given; the rest may be zero.
type Config struct {
	Logs        api.Logs
	Topics      api.Topics
	Procs       api.Procs
	SystemProcs api.SystemProcs
	LiveProcs   api.LiveProcs
	Collector   api.Collector
	Health      api.Health
	Streams     Streams

	OpenAPI      []byte // served as /openapi.yaml
	MinPruneTime int64  // ms; what POST /v1/gc collects with

	// CheckProcessor answers CodeNoValidProcessor for a processor that cannot run on this server; nil: every one can.
	CheckProcessor func(*api.Processor) error

	// Shutdown asks the server to stop, and returns without waiting for it; nil: there is no POST /v1/shutdown.
	Shutdown func()

	// Proxies are whose word on the clients' addresses is taken.
	Proxies Proxies

	// RateLimit is how many requests a second each address, and each API key, may make; 0: any number.
	RateLimit int

	// Keys are the API keys that let in; nil: nobody needs one.
	Keys *Keys

	// TicketSecret signs the tickets of streams: servers that share it take each other's. nil: one of this server's own.
	TicketSecret []byte

	// AllowedHosts are names that the Host header may have besides those of loopback, see ParseHost. It is checked where
	// connections come over loopback, and where there are such names, for every TCP connection.
	AllowedHosts []string

	// CORSOrigins are the origins whose pages may use the server, see ParseOrigin.
	CORSOrigins []string

	Metrics Metrics      // served as /metrics, and given the surface's own; nil: a registry of its own
	Logger  *slog.Logger // nil: nothing is logged
	Tracer  trace.Tracer // nil: nothing is traced
}

// Streams is the role of whoever serves Server-Sent Events. Names in the path are valid, and are r.PathValue("name") and
// r.PathValue("topic"); the query has no other parameters than those of the route. HEAD is to be answered as GET is,
// without opening a stream or making a liveProc. An error means that nothing was written yet: it is rendered as a
// problem. Deadlines of reads and writes are the stream's own to set; none is set when it starts.
type Streams interface {
	// Changes serves GET /v1/live-procs/{name}/changes?lastEventId=.
	Changes(w http.ResponseWriter, r *http.Request) error
	// Live serves GET /v1/topics/{topic}/live?mode=&count=&ttl=&lastEventId=.
	Live(w http.ResponseWriter, r *http.Request) error
	// Tail serves GET /v1/tail?topic=&start=&lastEventId=, where topic may be repeated. Where the path names a topic
	// (GET /v1/topics/{topic}/logs?start=&lastEventId=), that is the one to follow.
	Tail(w http.ResponseWriter, r *http.Request) error
	// Admit counts in a stream that is not of Server-Sent Events and not served here, so that the limits on streams hold for
	// it as well: CodeRateLimited, CodeOverloaded, CodeUnavailable. done is to be called when it has ended.
	Admit(r *http.Request) (done func(), err error)
}

// Metrics is where metrics are registered and gathered, as a *prometheus.Registry does it.
type Metrics interface {
	prometheus.Registerer
	prometheus.Gatherer
}

// Server is the surface, an http.Handler.
//
// It sets read and write deadlines request by request, so http.Server is to have no ReadTimeout and no WriteTimeout, but
// a ReadHeaderTimeout. A server that stops may cancel its base context with an *api.Error as the cause: that is what
// callers who still wait are told.
type Server struct {
	Config
	router   *chi.Mux
	contexts sync.Pool // of the router
	metrics  *metrics
	ids      requestIDs
	bodies   room
	lines    room
	requests room   // those under way
	rates    *rates // nil: no limit

	streamRoles map[string]Role // of the routes that tickets open, by pattern
	tickets     *tickets
	crossOrigin *http.CrossOriginProtection
}

// New makes the surface.
func New(c Config) *Server {
	if c.Metrics == nil {
		c.Metrics = prometheus.NewRegistry()
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Server{Config: c, router: chi.NewRouter(), ids: newRequestIDs(), bodies: room{most: bodiesRoom}, lines: room{most: linesRoom},
		requests: room{most: mostRequests},
		contexts: sync.Pool{New: func() any { return chi.NewRouteContext() }},
		rates:    newRates(c.RateLimit), streamRoles: map[string]Role{}, tickets: newTickets(c.TicketSecret),
		crossOrigin: newCrossOrigin(c.CORSOrigins)}
	s.metrics = newMetrics(c.Metrics, &s.bodies, &s.requests)
	s.router.Use(s.observe, s.survive, s.limitRequests, s.bounded, s.protected, s.limitAddress, headAsGet)
	s.router.NotFound(s.handle(s.notFound))
	s.router.MethodNotAllowed(s.handle(s.notFound))
	s.routes()
	return s
}

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	route := s.contexts.Get().(*chi.Context) // the router would take one of its own, and copy the request for it
	route.Reset()
	route.Routes = s.router
	x := &exchange{Context: r.Context(), caller: api.Caller{RequestID: s.ids.of(r), Address: s.Proxies.client(r)}, route: route,
		recorder: recorder{ResponseWriter: w, bodies: &s.bodies}}
	x.recorder.id[0] = x.caller.RequestID
	w.Header()[requestIDHeader] = x.recorder.id[:]
	guard(w.Header())
	s.router.ServeHTTP(&x.recorder, r.WithContext(x))
	s.contexts.Put(route)
}

// Routes lists the whole surface as "METHOD /pattern", by pattern. HEAD, which works where GET does, is not listed.
func (s *Server) Routes() []string {
	type route struct{ method, pattern string }
	var all []route
	_ = chi.Walk(s.router, func(method, pattern string, _ http.Handler, _ ...func(http.Handler) http.Handler) error {
		all = append(all, route{method, pattern})
		return nil
	})
	slices.SortFunc(all, func(a, b route) int {
		return cmp.Or(cmp.Compare(a.pattern, b.pattern), cmp.Compare(a.method, b.method))
	})
	routes := make([]string, len(all))
	for i, r := range all {
		routes[i] = r.method + " " + r.pattern
	}
	return routes
}

// detached is r's context for what is to be done although the client has gone away.
func detached(r *http.Request) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(r.Context()), detachedTimeout)
}
