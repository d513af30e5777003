package pgstore_test

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"pipeproc/api"
	"pipeproc/pgstore"
	"pipeproc/pgstore/embedded"
)

// smallDisk is a folder with room for size bytes, and a way to take what is left of them and to give it back.
func smallDisk(tb testing.TB, size int) (dir string, fill, free func()) {
	tb.Helper()
	dir = openFolder(tb) + "/disk"
	if err := os.Mkdir(dir, 0o711); err != nil {
		tb.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d,mode=711", size)); err != nil {
		tb.Skip("no disk can be mounted here: ", err)
	}
	tb.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			tb.Error(err)
		}
	})
	filler := dir + "/filler"
	fill = func() {
		tb.Helper()
		f, err := os.OpenFile(filler, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
		if err != nil {
			tb.Fatal(err)
		}
		defer f.Close()
		for block := 1 << 20; block > 0; {
			if _, err := f.Write(make([]byte, block)); errors.Is(err, syscall.ENOSPC) {
				block /= 16
			} else if err != nil {
				tb.Fatal(err)
			}
		}
	}
	free = func() {
		tb.Helper()
		if err := os.Remove(filler); err != nil {
			tb.Fatal(err)
		}
	}
	return dir, fill, free
}

// databaseIn makes a database whose tables are in dir, and answers its URL.
func databaseIn(tb testing.TB, cluster *embedded.Cluster, dir string) string {
	tb.Helper()
	conn := outsider(tb, cluster.URL())
	space := dir + "/space"
	if err := os.Mkdir(space, 0o700); err != nil {
		tb.Fatal(err)
	}
	data, err := os.Stat(queryOne[string](tb, conn, "SELECT setting FROM pg_settings WHERE name = 'data_directory'"))
	if err != nil {
		tb.Fatal(err)
	}
	account := data.Sys().(*syscall.Stat_t)
	if err := os.Chown(space, int(account.Uid), int(account.Gid)); err != nil {
		tb.Fatal(err)
	}
	mustExec(tb, conn, "CREATE TABLESPACE elsewhere LOCATION '"+space+"'")
	mustExec(tb, conn, "CREATE DATABASE elsewhere TABLESPACE elsewhere")
	return strings.Replace(cluster.URL(), "/pipeproc?", "/elsewhere?", 1)
}

// incompressible is a body of n bytes.
func incompressible(n int) string {
	b := make([]byte, n/2)
	rand.Read(b)
	return `["` + hex.EncodeToString(b) + `"]`
}

// The disk of the tables is full: commits are refused as overloaded, which says that nothing was done; what needs no room
// goes on, and so does the rest as soon as there is room.
func TestDiskOfTheTablesFull(t *testing.T) {
	t.Parallel()
	disk, fill, free := smallDisk(t, 64<<20)
	cluster := ownCluster(t, openFolder(t)+"/data", nil)
	s, _ := openWith(t, pgstore.Config{URL: databaseIn(t, cluster, disk)})
	want := []string{`[0]`, `[1]`}
	mustCommit(t, s, logs("t", want...)...)
	createProc(t, s, "p", "t")

	for range 2 {
		fill()
		refused := 0
		until(t, "commits are refused", func() bool {
			body := incompressible(256 << 10)
			_, err := receive(t, commitAsync(t, s, logs("t", body)))
			if err == nil {
				want = append(want, body)
				return false
			}
			wantCode(t, err, api.CodeOverloaded)
			wantRetryAfter(t, err)
			refused++
			return refused == 3
		})
		if diff := cmp.Diff(len(want), len(bodies(t, s, "t"))); diff != "" {
			t.Error(diff)
		}
		if _, err := s.Proc(t.Context(), "p"); err != nil {
			t.Error(err)
		}
		free()
		body := incompressible(256 << 10)
		mustCommit(t, s, logs("t", body)...)
		want = append(want, body)
		c, err := s.Claim(t.Context(), "p", api.ClaimRequest{})
		if err != nil || c == nil {
			t.Fatal(c, err)
		}
		ackOne(t, s, "p", c.Claim.Token)
	}
	if diff := cmp.Diff(want, bodies(t, s, "t")); diff != "" {
		t.Error("what was committed is not what is there")
	}
}

// The disk of the write-ahead log, or that of everything, is full. For want of a log PostgreSQL crashes, and does not come up
// until there is room. No answer is false meanwhile, and the server goes on by itself when PostgreSQL does.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	for _, of := range []string{"the write-ahead log", "everything"} {
		t.Run("of "+of, func(t *testing.T) {
			t.Parallel()
			elsewhere := openFolder(t)
			disk, fill, free := smallDisk(t, 160<<20)
			cluster := ownCluster(t, disk+"/data", map[string]string{"max_wal_size": "32MB", "min_wal_size": "32MB"})
			url := cluster.URL()
			if of != "everything" {
				url = databaseIn(t, cluster, elsewhere)
			}
			s, _ := openWith(t, pgstore.Config{URL: url}, impatient)
			l := &load{store: s, topics: 2, pad: 100_000}
			stop := make(chan struct{})
			g := l.run(t.Context(), 4, stop)
			until(t, "commits go on", func() bool { return l.total.Load() > 50 })
			crashed := cluster.PID()
			fill()
			until(t, "commits are refused", func() bool { return l.refused.Load() > 20 })
			crashed -= cluster.PID()
			free()
			before := l.total.Load()
			until(t, "commits go on", func() bool { return l.total.Load() > before+50 })
			close(stop)
			g.Wait()
			l.check(t)
			t.Logf("PostgreSQL went down: %v", crashed != 0)
			until(t, "the store is ready", func() bool { return s.Ready(t.Context()) == nil })
		})
	}
}
