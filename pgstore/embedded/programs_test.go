package embedded

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// TestFindPrograms: of several versions the one asked for is taken, else the nearest later one.
func TestFindPrograms(t *testing.T) {
	dirs := map[int]string{}
	path := ""
	for _, version := range []int{17, 14, 16} {
		dir := filepath.Join(t.TempDir(), "bin")
		dirs[version] = dir
		path += dir + string(os.PathListSeparator)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"pg_dump", "pg_restore", "psql"} {
			script := fmt.Sprintf("#!/bin/sh\necho '%s (PostgreSQL) %d.1 (Debian 1)'\n", name, version)
			if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Setenv("PATH", path)
	for version, want := range map[int]int{14: 14, 16: 16, 17: 17} {
		p, err := FindPrograms("", version)
		if err != nil || p.Version != want || p.Dump != filepath.Join(dirs[want], "pg_dump") {
			t.Errorf("for version %d: %+v, %v", version, p, err)
		}
	}
	if p, err := FindPrograms(dirs[16], 15); err != nil || p.Version != 16 {
		t.Errorf("the nearest later one: %+v, %v", p, err)
	}
	if _, err := FindPrograms(dirs[14], 15); !errors.Is(err, ErrNotFound) {
		t.Errorf("an earlier one: %v", err)
	}
	if err := os.Remove(filepath.Join(dirs[17], "psql")); err != nil {
		t.Fatal(err)
	}
	if _, err := FindPrograms(dirs[17], 17); !errors.Is(err, ErrNotFound) {
		t.Errorf("without psql: %v", err)
	}
}

// TestRunning: the cluster of a folder is found while it runs, and only then.
func TestRunning(t *testing.T) {
	t.Parallel()
	dir := tempFolder(t)
	if _, err := Running(dir); !errors.Is(err, ErrNoData) {
		t.Errorf("an empty folder: %v", err)
	}
	c := mustStart(t, Config{Dir: dir})
	if url, err := Running(dir); err != nil || url != c.URL() {
		t.Errorf("while it runs: %q, %v", url, err)
	}
	mustStop(t, c)
	if url, err := Running(dir); err != nil || url != "" {
		t.Errorf("afterwards: %q, %v", url, err)
	}
}
