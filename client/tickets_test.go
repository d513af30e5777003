package client

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
)

// A ticket is asked for with the key, and opens a stream without it.
func TestStreamTicket(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		key, query := r.Header.Get("Authorization"), r.URL.RawQuery
		switch r.Method + " " + r.URL.Path {
		case "POST /v1/stream-tickets":
			body, _ := io.ReadAll(r.Body)
			if string(body) != `{"path":"/v1/tail"}` || key != "Bearer k" {
				t.Errorf("asked with %q for %s", key, body)
			}
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusCreated)
			_ = json.NewEncoder(w).Encode(map[string]any{"ticket": "abc", "path": "/v1/tail", "expiresAt": 7})
		case "GET /v1/tail":
			if query != "topic=t&ticket=abc" || key != "" {
				t.Errorf("opened with %q: %s", key, query)
			}
			w.Header().Set("Content-Type", "text/event-stream")
		}
	}))
	defer server.Close()
	c, err := New(server.URL, WithToken("k"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.CloseIdleConnections()
	ticket, err := c.StreamTicket(context.Background(), "/v1/tail")
	if err != nil || ticket != (StreamTicket{"abc", "/v1/tail", 7}) {
		t.Fatalf("%+v, %v", ticket, err)
	}
	events, err := c.Tail(context.Background(), TailOptions{Topics: []string{"t"}}, WithTicket(ticket.Ticket))
	if err != nil {
		t.Fatal(err)
	}
	events.Close()
}
