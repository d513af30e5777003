package embedded

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// account is the one that root runs PostgreSQL under, since PostgreSQL refuses to run as root. Nil: our own.
type account struct {
	name     string
	uid, gid uint32
}

// pickAccount chooses the account for a folder; nil when this process is not root. Error: ErrAccess, when the data
// belongs to an account that PostgreSQL cannot run under.
func pickAccount(f *folder) (*account, error) {
	euid := uint32(os.Geteuid()) //nolint:gosec // an id of Unix has 32 bits
	data, err := os.Stat(f.dataDir())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if euid != 0 {
		if data != nil && ownerOf(data).uid != euid {
			return nil, fmt.Errorf("%w: %s belongs to account %s, this is account %s; run the server under the former",
				ErrAccess, f.dataDir(), ownerOf(data).name, accountName(euid))
		}
		return nil, nil
	}
	if data != nil {
		if owner := ownerOf(data); owner.uid != 0 {
			return owner, nil
		}
		return nil, fmt.Errorf("%w: %s belongs to root, under which PostgreSQL does not run; give it to another account, "+
			"for example by: chown -R postgres %[2]s", ErrAccess, f.dataDir())
	}
	root, err := os.Stat(f.root)
	if err != nil {
		return nil, err
	}
	// One without a name cannot run initdb. Such folders are common where a host's folder is mounted into a container.
	if owner := ownerOf(root); owner.uid != 0 && owner.named() {
		return owner, nil
	}
	return unprivileged()
}

func unprivileged() (*account, error) {
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
		if err1 == nil && err2 == nil && uid != 0 {
			return &account{name: name, uid: uint32(uid), gid: uint32(gid)}, nil
		}
	}
	return nil, fmt.Errorf("%w: PostgreSQL does not run as root, and there is neither an account postgres nor nobody; "+
		"make one, or run the server under another account", ErrAccess)
}

func ownerOf(info fs.FileInfo) *account {
	st := info.Sys().(*syscall.Stat_t)
	a := &account{name: accountName(st.Uid), uid: st.Uid, gid: st.Gid}
	if u, err := user.LookupId(strconv.FormatUint(uint64(st.Uid), 10)); err == nil {
		if gid, err := strconv.ParseUint(u.Gid, 10, 32); err == nil {
			a.gid = uint32(gid)
		}
	}
	return a
}

// checkNamed says what initdb would say, in words that help.
func (a *account) checkNamed() error {
	if a == nil {
		a = &account{name: accountName(uint32(os.Geteuid()))} //nolint:gosec // an id of Unix has 32 bits
	}
	if a.named() {
		return nil
	}
	return fmt.Errorf("%w: account %s has no name on this system, without which initdb does not run; add it to "+
		"/etc/passwd, or run the server under another account", ErrAccess, a.name)
}

func (a *account) named() bool { return !strings.HasPrefix(a.name, "#") }

// accountName is "#" and the number for an account without a name.
func accountName(uid uint32) string {
	id := strconv.FormatUint(uint64(uid), 10)
	if u, err := user.LookupId(id); err == nil {
		return u.Username
	}
	return "#" + id
}

// own gives a path to the account.
func (a *account) own(path string) error {
	if a == nil {
		return nil
	}
	return os.Lchown(path, int(a.uid), int(a.gid))
}

// hand gives the lock file to the account, so that a later server may run under it, and the folder too where
// the account could not enter it otherwise: one made just now, or an empty one of root's.
func (f *folder) hand(a *account) error {
	if a == nil {
		return nil
	}
	if err := f.lock.Chown(int(a.uid), int(a.gid)); err != nil {
		return err
	}
	info, err := os.Stat(f.root)
	if err != nil {
		return err
	}
	if ownerOf(info).uid == 0 && !a.canEnter(info) {
		return a.own(f.root)
	}
	return nil
}

// canEnter judges by the permission bits.
func (a *account) canEnter(dir fs.FileInfo) bool {
	if a == nil {
		return true
	}
	st := dir.Sys().(*syscall.Stat_t)
	switch {
	case st.Uid == a.uid:
		return dir.Mode()&0o100 != 0
	case st.Gid == a.gid:
		return dir.Mode()&0o010 != 0
	default:
		return dir.Mode()&0o001 != 0
	}
}

// barrier is the outermost folder on the way to dir, itself included, that the account cannot enter; "" if none.
func (a *account) barrier(dir string) string {
	if parent := filepath.Dir(dir); parent != dir {
		if b := a.barrier(parent); b != "" {
			return b
		}
	}
	if info, err := os.Stat(dir); err == nil && !a.canEnter(info) { //nolint:gosec // but looked at, and the operator names it
		return dir
	}
	return ""
}

// checkParents is checkAccess for a data folder that is still to be made, so that none is left where it is of no use.
func (c *Cluster) checkParents(ctx context.Context, dir string) error {
	if _, err := os.Lstat(dir); err == nil || os.Geteuid() != 0 {
		return nil
	}
	a, err := unprivileged()
	if err != nil {
		return err
	}
	for gone(dir) {
		dir = filepath.Dir(dir)
	}
	return c.checkAccess(ctx, a, dir)
}

// checkAccess tries, as root, whether the account can run the binaries and enter a folder. The kernel decides; the
// permission bits only serve to name the culprit.
func (c *Cluster) checkAccess(ctx context.Context, a *account, dir string) error {
	if a == nil {
		return nil
	}
	try := func(dir string) error {
		cmd := exec.CommandContext(ctx, filepath.Join(c.bin, "postgres"), "--version")
		cmd.Dir = dir
		cmd.SysProcAttr = processAttr(a, 0)
		return cmd.Run()
	}
	if err := try("/"); err != nil {
		return fmt.Errorf("%w: account %s cannot run the binaries in %s: %w", ErrAccess, a.name, c.bin, err)
	}
	if err := try(dir); err != nil {
		culprit := cmp.Or(a.barrier(dir), dir)
		return fmt.Errorf("%w: PostgreSQL does not run as root but as account %s, which cannot enter %s; choose another "+
			"--data-dir, for example under /var/lib, or run the server under another account than root",
			ErrAccess, a.name, culprit)
	}
	return nil
}

func gone(path string) bool {
	_, err := os.Lstat(path)
	return errors.Is(err, fs.ErrNotExist)
}
