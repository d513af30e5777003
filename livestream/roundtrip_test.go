package livestream

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/r3labs/sse/v2"

	"pipeproc/api"
	our "pipeproc/client"
	"pipeproc/livestream/ssetest"
)

// publisher is a server whose streams send the events given, and then end.
type publisher struct {
	*Streams
	*httptest.Server
	events []*sse.Event
	sent   int
}

func newPublisher(tb testing.TB) *publisher {
	p := &publisher{Streams: New(Config{})}
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		x, err := newWriter(p.ctx, w, r, patience)
		if err != nil {
			tb.Error(err)
			return
		}
		defer x.finish()
		p.sent = 0
		p.serve(x, r, p.retry(), func(c *connection) {
			for _, e := range p.events {
				if !c.publish(e) {
					return
				}
				p.sent++
			}
		})
	}))
	tb.Cleanup(func() {
		p.Streams.Close()
		p.Server.Close()
		p.connections.Range(func(id, _ any) bool { tb.Errorf("connection %v is left", id); return true })
	})
	return p
}

// stream answers the bytes of a stream that sends these events.
func (p *publisher) stream(t *testing.T, events ...*sse.Event) []byte {
	t.Helper()
	p.events = events
	resp, err := p.Client().Get(p.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if p.sent != len(events) {
		t.Errorf("%d of %d events were sent: %q", p.sent, len(events), text)
	}
	return text
}

// parsed holds that all parsers take text for these events: the strict one with r3labs' client, and our own client's.
func parsed(t *testing.T, text []byte, events ...*sse.Event) {
	t.Helper()
	var want, strict, ours []our.Event
	for _, e := range events {
		want = append(want, our.Event{Type: string(e.Event), Data: e.Data, ID: string(e.ID)})
	}
	r, retry := ssetest.NewReader(bytes.NewReader(text)), ""
	e, err := r.Next()
	for ; err == nil; e, err = r.Next() {
		retry += e.Retry
		strict = append(strict, our.Event{Type: e.Type, Data: []byte(e.Data), ID: e.ID})
	}
	if !errors.Is(err, io.EOF) {
		t.Fatalf("the strict parser: %v", err)
	}
	p := our.NewParser(bytes.NewReader(text))
	o, err := p.Next()
	for ; err == nil; o, err = p.Next() {
		ours = append(ours, o)
	}
	if !errors.Is(err, io.EOF) {
		t.Fatalf("our client's parser: %v", err)
	}
	same := cmp.Comparer(func(a, b []byte) bool { return bytes.Equal(a, b) })
	if d := cmp.Diff(want, strict, same); d != "" {
		t.Errorf("the strict parser (-sent +parsed):\n%s", d)
	}
	if d := cmp.Diff(want, ours, same); d != "" {
		t.Errorf("our client's parser (-sent +parsed):\n%s", d)
	}
	if d, ok := p.Retry(); !ok || retry != strconv.FormatInt(d.Milliseconds(), 10) || p.LastEventID() != r.LastEventID() {
		t.Errorf("retry %v and id %q, strictly %s and %q", d, p.LastEventID(), retry, r.LastEventID())
	}
}

// FuzzConnection: whatever an event holds that SSE can carry, and whatever a log's body holds, goes through r3labs' server
// and back through every parser unchanged, and the stream goes on after it.
func FuzzConnection(f *testing.F) {
	for _, data := range []string{"", "a", "\n", "\n\n", "a\nid: 2\n\nb\n", ":", ": a", " ", " a", "\t", "\x00", "\ufeff", "\ufeffa\n\ufeff",
		"\r", "\r\n\r\ndata: x\r\r", "\xff\xfe", "a\xc3", "\u2028\u2029\u0085\x7f", "data", "event: end\ndata: {}", "retry: 1", "{}", "[]",
		`{"a":"\r\n\u0000\ud800"}`, `\n\nid: 5\n`, `{"n":1e400,"n":"<&>"}`, "{\"\u2028\ufeff\":\"\x7f\"}"} {
		f.Add([]byte(data), "liveproc-7:3:17-4")
	}
	f.Add([]byte("x"), "x:9223372036854775807:")
	server := newPublisher(f)
	f.Fuzz(func(t *testing.T, data []byte, lastEventID string) {
		id, err := parseEventID(lastEventID)
		if err != nil {
			t.Skip()
		}
		if id.String() != lastEventID {
			t.Errorf("the id %q became %q", lastEventID, id)
		}
		event := func(name string, data []byte) *sse.Event {
			return &sse.Event{ID: []byte(lastEventID), Event: []byte(name), Data: data}
		}
		events := []*sse.Event{event("liveproc", []byte("{}"))}
		if utf8.Valid(data) && !bytes.ContainsRune(data, '\r') { // a carriage return ends a line: no field can hold one
			events = append(events, event("raw", data))
		}
		quoted, _ := json.Marshal(string(data))
		for _, body := range [][]byte{data, append(append([]byte(`["`), data...), `"]`...), append(append([]byte("["), quoted...), ']')} {
			body, err := api.LogBody(body)
			if err != nil {
				continue
			}
			l := api.Log{ID: api.ID{TS: 17, Seq: 4}, Body: body}
			claimed := appendClaimed(nil, &api.Claimed{Proc: "p", Claim: api.Claim{Range: api.NewRange(l.ID, l.ID)}, Logs: []api.Log{l}})
			if !bytes.HasSuffix(claimed, append(append([]byte(`"body":`), body...), "}]}"...)) {
				t.Errorf("%q does not hold %q", claimed, body)
			}
			events = append(events, event("logs", claimed))
		}
		events = append(events, event("end", []byte(`{"reason":"replaced"}`)))
		parsed(t, server.stream(t, events...), events...)
	})
}

// TestConnectionEventWithoutData: r3labs' handler takes an event without data for the end of the stream. One in the middle
// ends nothing: it comes, and so does what follows.
func TestConnectionEventWithoutData(t *testing.T) {
	server := newPublisher(t)
	event := func(name, data string) *sse.Event {
		return &sse.Event{ID: []byte("p:1:"), Event: []byte(name), Data: []byte(data)}
	}
	for _, events := range [][]*sse.Event{
		{event("empty", "")},
		{event("a", "1"), event("empty", ""), event("b", "2")},
		{event("empty", ""), event("empty", ""), event("b", "\n"), event("empty", "")},
	} {
		parsed(t, server.stream(t, events...), events...)
	}
}
