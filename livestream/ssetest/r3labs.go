package ssetest

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/r3labs/sse/v2"
)

// maxBlock is more than any event has.
const maxBlock = 64 << 20

// r3labs is a client of r3labs/sse that reads a stream block by block, each as the response to a request of its own: what
// it keeps between them, the last event id, it keeps between connections too.
type r3labs struct {
	client *sse.Client
	block  []byte
}

func newR3labs() *r3labs {
	x := &r3labs{client: sse.NewClient("http://stream.invalid", sse.ClientMaxBufferSize(maxBlock))}
	x.client.Connection = &http.Client{Transport: x}
	x.client.ReconnectStrategy = never{}
	return x
}

// RoundTrip answers with the block.
func (x *r3labs) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: http.StatusOK, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{},
		Body: io.NopCloser(bytes.NewReader(x.block)), ContentLength: -1, Request: r}, nil
}

// agrees answers an error unless the client takes block for e as well. Of a block without data it tells its listeners,
// against the specification; what it tells is to be the last event id and the retry time alone.
func (x *r3labs) agrees(block []byte, e Event) error {
	x.block = block
	var got []*sse.Event
	err := x.client.SubscribeWithContext(context.Background(), "", func(e *sse.Event) { got = append(got, e) })
	id, _ := x.client.LastEventID.Load().([]byte)
	if err != nil || len(got) > 1 || e.Dispatched && len(got) != 1 || string(id) != e.ID {
		return fmt.Errorf("r3labs' client takes the block %.200q for %d events, the last event id for %q: %w", block, len(got), id, err)
	}
	for _, g := range got {
		if typ := cmp.Or(string(g.Event), "message"); typ != e.Type || string(g.Data) != e.Data || string(g.ID) != e.ID ||
			string(g.Retry) != e.Retry {
			return fmt.Errorf("r3labs' client takes the event %.200q %.200q, id %q, retry %q for %.200q %.200q, id %q, retry %q",
				e.Type, e.Data, e.ID, e.Retry, typ, g.Data, g.ID, g.Retry)
		}
	}
	return nil
}

// never is no reconnecting.
type never struct{}

// NextBackOff answers that there is no next time.
func (never) NextBackOff() time.Duration { return -1 }

// Reset does nothing.
func (never) Reset() {}
