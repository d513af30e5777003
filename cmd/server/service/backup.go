package service

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"pipeproc/pgstore"
	"pipeproc/pgstore/embedded"
)

// BackupConfig says what is saved or restored.
type BackupConfig struct {
	Config         // of a server: the database, the namespace
	File    string // a dump of pg_dump, in its own format
	Replace bool   // a restore takes the place of what is there
}

// ParseBackup reads what the commands backup and restore are given: a file, the flags of a server (those on the database
// and the log count) and, for restore, --replace. Errors are those of ParseConfig.
func ParseBackup(args []string, env func(string) (string, bool), restore bool) (BackupConfig, error) {
	b := BackupConfig{Config: DefaultConfig()}
	o := options(&b.Config)
	if restore {
		o.set.BoolVar(&b.Replace, "replace", false, "")
	}
	for len(args) > 0 { // the file may stand between flags
		if err := o.set.Parse(args); err != nil {
			return b, err
		}
		if args = o.set.Args(); len(args) == 0 {
			break
		}
		if b.File != "" {
			return b, fmt.Errorf("unexpected argument %q; there is a file already", args[0])
		}
		b.File, args = args[0], args[1:]
	}
	switch {
	case b.File == "":
		return b, errors.New("no file given")
	case b.Memory:
		return b, errors.New("--memory: a throw-away PostgreSQL has nothing to keep")
	}
	if err := o.environment(env); err != nil {
		return b, err
	}
	if b.Memory {
		return b, errors.New("--memory: a throw-away PostgreSQL has nothing to keep")
	}
	return b, b.validate()
}

// Backup writes the namespace, as it is at one instant, to the file, which it replaces when all of it is there. Servers may
// run meanwhile; a private PostgreSQL whose server does not run is started for it.
func Backup(ctx context.Context, b BackupConfig) (err error) {
	log := logger(&b.Config)
	url := b.databaseURL()
	if url == "" {
		if url, err = embedded.Running(b.DataDir); err != nil {
			return err
		}
	}
	if url == "" {
		db, err := openDatabase(ctx, &b.Config, log)
		if err != nil {
			return err
		}
		defer also(&err, db.stop)
		url = db.url
	}
	standing, err := pgstore.Look(ctx, url, b.Namespace)
	if err != nil {
		return err
	}
	if !standing.Exists {
		return fmt.Errorf("there is no namespace %q in the database", b.Namespace)
	}
	programs, err := embedded.FindPrograms(b.PostgresBin, standing.Postgres)
	if err != nil {
		return err
	}
	size, err := writeWhole(b.File, func(f *os.File) error {
		dump, err := program(ctx, url, programs.Dump, "--format=custom", "--schema="+pgstore.Schema(b.Namespace), "--no-owner", "--no-privileges")
		if err != nil {
			return err
		}
		dump.Stdout = f
		return finish(dump)
	})
	if err != nil {
		return err
	}
	b.tellf("namespace %s is saved to %s (%d bytes)", b.Namespace, b.File, size)
	return nil
}

// Restore puts what a backup holds in the place of the namespace: all of it, or nothing. It refuses while servers run on
// it, and, unless Replace, where it holds data.
func Restore(ctx context.Context, b BackupConfig) (err error) {
	log := logger(&b.Config)
	if _, err := os.Stat(b.File); err != nil {
		return err
	}
	url := b.databaseURL()
	if url == "" {
		db, err := openDatabase(ctx, &b.Config, log) // refuses the folder of a server that runs
		if err != nil {
			return err
		}
		defer also(&err, db.stop)
		url = db.url
	}
	standing, err := pgstore.Look(ctx, url, b.Namespace)
	switch {
	case err != nil:
		return err
	case standing.Served:
		return fmt.Errorf("servers run on namespace %q: stop them first", b.Namespace)
	case standing.Holds && !b.Replace:
		return fmt.Errorf("namespace %q holds data: --replace puts the backup in their place (they are gone then)", b.Namespace)
	}
	programs, err := embedded.FindPrograms(b.PostgresBin, standing.Postgres)
	if err != nil {
		return err
	}
	if err := b.check(ctx, programs); err != nil {
		return err
	}
	if err := b.load(ctx, url, programs, log); err != nil {
		return err
	}
	b.tellf("namespace %s is restored from %s", b.Namespace, b.File)
	return nil
}

// check holds that the file is a backup of the namespace and of nothing else.
func (b *BackupConfig) check(ctx context.Context, programs embedded.Programs) error {
	list := exec.CommandContext(ctx, programs.Restore, "--list", b.File) //nolint:gosec // PostgreSQL's own program, on the file that the operator names
	var out strings.Builder
	list.Stdout = &out
	if err := finish(list); err != nil {
		return err
	}
	// 6; 2615 16390 SCHEMA - pipeproc_default owner
	var schemas []string
	for line := range strings.Lines(out.String()) {
		if _, name, ok := strings.Cut(line, " SCHEMA - "); ok {
			name, _, _ = strings.Cut(strings.TrimSpace(name), " ")
			schemas = append(schemas, name)
		}
	}
	if want := strings.Trim(pgstore.Schema(b.Namespace), `"`); len(schemas) != 1 || schemas[0] != want {
		return fmt.Errorf("%s holds the schemas %q, not that of namespace %q alone (%s)", b.File, schemas, b.Namespace, want)
	}
	return nil
}

// load has psql carry out in one transaction what pg_restore makes of the file.
func (b *BackupConfig) load(ctx context.Context, url string, programs embedded.Programs, log *slog.Logger) error {
	sql, err := program(ctx, url, programs.SQL, "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--output="+os.DevNull)
	if err != nil {
		return err
	}
	in, err := sql.StdinPipe()
	if err != nil {
		return err
	}
	restore := exec.CommandContext(ctx, programs.Restore, "--file=-", "--no-owner", "--no-privileges", b.File) //nolint:gosec // PostgreSQL's own program, on the file that the operator names
	ended := make(chan error, 1)
	go func() { ended <- finish(sql) }()
	write := func(text string) error {
		_, err := io.WriteString(in, text)
		return err
	}
	schema := pgstore.Schema(b.Namespace)
	err = write("BEGIN;\nSET LOCAL lock_timeout = '10s';\n" + pgstore.MigrationLock(b.Namespace) + ";\nDROP SCHEMA IF EXISTS " + schema + " CASCADE;\n")
	if err == nil {
		log.Info("restoring", "file", b.File, "namespace", b.Namespace)
		restore.Stdout = in
		err = finish(restore)
	}
	if err == nil { // without these words nothing was done
		err = write("\nANALYZE " + schema + ".topics, " + schema + ".procs, " + schema + ".logs;\nCOMMIT;\n")
	}
	in.Close()
	if e := <-ended; e != nil { // which makes the writers fail
		return e
	}
	return err
}

// databaseURL is the one to connect to, "" for a private PostgreSQL.
func (b *BackupConfig) databaseURL() string {
	if b.DatabaseDirectURL != "" {
		return b.DatabaseDirectURL
	}
	return b.DatabaseURL
}

func (b *BackupConfig) tellf(format string, args ...any) {
	if b.Out != nil {
		fmt.Fprintf(b.Out, format+"\n", args...)
	}
}

// program is one of PostgreSQL's, which connects to where url leads.
func program(ctx context.Context, url, path string, args ...string) (*exec.Cmd, error) {
	env, err := libpqEnvironment(url)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, path, append(args, "--no-password")...) //nolint:gosec // PostgreSQL's own program, with arguments of ours
	cmd.Env = env
	return cmd, nil
}

// finish runs a program to its end. Its error holds what the program said.
func finish(cmd *exec.Cmd) error {
	var said strings.Builder
	cmd.Stderr = &said
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w: %s", filepath.Base(cmd.Path), err, strings.TrimSpace(said.String()))
	}
	return nil
}

// writeWhole has write fill a new file beside the one named, which it replaces when everything is on disk. Nobody else can
// read it: a backup holds the secrets of webhooks. It answers the size.
func writeWhole(name string, write func(*os.File) error) (size int64, err error) {
	dir := filepath.Dir(name)
	f, err := os.CreateTemp(dir, filepath.Base(name)+".*.part")
	if err != nil {
		return 0, err
	}
	defer func() {
		f.Close()
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	if err := write(f); err != nil {
		return 0, err
	}
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	if err := f.Sync(); err != nil {
		return 0, err
	}
	if err := os.Rename(f.Name(), name); err != nil {
		return 0, err
	}
	folder, err := os.Open(dir) //nolint:gosec // the folder of the file that the operator names
	if err != nil {
		return 0, err
	}
	defer folder.Close()
	if err := folder.Sync(); err != nil && !errors.Is(err, syscall.EINVAL) { // some file systems cannot
		return 0, err
	}
	return info.Size(), nil
}
