package service

import (
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// connections counts the open TCP connections of clients. Beyond the most that there may be, each further one is told so and
// closed, before anything is done for it. Unix sockets are not counted: whoever may use them always gets in.
type connections struct {
	most    int64 // 0: no limit
	open    atomic.Int64
	refused prometheus.Counter
	telling chan struct{} // who is told at present
	told    sync.WaitGroup
}

// Whoever is refused has so long to hear it. So many are told at a time; the others' connections are closed at once.
const (
	tellingTime = time.Second
	tellingMost = 64
)

func newConnections(most int, r prometheus.Registerer) *connections {
	c := &connections{most: int64(most), telling: make(chan struct{}, tellingMost),
		refused: prometheus.NewCounter(prometheus.CounterOpts{Name: "pipeproc_connections_refused_total",
			Help: "TCP connections refused, since the most were open."})}
	r.MustRegister(c.refused, prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "pipeproc_connections_open",
		Help: "TCP connections of clients that are open now."}, func() float64 { return float64(c.open.Load()) }))
	return c
}

// limited is ln, whose Accept answers no more connections than there may be. plain: what is written to them is read as it is,
// so that who is refused can be told.
func (c *connections) limited(ln net.Listener, plain bool) net.Listener {
	return &limitedListener{ln, c, plain}
}

type limitedListener struct {
	net.Listener
	connections *connections
	plain       bool
}

func (l *limitedListener) Accept() (net.Conn, error) {
	c := l.connections
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if n := c.open.Add(1); c.most == 0 || n <= c.most {
			return &countedConn{Conn: conn, open: &c.open}, nil
		}
		c.open.Add(-1)
		c.refused.Inc()
		c.refuse(conn, l.plain)
	}
}

// refuse closes conn, and tells why where it can be told at once.
func (c *connections) refuse(conn net.Conn, plain bool) {
	if plain {
		select {
		case c.telling <- struct{}{}:
			c.told.Go(func() {
				defer func() { <-c.telling }()
				defer conn.Close()
				_ = conn.SetDeadline(time.Now().Add(tellingTime))
				if _, err := io.WriteString(conn, connectionRefused); err != nil {
					return
				}
				if w, ok := conn.(interface{ CloseWrite() error }); ok && w.CloseWrite() == nil {
					_, _ = io.CopyN(io.Discard, conn, maxHeaderBytes) // what is unread would reset the connection, answer and all
				}
			})
			return
		default:
		}
	}
	conn.Close()
}

const connectionRefusedBody = `{"type":"urn:pipeproc:problem:overloaded","title":"The server is overloaded","status":503,` +
	`"detail":"the server has as many connections as it takes","code":"overloaded"}` + "\n"

var connectionRefused = "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\nCache-Control: no-store\r\n" +
	"Retry-After: 1\r\nConnection: close\r\n\r\n" + connectionRefusedBody

// countedConn counts itself out when it is closed.
type countedConn struct {
	net.Conn
	open   *atomic.Int64
	closed atomic.Bool
}

func (c *countedConn) Close() error {
	if c.closed.CompareAndSwap(false, true) {
		c.open.Add(-1)
	}
	return c.Conn.Close()
}

// CloseWrite is for net/http, which ends a connection in two steps where it can.
func (c *countedConn) CloseWrite() error {
	if w, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return http.ErrNotSupported
}

// ownFiles is what the server opens besides its clients' connections: those to the database and to webhooks, at the least.
const ownFiles = 256

// connectionsAllowed is most, or less where the process may not open as many files: clients must not take those that the
// server needs itself.
func connectionsAllowed(most int) (allowed int, limited bool) {
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil || files.Cur >= 1<<31 {
		return most, false
	}
	if here := max(1, int(files.Cur)-ownFiles); most == 0 || most > here {
		return here, true
	}
	return most, false
}
