package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"pipeproc/cmd/server/service"
)

// TestStreamsEndByAge follows a topic that is never still through planned disconnects: the server ends each stream by itself
// between two events, and what the client saw last is where the next stream goes on.
func TestStreamsEndByAge(t *testing.T) {
	t.Parallel()
	const age, connections = time.Second, 3
	server := start(t, func(c *service.Config) { c.StreamMaxAge = age })
	ctx, stop := context.WithCancel(t.Context())
	still := make(chan struct{})
	go func() {
		defer close(still)
		w := wireTo(t, server)
		for ctx.Err() == nil {
			if a, err := w.try(ctx, http.MethodPost, "/v1/topics/a/logs", "{}"); ctx.Err() == nil && (err != nil || a.Status != http.StatusCreated) {
				t.Errorf("commit: %v %v", a, err)
				return
			}
		}
	}()
	defer func() {
		stop()
		<-still
	}()

	// follow reads the stream to its end, event by event.
	follow := func(t *testing.T, path, last string, event func(wireEvent)) string {
		t.Helper()
		begun := time.Now()
		s := wireTo(t, server).stream(path, last)
		e, err := s.Event()
		for ; err == nil; e, err = s.Event() {
			a := &wireAnswer{t: t, what: s.what + ": " + e.Type, Text: e.Data, JSON: decodeWire(t, s.what, []byte(e.Data))}
			event(wireEvent{e, a})
		}
		if took := time.Since(begun); !errors.Is(err, io.EOF) || took < age*4/5 || took > 10*age {
			t.Fatalf("%s: it ended after %v: %v", s.what, took, err)
		}
		s.close()
		return s.LastEventID()
	}
	t.Run("tail", func(t *testing.T) {
		last, next := "", 0
		for range connections {
			before := next
			last = follow(t, tailOf+"a&start=earliest", last, func(e wireEvent) {
				if e.Type != "log" || !strings.HasSuffix(e.str("id"), fmt.Sprint("-", next)) {
					t.Errorf("%s: %s, want seq %d", e.what, e.Data, next)
				}
				next++
			})
			if next == before {
				t.Error("a stream without logs")
			}
		}
	})
	t.Run("liveProc", func(t *testing.T) {
		w := wireTo(t, server)
		name, changes := w.live(`{"topic":"a","mode":"all"}`)
		w.send(http.MethodPatch, "/v1/procs/"+name, `{"reclaimTimeout":-1}`).is(http.StatusOK)
		last, unacked, next := "", "", 0
		for connection := range connections {
			before := next
			last = follow(t, changes, last, func(e wireEvent) {
				if !strings.HasPrefix(e.ID, name+":1:") {
					t.Errorf("%s: id %q", e.what, e.ID)
				}
				if e.Type == "liveproc" {
					return
				}
				if e.Type != "logs" {
					t.Errorf("%s: %s", e.what, e.Data)
				}
				token := e.str("claim.token")
				again := token == unacked
				if !again {
					next++
				}
				e.hasSeqs("logs", int64(next-1), int64(next-1))
				if unacked = token; !again && connection%2 == 0 && next >= before+3 {
					return // left to the next connection
				}
				w.ack(name, e.wireAnswer)
				unacked = ""
			})
			if next == before || connection%2 == 0 && unacked == "" {
				t.Errorf("%d logs on connection %d, the last claim %q", next-before, connection, unacked)
			}
		}
	})
}
