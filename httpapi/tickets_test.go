package httpapi

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pipeproc/api"
)

// openStreams are streams that stay open until their context ends, or they are told to.
type openStreams struct {
	opened chan *http.Request
	end    chan struct{}
}

func (o openStreams) serve(w http.ResponseWriter, r *http.Request) error {
	w.Header().Set("Content-Type", asEvents)
	w.WriteHeader(http.StatusOK)
	o.opened <- r
	select {
	case <-o.end:
	case <-r.Context().Done():
	}
	return nil
}

func (o openStreams) Changes(w http.ResponseWriter, r *http.Request) error { return o.serve(w, r) }
func (o openStreams) Live(w http.ResponseWriter, r *http.Request) error    { return o.serve(w, r) }
func (o openStreams) Tail(w http.ResponseWriter, r *http.Request) error    { return o.serve(w, r) }
func (o openStreams) Admit(*http.Request) (func(), error)                  { return func() {}, nil }

func ticketFor(t *testing.T, s *Server, path string, headers ...string) string {
	t.Helper()
	a := call(t, s, "POST", "/v1/stream-tickets", `{"path":"`+path+`"}`, headers...)
	var made struct {
		Ticket, Path string
		ExpiresAt    int64
	}
	if err := json.Unmarshal([]byte(a.body), &made); err != nil || a.status != 201 || made.Path != path ||
		made.ExpiresAt != time.Now().Add(time.Minute).UnixMilli() {
		t.Fatalf("%d %s %v", a.status, a.body, err)
	}
	return made.Ticket
}

// A ticket opens one stream at a time, the first within a minute, the next within a minute of the end of the one before.
func TestTicket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		streams := openStreams{make(chan *http.Request, 1), make(chan struct{})}
		var log bytes.Buffer
		s, people := guarded(t, Config{Streams: streams, Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
		ticket := ticketFor(t, s, "/v1/tail", "Authorization: "+people["read"].key)
		get := func() answered { return call(t, s, "GET", "/v1/tail?topic=t&ticket="+ticket, "") }
		open := func() (ended chan answered) {
			ended = make(chan answered, 1)
			go func() { ended <- get() }()
			r := <-streams.opened
			if r.URL.RawQuery != "topic=t" || strings.Contains(r.RequestURI, ticket) && r.URL.Query().Has("ticket") ||
				api.CallerOf(r.Context()).Key != "the-read" {
				t.Errorf("the stream saw %s of %q", r.URL, api.CallerOf(r.Context()).Key)
			}
			return ended
		}
		time.Sleep(time.Minute)
		first := open()
		time.Sleep(time.Hour) // a stream may be open for long
		get().wantsProblem(t, 401, api.CodeUnauthorized)
		streams.end <- struct{}{}
		if a := <-first; a.status != 200 {
			t.Errorf("the stream: %d %s", a.status, a.body)
		}
		time.Sleep(time.Minute)
		second := open()
		third := make(chan answered, 1)
		go func() { third <- get() }() // a client that is back before its stream has ended
		time.Sleep(time.Second)
		streams.end <- struct{}{}
		<-second
		<-streams.opened
		streams.end <- struct{}{}
		<-third
		time.Sleep(time.Minute + time.Millisecond)
		get().wantsProblem(t, 401, api.CodeUnauthorized)
		time.Sleep(time.Hour)
		get().wantsProblem(t, 401, api.CodeUnauthorized)
		if len(s.tickets.used) != 0 {
			t.Errorf("%d tickets are remembered", len(s.tickets.used))
		}

		ticket = ticketFor(t, s, "/v1/tail", "Authorization: "+people["read"].key)
		time.Sleep(time.Minute + time.Millisecond)
		get().wantsProblem(t, 401, api.CodeUnauthorized)
		// Nor is it told where it came as a part of the path.
		if a := call(t, s, "GET", "/v1/tail%3Fticket="+ticket, ""); a.status != 404 || strings.Contains(a.body, ticket[:8]) {
			t.Errorf("%d %s", a.status, a.body)
		}
		if text := log.String(); strings.Contains(text, ticket) || strings.Contains(text, "ticket=") || !strings.Contains(text, "the-read") {
			t.Errorf("the log: %s", text)
		}
	})
}

// Whoever has the secret takes the ticket, as long as its key lives; nobody else does.
func TestForgedTickets(t *testing.T) {
	streams := openStreams{make(chan *http.Request, 1), make(chan struct{})}
	s, people := guarded(t, Config{Streams: streams, TicketSecret: []byte("one")})
	path := "/v1/topics/t/live"
	call(t, s, "POST", "/v1/stream-tickets", `{"path":"`+path+`"}`, "Authorization: "+people["read"].key).wantsProblem(t, 403, api.CodeForbidden)
	for _, bad := range []string{"", "/", "/v1/topics", "/v1/tail?topic=t", "/v1/topics/a.b/live", "/v1/topics/t/live/", "v1/tail", "/v1/topics/{topic}/live"} {
		call(t, s, "POST", "/v1/stream-tickets", `{"path":"`+bad+`"}`, "Authorization: "+people["write"].key).wantsProblem(t, 400, api.CodeInvalidRequest)
	}
	ticket := ticketFor(t, s, path, "Authorization: "+people["write"].key)
	raw, err := base64.RawURLEncoding.DecodeString(ticket)
	if err != nil {
		t.Fatal(err)
	}
	refused := func(what string, s *Server, method, path, ticket string, headers ...string) {
		t.Helper()
		a := call(t, s, method, path+"?ticket="+url.QueryEscape(ticket), "", headers...)
		if a.status != 401 || strings.Contains(a.body, ticket) && len(ticket) > 20 || a.header.Get("WWW-Authenticate") != "Bearer" {
			t.Errorf("%s: %d %s", what, a.status, a.body)
		}
	}
	for i := range raw {
		forged := bytes.Clone(raw)
		forged[i] ^= 1
		refused("a bit turned", s, "GET", path, base64.RawURLEncoding.EncodeToString(forged))
	}
	for _, text := range []string{"", "x", ticket + "A", ticket[1:], ticket + "=", ticket + "\n"} {
		refused("another text", s, "GET", path, text)
	}
	refused("another topic", s, "GET", "/v1/topics/u/live", ticket)
	refused("another route", s, "GET", "/v1/tail", ticket)
	refused("HEAD", s, "HEAD", path, ticket)
	other, _ := guarded(t, Config{Streams: streams, TicketSecret: []byte("one")})
	refused("a server of other keys", other, "GET", path, ticket)
	refused("a server without keys", New(Config{Streams: streams, TicketSecret: []byte("one")}), "GET", path, ticket)
	refused("a server of another secret", New(Config{Streams: streams}), "GET", path, ticket)
	refused("a route that is no stream", s, "GET", "/v1/topics", ticket)
	page := ticketFor(t, s, "/v1/topics/t/logs", "Authorization: "+people["read"].key)
	refused("a page", s, "GET", "/v1/topics/t/logs", page)
	refused("lines", s, "GET", "/v1/topics/t/logs", page, "Accept: application/x-ndjson")
	for _, header := range []string{"Origin: https://evil.example", "Sec-Fetch-Site: cross-site"} {
		call(t, s, "GET", "/v1/topics/t/logs?ticket="+page, "", "Accept: text/event-stream", header).wantsProblem(t, 403, api.CodeForbidden)
	}
	call(t, s, "GET", path+"?ticket="+ticket, "", "Authorization: "+people["write"].key).wantsProblem(t, 400, api.CodeInvalidRequest)
	call(t, s, "GET", path+"?ticket=a&ticket=b", "").wantsProblem(t, 400, api.CodeInvalidRequest)

	// Another server with the same keys and the same secret; and the stream ends with the key.
	twin := New(Config{Streams: streams, TicketSecret: []byte("one"), Keys: s.Keys})
	ended := make(chan answered, 1)
	go func() { ended <- call(t, twin, "GET", path+"?ticket="+ticket, "") }()
	<-streams.opened
	if _, removed, err := s.Keys.Load(nil); err != nil || len(removed) != 3 {
		t.Fatalf("removed %v, %v", removed, err)
	}
	if a := <-ended; a.status != 200 {
		t.Errorf("the stream: %d %s", a.status, a.body)
	}
	refused("its key is gone", s, "GET", path, ticket)
}

// Where there are no keys, pages may still ask for tickets, and use them.
func TestTicketWithoutKeys(t *testing.T) {
	streams := openStreams{make(chan *http.Request, 1), make(chan struct{}, 1)}
	s := New(Config{Streams: streams})
	streams.end <- struct{}{}
	a := call(t, s, "POST", "/v1/stream-tickets", `{"path":"/v1/tail"}`)
	var made struct{ Ticket string }
	if err := json.Unmarshal([]byte(a.body), &made); err != nil {
		t.Fatal(err)
	}
	if a := call(t, s, "GET", "/v1/tail?ticket="+made.Ticket, ""); a.status != 200 {
		t.Errorf("%d %s", a.status, a.body)
	}
}
