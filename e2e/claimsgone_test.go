package e2e

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// rawPost sends a POST on a connection of its own, with a small receive buffer, and leaves the answer unread.
func rawPost(t *testing.T, s *server, path, body string) *net.TCPConn {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	tcp := conn.(*net.TCPConn)
	if err := tcp.SetReadBuffer(4 << 10); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
		path, len(body), body); err != nil {
		t.Fatal(err)
	}
	return tcp
}

// leave goes away as a client that dies does (a reset), or in order.
func leave(t *testing.T, conn *net.TCPConn, reset bool) {
	t.Helper()
	if reset {
		if err := conn.SetLinger(0); err != nil {
			t.Fatal(err)
		}
	}
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestClaimOfALostWaiter holds that a client that goes away during its long poll takes no logs with it.
func TestClaimOfALostWaiter(t *testing.T) {
	t.Parallel()
	s := start(t)
	for _, reset := range []bool{false, true} {
		for route, body := range map[string]string{
			"procs/NAME/claim": `{"topic":"NAME","wait":60000,"reclaimTimeout":-1}`,
			"claims":           `{"procs":[{"name":"NAME","topic":"NAME","reclaimTimeout":-1}],"wait":60000}`,
		} {
			name := strings.ReplaceAll(fmt.Sprintf("%s-%t", route, reset), "/", "-")
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				w := wireTo(t, s)
				named := func(text string) string { return strings.ReplaceAll(text, "NAME", name) }
				for i := range 3 { // the logs come while the server learns of it, or before, or after
					conn := rawPost(t, s, named("/v1/"+route), named(body))
					w.commit("unrelated", 1)
					leave(t, conn, reset)
					for range i {
						w.commit("unrelated", 1)
					}
					w.commit(name, 1)
					claimed := w.claim(name, named(`{"topic":"NAME","wait":20000,"reclaimTimeout":-1}`)).has("claim.attempt", 1).
						hasSeqs("logs", int64(i), int64(i))
					w.ack(name, claimed)
				}
			})
		}
	}
}

// TestClaimThatIsNotDelivered holds that a claim whose answer cannot be written is undone and does not count, and that a
// claim ends at 8 MiB.
func TestClaimThatIsNotDelivered(t *testing.T) {
	t.Parallel()
	s := start(t)
	w := wireTo(t, s)
	log := `{"x":"` + strings.Repeat("x", 1<<20-8) + `"}`
	var ids []string
	w.commit("big", 1)
	for range 9 {
		ids = append(ids, w.post("/v1/topics/big/logs", log).is(http.StatusCreated).str("id"))
	}
	w.ack("p", w.claim("p", `{"topic":"big","maxReclaims":1,"reclaimTimeout":-1}`))
	before := w.proc("p").str("lastClaimedRange")

	// 8 MiB are more than the buffers of a connection hold.
	for _, reset := range []bool{true, false} {
		conn := rawPost(t, s, "/v1/procs/p/claim", `{"count":100}`)
		status := make([]byte, len("HTTP/1.1 200"))
		if _, err := io.ReadFull(conn, status); err != nil || string(status) != "HTTP/1.1 200" {
			t.Fatalf("%q, %v", status, err)
		}
		w.proc("p").has("claim.range", wireRange(ids[:8]...)).has("claim.attempt", 1)
		leave(t, conn, reset)
		p := w.proc("p")
		for deadline := time.Now().Add(20 * time.Second); p.at("claim") != nil; p = w.proc("p") {
			if time.Now().After(deadline) {
				t.Fatal("the claim was not undone")
			}
		}
		p.has("reclaims", 0).has("status", "active").has("lag", 9).has("lastClaimedRange", before)
	}

	// What is delivered ends at 8 MiB.
	resp, err := http.Post(s.URL+"/v1/procs/p/claim", "application/json", strings.NewReader(`{"count":100}`))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	n, err := io.Copy(io.Discard, resp.Body)
	if err != nil || n != resp.ContentLength || n < 8<<20 || n > 8<<20+2000 {
		t.Errorf("%d bytes of %d, %v", n, resp.ContentLength, err)
	}
	w.proc("p").has("claim.range", wireRange(ids[:8]...)).has("claim.attempt", 1)
	http.DefaultClient.CloseIdleConnections()
	w.post("/v1/procs/p/ack", "").is(http.StatusOK)
	w.send(http.MethodPatch, "/v1/procs/p", `{"count":100}`).is(http.StatusOK)
	w.claim("p", "").has("claim.range", wireRange(ids[8]))
}
