//go:build linux

package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	recoveryLimit = 5 * time.Second  // from a PostgreSQL that takes connections to the first commit
	healLimit     = 30 * time.Second // from a healed network to a commit by the server that it had cut off, which waits up to 10 s
)

// play carries out the schedule: the faults one after the other, none before its time, and those beside them.
func (c *cluster) play(ctx context.Context, s schedule) error {
	begun := time.Now()
	done := make(chan error)
	go func() { done <- c.playAll(ctx, s.beside, begun, true) }()
	err := c.playAll(ctx, s.events, begun, false)
	return errors.Join(err, <-done)
}

func (c *cluster) playAll(ctx context.Context, events []event, begun time.Time, together bool) (err error) {
	failed := make(chan error, len(events))
	for _, e := range events {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		_ = pause(ctx, time.Until(begun.Add(e.At)))
		strike := func() error {
			c.notef("%v", e)
			ctx, cancel := context.WithTimeout(ctx, e.Lasts+time.Minute)
			defer cancel()
			if err := c.strike(ctx, e); err != nil {
				return fmt.Errorf("%v: %w", e, err)
			}
			c.tally.add("fault "+string(e.Kind), 1)
			return nil
		}
		if together {
			go func() { failed <- strike() }()
			continue
		}
		failed <- nil
		if err := strike(); err != nil {
			return err
		}
	}
	for range events {
		err = errors.Join(err, <-failed)
	}
	return err
}

// strike is one fault, from its begin to its end.
func (c *cluster) strike(ctx context.Context, e event) error {
	w, r := c.wires[e.Server], c.replicas[e.Server]
	switch e.Kind {
	case crashImmediate:
		return c.crash(ctx, syscall.SIGQUIT, e.Lasts)
	case crashKilled:
		return c.crash(ctx, syscall.SIGKILL, e.Lasts)
	case terminateAll:
		return c.afterTrouble(ctx, c.terminate(ctx, ""))
	case terminateListener:
		return c.afterTrouble(ctx, c.terminate(ctx, "AND query LIKE 'LISTEN%'"))
	case exhausted:
		return c.afterTrouble(ctx, c.exhaust(ctx, e.Lasts))
	case diskFull:
		return c.fillDisk(ctx, e.Lasts)
	case deadlock:
		return c.afterTrouble(ctx, c.deadlock(ctx, e.Lasts))
	case refused:
		return c.afterTrouble(ctx, c.refuse(ctx, e.Lasts))
	case heldLock:
		return c.hold(ctx, e.Lasts, "SELECT FROM pipeproc_default.topics WHERE name = '"+c.load.held()+"' FOR UPDATE")
	case openSnapshot:
		return c.hold(ctx, e.Lasts, "SELECT count(*) FROM pipeproc_default.topics")

	case netCut:
		w.cut()
		_ = pause(ctx, e.Lasts)
		return c.heal(ctx, e.Server)
	case netHalfOpen:
		if err := errors.Join(w.toxic("timeout", "upstream", nil), w.toxic("timeout", "downstream", nil)); err != nil {
			return err
		}
		_ = pause(ctx, e.Lasts)
		return c.heal(ctx, e.Server)
	case netLatency:
		late := map[string]int64{"latency": 300, "jitter": 200}
		if err := errors.Join(w.toxic("latency", "upstream", late), w.toxic("latency", "downstream", late)); err != nil {
			return err
		}
		_ = pause(ctx, e.Lasts)
		return c.heal(ctx, e.Server)
	case netSlow:
		slow := map[string]int64{"rate": 1}
		if err := errors.Join(w.toxic("bandwidth", "upstream", slow), w.toxic("bandwidth", "downstream", slow)); err != nil {
			return err
		}
		_ = pause(ctx, e.Lasts)
		return c.heal(ctx, e.Server)
	case netReset:
		// PostgreSQL's answers are held back: whatever COMMIT is on its way is carried out, and its answer is lost.
		if err := w.toxic("latency", "downstream", map[string]int64{"latency": 1000}); err != nil {
			return err
		}
		_ = pause(ctx, e.Lasts)
		if err := w.toxic("reset_peer", "upstream", nil); err != nil {
			return err
		}
		_ = pause(ctx, 50*time.Millisecond)
		return c.heal(ctx, e.Server)

	case serverKilled:
		return r.signal(syscall.SIGKILL)
	case serverStopped:
		if err := r.signal(syscall.SIGSTOP); err != nil {
			return err
		}
		_ = pause(ctx, e.Lasts)
		return r.signal(syscall.SIGCONT)
	case serverEnded:
		return r.signal(syscall.SIGTERM)
	case clientsCut:
		c.front.cut(r.address)
		return nil
	case migrateKilled:
		return c.migrate(ctx, e.Arm)
	}
	return fmt.Errorf("no such fault: %s", e.Kind)
}

// crash ends PostgreSQL by a signal, and starts it again after a while.
func (c *cluster) crash(ctx context.Context, signal syscall.Signal, away time.Duration) error {
	if err := c.postgres.crash(signal); err != nil {
		return err
	}
	_ = pause(ctx, away)
	if err := c.postgres.start(ctx); err != nil {
		return err
	}
	c.tally.add(crashes, 1)
	return c.recovers(ctx)
}

// afterTrouble is how a fault of PostgreSQL ends, unless it could not be brought about: the servers are back at once.
func (c *cluster) afterTrouble(ctx context.Context, err error) error {
	if err != nil {
		return err
	}
	return c.recovers(ctx)
}

// recovers measures the time until a commit is answered, by whichever server.
func (c *cluster) recovers(ctx context.Context) error {
	begun := time.Now()
	if err := c.load.commitsAgain(ctx, c.front.url()); err != nil {
		return err
	}
	took := time.Since(begun)
	c.tally.longest(recoveryTime, took)
	c.tally.add(recoveries, 1)
	if took > recoveryLimit {
		c.tally.add(lateRecoveries, 1)
	}
	if c.timed && took > 3*recoveryLimit {
		return fmt.Errorf("PostgreSQL was back for %v when the first commit was answered, at most %v is allowed, were the machine ever so busy", took, 3*recoveryLimit)
	}
	return nil
}

// heal ends what was done to a server's network, by resetting its connections, and measures the time until it commits
// again.
func (c *cluster) heal(ctx context.Context, server int) error {
	if err := c.wires[server].heal(); err != nil {
		return err
	}
	begun := time.Now()
	if err := c.load.commitsAgain(ctx, "http://"+c.replicas[server].address); err != nil {
		return err
	}
	took := time.Since(begun)
	c.tally.longest("network healed to the server's first commit", took)
	if c.timed && took > healLimit {
		return fmt.Errorf("server %d committed %v after its network was healed, at most %v is allowed", server, took, healLimit)
	}
	return nil
}

// terminate ends the servers' backends that meet a condition.
func (c *cluster) terminate(ctx context.Context, condition string) error {
	return c.outsider(ctx, func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1 "+condition, role)
		return err
	})
}

// outsider runs f on a superuser's connection to the servers' database.
func (c *cluster) outsider(ctx context.Context, f func(*pgx.Conn) error) error {
	conn, err := c.postgres.connect(ctx, database)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	return f(conn)
}

// exhaust takes every connection that PostgreSQL gives, also those of the servers.
func (c *cluster) exhaust(ctx context.Context, d time.Duration) error {
	var taken []*pgx.Conn
	defer func() {
		for _, conn := range taken {
			conn.Close(context.WithoutCancel(ctx))
		}
	}()
	var end time.Time
	full := false
	for (!full || time.Now().Before(end)) && ctx.Err() == nil {
		conn, err := pgx.Connect(ctx, c.postgres.url(c.postgres.address())+"&application_name=outsider")
		if err == nil {
			taken = append(taken, conn)
			continue
		}
		if !full {
			full, end = true, time.Now().Add(d)
			if err := c.terminate(ctx, "AND application_name <> 'outsider'"); err != nil {
				return err
			}
		}
		_ = pause(ctx, 5*time.Millisecond)
	}
	if !full {
		return errors.New("PostgreSQL's connections could not be exhausted")
	}
	return nil
}

// fillDisk leaves PostgreSQL without room for a while. It may well crash, and not come up before there is room.
func (c *cluster) fillDisk(ctx context.Context, d time.Duration) error {
	if !c.postgres.disk {
		c.tally.add("faults left out for want of root: "+string(diskFull), 1)
		return nil
	}
	free, err := c.postgres.fill(ctx)
	if err != nil {
		return err
	}
	_ = pause(ctx, d)
	if err := free(); err != nil {
		return err
	}
	for !c.postgres.ready(ctx) {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err := c.postgres.start(ctx); err != nil {
			return err
		}
	}
	return c.recovers(ctx)
}

// deadlock locks topics in the wrong order, again and again, against commits that touch the same. The servers' backends look
// for deadlocks long before the outsider's does, so it is they who are refused.
func (c *cluster) deadlock(ctx context.Context, d time.Duration) error {
	end := time.Now().Add(d)
	lock := func(which string) string {
		return "SELECT FROM pipeproc_default.topics WHERE id = (SELECT " + which + "(id) FROM pipeproc_default.topics WHERE name LIKE '" +
			c.load.own("kept-") + "%') FOR UPDATE"
	}
	first, last := lock("min"), lock("max")
	const broken = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
	return c.outsider(ctx, func(conn *pgx.Conn) error {
		var before, after int64
		if err := conn.QueryRow(ctx, broken).Scan(&before); err != nil {
			return err
		}
		if _, err := conn.Exec(ctx, "SET deadlock_timeout = '10s'; SET lock_timeout = '2s'"); err != nil {
			return err
		}
		for time.Now().Before(end) && ctx.Err() == nil {
			// What the outsider loses is of no interest.
			_, _ = conn.Exec(ctx, "BEGIN; "+last+"; SELECT pg_sleep(0.02); "+first)
			if _, err := conn.Exec(ctx, "ROLLBACK"); err != nil {
				return err
			}
			_ = pause(ctx, 50*time.Millisecond)
		}
		err := conn.QueryRow(ctx, broken).Scan(&after)
		c.tally.add("deadlocks that PostgreSQL broke", after-before)
		return err
	})
}

// refuse has PostgreSQL refuse every third batch with the errors that ask for another try.
func (c *cluster) refuse(ctx context.Context, d time.Duration) error {
	return c.outsider(ctx, func(conn *pgx.Conn) error {
		if _, err := conn.Exec(ctx, `SET lock_timeout = '5s';
			CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
				IF random() < 0.2 THEN RAISE EXCEPTION 'refused' USING ERRCODE = '40001'; END IF;
				IF random() < 0.2 THEN RAISE EXCEPTION 'refused' USING ERRCODE = '40P01'; END IF;
				RETURN NEW;
			END $$;
			CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON pipeproc_default.lanes
				FOR EACH ROW EXECUTE FUNCTION public.refuse()`); err != nil {
			return err
		}
		_ = pause(ctx, d)
		_, err := conn.Exec(context.WithoutCancel(ctx), "DROP FUNCTION public.refuse CASCADE")
		return err
	})
}

// hold keeps a transaction open that begins with a statement; a new one whenever it is ended from outside.
func (c *cluster) hold(ctx context.Context, d time.Duration, statement string) error {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	for ctx.Err() == nil {
		_ = c.outsider(ctx, func(conn *pgx.Conn) error {
			if _, err := conn.Exec(ctx, "BEGIN ISOLATION LEVEL REPEATABLE READ; "+statement); err != nil {
				return err
			}
			_, err := conn.WaitForNotification(ctx) // none comes: until the time is over, or the connection
			return err
		})
		_ = pause(ctx, 20*time.Millisecond)
	}
	return nil
}

// migrate has a server of a new namespace die in its migrations; the next one goes on where it was.
func (c *cluster) migrate(ctx context.Context, arm string) error {
	namespace := fmt.Sprintf("m%d", rand.Uint64())
	r := &replica{name: "migrating", address: fmt.Sprint("127.0.0.1:", freePort()), dir: c.dir, binary: c.binary, tally: c.tally}
	r.args = []string{"--database-url", c.postgres.url(c.postgres.address()), "--listen", r.address, "--namespace", namespace}
	lives := 0
	r.arms = func() string {
		if lives++; lives == 1 {
			return arm
		}
		return ""
	}
	running, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- r.run(running) }()
	err := r.serves(ctx)
	stop()
	if err = errors.Join(err, <-ended); err != nil {
		return err
	}
	return c.outsider(ctx, func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, "DROP SCHEMA "+pgx.Identifier{"pipeproc_" + namespace}.Sanitize()+" CASCADE")
		return err
	})
}

// build makes the servers' program, with faults.
func build(ctx context.Context, dir string) (string, error) {
	program := filepath.Join(dir, "server")
	if out, err := exec.CommandContext(ctx, "go", "build", "-tags", "faults", "-o", program, "pipeproc/cmd/server").CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w\n%s", err, strings.TrimSpace(string(out)))
	}
	return program, nil
}
