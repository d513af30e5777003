package client

import (
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// read reads all events of a stream; the error is the end's, nil for io.EOF.
func read(r io.Reader) ([]Event, *Parser, error) {
	p := NewParser(r)
	var events []Event
	for {
		e, err := p.Next()
		if errors.Is(err, io.EOF) {
			return events, p, nil
		}
		if err != nil {
			return events, p, err
		}
		events = append(events, e)
	}
}

func TestParser(t *testing.T) {
	for _, test := range []struct {
		name, stream string
		want         []Event
		lastID       string
	}{
		{"nothing", "", nil, ""},
		{"one", "data: a\n\n", []Event{{"message", []byte("a"), ""}}, ""},
		{"all fields", "event: log\nid: 7\ndata: a\n\n", []Event{{"log", []byte("a"), "7"}}, "7"},
		{"one space is taken", "data:  a\n\n", []Event{{"message", []byte(" a"), ""}}, ""},
		{"no space", "data:a\n\n", []Event{{"message", []byte("a"), ""}}, ""},
		{"lines", "data: a\ndata: b\ndata\n\n", []Event{{"message", []byte("a\nb\n"), ""}}, ""},
		{"empty data", "data\n\n", []Event{{"message", []byte{}, ""}}, ""},
		{"no data", "event: log\nid: 7\n\ndata: a\n\n", []Event{{"message", []byte("a"), "7"}}, "7"},
		{"CR", "data: a\rid: 7\r\rdata: b\r\r", []Event{{"message", []byte("a"), "7"}, {"message", []byte("b"), "7"}}, "7"},
		{"CR LF", "data: a\r\ndata: b\r\n\r\n", []Event{{"message", []byte("a\nb"), ""}}, ""},
		{"comments", ": hello\n:\n\ndata: a\n: b\n\n", []Event{{"message", []byte("a"), ""}}, ""},
		{"unknown fields", "date: a\n data: b\ndata: c\n\n", []Event{{"message", []byte("c"), ""}}, ""},
		{"byte order mark", "\uFEFFdata: a\n\n", []Event{{"message", []byte("a"), ""}}, ""},
		{"half a byte order mark", "\xEF\xBBdata: a\n\n", nil, ""},
		{"cut short", "data: a\n\nid: 7\ndata: b\n", []Event{{"message", []byte("a"), ""}}, ""},
		{"cut in a line", "data: a\n\ndata: b", []Event{{"message", []byte("a"), ""}}, ""},
		{"the id stays", "id: 7\ndata: a\n\ndata: b\n\n", []Event{{"message", []byte("a"), "7"}, {"message", []byte("b"), "7"}}, "7"},
		{"the id is taken back", "id: 7\ndata: a\n\nid\ndata: b\n\n", []Event{{"message", []byte("a"), "7"}, {"message", []byte("b"), ""}}, ""},
		{"an id with NUL", "id: 7\nid: a\x00\ndata: a\n\n", []Event{{"message", []byte("a"), "7"}}, "7"},
		{"the last type", "event: a\nevent: b\ndata\n\n", []Event{{"b", []byte{}, ""}}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, r := range []io.Reader{strings.NewReader(test.stream), iotest.OneByteReader(strings.NewReader(test.stream))} {
				got, p, err := read(r)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(test.want, got); diff != "" {
					t.Errorf("events (-want +got):\n%s", diff)
				}
				if p.LastEventID() != test.lastID {
					t.Errorf("the last id is %q, want %q", p.LastEventID(), test.lastID)
				}
			}
		})
	}
}

func TestParserRetry(t *testing.T) {
	for value, want := range map[string]time.Duration{"250": 250 * time.Millisecond, "0": 0, "-1": -1, "1.5": -1, "": -1, "+5": -1,
		"9999999999": -1} {
		_, p, err := read(strings.NewReader("retry: " + value + "\n\n"))
		if err != nil {
			t.Fatal(err)
		}
		got, ok := p.Retry()
		if !ok {
			got = -1
		}
		if got != want {
			t.Errorf("retry: %s is %v, want %v", value, got, want)
		}
	}
}

// An event is told as soon as its last line is there, also when that ends with a CR that an LF may follow.
func TestParserDoesNotWait(t *testing.T) {
	for _, end := range []string{"\n\n", "\r\r", "\r\n\r\n", "\r\n\r"} {
		blocked := errors.New("blocked")
		p := NewParser(io.MultiReader(strings.NewReader("data: a"+end), iotest.ErrReader(blocked)))
		if e, err := p.Next(); err != nil || string(e.Data) != "a" {
			t.Errorf("%q: %q, %v", end, e.Data, err)
		}
		if _, err := p.Next(); !errors.Is(err, blocked) {
			t.Errorf("%q: then %v", end, err)
		}
	}
}

func TestParserBoundsEvents(t *testing.T) {
	line := "data: " + strings.Repeat("x", 1<<20) + "\n"
	for name, stream := range map[string]string{
		"one line":   "data: " + strings.Repeat("x", MaxEventSize+1) + "\n\n",
		"many lines": strings.Repeat(line, MaxEventSize>>20+1) + "\n",
	} {
		if _, _, err := read(strings.NewReader(stream)); !errors.Is(err, ErrEventTooLarge) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got, _, err := read(strings.NewReader(strings.Repeat(line+"\n", 40))); err != nil || len(got) != 40 {
		t.Errorf("small events: %d, %v", len(got), err)
	}
}

// FuzzParser holds the parser to the standard's text, read literally, whatever the size of the reads.
func FuzzParser(f *testing.F) {
	for _, s := range []string{"data: a\n\n", "event: x\r\nid: 7\r\ndata: a\r\ndata\r\n\r\n", "\uFEFFid\rdata:\r\r", ": c\nretry: 10\n\n",
		"id: \x00\ndata: b\n\n", "\xEF\xBB", "\r\n\r", "data: a\n\nid: 5\n\ndata: cut"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, stream string) {
		want, lastID := literally(stream)
		for _, r := range []io.Reader{strings.NewReader(stream), iotest.OneByteReader(strings.NewReader(stream)),
			iotest.HalfReader(strings.NewReader(stream))} {
			got, p, err := read(r)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Fatalf("events (-want +got):\n%s", diff)
			}
			if p.LastEventID() != lastID {
				t.Fatalf("the last id is %q, want %q", p.LastEventID(), lastID)
			}
		}
	})
}

// literally follows the steps of the HTML standard, on a whole stream.
func literally(stream string) (events []Event, lastID string) {
	stream = strings.TrimPrefix(stream, "\uFEFF")
	stream = strings.ReplaceAll(strings.ReplaceAll(stream, "\r\n", "\n"), "\r", "\n")
	lines := strings.Split(stream, "\n")
	data, typ, id := "", "", ""
	for _, line := range lines[:len(lines)-1] {
		if line == "" {
			lastID = id
			if data != "" {
				if typ == "" {
					typ = "message"
				}
				events = append(events, Event{Type: typ, Data: []byte(strings.TrimSuffix(data, "\n")), ID: lastID})
			}
			data, typ = "", ""
			continue
		}
		if line[0] == ':' {
			continue
		}
		field, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch field {
		case "event":
			typ = value
		case "data":
			data += value + "\n"
		case "id":
			if !strings.Contains(value, "\x00") {
				id = value
			}
		}
	}
	return events, lastID
}
