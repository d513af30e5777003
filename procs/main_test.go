package procs

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	// Nobody listens there: a webhook that asked the environment's proxy would fail in every test.
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"} {
		for _, name := range []string{name, strings.ToLower(name)} {
			if err := os.Setenv(name, "http://127.0.0.1:1"); err != nil {
				panic(err)
			}
		}
	}
	for _, name := range []string{"NO_PROXY", "no_proxy"} {
		if err := os.Unsetenv(name); err != nil {
			panic(err)
		}
	}
	// The clock of the expressions that inline functions match lives on for a while.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/dlclark/regexp2/v2.runClock"))
}

// network is HTTP servers without a network: connections are pipes, so that time stands still in a synctest bubble while
// somebody works.
type network struct {
	mu    sync.Mutex
	hosts map[string]chan net.Conn

	logger *slog.Logger // of the workers; nil: none
}

// serve answers http://host/ until the test ends.
func (n *network) serve(t *testing.T, host string, h http.Handler) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.hosts == nil {
		n.hosts = map[string]chan net.Conn{}
	}
	conns := make(chan net.Conn)
	n.hosts[host+":80"] = conns
	l := &pipeListener{conns: conns, closed: make(chan struct{})}
	s := &http.Server{Handler: h, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })
}

func (n *network) dial(ctx context.Context, _, address string) (net.Conn, error) {
	n.mu.Lock()
	conns, ok := n.hosts[address]
	n.mu.Unlock()
	if !ok {
		return nil, &net.DNSError{Err: "no such host", Name: address, IsNotFound: true}
	}
	ours, theirs := net.Pipe()
	select {
	case conns <- theirs:
		return ours, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

type pipeListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *pipeListener) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "unix"} }

// bubble runs do with a store, a network and fake time.
func bubble(t *testing.T, do func(t *testing.T, m *memory, n *network)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { do(t, newMemory(), &network{}) })
}

// work runs workers until stop is called, or the test ends; stop waits for the end of Run.
func work(t *testing.T, m *memory, n *network, c Config) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := run1(ctx, t, m, n, c)
	stop = sync.OnceFunc(func() {
		cancel()
		<-ended
	})
	t.Cleanup(stop)
	return stop
}

// run1 starts Run and answers a channel that is closed at its end.
func run1(ctx context.Context, t *testing.T, m *memory, n *network, c Config) <-chan struct{} {
	t.Helper()
	c.Jobs, c.Watcher, c.Dial = m, m, n.dial
	c.Logger = n.logger
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	w := New(c)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := w.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	}()
	return ended
}

// one is a worker with one slot.
var one = Config{Workers: 1, Concurrency: 1}

// replies answers every call with what was given.
func replies(status int, contentType, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if contentType != "" {
			w.Header().Set("Content-Type", contentType)
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}
