package pgstore_test

import (
	"fmt"
	"reflect"
	"testing"

	"pipeproc/api"
	"pipeproc/pgstore"
	"pipeproc/pgstore/pgtest"
)

// TestGreatClaims: claims that look at many logs share a batch only as far as its locks bear it, and each gets all of its
// logs. Those of a proc's own count are weighed as those that a request names.
func TestGreatClaims(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	s, _ := openWith(t, pgstore.Config{URL: url})
	conn := outsider(t, url)
	mustCommit(t, s, logs("a", `[]`)...)
	mustExec(t, conn, `WITH t AS (UPDATE pipeproc_default.topics SET head = 10000 WHERE name = 'a' RETURNING *)
		INSERT INTO pipeproc_default.logs (topic_id, seq, ts, body) SELECT id, i, last_ts, '[]' FROM t, generate_series(1, 9999) AS i`)
	claims := func(prefix string, procs int, count *int) (transactions int) {
		for i := range procs {
			if _, _, err := s.CreateProc(t.Context(), fmt.Sprint(prefix, i), api.ProcOptions{Topic: "a", Count: new(10_000)}); err != nil {
				t.Fatal(err)
			}
		}
		st := stall(t, s)
		var answers []<-chan answer[*api.Claimed]
		for i := range procs {
			answers = append(answers, gather(st, func() (*api.Claimed, error) {
				return s.Claim(t.Context(), fmt.Sprint(prefix, i), api.ClaimRequest{ProcOptions: api.ProcOptions{Count: count}})
			}))
		}
		st.release()
		for i, c := range answers {
			if got, err := receive(t, c); err != nil || len(got.Logs) != 10_000 {
				t.Errorf("%s%d: %v", prefix, i, err)
			}
		}
		return queryOne[int](t, conn, "SELECT count(DISTINCT xmin::text) FROM pipeproc_default.procs WHERE name LIKE $1", prefix+"%")
	}
	if n := claims("few", 8, nil); n != 1 {
		t.Errorf("8 claims took %d batches", n)
	}
	for _, count := range []*int{nil, new(10_000)} {
		prefix := fmt.Sprint("many", count != nil)
		if n := claims(prefix, 12, count); n != 2 {
			t.Errorf("12 claims took %d batches, want two halves", n)
		}
	}
}

// TestUnreadableClaimStays: a claim that a stream has sent already is not taken from its client because the next stream
// cannot read its logs.
func TestUnreadableClaimStays(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	s, _ := openWith(t, pgstore.Config{URL: url})
	conn := outsider(t, url)
	mustCommit(t, s, logs("a", `[]`)...)
	p, err := s.CreateLiveProc(t.Context(), api.LiveProcSpec{Topic: "a", Mode: api.ModeAll})
	if err != nil {
		t.Fatal(err)
	}
	stream, _, _, err := s.OpenStream(t.Context(), p.Name, 0)
	if err != nil {
		t.Fatal(err)
	}
	sent, err := s.Turn(t.Context(), stream, "")
	if err != nil || sent.Claimed == nil {
		t.Fatal(sent, err)
	}
	mustExec(t, conn, "ALTER TABLE pipeproc_default.logs RENAME COLUMN body TO hidden")
	if turn, err := s.Turn(t.Context(), stream, ""); err == nil {
		t.Errorf("without bodies: %+v", turn)
	}
	mustExec(t, conn, "ALTER TABLE pipeproc_default.logs RENAME COLUMN hidden TO body")
	again, err := s.Turn(t.Context(), stream, "")
	if err != nil || again.Claimed == nil || again.Claimed.Claim.Token != sent.Claimed.Claim.Token {
		t.Errorf("sent %+v, then %+v %v", sent.Claimed, again.Claimed, err)
	}
}

// TestUnreadableNextStays: what an ack claimed along, and told, is not taken from its client because a repeat of the ack
// cannot read its logs.
func TestUnreadableNextStays(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	s, _ := openWith(t, pgstore.Config{URL: url})
	conn := outsider(t, url)
	mustCommit(t, s, logs("a", `[0]`, `[1]`)...)
	first := claimed(t, s, "p", "a")
	req := api.AckRequest{Token: first.Claim.Token, ClaimNext: true}
	told, err := s.Ack(t.Context(), "p", req)
	if err != nil || told.Next == nil {
		t.Fatal(told, err)
	}
	// Log 1 is there, and its body is an error; what batches read goes on.
	mustExec(t, conn, `SET search_path = pipeproc_default; ALTER TABLE logs RENAME TO readable;
		CREATE VIEW logs AS SELECT topic_id, seq, ts, CASE seq WHEN 1 THEN decode(repeat('x', seq::int), 'hex') ELSE body END AS body
			FROM readable`)
	if again, err := s.Ack(t.Context(), "p", req); api.CodeOf(err) != api.CodeInternal {
		t.Errorf("without bodies: %+v %v", again, err)
	}
	mustExec(t, conn, "DROP VIEW logs; ALTER TABLE readable RENAME TO logs")
	if p, err := s.Proc(t.Context(), "p"); err != nil || p.Claim == nil || p.Claim.Token != told.Next.Claim.Token {
		t.Errorf("told %+v, then %+v %v", told.Next, p.Claim, err)
	}
	again, err := s.Ack(t.Context(), "p", req)
	if err != nil || !reflect.DeepEqual(told, again) {
		t.Errorf("told %+v, again %+v: %v", told, again, err)
	}
}
