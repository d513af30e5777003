package pgstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/golang-migrate/migrate/v4"
	"github.com/golang-migrate/migrate/v4/database"
	migratepgx "github.com/golang-migrate/migrate/v4/database/pgx/v5"
	"github.com/golang-migrate/migrate/v4/source/iofs"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"

	"pipeproc/api/fault"
)

const oldestPostgres = 140000

// checkServer refuses databases that are too old or not durable.
func (s *Store) checkServer(ctx context.Context, conn querier) error {
	var version int
	settings := map[string]string{"fsync": "", "full_page_writes": "", "synchronous_commit": ""}
	if err := conn.QueryRow(ctx, "SELECT current_setting('server_version_num')::int").Scan(&version); err != nil {
		return err
	}
	if version < oldestPostgres {
		return fmt.Errorf("PostgreSQL %d is too old: 14 or newer is needed", version/10000)
	}
	for name := range settings {
		var value string
		if err := conn.QueryRow(ctx, "SELECT current_setting($1)", name).Scan(&value); err != nil {
			return err
		}
		if value == "off" && !s.cfg.UnsafeDurability {
			return fmt.Errorf("the database runs with %s=off and may lose commits that were answered; "+
				"turn it on, or accept the loss with --unsafe-durability", name)
		}
	}
	return nil
}

// migrate brings the namespace's schema up to date, and settles it where it lives. Servers that start at once wait for
// each other. A schema that is newer than this program is left as it is, where it says that we may go on.
func (s *Store) migrate(ctx context.Context, conn *pgx.Conn) error {
	if _, err := conn.Exec(ctx, "SELECT pg_advisory_lock(hashtextextended($1, 0))", migrationKey(s.schema)); err != nil {
		return err
	}
	defer func() { // a connection that cannot do it is closed, and the lock with it
		_, _ = conn.Exec(context.WithoutCancel(ctx), "SELECT pg_advisory_unlock(hashtextextended($1, 0))", migrationKey(s.schema))
	}()

	if err := s.bringUp(ctx, conn); err != nil {
		return err
	}
	return s.settle(ctx, conn)
}

// migrationKey names the lock of those who change a schema.
func migrationKey(schema string) string { return "migrate " + schema }

// bringUp does the steps that are missing.
func (s *Store) bringUp(ctx context.Context, conn *pgx.Conn) error {
	latest, err := latestMigration(s.cfg.steps)
	if err != nil {
		return err
	}
	version, dirty, err := s.schemaVersion(ctx, conn)
	if err != nil {
		return err
	}
	switch {
	case dirty:
		return fmt.Errorf("an earlier migration to version %d stopped halfway; restore a backup, "+
			"or mend the schema and set dirty to false in %s.schema_migrations", version, s.schema)
	case version > latest:
		oldest, err := s.oldest(ctx, conn)
		if err == nil && oldest > latest {
			err = tooOld(version, oldest, latest)
		}
		if err == nil {
			s.log.Warn("the schema is newer than this program, which it allows", "schema", version, "program", latest)
		}
		return err
	case version == latest:
		return nil
	}
	// IF NOT EXISTS asks for the right to create schemas even where there is nothing to do.
	var exists bool
	if err := conn.QueryRow(ctx, "SELECT to_regnamespace($1) IS NOT NULL", s.schema).Scan(&exists); err != nil {
		return err
	}
	if !exists {
		if _, err := conn.Exec(ctx, "CREATE SCHEMA "+s.schema); err != nil {
			return err
		}
	}

	config, err := pgx.ParseConfig(s.cfg.direct())
	if err != nil {
		return err
	}
	config.RuntimeParams["application_name"] = applicationName(s.cfg.Namespace, "")
	db := stdlib.OpenDB(*config, stdlib.OptionAfterConnect(func(ctx context.Context, c *pgx.Conn) error {
		_, err := c.Exec(ctx, "SET search_path = "+s.schema) // poolers of sessions take few parameters
		return err
	}))
	defer db.Close()
	driver, err := migratepgx.WithInstance(db, &migratepgx.Config{})
	if err != nil {
		return err
	}
	source, err := iofs.New(s.cfg.steps, ".")
	if err != nil {
		return err
	}
	m, err := migrate.NewWithInstance("embedded", source, "pgx5", &wholeSteps{Driver: driver, ctx: ctx, log: s.log, time: s.cfg.migrateTime})
	if err != nil {
		return err
	}
	defer m.Close()
	if err := m.Up(); err != nil && !errors.Is(err, migrate.ErrNoChange) {
		return err
	}
	return nil
}

// wholeSteps makes a migration and its version one transaction. By itself the driver writes the version first, marked as
// dirty: a server that died before it took that back would leave a schema that none dares to touch.
//
// Nor does it stop a server that works meanwhile: whoever waits for a table's lock has all others wait behind him. So it
// waits for a moment alone, and comes back.
type wholeSteps struct {
	database.Driver
	ctx     context.Context
	log     *slog.Logger
	time    time.Duration // how long it tries
	version int           // of the migration that is next
}

const (
	migrateTime = 2 * time.Minute
	migrateLock = 100 * time.Millisecond // a batch waits longer than that for its rows
	migrateRest = 200 * time.Millisecond // between two tries
)

// SetVersion is called before and after each Run. Run writes the version.
func (d *wholeSteps) SetVersion(version int, _ bool) error {
	d.version = version
	return nil
}

// Run sends the migration and its version as one query of several statements, which is a transaction.
func (d *wholeSteps) Run(migration io.Reader) error {
	fault.Point(fault.MigrationBegins)
	text, err := io.ReadAll(migration)
	if err != nil {
		return err
	}
	whole := fmt.Sprintf("SET LOCAL lock_timeout = %d;\n%s\n; TRUNCATE schema_migrations; "+
		"INSERT INTO schema_migrations (version, dirty) VALUES (%d, false)", migrateLock.Milliseconds(), text, d.version)
	begun := time.Now()
	for told := false; ; told = true {
		err := d.Driver.Run(strings.NewReader(whole))
		var failed database.Error
		switch {
		case err == nil:
			fault.Point(fault.MigrationDone)
			return nil
		case !errors.As(err, &failed) || sqlState(failed.OrigErr) != stateLockTimeout && !retryable(failed.OrigErr):
			return err
		case time.Since(begun) > d.time:
			return fmt.Errorf("step %d has tried for %v: other clients of the database hold its tables for long "+
				"(a dump, a transaction that was left open?): %w", d.version, d.time, failed.OrigErr)
		case !told:
			d.log.Info("a step of the schema waits for tables that are in use", "version", d.version)
		}
		rest(d.ctx, migrateRest)
		if err := d.ctx.Err(); err != nil {
			return err
		}
	}
}

// oldest is the least version that a server may be made for and still work with the schema, as its steps have left it.
func (s *Store) oldest(ctx context.Context, q querier) (oldest int, err error) {
	err = q.QueryRow(ctx, s.q("SELECT oldest FROM ns.namespace")).Scan(&oldest)
	return oldest, err
}

func tooOld(version, oldest, latest int) error {
	return fmt.Errorf("the schema has version %d, which programs made for version %d or later can work with, and this one is "+
		"made for %d: run a newer program", version, oldest, latest)
}

// schemaVersion is the version of the namespace's schema, 0 when there is none yet.
func (s *Store) schemaVersion(ctx context.Context, q querier) (version int, dirty bool, err error) {
	var exists bool
	if err := q.QueryRow(ctx, "SELECT to_regclass($1) IS NOT NULL", s.schema+".schema_migrations").Scan(&exists); err != nil {
		return 0, false, err
	}
	if !exists {
		return 0, false, nil
	}
	err = q.QueryRow(ctx, s.q("SELECT version, dirty FROM ns.schema_migrations")).Scan(&version, &dirty)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, false, nil
	}
	return version, dirty, err
}

// latestMigration is the version of the newest step that this program has.
func latestMigration(steps fs.FS) (int, error) {
	names, err := fs.Glob(steps, "*.up.sql")
	if err != nil {
		return 0, err
	}
	latest := 0
	for _, name := range names {
		number, _, _ := strings.Cut(name, "_")
		n, err := strconv.Atoi(number)
		if err != nil {
			return 0, fmt.Errorf("migration %q: %w", name, err)
		}
		latest = max(latest, n)
	}
	return latest, nil
}
