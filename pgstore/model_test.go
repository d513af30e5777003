package pgstore_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/jackc/pgx/v5"
	"pgregory.net/rapid"

	"pipeproc/api"
	"pipeproc/pgstore"
	"pipeproc/pgstore/pgtest"
)

// modelTime is how long TestModel looks for a disagreement, unless -rapid.checks tells how often.
const modelTime = 45 * time.Second

// TestModel sends random requests to the store and to the model, at a clock that stands still between them, and holds
// every answer, every refusal and what is stored after each step to what the model says.
func TestModel(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	checks, steps := 0, 0
	checkFor(t, modelTime, func(rt *rapid.T) {
		steps += r.check(rt)
		checks++
	})
	t.Logf("%d checks of %d steps", checks, steps)
}

// checkFor checks a property again and again until the time is over; with -rapid.checks, that often.
func checkFor(t *testing.T, limit time.Duration, property func(*rapid.T)) {
	deadline := time.Now().Add(limit)
	flag.Visit(func(f *flag.Flag) {
		if f.Name == "rapid.checks" {
			deadline = time.Time{}
		}
	})
	failed := false
	for once := true; once || time.Now().Before(deadline); once = false {
		rapid.Check(t, func(rt *rapid.T) {
			if !failed && !deadline.IsZero() && time.Now().After(deadline) {
				return
			}
			passed := false
			defer func() { failed = failed || !passed }() // what failed is to be reproduced, whatever the time
			property(rt)
			passed = true
		})
	}
}

// modelStart is the time at which each check begins.
const modelStart = 1_700_000_000_000

// rig is a store beside the model.
type rig struct {
	tb    testing.TB
	store *pgstore.Store
	url   string
	conn  *pgx.Conn // sees the tables as they are
	*model

	tokens    []string         // all that were given out
	bodies    int              // committed so far, which makes each body another one
	big       int              // logs of megabytes that may still be committed
	history   map[string][]row // what was seen of each topic, from seq 0 on
	delivered map[string][]api.ID
	ledger    map[string]int64 // proc → the seq after its last ack; absent until it is known
}

// row is a log in the table.
type row struct {
	seq, ts int64
	digest  string
}

func newRig(tb testing.TB) *rig {
	r := &rig{tb: tb, url: pgtest.Database(tb)}
	pgtest.SetClock(tb, r.url, "default", modelStart)
	r.store = open(tb, r.url)
	r.conn = connect(tb, r.url)
	return r
}

func connect(tb testing.TB, url string) *pgx.Conn {
	tb.Helper()
	conn, err := pgx.Connect(tb.Context(), url)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

// check runs one sequence of steps, on an empty namespace.
func (r *rig) check(t *rapid.T) (steps int) {
	r.reset(t)
	if odds(t, 16, "with big logs") {
		r.big = 6
	}
	actions := map[string]func(*rapid.T){"": func(t *rapid.T) { steps++; r.invariants(t) }}
	for _, a := range []struct {
		weight int
		name   string
		step   func(*rapid.T)
	}{
		{3, "commit", r.stepCommit}, {1, "commit with key", r.stepCommitWithKey},
		{2, "range", r.stepRange}, {1, "log", r.stepLog},
		{1, "create", r.stepCreate}, {6, "claim", r.stepClaim}, {3, "claimAny", r.stepClaimAny},
		{4, "ack", r.stepAck}, {3, "ackCommit", r.stepAckCommit}, {3, "reclaim", r.stepReclaim},
		{1, "extend", r.stepExtend}, {2, "undo", r.stepUndo}, {1, "seek", r.stepSeek}, {1, "patch", r.stepPatch},
		{2, "disable", r.stepDisable}, {3, "resume", r.stepResume}, {1, "destroy", r.stepDestroy},
		{1, "deleteTopic", r.stepDeleteTopic}, {3, "collect", r.stepCollect}, {1, "sweep", r.stepSweep},
		{4, "clock", r.stepClock}, {1, "wait", r.stepWait},
	} {
		for i := range a.weight {
			actions[strings.Repeat(" ", i)+a.name] = a.step
		}
	}
	r.stepCommit(t)
	r.stepCreate(t)
	r.stepCreate(t)
	t.Repeat(actions)
	t.Repeat(actions)
	r.readAll(t)
	r.removeAll(t)
	return steps
}

func (r *rig) reset(t *rapid.T) {
	emptyNamespace(t, r.conn)
	pgtest.SetClock(r.tb, r.url, "default", modelStart)
	r.model = newModel(modelStart)
	r.tokens, r.big = nil, 0
	r.history, r.delivered, r.ledger = map[string][]row{}, map[string][]api.ID{}, map[string]int64{}
}

// emptyNamespace removes everything, also what a failed check has left.
func emptyNamespace(t *rapid.T, conn *pgx.Conn) {
	for _, table := range []string{"topics", "logs", "dropped_topics", "procs", "ack_answers", "idempotency_keys", "gc_runs"} {
		if _, err := conn.Exec(t.Context(), "DELETE FROM pipeproc_default."+table); err != nil {
			t.Fatal(err)
		}
	}
}

// Draws.

var (
	modelTopics = []string{"a", "b", "c"}
	modelProcs  = []string{"p", "q", "r"}
)

// odds is true once in n.
func odds(t *rapid.T, n int, label string) bool { return rapid.IntRange(0, n-1).Draw(t, label) == n-1 }

func pick[T any](t *rapid.T, label string, of ...T) T { return rapid.SampledFrom(of).Draw(t, label) }

// maybe is nil, or one of the values.
func maybe[T any](t *rapid.T, label string, of ...T) *T {
	i := rapid.IntRange(0, len(of)).Draw(t, label) - 1
	if i < 0 {
		return nil
	}
	return &of[i]
}

func (r *rig) drawTopic(t *rapid.T) string { return pick(t, "topic", modelTopics...) }

// drawProc mostly aims at procs in the state that is meant.
func (r *rig) drawProc(t *rapid.T, aim func(*modelProc) bool) string {
	names := modelProcs
	if !odds(t, 5, "any proc") {
		names = slices.DeleteFunc(slices.Clone(names), func(name string) bool { return r.procs[name] == nil || !aim(r.procs[name]) })
	}
	if len(names) == 0 {
		names = modelProcs
	}
	return pick(t, "proc", names...)
}

func anyProc(*modelProc) bool         { return true }
func isClaimed(p *modelProc) bool     { return p.claim != nil }
func isIdle(p *modelProc) bool        { return p.claim == nil && !p.disabled }
func isDisabled(p *modelProc) bool    { return p.disabled }
func isReclaimable(p *modelProc) bool { return p.claim != nil && !p.disabled }

func drawCount(t *rapid.T) *int { return maybe(t, "count", 1, 2, 3, 5) }

// drawBody is JSON that only survives when it is kept byte for byte, and no other log's.
func (r *rig) drawBody(t *rapid.T) json.RawMessage {
	r.bodies++
	if r.big > 0 && odds(t, 2, "big") {
		r.big--
		return json.RawMessage(fmt.Sprintf(`[%d,"%s"]`, r.bodies, strings.Repeat("x", pick(t, "MiB", 3, 5, 9)<<20)))
	}
	return json.RawMessage(fmt.Sprintf(pick(t, "body", `{"n":%d}`, `[%d,1e400,1.0,-0]`, `{"b":%d,"a":[],"a":"\u0000"}`,
		`["\ud800<>&",%d,12345678901234567890]`, `{"ü":"\u00fc %d"}`), r.bodies))
}

func (r *rig) drawLogs(t *rapid.T, most int) []api.NewLog {
	logs := make([]api.NewLog, rapid.IntRange(1, most).Draw(t, "logs"))
	topic := r.drawTopic(t)
	several := rapid.Bool().Draw(t, "several topics")
	for i := range logs {
		if several {
			topic = r.drawTopic(t)
		}
		logs[i] = api.NewLog{Topic: topic, Body: r.drawBody(t)}
	}
	return logs
}

// drawPlace is a bound at or near a log of the topic, or none.
func (r *rig) drawPlace(t *rapid.T, topic string) place {
	p := place{form: pick[byte](t, "form", 0, ':', 't', 'i'), ts: r.now}
	logs := []modelLog{}
	if known := r.topics[topic]; known != nil {
		logs = known.logs
	}
	p.seq = rapid.Int64Range(0, int64(len(logs))).Draw(t, "seq")
	if p.seq < int64(len(logs)) {
		p.ts = logs[p.seq].ts
	}
	if odds(t, 3, "beside") {
		p.seq = max(0, p.seq+rapid.Int64Range(-1, 2).Draw(t, "seq off"))
		p.ts += rapid.Int64Range(-1, 1).Draw(t, "ts off")
	}
	return p
}

// drawOffset is where a proc may start. An id of none of the topic's logs lies at or after the first retained one:
// what follows an id that GC has passed can only be told of those that were given.
func (r *rig) drawOffset(t *rapid.T, topic string) place {
	if rapid.Bool().Draw(t, "plain") {
		return place{form: pick[byte](t, "form", 0, '>', '$')}
	}
	p := r.drawPlace(t, topic)
	if known := r.topics[topic]; p.form == 'i' && known != nil && known.first > 0 && known.before(p) {
		p = place{form: 'i', ts: known.logs[known.first-1].ts, seq: known.first - 1}
	}
	return p
}

func (r *rig) drawOptions(t *rapid.T, name string) modelOptions {
	o := modelOptions{name: name}
	known := r.procs[name]
	if known == nil || odds(t, 4, "another topic") {
		o.Topic = r.drawTopic(t)
	} else {
		o.Topic = known.topic.name
	}
	o.at = r.drawOffset(t, o.Topic)
	o.Offset = o.at.String()
	o.Count = drawCount(t)
	o.MaxReclaims = maybe(t, "maxReclaims", 2, 1, 3, 0, -1)
	o.ReclaimTimeout = maybe[int64](t, "reclaimTimeout", 60, 1, 1_000, -1)
	o.OnMaxReclaimsReached = pick[api.OnMaxReclaims](t, "onMaxReclaimsReached", "", "continue", "disable")
	return o
}

// drawClaimOptions mostly leaves out what a known proc does not need.
func (r *rig) drawClaimOptions(t *rapid.T, name string) modelOptions {
	o := r.drawOptions(t, name)
	if known := r.procs[name]; known != nil && !odds(t, 3, "with topic") || odds(t, 10, "without topic") {
		o.Topic = ""
	}
	if odds(t, 2, "own count") {
		o.Count = nil
	}
	return o
}

// drawToken is the live claim's, the last acked one's, none, or any that was ever given.
func (r *rig) drawToken(t *rapid.T, name string) string {
	tokens := []string{""}
	if p := r.procs[name]; p != nil && p.ack != nil {
		tokens = append(tokens, p.ack.token)
	}
	if len(r.tokens) > 0 && odds(t, 4, "any token") {
		tokens = append(tokens, r.tokens[rapid.IntRange(0, len(r.tokens)-1).Draw(t, "token of")])
	}
	if p := r.procs[name]; p != nil && p.claim != nil {
		tokens = append(tokens, p.claim.token, p.claim.token, p.claim.token)
	}
	slices.Reverse(tokens)
	return tokens[rapid.IntRange(0, len(tokens)-1).Draw(t, "token")]
}

// Comparison.

var asTold = cmp.Options{
	cmp.AllowUnexported(api.Range{}),
	cmp.Comparer(func(a, b json.RawMessage) bool { return bytes.Equal(a, b) }),
	cmpopts.IgnoreFields(api.Proc{}, "ID", "TopicID", "Position", "ClaimCount", "Retry", "AckToken", "AckNext", "Seeks"),
}

func same(t *rapid.T, what string, want, got any) {
	t.Helper()
	if diff := cmp.Diff(want, got, asTold); diff != "" {
		t.Fatalf("%s (-model +store):\n%s", what, clip(diff))
	}
}

func clip(s string) string { return s[:min(len(s), 8_000)] }

// refused compares refusals, and reports whether there was one.
func refused(t *rapid.T, want *api.Error, got error) bool {
	t.Helper()
	if want == nil && got == nil {
		return false
	}
	var e *api.Error
	if want == nil || !errors.As(got, &e) {
		t.Fatalf("the model answers %v, the store %v", want, got)
	}
	same(t, "refusal", want, &api.Error{Code: e.Code, ExpiresAt: e.ExpiresAt, FirstID: e.FirstID})
	return true
}

// answered compares a claim with the model's proc, nil for none, after learning a new claim's token.
func (r *rig) answered(t *rapid.T, p *modelProc, got *api.Claimed) {
	t.Helper()
	if p == nil || got == nil {
		if (p == nil) != (got == nil) {
			t.Fatalf("claim: the model has one: %t, the store: %t", p != nil, got != nil)
		}
		return
	}
	if p.claim.token == "" {
		if token := got.Claim.Token; token == "" || slices.Contains(r.tokens, token) {
			t.Fatalf("token %q is used twice", token)
		}
		p.claim.token = got.Claim.Token
		r.tokens = append(r.tokens, p.claim.token)
	}
	same(t, "claim", p.claimed(), got)
	for _, l := range got.Logs {
		r.delivered[got.Claim.Token] = append(r.delivered[got.Claim.Token], l.ID)
	}
}

// Steps.

func (r *rig) stepCommit(t *rapid.T) {
	logs := r.drawLogs(t, 4)
	got, err := r.store.Commit(t.Context(), logs, nil)
	if !refused(t, nil, err) {
		same(t, "commit", api.Committed{IDs: r.commit(logs)}, got)
		oneTimestamp(t, got.IDs)
	}
}

func oneTimestamp(t *rapid.T, ids []api.ID) {
	for _, id := range ids {
		if id.TS != ids[0].TS {
			t.Fatalf("a commit has several timestamps: %v", ids)
		}
	}
}

func (r *rig) stepCommitWithKey(t *rapid.T) {
	logs := r.drawLogs(t, 2)
	key := &api.IdempotencyKey{Key: pick(t, "key", "k", "l"), Hash: sha256.Sum256([]byte(pick(t, "content", "one", "two")))}
	got, err := r.store.Commit(t.Context(), logs, key)
	want, e := r.commitWithKey(logs, key)
	if !refused(t, e, err) {
		same(t, "commit", want, got)
	}
}

func (r *rig) stepRange(t *rapid.T) {
	topic := r.drawTopic(t)
	start, end := r.drawPlace(t, topic), r.drawPlace(t, topic)
	exclusive, reverse := rapid.Bool().Draw(t, "exclusive"), rapid.Bool().Draw(t, "reverse")
	limit := pick(t, "limit", 1000, 1, 2, 3)
	r.pages(t, topic, start, end, exclusive, reverse, limit)
	r.run(t, topic, start, end, exclusive, reverse, limit)
}

// pages reads all the pages of a range.
func (r *rig) pages(t *rapid.T, topic string, start, end place, exclusive, reverse bool, limit int) {
	for more := true; more; {
		got, err := r.store.Range(t.Context(), topic, api.RangeQuery{Start: bound(t, start), End: bound(t, end), Exclusive: exclusive,
			Reverse: reverse, Limit: limit})
		want, e := r.rangeOf(topic, start, end, exclusive, reverse, limit)
		if refused(t, e, err) {
			return
		}
		same(t, fmt.Sprintf("range of %s from %q to %q", topic, start, end), want, got)
		if more = got.Next != nil; more {
			start = place{form: 'i', ts: got.Next.TS, seq: got.Next.Seq}
		}
	}
}

// run reads the same range as a run, which is as long as the limit.
func (r *rig) run(t *rapid.T, topic string, start, end place, exclusive, reverse bool, limit int) {
	run, err := r.store.Resolve(t.Context(), topic, api.RangeQuery{Start: bound(t, start), End: bound(t, end), Exclusive: exclusive,
		Reverse: reverse, Limit: limit})
	want, e := r.rangeOf(topic, start, end, exclusive, reverse, limit)
	if refused(t, e, err) {
		return
	}
	for next := want.Next; next != nil && len(want.Logs) < limit; { // pages end by size as well, a run does not
		page, _ := r.rangeOf(topic, place{form: 'i', ts: next.TS, seq: next.Seq}, end, exclusive, reverse, limit-len(want.Logs))
		want.Logs, next = append(want.Logs, page.Logs...), page.Next
	}
	logs, size := []api.Log{}, pick(t, "size", 1<<20, 1, 30)
	for run.Len() > 0 {
		before, bytes := len(logs), 0
		if err := r.store.ReadRun(t.Context(), run, size, func(id api.ID, body []byte) {
			logs = append(logs, api.Log{ID: id, Body: slices.Clone(json.RawMessage(body))})
			bytes += len(body)
		}); err != nil {
			t.Fatal(err)
		}
		last := logs[len(logs)-1]
		if run = run.After(last.ID.Seq); len(logs) == before || bytes-len(last.Body) >= size || bytes < size && run.Len() > 0 {
			t.Fatalf("a read of %d bytes answered %d in %d logs, %d are left", size, bytes, len(logs)-before, run.Len())
		}
	}
	same(t, fmt.Sprintf("run of %s from %q to %q", topic, start, end), want.Logs, logs)
}

func bound(t *rapid.T, p place) api.Bound {
	b, err := api.ParseBound(p.String())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (r *rig) stepLog(t *rapid.T) {
	topic := r.drawTopic(t)
	at := r.drawPlace(t, topic)
	if at.form != ':' {
		at.form = 'i'
	}
	got, err := r.store.Log(t.Context(), topic, bound(t, at))
	want, e := r.log(topic, at)
	if !refused(t, e, err) {
		same(t, "log", want, got)
	}
}

func (r *rig) stepCreate(t *rapid.T) {
	name := r.drawProc(t, anyProc)
	o := r.drawOptions(t, name)
	if p := r.procs[name]; p != nil && odds(t, 2, "as it is") {
		o.ProcOptions = api.ProcOptions{Topic: p.topic.name, Offset: p.offset, Count: &p.count, MaxReclaims: &p.maxReclaims,
			ReclaimTimeout: &p.reclaimTimeout, OnMaxReclaimsReached: p.onMaxReclaims}
		o.at = place{form: '>'}
		if p.offset != ">" {
			return
		}
	}
	got, created, err := r.store.CreateProc(t.Context(), name, o.ProcOptions)
	want, wantCreated, e := r.put(name, o)
	if !refused(t, e, err) {
		same(t, "created", wantCreated, created)
		same(t, "proc", want.wire(), got)
	}
	if created {
		delete(r.ledger, name)
	}
}

func (r *rig) stepClaim(t *rapid.T) {
	name := r.drawProc(t, isIdle)
	o := r.drawClaimOptions(t, name)
	got, err := r.store.Claim(t.Context(), name, api.ClaimRequest{ProcOptions: o.ProcOptions})
	want, e := r.claimProc(name, o)
	if !refused(t, e, err) {
		r.answered(t, want, got)
	}
}

func (r *rig) stepClaimAny(t *rapid.T) {
	var req api.ClaimAnyRequest
	var list []modelOptions
	names := rapid.Permutation(modelProcs).Draw(t, "procs")
	for _, name := range names[:rapid.IntRange(1, len(names)).Draw(t, "of them")] {
		o := r.drawClaimOptions(t, name)
		list = append(list, o)
		req.Procs = append(req.Procs, api.NamedProcOptions{Name: name, ProcOptions: o.ProcOptions})
	}
	got, err := r.store.ClaimAny(t.Context(), req)
	want, e := r.claimAny(list)
	if !refused(t, e, err) {
		r.answered(t, want, got)
	}
}

func (r *rig) stepAck(t *rapid.T) { r.acknowledge(t, nil) }

func (r *rig) stepAckCommit(t *rapid.T) { r.acknowledge(t, r.drawLogs(t, 3)) }

func (r *rig) acknowledge(t *rapid.T, logs []api.NewLog) {
	name := r.drawProc(t, isClaimed)
	req := api.AckRequest{Token: r.drawToken(t, name), Logs: logs, One: len(logs) == 1 && rapid.Bool().Draw(t, "one")}
	if req.Token != "" && rapid.Bool().Draw(t, "claimNext") {
		req.ClaimNext, req.Count = true, drawCount(t)
	}
	got, err := r.store.Ack(t.Context(), name, req)
	p, applied, e := r.ack(name, req)
	if refused(t, e, err) {
		return
	}
	if next := p.ack.next; applied && next != nil || got.Next != nil {
		if next == nil || next != p.claim {
			t.Fatalf("ack: the store claims %v, the model nothing", got.Next.Claim)
		}
		r.answered(t, p, got.Next)
	}
	same(t, "ack", p.acknowledged(), got)
	oneTimestamp(t, got.IDs)
	if applied {
		r.account(t, p)
	}
}

// account holds an applied ack to the ledger: it follows the ack before it, and its logs were handed out once, under its
// token.
func (r *rig) account(t *rapid.T, p *modelProc) {
	ids := r.delivered[p.ack.token]
	delete(r.delivered, p.ack.token)
	if len(ids) == 0 {
		t.Fatalf("proc %s: acked a claim that was not delivered, or was acked before", p.name)
	}
	if last, ok := r.ledger[p.name]; ok && ids[0].Seq != last {
		t.Fatalf("proc %s: acked from %v, but the ack before it ended at %d", p.name, ids[0], last)
	}
	r.ledger[p.name] = ids[len(ids)-1].Seq + 1
}

func (r *rig) stepReclaim(t *rapid.T) {
	name := r.drawProc(t, isReclaimable)
	token := r.drawToken(t, name)
	got, err := r.store.Reclaim(t.Context(), name, token)
	want, e := r.reclaim(name, token)
	if !refused(t, e, err) {
		same(t, "lastClaimedRange", want, got)
	}
}

func (r *rig) stepExtend(t *rapid.T) {
	name := r.drawProc(t, isClaimed)
	token := r.drawToken(t, name)
	if token == "" { // a 400, before the store is asked
		token = "none"
	}
	got, err := r.store.Extend(t.Context(), name, token)
	want, e := r.extend(name, token)
	if !refused(t, e, err) {
		same(t, "claim", want, got)
	}
}

func (r *rig) stepUndo(t *rapid.T) {
	name := r.drawProc(t, isClaimed)
	token := r.drawToken(t, name)
	// A proc's row has room for one count: where a claim made with another one stands over a retry that was handed out
	// short of its count, the store cannot tell that count after an undo.
	if p := r.procs[name]; p != nil && p.claim != nil && !p.retry.none() && p.claim.count != p.retryCount &&
		(p.claim.logs == p.retry || p.retry.to-p.retry.from != int64(p.retryCount)) {
		return
	}
	if err := r.store.UndoClaim(t.Context(), name, token); err != nil {
		t.Fatal(err)
	}
	r.undo(name, token)
}

func (r *rig) stepSeek(t *rapid.T) {
	name := r.drawProc(t, isIdle)
	topic := "a"
	if p := r.procs[name]; p != nil {
		topic = p.topic.name
	}
	at := r.drawOffset(t, topic)
	offset, err := api.ParseOffset(at.String())
	if err != nil {
		t.Fatal(err)
	}
	got, err := r.store.Seek(t.Context(), name, offset)
	want, e := r.seek(name, at)
	if !refused(t, e, err) {
		same(t, "proc", want.wire(), got)
		delete(r.ledger, name)
	}
}

func (r *rig) stepPatch(t *rapid.T) {
	name := r.drawProc(t, anyProc)
	o := r.drawOptions(t, name)
	patch := api.ProcPatch{Count: o.Count, MaxReclaims: o.MaxReclaims, ReclaimTimeout: o.ReclaimTimeout, OnMaxReclaimsReached: o.OnMaxReclaimsReached}
	got, err := r.store.PatchProc(t.Context(), name, patch)
	want, e := r.proc(name)
	if !refused(t, e, err) {
		want.patch(patch)
		same(t, "proc", want.wire(), got)
	}
}

func (r *rig) stepDisable(t *rapid.T) {
	name := r.drawProc(t, isReclaimable)
	got, err := r.store.DisableProc(t.Context(), name)
	want, e := r.disable(name)
	if !refused(t, e, err) {
		same(t, "proc", want.wire(), got)
	}
}

func (r *rig) stepResume(t *rapid.T) {
	name := r.drawProc(t, isDisabled)
	got, err := r.store.ResumeProc(t.Context(), name)
	want, e := r.resume(name)
	if !refused(t, e, err) {
		same(t, "proc", want.wire(), got)
	}
}

func (r *rig) stepDestroy(t *rapid.T) {
	if !odds(t, 2, "do it") {
		return
	}
	name := r.drawProc(t, anyProc)
	got, err := r.store.DestroyProc(t.Context(), name)
	want, e := r.destroy(name)
	if !refused(t, e, err) {
		same(t, "proc", want.wire(), got)
		delete(r.ledger, name)
	}
}

func (r *rig) stepDeleteTopic(t *rapid.T) {
	topic, force := r.drawTopic(t), odds(t, 4, "force")
	err := r.store.DeleteTopic(t.Context(), topic, force)
	if !refused(t, r.deleteTopic(topic, force), err) {
		delete(r.history, topic)
		for name := range r.ledger {
			if r.procs[name] == nil {
				delete(r.ledger, name)
			}
		}
	}
}

func (r *rig) stepCollect(t *rapid.T) {
	minPruneTime := pick[int64](t, "minPruneTime", 0, 1, 50, 1_000, 1_000_000)
	before := r.stored(t)
	got, err := r.store.Collect(t.Context(), minPruneTime)
	if !refused(t, nil, err) {
		same(t, "gc", r.collect(minPruneTime), got)
		last, err := r.store.LastCollect(t.Context())
		if !refused(t, nil, err) {
			same(t, "last gc", r.lastGC, last)
		}
		r.nothingLeft(t)
	}
	after := r.stored(t)
	for name, rows := range before {
		for _, l := range rows[:len(rows)-len(after[name])] {
			r.dispensable(t, name, l, minPruneTime)
		}
	}
}

// dispensable holds that GC may have taken a log: it was old enough, and no proc's, disabled or not.
func (r *rig) dispensable(t *rapid.T, topic string, l row, minPruneTime int64) {
	if r.now-l.ts < minPruneTime {
		t.Fatalf("topic %s: log %v was collected before its time", topic, l)
	}
	procs, err := r.store.Procs(t.Context(), api.ProcQuery{Topic: topic, Limit: 100})
	if err != nil {
		t.Fatal(err)
	}
	head := int64(len(r.history[topic]))
	for _, p := range procs.Procs {
		if p.Lag >= head-l.seq || !p.PreviousClaimedRange.IsZero() && p.PreviousClaimedRange.First.Seq <= l.seq {
			t.Fatalf("topic %s: log %v was collected, and proc %s keeps it: %+v", topic, l, p.Name, p)
		}
	}
}

func (r *rig) stepSweep(t *rapid.T) {
	if err := r.store.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.sweep()
	r.nothingLeft(t)
}

// nothingLeft holds that the rows of logs that were given up are gone as well.
func (r *rig) nothingLeft(t *rapid.T) {
	var stale int
	err := r.conn.QueryRow(t.Context(), `SELECT count(*) FROM pipeproc_default.logs AS l WHERE NOT EXISTS
		(SELECT FROM pipeproc_default.topics AS t WHERE t.id = l.topic_id AND l.seq >= t.first)`).Scan(&stale)
	if err != nil || stale > 0 {
		t.Fatalf("%d rows of logs that were given up are left (%v)", stale, err)
	}
}

// stepClock moves the clock, mostly on.
func (r *rig) stepClock(t *rapid.T) {
	by := pick[int64](t, "ms", 1, 30, 100, 1_500, 15_000, 25*60*60*1000, -7, -2_000)
	if by < 0 { // what the clock has shown to be due stays done
		r.stepSweep(t)
	}
	pgtest.SetClock(r.tb, r.url, "default", r.now+by)
	r.setClock(r.now + by)
}

func (r *rig) stepWait(t *rapid.T) {
	var names []string
	if !odds(t, 3, "all") {
		names = rapid.SliceOfNDistinct(rapid.SampledFrom(modelProcs), 1, -1, rapid.ID).Draw(t, "procs")
	}
	got, err := r.store.Wait(t.Context(), api.WaitRequest{Procs: names, Timeout: new(int64)})
	want, e := r.wait(names)
	if !refused(t, e, err) {
		same(t, "lags", want, got)
	}
}

// What holds after each step.

func (r *rig) invariants(t *rapid.T) {
	t.Helper()
	topics, err := r.store.Topics(t.Context(), "", 100)
	if err != nil {
		t.Fatal(err)
	}
	same(t, "topics", api.TopicList{Topics: r.topicsList()}, topics)
	procs, err := r.store.Procs(t.Context(), api.ProcQuery{Limit: 100})
	if err != nil {
		t.Fatal(err)
	}
	same(t, "procs", api.ProcList{Procs: r.procsList("")}, procs)

	stored := r.stored(t)
	retained := map[string][]row{}
	for name, topic := range r.topics {
		for seq := topic.first; seq < topic.head(); seq++ {
			retained[name] = append(retained[name], row{seq, topic.logs[seq].ts, digest(topic.logs[seq].body)})
		}
	}
	if !maps.EqualFunc(retained, stored, slices.Equal) {
		t.Fatalf("retained logs: the model has %v, the store %v", retained, stored)
	}
	for name, rows := range stored {
		r.sound(t, name, rows)
	}
	for _, p := range procs.Procs {
		r.kept(t, p, stored[p.Topic])
	}
}

// stored reads the retained logs of every topic, as the tables have them.
func (r *rig) stored(t *rapid.T) map[string][]row {
	rows, err := r.conn.Query(t.Context(), `SELECT t.name, l.seq, l.ts,
			CASE WHEN octet_length(l.body) < 10000 THEN l.body ELSE convert_to(octet_length(l.body) || ' bytes', 'UTF8') END
		FROM pipeproc_default.topics AS t JOIN pipeproc_default.logs AS l ON l.topic_id = t.id AND l.seq >= t.first
		ORDER BY t.name, l.seq`)
	if err != nil {
		t.Fatal(err)
	}
	stored := map[string][]row{}
	var name string
	var body []byte
	var l row
	if _, err := pgx.ForEachRow(rows, []any{&name, &l.seq, &l.ts, &body}, func() error {
		l.digest = string(body)
		stored[name] = append(stored[name], l)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return stored
}

// digest is a body, or what stands for a big one, which is compared whenever it is read.
func digest(body string) string {
	if len(body) < 10_000 {
		return body
	}
	return fmt.Sprintf("%d bytes", len(body))
}

// sound holds that a topic's logs have no holes, timestamps that never decrease, and are what was seen before, with more
// only at the end.
func (r *rig) sound(t *rapid.T, topic string, rows []row) {
	seen := r.history[topic]
	for i, l := range rows {
		if i > 0 && l.seq != rows[i-1].seq+1 {
			t.Fatalf("topic %s has a hole before %d", topic, l.seq)
		}
		switch {
		case l.seq < int64(len(seen)):
			if seen[l.seq] != l {
				t.Fatalf("topic %s: log %v is now %v", topic, seen[l.seq], l)
			}
			continue
		case l.seq > int64(len(seen)):
			t.Fatalf("topic %s: the logs from %d to %d were never seen", topic, len(seen), l.seq)
		case l.seq > 0 && l.ts < seen[l.seq-1].ts:
			t.Fatalf("topic %s: timestamps decrease at %d", topic, l.seq)
		}
		seen = append(seen, l)
	}
	r.history[topic] = seen
}

// kept holds that every log which a proc has not acked is there.
func (r *rig) kept(t *rapid.T, p api.Proc, rows []row) {
	from, ok := r.ledger[p.Name]
	if head := int64(len(r.history[p.Topic])); ok && from < head && (len(rows) == 0 || rows[0].seq > from) {
		t.Fatalf("proc %s has not acked the logs of topic %s from %d on; some were collected", p.Name, p.Topic, from)
	}
}

// readAll reads everything back, in both directions.
func (r *rig) readAll(t *rapid.T) {
	for _, topic := range modelTopics {
		r.pages(t, topic, place{}, place{}, false, false, 7)
		r.pages(t, topic, place{}, place{}, true, true, 1000)
	}
}

// removeAll destroys everything, of which nothing is to be left.
func (r *rig) removeAll(t *rapid.T) {
	for _, name := range modelProcs {
		_, err := r.store.DestroyProc(t.Context(), name)
		_, e := r.destroy(name)
		refused(t, e, err)
	}
	for _, name := range modelTopics {
		refused(t, r.deleteTopic(name, false), r.store.DeleteTopic(t.Context(), name, false))
	}
	if err := r.store.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, table := range []string{"procs", "topics", "logs", "dropped_topics", "ack_answers"} {
		var n int
		if err := r.conn.QueryRow(t.Context(), "SELECT count(*) FROM pipeproc_default."+table).Scan(&n); err != nil || n > 0 {
			t.Fatalf("%d rows are left in %s (%v)", n, table, err)
		}
	}
}
