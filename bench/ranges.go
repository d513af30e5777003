package main

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"time"
)

// wholeRange reads all logs of a topic as lines, against COPY of the same rows to a client.
func wholeRange(ctx context.Context, x *subject) error {
	logs := x.lab.size(1_000_000)
	if err := x.fill(ctx, "bench", 1, logs); err != nil {
		return err
	}
	request := get("/v1/topics/bench0/logs", "Accept: application/x-ndjson")
	read := func(w *wire) error {
		lines := 0
		if err := w.stream(request, 200, func(part []byte) { lines += bytes.Count(part, []byte{'\n'}) }); err != nil {
			return err
		}
		if lines != logs {
			return fmt.Errorf("%d lines instead of %d", lines, logs)
		}
		return nil
	}
	s, err := x.against(ctx, x.copyTo("bench0"), func(ctx context.Context) (figures, error) {
		f, err := x.closed(ctx, x.lab.long(), []worker{read})
		return f.times(logs), err
	})
	if err != nil {
		return err
	}
	x.add(x.name, "logs/s", s, ratioBar(s, 0.35))
	return nil
}

// pages reads pages at random places of a topic of 1 M logs.
func pages(ctx context.Context, x *subject) error {
	const page = 1_000
	logs := x.lab.size(1_000_000)
	if err := x.fill(ctx, "bench", 1, logs); err != nil {
		return err
	}
	workers := each(16, func(i int) worker {
		pick := rand.New(rand.NewPCG(2, uint64(i)))
		return fullPages(page, func() []byte {
			return get(fmt.Sprintf("/v1/topics/bench0/logs?start=:%d&limit=%d", pick.IntN(logs-page), page))
		})
	})
	s, err := x.against(ctx, x.copyTo("bench0"), func(ctx context.Context) (figures, error) {
		f, err := x.closed(ctx, x.lab.long(), workers)
		return f.times(page), err
	})
	if err != nil {
		return err
	}
	x.add(x.name, "logs/s", s, rateBar(s, 400_000, "logs/s"))
	return nil
}

// fullPages is a worker whose every answer is a page of so many logs.
func fullPages(logs int, next func() []byte) worker {
	return func(w *wire) error {
		answer, err := w.do(next(), 200)
		if err != nil {
			return err
		}
		if got := bytes.Count(answer, []byte(`{"id":"`)); got != logs {
			return fmt.Errorf("a page has %d logs instead of %d", got, logs)
		}
		return nil
	}
}

// byTimestamp reads 100 logs from a timestamp on, at random places of a topic of 10 M logs.
func byTimestamp(ctx context.Context, x *subject) error {
	const page = 100
	if err := x.fill(ctx, "bench", 1, x.lab.size(10_000_000)); err != nil {
		return err
	}
	var first, last int64
	if err := x.db.QueryRow(ctx, "SELECT created_at, last_ts FROM topics WHERE name = 'bench0'").Scan(&first, &last); err != nil {
		return err
	}
	workers := each(4, func(i int) worker {
		pick := rand.New(rand.NewPCG(3, uint64(i)))
		return fullPages(page, func() []byte { // the last 10 ms have fewer logs than a page
			return get(fmt.Sprintf("/v1/topics/bench0/logs?start=%d&limit=%d", first+pick.Int64N(last-first-page), page))
		})
	})
	s, err := x.against(ctx, limit{}, func(ctx context.Context) (figures, error) { return x.closed(ctx, x.lab.long(), workers) })
	if err != nil {
		return err
	}
	x.add(x.name+", 4 connections", "ranges/s", s, p99Bar(s, 5*time.Millisecond))
	return nil
}
