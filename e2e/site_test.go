//go:build browser

package e2e

import (
	"bytes"
	"context"
	_ "embed"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"sync"
	"testing"
	"time"
)

//go:embed testdata/page.html
var pageHTML []byte

// site is somebody's web server before the service: it has the page, and hands all else on, so that to a browser both
// are one origin. It can break the connections that streams come over.
type site struct {
	t   *testing.T
	URL string

	mu       sync.Mutex
	streams  map[*breakable]bool
	breaks   int   // so many streams are still to break
	within   int   // each after fewer bytes than that
	inEvent  int   // so many broke in the middle of an event
	statuses []int // of the answers to requests for streams
	broke    chan struct{}
}

// startSite runs a site before the service at serviceURL.
func startSite(t *testing.T, serviceURL string) *site {
	t.Helper()
	target, err := url.Parse(serviceURL)
	if err != nil {
		t.Fatal(err)
	}
	s := &site{t: t, streams: map[*breakable]bool{}, broke: make(chan struct{}, 100)}
	transport := &http.Transport{}
	quiet := log.New(io.Discard, "", 0)
	proxy := &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(target) },
		Transport: transport,
		ModifyResponse: func(resp *http.Response) error {
			if wantsStream(resp.Request) {
				s.mu.Lock()
				defer s.mu.Unlock()
				s.statuses = append(s.statuses, resp.StatusCode)
			}
			return nil
		},
		// Where the service does not answer, the browser gets no answer either, rather than a 502.
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
		ErrorLog:     quiet,
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /page", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Write(pageHTML)
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if wantsStream(r) {
			defer s.streaming(r.Context().Value(connKey{}).(*breakable))()
		}
		proxy.ServeHTTP(w, r)
	})
	server := httptest.NewUnstartedServer(mux)
	server.Listener = breakableListener{server.Listener, s}
	server.Config.ErrorLog = quiet
	server.Config.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		return context.WithValue(ctx, connKey{}, c)
	}
	server.Start()
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
		transport.CloseIdleConnections()
	})
	s.URL = server.URL
	return s
}

func wantsStream(r *http.Request) bool { return r.Header.Get("Accept") == "text/event-stream" }

// page is the URL of the page that opens this stream.
func (s *site) page(stream string) string { return s.URL + "/page?stream=" + url.QueryEscape(stream) }

// breakStreams lets the next n streams break, each at a random byte before the one numbered within, headers included.
func (s *site) breakStreams(n, within int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.breaks, s.within = n, within
}

// awaitBreaks waits for n of these.
func (s *site) awaitBreaks(n int) {
	s.t.Helper()
	for i := range n {
		select {
		case <-s.broke:
		case <-time.After(streamPatience):
			s.t.Fatalf("%d connections broke, want %d", i, n)
		}
	}
}

// breakNow breaks the connections of all open streams.
func (s *site) breakNow() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.streams {
		c.Close()
	}
}

// answered are the statuses of the answers to requests for streams until now.
func (s *site) answered() []int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.statuses)
}

// streaming tells that a stream goes over c, until done.
func (s *site) streaming(c *breakable) (done func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.streams[c] = true
	c.sent, c.breaksAt = 0, -1
	if s.breaks > 0 {
		c.breaksAt = rand.IntN(s.within)
	}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.streams, c)
		c.breaksAt = -1
	}
}

// connKey is the key of a request's connection in its context.
type connKey struct{}

type breakableListener struct {
	net.Listener
	site *site
}

func (l breakableListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &breakable{Conn: c, site: l.site, breaksAt: -1}, nil
}

// breakable is a connection that breaks after so many bytes.
type breakable struct {
	net.Conn
	site     *site
	sent     int
	breaksAt int    // negative: it does not
	last     []byte // of what was sent
}

// Write is called by one goroutine at a time, the one that handles the request.
func (c *breakable) Write(b []byte) (n int, err error) {
	breaks := c.breaksAt >= 0 && c.sent+len(b) > c.breaksAt
	if breaks {
		b = b[:c.breaksAt-c.sent]
	}
	n, err = c.Conn.Write(b)
	c.sent += n
	if c.last = append(c.last, b[:n]...); len(c.last) > 64 {
		c.last = slices.Clone(c.last[len(c.last)-64:])
	}
	if breaks && err == nil {
		if rand.IntN(2) == 0 {
			c.Conn.(*net.TCPConn).SetLinger(0) // reset: what is on its way is lost as well
		}
		c.Close()
		// An event's end, or the headers, would be a few bytes back.
		c.site.hasBroken(c.sent > 1024 && !bytes.Contains(c.last, []byte("\n\n")))
		err = net.ErrClosed
	}
	return n, err
}

func (s *site) hasBroken(inEvent bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.breaks--
	if inEvent {
		s.inEvent++
	}
	s.broke <- struct{}{}
}
