package main

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"time"
)

// commitOne is a commit of one log, in its lightest form.
func commitOne(topic string) []byte { return post("/v1/topics/"+topic+"/logs", body) }

// committers is n connections that commit to one topic.
func committers(n int) []worker {
	return each(n, func(int) worker { return repeats(commitOne("bench"), 201) })
}

func commitsToOne(ctx context.Context, x *subject) error {
	s, err := x.against(ctx, x.noOp(64), func(ctx context.Context) (figures, error) {
		return x.closed(ctx, x.lab.long(), committers(64))
	})
	if err != nil {
		return err
	}
	x.add(x.name, "commits/s", s, ratioBar(s, 0.50), p99Bar(s, 10*time.Millisecond))

	// At half of that rate the times say what a client sees that does not queue behind others of its own.
	rate := s.rate() / 2
	at := &series{}
	for range x.lab.rounds {
		f, err := x.open(ctx, x.lab.long(), rate, committers(64))
		if err != nil {
			return err
		}
		at.work = append(at.work, f)
	}
	x.add("single commits, 1 topic, arriving at half that rate", "commits/s", at)
	return nil
}

func commitsToMany(ctx context.Context, x *subject) error {
	requests := make([][]byte, 1_000)
	for i := range requests {
		requests[i] = commitOne(fmt.Sprint("bench", i))
	}
	workers := each(64, func(i int) worker {
		pick := rand.New(rand.NewPCG(1, uint64(i)))
		return func(w *wire) error {
			_, err := w.do(requests[pick.IntN(len(requests))], 201)
			return err
		}
	})
	s, err := x.against(ctx, x.noOp(64), func(ctx context.Context) (figures, error) { return x.closed(ctx, x.lab.long(), workers) })
	if err != nil {
		return err
	}
	x.add(x.name, "commits/s", s, ratioBar(s, 0.40))
	return nil
}

func commitsAlone(ctx context.Context, x *subject) error {
	s, err := x.against(ctx, x.pgbench(1), func(ctx context.Context) (figures, error) {
		return x.closed(ctx, x.lab.long(), committers(1))
	})
	if err != nil {
		return err
	}
	x.add(x.name, "commits/s", s, ratioBar(s, 0.57))
	return nil
}

// batchesOf measures commits of n logs each to one topic.
func batchesOf(n int, least float64) func(context.Context, *subject) error {
	return func(ctx context.Context, x *subject) error {
		log := []byte(`{"topic":"bench","body":` + string(body) + `}`)
		request := post("/v1/commit", fmt.Appendf(nil, "[%s]", bytes.Join(repeated(log, n), []byte(","))))
		workers := each(4, func(int) worker { return repeats(request, 201) })
		s, err := x.against(ctx, x.copyRows(), func(ctx context.Context) (figures, error) {
			f, err := x.closed(ctx, x.lab.long(), workers)
			return f.times(n), err
		})
		if err != nil {
			return err
		}
		x.add(x.name, "logs/s", s, ratioBar(s, least))
		return nil
	}
}

func repeated(b []byte, n int) [][]byte {
	all := make([][]byte, n)
	for i := range all {
		all[i] = b
	}
	return all
}
