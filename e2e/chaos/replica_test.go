//go:build linux

package chaos

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// respawn is how long a replica stays away when it has ended, as under something that restarts it.
const respawn = 100 * time.Millisecond

// termLimit is the longest that a server may take to end after a SIGTERM, and a second until that is noticed.
const termLimit = 16 * time.Second

// replica is a server that is started anew whenever it ends. Each of its lives may have a point at which it is to kill
// itself.
type replica struct {
	name    string
	address string
	args    []string
	dir     string // of its log and its mark
	binary  string
	arms    func() string // what PIPEPROC_FAULT_KILL is for the next life
	tally   *tally
	timed   bool // what takes too long is an error

	mu      sync.Mutex
	cmd     *exec.Cmd
	arm     string
	asked   syscall.Signal // what this life was sent
	askedAt time.Time
	since   time.Time     // when this life began to serve; zero before
	serving chan struct{} // closed when this life serves
	over    chan struct{} // closed when this life is over
}

// run keeps the replica alive until ctx is done, then ends it by SIGTERM.
func (r *replica) run(ctx context.Context) error {
	log, err := os.OpenFile(filepath.Join(r.dir, r.name+".log"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	for ctx.Err() == nil {
		if err := r.live(ctx, log); err != nil {
			return err
		}
		_ = pause(ctx, respawn)
	}
	return nil
}

// live is one life, from its start to its end.
func (r *replica) live(ctx context.Context, log io.Writer) error {
	mark := filepath.Join(r.dir, r.name+".mark")
	_ = os.Remove(mark)
	arm := r.arms()
	cmd := exec.Command(r.binary, r.args...)
	cmd.Env = append(environment(), "PIPEPROC_FAULT_KILL="+arm, "PIPEPROC_FAULT_MARK="+mark)
	cmd.Stderr = log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	serving, over := make(chan struct{}), make(chan struct{})
	defer close(over)
	fmt.Fprintf(log, "--- %s %s begins, armed %q\n", time.Now().Format(time.RFC3339Nano), r.name, arm)
	r.mu.Lock()
	if err := cmd.Start(); err != nil {
		r.mu.Unlock()
		return err
	}
	r.cmd, r.arm, r.asked, r.since, r.serving, r.over = cmd, arm, 0, time.Time{}, serving, over
	r.mu.Unlock()
	stop := context.AfterFunc(ctx, func() { _ = r.signal(syscall.SIGTERM) })
	defer stop()
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if strings.HasPrefix(lines.Text(), "pipeproc listening on ") {
			r.mu.Lock()
			r.since = time.Now()
			r.mu.Unlock()
			close(serving)
		}
	}
	_ = cmd.Wait()
	text, err := os.ReadFile(mark)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return r.judge(cmd.ProcessState, strings.TrimSpace(string(text)), log)
}

// judge decides whether a life may have ended so, and counts it.
func (r *replica) judge(state *os.ProcessState, mark string, log io.Writer) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cmd = nil
	fmt.Fprintf(log, "--- %s %s ended: %v, mark %q\n", time.Now().Format(time.RFC3339Nano), r.name, state, mark)
	status := state.Sys().(syscall.WaitStatus)
	point, _, _ := strings.Cut(r.arm, ":")
	switch {
	case status.Signaled() && status.Signal() == syscall.SIGKILL && mark != "" && mark == point:
		r.tally.add(killedAt+mark, 1)
		r.tally.add(killedAtPoints, 1)
		r.tally.add(kills, 1)
	case status.Signaled() && status.Signal() == syscall.SIGKILL && r.asked == syscall.SIGKILL:
		r.tally.add(killedAtRandom, 1)
		r.tally.add(kills, 1)
	case r.asked == syscall.SIGTERM && status.Exited():
		took := time.Since(r.askedAt)
		r.tally.add(terminated, 1)
		r.tally.longest(terminateTime, took)
		if r.timed && took > termLimit {
			return fmt.Errorf("%s took %v to end after SIGTERM", r.name, took)
		}
		if status.ExitStatus() != 0 && !r.since.IsZero() {
			return fmt.Errorf("%s ended after SIGTERM with %v", r.name, state)
		}
	case status.Exited() && status.ExitStatus() == 1 && r.since.IsZero(): // without its database it does not start
		r.tally.add(didNotStart, 1)
	default:
		return fmt.Errorf("%s ended by itself: %v, mark %q", r.name, state, mark)
	}
	return nil
}

// signal sends a signal to the present life, if there is one. The first one that ends it counts; a second SIGTERM, which
// would hurry it, is not sent, nor a SIGSTOP, which would keep it from its end.
func (r *replica) signal(s syscall.Signal) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cmd == nil || (s == syscall.SIGTERM || s == syscall.SIGSTOP) && r.asked != 0 {
		return nil
	}
	if s == syscall.SIGKILL || s == syscall.SIGTERM && r.asked == 0 {
		r.asked, r.askedAt = s, time.Now()
	}
	if err := r.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return nil
}

// serves waits until the replica serves, in whichever of its lives.
func (r *replica) serves(ctx context.Context) error {
	for {
		r.mu.Lock()
		serving, over, alive := r.serving, r.over, r.cmd != nil
		r.mu.Unlock()
		if !alive {
			if err := pause(ctx, 10*time.Millisecond); err != nil {
				return fmt.Errorf("%s does not serve: %w", r.name, err)
			}
			continue
		}
		select {
		case <-serving:
			return nil
		case <-over:
		case <-ctx.Done():
			return fmt.Errorf("%s does not serve: %w", r.name, ctx.Err())
		}
	}
}

// metrics are the present life's own, as text.
func (r *replica) metrics(ctx context.Context) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+r.address+"/metrics", nil)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return string(text), err
}

// environment is the test's own without what configures servers. Bugs that it plants are kept: they are to be found.
func environment() (env []string) {
	for _, v := range os.Environ() {
		configures := strings.HasPrefix(v, "PIPEPROC_") || strings.HasPrefix(v, "DATABASE_URL=")
		if !configures || strings.HasPrefix(v, "PIPEPROC_FAULT_PLANTED=") {
			env = append(env, v)
		}
	}
	return env
}
