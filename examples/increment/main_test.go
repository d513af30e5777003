package main

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestIncrement calls the processor in each of its languages, where that is installed.
func TestIncrement(t *testing.T) {
	t.Run("go", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithCancel(t.Context())
		out, in := io.Pipe()
		ended := make(chan error, 1)
		go func() { ended <- run(ctx, "127.0.0.1:0", in) }()
		calls(t, address(t, out))
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("it ended with %v", err)
		}
	})
	for _, command := range [][]string{{"node", "../increment.mjs"}, {"python3", "../increment.py"}} {
		t.Run(command[0], func(t *testing.T) {
			t.Parallel()
			if _, err := exec.LookPath(command[0]); err != nil {
				t.Skip(err)
			}
			cmd := exec.Command(command[0], append(command[1:], "127.0.0.1:0")...)
			var stderr strings.Builder
			cmd.Stderr = &stderr
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() { _ = cmd.Process.Kill() }()
			calls(t, address(t, out))
			if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			if err := cmd.Wait(); err != nil || stderr.Len() > 0 {
				t.Errorf("it ended with %v: %s", err, &stderr)
			}
		})
	}
}

// address is where a processor says that it listens.
func address(t *testing.T, out io.Reader) string {
	t.Helper()
	line, err := bufio.NewReader(out).ReadString('\n')
	url, ok := strings.CutPrefix(strings.TrimSpace(line), "listening on ")
	if err != nil || !ok {
		t.Fatalf("it says %q, %v", line, err)
	}
	return url
}

func calls(t *testing.T, url string) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	const envelope = `{"proc":"p","topic":"numbers","claim":{"token":"t","attempt":1,"expiresAt":null},"logs":`
	tests := []struct {
		name, method, path, body string
		status                   int
		answer                   string
	}{
		{"one", "POST", "", envelope + `[{"id":"1-0","body":{"myNumber":1}}]}`, 200, `{"myIncrementedNumber":2}`},
		{"several", "POST", "", envelope + `[{"id":"1-0","body":{"myNumber":1}},{"id":"1-1","body":{"myNumber":-1.5,"x":[]}}]}`, 200,
			`[{"myIncrementedNumber":2},{"myIncrementedNumber":-0.5}]`},
		{"no number", "POST", "", envelope + `[{"id":"1-0","body":{"myNumber":"1"}}]}`, 422, ""},
		{"no member", "POST", "", envelope + `[{"id":"1-0","body":{"myNumber":1}},{"id":"1-1","body":{}}]}`, 422, ""},
		{"array", "POST", "", envelope + `[{"id":"1-0","body":[1]}]}`, 422, ""},
		{"no JSON", "POST", "", `{`, 422, ""},
		{"elsewhere", "POST", "s", `{}`, 404, ""},
		{"GET", "GET", "", ``, 405, ""},
	}
	for _, tt := range tests {
		req, err := http.NewRequestWithContext(t.Context(), tt.method, url+tt.path, strings.NewReader(tt.body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != tt.status {
			t.Errorf("%s: status %d, want %d: %s, %v", tt.name, resp.StatusCode, tt.status, body, err)
			continue
		}
		if tt.answer == "" {
			continue
		}
		var got, want any
		if err := json.Unmarshal(body, &got); err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
		if err := json.Unmarshal([]byte(tt.answer), &want); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", tt.name, diff)
		}
	}
}
