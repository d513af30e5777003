package main

import (
	"context"
	"io/fs"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"pipeproc/migrations"
	"pipeproc/pgstore/pgtest"
)

// TestKilledInAMigration kills a server that is at a step of the schema: the next ones, two at once, do it anew.
func TestKilledInAMigration(t *testing.T) {
	t.Parallel()
	dbURL := pgtest.Database(t)
	conn, err := pgx.Connect(t.Context(), dbURL)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	other, err := pgx.Connect(t.Context(), dbURL)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close(context.Background())
	exec := func(sql string) {
		t.Helper()
		if err := conn.PgConn().Exec(t.Context(), sql).Close(); err != nil {
			t.Fatal(err)
		}
	}
	flags := []string{"--database-url", dbURL, "--unsafe-durability", "--listen=127.0.0.1:0"}
	p := launch(t, nil, flags...)
	commit(t, p.url(t), `{"n":1}`)
	p.stop(t)

	down, err := fs.Glob(migrations.Files, "000006_*.down.sql") // to where servers were before
	if err != nil || len(down) != 1 {
		t.Fatal(down, err)
	}
	text, err := fs.ReadFile(migrations.Files, down[0])
	if err != nil {
		t.Fatal(err)
	}
	exec("SET search_path = pipeproc_default; " + string(text) + "; UPDATE schema_migrations SET version = 5")
	exec("BEGIN; LOCK TABLE pipeproc_default.namespace IN ACCESS SHARE MODE")
	for range 3 {
		p = launch(t, nil, flags...)
		eventually(t, "it is at the step", func() bool {
			var waits bool
			if err := other.QueryRow(t.Context(), `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database()
				AND wait_event_type = 'Lock' AND query LIKE '%ALTER TABLE namespace%')`).Scan(&waits); err != nil {
				t.Fatal(err)
			}
			return waits
		})
		p.kill(t)
	}
	exec("COMMIT")
	a, b := launch(t, nil, flags...), launch(t, nil, flags...)
	commit(t, a.url(t), `{"n":2}`)
	commit(t, b.url(t), `{"n":3}`)
	b.stop(t)
	a.stop(t)
	if got := strings.Join(bodiesOf(t, conn), ""); got != `{"n":1}{"n":2}{"n":3}` {
		t.Errorf("the topic holds %s", got)
	}
}

// bodiesOf reads the database itself.
func bodiesOf(t *testing.T, conn *pgx.Conn) []string {
	t.Helper()
	rows, err := conn.Query(t.Context(), "SELECT convert_from(body, 'UTF8') FROM pipeproc_default.logs ORDER BY seq")
	if err != nil {
		t.Fatal(err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return list
}
