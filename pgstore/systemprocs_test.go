package pgstore_test

import (
	"reflect"
	"regexp"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"pipeproc/api"
	"pipeproc/pgstore"
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

// mustCreateSystemProc makes a systemProc of topic t.
func mustCreateSystemProc(tb testing.TB, s *pgstore.Store, name string, p api.Processor) {
	tb.Helper()
	_, _, err := s.CreateSystemProc(tb.Context(), api.SystemProcSpec{Name: name, From: api.Names{List: []string{"t"}, Single: true}, Processor: &p})
	if err != nil {
		tb.Fatal(err)
	}
}

// TestRunnableJobs: the procs that can be claimed now, the least recently claimed first, and when the clock brings another.
func TestRunnableJobs(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	s, _ := openWith(t, pgstore.Config{URL: url})
	conn := outsider(t, url)
	ctx := t.Context()
	want := func(limit int, inline bool, earliest, latest int64, names ...string) {
		t.Helper()
		got, next, err := s.RunnableJobs(ctx, limit, inline)
		if err != nil || !slices.Equal(got, names) || next < earliest || next > latest {
			t.Errorf("limit %d, inline %v: %q, next %d, %v; want %q, next %d to %d", limit, inline, got, next, err, names, earliest, latest)
		}
	}
	want(10, true, -1, -1)
	mustCommit(t, s, logs("t", `[0]`)...)
	for _, name := range []string{"a", "b", "c", "d", "e"} {
		mustCreateSystemProc(t, s, name, api.Processor{URL: "http://example.invalid/"})
	}
	want(10, true, -1, -1, "a", "b", "c", "d", "e")
	want(3, false, -1, -1, "a", "b", "c")

	claim := func(name string) *api.Execution {
		t.Helper()
		e, err := s.ClaimJob(ctx, name, "token of "+name)
		if err != nil || e == nil {
			t.Fatal(e, err)
		}
		return e
	}
	claim("a")
	want(10, false, 9_000, 10_000, "b", "c", "d", "e") // a's claim times out
	claim("b")
	if err := s.FailJob(ctx, "b", "token of b", api.Failure{RetryAfter: 5_000}); err != nil {
		t.Fatal(err)
	}
	want(2, false, 4_000, 5_000, "c", "d")
	if err := s.UndoJob(ctx, "c", claim("c").Claim.Token); err != nil {
		t.Fatal(err)
	}
	if _, err := s.AckJob(ctx, "d", claim("d").Claim.Token, nil, false); err != nil {
		t.Fatal(err)
	}
	if _, err := s.DisableProc(ctx, "e"); err != nil {
		t.Fatal(err)
	}
	want(10, false, 4_000, 5_000, "c")
	mustExec(t, conn, "UPDATE pipeproc_default.procs SET reclaim_timeout = -1, claim_expires_at = NULL WHERE name = 'a'")
	mustExec(t, conn, "UPDATE pipeproc_default.procs SET next_attempt_at = 1, last_claimed_at = last_claimed_at + 100000 WHERE name = 'b'")
	mustCreateSystemProc(t, s, "f", api.Processor{URL: "http://example.invalid/"})
	want(10, false, -1, -1, "f", "c", "b") // the last one was claimed last
}

// TestRunnableJobsInline: functions are for servers that run them, however they are defined, and as soon as they are.
func TestRunnableJobsInline(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	s, _ := openWith(t, pgstore.Config{URL: url})
	ctx := t.Context()
	mustCommit(t, s, logs("t", `[0]`)...)
	const hook = "http://example.invalid/?\"processor\":{\"inline\":"
	mustCreateSystemProc(t, s, "bare", api.Processor{URL: hook, Bare: true})
	mustCreateSystemProc(t, s, "url", api.Processor{URL: hook})
	mustCreateSystemProc(t, s, "url_full", api.Processor{URL: hook, Timeout: new(int64(9)),
		Headers: map[string]string{"inline": `"processor":{"inline":`, "processor": `"inline":`}})
	mustCreateSystemProc(t, s, "inline", api.Processor{Inline: "() => '\x00\\ud800'"})
	mustCreateSystemProc(t, s, "inline_full", api.Processor{Inline: `() => ({"processor":{"url":1}})`, Timeout: new(int64(9))})
	list := func(inline bool) []string {
		t.Helper()
		names, _, err := s.RunnableJobs(ctx, 10, inline)
		if err != nil {
			t.Fatal(err)
		}
		return names
	}
	if diff := cmp.Diff([]string{"bare", "url", "url_full"}, list(false)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"bare", "url", "url_full", "inline", "inline_full"}, list(true)); diff != "" {
		t.Error(diff)
	}
	for name, p := range map[string]api.Processor{"url": {Inline: "() => 1"}, "inline": {URL: hook}} {
		if _, err := s.PatchSystemProc(ctx, name, api.SystemProcPatch{Processor: &p}); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff([]string{"bare", "url_full", "inline"}, list(false)); diff != "" {
		t.Error(diff)
	}
	// The time-out of a claim that is another server's to make again is not waited for either.
	if e, err := s.ClaimJob(ctx, "url", "one"); err != nil || e == nil {
		t.Fatal(e, err)
	}
	for _, inline := range []bool{false, true} {
		if _, next, err := s.RunnableJobs(ctx, 10, inline); err != nil || next > 0 != inline {
			t.Errorf("inline %v: next %d, %v", inline, next, err)
		}
	}
}

// TestWebhookIDs: the ids of other namespaces are others, though their procs are counted alike, and remain after a restart.
func TestWebhookIDs(t *testing.T) {
	t.Parallel()
	here, there := pgtest.EmptyDatabase(t), pgtest.EmptyDatabase(t)
	id := func(url, namespace string) string {
		t.Helper()
		s, stop := openWith(t, pgstore.Config{URL: url, Namespace: namespace})
		defer stop()
		mustCommit(t, s, logs("t", `[0]`)...)
		mustCreateSystemProc(t, s, "sp", api.Processor{URL: "http://example.invalid/"})
		e, err := s.ClaimJob(t.Context(), "sp", "one")
		if err != nil || e == nil {
			t.Fatal(e, err)
		}
		if !regexp.MustCompile(`^msg_[0-9a-f]{32}_1_0_0_0$`).MatchString(e.WebhookID) {
			t.Errorf("the webhook's id is %q", e.WebhookID)
		}
		return e.WebhookID
	}
	first := id(here, "a")
	for _, at := range [][2]string{{here, "b"}, {there, "a"}} {
		if id(at[0], at[1]) == first {
			t.Errorf("%s twice", first)
		}
	}
	if again := id(here, "a"); again != first {
		t.Errorf("%s, and after a restart %s", first, again)
	}
}
