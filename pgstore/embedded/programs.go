package embedded

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
)

// Programs are PostgreSQL's programs that save and restore databases.
type Programs struct {
	Dump    string // pg_dump
	Restore string // pg_restore
	SQL     string // psql
	Version int    // the major one
}

var programVersion = regexp.MustCompile(`^pg_dump \(.+?\) (\d+)`)

// FindPrograms looks for the programs in an explicit folder, or, where that is "", in all that Find would look at. They are
// of the version given, or else of the nearest later one: earlier ones do not know that PostgreSQL. Error: ErrNotFound.
func FindPrograms(explicitBinDir string, version int) (Programs, error) {
	dirs := []string{explicitBinDir}
	if explicitBinDir == "" {
		dirs = defaultSearch().candidates()
	}
	var best Programs
	for _, dir := range dirs {
		p := Programs{filepath.Join(dir, "pg_dump"), filepath.Join(dir, "pg_restore"), filepath.Join(dir, "psql"), 0}
		if !executable(p.Dump) || !executable(p.Restore) || !executable(p.SQL) {
			continue
		}
		out, err := exec.Command(p.Dump, "--version").Output()
		if err != nil {
			continue
		}
		m := programVersion.FindSubmatch(out)
		if m == nil {
			continue
		}
		p.Version, _ = strconv.Atoi(string(m[1]))
		if p.Version >= version && (best.Version == 0 || p.Version < best.Version) {
			best = p
		}
	}
	if best.Version == 0 {
		where := "here"
		if explicitBinDir != "" {
			where = "in " + explicitBinDir
		}
		return best, fmt.Errorf("%w: there is no pg_dump, pg_restore and psql %s for a PostgreSQL %d; install those of version %[3]d "+
			`or later (Debian, Ubuntu: "apt-get install postgresql-client"), or name their folder by --postgres-bin`, ErrNotFound, where, version)
	}
	return best, nil
}
