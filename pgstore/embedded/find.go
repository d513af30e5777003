package embedded

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

const oldestVersion = 14

const installHint = `install PostgreSQL 14 or newer (Debian, Ubuntu: "apt-get install postgresql"; Fedora, RHEL: ` +
	`"dnf install postgresql-server"; macOS: "brew install postgresql@17"), or name the folder of its binaries by ` +
	`--postgres-bin, or use a server of your own by --database-url`

// wellKnown are the folders where packages put the binaries. Those of one pattern are taken newest first.
var wellKnown = []string{
	"/usr/lib/postgresql/*/bin",     // Debian, Ubuntu
	"/usr/pgsql-*/bin",              // RPM packages of the PostgreSQL project
	"/usr/lib/postgresql[0-9]*/bin", // SUSE
	"/usr/libexec/postgresql[0-9]*", // Alpine
	"/opt/homebrew/opt/postgresql@*/bin",
	"/usr/local/opt/postgresql@*/bin",
	"/home/linuxbrew/.linuxbrew/opt/postgresql@*/bin",
	"/opt/homebrew/bin",
	"/opt/local/lib/postgresql[0-9]*/bin", // MacPorts
	"/Applications/Postgres.app/Contents/Versions/*/bin",
	"/usr/local/pgsql/bin",
	"/usr/local/bin",
	"/usr/bin",
}

// Find looks for a folder with the binaries postgres and initdb, of version 14 or newer, and returns it with its
// major version. An explicit folder is the only one considered: without usable binaries it is an error. Otherwise the
// first usable one of PATH, pg_config --bindir and the folders where packages put them, newest first, is taken.
// Error: ErrNotFound, with what to do.
func Find(explicitBinDir string) (binDir string, version int, err error) {
	return defaultSearch().find(explicitBinDir, 0)
}

type search struct {
	path     []string
	patterns []string
}

func defaultSearch() search {
	return search{path: filepath.SplitList(os.Getenv("PATH")), patterns: wellKnown}
}

// find is Find with a preferred major version, 0 for none. When that version is not there, the first usable one is
// returned.
func (s search) find(explicit string, preferred int) (string, int, error) {
	if explicit != "" {
		return findExplicit(explicit)
	}
	var dir string
	var version, tooOld int
	for _, d := range s.candidates() {
		v, err := versionOf(d)
		switch {
		case err != nil:
			continue
		case v < oldestVersion:
			tooOld = max(tooOld, v)
			continue
		}
		if v == preferred || preferred == 0 {
			return d, v, nil
		}
		if dir == "" {
			dir, version = d, v
		}
	}
	if dir != "" {
		return dir, version, nil
	}
	if tooOld != 0 {
		return "", 0, fmt.Errorf("%w: version %d is too old; %s", ErrNotFound, tooOld, installHint)
	}
	return "", 0, fmt.Errorf("%w: %s", ErrNotFound, installHint)
}

func findExplicit(dir string) (string, int, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", 0, err
	}
	v, err := versionOf(dir)
	if err != nil {
		return "", 0, fmt.Errorf("%w in %s, the folder given: %w; it must hold postgres and initdb", ErrNotFound, dir, err)
	}
	if v < oldestVersion {
		return "", 0, fmt.Errorf("%w in %s, the folder given: version %d is older than %d", ErrNotFound, dir, v,
			oldestVersion)
	}
	return dir, v, nil
}

// candidates are the folders to look at, best first; many will not exist.
func (s search) candidates() []string {
	var dirs []string
	add := func(dir string) {
		if !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
	}
	for _, dir := range s.path {
		if !filepath.IsAbs(dir) {
			continue
		}
		add(dir)
		for _, name := range []string{"postgres", "initdb"} {
			// A link in PATH may lead to the folder that holds them all.
			if target, err := filepath.EvalSymlinks(filepath.Join(dir, name)); err == nil {
				add(filepath.Dir(target))
			}
		}
	}
	for _, dir := range s.path {
		config := filepath.Join(dir, "pg_config")
		if !filepath.IsAbs(dir) || !executable(config) {
			continue
		}
		if out, err := exec.Command(config, "--bindir").Output(); err == nil {
			add(strings.TrimSpace(string(out)))
		}
		break
	}
	for _, pattern := range s.patterns {
		found, _ := filepath.Glob(pattern)
		slices.SortFunc(found, func(a, b string) int { return numberIn(b) - numberIn(a) })
		for _, dir := range found {
			add(dir)
		}
	}
	return dirs
}

var (
	digits      = regexp.MustCompile(`\d+`)
	versionText = regexp.MustCompile(`^postgres \(.+?\) (\d+)`)
)

// numberIn is the last number in a path, which in the well-known folders is the major version.
func numberIn(path string) int {
	all := digits.FindAllString(path, -1)
	if len(all) == 0 {
		return 0
	}
	n, _ := strconv.Atoi(all[len(all)-1])
	return n
}

// versionOf is the major version of the binaries in a folder. An error when one is missing or does not run.
func versionOf(dir string) (int, error) {
	for _, name := range []string{"postgres", "initdb"} {
		if path := filepath.Join(dir, name); !executable(path) {
			return 0, fmt.Errorf("no executable %s", name)
		}
	}
	out, err := exec.Command(filepath.Join(dir, "postgres"), "--version").Output()
	if err != nil {
		return 0, fmt.Errorf("postgres --version: %w", err)
	}
	m := versionText.FindSubmatch(out)
	if m == nil {
		return 0, fmt.Errorf("postgres --version says %q", strings.TrimSpace(string(out)))
	}
	return strconv.Atoi(string(m[1]))
}

func executable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}
