package pgstore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"github.com/golang-migrate/migrate/v4"
	migratepgx "github.com/golang-migrate/migrate/v4/database/pgx/v5"
	"github.com/golang-migrate/migrate/v4/source/iofs"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"

	"pipeproc/migrations"
)

const oldestPostgres = 140000

// checkServer refuses databases that are too old or not durable.
func (s *Store) checkServer(ctx context.Context, conn *pgx.Conn) error {
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

// migrate brings the namespace's schema up to date. Servers that start at once wait for each other.
func (s *Store) migrate(ctx context.Context, conn *pgx.Conn) error {
	if _, err := conn.Exec(ctx, "SELECT pg_advisory_lock(hashtextextended($1, 0))", "migrate "+s.schema); err != nil {
		return err
	}
	defer func() { // a connection that cannot do it is closed, and the lock with it
		_, _ = conn.Exec(context.WithoutCancel(ctx), "SELECT pg_advisory_unlock(hashtextextended($1, 0))", "migrate "+s.schema)
	}()

	latest, err := latestMigration()
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
		return fmt.Errorf("the schema has version %d, this program knows up to %d: run a newer program", version, latest)
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

	config, err := pgx.ParseConfig(s.cfg.URL)
	if err != nil {
		return err
	}
	config.RuntimeParams["search_path"] = s.schema
	db := stdlib.OpenDB(*config)
	defer db.Close()
	driver, err := migratepgx.WithInstance(db, &migratepgx.Config{})
	if err != nil {
		return err
	}
	source, err := iofs.New(migrations.Files, ".")
	if err != nil {
		return err
	}
	m, err := migrate.NewWithInstance("embedded", source, "pgx5", driver)
	if err != nil {
		return err
	}
	defer m.Close()
	if err := m.Up(); err != nil && !errors.Is(err, migrate.ErrNoChange) {
		return err
	}
	return nil
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
func latestMigration() (int, error) {
	names, err := fs.Glob(migrations.Files, "*.up.sql")
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
