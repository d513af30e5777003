// Package ssetest reads Server-Sent Events as the specification of EventSource tells, and refuses what a server should
// not send: unknown fields, bytes that are not UTF-8, carriage returns, fields without their space. r3labs' client reads
// the same bytes, and is to take each event for the same.
package ssetest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"
)

// An Event is one block of a stream.
type Event struct {
	Type    string // the event field, "message" where it is absent
	Data    string
	ID      string // the client's last event id after this block
	Retry   string // the retry field, "" where it is absent
	Comment string // of a comment; "" otherwise

	// Dispatched tells whether an EventSource would hand this block to its listeners: it has data. A block without
	// changes the last event id and the retry time alone.
	Dispatched bool
}

// A Reader reads one stream.
type Reader struct {
	r      *bufio.Reader
	lastID string
	block  []byte  // as it came
	r3labs *r3labs // nil where somebody else asks it
}

// NewReader reads the body of a response.
func NewReader(r io.Reader) *Reader {
	x := &Reader{r: bufio.NewReaderSize(r, 64<<10)}
	if _, asked := r.(*watched); !asked {
		x.r3labs = newR3labs()
	}
	return x
}

// LastEventID is what an EventSource would present when it reconnects now: the last id whose block was complete.
func (r *Reader) LastEventID() string { return r.lastID }

// Event answers the next block that an EventSource would dispatch.
func (r *Reader) Event() (Event, error) {
	for {
		e, err := r.Next()
		if err != nil || e.Dispatched {
			return e, err
		}
	}
}

// Next answers the next block. The error is io.EOF where the stream ended between two blocks, io.ErrUnexpectedEOF (or
// the connection's error) where it broke off within one, and anything else where it breaks the rules, or where r3labs'
// client takes it for something else.
func (r *Reader) Next() (Event, error) {
	e := Event{Type: "message", ID: r.lastID}
	var data []string
	seen := map[string]bool{}
	r.block = r.block[:0]
	for begun := false; ; begun = true {
		line, err := r.r.ReadString('\n')
		switch {
		case errors.Is(err, io.EOF) && line == "" && !begun:
			return Event{}, io.EOF
		case errors.Is(err, io.EOF):
			return Event{}, io.ErrUnexpectedEOF
		case err != nil:
			return Event{}, err
		}
		r.block = append(r.block, line...)
		line = line[:len(line)-1]
		if line == "" {
			if !begun {
				return Event{}, errors.New("a blank line that ends no block")
			}
			break
		}
		if err := e.field(line, &data, seen); err != nil {
			return Event{}, fmt.Errorf("line %.200q: %w", line, err)
		}
	}
	e.Data = strings.Join(data, "\n")
	e.Dispatched = data != nil
	if seen["event"] && !e.Dispatched {
		return Event{}, fmt.Errorf("event %q has no data, so no client would see it", e.Type)
	}
	if r.r3labs != nil {
		if err := r.r3labs.agrees(r.block, e); err != nil {
			return Event{}, err
		}
	}
	r.lastID = e.ID
	return e, nil
}

func (e *Event) field(line string, data *[]string, seen map[string]bool) error {
	if !utf8.ValidString(line) {
		return errors.New("not UTF-8")
	}
	if strings.ContainsAny(line, "\r\x00\ufeff") && !strings.HasPrefix(line, "data: ") || strings.Contains(line, "\r") {
		return errors.New("carriage return, NUL or byte order mark")
	}
	if comment, ok := strings.CutPrefix(line, ":"); ok {
		e.Comment = strings.TrimPrefix(comment, " ")
		return nil
	}
	name, value, ok := strings.Cut(line, ": ")
	if !ok {
		return errors.New("no \"field: value\"")
	}
	if seen[name] && name != "data" {
		return errors.New("field given twice")
	}
	seen[name] = true
	switch name {
	case "event":
		e.Type = value
	case "data":
		*data = append(*data, value)
	case "id":
		e.ID = value
	case "retry":
		if _, err := strconv.ParseUint(value, 10, 32); err != nil {
			return err
		}
		e.Retry = value
	default:
		return errors.New("unknown field")
	}
	return nil
}
