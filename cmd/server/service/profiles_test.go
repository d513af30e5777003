package service

import (
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"pipeproc/pgstore/pgtest"
)

func TestProfilesAddress(t *testing.T) {
	for _, address := range []string{"", "127.0.0.1:0", "127.9.9.9:6060", "[::1]:0", "localhost:6060"} {
		c := DefaultConfig()
		c.PprofListen = address
		if _, err := New(c); err != nil {
			t.Errorf("%q: %v", address, err)
		}
	}
	for address, want := range map[string]string{
		":6060": "only loopback", "0.0.0.0:6060": "only loopback", "[::]:6060": "only loopback", "192.0.2.1:6060": "only loopback",
		"127.0.0.1": "host:port", "unix:/s": "host:port", "127.0.0.1:http-alt-x": "host:port",
	} {
		c := DefaultConfig()
		c.PprofListen, c.Insecure = address, true // which is of no use here
		_, err := New(c)
		if err == nil || !strings.Contains(err.Error(), "--pprof-listen") || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want an error with %q", address, err, want)
		}
	}
}

// TestProfiles holds that profiles are served at their own address alone, and that webhooks do not reach it.
func TestProfiles(t *testing.T) {
	c := DefaultConfig()
	c.Listen = []string{"127.0.0.1:0"}
	c.DatabaseURL, c.UnsafeDurability, c.Logger = pgtest.Database(t), true, pgtest.Logger()
	c.PprofListen = freePort(t)
	s, stop := run(t, c)
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	for url, want := range map[string]int{
		"http://" + c.PprofListen + "/debug/pprof/":                  200,
		"http://" + c.PprofListen + "/debug/pprof/heap":              200,
		"http://" + c.PprofListen + "/debug/pprof/profile?seconds=1": 200,
		"http://" + c.PprofListen + "/debug/pprof/cmdline":           404,
		"http://" + c.PprofListen + "/healthz":                       404,
		s.URLs()[0] + "/debug/pprof/":                                404,
		s.URLs()[0] + "/debug/pprof/heap":                            404,
	} {
		res, err := client.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(res.Body)
		res.Body.Close()
		if res.StatusCode != want || len(body) == 0 {
			t.Errorf("%s: %s, %d bytes, want %d", url, res.Status, len(body), want)
		}
	}
	for _, header := range []string{"Host: evil.example", "Host: 192.0.2.1", "Sec-Fetch-Site: cross-site", "Sec-Fetch-Site: same-site"} {
		name, value, _ := strings.Cut(header, ": ")
		req, err := http.NewRequest("GET", "http://"+c.PprofListen+"/debug/pprof/heap", nil)
		if err != nil {
			t.Fatal(err)
		}
		if req.Header.Set(name, value); name == "Host" {
			req.Host = value
		}
		res, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != http.StatusForbidden {
			t.Errorf("a page's request with %s: %s", header, res.Status)
		}
	}
	spec := `{"name":"p","from":"t","processor":"http://` + c.PprofListen + `/debug/pprof/symbol"}`
	res, err := client.Post(s.URLs()[0]+"/v1/system-procs", "application/json", strings.NewReader(spec))
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusBadRequest {
		t.Errorf("a webhook at the address of profiles: %s", res.Status)
	}
	stop()
	if _, err := client.Get("http://" + c.PprofListen + "/debug/pprof/"); err == nil {
		t.Error("profiles are still served")
	}
}

func freePort(t *testing.T) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}
