package embedded

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// initdb makes the data in a temporary folder beside the target, the database included, and renames it when all of it
// is on disk: a folder named "postgres" is always whole. What earlier attempts left is removed; the lock proves that
// none of them still runs.
func (c *Cluster) initdb(ctx context.Context, inherited *os.File) (err error) {
	if err := c.account.checkNamed(); err != nil {
		return err
	}
	old, err := filepath.Glob(filepath.Join(escapeGlob(c.folder.root), initdbPattern))
	if err != nil {
		return err
	}
	for _, dir := range old {
		c.log.Info("removing what is left of an initdb that was cut short", "folder", dir)
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}

	tmp, err := os.MkdirTemp(c.folder.root, initdbPattern)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.RemoveAll(tmp)
		}
	}()
	if err := c.account.own(tmp); err != nil {
		return err
	}

	c.log.Info("making a new PostgreSQL data folder", "folder", c.folder.dataDir())
	// Nothing is flushed step by step: all of it is at the end, before the rename.
	if err := c.tool(ctx, inherited, tmp, "", "initdb", "-D", tmp, "-U", role, "--data-checksums", "--encoding=UTF8",
		"--locale=C", "--auth-local=trust", "--auth-host=reject", "--no-instructions", "--no-sync"); err != nil {
		return err
	}
	if err := c.tool(ctx, inherited, tmp, "CREATE DATABASE "+database+";\n", "postgres", "--single", "-D", tmp,
		"-c", "exit_on_error=on", "-c", "fsync=off", "postgres"); err != nil {
		return err
	}
	if !c.cfg.Memory {
		if err := c.tool(ctx, inherited, tmp, "", "initdb", "-D", tmp, "--sync-only"); err != nil {
			return err
		}
	}
	if err := os.Rename(tmp, c.folder.dataDir()); err != nil {
		return err
	}
	return syncDir(c.folder.root)
}

// tool runs one of PostgreSQL's programs to its end. The error holds its last lines.
func (c *Cluster) tool(ctx context.Context, inherited *os.File, dir, input, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, filepath.Join(c.bin, name), args...)
	cmd.Dir = dir
	cmd.Env = environment()
	cmd.ExtraFiles = []*os.File{inherited}
	cmd.SysProcAttr = processAttr(c.account, syscall.SIGTERM)
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = 2 * time.Second
	if input != "" {
		cmd.Stdin = strings.NewReader(input)
	}
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		var t tail
		forward(strings.NewReader(string(out)), slog.New(slog.DiscardHandler), &t)
		return fmt.Errorf("%s: %w: %s", name, err, &t)
	}
	return nil
}

// environment is the little that PostgreSQL needs. The server's own is not handed on: it may hold secrets, and PG…
// variables change what PostgreSQL does.
func environment() []string {
	env := []string{"LC_ALL=C"}
	for _, name := range []string{"PATH", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"} {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	return env
}

var globEscaper = strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`)

func escapeGlob(path string) string { return globEscaper.Replace(path) }
