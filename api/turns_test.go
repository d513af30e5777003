package api

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, loop := range map[string]*Turns{"periodic": {Name: "periodic", Every: time.Second, Patience: time.Minute},
			"called": {Name: "called", Patience: time.Minute}} {
			turning := func(want bool) {
				t.Helper()
				switch err := loop.Stuck(); {
				case want && err != nil:
					t.Errorf("%s: %v", name, err)
				case !want && (CodeOf(err) != CodeUnavailable || !strings.Contains(err.Error(), name)):
					t.Errorf("%s: %v", name, err)
				}
			}
			time.Sleep(time.Hour)
			turning(true) // it was not started
			loop.Start()
			time.Sleep(time.Minute)
			turning(true)
			time.Sleep(time.Minute)
			turning(loop.Every == 0) // the first turn is late
			loop.Begin()
			turning(true)
			time.Sleep(time.Minute + 1)
			turning(false)
			loop.End()
			turning(true)
			if loop.Last() != time.Now() {
				t.Errorf("%s: the last turn was at %v", name, loop.Last())
			}
			loop.Stop()
			time.Sleep(time.Hour)
			turning(true)
		}
		var nobody *Turns
		nobody.Start()
		nobody.Begin()
		nobody.End()
		nobody.Stop()
	})
}
