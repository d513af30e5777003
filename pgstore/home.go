package pgstore

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"pipeproc/api"
)

// settle finds out whether the namespace lives where it did when a server was last started on it, and adapts it where it
// was restored from a backup, or copied: what was given to the world after the backup was taken may be given again. It is
// called under the lock of migrate.
//
// Logs, positions, idempotency keys and definitions stay as they were. The rest belongs to a time that the database no
// longer knows of:
//
//   - The namespace gets another id, and with it the webhooks' ids: else other logs than those that a processor has seen
//     already could come to it under the same one. restores counts on, which tells tails that hold an older place.
//   - Claims end, uncounted; their logs are handed out again under new tokens.
//   - LiveProcs get their full time to live for their clients to come back, whose connection numbers may be greater than
//     the last one known.
func (s *Store) settle(ctx context.Context, conn *pgx.Conn) error {
	home, err := s.place(ctx, conn)
	if err != nil {
		return err
	}
	return readCommitted(ctx, conn, func(tx pgx.Tx) error {
		var known string
		if err := tx.QueryRow(ctx, s.q("SELECT home FROM ns.namespace")).Scan(&known); err != nil || known == home {
			return err
		}
		same := known == "" || samePlace(known, home)
		if same && strings.HasPrefix(home, "/") { // which tells less than what is known
			return nil
		}
		if !same {
			if served, err := servedBy(ctx, tx, s.cfg.Namespace); err != nil {
				return err
			} else if served {
				return fmt.Errorf("the namespace was restored or copied (from %s to %s) while servers run on it: stop them first", known, home)
			}
		}
		if _, err := tx.Exec(ctx, s.q("UPDATE ns.namespace SET home = $1"), home); err != nil || same {
			return err
		}
		s.log.Warn("the namespace was restored or copied: its claims are ended", "namespace", s.cfg.Namespace)
		return s.adapt(ctx, tx)
	})
}

// place names where the schema lives, among all copies of it: "cluster/database/schema". A role that may not ask for the
// cluster's name leaves that empty.
func (s *Store) place(ctx context.Context, conn *pgx.Conn) (string, error) {
	var allowed bool
	if err := conn.QueryRow(ctx, "SELECT has_function_privilege('pg_catalog.pg_control_system()', 'EXECUTE')").Scan(&allowed); err != nil {
		return "", err
	}
	cluster := "''"
	if allowed {
		cluster = "(SELECT system_identifier FROM pg_control_system())"
	}
	var home string
	err := conn.QueryRow(ctx, `SELECT concat_ws('/', `+cluster+`, (SELECT oid FROM pg_database WHERE datname = current_database()),
		$1::regnamespace::oid)`, s.schema).Scan(&home)
	return home, err
}

// samePlace reports whether two names may be of one place: servers whose roles may ask for different things are not to take
// each other's for a restore.
func samePlace(a, b string) bool {
	clusterA, restA, _ := strings.Cut(a, "/")
	clusterB, restB, _ := strings.Cut(b, "/")
	return restA == restB && (clusterA == clusterB || clusterA == "" || clusterB == "")
}

// servedBy reports whether servers run on the namespace. Each listens for wake-ups, by a connection that no pooler keeps
// when the server ends.
func servedBy(ctx context.Context, q querier, namespace string) (served bool, err error) {
	err = q.QueryRow(ctx, "SELECT "+isServed(namespace)).Scan(&served)
	return served, err
}

func isServed(namespace string) string {
	return "EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND application_name = '" +
		applicationName(namespace, listener) + "')" // a namespace needs no quoting
}

// lostConnections is more than the connection numbers that a liveProc gave out between a backup and its end.
const lostConnections = 1 << 32

// adapt does what settle tells. Servers made for version 5 may not go on: they know nothing of restores.
func (s *Store) adapt(ctx context.Context, tx pgx.Tx) error {
	if _, err := tx.Exec(ctx, s.q("UPDATE ns.namespace SET id = gen_random_uuid(), restores = restores + 1, oldest = greatest(oldest, 6)")); err != nil {
		return err
	}
	rows, err := tx.Query(ctx, s.q("SELECT "+procColumns+" FROM ns.procs WHERE claim_token <> '' ORDER BY id FOR UPDATE"))
	if err != nil {
		return err
	}
	var procs []*procRow
	if err := eachProc(rows, func(p *procRow) {
		p.EndClaim()
		procs = append(procs, p)
	}); err != nil {
		return err
	}
	if err := s.writeProc(ctx, tx, procs...); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, s.q("UPDATE ns.procs SET expires_at = greatest(expires_at, ns.now_ms() + greatest(ttl, $1)) WHERE expires_at IS NOT NULL"),
		int64(api.StreamLease)); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, s.q(`INSERT INTO ns.live_streams AS l (proc_id, connections) SELECT id, $1 FROM ns.procs WHERE kind = 'live'
		ON CONFLICT (proc_id) DO UPDATE SET instance = '', open_until = 0, connections = l.connections + excluded.connections`),
		int64(lostConnections)); err != nil {
		return err
	}
	return nil
}

// readNamespace reads what the store has to know of the namespace.
func (s *Store) readNamespace(ctx context.Context, q querier) error {
	return q.QueryRow(ctx, s.q("SELECT encode(uuid_send(id), 'hex'), restores FROM ns.namespace")).Scan(&s.namespace, &s.restores)
}

// Tails name topics across restores: a place in a topic of the time before may be one that was never there.
const topicIDBits = 40

func (s *Store) tailID(topic int64) int64 { return s.restores<<topicIDBits | topic }

// ownTopic is the topic that tailID has named; not ok where that was before a restore.
func (s *Store) ownTopic(tailID int64) (topic int64, ok bool) {
	return tailID & (1<<topicIDBits - 1), tailID>>topicIDBits == s.restores
}

// Schema is the name of a namespace's schema in PostgreSQL, quoted.
func Schema(namespace string) string { return pgx.Identifier{schemaName(namespace)}.Sanitize() }

// MigrationLock are statements that wait until no server changes the schema of a namespace, keep servers from starting on it
// until the transaction's end, and fail while one runs on it.
func MigrationLock(namespace string) string {
	return "SELECT pg_advisory_xact_lock(hashtextextended('" + strings.ReplaceAll(migrationKey(Schema(namespace)), "'", "''") + "', 0)); " +
		"DO $$ BEGIN IF " + isServed(namespace) + " THEN RAISE 'servers run on the namespace'; END IF; END $$"
}

// Standing tells how a namespace stands in a database.
type Standing struct {
	Postgres int  // the major version
	Exists   bool // its schema is there
	Holds    bool // topics, procs or whatever is not there after a server's first start
	Served   bool // servers run on it
}

// Look answers the standing of a namespace in the database at url.
func Look(ctx context.Context, url, namespace string) (s Standing, err error) {
	if err := api.CheckNamespace(namespace); err != nil {
		return s, err
	}
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return s, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if err := conn.QueryRow(ctx, "SELECT current_setting('server_version_num')::int / 10000, to_regnamespace($1) IS NOT NULL, "+
		isServed(namespace), Schema(namespace)).Scan(&s.Postgres, &s.Exists, &s.Served); err != nil || !s.Exists {
		return s, err
	}
	rows, err := conn.Query(ctx, "SELECT relname FROM pg_class WHERE relnamespace = to_regnamespace($1) AND relkind IN ('r', 'p')", Schema(namespace))
	if err != nil {
		return s, err
	}
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return s, err
	}
	for _, table := range tables { // also those that are not ours
		switch table {
		case "schema_migrations", "namespace", "lanes", "gc_runs":
			continue
		}
		name := Schema(namespace) + "." + pgx.Identifier{table}.Sanitize()
		if err := conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM "+name+")").Scan(&s.Holds); err != nil || s.Holds {
			return s, err
		}
	}
	return s, nil
}
