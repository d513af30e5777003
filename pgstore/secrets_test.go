package pgstore_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"pipeproc/api"
	"pipeproc/pgstore"
	"pipeproc/pgstore/pgtest"
)

// TestSecretsOfExecutions: an execution carries the secrets that sign when it is claimed, by the database's clock.
func TestSecretsOfExecutions(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	s, _ := openWith(t, pgstore.Config{URL: url})
	ctx := t.Context()
	mustCommit(t, s, logs("t", `[0]`, `[1]`, `[2]`, `[3]`, `[4]`)...)
	now := time.Now().UnixMilli()
	pgtest.SetClock(t, url, "default", now)
	spec := api.SystemProcSpec{Name: "sp", From: api.Names{List: []string{"t"}, Single: true}, Processor: &api.Processor{URL: "http://example.invalid/"}}
	made, created, err := s.CreateSystemProc(ctx, spec)
	if err != nil || !created || made.Secret == "" {
		t.Fatalf("%+v, %v, %v", made, created, err)
	}
	signs := func(what string, e *api.Execution, err error, want ...string) {
		t.Helper()
		if err != nil || e == nil {
			t.Fatalf("%s: %v, %v", what, e, err)
		}
		if diff := cmp.Diff(want, e.Secrets); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
	e, err := s.ClaimJob(ctx, "sp", "one")
	signs("the first claim", e, err, made.Secret)

	rotated, err := s.RotateSecret(ctx, "sp", api.SecretRotation{Overlap: new(int64(1_000))})
	if err != nil || rotated.PreviousExpiresAt == nil || *rotated.PreviousExpiresAt != now+1_000 {
		t.Fatalf("%+v, %v", rotated, err)
	}
	e, err = s.AckJob(ctx, "sp", "one", nil, true)
	signs("claimed with an ack", e, err, rotated.Secret, made.Secret)
	repeat, err := s.AckJob(ctx, "sp", "one", nil, true)
	signs("a repeat", repeat, err, rotated.Secret, made.Secret)
	pgtest.SetClock(t, url, "default", now+999)
	e, err = s.AckJob(ctx, "sp", e.Claim.Token, nil, true)
	signs("a millisecond before the end", e, err, rotated.Secret, made.Secret)
	pgtest.SetClock(t, url, "default", now+1_000)
	e, err = s.AckJob(ctx, "sp", e.Claim.Token, nil, true)
	signs("after the overlap", e, err, rotated.Secret)

	// A PATCH leaves the secret alone, and so does the same definition again, its secret given or not.
	if _, err := s.PatchSystemProc(ctx, "sp", api.SystemProcPatch{Count: new(2)}); err != nil {
		t.Fatal(err)
	}
	spec.Count = new(2)
	for _, secret := range []string{"", rotated.Secret} {
		spec.Secret = secret
		if made, created, err := s.CreateSystemProc(ctx, spec); err != nil || created || made.Secret != "" {
			t.Errorf("again: %+v, %v, %v", made, created, err)
		}
	}
	spec.Secret = made.Secret
	_, _, err = s.CreateSystemProc(ctx, spec)
	wantCode(t, err, api.CodeProcOptionsDiffer)
	if text := err.Error(); !strings.Contains(text, "rotate-secret") || strings.Contains(text, "whsec_") {
		t.Errorf("it is told %q", text)
	}
	e, err = s.AckJob(ctx, "sp", e.Claim.Token, nil, true)
	signs("after all that", e, err, rotated.Secret)

	conn := outsider(t, url)
	if kept := queryOne[string](t, conn, "SELECT spec FROM pipeproc_default.system_procs"); strings.Contains(kept, "secret") {
		t.Errorf("the definition holds a secret: %s", kept)
	}
	_, err = s.RotateSecret(ctx, "nobody", api.SecretRotation{})
	wantCode(t, err, api.CodeInvalidSystemProc)
}

// TestRotationsAtOnce: none is lost, on however many servers they come.
func TestRotationsAtOnce(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	stores := []*pgstore.Store{open(t, url), open(t, url)}
	ctx := t.Context()
	mustCommit(t, stores[0], logs("t", `[0]`)...)
	made, _, err := stores[0].CreateSystemProc(ctx, api.SystemProcSpec{Name: "sp", From: api.Names{List: []string{"t"}, Single: true},
		Processor: &api.Processor{URL: "http://example.invalid/"}})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{made.Secret}
	var asked []<-chan answer[api.RotatedSecret]
	for i := range 9 {
		asked = append(asked, async(func() (api.RotatedSecret, error) {
			return stores[i%2].RotateSecret(ctx, "sp", api.SecretRotation{})
		}))
	}
	for _, c := range asked {
		r, err := receive(t, c)
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, r.Secret)
	}
	if _, err := stores[1].RotateSecret(ctx, "sp", api.SecretRotation{}); api.CodeOf(err) != api.CodeInvalidRequest {
		t.Errorf("the eleventh secret: %v", err)
	}
	e, err := stores[0].ClaimJob(ctx, "sp", "one")
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(want)
	got := slices.Sorted(slices.Values(e.Secrets))
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestInlineHasASecret, which nobody is told until a rotation: so a PATCH to a URL has something to sign with.
func TestInlineHasASecret(t *testing.T) {
	t.Parallel()
	s := open(t, pgtest.Database(t))
	ctx := t.Context()
	mustCommit(t, s, logs("t", `[0]`)...)
	made, created, err := s.CreateSystemProc(ctx, api.SystemProcSpec{Name: "sp", From: api.Names{List: []string{"t"}, Single: true},
		Processor: &api.Processor{Inline: "(log, done) => done()"}})
	if err != nil || !created || made.Secret != "" {
		t.Fatalf("%+v, %v, %v", made, created, err)
	}
	if _, err := s.PatchSystemProc(ctx, "sp", api.SystemProcPatch{Processor: &api.Processor{URL: "http://example.invalid/"}}); err != nil {
		t.Fatal(err)
	}
	rotated, err := s.RotateSecret(ctx, "sp", api.SecretRotation{})
	if err != nil || rotated.Secret == "" || rotated.PreviousExpiresAt == nil {
		t.Fatalf("%+v, %v", rotated, err)
	}
	e, err := s.ClaimJob(ctx, "sp", "one")
	if err != nil || len(e.Secrets) != 2 || e.Secrets[0] != rotated.Secret || e.Secrets[1] == rotated.Secret {
		t.Errorf("%+v, %v", e, err)
	}
}
