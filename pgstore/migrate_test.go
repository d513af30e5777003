package pgstore_test

import (
	"context"
	"strings"
	"sync"
	"testing"

	"github.com/golang-migrate/migrate/v4"
	migratepgx "github.com/golang-migrate/migrate/v4/database/pgx/v5"
	"github.com/golang-migrate/migrate/v4/source/iofs"
	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"

	"pipeproc/api"
	"pipeproc/migrations"
	"pipeproc/pgstore"
	"pipeproc/pgstore/pgtest"
)

func openOnce(ctx context.Context, cfg pgstore.Config) error {
	cfg.Logger = pgtest.Logger()
	s, err := pgstore.Open(ctx, cfg)
	if err == nil {
		s.Close()
	}
	return err
}

func wantRefused(tb testing.TB, cfg pgstore.Config, told ...string) {
	tb.Helper()
	err := openOnce(tb.Context(), cfg)
	if err == nil {
		tb.Fatal("it is not refused")
	}
	for _, word := range told {
		if !strings.Contains(err.Error(), word) {
			tb.Errorf("%q does not tell of %q", err, word)
		}
	}
}

func TestThreeStoresStartAtOnce(t *testing.T) {
	t.Parallel()
	url := pgtest.EmptyDatabase(t)
	var g sync.WaitGroup
	stores := make([]*pgstore.Store, 3)
	for i := range stores {
		g.Go(func() { stores[i], _ = openWith(t, pgstore.Config{URL: url}) })
	}
	g.Wait()
	for _, s := range stores {
		mustCommit(t, s, logs("t", `[]`)...)
		if err := s.Ready(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if n := len(bodies(t, stores[0], "t")); n != 3 {
		t.Errorf("%d logs", n)
	}
}

// catalog tells what a schema holds.
func catalog(tb testing.TB, conn *pgx.Conn, schema string) []string {
	tb.Helper()
	rows, err := conn.Query(tb.Context(), `
		SELECT 'column ' || c.relname || '.' || a.attname || ' ' || format_type(a.atttypid, a.atttypmod) || ' ' || a.attnotnull ||
			coalesce(' ' || pg_get_expr(d.adbin, d.adrelid), '') || a.attidentity::text
		FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
		LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
		WHERE c.relnamespace = $1::regnamespace AND c.relkind IN ('r', 'v') AND c.relname <> 'schema_migrations'
		UNION ALL SELECT 'index ' || pg_get_indexdef(i.indexrelid) FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid
			WHERE c.relnamespace = $1::regnamespace AND c.relname <> 'schema_migrations'
		UNION ALL SELECT 'function ' || pg_get_functiondef(oid) FROM pg_proc WHERE pronamespace = $1::regnamespace
		UNION ALL SELECT 'view ' || viewname || definition FROM pg_views WHERE schemaname = $1::regnamespace::text
		ORDER BY 1`, schema)
	if err != nil {
		tb.Fatal(err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		tb.Fatal(err)
	}
	return list
}

// steps are the migrations of the default namespace of an empty database, none of them done.
func steps(t *testing.T, url string) *migrate.Migrate {
	t.Helper()
	mustExec(t, outsider(t, url), "CREATE SCHEMA pipeproc_default")
	config, err := pgx.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	config.RuntimeParams["search_path"] = "pipeproc_default"
	db := stdlib.OpenDB(*config)
	t.Cleanup(func() { db.Close() })
	driver, err := migratepgx.WithInstance(db, &migratepgx.Config{})
	if err != nil {
		t.Fatal(err)
	}
	source, err := iofs.New(migrations.Files, ".")
	if err != nil {
		t.Fatal(err)
	}
	m, err := migrate.NewWithInstance("embedded", source, "pgx5", driver)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

func TestMigrationsGoUpAndDown(t *testing.T) {
	t.Parallel()
	url := pgtest.EmptyDatabase(t)
	conn := outsider(t, url)
	m := steps(t, url)

	// Each step alone: what it does, its other half undoes.
	var before [][]string
	version := func() uint {
		v, _, err := m.Version()
		if err != nil {
			return 0
		}
		return v
	}
	for {
		list := catalog(t, conn, "pipeproc_default")
		if err := m.Steps(1); err != nil {
			break
		}
		before = append(before, list)
		up := catalog(t, conn, "pipeproc_default")
		at := version()
		if err := m.Steps(-1); err != nil {
			t.Fatalf("down from %d: %v", at, err)
		}
		if diff := cmp.Diff(list, catalog(t, conn, "pipeproc_default")); diff != "" {
			t.Errorf("step %d leaves something behind: %s", at, diff)
		}
		if err := m.Steps(1); err != nil {
			t.Fatalf("up to %d again: %v", at, err)
		}
		if diff := cmp.Diff(up, catalog(t, conn, "pipeproc_default")); diff != "" {
			t.Errorf("step %d does otherwise the second time: %s", at, diff)
		}
	}
	if len(before) == 0 || len(before[0]) != 0 {
		t.Fatalf("%d steps, from %v", len(before), before)
	}
	s, _ := openWith(t, pgstore.Config{URL: url}) // nothing to do
	mustCommit(t, s, logs("t", `[]`)...)
}

// TestMigrationGivesSecrets: each systemProc that is there already gets a secret of its own, and so does one that a server
// of the version before makes later.
func TestMigrationGivesSecrets(t *testing.T) {
	t.Parallel()
	url := pgtest.EmptyDatabase(t)
	conn := outsider(t, url)
	m := steps(t, url)
	if err := m.Steps(1); err != nil {
		t.Fatal(err)
	}
	const insert = `INSERT INTO pipeproc_default.system_procs (name, spec, created_at)
		VALUES ($1, '{"name":"' || $1 || '","from":"t","processor":"http://example.invalid/"}', 1)`
	mustExec(t, conn, insert, "a")
	mustExec(t, conn, insert, "b")
	if err := m.Steps(1); err != nil {
		t.Fatal(err)
	}
	mustExec(t, conn, insert, "c")

	s, _ := openWith(t, pgstore.Config{URL: url})
	mustCommit(t, s, logs("t", `[]`)...)
	seen := map[string]bool{}
	for _, name := range []string{"a", "b", "c"} {
		if _, err := s.PatchSystemProc(t.Context(), name, api.SystemProcPatch{}); err != nil { // makes its proc
			t.Fatal(err)
		}
		e, err := s.ClaimJob(t.Context(), name, name)
		if err != nil || e == nil || len(e.Secrets) != 1 {
			t.Fatalf("%s: %+v, %v", name, e, err)
		}
		key, err := api.SecretKey(e.Secrets[0])
		if err != nil || len(key) != 32 || seen[e.Secrets[0]] {
			t.Errorf("%s: %q, %d bytes, %v", name, e.Secrets[0], len(key), err)
		}
		seen[e.Secrets[0]] = true
	}
}

func TestSchemasThatAreRefused(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	s, _ := openWith(t, pgstore.Config{URL: url})
	conn := outsider(t, url)
	latest := queryOne[int](t, conn, "SELECT version FROM pipeproc_default.schema_migrations")

	mustExec(t, conn, "UPDATE pipeproc_default.schema_migrations SET version = version + 1")
	mustExec(t, conn, "UPDATE pipeproc_default.namespace SET oldest = $1", latest+1)
	wantCode(t, s.Ready(t.Context()), api.CodeUnavailable)
	wantRefused(t, pgstore.Config{URL: url, UnsafeDurability: true}, "newer program")
	mustExec(t, conn, "UPDATE pipeproc_default.schema_migrations SET version = $1, dirty = true", latest)
	wantRefused(t, pgstore.Config{URL: url, UnsafeDurability: true}, "halfway")
	wantCode(t, s.Ready(t.Context()), api.CodeUnavailable)
	mustExec(t, conn, "UPDATE pipeproc_default.schema_migrations SET dirty = false")
	if err := openOnce(t.Context(), pgstore.Config{URL: url, UnsafeDurability: true}); err != nil {
		t.Error(err)
	}
	if err := s.Ready(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestServersThatAreRefused(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	conn := outsider(t, url)
	with := func(settings string) string {
		if strings.Contains(url, "?") {
			return url + "&" + settings
		}
		return url + "?" + settings
	}

	t.Run("not durable", func(t *testing.T) {
		wantRefused(t, pgstore.Config{URL: with("synchronous_commit=off")}, "=off", "--unsafe-durability")
		if err := openOnce(t.Context(), pgstore.Config{URL: with("synchronous_commit=off"), UnsafeDurability: true}); err != nil {
			t.Error(err)
		}
		if queryOne[string](t, conn, "SHOW fsync") == "off" {
			wantRefused(t, pgstore.Config{URL: with("synchronous_commit=on")}, "=off", "--unsafe-durability")
		}
	})
	t.Run("too old", func(t *testing.T) { // a function of the schema "old" stands before PostgreSQL's own
		mustExec(t, conn, `CREATE SCHEMA old; CREATE FUNCTION old.current_setting(name text) RETURNS text LANGUAGE sql AS
			$$ SELECT CASE WHEN name = 'server_version_num' THEN '130022' ELSE pg_catalog.current_setting(name) END $$`)
		wantRefused(t, pgstore.Config{URL: with("search_path=old%2Cpg_catalog"), UnsafeDurability: true}, "PostgreSQL 13", "14")
	})
	t.Run("not there", func(t *testing.T) {
		p, through := newProxy(t, url)
		p.refuseThose(func(string) bool { return true })
		wantRefused(t, pgstore.Config{URL: through, UnsafeDurability: true})
		wantRefused(t, pgstore.Config{URL: "nonsense://", UnsafeDurability: true})
	})
	t.Run("bad namespaces", func(t *testing.T) {
		for _, name := range []string{"a b", `a"b`, "a;b", strings.Repeat("x", 49), "é"} {
			err := openOnce(t.Context(), pgstore.Config{URL: url, Namespace: name, UnsafeDurability: true})
			wantCode(t, err, api.CodeInvalidRequest)
		}
	})
}

func TestNamespacesAreApart(t *testing.T) {
	t.Parallel()
	url := pgtest.EmptyDatabase(t)
	conn := outsider(t, url)
	ctx := t.Context()
	names := []string{"With-Dash", "with-dash", "UPPER", strings.Repeat("x", 48)}
	stores := map[string]*pgstore.Store{}
	for _, name := range names {
		stores[name], _ = openWith(t, pgstore.Config{URL: url, Namespace: name})
	}
	for _, name := range names {
		s := stores[name]
		if ids := mustCommit(t, s, logs("t", `["`+name+`"]`)...); ids[0].Seq != 0 {
			t.Errorf("the first log of %q is %v", name, ids[0])
		}
		if _, err := s.Commit(ctx, logs("k", `[]`), key("k", "", 1)); err != nil {
			t.Error(err)
		}
		c := claimed(t, s, "p", "t")
		if _, err := s.Ack(ctx, "p", api.AckRequest{Token: c.Claim.Token, Logs: logs("out", `[]`)}); err != nil {
			t.Error(err)
		}
		if err := s.Sweep(ctx); err != nil {
			t.Error(err)
		}
		if _, err := s.Collect(ctx, 60_000); err != nil {
			t.Error(err)
		}
	}
	for _, name := range names {
		if diff := cmp.Diff([]string{`["` + name + `"]`}, bodies(t, stores[name], "t")); diff != "" {
			t.Error(diff)
		}
		if n := queryOne[int](t, conn, "SELECT count(*) FROM "+pgx.Identifier{"pipeproc_" + name, "topics"}.Sanitize()); n != 3 {
			t.Errorf("%d topics in %q", n, name)
		}
	}
	// Quoted names are channels' names as well.
	other, _ := openWith(t, pgstore.Config{URL: url, Namespace: names[0]})
	watch := other.Watch([]string{"woken"}, nil)
	defer watch.Close()
	mustCommit(t, stores[names[0]], logs("woken", `[]`)...)
	<-watch.C
	if _, err := stores[names[1]].Topic(ctx, "woken"); api.CodeOf(err) != api.CodeInvalidTopic {
		t.Error("it is seen in another namespace:", err)
	}
}

func TestLogsAsJSONB(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	s, _ := openWith(t, pgstore.Config{URL: url})
	conn := outsider(t, url)
	given := []string{`{"a":1}`, `["\u0000"]`, `["\ud800"]`, `[1e400]`, `[1e999999]`, `{"b":1,"a":1,"b":2}`, `[[["é"]]]`}
	want := []string{`{"a": 1}`, "", "", "[1" + strings.Repeat("0", 400) + "]", "", `{"a": 1, "b": 2}`, `[[["é"]]]`}
	ids := mustCommit(t, s, logs("t", given...)...)
	if diff := cmp.Diff(given, bodies(t, s, "t")); diff != "" {
		t.Error(diff)
	}
	rows, err := conn.Query(t.Context(), "SELECT id, coalesce(body::text, '') FROM pipeproc_default.logs_jsonb WHERE topic = 't' ORDER BY seq")
	if err != nil {
		t.Fatal(err)
	}
	var id, body string
	i := 0
	if _, err := pgx.ForEachRow(rows, []any{&id, &body}, func() error {
		if id != ids[i].String() || body != want[i] {
			t.Errorf("%s reads %s: %s", given[i], id, body)
		}
		i++
		return nil
	}); err != nil || i != len(given) {
		t.Error(i, err)
	}
}
