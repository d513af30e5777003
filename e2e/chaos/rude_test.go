//go:build linux

package chaos

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"pipeproc/api"
	"pipeproc/e2e/check"
)

// rude is a client that keeps to no rules: it hangs up in the middle of a request, sends one byte after the other, sends
// the same twice or late, and opens streams that it does not read.
func (l *load) rude(ctx context.Context, perSecond float64) {
	u := l.visitor("rude")
	defer u.CloseIdleConnections()
	for turn := pace(ctx, perSecond); turn(); {
		logs := []api.NewLog{logOf(l.kept(u.random.IntN(keptTopics)), l.value(u.name))}
		text := l.wire(logs)
		half := 1 + u.random.IntN(len(text)-1)
		c := check.Commit{Span: l.recorder.Begin(u.name), Logs: recorded(logs)}
		var ids []api.ID
		outcome := check.Unknown
		switch u.random.IntN(6) {
		case 0:
			l.tally.add("fault client: gone in the middle of a request", 1)
			if l.send(ctx, text[:half], nil) == nil {
				outcome = check.Failed
			}
		case 1:
			l.tally.add("fault client: gone before the answer", 1)
			_ = l.send(ctx, text, nil)
		case 2:
			l.tally.add("fault client: a slow body", 1)
			ids, outcome = l.answered(ctx, slowly(text))
		case 3:
			l.tally.add("fault client: a delayed request", 1)
			ids, outcome = l.answered(ctx, [][]byte{text[:half], nil, text[half:]})
		case 4:
			l.tally.add("fault client: a duplicated request", 1)
			c.Sent = 2
			_ = l.send(ctx, text, nil)
			ids, outcome = l.answered(ctx, [][]byte{text})
		case 5:
			l.tally.add("fault client: a stream not read", 1)
			l.unread(ctx)
			continue
		}
		c.IDs, c.Span = ids, l.recorder.End(c.Span, outcome)
		l.recorder.Commit(c)
	}
}

// wire is a commit as it is sent.
func (l *load) wire(logs []api.NewLog) []byte {
	text, _ := json.Marshal(logs) // raw JSON and names
	return fmt.Appendf(nil, "POST /v1/commit HTTP/1.1\r\nHost: pipeproc\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"+
		"Connection: close\r\n\r\n%s", len(text), text)
}

// slowly is a text in pieces, with its end one byte at a time.
func slowly(text []byte) (pieces [][]byte) {
	end := len(text) - 20
	pieces = append(pieces, text[:end])
	for i := end; i < len(text); i++ {
		pieces = append(pieces, text[i:i+1])
	}
	return pieces
}

// send sends a text and hangs up. read is called in between, if it is given.
func (l *load) send(ctx context.Context, text []byte, read func(net.Conn) error) error {
	conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", strings.TrimPrefix(l.url, "http://"))
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(requestTimeout))
	if _, err := conn.Write(text); err != nil || read == nil {
		return err
	}
	return read(conn)
}

// answered sends pieces with pauses between them, and reads the answer.
func (l *load) answered(ctx context.Context, pieces [][]byte) (ids []api.ID, o check.Outcome) {
	o = check.Unknown
	_ = l.send(ctx, pieces[0], func(conn net.Conn) error {
		for _, piece := range pieces[1:] {
			if err := pause(ctx, 50*time.Millisecond); err != nil {
				return err
			}
			if len(piece) == 0 {
				_ = pause(ctx, 2*time.Second)
			}
			if _, err := conn.Write(piece); err != nil {
				return err
			}
		}
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusCreated {
			return err
		}
		var done struct {
			IDs []api.ID `json:"ids"`
		}
		if err := json.NewDecoder(bytes.NewReader(text)).Decode(&done); err == nil {
			ids, o = done.IDs, check.OK
		}
		return nil
	})
	return ids, o
}

// unread opens a tail and leaves it alone for as long as a request may take.
func (l *load) unread(ctx context.Context) {
	go func() {
		_ = l.send(ctx, fmt.Appendf(nil, "GET /v1/tail?topic=%s&topic=%s&start=earliest HTTP/1.1\r\nHost: pipeproc\r\n\r\n",
			l.kept(0), l.kept(1)),
			func(net.Conn) error { return pause(ctx, requestTimeout) })
	}()
}
