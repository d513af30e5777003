package pgstore

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// direct is the URL of connections whose session is their own from one transaction to the next: those of the lanes, of
// LISTEN and NOTIFY, of migrations, and of whoever finds out what became of a COMMIT. The pool's need none.
func (c *Config) direct() string {
	if c.DirectURL != "" {
		return c.DirectURL
	}
	return c.URL
}

// errPooled says that a connection's transactions run in sessions of different connections.
var errPooled = errors.New("leads through a pooler, which gives each transaction another session (PgBouncer with " +
	"pool_mode=transaction?), while LISTEN, advisory locks and SET need one that stays")

// checkSession holds that a connection's session is its own. What PostgreSQL itself told at the connection's begin is its
// process id; where that is another one than what answers, a pooler is between, which may be one of whole sessions: then
// no two connections are ever answered by one process, and none by two.
func (s *Store) checkSession(ctx context.Context, conn *pgx.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, sessionTime)
	defer cancel()
	own, err := answeredBy(ctx, conn)
	if err != nil || own == conn.PgConn().PID() {
		return err
	}
	stays, err := s.sessionStays(ctx, conn, own)
	switch {
	case err != nil:
		return fmt.Errorf("there is a pooler before the database, and what it pools cannot be told: %w", err)
	case stays:
		return nil
	case s.cfg.DirectURL == "":
		return fmt.Errorf("--database-url %w: give the address of PostgreSQL itself as well, by --database-direct-url", errPooled)
	}
	return fmt.Errorf("--database-direct-url %w: it is to be the address of PostgreSQL itself", errPooled)
}

// sessionStays reports whether conn, which the process own has answered, is answered by it again, and no other connection is.
func (s *Store) sessionStays(ctx context.Context, conn *pgx.Conn, own uint32) (bool, error) {
	other, err := s.connect(ctx, "")
	if err != nil {
		return false, err
	}
	defer other.Close(context.WithoutCancel(ctx))
	// Whether the pooler prefers the process that was used last, or takes them in turn: one of the two is given away.
	if _, err := other.Exec(ctx, "BEGIN", pgx.QueryExecModeSimpleProtocol); err != nil {
		return false, err
	}
	for i, c := range []*pgx.Conn{other, conn, other, conn} {
		pid, err := answeredBy(ctx, c)
		if err != nil || (c == conn) != (pid == own) {
			return false, err
		}
		if i == 1 {
			if _, err := other.Exec(ctx, "COMMIT", pgx.QueryExecModeSimpleProtocol); err != nil {
				return false, err
			}
		}
	}
	return true, nil
}

// sessionTime is what checkSession may take. A pooler that has no second session to give lets us wait.
const sessionTime = 10 * time.Second

// answeredBy is the process of PostgreSQL that runs a connection's next transaction. Nothing is prepared by name for it, since
// what is prepared belongs to a session; but it is no simple query, which pgx sends where the encoding is UTF-8 alone.
func answeredBy(ctx context.Context, conn *pgx.Conn) (pid uint32, err error) {
	err = conn.QueryRow(ctx, "SELECT pg_backend_pid()", pgx.QueryExecModeExec).Scan(&pid)
	return pid, err
}

// openPool opens the connections for reads and rare writes. With a direct URL beside it, theirs may lead through a pooler:
// they keep nothing in their sessions, prepared statements least of all.
func (s *Store) openPool(ctx context.Context) (*pool, error) {
	config, err := pgxpool.ParseConfig(s.cfg.URL)
	if err != nil {
		return nil, err
	}
	config.MaxConns = s.cfg.Connections
	config.MaxConnIdleTime = 5 * time.Minute
	config.ConnConfig.RuntimeParams["application_name"] = applicationName(s.cfg.Namespace, "")
	if s.cfg.DirectURL != "" && config.ConnConfig.DefaultQueryExecMode == pgx.QueryExecModeCacheStatement {
		config.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
	}
	p, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	return &pool{Pool: p}, nil
}

// listener is the purpose of the connection that hears wake-ups, which every server has.
const listener = "listener"

// applicationName is what PostgreSQL shows for a connection, of which it keeps 63 bytes.
func applicationName(namespace, purpose string) string {
	name := strings.TrimSpace("pipeproc " + namespace + " " + purpose)
	return name[:min(len(name), 63)]
}

// checkSameDatabase holds that the pool leads to the database that conn does, and that this one is fit as well.
func (s *Store) checkSameDatabase(ctx context.Context, conn *pgx.Conn) error {
	if s.cfg.DirectURL == "" {
		return nil
	}
	const which = `SELECT current_database(), (SELECT oid FROM pg_database WHERE datname = current_database()), pg_postmaster_start_time()`
	type database struct {
		name    string
		oid     uint32
		started time.Time
	}
	read := func(q querier) (d database, err error) {
		err = q.QueryRow(ctx, which).Scan(&d.name, &d.oid, &d.started)
		return d, err
	}
	direct, err := read(conn)
	if err != nil {
		return err
	}
	err = pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		pooled, err := read(tx)
		if err != nil {
			return err
		}
		if pooled.oid != direct.oid || !pooled.started.Equal(direct.started) {
			return fmt.Errorf("it leads to another PostgreSQL or database (%q) than --database-direct-url (%q)", pooled.name, direct.name)
		}
		return s.checkServer(ctx, tx)
	})
	if err != nil {
		return fmt.Errorf("--database-url: %w", err)
	}
	return nil
}
