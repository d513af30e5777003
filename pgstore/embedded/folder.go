package embedded

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	lockName      = "pipeproc.lock"
	inheritedName = "postgres.lock"
	dataName      = "postgres"
	initdbPattern = "initdb-*.tmp"

	// marker is the first line of the lock file.
	marker = "pipeproc data folder"
)

// folder is a data folder that this process has locked. The kernel frees the lock when the process ends, however it
// ends, so a lock that is held means a server that lives.
type folder struct {
	root string // absolute, without links
	lock *os.File

	// oldSocket is the socket folder that a killed server left, as far as known.
	oldSocket string
}

// inspect reads what is at dir and changes nothing: the folder's canonical path and the major version of the data in
// it, 0 when there is none yet. An absent or empty folder is fine. Error: ErrForeign.
func inspect(dir string) (root string, major int, err error) {
	if dir, err = filepath.Abs(dir); err != nil {
		return "", 0, err
	}
	root, err = filepath.EvalSymlinks(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return dir, 0, nil
	} else if err != nil {
		return "", 0, err
	}
	entries, err := os.ReadDir(root)
	if errors.Is(err, syscall.ENOTDIR) {
		return "", 0, fmt.Errorf("%w: %s is not a folder; choose another --data-dir", ErrForeign, root)
	} else if err != nil {
		return "", 0, err
	}
	ours, others := false, 0
	for _, e := range entries {
		switch e.Name() {
		case lockName:
			ours = true
		case "lost+found": // a volume's root
		default:
			others++
		}
	}
	if others == 0 {
		return root, 0, nil
	}
	if ours {
		text, err := readLock(root)
		if err != nil {
			return "", 0, err
		}
		ours = strings.HasPrefix(text, marker)
	}
	if !ours {
		return "", 0, fmt.Errorf("%w: %s is not empty; choose another --data-dir (nothing was changed)", ErrForeign, root)
	}
	major, err = dataVersion(filepath.Join(root, dataName))
	return root, major, err
}

// dataVersion reads PG_VERSION, which initdb writes; 0 when the folder is absent.
func dataVersion(data string) (int, error) {
	if _, err := os.Lstat(data); errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	text, err := os.ReadFile(filepath.Join(data, "PG_VERSION"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, err
	}
	major, err := strconv.Atoi(digits.FindString(string(text)))
	if err != nil {
		return 0, fmt.Errorf("%w: %s has no PG_VERSION, so it is not the whole data of a PostgreSQL; restore it from a "+
			"backup, or move it away to begin anew (nothing was changed)", ErrForeign, data)
	}
	return major, nil
}

// openFolder makes the folder if need be and locks it. Error: ErrInUse with the other server's pid.
func openFolder(dir string) (*folder, error) {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil { //nolint:gosec // PostgreSQL's account is to get through; the folder itself is closed
		return nil, err
	}
	switch err := os.Mkdir(dir, 0o700); {
	case err == nil:
		if err := syncDir(filepath.Dir(dir)); err != nil {
			return nil, err
		}
	case !errors.Is(err, fs.ErrExist):
		return nil, err
	}
	root, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return nil, err
	}
	lock, err := os.OpenFile(filepath.Join(root, lockName), os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	if err := lockSoon(lock); err != nil {
		lock.Close()
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock %s: %w", lock.Name(), err)
		}
		who := "another server"
		if text, err := readLock(root); err == nil && noted(text, "pid") != "" {
			who += " (pid " + noted(text, "pid") + ")"
		}
		return nil, fmt.Errorf("%w: %s is held by %s; stop that one first, or choose another --data-dir",
			ErrInUse, root, who)
	}
	text, err := readLock(root)
	f := &folder{root: root, lock: lock, oldSocket: noted(text, "socket")}
	if err == nil {
		err = f.note(f.oldSocket)
	}
	if err != nil {
		return nil, errors.Join(err, f.close())
	}
	return f, nil
}

// note writes who holds the folder and, unless empty, which socket folder is to be removed. The marker itself is never
// away, so that the folder is known as ours at every moment.
func (f *folder) note(socket string) error {
	head := marker + "\n"
	if _, err := f.lock.WriteAt([]byte(head), 0); err != nil {
		return err
	}
	if err := f.lock.Truncate(int64(len(head))); err != nil {
		return err
	}
	text := "pid " + strconv.Itoa(os.Getpid()) + "\n"
	if socket != "" {
		text += "socket " + socket + "\n"
	}
	if _, err := f.lock.WriteAt([]byte(text), int64(len(head))); err != nil {
		return err
	}
	return f.lock.Sync()
}

func (f *folder) close() error { return f.lock.Close() }

// readLock returns the lock file's text.
func readLock(root string) (string, error) {
	f, err := os.OpenFile(filepath.Join(root, lockName), os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 4096))
	return string(b), err
}

// noted finds a line of the lock file by its first word; "" when there is none.
func noted(text, word string) string {
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(line, word+" "); ok {
			return strings.TrimSuffix(value, "\n")
		}
	}
	return ""
}

// lockSoon is tryLock that gives a holder a moment to end: one that was just killed, or a process that was forked, and
// holds what is not its own until it has become another program.
func lockSoon(f *os.File) error {
	err := tryLock(f)
	for deadline := time.Now().Add(500 * time.Millisecond); errors.Is(err, syscall.EWOULDBLOCK) && time.Now().Before(deadline); {
		pause(context.Background(), 10*time.Millisecond)
		err = tryLock(f)
	}
	return err
}

// tryLock takes the lock or says EWOULDBLOCK.
func tryLock(f *os.File) error {
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err != syscall.EINTR {
			return err
		}
	}
}
