//go:build linux

package chaos

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"pipeproc/pgstore/embedded"
)

// The servers' role is an ordinary one: what PostgreSQL keeps back for superusers is not for them.
const (
	role           = "pipeproc"
	database       = "pipeproc"
	maxConnections = 60
)

// diskSize is what PostgreSQL's disk can hold where it is a file system of its own.
const diskSize = 3 << 30

// postgres is a PostgreSQL of the test's own, on one port for all its lives. It flushes as a production server does.
type postgres struct {
	port int
	dir  string // its data are in dir/data
	bin  string
	log  *os.File
	user *syscall.Credential // nil: our own
	disk bool                // dir is a file system of its own

	mu    sync.Mutex // a life at a time
	child *exec.Cmd
	ended chan struct{}
	lives int
}

// newPostgres makes a cluster below dir and starts it. As root it gets a tmpfs of its own, which can be filled; its flushes
// take no time then, but are made.
func newPostgres(ctx context.Context, dir string) (_ *postgres, err error) {
	p := &postgres{dir: filepath.Join(dir, "postgres"), port: freePort()}
	if p.bin, _, err = embedded.Find(""); err != nil {
		return nil, err
	}
	if err := os.Mkdir(p.dir, 0o755); err != nil {
		return nil, err
	}
	if p.log, err = os.Create(filepath.Join(dir, "postgres.log")); err != nil {
		return nil, err
	}
	if os.Geteuid() == 0 {
		if err := p.unprivileged(); err != nil {
			return nil, err
		}
		p.disk = syscall.Mount("tmpfs", p.dir, "tmpfs", 0, fmt.Sprintf("size=%d,mode=755", diskSize)) == nil
		if err := os.Chown(p.dir, int(p.user.Uid), int(p.user.Gid)); err != nil {
			return nil, errors.Join(err, p.close())
		}
	}
	if err := p.create(ctx); err != nil {
		return nil, errors.Join(err, p.close())
	}
	return p, nil
}

func (p *postgres) create(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, filepath.Join(p.bin, "initdb"), "-D", filepath.Join(p.dir, "data"), "-U", "postgres",
		"--auth=trust", "--encoding=UTF8", "--locale=C", "--no-instructions", "--no-sync", "--data-checksums")
	cmd.Dir, cmd.SysProcAttr = p.dir, p.attributes()
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w\n%s", err, out)
	}
	if err := p.start(ctx); err != nil {
		return err
	}
	conn, err := p.connect(ctx, "postgres")
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if _, err := conn.Exec(ctx, "CREATE ROLE "+role+" LOGIN"); err != nil {
		return err
	}
	_, err = conn.Exec(ctx, "CREATE DATABASE "+database+" OWNER "+role)
	return err
}

// unprivileged picks the account that PostgreSQL runs under, since it refuses root.
func (p *postgres) unprivileged() error {
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
		if err1 == nil && err2 == nil {
			p.user = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
			return nil
		}
	}
	return errors.New("PostgreSQL does not run as root, and there is neither an account postgres nor nobody")
}

func (p *postgres) attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: p.user, Pdeathsig: syscall.SIGQUIT, Setpgid: true}
}

// start begins a life, and returns when PostgreSQL takes connections. After a killed postmaster it takes a while until the
// last of its children has noticed and a new one may start. One that is in the middle of a long statement does not notice.
func (p *postgres) start(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	begun := time.Now()
	for {
		if err := p.launch(); err != nil {
			return err
		}
		if p.ready(ctx) {
			return nil
		}
		if time.Since(begun) > orphanTime {
			p.killChildren()
		}
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return fmt.Errorf("PostgreSQL does not start: %w", err)
		}
	}
}

// orphanTime is how long the children of a killed postmaster may go on.
const orphanTime = 3 * time.Second

// killChildren ends what runs in the data folder: each of PostgreSQL's processes does.
func (p *postgres) killChildren() {
	data := filepath.Join(p.dir, "data")
	folders, _ := filepath.Glob("/proc/[0-9]*/cwd")
	for _, folder := range folders {
		if at, err := os.Readlink(folder); err == nil && at == data {
			if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(folder))); err == nil {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		}
	}
}

func (p *postgres) launch() error {
	p.child = exec.Command(filepath.Join(p.bin, "postgres"), "-D", filepath.Join(p.dir, "data"))
	for name, value := range map[string]string{
		"listen_addresses":        "127.0.0.1",
		"port":                    strconv.Itoa(p.port),
		"unix_socket_directories": "",
		"max_connections":         strconv.Itoa(maxConnections),
		"shared_buffers":          "128MB",
		"max_wal_size":            "512MB",
		"checkpoint_timeout":      "60s",
		"log_line_prefix":         "%m [%p] ",
		"deadlock_timeout":        "50ms", // shorter than the servers wait for a lock
		"timezone":                "UTC",
	} {
		p.child.Args = append(p.child.Args, "-c", name+"="+value)
	}
	p.child.Dir, p.child.Stdout, p.child.Stderr, p.child.SysProcAttr = p.dir, p.log, p.log, p.attributes()
	if err := p.child.Start(); err != nil {
		return err
	}
	p.lives++
	child, ended := p.child, make(chan struct{})
	p.ended = ended
	go func() {
		_ = child.Wait()
		close(ended)
	}()
	return nil
}

// ready waits until this life takes connections; false when it has ended before.
func (p *postgres) ready(ctx context.Context) bool {
	for {
		if conn, err := p.connect(ctx, "postgres"); err == nil {
			conn.Close(context.WithoutCancel(ctx))
			return true
		}
		select {
		case <-p.ended:
			return false
		case <-ctx.Done():
			return false
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// crash ends the life by a signal for the postmaster: SIGQUIT is an immediate shutdown, SIGKILL leaves its children to
// themselves. What PostgreSQL did not flush is gone, and the next life begins with a recovery.
func (p *postgres) crash(signal syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.child.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-p.ended
	return nil
}

// fill leaves nothing of the disk, by making it as small as what is on it, which grows meanwhile. free makes it what it was.
func (p *postgres) fill(ctx context.Context) (free func() error, err error) {
	free = func() error { return p.resize(diskSize) }
	for {
		var stat syscall.Statfs_t
		if err := syscall.Statfs(p.dir, &stat); err != nil {
			return nil, err
		}
		err := p.resize(int64(stat.Blocks-stat.Bfree) * stat.Bsize)
		if !errors.Is(err, syscall.EINVAL) || ctx.Err() != nil {
			return free, err
		}
	}
}

func (p *postgres) resize(size int64) error {
	return syscall.Mount("tmpfs", p.dir, "tmpfs", syscall.MS_REMOUNT, fmt.Sprint("size=", size))
}

// url is that of the servers' database, at an address of PostgreSQL or of what stands before it.
func (p *postgres) url(address string) string {
	return fmt.Sprintf("postgres://%s@%s/%s?sslmode=disable&connect_timeout=5", role, address, database)
}

func (p *postgres) address() string { return fmt.Sprint("127.0.0.1:", p.port) }

// connect opens a superuser's connection, straight to PostgreSQL.
func (p *postgres) connect(ctx context.Context, database string) (*pgx.Conn, error) {
	return pgx.Connect(ctx, fmt.Sprintf("postgres://postgres@%s/%s?sslmode=disable&connect_timeout=5", p.address(), database))
}

// close ends PostgreSQL and gives its disk back.
func (p *postgres) close() error {
	if p.child != nil {
		_ = p.crash(syscall.SIGQUIT)
		p.killChildren() // those that a postmaster before has left
	}
	p.log.Close()
	if !p.disk {
		return nil
	}
	var err error
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if err = syscall.Unmount(p.dir, 0); !errors.Is(err, syscall.EBUSY) { // its last children are on their way out
			break
		}
	}
	if err == nil {
		err = os.Remove(p.dir)
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return err
}

// pause waits for d; its error is ctx's.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
