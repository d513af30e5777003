package livestream

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"
)

// pieceSize is the most that one write deadline is given for: a slow client that reads (32 KiB a second or more, as
// long as the kernel's buffer for sending is small) gets through an event of any size, one that does not read is found out.
const pieceSize = 64 << 10

// closeGrace is how long a client may take to read what is being written to it when Close is called.
const closeGrace = time.Second

// A writer puts bytes on one response, each write under a deadline. After the first failure it writes nothing more.
type writer struct {
	w       http.ResponseWriter
	rc      *http.ResponseController
	timeout time.Duration
	http2   bool  // there a deadline strikes between writes, too
	err     error // of the first failed write; its goroutine's alone

	stop func() bool // no longer be cut short by Close

	mu       sync.Mutex // of what follows: Close comes from outside
	armed    time.Time  // when the deadline was last set; zero: it is not
	cut      bool       // Close set the last deadline
	finished bool
}

// newWriter makes a writer that is cut short once closing is done. It takes the server's own time-outs off the
// connection, and answers an error when the response cannot have deadlines: without them a client could hold the stream
// for ever.
func newWriter(closing context.Context, w http.ResponseWriter, r *http.Request, timeout time.Duration) (*writer, error) {
	x := &writer{w: w, rc: http.NewResponseController(w), timeout: timeout, http2: r.ProtoMajor >= 2}
	if err := x.rc.SetReadDeadline(time.Time{}); err != nil {
		return nil, fmt.Errorf("read deadline of a stream: %w", err)
	}
	if err := x.rc.SetWriteDeadline(time.Time{}); err != nil {
		return nil, fmt.Errorf("write deadline of a stream: %w", err)
	}
	x.stop = context.AfterFunc(closing, x.cutShort)
	return x, nil
}

// Header and WriteHeader are http.ResponseWriter's. "Connection: keep-alive" is not ours to say.
func (x *writer) Header() http.Header { return x.w.Header() }

func (x *writer) WriteHeader(status int) {
	x.w.Header().Del("Connection")
	x.w.WriteHeader(status)
}

// Write writes b piece by piece, each under its deadline.
func (x *writer) Write(b []byte) (int, error) {
	for rest := b; len(rest) > 0 && x.err == nil; {
		n := min(len(rest), pieceSize)
		x.arm()
		_, x.err = x.w.Write(rest[:n])
		rest = rest[n:]
	}
	if x.err != nil {
		return 0, x.err
	}
	return len(b), nil
}

// Flush sends what was written.
func (x *writer) Flush() {
	if x.err != nil {
		return
	}
	x.arm()
	x.err = x.rc.Flush()
	x.disarm()
}

// arm sets the deadline, unless it was set a moment ago: setting it costs more than a small write.
func (x *writer) arm() {
	now := time.Now()
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.cut || !x.armed.IsZero() && now.Sub(x.armed) < x.timeout/8 {
		return
	}
	x.armed = now
	_ = x.rc.SetWriteDeadline(now.Add(x.timeout)) // newWriter saw that it works
}

func (x *writer) disarm() {
	if !x.http2 {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if !x.cut {
		x.armed = time.Time{}
		_ = x.rc.SetWriteDeadline(time.Time{})
	}
}

// cutShort gives the write that is going on a last, short time.
func (x *writer) cutShort() {
	x.mu.Lock()
	defer x.mu.Unlock()
	if !x.finished {
		x.cut = true
		_ = x.rc.SetWriteDeadline(time.Now().Add(min(x.timeout, closeGrace)))
	}
}

// finish is to be called last, before the handler returns. The response's end is yet to be written: it gets a deadline
// of its own, since that of the last write may be over by now: also at Close, where a busy server may come to it late.
func (x *writer) finish() {
	x.stop()
	x.mu.Lock()
	defer x.mu.Unlock()
	x.finished = true
	switch {
	case !x.cut:
		_ = x.rc.SetWriteDeadline(time.Now().Add(x.timeout))
	case x.err == nil:
		_ = x.rc.SetWriteDeadline(time.Now().Add(min(x.timeout, closeGrace)))
	}
}
