package client

import (
	"context"
	"net/http"

	"pipeproc/api"
)

// GC runs the garbage collector now, and answers what it took. Its FinishedAt is told by LastGC alone.
func (c *Client) GC(ctx context.Context) (api.GCRun, error) { return c.gc(ctx, http.MethodPost) }

// LastGC tells of the last run of any server; FinishedAt is nil when there was none.
func (c *Client) LastGC(ctx context.Context) (api.GCRun, error) { return c.gc(ctx, http.MethodGet) }

func (c *Client) gc(ctx context.Context, method string) (run api.GCRun, err error) {
	_, err = c.call(ctx, method, path("gc"), nil, &run)
	return run, err
}

// Shutdown stops the server, where that is allowed; elsewhere it is api.CodeNotFound. It does not wait for the end.
func (c *Client) Shutdown(ctx context.Context) error {
	_, err := c.call(ctx, http.MethodPost, path("shutdown"), nil, nil)
	return err
}

// Healthz answers nil when the server lives.
func (c *Client) Healthz(ctx context.Context) error {
	_, err := c.call(ctx, http.MethodGet, "/healthz", nil, nil)
	return err
}

// Readyz answers nil when the server can serve, else api.CodeUnavailable.
func (c *Client) Readyz(ctx context.Context) error {
	_, err := c.call(ctx, http.MethodGet, "/readyz", nil, nil)
	return err
}

// Metrics are the server's metrics, in the text format of Prometheus.
func (c *Client) Metrics(ctx context.Context) (text []byte, err error) {
	_, err = c.call(ctx, http.MethodGet, "/metrics", nil, &text)
	return text, err
}

// OpenAPI is the server's OpenAPI document.
func (c *Client) OpenAPI(ctx context.Context) (text []byte, err error) {
	_, err = c.call(ctx, http.MethodGet, "/openapi.yaml", nil, &text)
	return text, err
}
