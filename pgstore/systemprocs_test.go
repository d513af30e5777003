package pgstore_test

import (
	"reflect"
	"testing"

	"pipeproc/api"
	"pipeproc/pgstore/pgtest"
)

// TestClaimJobRepeats: a claim whose answer was lost is answered again under its token, and made only once.
func TestClaimJobRepeats(t *testing.T) {
	t.Parallel()
	s := open(t, pgtest.Database(t))
	ctx := t.Context()
	mustCommit(t, s, logs("t", `[0]`, `[1]`)...)
	if _, _, err := s.CreateSystemProc(ctx, api.SystemProcSpec{Name: "sp", From: api.Names{List: []string{"t"}, Single: true},
		To: api.Names{List: []string{"o"}}, Processor: &api.Processor{URL: "http://example.invalid/"}, ReclaimTimeout: new(int64(-1))}); err != nil {
		t.Fatal(err)
	}
	claim := func(token string) *api.Execution {
		t.Helper()
		e, err := s.ClaimJob(ctx, "sp", token)
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	first := claim("one")
	if first == nil || first.Claim.Token != "one" || first.WebhookID == "" || first.To[0] != "o" || first.Processor.URL == "" {
		t.Fatalf("claimed %+v", first)
	}
	if repeat := claim("one"); !reflect.DeepEqual(first, repeat) {
		t.Errorf("claimed %+v, and the repeat %+v", first, repeat)
	}
	if other := claim("two"); other != nil {
		t.Errorf("claimed twice: %+v", other)
	}
	if _, err := s.AckJob(ctx, "sp", "one", nil, false); err != nil {
		t.Fatal(err)
	}
	if again := claim("one"); again != nil {
		t.Errorf("a token is used twice: %+v", again)
	}
	if next := claim("two"); next == nil || next.WebhookID == first.WebhookID || string(next.Logs[0].Body) != `[1]` {
		t.Errorf("the next claim: %+v", next)
	}
}
