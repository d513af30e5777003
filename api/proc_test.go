package api_test

import (
	"testing"

	"pipeproc/api"
)

// TestFail holds what each kind of failure makes of a proc.
func TestFail(t *testing.T) {
	const now, token = 1_000, "t"
	fail := func(on api.OnMaxReclaims, f api.Failure) api.Proc {
		p := api.Proc{Name: "p", Kind: api.KindSystem, Status: api.StatusActive, MaxReclaims: 10, ReclaimTimeout: 10_000, OnMaxReclaimsReached: on,
			Claim: &api.Claim{Token: token, Range: api.NewRange(api.ID{TS: 1}, api.ID{TS: 1})}}
		f.Reason = "why"
		if err := p.Fail(now, token, f); err != nil {
			t.Fatal(err)
		}
		if p.LastError != "why" || p.Claim != nil || p.Retry.IsZero() {
			t.Errorf("%+v: %+v", f, p)
		}
		return p
	}
	for _, tt := range []struct {
		name     string
		on       api.OnMaxReclaims
		f        api.Failure
		status   api.ProcStatus
		reclaims int
		least    int64 // ms until the next attempt
		most     int64
	}{
		{"plain", api.OnMaxDisable, api.Failure{}, api.StatusActive, 1, 0, 100},
		{"plain, continue", api.OnMaxContinue, api.Failure{}, api.StatusActive, 1, 0, 100},
		{"permanent", api.OnMaxDisable, api.Failure{Disable: true}, api.StatusDisabled, 1, 0, 100},
		{"permanent, continue", api.OnMaxContinue, api.Failure{Disable: true}, api.StatusActive, 1, 300_000, 300_000},
		{"gone", api.OnMaxDisable, api.Failure{Gone: true}, api.StatusDisabled, 1, 0, 100},
		{"gone, continue", api.OnMaxContinue, api.Failure{Gone: true}, api.StatusDisabled, 1, 0, 100},
		{"later", api.OnMaxDisable, api.Failure{RetryAfter: api.MaxReclaimTimeout}, api.StatusActive, 0, api.MaxReclaimTimeout, api.MaxReclaimTimeout},
		{"later, continue", api.OnMaxContinue, api.Failure{RetryAfter: 1_000}, api.StatusActive, 0, 1_000, 1_000},
	} {
		p := fail(tt.on, tt.f)
		if p.Status != tt.status || p.Reclaims != tt.reclaims || p.NextAttemptAt == nil || *p.NextAttemptAt < now+tt.least || *p.NextAttemptAt > now+tt.most {
			t.Errorf("%s: %s, %d reclaims, next %v", tt.name, p.Status, p.Reclaims, p.NextAttemptAt)
		}
	}
}
