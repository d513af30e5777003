package e2e

import (
	"bytes"
	"net/http"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"pipeproc"
	"pipeproc/cmd/server/service"
)

func TestHealth(t *testing.T) {
	t.Parallel()
	w := wireTo(t, start(t))
	for path, want := range map[string]string{"/healthz": `{"status":"ok"}`, "/readyz": `{"status":"ready"}`} {
		if a := w.get(path).is(200); strings.TrimSpace(a.Text) != want || a.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s: %s %s", path, a.Header.Get("Content-Type"), a.Text)
		}
	}
	doc := w.get("/openapi.yaml").is(200)
	if !bytes.Equal([]byte(doc.Text), pipeproc.OpenAPI) || !strings.Contains(doc.Header.Get("Content-Type"), "yaml") {
		t.Errorf("/openapi.yaml: %s, %d bytes", doc.Header.Get("Content-Type"), len(doc.Text))
	}
	w.get("/nope").is(404)
	metrics := w.get("/metrics").is(200)
	if !strings.HasPrefix(metrics.Header.Get("Content-Type"), "text/plain") {
		t.Errorf("/metrics: %s", metrics.Header.Get("Content-Type"))
	}
	for _, line := range []string{
		`pipeproc_http_requests_total{method="GET",route="/healthz",status="200"} 1`,
		`pipeproc_http_problems_total{code="not_found"} 1`,
		"# TYPE pipeproc_http_request_duration_seconds histogram",
		"go_goroutines ",
	} {
		if !strings.Contains(metrics.Text, line) {
			t.Errorf("/metrics does not tell %s", line)
		}
	}
}

func TestShutdownRoute(t *testing.T) {
	t.Parallel()
	without := wireTo(t, start(t))
	without.post("/v1/shutdown", "").isProblem(404, "not_found")
	s := start(t, func(c *service.Config) { c.AllowShutdown = true })
	w := wireTo(t, s)
	w.commit("t", 1)
	if a := w.get("/v1/shutdown").isProblem(405, "method_not_allowed"); a.Header.Get("Allow") != http.MethodPost {
		t.Errorf("Allow is %q", a.Header.Get("Allow"))
	}
	// Who waits is told, and is not left hanging.
	held := w.background("/v1/procs/p/claim", `{"topic":"t","offset":"$>","wait":60000}`)
	w.post("/v1/shutdown", "").is(202).hasExactly("", "status")
	told := w.soon(held)
	if told.isProblem(503, "unavailable"); told.Header.Get("Retry-After") == "" {
		t.Error("a 503 without Retry-After")
	}
	s.Stop() // waits for its end, which must be an orderly one
	after := wireTo(t, startOn(t, s.Database))
	after.get("/v1/topics/t").is(200).has("length", 1)
}

// A fault of the server is told in general words; its cause is for the log alone.
func TestInternal(t *testing.T) {
	t.Parallel()
	s := start(t)
	w := wireTo(t, s)
	w.commit("t", 1)
	s.sql(t, `ALTER TABLE pipeproc_default.logs RENAME TO hidden`)
	for _, path := range []string{"/v1/topics/t/logs", "/v1/topics/t/logs/:0", "/v1/topics"} {
		a := w.get(path).isProblem(500, "internal")
		for _, secret := range []string{"relation", "hidden", "logs\"", "SQLSTATE", "pipeproc_default", "42P01"} {
			if strings.Contains(a.Text, secret) {
				t.Errorf("%s tells %q: %s", path, secret, a.Text)
			}
		}
	}
	s.sql(t, `ALTER TABLE pipeproc_default.hidden RENAME TO logs`)
	w.get("/v1/topics/t/logs").is(200).hasSeqs("logs", 0, 0)
}

// A server on a schema that is not its own is not ready, and says no more than that; it lives all the same.
func TestNotReady(t *testing.T) {
	t.Parallel()
	s := start(t)
	w := wireTo(t, s)
	s.sql(t, `UPDATE pipeproc_default.schema_migrations SET dirty = true`)
	if a := w.get("/readyz").isProblem(503, "unavailable"); a.Header.Get("Retry-After") == "" {
		t.Error("a 503 without Retry-After")
	}
	w.get("/healthz").is(200)
	s.sql(t, `UPDATE pipeproc_default.schema_migrations SET dirty = false`)
	w.get("/readyz").is(200)
}

// sql does something to the server's database behind its back.
func (s *server) sql(t *testing.T, statement string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), s.Database)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if _, err := conn.Exec(t.Context(), statement); err != nil {
		t.Fatal(err)
	}
}
