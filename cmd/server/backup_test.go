package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"pipeproc/pgstore/embedded"
	"pipeproc/pgstore/pgtest"
)

// filled is what a namespace is filled with before it is saved.
type filled struct{ token, live string }

// fill commits, claims, acks, and makes one of everything.
func fill(t *testing.T, url string) (f filled) {
	t.Helper()
	do := func(method, path, body string, want int) string {
		t.Helper()
		status, answer := call(t, method, url, path, body)
		if status != want {
			t.Fatalf("%s %s: %d %s", method, path, status, answer)
		}
		return answer
	}
	for _, body := range []string{`{"a":1e2,"é":"\u0000","big":12345678901234567890}`, `["\ud800",{"b":1,"a":2,"b":3}]`, `{"n":3}`} {
		commit(t, url, body)
	}
	do("POST", "/v1/commit", `[{"topic":"numbers","body":{"n":4}},{"topic":"other","body":[]}]`, http.StatusCreated)
	claim := do("POST", "/v1/procs/p/claim", `{"topic":"numbers","count":2,"maxReclaims":1,"reclaimTimeout":600000}`, http.StatusOK)
	do("POST", "/v1/procs/p/ack-commit", `{"token":"`+token(t, claim)+`","logs":{"topic":"out","body":{"n":5}}}`, http.StatusOK)
	f.token = token(t, do("POST", "/v1/procs/p/claim", `{}`, http.StatusOK))
	do("POST", "/v1/system-procs", `{"name":"s","from":"later","processor":"http://127.0.0.1:1/"}`, http.StatusCreated)
	var live struct{ Name string }
	if err := json.Unmarshal([]byte(do("POST", "/v1/live-procs", `{"topic":"numbers","mode":"all"}`, http.StatusCreated)), &live); err != nil {
		t.Fatal(err)
	}
	f.live = live.Name
	return f
}

func token(t *testing.T, claimed string) string {
	t.Helper()
	var c struct{ Claim struct{ Token string } }
	if err := json.Unmarshal([]byte(claimed), &c); err != nil || c.Claim.Token == "" {
		t.Fatal(claimed, err)
	}
	return c.Claim.Token
}

// everything is all that the API tells, but for the claims.
func everything(t *testing.T, url string) (all []string) {
	t.Helper()
	for _, path := range []string{"/v1/topics", "/v1/topics/numbers/logs", "/v1/topics/other/logs", "/v1/topics/out/logs", "/v1/system-procs"} {
		status, answer := call(t, "GET", url, path, "")
		if status != http.StatusOK {
			answer = "" // each has a request id of its own
		}
		all = append(all, fmt.Sprint(path, " ", status, " ", answer))
	}
	_, answer := call(t, "GET", url, "/v1/procs", "")
	var list struct{ Procs []map[string]any }
	if err := json.Unmarshal([]byte(answer), &list); err != nil {
		t.Fatal(err)
	}
	for _, p := range list.Procs {
		delete(p, "claim")
		delete(p, "lastClaimedRange") // without the claim it is the one before
		text, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, string(text))
	}
	return all
}

// restored holds that a server on what was restored is as it was: all there, and open claims ended, uncounted.
func restored(t *testing.T, url string, f filled, want []string) {
	t.Helper()
	if diff := cmp.Diff(want, everything(t, url)); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	status, answer := call(t, "POST", url, "/v1/procs/p/ack", `{"token":"`+f.token+`"}`)
	if status != http.StatusConflict || !strings.Contains(answer, "claim_lost") {
		t.Errorf("an ack with the token of before: %d %s", status, answer)
	}
	status, answer = call(t, "POST", url, "/v1/procs/p/claim", `{}`)
	if status != http.StatusOK || !strings.Contains(answer, `"attempt":1`) || !strings.Contains(answer, `{"n":3}`) {
		t.Errorf("the claim after it: %d %s", status, answer)
	}
	// A connection number that was given after the backup.
	req, err := http.NewRequest(http.MethodGet, url+"/v1/live-procs/"+f.live+"/changes", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Last-Event-ID", f.live+":7:")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	res, err := http.DefaultTransport.RoundTrip(req.WithContext(ctx))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		t.Errorf("a stream that goes on: %s", res.Status)
	}
}

// TestBackupOfADatabase saves and restores a namespace of a database that others use as well, while servers run, and over
// what is there.
func TestBackupOfADatabase(t *testing.T) {
	t.Parallel()
	dbURL, file := pgtest.Database(t), filepath.Join(t.TempDir(), "backup")
	flags := []string{"--database-url", dbURL, "--unsafe-durability", "--namespace=With-Dash"}
	serve := append(flags, "--listen=127.0.0.1:0")
	p := launch(t, nil, serve...)
	url := p.url(t)
	f := fill(t, url)
	want := everything(t, url)

	code, stdout, stderr := runs(t, nil, append([]string{"backup", file}, flags...)...)
	if code != 0 || !strings.Contains(stdout, file) {
		t.Fatalf("backup: %d %s %s", code, stdout, stderr)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file: %v, %v", info, err)
	}
	commit(t, url, `{"after":"the backup"}`)
	tail := tailID(t, url) // beyond what the backup holds

	restore := append([]string{"restore", file}, flags...)
	for _, tt := range []struct {
		what string
		args []string
		want string
	}{
		{"while a server runs", append(restore, "--replace"), "stop them first"},
		{"of another namespace", append(restore, "--namespace=other"), "not that of namespace"},
		{"of no backup", []string{"restore", os.Args[0], "--database-url", dbURL}, "pg_restore"},
		{"of no file", []string{"restore", file + "x", "--database-url", dbURL}, "no such file"},
	} {
		if code, _, stderr := runs(t, nil, tt.args...); code != 1 || !strings.Contains(stderr, tt.want) {
			t.Errorf("a restore %s: %d %s", tt.what, code, stderr)
		}
	}
	p.stop(t)
	if code, _, stderr := runs(t, nil, restore...); code != 1 || !strings.Contains(stderr, "--replace") {
		t.Errorf("a restore over data: %d %s", code, stderr)
	}
	// One that fails halfway leaves what was there.
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file+".short", text[:len(text)-len(text)/5], 0o600); err != nil {
		t.Fatal(err)
	}
	code, _, stderr = runs(t, nil, append([]string{"restore", "--replace", file + ".short"}, flags...)...)
	if code != 1 {
		t.Errorf("a restore of half a file: %d %s", code, stderr)
	}
	p = launch(t, nil, serve...)
	if got := bodies(t, p.url(t)); len(got) != 5 {
		t.Errorf("after a restore that failed there are %q", got)
	}
	p.stop(t)

	if code, _, stderr := runs(t, nil, append(restore, "--replace")...); code != 0 {
		t.Fatalf("restore: %d %s", code, stderr)
	}
	p = launch(t, nil, serve...)
	url = p.url(t)
	restored(t, url, f, want)
	if got := follow(t, url, tail); !strings.Contains(got, "event: gap") {
		t.Errorf("a tail of the time before is not told: %s", got)
	}
	p.stop(t)
}

// tailID is the id that a tail of numbers has at the head.
func tailID(t *testing.T, url string) string {
	t.Helper()
	return strings.TrimSpace(strings.TrimPrefix(follow(t, url, ""), "id:"))
}

// follow answers the first event of a tail of numbers, or its id alone.
func follow(t *testing.T, url, last string) string {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, url+"/v1/tail?topic=numbers", nil)
	if err != nil {
		t.Fatal(err)
	}
	if last != "" {
		req.Header.Set("Last-Event-ID", last)
	}
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var seen strings.Builder
	for b := make([]byte, 1024); ; {
		n, err := res.Body.Read(b)
		seen.Write(b[:n])
		for line := range strings.Lines(seen.String()) {
			if last == "" && strings.HasPrefix(line, "id:") && strings.HasSuffix(line, "\n") {
				return line
			}
		}
		if last != "" && strings.Contains(seen.String(), "event:") || err != nil {
			return seen.String()
		}
	}
}

// TestBackupOfTheEmbeddedDatabase saves it while its server runs, and while it does not, and restores it into a new folder.
func TestBackupOfTheEmbeddedDatabase(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	data, file := filepath.Join(dir, "data"), filepath.Join(dir, "backup")
	code, _, stderr := runs(t, nil, "backup", file, "--data-dir", data)
	if _, err := os.Stat(data); code != 1 || !strings.Contains(stderr, "no data") || err == nil {
		t.Errorf("a backup of nothing: %d %s, %v", code, stderr, err)
	}
	p := launch(t, nil, "--data-dir", data, "--listen=127.0.0.1:0")
	url := p.url(t)
	f := fill(t, url)
	want := everything(t, url)
	if code, _, stderr := runs(t, nil, "backup", "--data-dir", data, file); code != 0 {
		t.Fatalf("while it runs: %d %s", code, stderr)
	}
	if code, _, stderr := runs(t, nil, "restore", "--replace", "--data-dir", data, file); code != 1 || !strings.Contains(stderr, "in use") {
		t.Errorf("a restore while it runs: %d %s", code, stderr)
	}
	p.stop(t)
	if code, _, stderr := runs(t, nil, "backup", "--data-dir", data, file+"2"); code != 0 {
		t.Fatalf("while it does not: %d %s", code, stderr)
	}
	for _, file := range []string{file, file + "2"} {
		to := file + ".data"
		if code, stdout, stderr := runs(t, []string{"PIPEPROC_DATA_DIR=" + to}, "restore", file); code != 0 || !strings.Contains(stdout, "restored") {
			t.Fatalf("restore: %d %s %s", code, stdout, stderr)
		}
		p := launch(t, nil, "--data-dir", to, "--listen=127.0.0.1:0")
		restored(t, p.url(t), f, want)
		p.stop(t)
	}
	p = launch(t, nil, "--data-dir", data, "--listen=127.0.0.1:0") // its own are where they were
	url = p.url(t)
	if status, answer := call(t, "POST", url, "/v1/procs/p/ack", `{"token":"`+f.token+`"}`); status != http.StatusOK {
		t.Errorf("an ack after a restart: %d %s", status, answer)
	}
	p.stop(t)
}

// namespaceID is what the ids of webhooks come from.
func namespaceID(t *testing.T, dbURL string) (id string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dbURL)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if err := conn.QueryRow(t.Context(), "SELECT id::text FROM pipeproc_default.namespace").Scan(&id); err != nil {
		t.Fatal(err)
	}
	return id
}

// TestPlainDump is what README tells of pg_dump, without the commands of ours: into a new database, whatever its name.
func TestPlainDump(t *testing.T) {
	t.Parallel()
	from, to, file := pgtest.Database(t), pgtest.EmptyDatabase(t), filepath.Join(t.TempDir(), "backup")
	p := launch(t, nil, "--database-url", from, "--unsafe-durability", "--listen=127.0.0.1:0")
	url := p.url(t)
	f := fill(t, url)
	want := everything(t, url)
	conn, err := pgx.Connect(t.Context(), from)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	var version int
	if err := conn.QueryRow(t.Context(), "SELECT current_setting('server_version_num')::int / 10000").Scan(&version); err != nil {
		t.Fatal(err)
	}
	programs, err := embedded.FindPrograms("", version)
	if err != nil {
		t.Skip(err)
	}
	for _, cmd := range []*exec.Cmd{
		exec.Command(programs.Dump, "-Fc", "-n", `"pipeproc_default"`, "-f", file, from),
		exec.Command(programs.Restore, "--no-owner", "--exit-on-error", "-d", to, file),
	} {
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", cmd, err, out)
		}
	}
	q := launch(t, nil, "--database-url", to, "--unsafe-durability", "--listen=127.0.0.1:0")
	restored(t, q.url(t), f, want)
	q.stop(t)
	if a, b := namespaceID(t, from), namespaceID(t, to); a == b {
		t.Errorf("both give webhooks the ids of %s", a)
	}
	again := namespaceID(t, to)
	q = launch(t, nil, "--database-url", to, "--unsafe-durability", "--listen=127.0.0.1:0")
	q.url(t)
	q.stop(t)
	if id := namespaceID(t, to); id != again {
		t.Error("it is settled once more at the next start")
	}
	if status, answer := call(t, "POST", url, "/v1/procs/p/ack", `{"token":"`+f.token+`"}`); status != http.StatusOK {
		t.Errorf("the one that was copied has lost a claim: %d %s", status, answer)
	}
	p.stop(t)
}
