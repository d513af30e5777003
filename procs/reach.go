package procs

import (
	"context"
	"net"
	"time"
)

// Reach tells which addresses webhooks may be called at.
type Reach struct{}

// checkURL answers CodeNoValidProcessor for a URL that names an address that may not be called.
func (r *Reach) checkURL(string) error { return nil }

// dial opens a connection to a webhook.
func (r *Reach) dial(ctx context.Context, network, address string) (net.Conn, error) {
	return (&net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second}).DialContext(ctx, network, address)
}
