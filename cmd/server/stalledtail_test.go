package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"pipeproc/livestream/ssetest"
)

// TestStalledTail: one of 500 tails of a topic stops reading. The others lose nothing, the stalled one is gone within
// 15 s, and no goroutine of the server is left behind.
func TestStalledTail(t *testing.T) {
	t.Parallel()
	const readers, logs = 499, 100
	p := launch(t, nil, onDatabase(t)...)
	url := p.url(t)
	address := strings.TrimPrefix(url, "http://")
	add := func(topic, body string) {
		t.Helper()
		if status, answer := call(t, "POST", url, "/v1/topics/"+topic+"/logs", body); status != http.StatusCreated {
			t.Fatal(status, answer)
		}
	}
	add("busy", `{"n":-1}`)
	add("great", `{}`)
	idle := gauge(t, url, "go_goroutines")

	// It follows a topic of great logs too, so that what lies between it and the server fills up soon.
	d := net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) { _ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4096) })
	}}
	stalled, err := d.DialContext(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer stalled.Close()
	if _, err := fmt.Fprintf(stalled, "GET /v1/tail?topic=busy&topic=great HTTP/1.1\r\nHost: %s\r\n\r\n", address); err != nil {
		t.Fatal(err)
	}
	const tails = `pipeproc_streams_open{kind="tail"}`
	eventually(t, "the tail is open", func() bool { return gauge(t, url, tails) == 1 })

	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	open, leave := make(chan error, readers), make(chan struct{})
	var all sync.WaitGroup
	for range readers {
		all.Go(func() { followNumbers(t, transport, url+"/v1/tail?topic=busy", logs, open, leave) })
	}
	for range readers {
		if err := <-open; err != nil {
			t.Fatal(err)
		}
	}
	began := time.Now()
	great := `{"text":"` + strings.Repeat("x", 1_000_000) + `"}`
	for n := range logs {
		if n < 16 {
			add("great", great)
		}
		add("busy", fmt.Sprintf(`{"n":%d}`, n))
	}
	eventually(t, "the stalled tail is gone", func() bool { return gauge(t, url, tails) <= readers })
	if took := time.Since(began); took > 15*time.Second {
		t.Errorf("the stalled tail was there for %v", took)
	}
	if kept, _ := io.Copy(io.Discard, stalled); kept > 1<<20 {
		t.Errorf("%d bytes lay between the server and the stalled tail: a slow one would look like it for long", kept)
	}
	close(leave)
	all.Wait()
	eventually(t, "the others are gone", func() bool { return gauge(t, url, tails) == 0 })
	transport.CloseIdleConnections()
	eventually(t, "their goroutines are gone", func() bool { return gauge(t, url, "go_goroutines") <= idle+2 })
	p.stop(t)
}

// followNumbers reads a tail until it has so many logs, numbered from 0, and stays until it may leave. It tells open when it
// has begun.
func followNumbers(t *testing.T, via http.RoundTripper, url string, logs int, open chan<- error, leave <-chan struct{}) {
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		open <- err
		return
	}
	resp, err := via.RoundTrip(req)
	open <- err
	if err != nil {
		return
	}
	defer resp.Body.Close()
	r := ssetest.NewReader(resp.Body)
	for n := range logs {
		e, err := r.Event()
		if err != nil || !strings.HasSuffix(e.Data, fmt.Sprintf(`"body":{"n":%d}}`, n)) {
			t.Errorf("log %d is %.200s: %v", n, e.Data, err)
			break
		}
	}
	select {
	case <-leave:
	case <-ctx.Done():
	}
}

// gauge is a metric of the server's.
func gauge(t *testing.T, url, name string) (value float64) {
	t.Helper()
	status, metrics := call(t, "GET", url, "/metrics", "")
	_, rest, found := strings.Cut(metrics, "\n"+name+" ")
	if status != http.StatusOK || !found {
		t.Fatalf("no metric %s: %d", name, status)
	}
	if _, err := fmt.Sscan(rest, &value); err != nil {
		t.Fatal(err)
	}
	return value
}
