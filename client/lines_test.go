package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"pipeproc/api"
	"pipeproc/client"
)

// sendLines answers with these lines; broken leaves the connection broken after them.
func sendLines(w http.ResponseWriter, text string, broken bool) {
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = io.WriteString(w, text)
	if broken {
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
}

// gather reads all logs, up to the error.
func gather(logs iter.Seq2[api.Log, error]) (all []api.Log, err error) {
	for log, err := range logs {
		if err != nil {
			return all, err
		}
		all = append(all, log)
	}
	return all, nil
}

func TestRangeLines(t *testing.T) {
	long := `["` + strings.Repeat("x", api.MaxBodySize-4) + `"]` // longer than any buffer
	bodies := []string{`{}`, `{"n":1e400,"s":"<\ud800>","a":1,"a":2}`, long, `[]`, long, `["\u0000"]`}
	var text strings.Builder
	var want []api.Log
	for i, body := range bodies {
		fmt.Fprintf(&text, `{"id":"1-%d","body":%s}`+"\n", i, body)
		want = append(want, api.Log{ID: api.ID{TS: 1, Seq: int64(i)}, Body: json.RawMessage(body)})
	}
	var asked string
	c := open(t, func(w http.ResponseWriter, r *http.Request) {
		asked = r.Header.Get("Accept") + " " + r.URL.RequestURI()
		sendLines(w, text.String(), false)
	})
	got, err := gather(c.RangeLines(t.Context(), "t", client.RangeOptions{Start: "5", End: "1-9", Limit: -1, Exclusive: true}))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%.2000s", diff)
	}
	if asked != "application/x-ndjson /v1/topics/t/logs?end=1-9&exclusive=true&limit=-1&start=5" {
		t.Error(asked)
	}
	for log, err := range c.RevrangeLines(t.Context(), "t", client.RangeOptions{}) { // leaves in the middle
		if err != nil || log.ID != want[0].ID {
			t.Fatal(log.ID, err)
		}
		break
	}
	if asked != "application/x-ndjson /v1/topics/t/logs?direction=reverse" {
		t.Error(asked)
	}
	empty := open(t, func(w http.ResponseWriter, _ *http.Request) { sendLines(w, "", false) })
	if got, err := gather(empty.RangeLines(t.Context(), "t", client.RangeOptions{})); err != nil || len(got) != 0 {
		t.Errorf("%d logs, %v", len(got), err)
	}
}

// Whatever is not whole ends with an error.
func TestRangeLinesBreakOff(t *testing.T) {
	const line = `{"id":"1-0","body":{}}` + "\n"
	for name, test := range map[string]struct {
		text   string
		broken bool
		logs   int
		want   error // nil: any
	}{
		"at a line's end":       {line + line, true, 2, io.ErrUnexpectedEOF},
		"within a line":         {line + line[:10], true, 1, io.ErrUnexpectedEOF},
		"at the start":          {"", true, 0, io.ErrUnexpectedEOF},
		"a line without an end": {line + line[:len(line)-1], false, 1, io.ErrUnexpectedEOF},
		"half a line":           {line + line[:10], false, 1, io.ErrUnexpectedEOF},
		"not JSON":              {line + "nonsense\n" + line, false, 1, nil},
		"no id":                 {line + `{"id":"x","body":{}}` + "\n", false, 1, nil},
		"an endless line":       {line + strings.Repeat("x", 3<<20), false, 1, nil},
	} {
		c := open(t, func(w http.ResponseWriter, _ *http.Request) { sendLines(w, test.text, test.broken) })
		logs, err := gather(c.RangeLines(t.Context(), "t", client.RangeOptions{}))
		if err == nil || test.want != nil && !errors.Is(err, test.want) || len(logs) != test.logs {
			t.Errorf("%s: %d logs, %v", name, len(logs), err)
		}
		if name == "an endless line" && err != nil && !strings.Contains(err.Error(), "longer than") {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil && len(err.Error()) > 1000 {
			t.Errorf("%s: an error of %d bytes", name, len(err.Error()))
		}
	}
}

func TestRangeLinesRefused(t *testing.T) {
	c := open(t, func(w http.ResponseWriter, _ *http.Request) {
		answer(w, 410, problem(410, "collected", `,"firstId":"1-1"`))
	})
	if _, err := gather(c.RangeLines(t.Context(), "t", client.RangeOptions{})); api.CodeOf(err) != api.CodeCollected {
		t.Error(err)
	}
	c = open(t, func(w http.ResponseWriter, _ *http.Request) { answer(w, 200, `{"logs":[]}`+"\n") }) // a page is no range of lines
	if logs, err := gather(c.RangeLines(t.Context(), "t", client.RangeOptions{})); err == nil || len(logs) > 0 {
		t.Error(logs, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := gather(c.RangeLines(ctx, "t", client.RangeOptions{})); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
