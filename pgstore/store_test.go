package pgstore_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sync/errgroup"

	"pipeproc/api"
	"pipeproc/pgstore"
	"pipeproc/pgstore/pgtest"
)

func TestMain(m *testing.M) {
	code := pgtest.Main(m)
	if code == 0 {
		// The container's watchdog, where there is one, lives as long as the process.
		if err := goleak.Find(goleak.IgnoreAnyFunction("github.com/testcontainers/testcontainers-go.(*Reaper).connect.func1")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// open runs a store on the database at url until the test ends.
func open(tb testing.TB, url string) *pgstore.Store {
	tb.Helper()
	s, err := pgstore.Open(tb.Context(), pgstore.Config{URL: url, UnsafeDurability: true, Logger: pgtest.Logger()})
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var g errgroup.Group
	g.Go(func() error { return s.Run(ctx) })
	tb.Cleanup(func() {
		cancel()
		if err := g.Wait(); err != nil {
			tb.Error(err)
		}
		s.Close()
	})
	return s
}

func logs(topic string, bodies ...string) []api.NewLog {
	list := make([]api.NewLog, len(bodies))
	for i, body := range bodies {
		list[i] = api.NewLog{Topic: topic, Body: json.RawMessage(body)}
	}
	return list
}

func TestSmoke(t *testing.T) {
	ctx := t.Context()
	s := open(t, pgtest.Database(t))
	c, err := s.Commit(ctx, logs("a", `{"n":1}`, `{"n":2}`, `{"n":3}`), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Log(c)
	page, err := s.Range(ctx, "a", api.RangeQuery{Limit: 2})
	t.Log(page, err)
	page, err = s.Range(ctx, "a", api.RangeQuery{Limit: 2, Reverse: true})
	t.Log(page, err)
	claimed, err := s.Claim(ctx, "p", api.ClaimRequest{ProcOptions: api.ProcOptions{Topic: "a"}})
	t.Log(claimed, err)
	acked, err := s.Ack(ctx, "p", api.AckRequest{Token: claimed.Claim.Token, ClaimNext: true, Logs: logs("b", `[1]`)})
	t.Log(acked, err)
	acked, err = s.Ack(ctx, "p", api.AckRequest{Token: claimed.Claim.Token, ClaimNext: true, Logs: logs("b", `[1]`)})
	t.Log(acked, err)
	p, err := s.Proc(ctx, "p")
	t.Logf("%+v %v", p, err)
	run, err := s.Collect(ctx, 0)
	t.Log(run, err)
	t.Log(s.Sweep(ctx))
	lp, err := s.CreateLiveProc(ctx, api.LiveProcSpec{Topic: "a", Mode: api.ModeAll})
	t.Log(lp, err)
	st, _, ok, err := s.OpenStream(ctx, lp.Name, 0)
	t.Log(st, ok, err)
	turn, err := s.Turn(ctx, st, "")
	t.Log(turn, turn.Claimed, err)
	sp, created, err := s.CreateSystemProc(ctx, api.SystemProcSpec{Name: "sp", From: api.Names{List: []string{"a"}}, Processor: &api.Processor{URL: "http://x/"}})
	t.Log(sp, created, err)
	names, next, err := s.RunnableJobs(ctx, 10, false)
	t.Log(names, next, err)
	ex, err := s.ClaimJob(ctx, names[0], "t")
	t.Log(ex, err)
	t.Log(s.Seek(ctx, "p", api.Offset{}))
	t.Log(s.Wait(ctx, api.WaitRequest{Timeout: new(int64)}))
	t.Log(s.DeleteTopic(ctx, "a", true))
	t.Log(s.SystemProc(ctx, "sp"))
	t.Log(s.Ready(ctx))
}

// TestEncodings opens the store where PostgreSQL speaks other encodings than UTF-8, as a database in SQL_ASCII does: bodies are
// bytes, and names ASCII.
func TestEncodings(t *testing.T) {
	t.Parallel()
	for _, encoding := range []string{"SQL_ASCII", "LATIN1"} {
		s := open(t, pgtest.Database(t)+"&client_encoding="+encoding)
		const body = `{"ü":"€😀"}`
		mustCommit(t, s, logs("a", body)...)
		page, err := s.Range(t.Context(), "a", api.RangeQuery{Limit: 1})
		if err != nil || len(page.Logs) != 1 || string(page.Logs[0].Body) != body {
			t.Errorf("%s: %v, %v", encoding, page, err)
		}
	}
}
