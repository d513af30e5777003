package pgtest

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"net"
	"net/url"
	"os"
	osexec "os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// PgBouncer is a running PgBouncer before one database.
type PgBouncer struct {
	URL   string // of the database, through it
	admin string // its own database
}

// StartPgBouncer starts Debian's PgBouncer before the database at dbURL, until the test's end. settings are further ones of
// its, or others than transactions as what is pooled, by two of PostgreSQL's processes. Without the program the test is
// skipped: make test installs it where it can.
func StartPgBouncer(tb testing.TB, dbURL string, settings map[string]string) *PgBouncer {
	tb.Helper()
	program, err := osexec.LookPath("pgbouncer")
	if err != nil {
		program, err = osexec.LookPath("/usr/sbin/pgbouncer")
	}
	if err != nil {
		tb.Skip("there is no pgbouncer: ", err)
	}
	database, err := pgx.ParseConfig(dbURL)
	if err != nil {
		tb.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	address := ln.Addr().(*net.TCPAddr)
	ln.Close()

	dir, err := os.MkdirTemp("/tmp", "pgbouncer-test-*")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { os.RemoveAll(dir) })
	all := map[string]string{"listen_addr": "127.0.0.1", "listen_port": strconv.Itoa(address.Port), "unix_socket_dir": "", "auth_type": "any",
		"admin_users": database.User, "pool_mode": "transaction", "default_pool_size": "2", "max_client_conn": "500"}
	maps.Copy(all, settings)
	text := fmt.Sprintf("[databases]\n%s = host=%s port=%d user=%s", database.Database, database.Host, database.Port, database.User)
	if database.Password != "" {
		text += " password=" + database.Password
	}
	text += "\n[pgbouncer]\n"
	for _, name := range slices.Sorted(maps.Keys(all)) {
		text += name + " = " + all[name] + "\n"
	}
	ini := filepath.Join(dir, "pgbouncer.ini")
	if err := os.WriteFile(ini, []byte(text), 0o644); err != nil {
		tb.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		tb.Fatal(err)
	}

	cmd := osexec.Command(program, ini)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: notRoot(tb, database.Host)}
	log := &output{}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(ended)
	}()
	tb.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
		if tb.Failed() {
			tb.Logf("the log of pgbouncer:\n%s", log)
		}
	})
	u := url.URL{Scheme: "postgres", User: url.User(database.User), Host: address.String(), Path: "/" + database.Database, RawQuery: "sslmode=disable"}
	b := &PgBouncer{URL: u.String()}
	u.Path = "/pgbouncer"
	b.admin = u.String()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		conn, err := net.Dial("tcp", address.String())
		if err == nil {
			conn.Close()
			return b
		}
		select {
		case <-ended:
			tb.Fatalf("pgbouncer has ended: %v\n%s", cmd.ProcessState, log)
		default:
		}
		if time.Now().After(end) {
			tb.Fatalf("pgbouncer does not answer: %v\n%s", err, log)
		}
	}
}

// Backends are the processes of PostgreSQL that it has connections to.
func (b *PgBouncer) Backends(tb testing.TB) (pids []int32) {
	tb.Helper()
	config, err := pgx.ParseConfig(b.admin)
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	config.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		tb.Fatal(err)
	}
	defer conn.Close(ctx)
	results, err := conn.PgConn().Exec(ctx, "SHOW SERVERS").ReadAll()
	if err != nil || len(results) != 1 {
		tb.Fatal(results, err)
	}
	for i, field := range results[0].FieldDescriptions {
		if field.Name != "remote_pid" {
			continue
		}
		for _, row := range results[0].Rows {
			pid, err := strconv.ParseInt(string(row[i]), 10, 32)
			if err != nil {
				tb.Fatal(err)
			}
			pids = append(pids, int32(pid))
		}
	}
	return pids
}

// notRoot is the account of the folder that PostgreSQL's socket is in, which nobody else may enter; for one that is reached
// by TCP any: PgBouncer does not run as root. Nil: our own.
func notRoot(tb testing.TB, host string) *syscall.Credential {
	tb.Helper()
	if os.Geteuid() != 0 {
		return nil
	}
	if !strings.HasPrefix(host, "/") {
		return &syscall.Credential{Uid: 65534, Gid: 65534}
	}
	info, err := os.Stat(host)
	if err != nil {
		tb.Fatal(err)
	}
	owner := info.Sys().(*syscall.Stat_t)
	return &syscall.Credential{Uid: owner.Uid, Gid: owner.Gid}
}

// output keeps what a program writes.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}
