package embedded

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	pollInterval = 10 * time.Millisecond

	// How long a fast shutdown may take before the next harder way, for a child and for one left behind.
	fastStop     = 15 * time.Second
	fastLeftover = 4 * time.Second
	// PostgreSQL kills its children itself when an immediate shutdown takes 5 s.
	immediateStop = 7 * time.Second

	// drainTime is for the last lines of a process that has ended but whose children still hold its pipe.
	drainTime = 200 * time.Millisecond
)

// postmaster is one run of PostgreSQL.
type postmaster struct {
	cmd    *exec.Cmd
	data   string
	tail   tail
	exited chan struct{} // closed when it has ended and its output is read
}

// claim takes the lock that every process of PostgreSQL inherits, and so waits until all of an earlier run are gone.
// A postmaster left behind by a killed server is told to stop. Error: ErrInUse, when they do not go, or when somebody
// runs PostgreSQL on the folder by hand.
func (c *Cluster) claim(ctx context.Context) (_ *os.File, err error) {
	f, err := os.OpenFile(filepath.Join(c.folder.root, inheritedName), os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	if err := c.account.own(f.Name()); err != nil {
		return nil, err
	}

	began := time.Now()
	var sent syscall.Signal
	for {
		err = tryLock(f)
		if err == nil {
			if err = c.disarm(); err != nil {
				return nil, err
			}
			return f, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
		}
		waited := time.Since(began)
		pid, _ := pidFile(c.folder.dataDir())
		signal := syscall.SIGINT
		if waited > fastLeftover {
			signal = syscall.SIGQUIT
		}
		if sent != signal && pid > 0 && isPostmaster(pid, c.folder.dataDir()) {
			c.log.Warn("stopping the PostgreSQL that a killed server left behind", "pid", pid, "signal", signal)
			if err := syscall.Kill(pid, signal); err != nil && !errors.Is(err, syscall.ESRCH) {
				return nil, fmt.Errorf("stop the PostgreSQL with pid %d: %w", pid, err)
			}
			sent = signal
		}
		if waited > fastLeftover+immediateStop {
			return nil, fmt.Errorf("%w: processes of an earlier PostgreSQL still run on %s (pid %d) and do not end; "+
				"end them first", ErrInUse, c.folder.dataDir(), pid)
		}
		if !pause(ctx, pollInterval) {
			return nil, ctx.Err()
		}
	}
}

// disarm deals with a postmaster.pid whose number now belongs to somebody else, as is common in containers:
// PostgreSQL would take that process for a postmaster and refuse to start. It takes its own parent's number, ours, for
// stale and goes on to its further checks, so ours is put there; removing the file would skip those checks.
func (c *Cluster) disarm() error {
	data := c.folder.dataDir()
	pid, lines := pidFile(data)
	if pid <= 0 || pid == os.Getpid() {
		return nil
	}
	if err := syscall.Kill(pid, 0); errors.Is(err, syscall.ESRCH) {
		return nil
	}
	if isPostmaster(pid, data) {
		return fmt.Errorf("%w: a PostgreSQL (pid %d) that no server started runs on %s; stop it first", ErrInUse, pid, data)
	}
	lines[0] = strconv.Itoa(os.Getpid())
	f, err := os.OpenFile(filepath.Join(data, "postmaster.pid"), os.O_WRONLY|os.O_TRUNC|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(strings.Join(lines, "\n"))
	return errors.Join(err, f.Close())
}

// pidFile reads postmaster.pid: the process id, 0 when there is none, and all lines.
func pidFile(data string) (pid int, lines []string) {
	b, err := os.ReadFile(filepath.Join(data, "postmaster.pid"))
	if err != nil {
		return 0, nil
	}
	lines = strings.Split(string(b), "\n")
	pid, _ = strconv.Atoi(strings.TrimSpace(lines[0]))
	return pid, lines
}

// launch starts PostgreSQL on the data and returns when it accepts connections. The child inherits the lock.
func (c *Cluster) launch(ctx context.Context, inherited *os.File) (*postmaster, error) {
	if err := c.clearSocket(); err != nil {
		return nil, err
	}
	p := &postmaster{data: c.folder.dataDir(), exited: make(chan struct{})}
	p.cmd = exec.Command(filepath.Join(c.bin, "postgres"), append([]string{"-D", p.data}, c.settings()...)...)
	p.cmd.Dir = p.data
	p.cmd.Env = environment()
	p.cmd.ExtraFiles = []*os.File{inherited}
	p.cmd.SysProcAttr = processAttr(c.account, c.deathSignal())
	if err := p.start(c.log); err != nil {
		return nil, err
	}
	if err := p.waitReady(ctx); err != nil {
		return nil, errors.Join(err, p.stop(c.hurry))
	}
	return p, nil
}

// deathSignal is what PostgreSQL gets when this process is killed: a fast shutdown, or for data that nobody will
// read again an immediate one.
func (c *Cluster) deathSignal() syscall.Signal {
	switch {
	case c.cfg.outlive:
		return 0
	case c.cfg.Memory:
		return syscall.SIGQUIT
	default:
		return syscall.SIGINT
	}
}

// settings go on the command line, where they win over the files of the data folder.
func (c *Cluster) settings() []string {
	values := map[string]string{
		"listen_addresses":        "",
		"unix_socket_directories": `"` + strings.ReplaceAll(c.socket, `"`, `""`) + `"`,
		"unix_socket_permissions": "0700",
		"port":                    port,
		"max_connections":         strconv.Itoa(c.cfg.MaxConnections),
		"timezone":                "UTC",
		"log_destination":         "stderr",
		"logging_collector":       "off",
		"log_line_prefix":         "",
		"log_timezone":            "UTC",
		"log_checkpoints":         "off",
		"lc_messages":             "C",
	}
	if c.cfg.Memory {
		values["fsync"] = "off"
		values["synchronous_commit"] = "off"
		values["full_page_writes"] = "off"
	}
	maps.Copy(values, c.cfg.Settings)
	var args []string
	for _, name := range slices.Sorted(maps.Keys(values)) {
		args = append(args, "-c", name+"="+values[name])
	}
	return args
}

// start runs the child and reads its output. The pipe is its own, because children of a killed postmaster may hold it
// for longer than the postmaster lives.
func (p *postmaster) start(log *slog.Logger) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	p.cmd.Stdout, p.cmd.Stderr = w, w
	err = p.cmd.Start()
	w.Close()
	if err != nil {
		r.Close()
		return err
	}
	go func() {
		defer close(p.exited)
		drained := make(chan struct{})
		go func() {
			defer close(drained)
			forward(r, log, &p.tail)
		}()
		_ = p.cmd.Wait() // its outcome is in ProcessState
		_ = r.SetReadDeadline(time.Now().Add(drainTime))
		<-drained
		r.Close()
	}()
	return nil
}

// waitReady waits for the word "ready" in postmaster.pid, which PostgreSQL writes when it accepts connections.
func (p *postmaster) waitReady(ctx context.Context) error {
	for {
		select {
		case <-p.exited:
			return fmt.Errorf("PostgreSQL did not start: %s: %s", p.state(), &p.tail)
		default:
		}
		pid, lines := pidFile(p.data)
		if pid == p.cmd.Process.Pid && len(lines) > 7 && strings.TrimSpace(lines[7]) == "ready" {
			return nil
		}
		if !pause(ctx, pollInterval) {
			return fmt.Errorf("PostgreSQL is not up yet: %w", ctx.Err())
		}
	}
}

// state tells how the process ended.
func (p *postmaster) state() string { return p.cmd.ProcessState.String() }

// stop asks for a fast shutdown, then, when hurried or out of time, for an immediate one, and at last kills. Nil when
// it ended in order, or had ended before.
func (p *postmaster) stop(hurry <-chan struct{}) error {
	select {
	case <-p.exited:
		return nil
	default:
	}
	p.cmd.Process.Signal(syscall.SIGINT)
	if p.wait(fastStop, hurry) {
		if p.cmd.ProcessState.Success() {
			return nil
		}
		return fmt.Errorf("PostgreSQL did not stop in order: %s: %s", p.state(), &p.tail)
	}
	p.cmd.Process.Signal(syscall.SIGQUIT)
	if !p.wait(immediateStop, nil) {
		p.cmd.Process.Kill()
		<-p.exited
	}
	return errors.New("PostgreSQL did not stop in time and was stopped at once; it recovers at its next start")
}

func (p *postmaster) wait(d time.Duration, hurry <-chan struct{}) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-p.exited:
		return true
	case <-hurry:
	case <-t.C:
	}
	return false
}

// credential drops the supplementary groups with the account's change.
func (a *account) credential() *syscall.Credential {
	if a == nil {
		return nil
	}
	return &syscall.Credential{Uid: a.uid, Gid: a.gid}
}

var socketFiles = []string{".s.PGSQL." + port, ".s.PGSQL." + port + ".lock"}

// clearSocket removes what a killed postmaster left in the socket folder, and makes the folder again where something
// that tidies up temporary files took it.
func (c *Cluster) clearSocket() error {
	err := os.Mkdir(c.socket, 0o700)
	if err == nil {
		return c.account.own(c.socket)
	}
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	info, err := os.Lstat(c.socket)
	if err != nil {
		return err
	}
	if !info.IsDir() || info.Mode().Perm() != 0o700 || !slices.Contains(c.trusted(), ownerOf(info).uid) {
		return fmt.Errorf("socket folder %s is no longer ours", c.socket)
	}
	for _, name := range socketFiles {
		if err := os.Remove(filepath.Join(c.socket, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// trusted are the accounts whose temporary folders are ours.
func (c *Cluster) trusted() []uint32 {
	ids := []uint32{uint32(os.Geteuid())} //nolint:gosec // an id of Unix has 32 bits
	if c.account != nil {
		ids = append(ids, c.account.uid)
	}
	return ids
}
