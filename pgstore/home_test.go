package pgstore_test

import (
	"net/url"
	"strings"
	"testing"

	"pipeproc/api"
	"pipeproc/pgstore"
	"pipeproc/pgstore/pgtest"
)

// Servers whose roles may ask PostgreSQL for different things do not take each other's namespace for a restored one, which
// would end its claims and rename its webhooks.
func TestRolesAreNoRestore(t *testing.T) {
	t.Parallel()
	own := pgtest.Database(t)
	s := open(t, own)
	conn := connect(t, own)
	mustCommit(t, s, logs("t", `[0]`)...)
	claimed, err := s.Claim(t.Context(), "p", api.ClaimRequest{ProcOptions: api.ProcOptions{Topic: "t"}})
	if err != nil || claimed == nil {
		t.Fatal(claimed, err)
	}
	home := queryOne[string](t, conn, "SELECT home FROM pipeproc_default.namespace")
	if cluster, _, _ := strings.Cut(home, "/"); cluster == "" {
		t.Fatalf("home %q names no cluster", home)
	}
	id := queryOne[string](t, conn, "SELECT id::text FROM pipeproc_default.namespace")
	// Functions are granted database by database.
	mustExec(t, conn, "REVOKE EXECUTE ON FUNCTION pg_control_system() FROM public")
	role := "lesser_" + strings.ReplaceAll(strings.TrimPrefix(mustPath(t, own), "/"), "-", "_")
	mustExec(t, conn, "CREATE ROLE "+role+" LOGIN PASSWORD 'x'")
	defer func() { mustExec(t, conn, "DROP OWNED BY "+role+" CASCADE; DROP ROLE "+role) }()
	mustExec(t, conn, "GRANT ALL ON SCHEMA pipeproc_default TO "+role+"; GRANT ALL ON ALL TABLES IN SCHEMA pipeproc_default TO "+role+
		"; GRANT ALL ON ALL SEQUENCES IN SCHEMA pipeproc_default TO "+role)
	lesser, err := url.Parse(own)
	if err != nil {
		t.Fatal(err)
	}
	lesser.User = url.UserPassword(role, "x")
	for _, at := range []string{lesser.String(), own} {
		if err := openOnce(t.Context(), pgstore.Config{URL: at, Namespace: "default", UnsafeDurability: true}); err != nil {
			t.Fatal(err)
		}
		if got := queryOne[string](t, conn, "SELECT home FROM pipeproc_default.namespace"); got != home {
			t.Errorf("the home became %q, was %q", got, home)
		}
		if got := queryOne[string](t, conn, "SELECT id::text FROM pipeproc_default.namespace"); got != id {
			t.Error("the namespace got another id")
		}
	}
	if _, err := s.Extend(t.Context(), "p", claimed.Claim.Token); err != nil {
		t.Error("the claim is gone:", err)
	}
}

// While servers run on a namespace, nothing is restored over it, and a server that finds it at another place than before
// leaves it as it is.
func TestServedNamespacesAreNotAdapted(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	open(t, url)
	conn := connect(t, url)
	until(t, "the server listens", func() bool {
		standing, err := pgstore.Look(t.Context(), url, "default")
		return err == nil && standing.Served
	})
	_, err := conn.Exec(t.Context(), "BEGIN; "+pgstore.MigrationLock("default"))
	if err == nil || !strings.Contains(err.Error(), "servers run on the namespace") {
		t.Error("a restore begins:", err)
	}
	mustExec(t, conn, "ROLLBACK")
	mustExec(t, conn, "UPDATE pipeproc_default.namespace SET home = 'elsewhere'")
	wantRefused(t, pgstore.Config{URL: url, Namespace: "default", UnsafeDurability: true}, "servers run on it")
	if n := queryOne[int64](t, conn, "SELECT restores FROM pipeproc_default.namespace"); n != 0 {
		t.Error("it was adapted")
	}
}

func mustPath(t *testing.T, at string) string {
	t.Helper()
	u, err := url.Parse(at)
	if err != nil {
		t.Fatal(err)
	}
	return u.Path
}
