//go:build security && linux

package security

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
)

// injections are texts that are SQL, or end a string or a name of it, where they are pasted into it.
var injections = []string{
	"'", "''", "\"", "\"\"", "`", ";", "--", "/*", "*/", "\\", "\\'", "$$", "$1", "$t$", ":0;--", "%", "_%", "?",
	"' OR '1'='1", "' OR 1=1--", "\" OR \"\"=\"", "1 OR 1=1", "1;SELECT pg_sleep(30)", "'||pg_sleep(30)--", "1) OR (1=1", "0 UNION SELECT 1", "'; DROP TABLE logs; --",
	"t'; DROP SCHEMA pipeproc_default CASCADE; --", "t\"; DROP SCHEMA pipeproc_default CASCADE; --", "pipeproc_default\".\"logs", "pipeproc_default.logs", "public.t", "pg_catalog.pg_class",
	"'; DELETE FROM topics; COMMIT; --", "'); TRUNCATE procs; --", "t'; COPY topics TO PROGRAM 'id'; --", "'; CREATE ROLE evil SUPERUSER; --", "'||(SELECT version())||'", "t' AND 1=cast(version() AS int)--",
	"t\x00'; DROP TABLE logs; --", "t\\u0027; DROP TABLE logs; --", "t\u02bc OR 1=1", "t\uff07 OR 1=1", "\xbf' OR 1=1--", "t/**/OR/**/1=1", "t\nOR\n1=1", "{t,u}", "(1,2)", "ARRAY[1]", "NULL", "\\N", "t,u", "default", "E'\\x27'", "U&'\\0027'",
	"lane 1'; SELECT pg_terminate_backend(pg_backend_pid()); --", "; SET search_path TO public; --", "'; NOTIFY pipeproc_default; --", "'; SELECT set_config('role', 'postgres', false); --",
	"../../t", "t|u", "t&u", "t~1.0", "a'~1.2", "t~1.2' OR 1=1", "1-0' OR 1=1", "9223372036854775807", "9223372036854775808", "-1", "1e3", "0x10", "1_000", "+1", " 1", "1 ", "\u0661", "NaN", "Infinity",
	"now()", "2000-01-01", "epoch", "1-", "-1-1", "1--1", "1-1;--", ":1' OR 1=1", ":-1", "::text", ":1::bigint", "t::regclass",
}

// fits tells that text is a name, or a number, and so is no injection where that is wanted.
func fits(text, what string) bool {
	switch what {
	case "name":
		return goodName.MatchString(text)
	case "place": // an id, a time, an offset
		return goodPlace.MatchString(text)
	case "event": // where a tail goes on
		return text == "t~1.0"
	}
	return false
}

var (
	goodName  = regexp.MustCompile(`^[A-Za-z0-9_-]{1,128}$`)
	goodPlace = regexp.MustCompile(`^(-1|:?[0-9]{1,19})$`)
)

// inside tells what there is in the database: tables, indexes, schemas, functions, triggers, roles, settings.
func (s *server) inside() string {
	s.t.Helper()
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, s.database)
	if err != nil {
		s.t.Fatal(err)
	}
	defer conn.Close(ctx)
	var all strings.Builder
	ask := func(query string) (rows []string) {
		s.t.Helper()
		got, err := conn.Query(ctx, query)
		if err == nil {
			rows, err = pgx.CollectRows(got, pgx.RowTo[string])
		}
		if err != nil {
			s.t.Fatalf("%s: %v", query, err)
		}
		return rows
	}
	for _, query := range []string{
		`SELECT n.nspname || ' ' || c.relkind::text || ' ' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
			WHERE n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast') ORDER BY 1`,
		`SELECT nspname || ' ' || coalesce(nspacl::text, '') FROM pg_namespace WHERE nspname !~ '^pg_(toast_)?temp_' ORDER BY 1`,
		`SELECT n.nspname || ' ' || p.oid::regprocedure::text || ' ' || md5(p.prosrc) FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
			WHERE n.nspname NOT IN ('pg_catalog', 'information_schema') ORDER BY 1`,
		`SELECT rolname || ' ' || rolsuper::text FROM pg_roles ORDER BY 1`,
		`SELECT tgrelid::regclass::text || ' ' || tgname FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1`,
		`SELECT coalesce(array_to_string(setconfig, ','), '') FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase
			WHERE d.datname = current_database() ORDER BY 1`,
	} {
		fmt.Fprintln(&all, strings.Join(ask(query), "\n"))
	}
	return all.String()
}

// TestInjections: no text is SQL, wherever a name, an id, a token, a time or a number is wanted: it is refused, at once, and tables
// and rows stay as they are. Where any text may be, it is data.
func TestInjections(t *testing.T) {
	t.Parallel()
	s := launch(t, "--workers", "0")
	filled := s.prepare()
	s.call("POST", "/v1/topics/"+bystandersTopic+"/logs", "{}").is(http.StatusCreated)
	inside := s.inside()
	inPath := map[string]string{"GET /v1/topics/%s": "name", "DELETE /v1/topics/%s?force=true": "name", "GET /v1/topics/%s/logs": "name", "GET /v1/topics/t/logs/%s": "place", "GET /v1/topics/%s/live?mode=all": "name",
		"POST /v1/topics/%s/logs": "name", "GET /v1/procs/%s": "name", "DELETE /v1/procs/%s": "name", "POST /v1/procs/%s/claim": "name", "POST /v1/procs/%s/ack": "name", "POST /v1/procs/%s/disable": "name",
		"GET /v1/system-procs/%s": "name", "DELETE /v1/system-procs/%s": "name", "GET /v1/live-procs/%s/changes": "name", "DELETE /v1/live-procs/%s": "name", "POST /v1/live-procs/%s/cancel": "name"}
	inQuery := map[string]string{"/v1/topics?after=%s": "name", "/v1/topics?limit=%s": "place", "/v1/procs?after=%s": "name", "/v1/procs?topic=%s": "name", "/v1/procs?kind=%s": "", "/v1/procs?limit=%s": "place",
		"/v1/system-procs?after=%s": "name", "/v1/topics/t/logs?start=%s": "place", "/v1/topics/t/logs?end=%s": "place", "/v1/topics/t/logs?limit=%s": "place", "/v1/topics/t/logs?direction=%s": "",
		"/v1/topics/t/logs?exclusive=%s": "", "/v1/tail?topic=%s": "name", "/v1/tail?topic=t&start=%s": "place", "/v1/tail?topic=t&lastEventId=%s": "event", "/v1/topics/t/live?mode=%s": "",
		"/v1/topics/t/live?mode=all&count=%s": "place", "/v1/topics/t/live?mode=all&ttl=%s": "place", "/v1/topics/t/live?mode=all&lastEventId=%s": "", "/v1/topics?%s=1": ""}
	inBody := map[string]string{`/v1/commit {"topic":%s,"body":{}}`: "name", `/v1/procs/new/claim {"topic":%s}`: "name", `/v1/procs/new/claim {"topic":"t","offset":%s}`: "place", `/v1/procs/new/claim {"topic":"t","count":%s}`: "",
		`/v1/procs/new/claim {"topic":"t","reclaimTimeout":%s}`: "", `/v1/procs/new/claim {"topic":"t","onMaxReclaimsReached":%s}`: "", `/v1/claims {"procs":[{"name":%s,"topic":"t"}]}`: "name",
		`/v1/procs/p/ack {"token":%s}`: "", `/v1/procs/p/ack-commit {"token":%s,"logs":{"topic":"t","body":{}}}`: "", `/v1/procs/p/ack-commit {"logs":{"topic":%s,"body":{}}}`: "name", `/v1/procs/p/reclaim {"token":%s}`: "",
		`/v1/procs/p/extend {"token":%s}`: "", `/v1/procs/p/seek {"offset":%s}`: "place", `/v1/wait {"procs":[%s],"timeout":0}`: "name", `/v1/wait {"upTo":{%s:"1-0"},"timeout":0}`: "name",
		`/v1/wait {"upTo":{"p":%s},"timeout":0}`: "place", `/v1/live-procs {"topic":%s,"mode":"all"}`: "name", `/v1/live-procs {"topic":"t","mode":%s}`: "", `/v1/stream-tickets {"path":%s}`: "",
		`/v1/system-procs {"name":%s,"from":"t","processor":"http://processor.example/"}`:                             "name",
		`/v1/system-procs {"name":"n","from":%s,"processor":"http://processor.example/"}`:                             "name",
		`/v1/system-procs {"name":"n","from":["t"],"to":[%s],"processor":"http://processor.example/"}`:                "name",
		`/v1/system-procs {"name":"n","from":"t","offset":%s,"processor":"http://processor.example/"}`:                "place",
		`/v1/system-procs {"name":"n","from":"t","processor":%s}`:                                                     "",
		`/v1/system-procs {"name":"n","from":"t","processor":"http://processor.example/","secret":%s}`:                "",
		`/v1/system-procs {"name":"n","from":"t","processor":{"url":"http://processor.example/","headers":{%s:"v"}}}`: "name",
		`/v1/system-procs/s/rotate-secret {"secret":%s}`:                                                              "",
		filled.Replace(`/v1/procs/LIVEPROC/ack {"token":%s}`):                                                         "",
		`/v1/procs/` + strings.Repeat("x", 129) + `/claim {"topic":%s}`:                                               "",
	}
	s.under(bounds{memory: 96, goroutines: 200}, func() {
		for _, text := range injections {
			for at, what := range inPath {
				if method, path, _ := strings.Cut(at, " "); !fits(text, what) {
					s.refuses(method, fmt.Sprintf(path, url.PathEscape(text)), "")
				}
			}
			for at, what := range inQuery {
				if !fits(text, what) {
					s.refuses("GET", fmt.Sprintf(at, url.QueryEscape(text)), "")
				}
			}
			for at, what := range inBody {
				if path, body, _ := strings.Cut(at, " "); !fits(text, what) {
					s.refuses("POST", path, fmt.Sprintf(body, quoted(text)))
				}
			}
			s.refuses("PUT", "/v1/procs/p2", fmt.Sprintf(`{"topic":%s}`, quoted(text+"'")))
			s.refuses("PATCH", "/v1/procs/p", fmt.Sprintf(`{"count":%s}`, quoted(text)))
			s.refuses("PATCH", "/v1/system-procs/s", fmt.Sprintf(`{"to":%s}`, quoted(text+"'")))
		}
	})
	if diff := cmp.Diff(inside, s.inside()); diff != "" {
		t.Errorf("the database (-before +after):\n%s", diff)
	}

	// What is in a body, and in an idempotency key, is data.
	for i, text := range injections {
		body := `{"a":` + quoted(text) + `,` + quoted(text) + `:1}`
		if strings.Contains(text, "\xbf") {
			body = `{"a":"\ud800"}`
		}
		key := fmt.Sprintf("'; DROP TABLE logs; --%d", i)
		for range 2 {
			status := s.call("POST", "/v1/topics/bodies/logs", body, "Idempotency-Key", strings.ReplaceAll(key, " ", "")).status
			if status >= 300 {
				t.Errorf("%s: %d", body, status)
			}
		}
		var log struct{ Body json.RawMessage }
		if s.get(fmt.Sprintf("/v1/topics/bodies/logs/:%d", i)).is(http.StatusOK).into(&log); string(log.Body) != body {
			t.Errorf("%q came back as %q", body, log.Body)
		}
	}
	if diff := cmp.Diff(inside, s.inside()); diff != "" {
		t.Errorf("the database (-before +after):\n%s", diff)
	}
}

// TestInjectedNamespaces: a namespace that is no plain name is refused at start, by whichever command, before the database is asked
// for anything.
func TestInjectedNamespaces(t *testing.T) {
	t.Parallel()
	s := launch(t)
	s.call("POST", "/v1/topics/t/logs", "{}").is(http.StatusCreated)
	before, inside := s.state(), s.inside()
	names := []string{"a.b", "a b", " a", "a ", "a\"", "\"a\"", "a'", "a;b", "a\"; DROP SCHEMA pipeproc_default CASCADE; --", "default\" CASCADE; --", "default'; DROP TABLE logs; --", "../default", "a/b", "a\\b", "$user",
		"a\nb", "a\tb", "default\n", "a%", "*", "\u0430", "\uff41", "a\u200b", "a,b", "a=b", "a@b", "a:b", "{a}", "(a)", "a--b;", strings.Repeat("x", 49), strings.Repeat("x", 10_000)}
	for _, name := range names {
		for _, command := range [][]string{{}, {"backup", "/tmp/none/backup"}, {"restore", "/tmp/none/backup", "--replace"}} {
			args := append(command, "--database-url", s.database, "--namespace", name)
			if len(command) == 0 {
				args = append(args, "--listen", "127.0.0.1:0", "--unsafe-durability")
			}
			ctx, cancel := context.WithTimeout(context.Background(), limit)
			out, err := exec.CommandContext(ctx, binary(), args...).CombinedOutput()
			cancel()
			if exit, ok := err.(*exec.ExitError); !ok || exit.ExitCode() < 1 || !strings.Contains(string(out), "namespace") || strings.Count(string(out), "\n") > 1 {
				t.Errorf("%q %.100q: %v %.500q", command, name, err, out)
			}
		}
	}
	s.unchanged(before)
	if diff := cmp.Diff(inside, s.inside()); diff != "" {
		t.Errorf("the database (-before +after):\n%s", diff)
	}

	// One that looks like something else is a schema of its own.
	for _, name := range []string{"public", "pg_catalog", "information_schema", "DROP", "a--b", "-", "_", "Default", "0"} {
		other := launchOn(t, s.database, nil, "--namespace", name)
		var topics struct{ Topics []struct{ Name string } }
		if other.get("/v1/topics").is(http.StatusOK).into(&topics); len(topics.Topics) > 0 {
			t.Errorf("the namespace %q holds %v", name, topics)
		}
		if !strings.Contains(s.inside(), "pipeproc_"+name+" r logs\n") {
			t.Errorf("the namespace %q has no schema of its own", name)
		}
	}
	s.unchanged(before)
}
