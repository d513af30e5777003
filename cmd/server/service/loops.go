package service

import (
	"context"
	"errors"

	"golang.org/x/sync/errgroup"
)

// start starts loops, each of which runs until its context is done. One that ends before that, with an error or
// without, ends the whole server by stop, and the others of its group. end tells them to end, waits until they have,
// and answers what failed.
func start(stop context.CancelCauseFunc, loops ...func(context.Context) error) (end func() error) {
	ctx, cancel := context.WithCancel(context.Background())
	g, ctx := errgroup.WithContext(ctx)
	for _, loop := range loops {
		g.Go(func() error {
			err := loop(ctx)
			if err == nil && ctx.Err() == nil {
				err = errors.New("a loop of the server ended by itself")
			}
			if err != nil {
				stop(err)
			}
			return err
		})
	}
	return func() error {
		cancel()
		return g.Wait()
	}
}
