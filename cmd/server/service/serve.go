package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	readHeaderTimeout = 10 * time.Second
	idleTimeout       = 2 * time.Minute
	maxHeaderBytes    = 64 << 10

	// A connection of HTTP/2 on which nothing comes, or nothing can be sent, for pingAfter is tried; one that does not answer
	// is closed, streams and all.
	pingAfter   = 30 * time.Second
	pingTimeout = 15 * time.Second

	// drainTime is how long requests may take after a stop was asked for; those that wait for something are told to end
	// after waitTime, when the short ones have had their answers.
	drainTime = 9 * time.Second
	waitTime  = 250 * time.Millisecond
)

// listener is an open endpoint.
type listener struct {
	net.Listener
	endpoint
	url string
}

// listen opens all endpoints, or none.
func (s *Service) listen(ctx context.Context) ([]listener, error) {
	var all []listener
	for _, e := range s.endpoints {
		ln, err := e.listen(ctx)
		if err != nil {
			for _, open := range all {
				open.Close()
			}
			return nil, fmt.Errorf("listen: %w", err)
		}
		all = append(all, listener{ln, e, e.url(ln)})
	}
	return all, nil
}

// limitConnections is listeners, whose TCP connections are counted; end is to be called when nobody accepts any more.
func (s *Service) limitConnections(listeners []listener, metrics prometheus.Registerer) (limited []listener, end func()) {
	most, less := connectionsAllowed(s.cfg.MaxConnections)
	if less {
		s.log.Warn("the process may open few files, so clients have fewer connections", "connections", most, "kept", ownFiles)
	}
	counted := newConnections(most, metrics)
	limited = slices.Clone(listeners)
	for i, l := range listeners {
		if l.tcp != nil {
			limited[i].Listener = counted.limited(l.Listener, !l.tls)
		}
	}
	return limited, counted.told.Wait
}

// serve serves HTTP on the listeners. end stops that: no more connections, streams are ended by endStreams, requests are
// answered, those that wait are told to end; what takes longer than drainTime is cut off.
func (s *Service) serve(stop context.CancelCauseFunc, h http.Handler, endStreams func(), listeners []listener) (end func()) {
	// Requests outlive the stop of the server: they are to be answered.
	requests, cancel := context.WithCancelCause(context.Background())
	server := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: readHeaderTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug), // what clients do wrong, at best
		TLSConfig:         s.tls,
		BaseContext:       func(net.Listener) context.Context { return requests },

		HTTP2: &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingTimeout, WriteByteTimeout: pingAfter},

		DisableGeneralOptionsHandler: true, // which would wait for a body without end
	}
	var serving sync.WaitGroup
	for _, l := range listeners {
		serving.Go(func() {
			var err error
			if l.tls {
				err = server.ServeTLS(l, "", "")
			} else {
				err = server.Serve(l)
			}
			if !errors.Is(err, http.ErrServerClosed) {
				stop(fmt.Errorf("serve %s: %w", l.url, err))
			}
		})
	}
	return func() {
		s.stopping.Store(true)
		ctx, done := context.WithTimeout(context.Background(), drainTime)
		defer done()
		endWaits := func() { cancel(errStopping) }
		defer endWaits()
		defer time.AfterFunc(waitTime, endWaits).Stop()
		var streams sync.WaitGroup
		streams.Go(endStreams)
		defer streams.Wait()
		if err := server.Shutdown(ctx); err != nil {
			s.log.Warn("requests were cut off", "error", err)
			_ = server.Close()
		}
		serving.Wait()
	}
}
