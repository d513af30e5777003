package livestream

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"pipeproc/api"
	"pipeproc/livestream/ssetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what must come.
const patience = 20 * time.Second

// A server is the streams on real sockets.
type server struct {
	*Streams
	m   *memory
	ts  *httptest.Server
	URL string
}

var statuses = map[api.Code]int{
	api.CodeForbidden: 403, api.CodeInvalidTopic: 404, api.CodeInvalidProc: 404, api.CodeProcIsDisabled: 409,
	api.CodeCollected: 410, api.CodeInvalidToneIDSearch: 416, api.CodeInternal: 500, api.CodeUnavailable: 503,
	api.CodeRateLimited: 429, api.CodeOverloaded: 503,
}

func newServer(t *testing.T, m *memory, change ...func(*Config)) *server {
	t.Helper()
	return newTimedServer(t, m, 0, change...)
}

// newTimedServer has a server with read and write time-outs, which streams are to lift.
func newTimedServer(t *testing.T, m *memory, timeout time.Duration, change ...func(*Config)) *server {
	t.Helper()
	return startServer(t, m, func(ts *httptest.Server) {
		ts.Config.ReadTimeout, ts.Config.WriteTimeout = timeout, timeout
		ts.Start()
	}, change...)
}

// routes are those of the streams, and answer errors by their codes alone.
func (s *Streams) routes() http.Handler {
	mux := http.NewServeMux()
	for route, h := range map[string]func(http.ResponseWriter, *http.Request) error{
		"GET /v1/live-procs/{name}/changes": s.Changes,
		"GET /v1/topics/{topic}/live":       s.Live,
		"GET /v1/tail":                      s.Tail,
		"GET /v1/topics/{topic}/logs":       s.Tail,
	} {
		mux.HandleFunc(route, func(w http.ResponseWriter, r *http.Request) {
			at := netip.MustParseAddrPort(r.RemoteAddr).Addr()
			r = r.WithContext(api.WithCaller(r.Context(), api.Caller{Address: at}))
			if err := h(w, r); err != nil {
				status := statuses[api.CodeOf(err)]
				if status == 0 {
					status = 400
				}
				http.Error(w, string(api.CodeOf(err)), status)
			}
		})
	}
	return mux
}

func startServer(t *testing.T, m *memory, start func(*httptest.Server), change ...func(*Config)) *server {
	t.Helper()
	c := Config{LiveProcs: m, Procs: m, Tailer: m, Watcher: m, Logger: slog.New(slog.DiscardHandler)}
	for _, f := range change {
		f(&c)
	}
	s := New(c)
	ts := httptest.NewUnstartedServer(s.routes())
	start(ts)
	t.Cleanup(func() {
		s.Close()
		if got := s.Stats(); got != (Stats{}) {
			t.Errorf("open after Close: %+v", got)
		}
		s.connections.Range(func(id, _ any) bool { t.Errorf("connection %v is left", id); return true })
		ts.Close()
		m.mu.Lock()
		defer m.mu.Unlock()
		if n := len(m.watches); n > 0 {
			t.Errorf("%d watches are left", n)
		}
	})
	return &server{Streams: s, m: m, ts: ts, URL: ts.URL}
}

// A stream is one client.
type stream struct {
	*ssetest.Reader
	t      *testing.T
	resp   *http.Response
	cancel context.CancelFunc
}

// client has connections of its own, all gone when the test is over.
func client(t *testing.T) *http.Client {
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

func (s *server) do(t *testing.T, method, path string, header ...string) (*http.Response, context.CancelFunc) {
	t.Helper()
	return s.doBy(t, client(t), method, path, header...)
}

func (s *server) doBy(t *testing.T, c *http.Client, method, path string, header ...string) (*http.Response, context.CancelFunc) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	r, err := http.NewRequestWithContext(ctx, method, s.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cancel(); resp.Body.Close() })
	return resp, cancel
}

// stall opens a stream and reads nothing of it.
func (s *server) stall(t *testing.T, path string) {
	t.Helper()
	c := client(t)
	c.Transport.(*http.Transport).DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
		if err == nil {
			err = conn.(*net.TCPConn).SetReadBuffer(16 << 10) // to be felt early
		}
		return conn, err
	}
	s.doBy(t, c, "GET", path)
}

// open opens a stream; lastID "" is none.
func (s *server) open(t *testing.T, path, lastID string) *stream {
	t.Helper()
	return s.openBy(t, client(t), path, lastID)
}

func (s *server) openBy(t *testing.T, c *http.Client, path, lastID string) *stream {
	t.Helper()
	var header []string
	if lastID != "" {
		header = []string{"Last-Event-ID", lastID}
	}
	resp, cancel := s.doBy(t, c, "GET", path, header...)
	if resp.StatusCode != 200 {
		text, _ := io.ReadAll(resp.Body)
		t.Fatalf("GET %s (%q): %s %s", path, lastID, resp.Status, text)
	}
	for name, want := range map[string]string{
		"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no", "Connection": "",
	} {
		if got := strings.Join(resp.Header[name], "|"); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	return &stream{ssetest.NewReader(resp.Body), t, resp, cancel}
}

// refused checks the answer to a request that gets no stream.
func (s *server) refused(t *testing.T, path, lastID string, status int, code api.Code) {
	t.Helper()
	var header []string
	if lastID != "" {
		header = []string{"Last-Event-ID", lastID}
	}
	resp, cancel := s.do(t, "GET", path, header...)
	defer cancel()
	text, err := io.ReadAll(resp.Body)
	if resp.StatusCode != status || err != nil || strings.TrimSpace(string(text)) != string(code) {
		t.Errorf("GET %s (%q): %s %s %v, want %d %s", path, lastID, resp.Status, text, err, status, code)
	}
}

// next is the next event, of that type.
func (s *stream) next(event string) ssetest.Event {
	s.t.Helper()
	e, err := s.Event()
	if err != nil || e.Type != event {
		s.t.Fatalf("next event: %+v %v, want %q", e, err, event)
	}
	return e
}

// ends checks that the response ends cleanly, with nothing more to tell.
func (s *stream) ends() {
	s.t.Helper()
	if e, err := s.Event(); !errors.Is(err, io.EOF) {
		s.t.Fatalf("%+v %v, want the end of the response", e, err)
	}
}

func (s *stream) close() { s.cancel(); s.resp.Body.Close() }

// eventually waits for what the server comes to by itself.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(patience); ; {
		if done() {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("never: %s", what)
		}
	}
}

func escape(s string) string { return url.QueryEscape(s) }

func newPlainServer(t *testing.T, h http.Handler) (url string) {
	ts := httptest.NewServer(h)
	t.Cleanup(ts.Close)
	return ts.URL
}
