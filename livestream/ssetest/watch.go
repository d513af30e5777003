package ssetest

import (
	"bytes"
	"errors"
	"io"
	"mime"
	"net/http"
)

// Watch answers body, and parses what is read of it, block by block, beside its reader. failf is told once what breaks the
// rules. A block that body ends within is not looked at.
func Watch(body io.ReadCloser, failf func(format string, args ...any)) io.ReadCloser {
	w := &watched{ReadCloser: body, failf: failf}
	w.events = NewReader(&w.blocks)
	return w
}

type watched struct {
	io.ReadCloser
	failf  func(format string, args ...any)
	begun  []byte       // of a block
	blocks bytes.Buffer // that are complete, yet to be parsed
	events *Reader
	failed bool
}

// Read reads from the body.
func (w *watched) Read(b []byte) (int, error) {
	n, err := w.ReadCloser.Read(b)
	known := max(len(w.begun)-1, 0)
	w.begun = append(w.begun, b[:n]...)
	if i := bytes.LastIndex(w.begun[known:], []byte("\n\n")); i >= 0 && !w.failed {
		end := known + i + 2
		w.blocks.Write(w.begun[:end])
		w.begun = append(w.begun[:0], w.begun[end:]...)
		w.parse()
	}
	return n, err
}

func (w *watched) parse() {
	for {
		_, err := w.events.Next()
		switch {
		case errors.Is(err, io.EOF):
			return
		case err != nil:
			w.failed = true
			w.failf("a stream breaks the rules of server-sent events: %v", err)
			return
		}
	}
}

// Transport answers base, with every stream of events that comes through it watched.
func Transport(base http.RoundTripper, failf func(format string, args ...any)) http.RoundTripper {
	return &transport{base, failf}
}

type transport struct {
	http.RoundTripper
	failf func(format string, args ...any)
}

// RoundTrip hands the request on.
func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := t.RoundTripper.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	if kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")); kind == "text/event-stream" {
		resp.Body = Watch(resp.Body, t.failf)
	}
	return resp, nil
}

// CloseIdleConnections does so on the base, if it can.
func (t *transport) CloseIdleConnections() {
	if base, ok := t.RoundTripper.(interface{ CloseIdleConnections() }); ok {
		base.CloseIdleConnections()
	}
}
