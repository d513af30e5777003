package main

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// languages are the commands that run the processor; the one of this package is run in the test's process.
var languages = map[string][]string{"go": nil, "node": {"node", "../increment.mjs"}, "python3": {"python3", "../increment.py"}}

// TestIncrement calls the processor in each of its languages, where that is installed.
func TestIncrement(t *testing.T) {
	for name, command := range languages {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url, stop := start(t, command, "")
			calls(t, url)
			stop()
		})
	}
}

// TestIncrementVerifies signed calls, with two secrets, as while one is rotated.
func TestIncrementVerifies(t *testing.T) {
	for name, command := range languages {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url, stop := start(t, command, secretA+" "+secretB)
			signedCalls(t, url)
			stop()
		})
	}
}

// TestBadSecret: nothing runs unsigned because of a slip of the pen.
func TestBadSecret(t *testing.T) {
	const bad = secretA + " MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	if keys, err := readSecrets(bad); err == nil {
		t.Errorf("%d keys", len(keys))
	}
	for name, command := range languages {
		if command == nil {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cmd := process(t, command, bad)
			out, err := cmd.CombinedOutput()
			if err == nil || !strings.Contains(string(out), "INCREMENT_SECRET") || strings.Contains(string(out), "MfKQ9") {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
}

func process(t *testing.T, command []string, secrets string) *exec.Cmd {
	t.Helper()
	if _, err := exec.LookPath(command[0]); err != nil {
		t.Skip(err)
	}
	cmd := exec.Command(command[0], append(slices.Clone(command[1:]), "127.0.0.1:0")...)
	cmd.Env = append(os.Environ(), "INCREMENT_SECRET="+secrets, "PYTHONIOENCODING=utf-8")
	return cmd
}

// start runs the processor; stop holds that it ends well.
func start(t *testing.T, command []string, secrets string) (url string, stop func()) {
	t.Helper()
	if command == nil {
		keys, err := readSecrets(secrets)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		out, in := io.Pipe()
		ended := make(chan error, 1)
		go func() { ended <- run(ctx, "127.0.0.1:0", keys, in) }()
		return address(t, out), func() {
			cancel()
			if err := <-ended; err != nil {
				t.Errorf("it ended with %v", err)
			}
		}
	}
	cmd := process(t, command, secrets)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	return address(t, out), func() {
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil || stderr.Len() > 0 {
			t.Errorf("it ended with %v: %s", err, &stderr)
		}
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
