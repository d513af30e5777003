//go:build faults && linux

package planted

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"pipeproc/client"
)

// binary is the server with faults.
var binary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "planted-*")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "server")
	if out, err := exec.Command("go", "build", "-tags", "faults", "-o", path, "pipeproc/cmd/server").CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w\n%s", err, out)
	}
	return path, nil
})

// server is one of the servers, at one address for all its lives.
type server struct {
	*client.Client
	wire    *wire
	address string
	args    []string
	env     []string
	armed   string // the point at which the next life ends; ""
	log     lockedBuffer

	mu    sync.Mutex
	cmd   *exec.Cmd
	ended chan struct{}
}

// newServer starts a server on the database, with a bug. Its first life may have a point at which it ends.
func newServer(t *testing.T, database, bug, kill string) *server {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	config, err := pgconn.ParseConfig(database)
	if err != nil {
		t.Fatal(err)
	}
	s := &server{wire: newWire(t, config), address: freeAddress(t)}
	through := url.URL{Scheme: "postgres", User: url.UserPassword(config.User, config.Password),
		Host: s.wire.listener.Addr().String(), Path: "/" + config.Database, RawQuery: "sslmode=disable"}
	s.args = []string{path, "--database-url", through.String(), "--unsafe-durability", "--listen", s.address, "--gc-min-prune-time", "50"}
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "PIPEPROC_") && !strings.HasPrefix(v, "DATABASE_URL=") {
			s.env = append(s.env, v)
		}
	}
	s.env, s.armed = append(s.env, "PIPEPROC_FAULT_PLANTED="+bug), kill
	if s.Client, err = client.New("http://" + s.address); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.CloseIdleConnections()
		s.kill()
		if t.Failed() {
			t.Logf("the log of %s:\n%s", s.address, s.log.tail())
		}
	})
	if err := s.start(); err != nil {
		t.Fatal(err)
	}
	return s
}

// start begins a life, and returns when it serves.
func (s *server) start() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	cmd := exec.Command(s.args[0], s.args[1:]...)
	cmd.Env, cmd.Stderr, cmd.SysProcAttr = append(s.env[:len(s.env):len(s.env)], "PIPEPROC_FAULT_KILL="+s.armed), &s.log,
		&syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	s.armed = ""
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	serving, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		told := false
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if !told && strings.HasPrefix(lines.Text(), "pipeproc listening on ") {
				told = true
				close(serving)
			}
		}
		_ = cmd.Wait()
	}()
	s.cmd, s.ended = cmd, ended
	select {
	case <-serving:
		return nil
	case <-ended:
		return fmt.Errorf("the server ended: %v\n%s", cmd.ProcessState, s.log.tail())
	case <-time.After(time.Minute):
		return fmt.Errorf("the server does not serve:\n%s", s.log.tail())
	}
}

// kill ends the life by SIGKILL.
func (s *server) kill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd != nil {
		_ = s.cmd.Process.Kill()
		<-s.ended
	}
}

// over is closed when the present life has ended.
func (s *server) over() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ended
}

// freeAddress is one that the server finds free each time that it starts: below the ports that the kernel gives away.
func freeAddress(t *testing.T) string {
	t.Helper()
	ports.Lock()
	defer ports.Unlock()
	for ports.next++; ports.next < 32_000; ports.next++ {
		address := fmt.Sprint("127.0.0.1:", ports.next)
		if l, err := net.Listen("tcp", address); err == nil {
			l.Close()
			return address
		}
	}
	t.Fatal("no port is free")
	return ""
}

var ports = struct {
	sync.Mutex
	next int
}{next: 12_000 + os.Getpid()%6_000}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

// tail is the end of what was written.
func (b *lockedBuffer) tail() string {
	const most = 4_000
	b.mu.Lock()
	defer b.mu.Unlock()
	text := b.b.String()
	return text[max(0, len(text)-most):]
}
