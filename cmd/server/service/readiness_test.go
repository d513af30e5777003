package service

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pipeproc/api"
)

type well struct{}

func (well) Ready(context.Context) error { return nil }

// TestStuckLoopIsNotReady holds that a server whose loop is stuck says so, with the loop's name.
func TestStuckLoopIsNotReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sweep, gc := &api.Turns{Name: "sweep", Every: time.Second, Patience: time.Second}, &api.Turns{Name: "gc", Patience: time.Second}
		r := readiness{well{}, &database{}, new(atomic.Bool), []*api.Turns{sweep, gc}}
		sweep.Start()
		gc.Start()
		if err := r.Ready(t.Context()); err != nil {
			t.Error(err)
		}
		gc.Begin()
		time.Sleep(1500 * time.Millisecond)
		if err := r.Ready(t.Context()); api.CodeOf(err) != api.CodeUnavailable || !strings.Contains(err.Error(), `"gc"`) {
			t.Error(err)
		}
		gc.End()
		if err := r.Ready(t.Context()); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Second)
		if err := r.Ready(t.Context()); api.CodeOf(err) != api.CodeUnavailable || !strings.Contains(err.Error(), `"sweep"`) {
			t.Error(err)
		}
	})
}
