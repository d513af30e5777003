//go:build security && linux

package security

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
	"testing"
	"time"
)

// keysFile is a file of API keys, one for each name with its role, and the keys.
func keysFile(t *testing.T, roles map[string]string) (file string, keys map[string]string) {
	t.Helper()
	var text string
	keys = map[string]string{}
	for name, role := range roles {
		key, line := keygen(t, name, role)
		keys[name] = key
		text += line + "\n"
	}
	file = filepath.Join(t.TempDir(), "keys")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file, keys
}

var left = regexp.MustCompile(`^"(address|key)";r=([0-9]+);t=1$`)

// TestRequestRate: an address that makes too many requests a second is told so, and how many are left before; others, and the
// probes, are answered as ever. A second later it is welcome again.
func TestRequestRate(t *testing.T) {
	t.Parallel()
	const rate = 100
	s := launch(t, "--rate-limit", fmt.Sprint(rate))
	s.call("POST", "/v1/topics/t/logs", "{}").is(http.StatusCreated)
	// Others come through the Unix socket: all of them share another address.
	s.under(bounds{memory: 64, goroutines: 500, aside: true}, func() {
		wires := s.wires(20)
		var mu sync.Mutex
		allowed, refused := 0, 0
		begun := time.Now()
		if err := atOnce(wires, func(w *wire) error {
			for range 100 {
				w.send("GET /v1/topics/t HTTP/1.1\r\nHost: localhost\r\n\r\n")
				a, err := w.answer("GET")
				if err != nil {
					return err
				}
				told := left.FindStringSubmatch(a.header.Get("RateLimit"))
				if told == nil || a.header.Get("RateLimit-Policy") != `"address";q=100;w=1` {
					return fmt.Errorf("RateLimit %q, its policy %q", a.header.Get("RateLimit"), a.header.Get("RateLimit-Policy"))
				}
				mu.Lock()
				switch {
				case a.status == http.StatusOK:
					allowed++
				case a.status == http.StatusTooManyRequests && a.problem() == "rate_limited" && a.header.Get("Retry-After") == "1" && told[2] == "0":
					refused++
				default:
					err = fmt.Errorf("%d %v %.200s", a.status, a.header, a.body)
				}
				mu.Unlock()
				if err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
		took := time.Since(begun).Seconds()
		if most := rate * (took + 2); float64(allowed) > most || allowed < rate/2 || refused == 0 {
			t.Errorf("%d requests were answered in %.1f s, %d refused", allowed, took, refused)
		}
		t.Logf("%d answered, %d refused in %.1f s", allowed, refused, took)
		s.get("/healthz").is(http.StatusOK)
		s.get("/readyz").is(http.StatusOK)
		for _, w := range wires { // their answers before the limit's, refused or not, cost no connection
			w.reset()
		}
		s.eventually("it is welcome again", func() bool { return s.get("/v1/topics/t").status == http.StatusOK })
		if n, err := strconv.Atoi(left.FindStringSubmatch(s.get("/v1/topics/t").header.Get("RateLimit"))[2]); err != nil || n > rate {
			t.Error(n, err)
		}
	})
}

// TestForgedAddresses: who sends another X-Forwarded-For with each request has still one address.
func TestForgedAddresses(t *testing.T) {
	t.Parallel()
	s := launch(t, "--rate-limit", "5")
	refused := 0
	for i := range 200 {
		address := net.IPv4(198, 51, 100, byte(i)).String()
		a := s.get("/v1/topics", "X-Forwarded-For", address, "Forwarded", "for="+address, "X-Real-Ip", address)
		if a.status == http.StatusTooManyRequests {
			a.isProblem(http.StatusTooManyRequests, "rate_limited")
			refused++
		}
	}
	if refused == 0 {
		t.Error("none of 200 requests was refused")
	}
}

// TestKeyRate: a key has a limit of its own, wherever its requests come from, which wrong keys do not use up.
func TestKeyRate(t *testing.T) {
	t.Parallel()
	file, keys := keysFile(t, map[string]string{"busy": "write", "calm": "read"})
	s := launch(t, "--rate-limit", "5", "--api-keys-file", file, "--trusted-proxy", "127.0.0.1/32")
	ask := func(key string, i int) *answer {
		return s.get("/v1/topics", "Authorization", "Bearer "+key, "X-Forwarded-For", net.IPv4(198, 51, 100, byte(i)).String())
	}
	refused := 0
	for i := range 200 {
		if a := ask(keys["busy"], i); a.status == http.StatusTooManyRequests {
			a.isProblem(http.StatusTooManyRequests, "rate_limited")
			refused++
		}
		ask("pipeproc_wrong", i).isProblem(http.StatusUnauthorized, "unauthorized")
	}
	if refused == 0 {
		t.Error("none of 200 requests with one key was refused")
	}
	ask(keys["calm"], 0).is(http.StatusOK)
}

// TestStreamLimits: an address, and a key, has so many streams, of events or of lines; one more is told so, and one that ends
// makes room.
func TestStreamLimits(t *testing.T) {
	t.Parallel()
	file, keys := keysFile(t, map[string]string{"one": "write", "two": "admin"})
	s := launch(t, "--max-streams", "60", "--max-streams-per-address", "30", "--max-streams-per-key", "20", "--api-keys-file", file,
		"--trusted-proxy", "127.0.0.1/32")
	s.key = keys["two"]
	s.call("POST", "/v1/topics/t/logs", "{}").is(http.StatusCreated)
	open := func(key, from, path string) (*wire, *answer) {
		w := s.wire()
		w.send("GET " + path + " HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer " + keys[key] + "\r\nX-Forwarded-For: " + from + "\r\n\r\n")
		res, err := http.ReadResponse(w.r, nil)
		if err != nil {
			t.Fatal(err)
		}
		if res.StatusCode == http.StatusOK {
			return w, &answer{t: t, what: path, status: res.StatusCode}
		}
		text := make([]byte, res.ContentLength)
		_, _ = res.Body.Read(text)
		return w, &answer{t, path, res.StatusCode, res.Header, string(text)}
	}
	refused := func(a *answer, status int, code string) {
		t.Helper()
		a.isProblem(status, code)
		if a.header.Get("Retry-After") == "" {
			t.Errorf("%s: no Retry-After", a.what)
		}
	}
	s.under(bounds{memory: 64, goroutines: 400}, func() {
		var all []*wire
		for i := range 20 {
			w, a := open("one", "198.51.100.1", []string{"/v1/tail?topic=t", "/v1/topics/t/live?mode=live&ttl=1000"}[i%2])
			a.is(http.StatusOK)
			all = append(all, w)
		}
		for _, path := range []string{"/v1/tail?topic=t", "/v1/topics/t/live?mode=live"} {
			_, a := open("one", "198.51.100.2", path) // the key has its share
			refused(a, http.StatusTooManyRequests, "rate_limited")
		}
		for range 10 {
			w, a := open("two", "198.51.100.1", "/v1/tail?topic=t")
			a.is(http.StatusOK)
			all = append(all, w)
		}
		_, a := open("two", "198.51.100.1", "/v1/tail?topic=t") // the address has its
		refused(a, http.StatusTooManyRequests, "rate_limited")
		w, a := open("two", "198.51.100.3", "/v1/tail?topic=t")
		a.is(http.StatusOK)
		all[0].reset()
		s.eventually("one that ends makes room", func() bool {
			w, a := open("one", "198.51.100.4", "/v1/tail?topic=t")
			w.reset()
			return a.status == http.StatusOK
		})
		for _, w := range append(all, w) {
			w.reset()
		}
		s.eventually("the liveProcs are gone", func() bool {
			return s.callBy(s.aside, "GET", "/v1/procs", "").body == `{"procs":[]}`+"\n"
		})
	})
}
