package ssetest

import (
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
)

func TestReader(t *testing.T) {
	const stream = "retry: 1500\nid: a~1.0\n\n: heartbeat\n\nevent: log\ndata: {}\nid: a~1.1\n\n: \nid: 7\nevent: x\ndata: \n\n" +
		"data: a\ndata:  b\ndata: \n\n: heartbeat\n\n"
	want := []Event{
		{Type: "message", ID: "a~1.0", Retry: "1500"},
		{Type: "message", ID: "a~1.0", Comment: "heartbeat"},
		{Type: "log", Data: "{}", ID: "a~1.1", Dispatched: true},
		{Type: "x", ID: "7", Dispatched: true},
		{Type: "message", Data: "a\n b\n", ID: "7", Dispatched: true},
		{Type: "message", ID: "7", Comment: "heartbeat"},
	}
	for _, in := range []io.Reader{strings.NewReader(stream), iotest.OneByteReader(strings.NewReader(stream))} {
		r := NewReader(in)
		var got []Event
		e, err := r.Next()
		for ; err == nil; e, err = r.Next() {
			got = append(got, e)
		}
		if d := cmp.Diff(want, got); d != "" || err != io.EOF || r.LastEventID() != "7" {
			t.Errorf("%v, id %q (-want +got)\n%s", err, r.LastEventID(), d)
		}
	}
}

func TestReaderRefuses(t *testing.T) {
	for stream, want := range map[string]string{
		"data: a\n":                           "unexpected EOF",
		"data: a\n\nda":                       "unexpected EOF",
		"\n":                                  "ends no block",
		"data: a\n\n\n":                       "ends no block",
		"data:a\n\n":                          "field: value",
		"data\n\n":                            "field: value",
		"date: a\n\n":                         "unknown field",
		"\ufeffdata: a\n\n":                   "byte order mark",
		"id: 1\nid: 2\ndata: a\n\n":           "given twice",
		"id: a\x00\ndata: a\n\n":              "NUL",
		"data: a\r\n\r\n":                     "carriage return",
		"data: \xff\n\n":                      "UTF-8",
		"retry: 1.5\n\n":                      "1.5",
		"event: x\nid: 1\n\n":                 "no data",
		"id: 1\ndata: a\n\nid: \ndata: b\n\n": "r3labs", // which does not take an id back
	} {
		r := NewReader(strings.NewReader(stream))
		_, err := r.Next()
		for err == nil {
			_, err = r.Next()
		}
		if errors.Is(err, io.EOF) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", stream, err, want)
		}
	}
}

func TestR3labsDisagrees(t *testing.T) {
	const block = "event: log\ndata: a\nid: 1\nretry: 5\n\n"
	right := Event{Type: "log", Data: "a", ID: "1", Retry: "5", Dispatched: true}
	if err := newR3labs().agrees([]byte(block), right); err != nil {
		t.Error(err)
	}
	for what, change := range map[string]func(*Event){
		"type": func(e *Event) { e.Type = "message" }, "data": func(e *Event) { e.Data = "a\n" },
		"id": func(e *Event) { e.ID = "" }, "retry": func(e *Event) { e.Retry = "" },
	} {
		e := right
		change(&e)
		if newR3labs().agrees([]byte(block), e) == nil {
			t.Errorf("another %s is taken for the same", what)
		}
	}
	for what, block := range map[string]string{"two events": block + block, "none": ": x\n\n", "too large": "data: " + strings.Repeat("x", maxBlock) + "\n\n"} {
		if newR3labs().agrees([]byte(block), right) == nil {
			t.Errorf("%s: taken for one", what)
		}
	}
}
