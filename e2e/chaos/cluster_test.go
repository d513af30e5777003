//go:build linux

package chaos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const servers = 3

// cluster is the system under test with all that breaks it.
type cluster struct {
	dir      string
	binary   string
	postgres *postgres
	wires    []*wire
	replicas []*replica
	front    *relay
	load     *load
	tally    *tally
	steady   bool // the first server is neither killed nor ended: its figures are to stay flat
	timed    bool // what takes too long is an error; not beside other tests

	mu   sync.Mutex
	log  io.WriteCloser // what was done to it
	stop context.CancelFunc
	runs sync.WaitGroup
	busy atomic.Bool // there is load, and faults go on
	errs chan error  // of the replicas

	arming sync.Mutex
	arms   [][]string // the points that the next lives of each server end at; none when the faults are over
}

// newCluster starts PostgreSQL and the servers, below dir.
func newCluster(ctx context.Context, dir string, steady, timed bool) (_ *cluster, err error) {
	c := &cluster{dir: dir, steady: steady, timed: timed, tally: newTally(), errs: make(chan error, servers)}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.close())
		}
	}()
	if c.log, err = os.Create(filepath.Join(dir, "faults.log")); err != nil {
		return nil, err
	}
	if c.binary, err = build(ctx, dir); err != nil {
		return nil, err
	}
	if c.postgres, err = newPostgres(ctx, dir); err != nil {
		return nil, err
	}
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	c.stop = stop
	var addresses []string
	for i := range servers {
		w, err := newWire(c.postgres.address())
		if err != nil {
			return nil, err
		}
		c.wires = append(c.wires, w)
		r := &replica{name: fmt.Sprint("server-", i), address: fmt.Sprint("127.0.0.1:", freePort()), dir: dir, binary: c.binary,
			tally: c.tally, timed: timed, arms: func() string { return c.nextArm(i) }}
		r.args = []string{"--database-url", c.postgres.url(w.relay.address()), "--listen", r.address,
			"--gc", "--gc-interval", "1000", "--gc-min-prune-time", "5000"}
		c.replicas = append(c.replicas, r)
		addresses = append(addresses, r.address)
		c.runs.Go(func() {
			if err := r.run(running); err != nil {
				c.errs <- err
			}
		})
	}
	if c.front, err = newRelay("127.0.0.1:0", addresses...); err != nil {
		return nil, err
	}
	return c, c.serve(ctx)
}

// serve waits until all replicas serve.
func (c *cluster) serve(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for _, r := range c.replicas {
		if err := r.serves(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (c *cluster) nextArm(server int) (arm string) {
	c.arming.Lock()
	defer c.arming.Unlock()
	if server < len(c.arms) && len(c.arms[server]) > 0 {
		arm, c.arms[server] = c.arms[server][0], c.arms[server][1:]
	}
	return arm
}

// arm has every server begin a new life, one after the other: those from now on end at these points.
func (c *cluster) arm(ctx context.Context, arms [][]string) error {
	c.arming.Lock()
	c.arms = arms
	c.arming.Unlock()
	for i, r := range c.replicas {
		if c.steady && i == 0 {
			continue
		}
		r.mu.Lock()
		over := r.over
		r.mu.Unlock()
		if err := r.signal(syscall.SIGTERM); err != nil {
			return err
		}
		select {
		case <-over:
		case <-ctx.Done():
			return ctx.Err()
		}
		_ = pause(ctx, 2*respawn)
		if err := r.serves(ctx); err != nil {
			return err
		}
	}
	return nil
}

// broken is an error of a replica that ended as none may.
func (c *cluster) broken() error {
	select {
	case err := <-c.errs:
		return err
	default:
		return nil
	}
}

func (c *cluster) notef(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	fmt.Fprintf(c.log, time.Now().Format(time.RFC3339Nano)+" "+format+"\n", args...)
}

// close ends everything. Its error tells of a replica that did not end well.
func (c *cluster) close() (err error) {
	if c.stop != nil {
		c.stop()
		c.runs.Wait()
		err = c.broken()
	}
	if c.front != nil {
		c.front.close()
	}
	for _, w := range c.wires {
		w.close()
	}
	if c.postgres != nil {
		err = errors.Join(err, c.postgres.close())
	}
	if c.log != nil {
		err = errors.Join(err, c.log.Close())
	}
	return err
}
