package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"mime"
	"net/http"
	"sync/atomic"
	"time"
)

// ErrNoStream is a 204 where a stream was asked for: there is nothing to follow, and a client is not to ask again.
var ErrNoStream = errors.New("204: there is no stream to follow")

// ErrClosed is what Next answers after Close.
var ErrClosed = errors.New("the stream was closed")

// Delays of reconnects: the first is used until the server tells another one, and doubles up to the longest while
// attempts fail.
const (
	defaultRetry = time.Second
	longestRetry = 30 * time.Second
)

// A StreamOption changes how a stream is opened.
type StreamOption func(*Events)

// LastEventID resumes after the event with that id.
func LastEventID(id string) StreamOption {
	return func(e *Events) { e.lastID = id }
}

// Reconnecting makes a stream that outlives its connection, as an EventSource does: when the connection ends, or cannot
// be made, or the answer is a 429, 500, 502, 503 or 504, it waits as the server told (retry:, Retry-After), asks again
// with Last-Event-ID, and goes on. A 204 ends it with io.EOF, every other refusal with its error. Only the first attempt
// is made at once, and its error returned.
func Reconnecting() StreamOption {
	return func(e *Events) { e.reconnecting = true }
}

// Events is an open stream of Server-Sent Events. Next is for one goroutine; Close may be called from
// any, and is to be called when the stream is no longer wanted.
type Events struct {
	client       *Client
	path         string
	lastID       string
	reconnecting bool

	ctx    context.Context
	cancel context.CancelFunc
	closed atomic.Bool

	body     io.ReadCloser // nil between connections
	parser   *Parser
	delay    time.Duration // what the server told last
	failures int           // attempts since the last event
	end      error         // what every further Next answers
}

// stream opens a stream, which lives until its end, Close, or the end of ctx.
func (c *Client) stream(ctx context.Context, path string, options []StreamOption) (*Events, error) {
	e := &Events{client: c, path: path, delay: defaultRetry}
	for _, option := range options {
		option(e)
	}
	e.ctx, e.cancel = context.WithCancel(ctx)
	if err := e.connect(); err != nil {
		e.cancel()
		return nil, err
	}
	return e, nil
}

// connect opens a connection; ErrNoStream is a 204.
func (e *Events) connect() error {
	h := http.Header{"Accept": {"text/event-stream"}}
	if e.lastID != "" {
		h.Set("Last-Event-ID", e.lastID)
	}
	resp, err := e.client.send(e.ctx, e.client.streams, http.MethodGet, e.path, nil, h)
	if err != nil {
		return err
	}
	if err := refused(resp); err != nil {
		resp.Body.Close()
		return err
	}
	e.body, e.parser = resp.Body, NewParser(resp.Body)
	e.parser.id, e.parser.lastID = e.lastID, e.lastID
	return nil
}

// refused tells why an answer is not a stream; nil when it is one.
func refused(resp *http.Response) error {
	if err := ErrorOf(resp); err != nil {
		return err
	}
	if resp.StatusCode == http.StatusNoContent {
		return ErrNoStream
	}
	contentType := resp.Header.Get("Content-Type")
	if media, _, _ := mime.ParseMediaType(contentType); media != "text/event-stream" {
		return fmt.Errorf("%d: not a stream but %q", resp.StatusCode, contentType)
	}
	return nil
}

// Next answers the next event. io.EOF is the end: of the connection, or, with Reconnecting, the 204 with which the server
// ends the stream. Every error is final.
func (e *Events) Next() (Event, error) {
	for e.end == nil {
		if e.closed.Load() {
			e.finish(ErrClosed)
			break
		}
		if e.body == nil {
			if err := e.reconnect(); err != nil {
				e.finish(err)
			}
			continue
		}
		event, err := e.parser.Next()
		e.lastID = e.parser.LastEventID()
		if delay, ok := e.parser.Retry(); ok {
			e.delay = delay
		}
		if err == nil {
			e.failures = 0
			return event, nil
		}
		e.body.Close()
		e.body = nil
		if !e.reconnecting || errors.Is(err, ErrEventTooLarge) {
			e.finish(err)
		}
	}
	return Event{}, e.end
}

// finish makes err the stream's end, unless the end was asked for: then it tells that.
func (e *Events) finish(err error) {
	switch {
	case e.closed.Load():
		err = ErrClosed
	case e.ctx.Err() != nil:
		err = context.Cause(e.ctx)
	}
	e.end = err
	e.cancel()
	if e.body != nil {
		e.body.Close()
		e.body = nil
	}
}

// reconnect waits and asks again until there is a connection, or a final answer: io.EOF for a 204.
func (e *Events) reconnect() error {
	var asked time.Duration
	for {
		timer := time.NewTimer(max(asked, e.pause()))
		select {
		case <-e.ctx.Done():
			timer.Stop()
			return e.ctx.Err()
		case <-timer.C:
		}
		e.failures++
		err := e.connect()
		switch {
		case err == nil:
			return nil
		case errors.Is(err, ErrNoStream):
			return io.EOF
		case !passing(err):
			return err
		}
		asked = retryAfterOf(err)
	}
}

// pause is what the server told to wait; more from the second failure in a row on, jittered: clients that lost the same
// server are not to come back in a herd.
func (e *Events) pause() time.Duration {
	if e.failures == 0 {
		return e.delay
	}
	grown := min(max(e.delay, defaultRetry)<<min(e.failures, 10), longestRetry)
	return max(e.delay, grown/2+rand.N(grown/2)) //nolint:gosec // a delay is to be spread, not secret
}

// passing reports whether an attempt failed for a reason that may pass.
func passing(err error) bool {
	var status *StatusError
	if !errors.As(err, &status) {
		return true // no answer at all
	}
	switch status.Status {
	case http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusBadGateway,
		http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// LastEventID is the id to resume after: of the last event, or as it was given at the start.
func (e *Events) LastEventID() string { return e.lastID }

// Close ends the stream, and a Next that waits. It may be called again.
func (e *Events) Close() error {
	e.closed.Store(true)
	e.cancel()
	return nil
}
