package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"
)

// wire is one keep-alive connection of HTTP/1.1, as light as can be: the load shares the cores with what it measures.
type wire struct {
	conn net.Conn
	r    *bufio.Reader
	body []byte // of the last answer
}

func dialWire(ctx context.Context, address string) (*wire, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	return &wire{conn: conn, r: bufio.NewReaderSize(conn, 16<<10)}, nil
}

func (w *wire) close() { w.conn.Close() }

// do sends a request, whole, and reads its answer. The body is valid until the next one. Any status but want is an error.
func (w *wire) do(request []byte, want int) ([]byte, error) {
	w.body = w.body[:0]
	err := w.stream(request, want, func(part []byte) { w.body = append(w.body, part...) })
	return w.body, err
}

// stream is do for great answers: each gets the body part by part.
func (w *wire) stream(request []byte, want int, each func([]byte)) error {
	if _, err := w.conn.Write(request); err != nil {
		return err
	}
	var refusal []byte
	status, err := readAnswer(w.r, func(status int, part []byte) {
		if status == want {
			each(part)
		} else {
			refusal = append(refusal, part...)
		}
	})
	if err == nil && status != want {
		line, _, _ := bytes.Cut(request, []byte("\r\n"))
		err = fmt.Errorf("%s: status %d instead of %d: %s", line, status, want, bytes.TrimSpace(refusal))
	}
	return err
}

var errAnswer = errors.New("not an answer of HTTP/1.1")

// readAnswer reads an answer to anything but HEAD. An answer that ends the connection counts as an error: the load needs
// its connections.
func readAnswer(r *bufio.Reader, each func(status int, part []byte)) (status int, err error) {
	line, err := readLine(r)
	if err != nil {
		return 0, err
	}
	if len(line) < 12 || string(line[:7]) != "HTTP/1." || line[8] != ' ' {
		return 0, fmt.Errorf("%w: %q", errAnswer, line)
	}
	if status, err = strconv.Atoi(string(line[9:12])); err != nil {
		return 0, fmt.Errorf("%w: %q", errAnswer, line)
	}
	length, chunked := int64(-1), false
	for {
		if line, err = readLine(r); err != nil {
			return status, err
		}
		if len(line) == 0 {
			break
		}
		name, value, ok := bytes.Cut(line, []byte(":"))
		if !ok {
			return status, fmt.Errorf("%w: header %q", errAnswer, line)
		}
		value = bytes.TrimSpace(value)
		switch {
		case is(name, "content-length"):
			if length, err = strconv.ParseInt(string(value), 10, 64); err != nil || length < 0 {
				return status, fmt.Errorf("%w: header %q", errAnswer, line)
			}
		case is(name, "transfer-encoding"):
			chunked = is(value, "chunked")
		case is(name, "connection") && is(value, "close"):
			return status, fmt.Errorf("status %d, and the server ends the connection", status)
		}
	}
	part := func(b []byte) { each(status, b) }
	switch {
	case status == 204 || status == 304:
		return status, nil
	case chunked:
		return status, readChunks(r, part)
	case length < 0:
		return status, fmt.Errorf("%w: its length is not told", errAnswer)
	}
	return status, readParts(r, length, part)
}

func readChunks(r *bufio.Reader, each func([]byte)) error {
	for {
		line, err := readLine(r)
		if err != nil {
			return err
		}
		size, _, _ := bytes.Cut(line, []byte(";"))
		n, err := strconv.ParseInt(string(size), 16, 64)
		if err != nil || n < 0 {
			return fmt.Errorf("%w: chunk %q", errAnswer, line)
		}
		if n == 0 {
			break
		}
		if err := readParts(r, n, each); err != nil {
			return err
		}
		if line, err = readLine(r); err != nil || len(line) > 0 {
			return fmt.Errorf("%w: a chunk's end: %q, %w", errAnswer, line, err)
		}
	}
	for { // trailers
		if line, err := readLine(r); err != nil || len(line) == 0 {
			return err
		}
	}
}

// readParts reads n bytes as they are in the buffer, without copying them.
func readParts(r *bufio.Reader, n int64, each func([]byte)) error {
	for n > 0 {
		if _, err := r.Peek(1); err != nil {
			return whole(err)
		}
		part, err := r.Peek(int(min(n, int64(r.Buffered()))))
		if err != nil {
			return whole(err)
		}
		each(part)
		n -= int64(len(part))
		if _, err := r.Discard(len(part)); err != nil {
			return err
		}
	}
	return nil
}

// readLine reads a line without its end. It is valid until the next read.
func readLine(r *bufio.Reader) ([]byte, error) {
	line, err := r.ReadSlice('\n')
	if err != nil {
		return nil, whole(err)
	}
	return bytes.TrimSuffix(line[:len(line)-1], []byte("\r")), nil
}

// whole tells an answer that broke off from the end of a connection that was in order.
func whole(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// is compares without regard to ASCII's case; lower is in lower case.
func is(b []byte, lower string) bool {
	if len(b) != len(lower) {
		return false
	}
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

// get, post and postEmpty are whole requests.
func get(target string, headers ...string) []byte {
	b := []byte("GET " + target + " HTTP/1.1\r\nHost: bench\r\n")
	for _, h := range headers {
		b = append(append(b, h...), "\r\n"...)
	}
	return append(b, "\r\n"...)
}

func post(target string, body []byte) []byte {
	return append([]byte("POST "+target+" HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: "+
		strconv.Itoa(len(body))+"\r\n\r\n"), body...)
}

func postEmpty(target string) []byte {
	return []byte("POST " + target + " HTTP/1.1\r\nHost: bench\r\nContent-Length: 0\r\n\r\n")
}

// hurry lets everything on the connections end by then.
func hurry(wires []*wire, then time.Time) {
	for _, w := range wires {
		_ = w.conn.SetDeadline(then)
	}
}
