package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"time"

	"pipeproc/pgstore/embedded"
)

// What the machine allows, each measured in the same run as what is held against it, right before it.

// limit is one of them, in operations or rows a second.
type limit struct {
	name    string
	measure func(context.Context) (figures, error)
}

// noOp is requests that do nothing, through the server's whole stack.
func (x *subject) noOp(conns int) limit {
	return limit{fmt.Sprintf("no-op HTTP, %s", connections(conns)), func(ctx context.Context) (figures, error) {
		request := get("/healthz")
		return closedLoop(ctx, x.address, x.lab.short(), each(conns, func(int) worker { return repeats(request, 200) }))
	}}
}

func connections(n int) string {
	if n == 1 {
		return "1 connection"
	}
	return fmt.Sprintf("%d connections", n)
}

// limitTable has the form of the table of logs, whatever that is.
const limitTable = `CREATE TABLE IF NOT EXISTS limit_logs (LIKE logs INCLUDING ALL)`

var pgbenchTPS = regexp.MustCompile(`(?m)^tps = ([0-9.]+) \(without initial connection time\)`)

// pgbench is commits of one row each, by prepared statements over the server's own socket, to a table of the logs' form.
func (x *subject) pgbench(clients int) limit {
	return limit{fmt.Sprintf("pgbench, %s", connections(clients)), func(ctx context.Context) (figures, error) {
		if err := x.exec(ctx, limitTable+"; TRUNCATE limit_logs"); err != nil {
			return figures{}, err
		}
		script := filepath.Join(x.lab.dir, "insert.sql")
		if err := os.WriteFile(script, []byte(`\set seq :seq + 1
INSERT INTO "pipeproc_default".limit_logs (topic_id, seq, ts, body) VALUES (:client_id, :seq, :ts, :body);
`), 0o600); err != nil {
			return figures{}, err
		}
		program, err := x.lab.program("pgbench")
		if err != nil {
			return figures{}, err
		}
		seconds := max(1, int(x.lab.short().Seconds()))
		cmd := exec.CommandContext(ctx, program, "--no-vacuum", "--protocol=prepared", "--client="+strconv.Itoa(clients),
			"--jobs="+strconv.Itoa(min(2, clients)), "--time="+strconv.Itoa(seconds), "--file="+script, "--define=seq=0",
			fmt.Sprintf("--define=ts=%d", time.Now().UnixMilli()), "--define=body="+string(body), x.dbURL)
		out, err := cmd.CombinedOutput()
		if err != nil {
			return figures{}, fmt.Errorf("pgbench: %w: %s", err, out)
		}
		tps := pgbenchTPS.FindSubmatch(out)
		if tps == nil {
			return figures{}, fmt.Errorf("pgbench does not tell its rate: %s", out)
		}
		rate, err := strconv.ParseFloat(string(tps[1]), 64)
		return figures{rate: rate}, err
	}}
}

// program finds one of PostgreSQL's own programs: beside its server, else in PATH.
func (l *lab) program(name string) (string, error) {
	dir, _, err := embedded.Find("")
	if err != nil {
		return "", err
	}
	if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
		return path, nil
	}
	return exec.LookPath(name)
}

// copyRows is rows of the same form and bodies that COPY loads from a file of the database's server.
func (x *subject) copyRows() limit {
	return limit{"COPY", func(ctx context.Context) (figures, error) {
		var folder string
		if err := x.db.QueryRow(ctx, "SELECT current_setting('data_directory')").Scan(&folder); err != nil {
			return figures{}, err
		}
		rows, file := x.lab.size(1_000_000), filepath.Join(folder, "bench.copy")
		if _, err := os.Stat(file); err != nil {
			// bytea's escape form is the body as it is: the smaller text.
			if err := x.exec(ctx, fmt.Sprintf(`SET bytea_output = escape; COPY (SELECT 1::bigint, seq, now_ms(), convert_to('%s', 'UTF8')
				FROM generate_series(0, %d::bigint) AS seq) TO '%s'`, body, rows-1, file)); err != nil {
				return figures{}, err
			}
		}
		if err := x.exec(ctx, limitTable+"; TRUNCATE limit_logs"); err != nil {
			return figures{}, err
		}
		begin := time.Now()
		err := x.exec(ctx, fmt.Sprintf("COPY limit_logs (topic_id, seq, ts, body) FROM '%s'", file))
		return figures{rate: float64(rows) / time.Since(begin).Seconds()}, err
	}}
}

// copyTo is the logs of a topic that PostgreSQL sends to a client, in order, binary.
func (x *subject) copyTo(topic string) limit {
	return limit{"COPY TO", func(ctx context.Context) (figures, error) {
		begin := time.Now()
		tag, err := x.db.PgConn().CopyTo(ctx, nowhere{}, fmt.Sprintf(`COPY (SELECT ts, seq, body FROM logs
			WHERE topic_id = (SELECT id FROM topics WHERE name = '%s') ORDER BY seq) TO STDOUT (FORMAT binary)`, topic))
		return figures{rate: float64(tag.RowsAffected()) / time.Since(begin).Seconds()}, err
	}}
}

type nowhere struct{}

func (nowhere) Write(b []byte) (int, error) { return len(b), nil }
