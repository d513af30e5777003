//go:build linux

package chaos

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// figure is something that must not grow for as long as the service runs: the median of the last third of its samples is
// at most 1.25 times that of the second third, and the allowance.
type figure struct {
	name      string
	allowance float64
}

// figures are the columns of the CSV after the first, the seconds since the start. Those of a server are the first
// server's, which lives all the time; how many of its goroutines and descriptors are clients' depends on how many the other
// servers have lost. Idempotency keys are kept for 24 hours, so their table is recorded and may grow.
var figures = []figure{
	{"server_rss_bytes", 64 << 20}, {"server_heap_bytes", 48 << 20}, {"server_goroutines", 400}, {"server_fds", 400},
	{"dead_tuples", 200_000}, {"table_bytes", 128 << 20}, {"logs_bytes", 128 << 20}, {"connections", 20},
}

// recorded beside them, and free to grow.
const keysColumn = "idempotency_keys_bytes"

// soak records the figures every so often, while there is load, until ctx is done.
func (c *cluster) soak(ctx context.Context, file string, every time.Duration) (samples [][]float64, err error) {
	f, err := os.Create(file)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	out := csv.NewWriter(f)
	header := []string{"seconds"}
	for _, one := range figures {
		header = append(header, one.name)
	}
	if err := out.Write(append(header, keysColumn)); err != nil {
		return nil, err
	}
	begun := time.Now()
	for pause(ctx, every) == nil {
		if !c.busy.Load() {
			continue
		}
		sample, err := c.sample(ctx)
		if err != nil { // PostgreSQL is away, or the server stopped
			continue
		}
		row := []string{strconv.Itoa(int(time.Since(begun).Seconds()))}
		for _, v := range sample {
			row = append(row, strconv.FormatFloat(v, 'f', -1, 64))
		}
		samples = append(samples, sample)
		if err := out.Write(row); err != nil {
			return nil, err
		}
		out.Flush()
	}
	return samples, out.Error()
}

func (c *cluster) sample(ctx context.Context) ([]float64, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	text, err := c.replicas[0].metrics(ctx)
	if err != nil {
		return nil, err
	}
	var sample []float64
	for _, name := range []string{"process_resident_memory_bytes", "go_memstats_heap_inuse_bytes", "go_goroutines", "process_open_fds"} {
		_, rest, found := strings.Cut(text, "\n"+name+" ")
		value, _, _ := strings.Cut(rest, "\n")
		v, err := strconv.ParseFloat(value, 64)
		if !found || err != nil {
			return nil, fmt.Errorf("no %s among the metrics", name)
		}
		sample = append(sample, v)
	}
	conn, err := c.postgres.connect(ctx, database)
	if err != nil {
		return nil, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var dead, tables, logs, connections, keys float64
	if err := conn.QueryRow(ctx, `SELECT sum(n_dead_tup), sum(pg_total_relation_size(relid)) FILTER (WHERE relname <> 'idempotency_keys'),
			sum(pg_total_relation_size(relid)) FILTER (WHERE relname = 'logs'),
			(SELECT count(*) FROM pg_stat_activity WHERE usename = $1),
			sum(pg_total_relation_size(relid)) FILTER (WHERE relname = 'idempotency_keys')
		FROM pg_stat_user_tables WHERE schemaname = 'pipeproc_default'`, role).
		Scan(&dead, &tables, &logs, &connections, &keys); err != nil {
		return nil, err
	}
	return append(sample, dead, tables, logs, connections, keys), nil
}

// grown tells which figures have not stayed flat.
func grown(samples [][]float64) error {
	if len(samples) < 9 {
		return fmt.Errorf("%d samples are too few to tell whether anything grows", len(samples))
	}
	third := len(samples) / 3
	var err error
	for i, f := range figures {
		middle, last := median(samples[third:2*third], i), median(samples[2*third:], i)
		if last > 1.25*middle+f.allowance {
			err = errors.Join(err, fmt.Errorf("%s grows: its median went from %.0f to %.0f", f.name, middle, last))
		}
	}
	return err
}

func median(samples [][]float64, column int) float64 {
	var values []float64
	for _, s := range samples {
		values = append(values, s[column])
	}
	slices.Sort(values)
	return values[len(values)/2]
}

// writeFigures prints how the figures went: the medians of the three thirds.
func writeFigures(w io.Writer, samples [][]float64) {
	third := len(samples) / 3
	if third == 0 {
		return
	}
	for i, f := range figures {
		fmt.Fprintf(w, "%-20s %14.0f %14.0f %14.0f\n", f.name, median(samples[:third], i), median(samples[third:2*third], i),
			median(samples[2*third:], i))
	}
}
