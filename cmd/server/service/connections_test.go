package service

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// TestConnectionsAreLimited holds that one connection too many is told so and closed, and that the others are served.
func TestConnectionsAreLimited(t *testing.T) {
	c := testConfig(t)
	c.MaxConnections = 2
	s, _ := run(t, c)
	address := strings.TrimPrefix(s.URLs()[0], "http://")
	dial := func() net.Conn {
		t.Helper()
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		return conn
	}
	ask := func(conn net.Conn) (*http.Response, error) {
		_, _ = io.WriteString(conn, "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
		res, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err == nil {
			defer res.Body.Close()
		}
		return res, err
	}
	first, second := dial(), dial()
	for _, conn := range []net.Conn{first, second} {
		if res, err := ask(conn); err != nil || res.StatusCode != 200 {
			t.Fatal(res, err)
		}
	}
	for range 3 {
		third := dial()
		res, err := ask(third)
		if err != nil || res.StatusCode != 503 || res.Header.Get("Retry-After") == "" ||
			res.Header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("one too many: %v %v", res, err)
		}
		if n, err := io.Copy(io.Discard, third); n != 0 || err != nil { // it is over
			t.Errorf("%d more bytes, %v", n, err)
		}
	}
	if res, err := ask(first); err != nil || res.StatusCode != 200 {
		t.Error(res, err)
	}
	second.Close()
	for deadline := time.Now().Add(10 * time.Second); ; { // the server sees it soon
		if res, err := ask(dial()); err == nil && res.StatusCode == 200 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("a connection that is closed still counts")
		}
	}
}

// TestManyRefused holds that those who are refused take nothing: who cannot be told at once is closed.
func TestManyRefused(t *testing.T) {
	c := newConnections(1, prometheus.NewRegistry())
	for range tellingMost {
		c.telling <- struct{}{}
	}
	client, server := net.Pipe()
	c.refuse(server, true)
	if n, err := client.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("%d, %v", n, err)
	}
	client, server = net.Pipe() // TLS: what is plain cannot be read
	c.telling = make(chan struct{}, 1)
	c.refuse(server, false)
	if n, err := client.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("%d, %v", n, err)
	}
	c.told.Wait()
}
