package service

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestDatabaseURLIsNotTold holds that what is wrong with a database URL is told without its password, wherever that stands.
func TestDatabaseURLIsNotTold(t *testing.T) {
	for _, url := range []string{
		"postgres://user:s3cr3t@host:port/db",
		"postgres://user:s3cr3t@host/db?sslmode=odd",
		"postgres://host/db?user=u&password=s3cr3t&sslmode=odd",
		"postgres://host/db?sslpassword=s3cr3t&sslmode=odd",
		"postgres://user:s3cr3t/x@host/db",
		"postgres://user:12%s3cr3t@host/db",
		"postgres://user:s3cr3t@host:5432:x/db",
		"host=h password=s3cr3t sslmode=odd",
		"host=h password = s3cr3t sslmode=odd", // which pgx tells
		"host=h password='s3cr3t",
		"postgres://user@host:s3cr3t@host/db",
	} {
		c := DefaultConfig()
		c.DatabaseURL = url
		_, err := New(c)
		if err == nil || !strings.HasPrefix(err.Error(), "--database-url: ") || strings.Contains(err.Error(), "s3cr3t") {
			t.Errorf("%s: %v", url, err)
		}
	}
	if err := checkDatabaseURL("postgres://user:s3cr3t@host/db?sslmode=odd"); !strings.Contains(err.Error(), "sslmode") {
		t.Errorf("it does not tell what is wrong: %v", err)
	}
	for _, url := range []string{"postgres://user:s3cr3t@host:5432/db?sslmode=disable", "host=/run dbname=x password=s3cr3t"} {
		if err := checkDatabaseURL(url); err != nil {
			t.Errorf("%s: %v", url, err)
		}
	}
}

// unreachable are URLs of databases that do not answer, each in its own way.
var unreachable = []string{
	"postgres://user:s3cr3t@127.0.0.1:1/db",
	"postgres://user:s3cr3t@127.0.0.1:1,127.0.0.2:1/db?sslmode=require",
	"postgres://user:s3cr3t@nowhere.invalid/db",
	"postgres:///db?host=/nowhere&user=u&password=s3cr3t",
	"host=127.0.0.1 port=1 user=u password='s3cr3t' dbname=db",
}

// TestPasswordOfADatabaseThatDoesNotAnswer holds that neither the log nor the error tells the password of a database that
// cannot be reached: of a server, of a backup, of a restore.
func TestPasswordOfADatabaseThatDoesNotAnswer(t *testing.T) {
	file := filepath.Join(t.TempDir(), "dump")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, url := range unreachable {
		for _, direct := range []bool{false, true} {
			for what, do := range map[string]func(context.Context, Config) error{
				"server": func(ctx context.Context, c Config) error {
					s, err := New(c)
					if err != nil {
						return err
					}
					return s.Run(ctx)
				},
				"backup":  func(ctx context.Context, c Config) error { return Backup(ctx, BackupConfig{Config: c, File: file}) },
				"restore": func(ctx context.Context, c Config) error { return Restore(ctx, BackupConfig{Config: c, File: file}) },
			} {
				ctx, stop := context.WithCancel(t.Context())
				var log lockedBuffer
				c := DefaultConfig()
				c.Listen = []string{"127.0.0.1:0"}
				// A server tries again and again: it has told enough when it has told something.
				c.Logger = slog.New(slog.NewTextHandler(writers{&log, stop}, &slog.HandlerOptions{Level: slog.LevelDebug}))
				if direct {
					c.DatabaseURL, c.DatabaseDirectURL = "postgres://user@127.0.0.1:1/db", url
				} else {
					c.DatabaseURL = url
				}
				err := do(ctx, c)
				stop()
				told := log.String()
				if err != nil {
					told += err.Error()
				}
				if strings.Contains(told, "s3cr3t") || told == "" {
					t.Errorf("%s of %s: %q", what, url, told)
				}
			}
		}
	}
}

// writers call stop after each line.
type writers struct {
	*lockedBuffer
	stop func()
}

func (w writers) Write(p []byte) (int, error) {
	defer w.stop()
	return w.lockedBuffer.Write(p)
}

// TestPasswordOfPrograms holds that PostgreSQL's programs are told the password in their environment alone: everybody on the
// machine may read their command lines.
func TestPasswordOfPrograms(t *testing.T) {
	t.Setenv("PIPEPROC_DATABASE_URL", "postgres://other:s3cr3t2@host/db")
	for _, url := range unreachable {
		cmd, err := program(t.Context(), url, "/bin/pg_dump", "--format=custom")
		if err != nil {
			t.Fatal(err)
		}
		if args := strings.Join(cmd.Args, " "); strings.Contains(args, "s3cr3t") || strings.Contains(args, "postgres:") {
			t.Errorf("%s: %s", url, args)
		}
		env := strings.Join(cmd.Env, "\n") + "\n"
		if !strings.Contains(env, "PGPASSWORD=s3cr3t\n") || strings.Contains(env, "s3cr3t2") {
			t.Errorf("%s: %s", url, env)
		}
	}
}
