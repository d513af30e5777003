package pgstore

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// errUnknown says that a COMMIT was sent and what became of it could not be found out.
var errUnknown = errors.New("the outcome of a COMMIT is unknown")

// backend names a process of PostgreSQL, so that a later one of the same pid is not taken for it.
type backend struct {
	pid     int32
	started time.Time
}

func (l *lane) connected() bool { return l.conn != nil && !l.conn.IsClosed() }

// ensureConnected opens the lane's connection unless it is open.
func (l *lane) ensureConnected(ctx context.Context) error {
	if l.connected() {
		return nil
	}
	l.disconnect()
	timeout := l.store.patience.lock
	if l.number > 0 {
		timeout = lockTimeoutSide
	}
	ctx, cancel := context.WithTimeout(ctx, lockPhase)
	defer cancel()
	config, err := pgx.ParseConfig(l.store.cfg.direct())
	if err != nil {
		return err
	}
	config.RuntimeParams["application_name"] = applicationName(l.store.cfg.Namespace, "lane "+strconv.Itoa(l.number))
	config.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) {
		if n.SeverityUnlocalized == "WARNING" {
			l.warned = true
		}
	}
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, fmt.Sprintf("SET lock_timeout = %d;", timeout.Milliseconds())+lookups)
	if err == nil {
		err = conn.QueryRow(ctx, "SELECT pid, backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()").
			Scan(&l.backend.pid, &l.backend.started)
	}
	if err != nil {
		conn.Close(ctx)
		return err
	}
	encodeBodies(conn.TypeMap())
	l.conn = conn
	return nil
}

// lookups plans a lane's statements once: each finds a few rows by their keys, however large the tables are or will be.
// Left to itself PostgreSQL plans some of them anew in every batch, which costs more than to run them. Such a plan takes a
// window of logs for a fixed part of its topic: on large topics that looks costly enough to be compiled, which takes far
// longer, in every batch, than the few rows do.
const lookups = `
	SET plan_cache_mode = force_generic_plan;
	SET jit = off;
	SET enable_seqscan = off;
	SET enable_hashjoin = off;
	SET enable_mergejoin = off`

// disconnect drops the connection without waiting for its server.
func (l *lane) disconnect() {
	if l.conn == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	l.conn.Close(ctx)
	l.conn = nil
}

// resolve finds out what became of a COMMIT that got no answer: nil and what is kept with the batch when it was committed,
// errLost when it was not, errUnknown when the database cannot be asked. Once it has answered, the transaction is over.
func (l *lane) resolve(ctx context.Context, batch string) (places []int64, err error) {
	lost := l.backend
	l.disconnect()
	ctx, cancel := context.WithTimeout(ctx, l.store.patience.resolve)
	defer cancel()
	for ctx.Err() == nil {
		var committed bool
		if committed, places, err = l.resolveOnce(ctx, lost, batch); err == nil {
			if committed {
				return places, nil
			}
			return nil, errLost
		}
		timer := time.NewTimer(100 * time.Millisecond)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
	}
	return nil, fmt.Errorf("%w: %w", errUnknown, err)
}

// errLost says that a COMMIT was sent and is known not to have happened.
var errLost = &pgconn.PgError{Severity: "ERROR", Code: stateSerialization, Message: "the transaction was lost with its connection"}

func (l *lane) resolveOnce(ctx context.Context, lost backend, batch string) (committed bool, places []int64, err error) {
	conn, err := l.store.connect(ctx, "")
	if err != nil {
		return false, nil, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	for gone := false; !gone; {
		// It waits a little for the backend to end.
		if err := conn.QueryRow(ctx, `SELECT count(pg_terminate_backend(pid, 500)) = 0 FROM pg_stat_activity
			WHERE pid = $1 AND backend_start = $2`, lost.pid, lost.started).Scan(&gone); err != nil {
			return false, nil, err
		}
	}
	var last string
	err = conn.QueryRow(ctx, l.store.q("SELECT batch::text, places FROM ns.lanes WHERE server = $1 AND lane = $2 FOR UPDATE"),
		l.store.server, l.number).Scan(&last, &places)
	if errors.Is(err, pgx.ErrNoRows) {
		return false, nil, nil
	}
	return last == batch, places, err
}
