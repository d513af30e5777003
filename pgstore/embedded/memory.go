package embedded

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// memoryFolder makes the folder of a throw-away cluster, and removes those of servers that were killed.
func (c *Cluster) memoryFolder(ctx context.Context) error {
	if os.Geteuid() == 0 {
		// Needed already here: the place depends on it.
		a, err := unprivileged()
		if err != nil {
			return err
		}
		c.account = a
	}
	bases := tempFolders()
	for _, base := range bases {
		old, err := filepath.Glob(filepath.Join(escapeGlob(base), memoryPattern))
		if err != nil {
			return err
		}
		for _, dir := range old {
			c.sweep(ctx, dir)
		}
	}
	dir, err := makeTemp(c.account, bases, memoryPattern)
	c.scratch = dir
	return err
}

// sweep removes a memory folder that no server holds. It must carry our marker before and after it is locked: one that
// another server is making right now carries none yet.
func (c *Cluster) sweep(ctx context.Context, dir string) {
	info, err := os.Lstat(dir)
	if err != nil || !info.IsDir() || !slices.Contains(c.trusted(), ownerOf(info).uid) {
		return
	}
	marked := func() bool {
		text, err := readLock(dir)
		return err == nil && strings.HasPrefix(text, marker)
	}
	if !marked() {
		return
	}
	f, err := openFolder(dir)
	if err != nil {
		return // in use
	}
	defer func() { _ = f.close() }()
	old := &Cluster{cfg: c.cfg, log: c.log, account: c.account, folder: f}
	inherited, err := old.claim(ctx)
	if err != nil {
		c.log.Warn("the folder of a killed throw-away PostgreSQL stays", "folder", dir, "error", err)
		return
	}
	defer inherited.Close()
	if err := os.RemoveAll(dir); err != nil {
		c.log.Warn("the folder of a killed throw-away PostgreSQL stays", "folder", dir, "error", err)
		return
	}
	c.log.Info("removed the folder of a killed throw-away PostgreSQL", "folder", dir)
}

// removeMemory removes the cluster's folder once all of PostgreSQL's processes are gone.
func (c *Cluster) removeMemory() error {
	inherited, err := c.claim(context.Background())
	if err != nil {
		return errors.Join(err, os.RemoveAll(c.scratch))
	}
	defer inherited.Close()
	return os.RemoveAll(c.scratch)
}
