package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"pipeproc/pgstore/pgtest"
)

// TestKilledServersClaims: of two servers that run systemProcs one is killed in the middle of a call. While its claim
// lives nobody else calls for these logs; when the claim's time is over the other server does.
func TestKilledServersClaims(t *testing.T) {
	t.Parallel()
	dbURL := pgtest.Database(t)
	type delivery struct{ id, body string }
	calls, release := make(chan delivery, 10), make(chan struct{})
	hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		calls <- delivery{r.Header.Get("webhook-id"), string(body)}
		select {
		case <-release:
			w.WriteHeader(http.StatusNoContent)
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(func() {
		hook.CloseClientConnections()
		hook.Close()
	})
	next := func(attempt int) delivery {
		t.Helper()
		select {
		case c := <-calls:
			if !strings.Contains(c.body, fmt.Sprintf(`"attempt":%d`, attempt)) {
				t.Fatalf("the call is %s, want attempt %d", c.body, attempt)
			}
			return c
		case <-time.After(limit):
			t.Fatal("the webhook is not called")
			return delivery{}
		}
	}

	flags := []string{"--database-url", dbURL, "--unsafe-durability", "--listen=127.0.0.1:0"}
	a := launch(t, nil, flags...)
	url := a.url(t)
	commit(t, url, `{"n":1}`)
	if status, answer := call(t, "POST", url, "/v1/system-procs",
		`{"name":"s","from":"numbers","processor":"`+hook.URL+`"}`); status != http.StatusCreated {
		t.Fatal(status, answer)
	}
	first := next(1)
	b := launch(t, nil, flags...)
	url = b.url(t)
	a.kill(t)

	commit(t, url, `{"n":2}`) // wakes the other server up, for nothing
	if status, answer := call(t, "POST", url, "/v1/wait", `{"procs":["s"],"timeout":500}`); status != http.StatusOK ||
		!strings.Contains(answer, `"done":false`) {
		t.Fatal(status, answer)
	}
	if len(calls) > 0 {
		t.Fatalf("called while the claim lives: %v", <-calls)
	}
	pgtest.MoveClock(t, dbURL, "default", 11*time.Second) // reclaimTimeout is 10 s
	if again := next(2); again.id != first.id {
		t.Errorf("webhook-id %q, then %q", first.id, again.id)
	}
	close(release)
	next(1)
	if status, answer := call(t, "POST", url, "/v1/wait", `{"procs":["s"]}`); status != http.StatusOK ||
		!strings.Contains(answer, `"done":true`) {
		t.Fatal(status, answer)
	}
	b.stop(t)
}
