package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"pipeproc/pgstore/pgtest"
)

// TestLinesTakeConstantMemory reads a million logs in one answer, twice at a time, from a server in a process of its own.
func TestLinesTakeConstantMemory(t *testing.T) {
	if testing.Short() || runtime.GOOS != "linux" {
		t.Skip("it takes a million logs, and asks Linux for the server's memory")
	}
	t.Parallel()
	const logs, most = 1_000_000, raceFactor * (50 << 20)
	dbURL := pgtest.Database(t)
	p := launch(t, nil, "--database-url", dbURL, "--unsafe-durability", "--listen", "127.0.0.1:0", "--workers", "0")
	url := p.url(t)
	commit(t, url, `{"myNumber":0}`)
	conn, err := pgx.Connect(t.Context(), dbURL)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(t.Context(), fmt.Sprintf(`WITH t AS (UPDATE pipeproc_default.topics SET head = %[1]d WHERE name = 'numbers' RETURNING *)
		INSERT INTO pipeproc_default.logs (topic_id, seq, ts, body) SELECT id, i, last_ts, convert_to('{"myNumber":' || i || '}', 'UTF8')
		FROM t, generate_series(1, %[1]d - 1) AS i`, logs)); err != nil {
		t.Fatal(err)
	}
	if err := conn.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if status, answer := call(t, "GET", url, "/v1/topics/numbers/logs?limit=10", ""); status != http.StatusOK {
		t.Fatal(status, answer)
	}

	before := p.memory(t, "VmRSS")
	begun := time.Now()
	done := make(chan error, 2)
	for _, direction := range []string{"forward", "reverse"} {
		go func() { done <- countLines(url+"/v1/topics/numbers/logs?direction="+direction, logs) }()
	}
	for range cap(done) {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	grown := p.memory(t, "VmHWM") - before
	t.Logf("2 × %d logs in %v; the server's memory grew by %.1f MiB", logs, time.Since(begun).Round(time.Millisecond), float64(grown)/(1<<20))
	if grown >= most {
		t.Errorf("it grew by %d bytes", grown)
	}
}

// countLines reads a range as lines.
func countLines(url string, want int) error {
	req, err := http.NewRequest("GET", url, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "application/x-ndjson")
	transport := &http.Transport{DisableKeepAlives: true}
	res, err := transport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	n, buf := 0, make([]byte, 64<<10)
	for {
		read, err := res.Body.Read(buf)
		n += bytes.Count(buf[:read], []byte("\n"))
		if err == io.EOF && n == want {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %d lines of %d: %w", url, n, want, err)
		}
	}
}

// memory is what Linux tells of the process's memory, in bytes.
func (p *process) memory(t *testing.T, name string) (bytes int64) {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			if _, err := fmt.Sscanf(value, "%d kB", &bytes); err != nil {
				t.Fatal(err)
			}
			return bytes << 10
		}
	}
	t.Fatalf("%s is not told", name)
	return 0
}
