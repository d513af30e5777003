package embedded

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

const (
	socketPattern = "pipeproc-socket-*"
	memoryPattern = "pipeproc-memory-*"

	// maxSocketPath is the room in sockaddr_un on macOS; Linux has four bytes more.
	maxSocketPath = 103
)

// openSocket makes the socket folder: with a random name, since anybody may take a known one under /tmp first. Its path
// is noted in the lock file, so that the next server removes it if this one cannot.
func (c *Cluster) openSocket() error {
	if c.scratch != "" {
		c.socket = filepath.Join(c.folder.root, "socket")
		return nil
	}
	if old := c.folder.oldSocket; old != "" {
		if err := removeSocket(old); err != nil {
			c.log.Warn("the socket folder of an earlier server stays", "error", err)
		}
	}
	bases := tempFolders()
	if dir := os.Getenv("XDG_RUNTIME_DIR"); c.account == nil && dir != "" {
		bases = append([]string{dir}, bases...)
	}
	dir, err := makeTemp(c.account, bases, socketPattern)
	if err != nil {
		return err
	}
	c.socket = dir
	if err := c.account.own(dir); err != nil {
		return err
	}
	return c.folder.note(dir)
}

// removeSocket removes a socket folder with what PostgreSQL puts there. Absent: fine. Anything else in it: an error,
// and it stays.
func removeSocket(dir string) error {
	if ok, err := filepath.Match(socketPattern, filepath.Base(dir)); err != nil || !ok {
		return fmt.Errorf("%s is not a socket folder", dir)
	}
	for _, name := range socketFiles {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// tempFolders are where temporary folders may go, best first.
func tempFolders() []string {
	if dir := os.TempDir(); dir != "/tmp" {
		return []string{dir, "/tmp"}
	}
	return []string{"/tmp"}
}

// makeTemp makes a folder in the first place that takes it, that the account can enter, and whose path leaves room for
// a socket's.
func makeTemp(a *account, bases []string, pattern string) (string, error) {
	// The longest of the two patterns, with the digits that replace its star, and the names inside.
	const room = len("/pipeproc-memory-4294967295/socket/.s.PGSQL." + port)
	var errs error
	for _, base := range bases {
		switch b := a.barrier(base); {
		case !filepath.IsAbs(base):
			errs = errors.Join(errs, fmt.Errorf("%s is not an absolute path", base))
		case len(base)+room > maxSocketPath:
			errs = errors.Join(errs, fmt.Errorf("%s is too long for a socket's path", base))
		case b != "":
			errs = errors.Join(errs, fmt.Errorf("%s is closed to account %s", b, a.name))
		default:
			dir, err := os.MkdirTemp(base, pattern)
			if err == nil {
				return dir, nil
			}
			errs = errors.Join(errs, err)
		}
	}
	return "", fmt.Errorf("%w: no place for a temporary folder; set TMPDIR to one: %w", ErrAccess, errs)
}
