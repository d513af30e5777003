package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"pipeproc/pgstore/embedded"
	"pipeproc/pgstore/pgtest"
)

// brake is a folder of PostgreSQL's programs of which one stops at a moment, and waits until it is let go.
type brake struct {
	dir              string
	stopped, through string // files that are there once it has stopped, and once it has ended
	fifo             *os.File
}

// newBrake puts a script in the place of one of the programs. In it REAL is the program, and STOP the moment.
func newBrake(t *testing.T, installed embedded.Programs, program, script string) *brake {
	t.Helper()
	dir := folder(t)
	b := &brake{dir: filepath.Join(dir, "bin"), stopped: filepath.Join(dir, "stopped"), through: filepath.Join(dir, "through")}
	if err := os.Mkdir(b.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	bin := filepath.Dir(installed.Dump)
	programs, err := os.ReadDir(bin)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range programs {
		if p.Name() != program {
			if err := os.Symlink(filepath.Join(bin, p.Name()), filepath.Join(b.dir, p.Name())); err != nil {
				t.Fatal(err)
			}
		}
	}
	fifo := filepath.Join(dir, "fifo")
	script = strings.NewReplacer("REAL", filepath.Join(bin, program), "STOP", fmt.Sprintf(": > %s; read -r _ < %s", b.stopped, fifo)).
		Replace(script)
	script = "#!/bin/sh\ncase \"$*\" in *--list*|--version) exec " + filepath.Join(bin, program) + " \"$@\";; esac\n" + script + "\n: > " + b.through + "\n"
	if err := os.WriteFile(filepath.Join(b.dir, program), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	if b.fifo, err = os.OpenFile(fifo, os.O_RDWR, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.fifo.Close() })
	return b
}

func there(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// kills starts the server's command and kills it when the program has stopped. What it left behind is let go, and has come
// to its end.
func (b *brake) kills(t *testing.T, args ...string) {
	t.Helper()
	p := launch(t, nil, append(args, "--postgres-bin", b.dir)...)
	eventually(t, "the program stops", func() bool {
		select {
		case <-p.exited:
			t.Fatalf("it has ended: %v\n%s", p.cmd.ProcessState, p.log.String())
		default:
		}
		return there(b.stopped)
	})
	p.kill(t)
	if _, err := b.fifo.WriteString("\n"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the program ends", func() bool { return there(b.through) })
}

// programs are PostgreSQL's, of the version of a database.
func programs(t *testing.T, dbURL string) embedded.Programs {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dbURL)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	var version int
	if err := conn.QueryRow(t.Context(), "SELECT current_setting('server_version_num')::int / 10000").Scan(&version); err != nil {
		t.Fatal(err)
	}
	found, err := embedded.FindPrograms("", version)
	if err != nil {
		t.Skip(err)
	}
	return found
}

// succeeds runs the server's command to its end, which is to be a good one.
func succeeds(t *testing.T, args ...string) {
	t.Helper()
	if code, stdout, stderr := runs(t, nil, args...); code != 0 {
		t.Fatalf("%q: %d %s %s", args, code, stdout, stderr)
	}
}

// TestKilledInABackup kills it while the dump is written, and when all of it is: the file is what it was, or not there, and
// what is left of the new one does not have its name.
func TestKilledInABackup(t *testing.T) {
	t.Parallel()
	dbURL, dir := pgtest.Database(t), t.TempDir()
	file := filepath.Join(dir, "backup")
	flags := []string{"--database-url", dbURL, "--unsafe-durability"}
	p := launch(t, nil, append(flags, "--listen=127.0.0.1:0")...)
	url := p.url(t)
	backup := append([]string{"backup", file}, flags...)
	var before []byte
	for _, script := range []string{`REAL "$@" | head -c 3000; STOP`, `REAL "$@"; STOP`} {
		commit(t, url, `{"n":1}`)
		newBrake(t, programs(t, dbURL), "pg_dump", script).kills(t, backup...)
		after, err := os.ReadFile(file)
		if there(file) != (before != nil) || before != nil && err != nil || !bytes.Equal(before, after) {
			t.Errorf("%s: the file of %d bytes has %d now, %v", script, len(before), len(after), err)
		}
		files, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			if name := f.Name(); name != "backup" && !strings.HasSuffix(name, ".part") {
				t.Errorf("%s: there is a file %s", script, name)
			}
		}
		succeeds(t, backup...)
		if before, err = os.ReadFile(file); err != nil {
			t.Fatal(err)
		}
	}
	want := everything(t, url)
	commit(t, url, `{"after":"the backup"}`)
	p.stop(t)
	succeeds(t, append([]string{"restore", file, "--replace"}, flags...)...)
	p = launch(t, nil, append(flags, "--listen=127.0.0.1:0")...)
	if diff := cmp.Diff(want, everything(t, p.url(t))); diff != "" {
		t.Errorf("the last backup (-want +got)\n%s", diff)
	}
	p.stop(t)
}

// TestKilledInARestore kills it at several moments: the namespace is as before or as in the backup, a server starts on it,
// and a restore that is repeated is one.
func TestKilledInARestore(t *testing.T) {
	t.Parallel()
	dbURL, file := pgtest.Database(t), filepath.Join(t.TempDir(), "backup")
	flags := []string{"--database-url", dbURL, "--unsafe-durability"}
	serve := append(flags, "--listen=127.0.0.1:0")
	restore := append([]string{"restore", file, "--replace"}, flags...)
	p := launch(t, nil, serve...)
	url := p.url(t)
	f := fill(t, url)
	want := everything(t, url)
	succeeds(t, append([]string{"backup", file}, flags...)...)
	for _, tt := range []struct {
		when, program, script string
		done                  bool
	}{
		{"the dump is half read", "pg_restore", `REAL "$@" | sed '/^COPY .*\.logs /{n;q}'; STOP`, false},
		{"all of it is sent, and no COMMIT", "pg_restore", `REAL "$@"; STOP`, false},
		{"COMMIT is on its way", "psql", `sed -u '/^COMMIT;$/e STOP' | REAL "$@" 2> /dev/null`, true}, // or it dies of what it says to nobody
	} {
		commit(t, url, `{"after":"the backup"}`)
		expected := everything(t, url)
		p.stop(t)
		newBrake(t, programs(t, dbURL), tt.program, tt.script).kills(t, restore...)
		p = launch(t, nil, serve...)
		if tt.done {
			expected = want
		}
		if diff := cmp.Diff(expected, everything(t, p.url(t))); diff != "" {
			t.Errorf("killed when %s (-want +got)\n%s", tt.when, diff)
		}
		p.stop(t)
		succeeds(t, restore...)
		p = launch(t, nil, serve...)
		url = p.url(t)
		if diff := cmp.Diff(want, everything(t, url)); diff != "" {
			t.Errorf("killed when %s, and repeated (-want +got)\n%s", tt.when, diff)
		}
	}
	restored(t, url, f, want)
	p.stop(t)

	// Into a new folder, whose PostgreSQL dies with it.
	data := filepath.Join(folder(t), "data")
	into := []string{"restore", file, "--data-dir", data}
	newBrake(t, programs(t, dbURL), "pg_restore", `REAL "$@" | sed '/^COPY .*\.logs /{n;q}'; STOP`).kills(t, into...)
	p = launch(t, nil, "--data-dir", data, "--listen=127.0.0.1:0")
	if got := bodies(t, p.url(t)); got != nil {
		t.Errorf("after half a restore into a new folder it holds %q", got)
	}
	p.stop(t)
	succeeds(t, into...)
	p = launch(t, nil, "--data-dir", data, "--listen=127.0.0.1:0")
	restored(t, p.url(t), f, want)
	p.stop(t)
}
