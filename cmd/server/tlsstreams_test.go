package main

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"pipeproc/livestream/ssetest"
)

// TestStreamsOverTLS: a tail and a liveProc's stream share one connection, HTTP/2, with requests, get what is committed, and
// end between two events when the server stops.
func TestStreamsOverTLS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ca := newAuthority(t, dir)
	cert, key := ca.issue(t, dir, "server", x509.ExtKeyUsageServerAuth)
	p := launch(t, nil, onDatabase(t, "--tls-cert", cert, "--tls-key", key)...)
	u, client := p.url(t), ca.client(t, nil)
	streams := map[string]*ssetest.Reader{}
	for event, path := range map[string]string{"log": "/v1/tail?topic=numbers", "logs": "/v1/topics/numbers/live?mode=all"} {
		resp, err := client.Get(u + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK || resp.ProtoMajor != 2 {
			t.Fatalf("%s: %s %s", path, resp.Proto, resp.Status)
		}
		streams[event] = ssetest.NewReader(resp.Body)
	}
	live, err := streams["logs"].Event()
	if err != nil || live.Type != "liveproc" {
		t.Fatal(live, err)
	}
	name, _, _ := strings.Cut(live.ID, ":")
	for n := range 3 {
		body := fmt.Sprintf(`{"n":%d}`, n)
		if status, answer, err := tryBy(client, "POST", u, "/v1/topics/numbers/logs", body); err != nil || status != http.StatusCreated {
			t.Fatal(status, answer, err)
		}
		for event, stream := range streams {
			if e, err := stream.Event(); err != nil || e.Type != event || !strings.Contains(e.Data, `"body":`+body) {
				t.Fatalf("%s: %+v %v", event, e, err)
			}
		}
		if status, answer, err := tryBy(client, "POST", u, "/v1/procs/"+name+"/ack", ""); err != nil || status != http.StatusOK {
			t.Fatal(status, answer, err)
		}
	}
	p.stop(t)
	for event, stream := range streams {
		if e, err := stream.Event(); !errors.Is(err, io.EOF) {
			t.Errorf("%s: %+v %v, want the end", event, e, err)
		}
	}
}
