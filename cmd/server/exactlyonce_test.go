package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"pipeproc/pgstore/pgtest"
)

// TestKilledBeforeTheAckCommit kills the server between a webhook's answer and the ackCommit that it leads to: the answer
// was read, since its very bytes are on their way to PostgreSQL, and nothing was committed, since they are stopped there.
// Every sixth time it is killed a moment later: the ackCommit is committed, and the server does not hear of it. Each
// input's output must be in the target topic once, in order.
func TestKilledBeforeTheAckCommit(t *testing.T) {
	t.Parallel()
	const inputs, everySixth = 60, 6
	dbURL := pgtest.Database(t)
	g := newGate(t, dbURL)

	var mu sync.Mutex
	calls := make([][]string, inputs) // their webhook-ids, by input
	hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var call struct {
			Logs []struct{ Body struct{ N int } }
		}
		if err := json.NewDecoder(r.Body).Decode(&call); err != nil || len(call.Logs) != 1 {
			t.Errorf("a call with %d logs: %v", len(call.Logs), err)
			return
		}
		n := call.Logs[0].Body.N
		mu.Lock()
		calls[n] = append(calls[n], r.Header.Get("webhook-id"))
		output := fmt.Sprintf(`{"n":%d,"call":%d}`, n, len(calls[n]))
		if len(calls[n]) == 1 {
			g.stopAt(output, n%everySixth == everySixth-1)
		}
		mu.Unlock()
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, output)
	}))
	t.Cleanup(func() {
		hook.CloseClientConnections()
		hook.Close()
	})

	flags := []string{"--database-url", g.url, "--unsafe-durability", "--listen=127.0.0.1:0"}
	p := launch(t, nil, flags...)
	url := p.url(t)
	logs := make([]string, inputs)
	for n := range logs {
		logs[n] = fmt.Sprintf(`{"topic":"inputs","body":{"n":%d}}`, n)
	}
	if status, answer := call(t, "POST", url, "/v1/commit", "["+strings.Join(logs, ",")+"]"); status != http.StatusCreated {
		t.Fatal(status, answer)
	}
	if status, answer := call(t, "POST", url, "/v1/system-procs", `{"name":"s","from":"inputs","to":"numbers","maxReclaims":-1,
			"processor":"`+hook.URL+`"}`); status != http.StatusCreated {
		t.Fatal(status, answer)
	}
	for n := range inputs {
		select {
		case <-g.stopped:
		case <-time.After(limit):
			t.Fatalf("the window of input %d does not come:\n%s", n, p.log.String())
		}
		p.kill(t)
		pgtest.MoveClock(t, dbURL, "default", time.Duration(n+1)*time.Minute) // the claim's time-out is over
		p = launch(t, nil, flags...)
		url = p.url(t)
	}
	if status, answer := call(t, "POST", url, "/v1/wait", `{"procs":["s"]}`); status != http.StatusOK || !strings.Contains(answer, `"done":true`) {
		t.Fatal(status, answer)
	}
	got := bodies(t, url)
	p.stop(t)

	mu.Lock()
	defer mu.Unlock()
	if len(got) != inputs {
		t.Errorf("%d outputs of %d inputs", len(got), inputs)
	}
	for n := range min(len(got), inputs) {
		want, callsWanted := fmt.Sprintf(`{"n":%d,"call":2}`, n), 2
		if n%everySixth == everySixth-1 { // the first call's output was committed
			want, callsWanted = fmt.Sprintf(`{"n":%d,"call":1}`, n), 1
		}
		if got[n] != want {
			t.Errorf("output %d is %s, want %s", n, got[n], want)
		}
		if ids := calls[n]; len(ids) != callsWanted || ids[0] != ids[len(ids)-1] {
			t.Errorf("input %d was called with %q", n, ids)
		}
	}
}

// gate stands between servers and their PostgreSQL, and stops a server at what it is about to write.
type gate struct {
	url     string        // of the database, through the gate
	stopped chan struct{} // a word for each stop

	mu    sync.Mutex
	text  []byte // where to stop; nil nowhere
	later bool   // PostgreSQL still gets it and commits, and the server does not hear of it
}

func newGate(t *testing.T, dbURL string) *gate {
	t.Helper()
	g := &gate{stopped: make(chan struct{}, 1)}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	via, network, target := through(t, dbURL, ln.Addr().String())
	g.url = via
	var all sync.WaitGroup
	var open sync.Map
	all.Go(func() {
		for {
			in, err := ln.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial(network, target)
			if err != nil {
				t.Error(err)
				in.Close()
				continue
			}
			open.Store(in, nil)
			open.Store(out, nil)
			silent := make(chan struct{})
			all.Go(func() { g.requests(out, in, silent) })
			all.Go(func() { g.answers(in, out, silent) })
		}
	})
	t.Cleanup(func() {
		ln.Close()
		open.Range(func(c, _ any) bool { c.(net.Conn).Close(); return true })
		all.Wait()
	})
	return g
}

// stopAt stops the next server that sends text.
func (g *gate) stopAt(text string, later bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.text, g.later = []byte(text), later
}

// meets reports whether message is where to stop, once.
func (g *gate) meets(message []byte) (stop, later bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.text == nil || !bytes.Contains(message, g.text) {
		return false, false
	}
	g.text = nil
	return true, g.later
}

// requests hands a server's messages on.
func (g *gate) requests(to, from net.Conn, silent chan<- struct{}) {
	defer to.Close()
	r := bufio.NewReader(from)
	for typed := false; ; typed = true {
		message, err := readMessage(r, typed)
		if err != nil {
			return
		}
		if stop, later := g.meets(message); stop && later {
			close(silent)
		} else if stop {
			g.stopped <- struct{}{}
			_, _ = io.Copy(io.Discard, r) // until the server is dead
			return
		}
		if _, err := to.Write(message); err != nil {
			return
		}
	}
}

// answers hands PostgreSQL's messages on, until silent is closed; then it waits for the COMMIT.
func (g *gate) answers(to, from net.Conn, silent <-chan struct{}) {
	defer to.Close()
	r := bufio.NewReader(from)
	for {
		message, err := readMessage(r, true)
		if err != nil {
			return
		}
		select {
		case <-silent:
			if message[0] == 'C' && string(message[5:]) == "COMMIT\x00" {
				g.stopped <- struct{}{}
			}
			continue
		default:
		}
		if _, err := to.Write(message); err != nil {
			return
		}
	}
}

// readMessage reads a message of PostgreSQL's protocol, version 3: a type, but for a connection's first one, and a length
// that counts itself.
func readMessage(r *bufio.Reader, typed bool) ([]byte, error) {
	head := 4
	if typed {
		head = 5
	}
	message := make([]byte, head)
	if _, err := io.ReadFull(r, message); err != nil {
		return nil, err
	}
	rest := int(binary.BigEndian.Uint32(message[head-4:])) - 4
	if rest < 0 || rest > 1<<30 {
		return nil, fmt.Errorf("a message of %d bytes", rest)
	}
	message = append(message, make([]byte, rest)...)
	_, err := io.ReadFull(r, message[head:])
	return message, err
}
