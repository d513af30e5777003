package api

import (
	"context"
	"net/netip"
)

// Caller tells who sends a request, and what the request is called. It travels with the request's context through every
// room; what checks keys sets Key before the request goes on.
type Caller struct {
	// RequestID names the request in the answer, in problems and in the log.
	RequestID string
	// Address is the client's, as far as it can be trusted: the connection's, or what a trusted proxy tells. Zero: a Unix
	// socket.
	Address netip.Addr
	// Key is the name of the API key that the request was let in with, "" without one. It is no secret.
	Key string
}

// Network is what limits count as one client: an IPv4 address, or the /64 that an IPv6 address is in, which is what one
// client has.
func (c *Caller) Network() netip.Addr {
	a := c.Address.Unmap().WithZone("")
	if !a.Is6() {
		return a
	}
	network, err := a.Prefix(64)
	if err != nil {
		return a
	}
	return network.Addr()
}

// CallerKey is the key of a context's *Caller, for contexts that keep it beside other things.
type CallerKey struct{}

// WithCaller is ctx with who calls. CallerOf answers what is changed later by its pointer.
func WithCaller(ctx context.Context, c Caller) context.Context {
	return context.WithValue(ctx, CallerKey{}, &c)
}

// CallerOf is who calls, as of ctx; never nil: an empty Caller where ctx does not tell.
func CallerOf(ctx context.Context) *Caller {
	if c, ok := ctx.Value(CallerKey{}).(*Caller); ok {
		return c
	}
	return new(Caller)
}
