package e2e

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"pipeproc/api"
	"pipeproc/cmd/server/service"
)

// noAddress is what a proc tells of a processor whose address may not be called, or is not known.
const noAddress = "the processor's host has no address that may be called"

// forbiddenHosts may never be called, nor be in the URL of a systemProc.
var forbiddenHosts = []string{"0.0.0.0", "[::]", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "192.0.0.1",
	"192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "[fe80::1]", "[fe80::1%25eth0]",
	"[fd00::1]", "[ff02::1]", "[2001:db8::1]", "[2002:7f00:1::1]", "[2001::1]", "[64:ff9b::a00:1]", "[64:ff9b::7f00:1]", "[::ffff:10.0.0.1]",
	"[::127.0.0.1]", "127.1", "0x7f.1", "0177.0.0.1", "2130706433", "017700000001", "127.0.0.1."}

// loopbackHosts may be called where loopback addresses are open.
var loopbackHosts = []string{"127.0.0.1", "127.0.0.2", "[::1]", "[::ffff:127.0.0.1]", "localhost", "LOCALHOST.", "any.localhost", "１２７.0.0.1"}

// refuses holds that no systemProc gets a URL, neither when it is created nor later.
func (w procWire) refuses(urls ...string) {
	w.t.Helper()
	for _, url := range urls {
		w.post("/v1/system-procs", fmt.Sprintf(`{"name":"refused","from":"refused_a","processor":%q}`, url)).
			isProblem(400, "no_valid_processor_provided")
		w.post("/v1/system-procs", fmt.Sprintf(`{"name":"refused","from":"refused_a","processor":{"url":%q}}`, url)).
			isProblem(400, "no_valid_processor_provided")
		w.send(http.MethodPatch, "/v1/system-procs/patched", fmt.Sprintf(`{"processor":%q}`, url)).
			isProblem(400, "no_valid_processor_provided")
	}
	w.get("/v1/system-procs/refused").isProblem(404, "invalid_system_proc")
}

// accepts holds that a systemProc is created with a URL. It is destroyed at once: nothing is called.
func (w procWire) accepts(urls ...string) {
	w.t.Helper()
	for _, url := range urls {
		w.systemProc("accepted", "accepted_a", url)
		w.send(http.MethodDelete, "/v1/system-procs/accepted", "").is(http.StatusOK)
	}
}

func at(port string, hosts ...string) (urls []string) {
	for _, host := range hosts {
		urls = append(urls, "http://"+host+":"+port+"/")
	}
	return urls
}

// TestReachOfLoopback: a server that this machine alone can reach calls webhooks on it, but not itself and its database.
func TestReachOfLoopback(t *testing.T) {
	s := start(t)
	w := wireTo(t, s)
	w.systemProc("patched", "patched_a", "https://hooks.example.com/")
	w.accepts(at("9090", loopbackHosts...)...)
	w.accepts("http://8.8.8.8/", "https://[2606:4700:4700::1111]/", "http://any.internal/", "http://[64:ff9b::808:808]/")
	w.refuses(at("9090", forbiddenHosts...)...)

	w.refuses(at(portOf(t, s.URL), "127.0.0.1", "[::ffff:127.0.0.1]", "localhost", "any.localhost.", "１２７.0.0.1", "0.0.0.0")...)
	database, err := pgx.ParseConfig(s.Database)
	if err != nil {
		t.Fatal(err)
	}
	if host := database.Host; strings.HasPrefix(host, "/") || host == "127.0.0.1" || host == "localhost" {
		w.refuses(at(fmt.Sprint(database.Port), "127.0.0.1", "127.0.0.2", "[::1]", "localhost")...)
	}
	w.get("/v1/system-procs/patched").has("processor", "https://hooks.example.com/")

	p := newProcessor(t)
	w.commit("called_a", 1)
	w.systemProc("called", "called_a", p.URL)
	p.next().answer(204, "")
	w.done("called")
}

// TestReachOfOpenServer: a server that other machines can reach calls no webhooks on its own one, unless that is opened.
func TestReachOfOpenServer(t *testing.T) {
	open := func(c *service.Config) { c.Listen, c.Insecure = []string{"0.0.0.0:0", "127.0.0.1:0"}, true }
	idle := func(c *service.Config) { c.Workers = 0 }
	p := newProcessor(t)

	// Before it was opened to others, systemProcs were created with what it refuses now.
	before := start(t, idle)
	w := wireTo(t, before)
	w.systemProc("patched", "patched_a", "https://hooks.example.com/")
	for name, url := range map[string]string{"address": p.URL, "name": strings.Replace(p.URL, "127.0.0.1", "localhost", 1),
		"unknown": "http://unknown.invalid/"} {
		w.commit(name+"_a", 1)
		w.patientSystemProc(name, name+"_a", url) // longer than a connection, where DNS does not answer
	}
	before.Stop()

	closed := startOn(t, before.Database, open)
	w = wireTo(t, closed)
	w.refuses(at("9090", loopbackHosts...)...)
	w.refuses(at("9090", forbiddenHosts...)...)
	w.accepts("http://8.8.8.8/", "http://any.internal/")
	for _, name := range []string{"address", "name", "unknown"} {
		failed := w.until(name, "failed", func(p api.Proc) bool { return p.Reclaims > 0 })
		if failed.LastError != noAddress || failed.Status != api.StatusActive || failed.NextAttemptAt == nil && failed.Claim == nil { // it waits, or is at it again
			t.Errorf("%s: %+v", name, failed)
		}
	}
	closed.Stop()
	p.idle()

	w = wireTo(t, startOn(t, before.Database, open, func(c *service.Config) { c.WebhookAllow = []string{"127.0.0.1/32", "10.0.0.0/8"} }))
	w.accepts(at("9090", "127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "10.1.2.3")...)
	w.refuses(at("9090", "127.0.0.2", "[::1]", "192.168.1.1", "0.0.0.0")...)
	w.refuses(at(portOf(t, w.URL), "127.0.0.1", "localhost")...)
	for range 2 { // address and name
		p.next().answer(204, "")
	}
	w.done("address", "name")
}

func portOf(t *testing.T, raw string) string {
	t.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	return u.Port()
}
