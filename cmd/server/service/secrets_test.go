package service

import (
	"bytes"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"pipeproc/api"
)

// A lockedBuffer is a log that several may write to.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// TestNoSecretIsTold runs a server at debug, has it handle secrets of each kind, well and badly, and looks for them in its
// whole log, in every problem and in its metrics.
func TestNoSecretIsTold(t *testing.T) {
	const (
		header   = "Bearer planted-header-secret"
		password = "planted-url-secret"
	)
	secret := api.NewSecret()
	var log lockedBuffer
	c := testConfig(t)
	c.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	c.StreamMaxAge = time.Second
	u, err := url.Parse(c.DatabaseURL)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query() // where nobody asks for one
	if _, given := u.User.Password(); !given {
		q.Set("password", password)
		u.RawQuery = q.Encode()
		c.DatabaseURL = u.String()
	}
	called := make(chan struct{}, 100)
	hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != header || r.Header.Get("webhook-signature") == "" {
			t.Errorf("headers of the webhook: %v", r.Header)
		}
		called <- struct{}{}
		http.Error(w, "no", http.StatusBadRequest)
	}))
	defer hook.Close()
	s, stop := run(t, c)
	at := s.URLs()[0]
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	var problems strings.Builder
	send := func(method, path, body string, headers ...string) (status int) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, at+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		if body != "" {
			req.Header.Set("Content-Type", "application/json")
		}
		for _, h := range headers {
			name, value, _ := strings.Cut(h, ": ")
			req.Header.Set(name, value)
		}
		res, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		if res.StatusCode >= 400 {
			_, _ = io.Copy(&problems, res.Body)
		}
		return res.StatusCode
	}
	definition := func(secret, url string) string {
		return `{"name": "s", "from": "a", "secret": "` + secret + `", "processor": {"url": "` + url + `", "headers": {"Authorization": "` + header + `"}}}`
	}
	send("POST", "/v1/commit", `{"topic": "a", "body": {"x": 1}}`)
	if got := send("POST", "/v1/system-procs", definition(secret, hook.URL+"/?token=planted-query-secret")); got != 201 {
		t.Fatalf("create: %d %s", got, problems.String())
	}
	<-called
	send("POST", "/v1/system-procs", definition(secret+"!", hook.URL))      // not a secret
	send("POST", "/v1/system-procs", definition(secret, hook.URL+"/other")) // differs
	send("POST", "/v1/system-procs", definition(secret, "http://u:planted-userinfo@[::1"))
	send("POST", "/v1/system-procs", `{"secret": "`+secret+`", "unknown": "`+secret+`"`)
	send("PATCH", "/v1/system-procs/s", `{"processor": {"url": "http://0.0.0.0/planted-path", "headers": {"Authorization": "`+header+`"}}}`)
	send("POST", "/v1/system-procs/s/rotate-secret", `{"secret": "`+secret+`"}`)
	send("POST", "/v1/system-procs/none/rotate-secret", "")
	for _, path := range []string{"/v1/tail?topic=a&ticket=planted-ticket", "/v1/topics?ticket=planted-ticket", "/v1/topics/a?key=planted-query-secret"} {
		send("GET", path, "", "Authorization: Bearer planted-key", "Cookie: session=planted-cookie")
	}
	metrics := get(t, at+"/metrics")
	stop() // in order: what became of the attempt is told by then
	whole := map[string]string{"the log": log.String(), "a problem": problems.String(), "metrics": metrics}
	if !strings.Contains(whole["the log"], "an attempt failed") || !strings.Contains(whole["the log"], "level=DEBUG") {
		t.Error("the log does not tell what it should: ", whole["the log"])
	}
	for where, text := range whole {
		for _, planted := range []string{secret, strings.TrimPrefix(secret, "whsec_"), "planted-header-secret", password, "planted-query-secret",
			"planted-userinfo", "planted-ticket", "planted-key", "planted-cookie"} {
			if i := strings.Index(text, planted); i >= 0 {
				t.Errorf("%s tells %q: %s", where, planted, text[max(0, i-300):min(len(text), i+100)])
			}
		}
	}
}
