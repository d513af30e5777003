package service

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestLibpqEnvironment holds that PostgreSQL's programs get what a database URL says, and none of it by the command line.
func TestLibpqEnvironment(t *testing.T) {
	for _, name := range []string{"PGHOST", "PGPORT", "PGPASSWORD", "PGOPTIONS"} {
		t.Setenv(name, "of the environment")
	}
	t.Setenv("PGHOSTADDR", "192.0.2.1")
	t.Setenv("PIPEPROC_DATABASE_URL", "postgres://u:sesame@h/db")
	tests := map[string][]string{
		"postgres://u:p%40ss@h:5433/db?sslmode=require&pool_max_conns=3": {"PGDATABASE=db", "PGHOST=h",
			"PGOPTIONS=of the environment", "PGPASSWORD=p@ss", "PGPORT=5433", "PGSSLMODE=require", "PGUSER=u"},
		"postgresql://u@a:1,b:2/db?search_path=x y&options=-c jit=off": {"PGDATABASE=db", "PGHOST=a,b",
			`PGOPTIONS=-c jit=off -c search_path=x\ y`, "PGPASSWORD=of the environment", "PGPORT=1,2", "PGUSER=u"},
		"postgres:///db?host=%2Frun%2Fpg&port=5": {"PGDATABASE=db", "PGHOST=/run/pg", "PGOPTIONS=of the environment",
			"PGPASSWORD=of the environment", "PGPORT=5"},
		`host=h  dbname = 'a b' password='it\'s \\' user=u default_query_exec_mode=exec`: {"PGDATABASE=a b", "PGHOST=h",
			"PGOPTIONS=of the environment", `PGPASSWORD=it's \`, "PGPORT=of the environment", "PGUSER=u"},
	}
	for url, want := range tests {
		env, err := libpqEnvironment(url)
		if err != nil {
			t.Errorf("%s: %v", url, err)
			continue
		}
		got := slices.DeleteFunc(env, func(v string) bool { return !strings.HasPrefix(v, "PG") && !strings.HasPrefix(v, "PIPEPROC") })
		slices.Sort(got)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got)\n%s", url, diff)
		}
	}
	for _, url := range []string{"postgres://u:sesame@h:port/db", "host='h password=sesame", "sesame"} {
		if _, err := libpqEnvironment(url); err == nil || strings.Contains(err.Error(), "sesame") {
			t.Errorf("%s: %v", url, err)
		}
	}
}

func TestParseBackup(t *testing.T) {
	for _, args := range [][]string{{"file", "--replace", "--namespace=n"}, {"--namespace", "n", "--replace", "file"}} {
		b, err := ParseBackup(args, lookup(map[string]string{"DATABASE_URL": "postgres:///x"}), true)
		if err != nil || b.File != "file" || !b.Replace || b.Namespace != "n" || b.DatabaseURL != "postgres:///x" {
			t.Errorf("%q: %+v, %v", args, b, err)
		}
	}
	for name, tt := range map[string]struct {
		args []string
		env  map[string]string
		want string
	}{
		"no file":      {want: "no file"},
		"two":          {args: []string{"a", "b"}, want: `"b"`},
		"replace":      {args: []string{"a", "--replace"}, want: "-replace"},
		"memory":       {args: []string{"a", "--memory"}, want: "--memory"},
		"memory's":     {args: []string{"a"}, env: map[string]string{"PIPEPROC_MEMORY": "true"}, want: "--memory"},
		"a direct URL": {args: []string{"a", "--database-direct-url=postgres:///x"}, want: "--database-direct-url"},
	} {
		if _, err := ParseBackup(tt.args, lookup(tt.env), false); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %s", name, err, tt.want)
		}
	}
}
