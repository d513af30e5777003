package main

import (
	"bufio"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"pipeproc/pgstore/pgtest"
)

func TestListeners(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(folder(t), "s.sock")
	p := launch(t, nil, onDatabase(t, "--listen", "unix:"+socket)...)
	tcp, unix := p.url(t), p.url(t)
	if !strings.HasPrefix(tcp, "http://127.0.0.1:") || strings.HasSuffix(tcp, ":0") {
		t.Errorf("the first address is %s", tcp)
	}
	if unix != "unix:"+socket {
		t.Errorf("the second address is %s", unix)
	}
	if info, err := os.Stat(socket); err != nil || info.Mode() != fs.ModeSocket|0o600 {
		t.Errorf("the socket: %v, %v", info.Mode(), err)
	}
	commit(t, tcp, `{"n":1}`)
	if diff := cmp.Diff([]string{`{"n":1}`}, bodies(t, unix)); diff != "" {
		t.Errorf("through the socket (-want +got)\n%s", diff)
	}
	for _, u := range []string{tcp, unix} {
		if code, _, stderr := runs(t, nil, "healthcheck", "--url", u); code != 0 {
			t.Errorf("healthcheck of %s: %d %s", u, code, stderr)
		}
	}
	if code, _, stderr := runs(t, []string{"PIPEPROC_LISTEN=" + unix + ",127.0.0.1:1"}, "healthcheck"); code != 0 {
		t.Errorf("healthcheck by the environment: %d %s", code, stderr)
	}
	p.signal(t, os.Interrupt)
	if code := p.exit(t); code != 0 {
		t.Errorf("exit code %d after SIGINT", code)
	}
	if _, err := os.Lstat(socket); err == nil {
		t.Error("the socket's file is left")
	}
	if code, _, _ := runs(t, nil, "healthcheck", "--url", tcp); code != 1 {
		t.Errorf("healthcheck of a stopped server: %d", code)
	}
}

func TestSocketFile(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(folder(t), "s.sock")
	flags := onDatabase(t, "--listen", "unix:"+socket)
	first := launch(t, nil, flags...)
	first.url(t)
	first.url(t)

	code, _, stderr := runs(t, nil, flags...)
	if code != 1 || !strings.Contains(stderr, "served by another process") {
		t.Errorf("a live socket: exit code %d, %s", code, stderr)
	}
	if status, _ := call(t, "GET", "unix:"+socket, "/healthz", ""); status != http.StatusOK {
		t.Errorf("the first server's socket is gone: %d", status)
	}

	first.kill(t)
	if _, err := os.Lstat(socket); err != nil {
		t.Fatal("a killed server leaves its socket: ", err)
	}
	second := launch(t, nil, flags...)
	second.url(t)
	second.url(t)
	if status, _ := call(t, "GET", "unix:"+socket, "/healthz", ""); status != http.StatusOK {
		t.Errorf("a stale socket is replaced: %d", status)
	}
	second.stop(t)

	if err := os.WriteFile(socket, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	code, _, stderr = runs(t, nil, flags...)
	if text, _ := os.ReadFile(socket); code != 1 || !strings.Contains(stderr, "not a socket") || string(text) != "precious" {
		t.Errorf("a file in its place: exit code %d, %s, the file is %q", code, stderr, text)
	}
}

func TestEnvironment(t *testing.T) {
	t.Parallel()
	secret := filepath.Join(t.TempDir(), "url")
	if err := os.WriteFile(secret, []byte(pgtest.Database(t)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := launch(t, []string{"PIPEPROC_DATABASE_URL_FILE=" + secret, "DATABASE_URL=postgres://127.0.0.1:1/none",
		"PIPEPROC_UNSAFE_DURABILITY=true", "PIPEPROC_LISTEN=127.0.0.1:0", "PIPEPROC_NAMESPACE=not a name",
		"PIPEPROC_ALLOW_SHUTDOWN=true", "PIPEPROC_LOG_FORMAT=json"}, "--namespace=named", "--allow-shutdown=false")
	u := p.url(t)
	if status, answer := call(t, "POST", u, "/v1/shutdown", ""); status != http.StatusNotFound {
		t.Errorf("flags win: %d %s", status, answer)
	}
	p.stop(t)
	if first, _, _ := strings.Cut(p.log.String(), "\n"); !strings.HasPrefix(first, `{"time":`) {
		t.Errorf("the log is not JSON: %s", first)
	}
}

func TestBadFlags(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		env  []string
		args []string
		want string
	}{
		"unknown":            {args: []string{"--nope"}, want: "-nope"},
		"command":            {args: []string{"start"}, want: `"start"`},
		"value":              {args: []string{"--gc-interval=soon"}, want: "gc-interval"},
		"variable":           {env: []string{"PIPEPROC_WORKERS=-3"}, want: "--workers"},
		"memory and a url":   {env: []string{"DATABASE_URL=postgres:///x"}, args: []string{"--memory"}, want: "--memory"},
		"everybody's":        {args: []string{"--memory", "--listen=0.0.0.0:0"}, want: "--insecure"},
		"everybody's, v6":    {args: []string{"--memory", "--listen=[::]:0"}, want: "--insecure"},
		"everybody's, short": {args: []string{"--memory", "--listen=:0"}, want: "--insecure"},
		"no address":         {args: []string{"--memory", "--listen=8080"}, want: "host:port"},
		"no file":            {args: []string{"--memory", "--listen=unix:@abstract"}, want: "no file"},
		"no path":            {args: []string{"--memory", "--listen=unix:"}, want: "no path"},
		"no certificate":     {args: []string{"--memory", "--tls-cert=/none", "--tls-key=/none"}, want: "--tls-cert"},
		"healthcheck's flag": {args: []string{"healthcheck", "--nope"}, want: "-nope"},
		"healthcheck's argument": {
			args: []string{"healthcheck", "now"}, want: `"now"`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			code, stdout, stderr := runs(t, tt.env, tt.args...)
			if code != 2 || stdout != "" || !strings.Contains(stderr, tt.want) || strings.Count(stderr, "\n") != 1 {
				t.Errorf("exit code %d, stdout %q, stderr %q; want code 2 and a line with %q", code, stdout, stderr, tt.want)
			}
		})
	}
}

func TestTexts(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ arg, want string }{
		{"--version", "pipeproc "}, {"version", "pipeproc "}, {"--help", "--gc-interval MS"}, {"help", "--gc-interval MS"},
	} {
		code, stdout, stderr := runs(t, nil, tt.arg)
		if code != 0 || !strings.Contains(stdout, tt.want) || stderr != "" {
			t.Errorf("%s: exit code %d, stdout %q, stderr %q", tt.arg, code, stdout, stderr)
		}
	}
	if code, stdout, _ := runs(t, nil, "postgres-check", "--postgres-bin=/none"); code != 1 || stdout != "" {
		t.Errorf("postgres-check of an empty folder: exit code %d, stdout %q", code, stdout)
	}
	if code, stdout, _ := runs(t, []string{"DATABASE_URL=postgres:///x"}, "postgres-check"); code != 0 || stdout == "" {
		t.Errorf("postgres-check with a database URL: exit code %d, stdout %q", code, stdout)
	}
}

func TestInsecure(t *testing.T) {
	t.Parallel()
	p := launch(t, nil, onDatabase(t, "--listen=0.0.0.0:0", "--insecure")...)
	p.url(t)
	if u := p.url(t); strings.HasSuffix(u, ":0") {
		t.Errorf("the address is %s", u)
	}
	p.stop(t)
}

// TestDataAreKept restarts servers on a data folder: after a stop, and after a power cut.
func TestDataAreKept(t *testing.T) {
	t.Parallel()
	flags := []string{"--data-dir", filepath.Join(folder(t), "data"), "--listen=127.0.0.1:0"}
	p := launch(t, nil, flags...)
	u := p.url(t)
	commit(t, u, `{"n":1}`)

	code, _, stderr := runs(t, nil, flags...)
	if code != 1 || !strings.Contains(stderr, "in use") {
		t.Errorf("a second server on the folder: exit code %d, %s", code, stderr)
	}
	commit(t, u, `{"n":2}`)
	p.stop(t)

	p = launch(t, nil, flags...)
	u = p.url(t)
	commit(t, u, `{"n":3}`)
	p.kill(t)

	p = launch(t, nil, flags...)
	if diff := cmp.Diff([]string{`{"n":1}`, `{"n":2}`, `{"n":3}`}, bodies(t, p.url(t))); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	p.stop(t)
}

// TestMemory holds that nothing of a throw-away PostgreSQL is left, and that it is started again when it dies.
func TestMemory(t *testing.T) {
	t.Parallel()
	temp := folder(t)
	p := launch(t, []string{"TMPDIR=" + temp}, "--memory", "--listen=127.0.0.1:0")
	u := p.url(t)
	commit(t, u, `{"n":1}`)
	ready := func() int {
		status, _ := call(t, "GET", u, "/readyz", "")
		return status
	}
	if status := ready(); status != http.StatusOK {
		t.Errorf("readyz: %d", status)
	}
	if err := syscall.Kill(postmaster(t, p.cmd.Process.Pid), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "not ready", func() bool { return ready() == http.StatusServiceUnavailable })
	if status, _ := call(t, "GET", u, "/healthz", ""); status != http.StatusOK {
		t.Errorf("healthz meanwhile: %d", status)
	}
	eventually(t, "ready again", func() bool { return ready() == http.StatusOK })
	commit(t, u, `{"n":2}`)
	p.stop(t)
	if left, err := os.ReadDir(temp); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

func TestShutdown(t *testing.T) {
	t.Parallel()
	p := launch(t, nil, onDatabase(t)...)
	u := p.url(t)
	if status, answer := call(t, "POST", u, "/v1/shutdown", ""); status != http.StatusNotFound {
		t.Errorf("not allowed: %d %s", status, answer)
	}
	p.stop(t)

	p = launch(t, nil, onDatabase(t, "--allow-shutdown")...)
	if status, answer := call(t, "POST", p.url(t), "/v1/shutdown", ""); status/100 != 2 {
		t.Errorf("allowed: %d %s", status, answer)
	}
	if code := p.exit(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// TestStopEndsWaits holds that neither a waiting claim nor a stream keeps a server from stopping, and that the waiting
// client is told.
func TestStopEndsWaits(t *testing.T) {
	t.Parallel()
	p := launch(t, nil, onDatabase(t)...)
	u := p.url(t)
	commit(t, u, `{"n":1}`)

	stream, err := http.Get(u + "/v1/tail?topic=numbers")
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Body.Close()
	events := bufio.NewReader(stream.Body)
	if _, err := events.ReadString('\n'); err != nil {
		t.Fatal("the stream: ", err)
	}
	if status, answer := call(t, "PUT", u, "/v1/procs/p", `{"topic":"numbers","offset":"$>"}`); status != http.StatusCreated {
		t.Fatalf("PUT: %d %s", status, answer)
	}
	conn, answer := underWay(t, u, "/v1/procs/p/claim", `{"wait":60000}`)
	if _, err := io.WriteString(conn, `{"wait":60000}`); err != nil {
		t.Fatal(err)
	}

	began := time.Now()
	p.stop(t)
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("the stop took %v", took)
	}
	if line, err := answer.ReadString('\n'); !strings.Contains(line, " 503 ") && !strings.Contains(line, " 204 ") {
		t.Errorf("the waiting claim was answered %q, %v", line, err)
	}
	if _, err := io.Copy(io.Discard, events); err != nil {
		t.Errorf("the stream ended by %v", err)
	}
}

// underWay starts a request that the server works on when this returns, but for its body, which is to be written. The
// answer's first line is the next one.
func underWay(t *testing.T, url, path, body string) (net.Conn, *bufio.Reader) {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	// The server says 100 when it begins to read the body.
	if _, err := fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"+
		"Expect: 100-continue\r\n\r\n", path, len(body)); err != nil {
		t.Fatal(err)
	}
	answer := bufio.NewReader(conn)
	for _, want := range []string{"HTTP/1.1 100 Continue\r\n", "\r\n"} {
		if line, err := answer.ReadString('\n'); line != want {
			t.Fatalf("got %q (%v), want %q", line, err, want)
		}
	}
	return conn, answer
}

// TestSecondSignal holds that a second signal does not wait for a request that hangs.
func TestSecondSignal(t *testing.T) {
	t.Parallel()
	p := launch(t, nil, onDatabase(t)...)
	u := p.url(t)
	underWay(t, u, "/v1/commit", `{"topic":"numbers","body":{}}`) // which never comes
	p.signal(t, syscall.SIGTERM)
	p.logged(t, "stopping")
	p.signal(t, syscall.SIGTERM)
	began := time.Now()
	if code := p.exit(t); code != exitHurried {
		t.Errorf("exit code %d", code)
	}
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("it took %v", took)
	}
}

func TestNamespaces(t *testing.T) {
	t.Parallel()
	flags := onDatabase(t)
	a, b, c := launch(t, nil, flags...), launch(t, nil, append(flags, "--namespace=other")...), launch(t, nil, flags...)
	commit(t, a.url(t), `{"n":1}`)
	if got := bodies(t, b.url(t)); got != nil {
		t.Errorf("another namespace shows %q", got)
	}
	if diff := cmp.Diff([]string{`{"n":1}`}, bodies(t, c.url(t))); diff != "" {
		t.Errorf("the same namespace (-want +got)\n%s", diff)
	}
	c.stop(t)
	a.stop(t)
	b.stop(t)
}

// TestDatabaseComesLater starts a server before its database answers.
func TestDatabaseComesLater(t *testing.T) {
	t.Parallel()
	address := freePort(t)
	via, network, target := through(t, pgtest.Database(t), address)

	p := launch(t, nil, "--database-url", via, "--unsafe-durability", "--listen=127.0.0.1:0")
	p.logged(t, "does not answer yet")
	relay(t, address, network, target)
	commit(t, p.url(t), `{"n":1}`)
	p.stop(t)

	p = launch(t, nil, "--database-url", "postgres://nobody@"+freePort(t)+"/none", "--listen=127.0.0.1:0")
	p.logged(t, "does not answer yet")
	p.stop(t)
}

// TestDatabaseRefuses holds that what waiting cannot mend is told at once.
func TestDatabaseRefuses(t *testing.T) {
	t.Parallel()
	database, err := url.Parse(pgtest.Database(t))
	if err != nil {
		t.Fatal(err)
	}
	database.Path = "/there_is_no_such_database"
	began := time.Now()
	code, _, stderr := runs(t, nil, "--database-url", database.String(), "--listen=127.0.0.1:0")
	if code != 1 || !strings.Contains(stderr, "there_is_no_such_database") || time.Since(began) > 10*time.Second {
		t.Errorf("exit code %d after %v, %s", code, time.Since(began), stderr)
	}
	code, _, stderr = runs(t, nil, "--database-url", "postgres://u:sesame@host:port/x", "--listen=127.0.0.1:0")
	if code != 2 || strings.Contains(stderr, "sesame") {
		t.Errorf("a malformed URL: exit code %d, %s", code, stderr)
	}
}

func TestPortInUse(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	code, stdout, stderr := runs(t, nil, onDatabase(t, "--listen", ln.Addr().String())...)
	if code != 1 || stdout != "" || !strings.Contains(stderr, "address already in use") {
		t.Errorf("exit code %d, stdout %q, stderr %q", code, stdout, stderr)
	}
}
