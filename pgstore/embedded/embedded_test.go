package embedded

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"
)

// A process of the test binary with this variable is a server, to be killed.
const serverVariable = "EMBEDDED_TEST_SERVER"

func TestMain(m *testing.M) {
	if how := os.Getenv(serverVariable); how != "" {
		serve(how)
		return
	}
	goleak.VerifyTestMain(m)
}

// serve starts a cluster as told by "memory", or "outlive:dir" or "dies:dir", prints its URL and pid, and waits.
func serve(how string) {
	kind, dir, _ := strings.Cut(how, ":")
	c, err := Start(context.Background(), Config{
		Dir: dir, Memory: kind == "memory", outlive: kind != "dies", Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(c.URL(), c.PID())
	io.Copy(io.Discard, os.Stdin) // ends with the test
	c.Stop(context.Background())
}

type server struct {
	cmd *exec.Cmd
	out *bufio.Reader
}

func startServer(t *testing.T, how string) *server {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), serverVariable+"="+how)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s := &server{cmd: cmd, out: bufio.NewReader(stdout)}
	t.Cleanup(func() {
		stdin.Close()
		s.kill()
	})
	return s
}

// url waits until the server is up.
func (s *server) url(t *testing.T) (url string, pid int) {
	t.Helper()
	line, err := s.out.ReadString('\n')
	if err != nil {
		t.Fatal("the server ended:", err)
	}
	if _, err := fmt.Sscan(line, &url, &pid); err != nil {
		t.Fatal("the server says", line)
	}
	return url, pid
}

func (s *server) kill() {
	s.cmd.Process.Kill()
	s.cmd.Wait()
}

// tempFolder is like t.TempDir, but an unprivileged account can enter it.
func tempFolder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "embedded-test-*")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

func deadline(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func quiet(cfg Config) Config {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return cfg
}

func mustStart(t *testing.T, cfg Config) *Cluster {
	t.Helper()
	c, err := Start(deadline(t), quiet(cfg))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Stop(deadline(t)) })
	if !c.Ready() {
		t.Error("not ready after Start")
	}
	return c
}

func mustStop(t *testing.T, c *Cluster) {
	t.Helper()
	if err := c.Stop(deadline(t)); err != nil {
		t.Fatal(err)
	}
	if c.Ready() || c.PID() != 0 {
		t.Error("ready after Stop")
	}
}

// query runs statements on a connection of its own and returns the last one's single value.
func query(t *testing.T, url string, statements ...string) string {
	t.Helper()
	ctx := deadline(t)
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	value := ""
	for _, sql := range statements {
		rows, err := conn.Query(ctx, sql)
		if err != nil {
			t.Fatal(sql, err)
		}
		values, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatal(sql, err)
		}
		if len(values) == 1 {
			value = values[0]
		}
	}
	return value
}

func wantQuery(t *testing.T, url, sql, want string) {
	t.Helper()
	if got := query(t, url, sql); got != want {
		t.Errorf("%s: got %q, want %q", sql, got, want)
	}
}

const (
	makeRow = "CREATE TABLE kept AS SELECT 'here' AS word"
	readRow = "SELECT word FROM kept"
)

// eventually polls a state outside this process.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for limit := time.Now().Add(20 * time.Second); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatal("never: ", what)
		}
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// snapshot tells all there is in a folder, with the contents' hashes, modes, owners and times.
func snapshot(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := os.Lstat(path)
		if err != nil {
			return err
		}
		text, _ := os.ReadFile(path)
		fmt.Fprintf(&b, "%s %s %s %d %x\n", path, info.Mode(), info.ModTime(), ownerOf(info).uid, sha256.Sum256(text))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestRestartKeepsData(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(tempFolder(t), "parent", "data")

	began := time.Now()
	c := mustStart(t, Config{Dir: dir, MaxConnections: 17, Settings: map[string]string{"work_mem": "5MB"}})
	t.Log("first start", time.Since(began))
	query(t, c.URL(), makeRow)
	for name, want := range map[string]string{
		"data_checksums": "on", "fsync": "on", "synchronous_commit": "on", "full_page_writes": "on",
		"listen_addresses": "", "max_connections": "17", "server_encoding": "UTF8", "work_mem": "5MB",
	} {
		wantQuery(t, c.URL(), "SELECT current_setting('"+name+"')", want)
	}
	wantQuery(t, c.URL(), "SELECT current_user || current_database() || rolsuper FROM pg_roles WHERE rolname = current_user",
		"pipeprocpipeproctrue")
	for _, path := range []string{dir, filepath.Join(dir, dataName), c.socket} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("%s: %v %v, want mode 0700", path, info.Mode(), err)
		}
	}
	socket := c.socket
	began = time.Now()
	mustStop(t, c)
	t.Log("stop", time.Since(began))
	mustStop(t, c)
	if !gone(socket) {
		t.Error("the socket folder is still there")
	}

	began = time.Now()
	c = mustStart(t, Config{Dir: dir})
	t.Log("restart", time.Since(began))
	wantQuery(t, c.URL(), readRow, "here")
	mustStop(t, c)
}

func TestHurriedStop(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(tempFolder(t), "data")
	c := mustStart(t, Config{Dir: dir})
	query(t, c.URL(), makeRow)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	// Fast may have won the race; either way the data are safe and the folder is free.
	if err := c.Stop(ctx); err != nil {
		t.Log(err)
	}
	c = mustStart(t, Config{Dir: dir})
	wantQuery(t, c.URL(), readRow, "here")
}

func TestHalfInitdbIsNotTaken(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(tempFolder(t), "data")
	write(t, filepath.Join(dir, lockName), marker+"\n")
	half := filepath.Join(dir, "initdb-123.tmp")
	write(t, filepath.Join(half, "PG_VERSION"), "15\n")

	c := mustStart(t, Config{Dir: dir})
	wantQuery(t, c.URL(), "SELECT 'up'", "up")
	if !gone(half) {
		t.Error("the half-made folder is still there")
	}
}

func TestKilledDuringInitdb(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(tempFolder(t), "data")
	s := startServer(t, "outlive:"+dir)
	half := func() []string {
		found, _ := filepath.Glob(filepath.Join(dir, "initdb-*.tmp", "PG_VERSION"))
		return found
	}
	eventually(t, "initdb begins", func() bool { return len(half()) > 0 })
	s.kill()
	if !gone(filepath.Join(dir, dataName)) {
		t.Fatal("killed too late")
	}
	c := mustStart(t, Config{Dir: dir})
	wantQuery(t, c.URL(), "SELECT 'up'", "up")
	if found := half(); len(found) != 0 {
		t.Error("still there:", found)
	}
}

func TestFolderRefused(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		files map[string]string
		want  error
		says  string
	}{
		"old version": {
			map[string]string{lockName: marker + "\n", "postgres/PG_VERSION": "9.6\n", "postgres/base/1": "x"},
			ErrVersion, "pg_upgrade",
		},
		"new version": {
			map[string]string{lockName: marker + "\n", "postgres/PG_VERSION": "99\n"},
			ErrVersion, "PostgreSQL 99",
		},
		"foreign": {
			map[string]string{"thesis.txt": "years of work"},
			ErrForeign, "--data-dir",
		},
		"data of another program's PostgreSQL": {
			map[string]string{"PG_VERSION": "15\n", "base/1": "x"},
			ErrForeign, "--data-dir",
		},
		"a foreign lock file": {
			map[string]string{lockName: "theirs\n", "postgres/PG_VERSION": "15\n"},
			ErrForeign, "--data-dir",
		},
		"incomplete data": {
			map[string]string{lockName: marker + "\n", "postgres/base/1": "x"},
			ErrForeign, "PG_VERSION",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := tempFolder(t)
			for path, text := range test.files {
				write(t, filepath.Join(dir, path), text)
			}
			before := snapshot(t, dir)
			_, err := Start(deadline(t), quiet(Config{Dir: dir}))
			if !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.says) {
				t.Errorf("got %v, want %v, saying %q", err, test.want, test.says)
			}
			if after := snapshot(t, dir); after != before {
				t.Errorf("the folder was changed:\n%s\n%s", before, after)
			}
		})
	}

	file := filepath.Join(tempFolder(t), "file")
	write(t, file, "")
	if _, err := Start(deadline(t), quiet(Config{Dir: file})); !errors.Is(err, ErrForeign) {
		t.Error("a file as data folder:", err)
	}
}

func TestSecondServerIsRefused(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(tempFolder(t), "data")
	c := mustStart(t, Config{Dir: dir})
	_, err := Start(deadline(t), quiet(Config{Dir: dir}))
	if !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), "pid "+strconv.Itoa(os.Getpid())) {
		t.Errorf("got %v, want ErrInUse with the pid", err)
	}
	wantQuery(t, c.URL(), "SELECT 'unharmed'", "unharmed")
}

func TestPostgresStartedByHandIsRefused(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(tempFolder(t), "data")
	c := mustStart(t, Config{Dir: dir})
	account, bin := c.account, c.bin
	mustStop(t, c)

	data := filepath.Join(dir, dataName)
	byHand := exec.Command(filepath.Join(bin, "postgres"), "-D", data, "-c", "listen_addresses=",
		"-c", "unix_socket_directories="+data)
	byHand.SysProcAttr = processAttr(account, 0)
	byHand.Dir = data
	if err := byHand.Start(); err != nil {
		t.Fatal(err)
	}
	defer byHand.Wait()
	defer byHand.Process.Signal(syscall.SIGQUIT)
	up := func() bool {
		_, lines := pidFile(data)
		return len(lines) > 7 && strings.TrimSpace(lines[7]) == "ready"
	}
	eventually(t, "the other PostgreSQL is up", up)

	_, err := Start(deadline(t), quiet(Config{Dir: dir}))
	if !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), strconv.Itoa(byHand.Process.Pid)) {
		t.Errorf("got %v, want ErrInUse with the pid", err)
	}
	if !up() {
		t.Error("the other PostgreSQL was stopped")
	}
}

func TestPostmasterKilled(t *testing.T) {
	t.Parallel()
	c := mustStart(t, Config{Dir: filepath.Join(tempFolder(t), "data")})
	query(t, c.URL(), makeRow)
	for range 2 {
		pid := c.PID()
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		eventually(t, "not ready", func() bool { return !c.Ready() })
		eventually(t, "ready again", c.Ready)
		if c.PID() == pid {
			t.Error("the same process")
		}
		wantQuery(t, c.URL(), readRow, "here")
	}
	mustStop(t, c)
}

func TestStopWhileRestarting(t *testing.T) {
	t.Parallel()
	c := mustStart(t, Config{Dir: filepath.Join(tempFolder(t), "data")})
	if err := syscall.Kill(c.PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "not ready", func() bool { return !c.Ready() })
	mustStop(t, c)
}

func TestLeftoverOfKilledServer(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(tempFolder(t), "data")
	s := startServer(t, "outlive:"+dir)
	url, pid := s.url(t)
	query(t, url, makeRow)
	conn, err := pgx.Connect(deadline(t), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(deadline(t))
	s.kill()
	data := filepath.Join(dir, dataName)
	if !isPostmaster(pid, data) {
		t.Fatal("PostgreSQL did not outlive its server; the test shows nothing")
	}

	c := mustStart(t, Config{Dir: dir})
	if isPostmaster(pid, data) {
		t.Error("the old one still runs")
	}
	wantQuery(t, c.URL(), readRow, "here")
	if old := conn.Config().Host; !gone(old) {
		t.Error("the old socket folder is still there:", old)
	}
	mustStop(t, c)
}

func TestDiesWithItsServer(t *testing.T) {
	t.Parallel()
	if !hasDeathSignal {
		t.Skip("no parent-death signal here")
	}
	dir := filepath.Join(tempFolder(t), "data")
	s := startServer(t, "dies:"+dir)
	url, pid := s.url(t)
	query(t, url, makeRow)
	s.kill()
	eventually(t, "PostgreSQL ends", func() bool { return !isPostmaster(pid, filepath.Join(dir, dataName)) })
	c := mustStart(t, Config{Dir: dir})
	wantQuery(t, c.URL(), readRow, "here")
}

// Everything killed at once, and postmaster.pid names a process that lives and is something else.
func TestRecycledPID(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(tempFolder(t), "data")
	c := mustStart(t, Config{Dir: dir})
	query(t, c.URL(), makeRow)
	data := filepath.Join(dir, dataName)
	_, lines := pidFile(data)
	account := c.account
	mustStop(t, c)

	other := exec.Command("sleep", "600")
	other.Dir = "/"
	other.SysProcAttr = processAttr(account, 0)
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	defer other.Wait()
	defer other.Process.Kill()
	lines[0] = strconv.Itoa(other.Process.Pid)
	write(t, filepath.Join(data, "postmaster.pid"), strings.Join(lines, "\n"))
	if err := account.own(filepath.Join(data, "postmaster.pid")); err != nil {
		t.Fatal(err)
	}

	c = mustStart(t, Config{Dir: dir})
	wantQuery(t, c.URL(), readRow, "here")
	if err := other.Process.Signal(syscall.Signal(0)); err != nil {
		t.Error("the other process was ended:", err)
	}
}

func TestMemory(t *testing.T) {
	t.Parallel()
	untouched := tempFolder(t)
	write(t, filepath.Join(untouched, "file"), "x")
	before := snapshot(t, untouched)

	c := mustStart(t, Config{Memory: true, Dir: untouched})
	for _, name := range []string{"fsync", "synchronous_commit", "full_page_writes"} {
		wantQuery(t, c.URL(), "SELECT current_setting('"+name+"')", "off")
	}
	scratch := c.scratch
	if gone(scratch) {
		t.Fatal("no folder at", scratch)
	}
	mustStop(t, c)
	if !gone(scratch) {
		t.Error("the folder is still there")
	}
	if after := snapshot(t, untouched); after != before {
		t.Error("Dir was touched")
	}
}

func TestMemoryLeftoverIsRemoved(t *testing.T) {
	t.Parallel()
	living := mustStart(t, Config{Memory: true})
	s := startServer(t, "memory")
	url, pid := s.url(t)
	config, err := pgx.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	scratch := filepath.Dir(config.Host)
	s.kill()

	mustStart(t, Config{Memory: true})
	// Another test's cluster may be the one that does it.
	eventually(t, "the left-over folder goes", func() bool { return gone(scratch) })
	if isPostmaster(pid, filepath.Join(scratch, dataName)) {
		t.Error("the left-over PostgreSQL runs")
	}
	wantQuery(t, living.URL(), "SELECT 'unharmed'", "unharmed")
}

func TestStartErrorTellsWhatPostgresSaid(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(tempFolder(t), "data")
	_, err := Start(deadline(t), quiet(Config{Dir: dir, Settings: map[string]string{"shared_buffers": "plenty"}}))
	if err == nil || !strings.Contains(err.Error(), `invalid value for parameter "shared_buffers": "plenty"`) {
		t.Errorf("got %v", err)
	}
	mustStart(t, Config{Dir: dir}) // the folder is free and whole
}

func TestCancelledStart(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(tempFolder(t), "data")
	ctx, cancel := context.WithCancel(deadline(t))
	done := make(chan error)
	go func() {
		_, err := Start(ctx, quiet(Config{Dir: dir}))
		done <- err
	}()
	eventually(t, "initdb begins", func() bool {
		found, _ := filepath.Glob(filepath.Join(dir, "initdb-*.tmp", "PG_VERSION"))
		return len(found) > 0
	})
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "initdb-*")); len(left) != 0 {
		t.Error("left behind:", left)
	}
	mustStart(t, Config{Dir: dir})
}

func TestClosedParent(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("not root")
	}
	closed := filepath.Join(tempFolder(t), "closed")
	if err := os.Mkdir(closed, 0o700); err != nil {
		t.Fatal(err)
	}
	_, err := Start(deadline(t), quiet(Config{Dir: filepath.Join(closed, "data")}))
	if !errors.Is(err, ErrAccess) || !strings.Contains(err.Error(), "cannot enter "+closed+";") {
		t.Errorf("got %v, want ErrAccess with the folder to blame", err)
	}
	if !gone(filepath.Join(closed, "data")) {
		t.Error("a useless folder was made")
	}
}

func TestAccount(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("not root")
	}
	usual, err := unprivileged()
	if err != nil {
		t.Fatal(err)
	}
	nobody, err := user.Lookup("nobody")
	if err != nil {
		t.Skip(err)
	}
	uid, err := strconv.Atoi(nobody.Uid)
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		owner int
		mode  fs.FileMode
		want  string
	}{
		"root's folder":           {0, 0o755, usual.name},
		"named owner":             {uid, 0o700, "nobody"},
		"owner without a name":    {54321, 0o755, usual.name},
		"root's folder, not open": {0, 0o700, usual.name},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(tempFolder(t), "data")
			if err := os.Mkdir(dir, test.mode); err != nil {
				t.Fatal(err)
			}
			if err := os.Chown(dir, test.owner, test.owner); err != nil {
				t.Fatal(err)
			}
			c := mustStart(t, Config{Dir: dir})
			info, err := os.Stat(c.folder.dataDir())
			if err != nil {
				t.Fatal(err)
			}
			if got := ownerOf(info).name; got != test.want {
				t.Errorf("the data belong to %s, want %s", got, test.want)
			}
			status, err := os.ReadFile("/proc/" + strconv.Itoa(c.PID()) + "/status")
			if err != nil {
				t.Skip(err)
			}
			uid, gid := fmt.Sprint(ownerOf(info).uid), fmt.Sprint(ownerOf(info).gid)
			for _, want := range []string{
				"Uid: " + strings.Join([]string{uid, uid, uid, uid}, " "),
				"Gid: " + strings.Join([]string{gid, gid, gid, gid}, " "),
				"Groups:",
			} {
				found := slices.ContainsFunc(strings.Split(string(status), "\n"), func(line string) bool {
					return strings.Join(strings.Fields(line), " ") == want
				})
				if !found {
					t.Errorf("no line %q in\n%s", want, status)
				}
			}
		})
	}
}
