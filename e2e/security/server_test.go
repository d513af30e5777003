//go:build security && linux

package security

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"pipeproc/pgstore/pgtest"
)

// limit is for what happens outside this process.
const limit = time.Minute

// built is the folder of the server's binary.
var built string

func TestMain(m *testing.M) {
	code := 1
	defer func() { os.Exit(code) }()
	var err error
	if built, err = os.MkdirTemp("", "security-*"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return
	}
	defer func() { _ = os.RemoveAll(built) }()
	if out, err := exec.Command("go", "build", "-o", binary(), "pipeproc/cmd/server").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "%v\n%s", err, out)
		return
	}
	if code = pgtest.Main(m); code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
}

func binary() string { return filepath.Join(built, "server") }

// server is a process of the binary, with a database of its own. It listens at address, and, for those who look at it from
// aside, at a Unix socket.
type server struct {
	t        *testing.T
	url      string // http(s)://address
	address  string // host:port
	socket   string // the Unix socket's path
	profiles string // the URL of its profiles
	database string
	key      string // the API key of the calls below; "": none
	pid      int

	aside    *http.Client // through the Unix socket
	straight *http.Client // to the address

	log    lockedBuffer
	exited chan struct{}
}

// launch starts a server with these flags beside those that all have, and waits until it serves; the test's end kills it. Its
// log is shown when the test fails. The database holds nothing but its schema.
func launch(t *testing.T, flags ...string) *server {
	t.Helper()
	return launchWith(t, nil, flags...)
}

// launchWith is launch with variables of the environment ("NAME=value").
func launchWith(t *testing.T, env []string, flags ...string) *server {
	t.Helper()
	return launchOn(t, pgtest.Database(t), env, flags...)
}

// launchOn is launchWith on a database that may hold something, and have other servers.
func launchOn(t *testing.T, database string, env []string, flags ...string) *server {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "security-*") // short enough for a socket's path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s := &server{t: t, socket: filepath.Join(dir, "s"), database: database, exited: make(chan struct{})}
	cmd := exec.Command(binary(), append([]string{"--database-url", s.database, "--unsafe-durability", "--listen", "127.0.0.1:0",
		"--listen", "unix:" + s.socket, "--pprof-listen", "127.0.0.1:0"}, flags...)...)
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "PIPEPROC_") && !strings.HasPrefix(v, "DATABASE_URL=") {
			cmd.Env = append(cmd.Env, v)
		}
	}
	cmd.Env, cmd.Stderr, cmd.SysProcAttr = append(cmd.Env, env...), &s.log, &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s.pid = cmd.Process.Pid
	told := make(chan string, 8)
	go func() {
		defer close(s.exited)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if url, ok := strings.CutPrefix(lines.Text(), "pipeproc listening on "); ok {
				told <- url
			}
		}
		_ = cmd.Wait()
	}()
	t.Cleanup(func() {
		select {
		case <-s.exited:
			t.Errorf("the server has ended: %v", cmd.ProcessState)
		default:
		}
		_ = cmd.Process.Kill()
		<-s.exited
		if t.Failed() {
			t.Logf("the log of the server:\n%s", s.log.tail())
		}
	})
	for s.url == "" || s.aside == nil {
		select {
		case url := <-told:
			if path, ok := strings.CutPrefix(url, "unix:"); ok {
				s.aside = client(t, func(ctx context.Context) (net.Conn, error) {
					return (&net.Dialer{}).DialContext(ctx, "unix", path)
				})
				break
			}
			_, s.address, _ = strings.Cut(url, "://")
			s.url = url
			s.straight = client(t, func(ctx context.Context) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, "tcp", s.address)
			})
		case <-s.exited:
			t.Fatalf("the server has ended: %v\n%s", cmd.ProcessState, s.log.tail())
		case <-time.After(limit):
			t.Fatalf("the server does not serve:\n%s", s.log.tail())
		}
	}
	s.eventually("the profiles are told of", func() bool {
		if found := profilesLine.FindStringSubmatch(s.log.tail()); found != nil {
			s.profiles = found[1]
		}
		return s.profiles != ""
	})
	return s
}

var profilesLine = regexp.MustCompile(`"serving profiles".*url"?[=:]"?([^\s"]+)`)

// client is one over the connections that dial opens, until the test's end. It keeps them, and follows no redirects.
func client(t *testing.T, dial func(context.Context) (net.Conn, error)) *http.Client {
	transport := &http.Transport{DisableCompression: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) }}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: limit,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// transportOf is what a client of client sends by.
func transportOf(c *http.Client) *http.Transport { return c.Transport.(*http.Transport) }

// keygen makes an API key: the key, and the line of the file of keys that lets it in.
func keygen(t *testing.T, name, role string) (key, line string) {
	t.Helper()
	out, err := exec.Command(binary(), "keygen", "--name", name, "--role", role).CombinedOutput()
	lines := strings.SplitN(string(out), "\n", 3)
	if err != nil || len(lines) < 2 {
		t.Fatalf("keygen: %v\n%s", err, out)
	}
	return lines[0], lines[1]
}

// eventually polls a state of the server.
func (s *server) eventually(what string, holds func() bool) {
	s.t.Helper()
	for end := time.Now().Add(limit); !holds(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			s.t.Fatal("never: ", what)
		}
	}
}

// lockedBuffer keeps the end of what is written.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

const mostLog = 1 << 20

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.b.Len() > mostLog {
		b.b.Next(b.b.Len() / 2)
	}
	return b.b.Write(p)
}

func (b *lockedBuffer) tail() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	text := b.b.String()
	return text[max(0, len(text)-8_000):]
}

// String is all that is kept.
func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
