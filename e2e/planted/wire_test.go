//go:build faults && linux

package planted

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// wire is the network between a server and PostgreSQL.
type wire struct {
	listener net.Listener
	postgres *pgconn.Config
	all      sync.WaitGroup

	mu    sync.Mutex
	links map[*link]struct{}
	lost  chan struct{} // not nil: the answer to the next COMMIT is to be lost, and this closed then
}

// link is one connection, from both sides.
type link struct {
	server, postgres net.Conn
	deaf             bool // what PostgreSQL says does not arrive; guarded by the wire's mu
}

func newWire(t *testing.T, postgres *pgconn.Config) *wire {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{listener: l, postgres: postgres, links: map[*link]struct{}{}}
	w.all.Go(w.accept)
	t.Cleanup(w.close)
	return w
}

func (w *wire) accept() {
	for {
		server, err := w.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		postgres, err := net.Dial(pgconn.NetworkAddress(w.postgres.Host, w.postgres.Port))
		if err != nil {
			server.Close()
			continue
		}
		l := &link{server: server, postgres: postgres}
		w.mu.Lock()
		w.links[l] = struct{}{}
		w.mu.Unlock()
		w.all.Go(func() {
			_, _ = io.Copy(speaking{w, l}, server)
			w.end(l)
		})
		w.all.Go(func() {
			_, _ = io.Copy(hearing{w, l}, postgres)
			w.end(l)
		})
	}
}

// commit is in what a server sends to have PostgreSQL commit: the name that pgx gives to that statement. prepare is in what
// it sends before it does so for the first time on a connection.
var (
	commit = func() []byte {
		digest := sha256.Sum256([]byte("COMMIT"))
		return fmt.Appendf(nil, "stmtcache_%x", digest[:24])
	}()
	prepare = fmt.Appendf(nil, "%s\x00COMMIT\x00", commit)
)

// speaking is PostgreSQL's end of a link.
type speaking struct {
	wire *wire
	link *link
}

func (s speaking) Write(b []byte) (int, error) {
	s.wire.mu.Lock()
	if s.wire.lost != nil && bytes.Contains(b, commit) && !bytes.Contains(b, prepare) {
		close(s.wire.lost)
		s.wire.lost = nil
		s.link.deaf = true
		time.AfterFunc(50*time.Millisecond, func() { s.wire.end(s.link) })
	}
	s.wire.mu.Unlock()
	return s.link.postgres.Write(b)
}

// hearing is the server's end of a link, while it is not deaf.
type hearing struct {
	wire *wire
	link *link
}

func (h hearing) Write(b []byte) (int, error) {
	h.wire.mu.Lock()
	deaf := h.link.deaf
	h.wire.mu.Unlock()
	if deaf {
		return len(b), nil
	}
	return h.link.server.Write(b)
}

func (w *wire) end(l *link) {
	l.server.Close()
	l.postgres.Close()
	w.mu.Lock()
	delete(w.links, l)
	w.mu.Unlock()
}

func (w *wire) close() {
	w.listener.Close()
	w.mu.Lock()
	for l := range w.links {
		l.server.Close()
		l.postgres.Close()
	}
	w.mu.Unlock()
	w.all.Wait()
}

// loseAnswer has PostgreSQL carry the server's next COMMIT out, and its connection break without an answer. The channel is
// closed when it has come to that.
func (w *wire) loseAnswer() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.lost == nil {
		w.lost = make(chan struct{})
	}
	return w.lost
}
