package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"pipeproc/pgstore/pgtest"
)

// A process of the test binary with this variable is the server itself, its flags as given.
const asServer = "SERVER_TEST_RUN"

// limit is for what happens outside this process.
const limit = 30 * time.Second

func TestMain(m *testing.M) {
	if os.Getenv(asServer) != "" {
		os.Exit(run(os.Args[1:]))
	}
	code := pgtest.Main(m)
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// onDatabase are the flags of a server on a database of its own.
func onDatabase(t *testing.T, more ...string) []string {
	t.Helper()
	return append([]string{"--database-url", pgtest.Database(t), "--unsafe-durability", "--listen", "127.0.0.1:0"}, more...)
}

// folder is like t.TempDir, but PostgreSQL's account can enter it, and its path leaves room for a socket's name.
func folder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "server-test-*")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	return dir
}

// process is a server in a process of its own.
type process struct {
	cmd    *exec.Cmd
	lines  chan string // of its standard output; closed at its end
	log    lockedBuffer
	exited chan struct{}
}

// command prepares the server with an environment that holds env and nothing else of ours.
func command(env []string, args ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], args...)
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "PIPEPROC_") && !strings.HasPrefix(v, "DATABASE_URL=") {
			cmd.Env = append(cmd.Env, v)
		}
	}
	cmd.Env = append(append(cmd.Env, asServer+"=1"), env...)
	return cmd
}

// launch starts a server; the test's end kills it. Its log is shown when the test fails.
func launch(t *testing.T, env []string, args ...string) *process {
	t.Helper()
	p := &process{cmd: command(env, args...), lines: make(chan string, 16), exited: make(chan struct{})}
	p.cmd.Stderr = &p.log
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		in := bufio.NewScanner(out)
		for in.Scan() {
			p.lines <- in.Text()
		}
		close(p.lines)
		_ = p.cmd.Wait()
		close(p.exited)
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.exited
		if t.Failed() {
			t.Logf("the log of %q:\n%s", args, p.log.String())
		}
	})
	return p
}

// url waits until the next listener serves, and answers its address.
func (p *process) url(t *testing.T) string {
	t.Helper()
	select {
	case line, ok := <-p.lines:
		url, told := strings.CutPrefix(line, "pipeproc listening on ")
		if !ok || !told {
			<-p.exited
			t.Fatalf("it printed %q instead of its address; %v\n%s", line, p.cmd.ProcessState, p.log.String())
		}
		return url
	case <-time.After(limit):
		t.Fatalf("it does not serve:\n%s", p.log.String())
	}
	return ""
}

func (p *process) signal(t *testing.T, s os.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

// exit waits for the process's end and answers its code, -1 after a signal.
func (p *process) exit(t *testing.T) int {
	t.Helper()
	select {
	case <-p.exited:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(limit):
		t.Fatalf("it does not end:\n%s", p.log.String())
	}
	return 0
}

// stop ends the server by SIGTERM; it must take that well.
func (p *process) stop(t *testing.T) {
	t.Helper()
	p.signal(t, syscall.SIGTERM)
	if code := p.exit(t); code != 0 {
		t.Fatalf("exit code %d:\n%s", code, p.log.String())
	}
}

// kill ends the server as a power cut would.
func (p *process) kill(t *testing.T) {
	t.Helper()
	p.signal(t, syscall.SIGKILL)
	p.exit(t)
}

// logged waits until the log holds text.
func (p *process) logged(t *testing.T, text string) {
	t.Helper()
	eventually(t, fmt.Sprintf("%q in the log", text), func() bool { return strings.Contains(p.log.String(), text) })
}

// eventually polls a state outside this process.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); !holds(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("never: ", what)
		}
	}
}

// runs runs the server to its end.
func runs(t *testing.T, env []string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	cmd := command(env, args...)
	var out, log lockedBuffer
	cmd.Stdout, cmd.Stderr = &out, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })()
	_ = cmd.Wait()
	return cmd.ProcessState.ExitCode(), out.String(), log.String()
}

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

// call makes one request, with a connection of its own. A url unix:/path goes through that socket.
func call(t *testing.T, method, url, path, body string) (status int, answer string) {
	t.Helper()
	status, answer, err := try(method, url, path, body)
	if err != nil {
		t.Fatal(err)
	}
	return status, answer
}

func try(method, url, path, body string) (status int, answer string, err error) {
	transport := &http.Transport{DisableKeepAlives: true}
	if socket, ok := strings.CutPrefix(url, "unix:"); ok {
		url = "http://localhost"
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		}
	}
	return tryBy(&http.Client{Transport: transport, Timeout: limit}, method, url, path, body)
}

func tryBy(client *http.Client, method, url, path, body string) (status int, answer string, err error) {
	req, err := http.NewRequest(method, url+path, strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	return res.StatusCode, string(text), err
}

// commit adds a log to the topic "numbers".
func commit(t *testing.T, url, body string) {
	t.Helper()
	if status, answer := call(t, "POST", url, "/v1/topics/numbers/logs", body); status != http.StatusCreated {
		t.Fatalf("commit: %d %s", status, answer)
	}
}

// bodies are those of the topic "numbers"; nil when there is no such topic.
func bodies(t *testing.T, url string) []string {
	t.Helper()
	status, answer := call(t, "GET", url, "/v1/topics/numbers/logs", "")
	if status == http.StatusNotFound {
		return nil
	}
	var page struct {
		Logs []struct{ Body json.RawMessage }
	}
	if err := json.Unmarshal([]byte(answer), &page); err != nil || status != http.StatusOK {
		t.Fatalf("range: %d %s: %v", status, answer, err)
	}
	var all []string
	for _, l := range page.Logs {
		all = append(all, string(l.Body))
	}
	return all
}

// freePort is a TCP port that nobody listens on.
func freePort(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// through is the URL of the database with another TCP address, and the network and address of the database itself.
func through(t *testing.T, dbURL, address string) (via, network, target string) {
	t.Helper()
	database, err := url.Parse(dbURL)
	if err != nil {
		t.Fatal(err)
	}
	network, target = "tcp", database.Host
	query := database.Query()
	if host := query.Get("host"); strings.HasPrefix(host, "/") {
		network, target = "unix", filepath.Join(host, ".s.PGSQL."+query.Get("port"))
		query.Del("host")
		query.Del("port")
	}
	database.Host, database.RawQuery = address, query.Encode()
	return database.String(), network, target
}

// relay serves address by connecting to the network and address of target, until the test's end.
func relay(t *testing.T, address, network, target string) {
	t.Helper()
	proxy(t, address, func() (net.Conn, error) { return net.Dial(network, target) })
}

// proxy serves address by connections that dial opens, until the test's end, and answers the address with its port.
func proxy(t *testing.T, address string, dial func() (net.Conn, error)) string {
	t.Helper()
	ln, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	open := sync.Map{}
	all.Go(func() {
		for {
			in, err := ln.Accept()
			if err != nil {
				return
			}
			out, err := dial()
			if err != nil {
				in.Close()
				continue
			}
			open.Store(in, nil)
			open.Store(out, nil)
			pump := func(to, from net.Conn) {
				_, _ = io.Copy(to, from)
				to.Close()
				from.Close()
			}
			all.Go(func() { pump(in, out) })
			all.Go(func() { pump(out, in) })
		}
	})
	t.Cleanup(func() {
		ln.Close()
		open.Range(func(c, _ any) bool { c.(net.Conn).Close(); return true })
		all.Wait()
	})
	return ln.Addr().String()
}

// postmaster is the process id of a server's own PostgreSQL.
func postmaster(t *testing.T, server int) int {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil || len(stats) == 0 {
		t.Skip("no /proc to find the postmaster in")
	}
	for _, path := range stats {
		text, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue
		}
		var pid, parent int
		var name, state string
		if _, err := fmt.Sscanf(string(text), "%d %s %s %d", &pid, &name, &state, &parent); err == nil && parent == server &&
			name == "(postgres)" {
			return pid
		}
	}
	t.Fatal("there is no postmaster")
	return 0
}
