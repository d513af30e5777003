package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"pipeproc/pgstore/pgtest"
)

// TestServersBehindPgBouncer runs two servers on an empty database through a PgBouncer that pools transactions: systemProcs,
// liveProcs, tails, wake-ups from one to the other, GC.
func TestServersBehindPgBouncer(t *testing.T) {
	t.Parallel()
	direct := pgtest.EmptyDatabase(t)
	bouncer := pgtest.StartPgBouncer(t, direct, nil)
	hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"out":true}`)
	}))
	t.Cleanup(hook.Close)

	code, _, stderr := runs(t, nil, "--database-url", bouncer.URL, "--unsafe-durability", "--listen=127.0.0.1:0")
	if code != 1 || !strings.Contains(stderr, "--database-direct-url") || strings.Count(stderr, "\n") != 1 {
		t.Errorf("without the direct URL: %d %s", code, stderr)
	}
	env := []string{"PIPEPROC_DATABASE_DIRECT_URL=" + direct, "PIPEPROC_DATABASE_URL=" + bouncer.URL}
	flags := []string{"--unsafe-durability", "--listen=127.0.0.1:0", "--gc", "--gc-interval=100", "--gc-min-prune-time=0"}
	a, b := launch(t, env, flags...), launch(t, env, flags...)
	one, other := a.url(t), b.url(t)

	commit(t, one, `{"n":0}`)
	if status, answer := call(t, "POST", one, "/v1/system-procs", `{"name":"s","from":"numbers","to":"results","processor":"`+hook.URL+`"}`); status != http.StatusCreated {
		t.Fatal(status, answer)
	}
	if status, answer := call(t, "PUT", other, "/v1/procs/keeps", `{"topic":"results"}`); status != http.StatusCreated { // from GC
		t.Fatal(status, answer)
	}
	client := &http.Client{Transport: &http.Transport{}, Timeout: limit}
	t.Cleanup(client.CloseIdleConnections)
	tail, err := client.Get(other + "/v1/tail?topic=results&start=earliest")
	if err != nil {
		t.Fatal(err)
	}
	defer tail.Body.Close()
	live, err := client.Get(other + "/v1/topics/live/live?mode=all")
	if err != nil {
		t.Fatal(err)
	}
	defer live.Body.Close()
	const logs = 50
	for n := 1; n < logs; n++ {
		commit(t, one, fmt.Sprintf(`{"n":%d}`, n))
	}
	if status, answer := call(t, "POST", other, "/v1/wait", `{"procs":["s"]}`); status != http.StatusOK || !strings.Contains(answer, `"done":true`) {
		t.Fatal(status, answer)
	}
	reads(t, tail.Body, `"topic":"results"`, logs)
	if status, answer := call(t, "POST", one, "/v1/commit", `{"topic":"live","body":{"n":1}}`); status != http.StatusCreated {
		t.Fatal(status, answer)
	}
	reads(t, live.Body, "event: logs", 1)
	eventually(t, "GC collects", func() bool {
		_, answer := call(t, "GET", other, "/v1/topics/numbers", "")
		return !strings.Contains(answer, fmt.Sprintf(`"length":%d`, logs))
	})
	a.stop(t)
	commit(t, other, `{"n":50}`)
	b.stop(t)
}

// reads reads until text has come n times.
func reads(t *testing.T, r io.Reader, text string, n int) {
	t.Helper()
	var seen strings.Builder
	for b := make([]byte, 4096); strings.Count(seen.String(), text) < n; {
		got, err := r.Read(b)
		seen.Write(b[:got])
		if err != nil {
			t.Fatalf("%v after %s", err, seen.String())
		}
	}
}
