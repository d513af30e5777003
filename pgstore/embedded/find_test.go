package embedded

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// binaries makes a folder with a postgres of the version given.
func binaries(t *testing.T, dir, version string) string {
	t.Helper()
	write(t, filepath.Join(dir, "postgres"), "#!/bin/sh\necho 'postgres (PostgreSQL) "+version+" (Test)'\n")
	write(t, filepath.Join(dir, "initdb"), "#!/bin/sh\n")
	for _, name := range []string{"postgres", "initdb"} {
		if err := os.Chmod(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestFind(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	old := binaries(t, filepath.Join(root, "old"), "13.9")
	inPath := binaries(t, filepath.Join(root, "path"), "15.4")
	binaries(t, filepath.Join(root, "lib", "9.6", "bin"), "9.6.1")
	v14 := binaries(t, filepath.Join(root, "lib", "14", "bin"), "14.1")
	v17 := binaries(t, filepath.Join(root, "lib", "17", "bin"), "17beta1")
	patterns := []string{filepath.Join(root, "lib", "*", "bin")}
	linked := filepath.Join(root, "linked")
	if err := os.Mkdir(linked, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(inPath, "initdb"), filepath.Join(linked, "initdb")); err != nil {
		t.Fatal(err)
	}
	empty := t.TempDir()

	for name, test := range map[string]struct {
		search    search
		explicit  string
		preferred int
		dir       string
		version   int
		says      string
	}{
		"path first":          {search: search{[]string{inPath}, patterns}, dir: inPath, version: 15},
		"link in path":        {search: search{[]string{linked}, nil}, dir: inPath, version: 15},
		"newest of a pattern": {search: search{nil, patterns}, dir: v17, version: 17},
		"version preferred":   {search: search{[]string{inPath}, patterns}, preferred: 14, dir: v14, version: 14},
		"preferred not there": {search: search{[]string{inPath}, patterns}, preferred: 16, dir: inPath, version: 15},
		"explicit first":      {search: search{[]string{inPath}, patterns}, explicit: v14, preferred: 15, dir: v14, version: 14},
		"explicit empty":      {search: search{[]string{inPath}, patterns}, explicit: empty, says: empty},
		"explicit too old":    {search: search{[]string{inPath}, patterns}, explicit: old, says: "older than 14"},
		"all too old":         {search: search{[]string{old}, nil}, says: "version 13 is too old"},
		"none, Debian":        {search: search{[]string{empty}, nil}, says: "apt-get install postgresql"},
		"none, Fedora":        {search: search{[]string{empty}, nil}, says: "dnf install postgresql-server"},
		"none, macOS":         {search: search{[]string{empty}, nil}, says: "brew install postgresql@17"},
		"none, own server":    {search: search{[]string{empty}, nil}, says: "--database-url"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, version, err := test.search.find(test.explicit, test.preferred)
			if test.says != "" {
				if !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), test.says) {
					t.Errorf("got %v, want ErrNotFound saying %q", err, test.says)
				}
				return
			}
			if err != nil || dir != test.dir || version != test.version {
				t.Errorf("got %s %d %v, want %s %d", dir, version, err, test.dir, test.version)
			}
		})
	}
}

func TestFindHere(t *testing.T) {
	t.Parallel()
	dir, version, err := Find("")
	if err != nil {
		t.Fatal(err)
	}
	if again, v, err := Find(dir); again != dir || v != version || err != nil {
		t.Errorf("named explicitly: %s %d %v, want %s %d", again, v, err, dir, version)
	}
}
