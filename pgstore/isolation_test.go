package pgstore_test

import (
	"fmt"
	"testing"

	"golang.org/x/sync/errgroup"

	"pipeproc/api"
	"pipeproc/pgstore"
	"pipeproc/pgstore/pgtest"
)

// A database whose transactions are serializable by default, as an operator may set a role's: two servers meet each other in
// all that they write, and nothing is refused.
func TestSerializableByDefault(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	conn := outsider(t, url)
	mustExec(t, conn, "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET default_transaction_isolation = serializable', current_database()); END $$")
	a, _ := openWith(t, pgstore.Config{URL: url})
	b, _ := openWith(t, pgstore.Config{URL: url})
	mustCommit(t, a, logs("t", `[0]`)...)
	var streams []api.Stream
	for range 4 {
		streams = append(streams, openStream(t, a, "t"))
	}
	ctx := t.Context()
	var g errgroup.Group
	for i, s := range []*pgstore.Store{a, b} {
		for name, do := range map[string]func(turn int) error{
			"a commit to a new topic": func(turn int) error { // which both reserve
				_, err := s.Commit(ctx, logs(fmt.Sprint("new", turn), `[1]`), nil)
				return err
			},
			"a commit with a key": func(turn int) error {
				_, err := s.Commit(ctx, logs("t", `[1]`), key(fmt.Sprint("k", turn), "", 1))
				return err
			},
			"a claim": func(turn int) error {
				c, err := s.Claim(ctx, "p", api.ClaimRequest{ProcOptions: api.ProcOptions{Topic: "t"}})
				if api.CodeOf(err) == api.CodeAlreadyClaimed || err == nil && c == nil {
					return nil
				}
				if err == nil {
					_, err = s.Ack(ctx, "p", api.AckRequest{Token: c.Claim.Token, Logs: logs("out", `[1]`)})
				}
				return err
			},
			"a new proc": func(turn int) error {
				name := fmt.Sprint("p", i, "-", turn)
				if _, _, err := s.CreateProc(ctx, name, api.ProcOptions{Topic: fmt.Sprint("reserved", turn)}); err != nil {
					return err
				}
				_, err := s.DestroyProc(ctx, name)
				return err
			},
			"the leases": func(int) error { return s.KeepStreams(ctx, streams) },
			"GC": func(int) error {
				_, err := s.Collect(ctx, 0)
				return err
			},
			"the sweep": func(int) error { return s.Sweep(ctx) },
			"a deleted topic": func(turn int) error {
				name := fmt.Sprint("gone", i)
				if _, err := s.Commit(ctx, logs(name, `[1]`), nil); err != nil {
					return err
				}
				return s.DeleteTopic(ctx, name, true)
			},
			"reads": func(int) error {
				if _, err := s.Range(ctx, "t", api.RangeQuery{Limit: 10}); err != nil {
					return err
				}
				_, err := s.Procs(ctx, api.ProcQuery{Limit: 10})
				return err
			},
		} {
			g.Go(func() error {
				for turn := range 30 {
					if err := do(turn); err != nil {
						return fmt.Errorf("%s: %w", name, err)
					}
				}
				return nil
			})
		}
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
}
