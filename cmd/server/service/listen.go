package service

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"
	"syscall"
	"time"
)

// endpoint is an address to listen on, resolved: a TCP address or the path of a Unix socket.
type endpoint struct {
	tcp  *net.TCPAddr
	path string
	mode fs.FileMode // of path
	tls  bool        // TCP alone: who may use a Unix socket is said by its file's mode
}

const unixPrefix = "unix:"

// endpoints resolves the addresses of --listen. An address that other machines reach is refused unless that is asked
// for, or clients have to show certificates or API keys.
func endpoints(c *Config) ([]endpoint, error) {
	var all []endpoint
	for _, address := range c.Listen {
		if path, ok := strings.CutPrefix(address, unixPrefix); ok {
			switch {
			case path == "":
				return nil, fmt.Errorf("--listen %s: no path given", address)
			case path[0] == '@':
				return nil, fmt.Errorf("--listen %s: a socket that is no file has no mode to say who may open it; give a path, "+
					"./%s where the file is to be called so", address, path)
			}
			all = append(all, endpoint{path: path, mode: c.SocketMode})
			continue
		}
		tcp, err := net.ResolveTCPAddr("tcp", address)
		if err != nil {
			return nil, fmt.Errorf("--listen %s: it is host:port or unix:/path.sock: %w", address, err)
		}
		if !tcp.IP.IsLoopback() && !c.Insecure && c.TLSClientCA == "" && c.APIKeysFile == "" {
			return nil, fmt.Errorf("--listen %s: other machines can reach this address, and whoever does could read and change "+
				"everything; listen on 127.0.0.1, or ask clients for keys by --api-keys-file, or for certificates by --tls-client-ca, "+
				"or accept it by --insecure",
				address)
		}
		all = append(all, endpoint{tcp: tcp, tls: c.TLSCert != ""})
	}
	return all, nil
}

// listen opens the endpoint. A Unix socket gets its mode; a socket file that nobody serves any more is replaced.
func (e endpoint) listen(ctx context.Context) (net.Listener, error) {
	if e.path != "" {
		return listenUnix(ctx, e.path, e.mode)
	}
	lc := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) (err error) {
		if e := raw.Control(func(fd uintptr) {
			err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_SNDBUF, sendBuffer)
		}); e != nil {
			return e
		}
		return err
	}}
	return lc.Listen(ctx, "tcp", e.tcp.String())
}

// sendBuffer is what a connection's buffer for sending is set to, which the connections take over from the listener. Left to
// itself it grows to megabytes where the path is fast, and has room again for Linux when a third of that was read: a slow
// client would seem not to read at all. So one that reads 32 KiB a second goes on, and memory is bounded.
const sendBuffer = 256 << 10

// url is how clients name the listener.
func (e endpoint) url(ln net.Listener) string {
	switch {
	case e.path != "":
		return unixPrefix + e.path
	case e.tls:
		return "https://" + ln.Addr().String()
	}
	return "http://" + ln.Addr().String()
}

func listenUnix(ctx context.Context, path string, mode fs.FileMode) (net.Listener, error) {
	if err := removeStale(ctx, path); err != nil {
		return nil, err
	}
	lc := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		// On Linux the file takes the mode over from the socket, so that nobody else ever gets in. Elsewhere this is
		// refused, and the mode follows below, a moment later. So do others than the owner, if they are let in.
		return raw.Control(func(fd uintptr) { _ = syscall.Fchmod(int(fd), 0o600) })
	}}
	ln, err := lc.Listen(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, mode); err != nil {
		return nil, errors.Join(err, ln.Close())
	}
	return ln, nil
}

// removeStale removes the socket file of a server that was killed. Whatever else is at path stays, and is an error.
func removeStale(ctx context.Context, path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode()&fs.ModeSocket == 0:
		return fmt.Errorf("%s exists and is not a socket; nothing was changed", path)
	}
	dialer := net.Dialer{Timeout: 2 * time.Second}
	conn, err := dialer.DialContext(ctx, "unix", path)
	if err == nil {
		return errors.Join(fmt.Errorf("%s is served by another process", path), conn.Close())
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("%s is there, and whether it is served cannot be told: %w", path, err)
	}
	return os.Remove(path)
}
