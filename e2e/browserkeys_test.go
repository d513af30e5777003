//go:build browser

package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"pipeproc/client"
	"pipeproc/cmd/server/service"
	"pipeproc/httpapi"
)

// keyed is a service that asks for API keys, and lets the pages of one origin use it: those of a site at http://localhost,
// which is another site than its own, http://127.0.0.1.
type keyed struct {
	*server
	t      *testing.T
	site   *site
	origin string // the allowed one
	file   string // of the keys
	reader string // a key
	writer *client.Client
}

func startKeyed(t *testing.T) *keyed {
	t.Helper()
	k := &keyed{t: t, site: startSite(t, "http://127.0.0.1:1"), file: filepath.Join(t.TempDir(), "keys")}
	k.origin = otherSite(k.site)
	reader, lines := newKey(t, "page", httpapi.RoleRead)
	writer, line := newKey(t, "writer", httpapi.RoleWrite)
	k.reader = reader
	k.allow(lines, line)
	k.server = start(t, func(c *service.Config) {
		c.APIKeysFile, c.CORSOrigins, c.StreamMaxAge = k.file, []string{k.origin}, time.Second
	})
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	var err error
	if k.writer, err = client.New(k.URL, client.WithToken(writer), client.WithHTTPClient(&http.Client{Transport: transport})); err != nil {
		t.Fatal(err)
	}
	return k
}

// otherSite is s as a site of its own.
func otherSite(s *site) string { return strings.Replace(s.URL, "127.0.0.1", "localhost", 1) }

func newKey(t *testing.T, name string, role httpapi.Role) (key, line string) {
	t.Helper()
	key, line, err := httpapi.NewKey(name, role)
	if err != nil {
		t.Fatal(err)
	}
	return key, line
}

// allow replaces the keys.
func (k *keyed) allow(lines ...string) {
	k.t.Helper()
	if err := os.WriteFile(k.file, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		k.t.Fatal(err)
	}
}

// commit commits a log to the topic t, and answers the data of a tail's event of it.
func (k *keyed) commit(body string) string {
	k.t.Helper()
	c, err := k.writer.CommitTo(k.t.Context(), "t", json.RawMessage(body))
	if err != nil {
		k.t.Fatal(err)
	}
	return tailData("t", c.ID.String(), body)
}

// page is the URL of a page of origin that opens the stream at path, by a ticket where a key is given.
func (k *keyed) page(origin, path, key string) string {
	return origin + "/page?" + url.Values{"stream": {k.URL + path}, "key": {key}}.Encode()
}

// fetched is an expression: the answer to a request for path with the key, {status, request}, or {error} where the browser
// keeps it from the page.
func (k *keyed) fetched(path, options string) string {
	return fmt.Sprintf(`fetch(%q, Object.assign({headers: {Authorization: "Bearer %s"}}, %s)).then(
		a => ({status: a.status, request: a.headers.get("X-Request-Id") ?? ""}), e => ({error: String(e)}))`, k.URL+path, k.reader, options)
}

type fetched struct {
	Status         int
	Request, Error string
}

// allowedOriginStreams: the page asks for a ticket once, and its EventSource is cut off by the server again and again, comes
// back with the same ticket, and misses nothing. When its key is removed, that ends.
func allowedOriginStreams(t *testing.T, browser *chromium) {
	k := startKeyed(t)
	p := browser.open(t, k.page(k.origin, "/v1/tail?topic=t&start=earliest", k.reader))
	var want []string
	for opened := 1; opened <= 3; opened++ {
		p.until(fmt.Sprintf("states.filter(state => state === EventSource.OPEN).length >= %d", opened))
		for i := range 5 {
			want = append(want, k.commit(browserBody(i)))
		}
	}
	p.tailed(append(want, k.commit(`{"end":"of the test"}`)))

	var got fetched
	if p.read(k.fetched("/v1/topics/t", "{}"), &got); got.Status != http.StatusOK || got.Request == "" {
		t.Errorf("a request with the key: %+v", got)
	}
	if p.read(k.fetched("/v1/topics/t/logs", `{method: "POST", body: "{}"}`), &got); got.Status != http.StatusForbidden {
		t.Errorf("a write with a key that reads: %+v", got)
	}
	k.allow("# nobody")
	p.until("source.readyState === EventSource.CLOSED")
	if p.read(k.fetched("/v1/topics/t", "{}"), &got); got.Status != http.StatusUnauthorized {
		t.Errorf("a request with a key that is gone: %+v", got)
	}
	t.Logf("readyStates %v", p.states())
}

// otherOriginsAreRefused: a page of another origin, even of another port of the allowed one's host, gets nowhere with the key
// that it has found, nor with a ticket, which it does not use up either.
func otherOriginsAreRefused(t *testing.T, browser *chromium) {
	k := startKeyed(t)
	k.commit(`{"n":1}`)
	other := startSite(t, "http://127.0.0.1:1")
	for what, origin := range map[string]string{"another port": otherSite(other), "another host": other.URL} {
		p := browser.open(t, k.page(origin, "/v1/tail?topic=t&start=earliest", k.reader))
		p.until("problems.length === 1") // it gets no ticket
		var got fetched
		for _, options := range []string{`{}`, `{method: "POST", body: "{}"}`, `{method: "DELETE"}`} {
			if p.read(k.fetched("/v1/topics/t/logs", options), &got); got.Error == "" {
				t.Errorf("%s: the page sees the answer to %s: %+v", what, options, got)
			}
		}
		// What a browser sends without asking first; the page sees nothing of the answer.
		p.read(k.fetched("/v1/topics/t/logs", `{method: "POST", mode: "no-cors", body: "{}"}`), &got)
		if got.Status != 0 {
			t.Errorf("%s: a write without a key: %+v", what, got)
		}

		ticket, err := k.writer.StreamTicket(t.Context(), "/v1/tail")
		if err != nil {
			t.Fatal(err)
		}
		path := "/v1/tail?topic=t&start=earliest&ticket=" + ticket.Ticket
		p = browser.open(t, k.page(origin, path, ""))
		p.until("source.readyState === EventSource.CLOSED")
		var events int
		if p.read("events.length", &events); events != 0 {
			t.Errorf("%s: %d events by a ticket that was found", what, events)
		}
		p = browser.open(t, k.page(k.origin, path, ""))
		p.until("events.length === 1")
	}
	topic, err := k.writer.Topic(t.Context(), "t")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(int64(1), topic.Committed); d != "" {
		t.Errorf("logs (-want +got):\n%s", d)
	}
}
