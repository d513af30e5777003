package embedded

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"syscall"
)

// ErrNoData means that a folder holds no data of a cluster.
var ErrNoData = errors.New("no data of pipeproc")

// Running answers the URL of the cluster that another process runs on the data folder dir, "" when none does. It changes
// nothing. Errors: ErrNoData, ErrForeign; ErrInUse while the other one starts or stops.
func Running(dir string) (url string, err error) {
	root, major, err := inspect(dir)
	if err != nil {
		return "", err
	}
	if major == 0 {
		return "", fmt.Errorf("%w in %s", ErrNoData, root)
	}
	lock, err := os.OpenFile(filepath.Join(root, lockName), os.O_RDONLY|syscall.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrPermission) {
		return "", fmt.Errorf("%w: %w; use the account that the server runs under, or root", ErrAccess, err)
	}
	if err != nil {
		return "", err
	}
	defer lock.Close()
	err = syscall.Flock(int(lock.Fd()), syscall.LOCK_SH|syscall.LOCK_NB) // a server that starts now comes back, see lockSoon
	if err == nil {
		return "", nil
	}
	if !errors.Is(err, syscall.EWOULDBLOCK) {
		return "", fmt.Errorf("lock %s: %w", lock.Name(), err)
	}
	text, err := readLock(root)
	if err != nil {
		return "", err
	}
	socket := noted(text, "socket")
	if socket == "" {
		return "", fmt.Errorf("%w: %s is held by a server that starts or stops; try again", ErrInUse, root)
	}
	return socketURL(socket), nil
}

// socketURL is the URL of a cluster's database by its socket folder.
func socketURL(socket string) string {
	u := url.URL{
		Scheme: "postgres",
		User:   url.User(role),
		Path:   "/" + database,
		RawQuery: url.Values{
			"host":    {socket},
			"port":    {port},
			"sslmode": {"disable"},
		}.Encode(),
	}
	return u.String()
}
