package ssetest

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"
)

func TestWatch(t *testing.T) {
	for stream, want := range map[string]int{
		"": 0, "data: a\n\n": 0, ": x\n\nid: 1\n\ndata: a\ndata: b\n\n": 0, "data: a\n\ndata:cut": 0,
		"data:a\n\n": 1, "data: a\n\ndata:b\n\ndata:c\n\n": 1, "\n\n": 1, "data: a\n\n\ndata: b\n\n": 1,
		"id: 1\ndata: a\n\nid: \ndata: b\n\n": 1, "data: " + strings.Repeat("x", 100_000) + "\n\ndate: a\n\n": 1,
	} {
		for how, in := range map[string]io.Reader{"at once": strings.NewReader(stream), "byte by byte": iotest.OneByteReader(strings.NewReader(stream))} {
			failures := 0
			base := roundTrip(func(*http.Request) (*http.Response, error) {
				return &http.Response{Header: http.Header{"Content-Type": {"text/event-stream"}}, Body: io.NopCloser(in)}, nil
			})
			resp, err := Transport(base, func(string, ...any) { failures++ }).RoundTrip(nil)
			if err != nil {
				t.Fatal(err)
			}
			var read bytes.Buffer
			if _, err := read.ReadFrom(resp.Body); err != nil || read.String() != stream {
				t.Errorf("%.50q %s: read %q, %v", stream, how, read.String(), err)
			}
			if failures != want {
				t.Errorf("%.50q %s: %d failures, want %d", stream, how, failures, want)
			}
			resp.Body.Close()
		}
	}
	fails := func(format string, args ...any) {
		t.Errorf("what is no stream is parsed: %s", fmt.Sprintf(format, args...))
	}
	base := roundTrip(func(*http.Request) (*http.Response, error) {
		return &http.Response{Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(strings.NewReader("{}\n\n"))}, nil
	})
	resp, err := Transport(base, fails).RoundTrip(nil)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
