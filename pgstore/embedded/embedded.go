// Package embedded runs a private PostgreSQL cluster as a child process of the server: it makes the data on first
// start, supervises the postmaster, and stops it in order. The cluster listens on a Unix socket alone, in a folder
// that only its own account (and root) can enter.
//
// A data folder looks like this, and nothing in it is ever deleted but temporary initdb folders:
//
//	pipeproc.lock   marks the folder as ours; locked for as long as a server uses it
//	postgres.lock   locked for as long as any process of PostgreSQL uses it, beyond the server's own death
//	postgres/       PostgreSQL's data
//	initdb-*.tmp/   a first start that was cut short
package embedded

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	role     = "pipeproc"
	database = "pipeproc"
	port     = "5432"

	defaultMaxConnections = 100

	restartDelayMin = 50 * time.Millisecond
	restartDelayMax = 5 * time.Second
	stableAfter     = 30 * time.Second
)

var (
	// ErrNotFound means that no PostgreSQL binaries of a usable version are there.
	ErrNotFound = errors.New("no usable PostgreSQL found")
	// ErrInUse means that another server, or a PostgreSQL started by hand, uses the data folder.
	ErrInUse = errors.New("data folder is in use")
	// ErrForeign means that the data folder holds something that is not ours, or not whole.
	ErrForeign = errors.New("not a data folder of pipeproc")
	// ErrVersion means that the data belongs to another major version of PostgreSQL.
	ErrVersion = errors.New("data of another PostgreSQL version")
	// ErrAccess means that the account that PostgreSQL runs under cannot reach its files.
	ErrAccess = errors.New("no access for the account of PostgreSQL")
)

// Config says where a cluster lives and how it runs.
type Config struct {
	// Dir is the data folder. It is made when absent, taken when empty or ours, refused otherwise.
	Dir string

	// Memory asks for a throw-away cluster without durability in a temporary folder, removed by Stop.
	// Dir is ignored then.
	Memory bool

	// BinDir holds postgres and initdb. Empty: they are searched for, see Find.
	BinDir string

	// Logger receives PostgreSQL's log and that of its supervision. Nil: slog.Default().
	Logger *slog.Logger

	// MaxConnections is PostgreSQL's max_connections. 0: 100.
	MaxConnections int

	// Settings are further PostgreSQL settings; they win over the ones made here.
	Settings map[string]string

	// outlive leaves PostgreSQL running when this process is killed, as on systems without parent-death signals.
	outlive bool
}

// Cluster is a running private PostgreSQL. Its methods are safe for concurrent use.
type Cluster struct {
	cfg     Config
	log     *slog.Logger
	bin     string
	account *account
	folder  *folder
	scratch string // the temporary folder of a throw-away cluster; the only one ever removed
	socket  string

	ready   atomic.Bool
	pid     atomic.Int64
	life    context.Context
	endLife context.CancelFunc
	hurry   chan struct{}
	hurried sync.Once
	done    chan struct{}
	stopErr error
}

// Start brings a cluster up and returns when it accepts connections. On first use it makes the data, with a database
// and a superuser both named "pipeproc". A PostgreSQL that a killed server left behind on the folder is stopped first.
//
// ctx bounds the start alone: once Start has returned, the cluster runs, and is restarted when it dies, until Stop.
// After an error nothing is left running. Errors: ErrNotFound, ErrInUse, ErrForeign, ErrVersion, ErrAccess, the
// context's, and, where PostgreSQL itself refused, one that holds its last lines.
//
// As root, PostgreSQL runs under an unprivileged account: the owner of its data, else of the data folder, else
// "postgres", else "nobody".
func Start(ctx context.Context, cfg Config) (*Cluster, error) {
	if cfg.Dir == "" && !cfg.Memory {
		return nil, errors.New("no data folder given")
	}
	cfg.MaxConnections = cmp.Or(cfg.MaxConnections, defaultMaxConnections)
	c := &Cluster{
		cfg:   cfg,
		log:   cmp.Or(cfg.Logger, slog.Default()),
		hurry: make(chan struct{}),
		done:  make(chan struct{}),
	}
	c.life, c.endLife = context.WithCancel(context.Background())

	started := make(chan error, 1)
	go c.run(ctx, started)
	if err := <-started; err != nil {
		<-c.done
		return nil, err
	}
	return c, nil
}

// URL returns the connection URL of the database. It stays the same across restarts of PostgreSQL.
func (c *Cluster) URL() string { return socketURL(c.socket) }

// Ready reports whether PostgreSQL is up. It is false while it is being restarted, and after Stop.
func (c *Cluster) Ready() bool { return c.ready.Load() }

// PID returns the process id of the postmaster, 0 while there is none.
func (c *Cluster) PID() int { return int(c.pid.Load()) }

// Stop ends PostgreSQL in order: open transactions are rolled back and a checkpoint is written. When that takes too
// long, or when ctx ends, it is stopped at once and recovers at its next start; Stop tells so by its error. In each
// case it returns after PostgreSQL has ended and the folder is free. Repeated calls wait and answer the same.
func (c *Cluster) Stop(ctx context.Context) error {
	c.endLife()
	select {
	case <-c.done:
	case <-ctx.Done():
		c.hurried.Do(func() { close(c.hurry) })
		<-c.done
	}
	return c.stopErr
}

// run owns the cluster from start to end. It keeps its OS thread, because the kernel sends the parent-death signal
// when the thread that forked ends, not the process.
func (c *Cluster) run(ctx context.Context, started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(c.done)
	defer c.endLife()

	p, err := c.open(ctx)
	if err != nil {
		started <- errors.Join(err, c.release())
		return
	}
	c.up(p)
	started <- nil
	err = c.supervise(p)
	c.down()
	c.stopErr = errors.Join(err, c.release())
}

func (c *Cluster) up(p *postmaster) {
	c.pid.Store(int64(p.cmd.Process.Pid))
	c.ready.Store(true)
}

func (c *Cluster) down() {
	c.ready.Store(false)
	c.pid.Store(0)
}

// open does all that comes before the first connection.
func (c *Cluster) open(ctx context.Context) (*postmaster, error) {
	dir := c.cfg.Dir
	if c.cfg.Memory {
		if err := c.memoryFolder(ctx); err != nil {
			return nil, err
		}
		dir = c.scratch
	}
	dir, major, err := inspect(dir)
	if err != nil {
		return nil, err
	}
	version := 0
	if c.bin, version, err = defaultSearch().find(c.cfg.BinDir, major); err != nil {
		return nil, err
	}
	if major != 0 && major != version {
		return nil, versionError(dir, major, version)
	}
	if err := c.checkParents(ctx, dir); err != nil {
		return nil, err
	}
	if c.folder, err = openFolder(dir); err != nil {
		return nil, err
	}
	if c.account, err = pickAccount(c.folder); err != nil {
		return nil, err
	}
	if err := c.folder.hand(c.account); err != nil {
		return nil, err
	}
	if err := c.checkAccess(ctx, c.account, c.folder.root); err != nil {
		return nil, err
	}
	inherited, err := c.claim(ctx)
	if err != nil {
		return nil, err
	}
	defer inherited.Close()

	// Asked again under the lock: another server may have made the data meanwhile.
	if _, major, err = inspect(c.folder.root); err != nil {
		return nil, err
	}
	switch major {
	case 0:
		if err := c.initdb(ctx, inherited); err != nil {
			return nil, err
		}
	case version:
	default:
		return nil, versionError(dir, major, version)
	}
	if err := c.openSocket(); err != nil {
		return nil, err
	}
	return c.launch(ctx, inherited)
}

// supervise starts PostgreSQL again whenever it ends, until the cluster's life does; then it stops it.
func (c *Cluster) supervise(p *postmaster) error {
	delay := restartDelayMin
	for {
		since := time.Now()
		select {
		case <-c.life.Done():
			return p.stop(c.hurry)
		case <-p.exited:
		}
		c.down()
		c.log.Error("PostgreSQL ended by itself and is started again", "state", p.state())
		if time.Since(since) > stableAfter {
			delay = restartDelayMin
		}
		for {
			if !pause(c.life, delay) {
				return nil
			}
			delay = min(2*delay, restartDelayMax)
			next, err := c.relaunch()
			if err == nil {
				p = next
				break
			}
			if c.life.Err() != nil {
				return nil
			}
			c.log.Error("PostgreSQL does not start", "error", err, "next attempt in", delay)
		}
		c.up(p)
		c.log.Info("PostgreSQL is up again")
	}
}

func (c *Cluster) relaunch() (*postmaster, error) {
	inherited, err := c.claim(c.life)
	if err != nil {
		return nil, err
	}
	defer inherited.Close()
	return c.launch(c.life, inherited)
}

// release gives back what open took, as far as it came.
func (c *Cluster) release() error {
	switch {
	case c.folder == nil && c.scratch == "":
		return nil
	case c.folder == nil:
		return os.RemoveAll(c.scratch)
	case c.scratch != "":
		return errors.Join(c.removeMemory(), c.folder.close())
	case c.socket == "":
		return c.folder.close()
	}
	err := removeSocket(c.socket)
	if err == nil {
		err = c.folder.note("")
	}
	return errors.Join(err, c.folder.close())
}

func versionError(dir string, data, found int) error {
	return fmt.Errorf("%w: %s was made by PostgreSQL %d, but the binaries found are of version %d; install "+
		"PostgreSQL %d, or name its folder by --postgres-bin, or move the data by pg_upgrade or by pg_dump into "+
		"another --data-dir (nothing was changed)", ErrVersion, dir, data, found, data)
}

// pause waits, and reports false when the context ended first.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// syncDir makes a rename or a new entry in a folder durable.
func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	// Some file systems cannot sync a folder and say EINVAL; then there is nothing more to be had.
	if err := f.Sync(); err != nil && !errors.Is(err, syscall.EINVAL) {
		return err
	}
	return nil
}

// dataDir is where PostgreSQL's own files are.
func (f *folder) dataDir() string { return filepath.Join(f.root, dataName) }
