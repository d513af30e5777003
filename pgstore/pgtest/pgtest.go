// Package pgtest gives tests a PostgreSQL: a fresh database for each test, copied from a template that holds the schema.
//
// The server is PIPEPROC_TEST_DATABASE_URL where that is set; else a container where a Docker engine answers and has, or
// can pull, the image; else a private cluster of the local binaries. PIPEPROC_TEST_POSTGRES=docker or local forces one.
package pgtest

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/testcontainers/testcontainers-go"
	"github.com/testcontainers/testcontainers-go/modules/postgres"
	"github.com/testcontainers/testcontainers-go/wait"

	"pipeproc/pgstore"
	"pipeproc/pgstore/embedded"
)

// image is the PostgreSQL that docker-compose.yml runs.
const image = "postgres:17-alpine"

// server is the PostgreSQL of this test binary, started by the first test that asks for a database.
var server struct {
	once     sync.Once
	err      error
	url      string // of a database whose role may create databases
	template string
	stop     []func()
}

// Main runs a package's tests and stops what they started. Call it from TestMain; it answers the exit code.
func Main(m *testing.M) int {
	defer func() {
		for i := len(server.stop) - 1; i >= 0; i-- {
			server.stop[i]()
		}
	}()
	return m.Run()
}

// Logger is silent unless PIPEPROC_TEST_LOG is set.
func Logger() *slog.Logger {
	if os.Getenv("PIPEPROC_TEST_LOG") != "" {
		return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	return slog.New(slog.DiscardHandler)
}

// Database answers the URL of a database that holds the schema of namespace "default" and is dropped after the test.
func Database(tb testing.TB) string {
	tb.Helper()
	start(tb)
	return create(tb, server.template)
}

// EmptyDatabase answers the URL of a database without any schema of ours; it is dropped after the test.
func EmptyDatabase(tb testing.TB) string {
	tb.Helper()
	start(tb)
	return create(tb, "template1")
}

func start(tb testing.TB) {
	tb.Helper()
	server.once.Do(func() { server.err = startServer() })
	if server.err != nil {
		tb.Fatalf("no PostgreSQL for the tests: %v", server.err)
	}
}

func create(tb testing.TB, template string) string {
	tb.Helper()
	name := "t_" + strings.ToLower(rand.Text())
	if err := exec(server.url, fmt.Sprintf("CREATE DATABASE %s TEMPLATE %s", name, template)); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := exec(server.url, fmt.Sprintf("DROP DATABASE IF EXISTS %s WITH (FORCE)", name)); err != nil {
			tb.Log(err)
		}
	})
	return withDatabase(server.url, name)
}

// MoveClock sets the clock of a namespace in the database at dbURL to run offset ahead of the machine's (or behind).
func MoveClock(tb testing.TB, dbURL, namespace string, offset time.Duration) {
	tb.Helper()
	err := exec(dbURL, fmt.Sprintf(`CREATE OR REPLACE FUNCTION %s.now_ms() RETURNS bigint LANGUAGE sql VOLATILE PARALLEL SAFE
		AS $$ SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint + %d $$`,
		pgx.Identifier{"pipeproc_" + namespace}.Sanitize(), offset.Milliseconds()))
	if err != nil {
		tb.Fatal(err)
	}
}

// SetClock stops the clock of a namespace in the database at dbURL at ms, until it is set again.
func SetClock(tb testing.TB, dbURL, namespace string, ms int64) {
	tb.Helper()
	err := exec(dbURL, fmt.Sprintf(`CREATE OR REPLACE FUNCTION %s.now_ms() RETURNS bigint LANGUAGE sql VOLATILE PARALLEL SAFE
		AS $$ SELECT %d::bigint $$`, pgx.Identifier{"pipeproc_" + namespace}.Sanitize(), ms))
	if err != nil {
		tb.Fatal(err)
	}
}

func startServer() error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	var err error
	switch forced := os.Getenv("PIPEPROC_TEST_POSTGRES"); {
	case os.Getenv("PIPEPROC_TEST_DATABASE_URL") != "":
		server.url = os.Getenv("PIPEPROC_TEST_DATABASE_URL")
	case forced == "docker":
		err = startContainer(ctx)
	case forced == "local":
		err = startLocal(ctx)
	case forced != "":
		err = fmt.Errorf("PIPEPROC_TEST_POSTGRES is docker or local, not %q", forced)
	case startContainer(ctx) != nil:
		err = startLocal(ctx)
	}
	if err != nil {
		return err
	}
	server.template = "tt_" + strings.ToLower(rand.Text())
	if err := exec(server.url, "CREATE DATABASE "+server.template); err != nil {
		return err
	}
	server.stop = append(server.stop, func() { _ = exec(server.url, "DROP DATABASE IF EXISTS "+server.template+" WITH (FORCE)") })
	store, err := pgstore.Open(ctx, pgstore.Config{URL: withDatabase(server.url, server.template), UnsafeDurability: true, Logger: Logger()})
	if err != nil {
		return err
	}
	store.Close()
	// The copies are not to be taken for restored backups.
	return exec(withDatabase(server.url, server.template), "UPDATE pipeproc_default.namespace SET home = ''")
}

func startLocal(ctx context.Context) error {
	cluster, err := embedded.Start(ctx, embedded.Config{Memory: true, Logger: Logger(), MaxConnections: 300})
	if err != nil {
		return err
	}
	server.stop = append(server.stop, func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		_ = cluster.Stop(ctx)
	})
	server.url = cluster.URL()
	return nil
}

func startContainer(ctx context.Context) (err error) {
	defer func() { // testcontainers panics where it finds no Docker at all
		if p := recover(); p != nil {
			err = fmt.Errorf("docker: %v", p)
		}
	}()
	provider, err := testcontainers.NewDockerProvider()
	if err != nil {
		return err
	}
	defer provider.Close()
	if err := provider.Health(ctx); err != nil {
		return err
	}
	c, err := postgres.Run(ctx, image, postgres.WithUsername("pipeproc"), postgres.WithPassword("pipeproc"), postgres.WithDatabase("pipeproc"),
		testcontainers.WithCmd("postgres", "-c", "max_connections=300", "-c", "fsync=off", "-c", "full_page_writes=off"),
		testcontainers.WithWaitStrategy(wait.ForExec([]string{"pg_isready", "-h", "127.0.0.1", "-U", "pipeproc", "-d", "pipeproc"}).
			WithStartupTimeout(90*time.Second)))
	if c != nil {
		server.stop = append(server.stop, func() { _ = testcontainers.TerminateContainer(c) })
	}
	if err != nil {
		return err
	}
	server.url, err = c.ConnectionString(ctx, "sslmode=disable")
	return err
}

func exec(dbURL, sql string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, dbURL)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, sql)
	return err
}

// withDatabase is dbURL with another database's name.
func withDatabase(dbURL, name string) string {
	u, err := url.Parse(dbURL)
	if err != nil || u.Scheme == "" { // key=value form
		return dbURL + " dbname=" + name
	}
	u.Path = "/" + name
	return u.String()
}
