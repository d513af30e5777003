package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"pipeproc/client"
)

// server is a running server in a process of its own.
type server struct {
	*client.Client
	url  string
	cmd  *exec.Cmd
	dir  string
	pid  int
	done chan error
}

// startServer runs the binary on a fresh private PostgreSQL and waits until it serves.
func startServer(ctx context.Context, binary string, flags ...string) (*server, error) {
	dir, err := os.MkdirTemp("", "pipeproc-bench-*")
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(dir, 0o711); err != nil { // started as root, PostgreSQL runs under another account
		return nil, err
	}
	cmd := exec.CommandContext(context.WithoutCancel(ctx), binary,
		append([]string{"--listen", "127.0.0.1:0", "--data-dir", dir + "/data", "--log-level", "error"}, flags...)...)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // an interrupt is for us to hand on
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	s := &server{cmd: cmd, dir: dir, pid: cmd.Process.Pid, done: make(chan error, 1)}
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if url, ok := strings.CutPrefix(lines.Text(), "pipeproc listening on "); ok {
			s.url = url
			break
		}
	}
	go func() {
		for lines.Scan() { // read on, so that it never blocks on us
		}
		s.done <- cmd.Wait()
	}()
	if s.url == "" {
		return nil, errors.Join(fmt.Errorf("%s did not start", binary), s.stop())
	}
	s.Client, err = client.New(s.url, client.WithHTTPClient(&http.Client{Transport: &http.Transport{
		MaxIdleConnsPerHost: 1_000, DisableCompression: true}}))
	return s, err
}

// stop ends the server in order and removes its data.
func (s *server) stop() error {
	if s.Client != nil {
		s.CloseIdleConnections()
	}
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	var err error
	select {
	case err = <-s.done:
	case <-time.After(30 * time.Second):
		_ = s.cmd.Process.Kill()
		err = errors.Join(errors.New("the server did not stop"), <-s.done)
	}
	return errors.Join(err, os.RemoveAll(s.dir))
}

// memory is the server's resident memory in MiB, without its PostgreSQL.
func (s *server) memory() (float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(text), "VmRSS:")
	var kib float64
	if _, err := fmt.Sscan(rest, &kib); err != nil {
		return 0, err
	}
	return kib / 1024, nil
}

// cpu is the processor time that the server has used so far, without its PostgreSQL.
func (s *server) cpu() (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(text), ") ") // the name may hold anything
	fields := strings.Fields(rest)
	var user, system int64
	if _, err := fmt.Sscan(fields[11]+" "+fields[12], &user, &system); err != nil {
		return 0, err
	}
	return time.Duration(user+system) * (time.Second / 100), nil // ticks of 1/100 s, on Linux
}
