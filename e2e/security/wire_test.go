//go:build security && linux

package security

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

// wire is a connection on which bytes are sent as they are.
type wire struct {
	net.Conn
	t *testing.T
	r *bufio.Reader
}

// wire opens a connection to the server's address, for at most two minutes; it is closed at the test's end.
func (s *server) wire() *wire {
	s.t.Helper()
	conn, err := net.Dial("tcp", s.address)
	if err != nil {
		s.t.Fatal(err)
	}
	return newWire(s.t, conn)
}

func newWire(t *testing.T, conn net.Conn) *wire {
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(2 * time.Minute))
	return &wire{conn, t, bufio.NewReader(conn)}
}

// send writes text. That the server has closed the connection is seen when its answer is read.
func (w *wire) send(text string) { _, _ = io.WriteString(w, text) }

// answer reads the next answer, to a request of this method.
func (w *wire) answer(method string) (*answer, error) {
	res, err := http.ReadResponse(w.r, &http.Request{Method: method})
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	return &answer{w.t, method, res.StatusCode, res.Header, string(text)}, err
}

// answers reads all answers until the connection's end, each to a request of this method.
func (w *wire) answers(method string) (all []*answer) {
	w.t.Helper()
	for {
		a, err := w.answer(method)
		switch {
		case err == nil:
			all = append(all, a)
		case closed(err):
			return all
		default:
			w.t.Errorf("after %d answers: %v", len(all), err)
			return all
		}
	}
}

// closed tells that err means that the server has closed the connection.
func closed(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) ||
		errors.Is(err, syscall.EPIPE)
}

// end waits for the connection's end, and answers what came until then. An error: it did not end within d.
func (w *wire) end(d time.Duration) (string, error) {
	_ = w.SetReadDeadline(time.Now().Add(d))
	text, err := io.ReadAll(w.r)
	if err != nil && (errors.Is(err, os.ErrDeadlineExceeded) || !closed(err)) {
		return string(text), err
	}
	return string(text), nil
}

// reset closes the connection without a trace.
func (w *wire) reset() {
	if tcp, ok := w.Conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	w.Close()
}

// status is that of the answer which text begins with, 0 where there is none.
func status(text string) int {
	res, err := http.ReadResponse(bufio.NewReader(strings.NewReader(text)), nil)
	if err != nil {
		return 0
	}
	res.Body.Close()
	return res.StatusCode
}
