// Package client speaks to a PipeProc server over HTTP, with PipeProc's method names.
//
// Every refusal of the server is an *api.Error (api.CodeOf tells its code) within a *StatusError. Nothing is sent twice
// by the client itself: a 5xx or a broken connection on a write means "unknown", which a claim's token or an
// IdempotencyKey resolves. Streams that are opened with Reconnecting are the one exception.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"pipeproc/api"
)

// Client speaks to one server. It may be used by several goroutines.
type Client struct {
	base    string // without a trailing slash
	http    *http.Client
	streams *http.Client // without a time-out
	token   string
}

// An Option changes how a Client speaks.
type Option func(*settings)

type settings struct {
	http   *http.Client
	socket string
	token  string
}

// WithHTTPClient uses c for every request. Its Timeout does not hold for streams.
func WithHTTPClient(c *http.Client) Option { return func(s *settings) { s.http = c } }

// WithUnixSocket connects to the socket at path; the host of the base URL is then but a name.
func WithUnixSocket(path string) Option { return func(s *settings) { s.socket = path } }

// WithToken sends an API key, as a bearer token.
func WithToken(token string) Option { return func(s *settings) { s.token = token } }

// New makes a client of the server at baseURL: http://host:port, https://…, or unix:/path (unix:///path) for a socket. Nothing is
// sent yet. A base URL of another form is an error, and so is a socket with an *http.Client whose transport is not an
// *http.Transport.
func New(baseURL string, options ...Option) (*Client, error) {
	var s settings
	for _, option := range options {
		option(&s)
	}
	if path, ok := strings.CutPrefix(baseURL, "unix:"); ok {
		baseURL, s.socket = "http://localhost", strings.TrimPrefix(path, "//")
	}
	u, err := url.Parse(baseURL)
	if err != nil {
		return nil, err
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("%q is not the base URL of a server: http://, https:// or unix:/path", baseURL)
	}
	calls := http.Client{Transport: newTransport()}
	if s.http != nil {
		calls = *s.http
	}
	if s.socket != "" {
		if calls.Transport, err = dialing(calls.Transport, s.socket); err != nil {
			return nil, err
		}
	}
	streams := calls
	streams.Timeout = 0
	return &Client{base: strings.TrimRight(baseURL, "/"), http: &calls, streams: &streams, token: s.token}, nil
}

// newTransport is the default one, but keeps more than two connections to the one host that there is.
func newTransport() *http.Transport {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.MaxIdleConnsPerHost = t.MaxIdleConns
	return t
}

// dialing is base connecting to a socket, whatever the address.
func dialing(base http.RoundTripper, socket string) (http.RoundTripper, error) {
	if base == nil {
		base = newTransport()
	}
	t, ok := base.(*http.Transport)
	if !ok {
		return nil, errors.New("a socket needs a client whose transport is an *http.Transport")
	}
	t = t.Clone()
	t.Proxy = nil
	t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}
	return t, nil
}

// CloseIdleConnections closes the connections that no request uses now.
func (c *Client) CloseIdleConnections() { c.http.CloseIdleConnections() }

// Do sends one request as it is: path begins with a slash and may have a query, body and header may be nil. Any answer,
// also a refusal, is returned, its body to be closed by the caller; ErrorOf makes an error of it.
func (c *Client) Do(ctx context.Context, method, path string, body io.Reader, header http.Header) (*http.Response, error) {
	return c.send(ctx, c.http, method, path, body, header)
}

func (c *Client) send(ctx context.Context, via *http.Client, method, path string, body io.Reader, header http.Header) (
	*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, body)
	if err != nil {
		return nil, err
	}
	if header != nil {
		req.Header = header.Clone()
	}
	if c.token != "" && req.Header.Get("Authorization") == "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	if req.Header.Get(idempotencyKey) != "" {
		req.GetBody = nil // net/http takes the header for a leave to send the request again by itself
	}
	return via.Do(req)
}

// call sends one request, its body in (nil: none) as JSON, and reads the answer into out (nil: ignored; a *[]byte takes it
// as it is). A refusal is an error. A 204 leaves out as it is. The header is pairs of names and values. The answer comes
// without its body.
func (c *Client) call(ctx context.Context, method, path string, in, out any, header ...string) (*http.Response, error) {
	h := http.Header{}
	for pair := range slices.Chunk(header, 2) {
		h.Set(pair[0], pair[1])
	}
	var body io.Reader
	if in != nil {
		data, err := encode(in)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(data)
		h.Set("Content-Type", "application/json")
	}
	resp, err := c.Do(ctx, method, path, body, h)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if err := ErrorOf(resp); err != nil {
		return resp, err
	}
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return resp, fmt.Errorf("%s %s: %d: %w", method, path, resp.StatusCode, err)
	}
	if out == nil || resp.StatusCode == http.StatusNoContent {
		return resp, nil
	}
	if text, ok := out.(*[]byte); ok {
		*text = data
		return resp, nil
	}
	if err := json.Unmarshal(data, out); err != nil {
		return resp, fmt.Errorf("%s %s: %d: %w", method, path, resp.StatusCode, err)
	}
	return resp, nil
}

// encode is v as JSON in which nothing is escaped that need not be; a json.RawMessage alone stays as it is.
func encode(v any) ([]byte, error) {
	if raw, ok := v.(json.RawMessage); ok {
		return raw, nil
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// path joins segments, each escaped.
func path(segments ...string) string {
	var b strings.Builder
	b.WriteString("/v1")
	for _, s := range segments {
		b.WriteByte('/')
		b.WriteString(url.PathEscape(s))
	}
	return b.String()
}

// withQuery is path with a query, if there is one.
func withQuery(path string, q url.Values) string {
	if len(q) == 0 {
		return path
	}
	return path + "?" + q.Encode()
}

// set sets a query parameter, unless its value is absent.
func set(q url.Values, name, value string) {
	if value != "" {
		q.Set(name, value)
	}
}

// ListOptions select a page of a list.
type ListOptions struct {
	After string // the next of the page before; "" for the first page
	Limit int    // the most entries, 1 to 1,000; 0 for the default, 100
}

func (o ListOptions) query() url.Values {
	q := url.Values{}
	set(q, "after", o.After)
	setNumber(q, "limit", o.Limit)
	return q
}

// setNumber sets a query parameter, unless it is 0.
func setNumber(q url.Values, name string, n int) {
	if n != 0 {
		q.Set(name, fmt.Sprint(n))
	}
}

// Logs makes logs to commit, all to one topic. Each body is anything that encodes to a JSON object or array.
func Logs(topic string, bodies ...any) ([]api.NewLog, error) {
	logs := make([]api.NewLog, len(bodies))
	for i, body := range bodies {
		data, err := encode(body)
		if err != nil {
			return nil, err
		}
		logs[i] = api.NewLog{Topic: topic, Body: data}
	}
	return logs, nil
}
