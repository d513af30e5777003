package client

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strconv"
	"time"
)

// Event is one event of a stream of Server-Sent Events.
type Event struct {
	Type string // "message" where the server names none
	Data []byte // without the last line's end
	ID   string // the last event id as of this event: its own, or that of an event before
}

// Decode reads the event's data, which is JSON, into v.
func (e Event) Decode(v any) error { return json.Unmarshal(e.Data, v) }

// MaxEventSize is the most bytes of one event: a batch of logs ends at 8 MiB of bodies, but begins with one log at least,
// and its lines add to it.
const MaxEventSize = 32 << 20

// ErrEventTooLarge ends a stream whose event is larger than MaxEventSize.
var ErrEventTooLarge = errors.New("the event is too large")

// Parser reads a stream of Server-Sent Events, as the HTML standard defines it.
type Parser struct {
	r    *bufio.Reader
	line []byte
	// afterCR tells that the last line ended with a CR: an LF that follows belongs to it. It is skipped when it comes, not
	// waited for, since the event may be complete without it.
	afterCR bool
	begun   bool

	id       string // the last event id buffer
	lastID   string
	retry    time.Duration
	hasRetry bool
}

// NewParser reads the events of r.
func NewParser(r io.Reader) *Parser { return &Parser{r: bufio.NewReader(r)} }

// LastEventID is the id to resume after: it moves with the events, also with those that carry an id and no data.
func (p *Parser) LastEventID() string { return p.lastID }

// Retry is the time to wait before a reconnect, as last told by the server; ok is false when it told none.
func (p *Parser) Retry() (delay time.Duration, ok bool) { return p.retry, p.hasRetry }

// Next answers the next event. An event that the stream's end cuts short is dropped, and the error is that of the
// reader: io.EOF at a regular end.
func (p *Parser) Next() (Event, error) {
	var typ string
	var data []byte
	size := 0
	hasData := false
	for {
		line, err := p.readLine(MaxEventSize - size)
		if err != nil {
			return Event{}, err
		}
		size += len(line)
		if len(line) == 0 {
			p.lastID = p.id
			if !hasData {
				typ, size = "", 0
				continue
			}
			if typ == "" {
				typ = "message"
			}
			return Event{Type: typ, Data: data[:len(data)-1], ID: p.lastID}, nil
		}
		field, value, found := bytes.Cut(line, []byte(":"))
		if found {
			value = bytes.TrimPrefix(value, []byte(" "))
		}
		switch string(field) {
		case "": // a comment
			size -= len(line)
		case "event":
			typ = string(value)
		case "data":
			hasData = true
			data = append(append(data, value...), '\n')
		case "id":
			if !bytes.ContainsRune(value, 0) {
				p.id = string(value)
			}
		case "retry":
			p.setRetry(string(value))
		}
	}
}

// setRetry takes digits alone.
func (p *Parser) setRetry(value string) {
	ms, err := strconv.ParseUint(value, 10, 31)
	if err != nil {
		return
	}
	p.retry, p.hasRetry = time.Duration(ms)*time.Millisecond, true
}

// readLine reads a line, without its end: CR LF, LF or CR. A line that the end of the stream cuts short is dropped.
func (p *Parser) readLine(most int) ([]byte, error) {
	p.line = p.line[:0]
	if !p.begun {
		if bom, err := p.r.Peek(1); err == nil && bom[0] == 0xEF {
			if bom, err := p.r.Peek(3); err == nil && string(bom) == "\uFEFF" {
				_, _ = p.r.Discard(3)
			}
		}
		p.begun = true
	}
	for {
		if p.r.Buffered() == 0 {
			if _, err := p.r.Peek(1); err != nil {
				return nil, err
			}
		}
		chunk, _ := p.r.Peek(p.r.Buffered())
		if p.afterCR {
			p.afterCR = false
			if chunk[0] == '\n' {
				_, _ = p.r.Discard(1)
				continue
			}
		}
		end := bytes.IndexAny(chunk, "\r\n")
		if end < 0 {
			end = len(chunk)
		}
		if len(p.line)+end > most {
			return nil, ErrEventTooLarge
		}
		p.line = append(p.line, chunk[:end]...)
		if end == len(chunk) {
			_, _ = p.r.Discard(end)
			continue
		}
		p.afterCR = chunk[end] == '\r'
		_, _ = p.r.Discard(end + 1)
		return p.line, nil
	}
}
