package livestream

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"net/url"

	"github.com/r3labs/sse/v2"
)

// newSSE sets r3labs' server up so that it keeps, replays and numbers nothing: what a stream sends is the store's to
// know.
func (s *Streams) newSSE() *sse.Server {
	server := sse.New()
	server.AutoReplay = false
	server.AutoStream = false
	server.EventTTL = 0
	server.SplitData = true
	server.BufferSize = 1 // a connection has one event on its way at most
	h := http.Header{}
	setHeaders(h)
	for name := range h {
		server.Headers[name] = h.Get(name)
	}
	server.OnSubscribe = func(id string, _ *sse.Subscriber) {
		if c, ok := s.connections.Load(id); ok {
			close(c.(*connection).subscribed)
		}
	}
	// A stream that is removed earlier, with its subscriber on it, leaves the goroutine that is to tell of the
	// subscriber's leaving behind for ever.
	server.OnUnsubscribe = func(id string, _ *sse.Subscriber) {
		server.RemoveStream(id)
		if c, ok := s.connections.LoadAndDelete(id); ok {
			close(c.(*connection).removed)
		}
	}
	return server
}

// A connection is one client on an r3labs stream of its own, and the ResponseWriter that r3labs writes to: it gives each
// write a deadline, which r3labs does not, and tells when an event was sent.
type connection struct {
	*writer
	server *sse.Server
	id     string // of the r3labs stream: random, since it is nobody else's

	gone       context.Context // the client is gone, or does not read
	cancel     context.CancelFunc
	opening    []byte        // goes out with the headers
	subscribed chan struct{} // closed when r3labs delivers what is published
	removed    chan struct{} // closed when r3labs forgot the stream
	flushed    chan struct{} // one for the headers, one for each event
}

// serve lets r3labs serve the client while run, in a goroutine, publishes. It returns when both have ended and r3labs
// has forgotten the stream. opening begins the body.
func (s *Streams) serve(w *writer, r *http.Request, opening []byte, run func(*connection)) {
	c := &connection{writer: w, server: s.sse, id: rand.Text(), opening: opening,
		subscribed: make(chan struct{}), removed: make(chan struct{}), flushed: make(chan struct{}, 1)}
	c.gone, c.cancel = context.WithCancel(r.Context())
	defer c.cancel()
	s.connections.Store(c.id, c)
	s.sse.CreateStream(c.id)

	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if c.opened() {
			run(c)
		}
		c.server.Publish(c.id, &sse.Event{}) // the empty event, after which r3labs' handler returns
	}()

	// r3labs takes Last-Event-ID for a number of its own, and finds the stream by the query.
	request := r.Clone(c.gone)
	request.Header.Del("Last-Event-ID")
	request.URL = &url.URL{Path: r.URL.Path, RawQuery: url.Values{"stream": {c.id}}.Encode()}
	s.sse.ServeHTTP(c, request)

	c.cancel() // which makes r3labs unsubscribe the client
	<-ended
	<-c.removed
}

// opened waits until the headers are sent and an event published would reach the client; false when it is gone.
func (c *connection) opened() bool {
	select {
	case <-c.subscribed:
	case <-c.gone.Done():
		return false
	}
	select {
	case <-c.flushed:
		return true
	case <-c.gone.Done():
		return false
	}
}

// publish sends e and waits until it is flushed; false when the client is gone before.
func (c *connection) publish(e *sse.Event) bool {
	if len(e.Data) == 0 && len(e.Comment) == 0 { // r3labs' handler would end; behind an empty comment the lines go out
		e = &sse.Event{Comment: fmt.Appendf(nil, "\nid: %s\nevent: %s\ndata: ", e.ID, e.Event)}
	}
	c.server.Publish(c.id, e)
	select {
	case <-c.flushed:
		return true
	case <-c.gone.Done():
		return false
	}
}

// Flush is called by r3labs after the headers and after each event; it takes no notice of errors.
func (c *connection) Flush() {
	if c.opening != nil {
		_, _ = c.Write(c.opening) // kept in c.err
		c.opening = nil
	}
	c.writer.Flush()
	if c.err != nil {
		c.cancel()
		return
	}
	select {
	case c.flushed <- struct{}{}:
	default: // nobody waits any more
	}
}
