package httpapi

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"pipeproc/api"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type ctx = context.Context

// The doubles embed the role, nil: a call that a test does not expect panics, and is seen as a 500.

type logs struct {
	api.Logs
	commit  func([]api.NewLog, *api.IdempotencyKey) (api.Committed, error)
	rng     func(string, api.RangeQuery) (api.Page, error)
	resolve func(string, api.RangeQuery) (api.Run, error)
	read    func(ctx context.Context, run api.Run, size int, visit func(api.ID, []byte)) error
	log     func(string, api.Bound) (api.Log, error)
}

func (d logs) Commit(_ context.Context, l []api.NewLog, k *api.IdempotencyKey) (api.Committed, error) {
	return d.commit(l, k)
}
func (d logs) Range(_ context.Context, topic string, q api.RangeQuery) (api.Page, error) {
	return d.rng(topic, q)
}
func (d logs) Resolve(_ context.Context, topic string, q api.RangeQuery) (api.Run, error) {
	return d.resolve(topic, q)
}
func (d logs) ReadRun(ctx context.Context, run api.Run, size int, visit func(api.ID, []byte)) error {
	return d.read(ctx, run, size, visit)
}
func (d logs) Log(_ context.Context, topic string, at api.Bound) (api.Log, error) {
	return d.log(topic, at)
}

type topics struct {
	topic  func(string) (api.Topic, error)
	list   func(after string, limit int) (api.TopicList, error)
	remove func(string, bool) error
}

func (d topics) Topic(_ context.Context, name string) (api.Topic, error) { return d.topic(name) }
func (d topics) Topics(_ context.Context, after string, limit int) (api.TopicList, error) {
	return d.list(after, limit)
}
func (d topics) DeleteTopic(_ context.Context, name string, force bool) error {
	return d.remove(name, force)
}

type procs struct {
	claim    func(context.Context, string, api.ClaimRequest) (*api.Claimed, error)
	claimAny func(context.Context, api.ClaimAnyRequest) (*api.Claimed, error)
	undo     func(ctx context.Context, proc, token string) error
	ack      func(string, api.AckRequest) (api.Acked, error)
	reclaim  func(proc, token string) (api.Range, error)
	extend   func(proc, token string) (api.Claim, error)
	seek     func(string, api.Offset) (api.Proc, error)
	list     func(api.ProcQuery) (api.ProcList, error)
	create   func(string, api.ProcOptions) (api.Proc, bool, error)
	patch    func(string, api.ProcPatch) (api.Proc, error)
	one      func(what, name string) (api.Proc, error) // proc, destroy, disable, resume
	wait     func(api.WaitRequest) (api.Waited, error)
}

func (d procs) Claim(ctx context.Context, proc string, req api.ClaimRequest) (*api.Claimed, error) {
	return d.claim(ctx, proc, req)
}
func (d procs) ClaimAny(ctx context.Context, req api.ClaimAnyRequest) (*api.Claimed, error) {
	return d.claimAny(ctx, req)
}
func (d procs) UndoClaim(ctx context.Context, proc, token string) error {
	return d.undo(ctx, proc, token)
}
func (d procs) Ack(_ context.Context, proc string, req api.AckRequest) (api.Acked, error) {
	return d.ack(proc, req)
}
func (d procs) Reclaim(_ context.Context, proc, token string) (api.Range, error) {
	return d.reclaim(proc, token)
}
func (d procs) Extend(_ context.Context, proc, token string) (api.Claim, error) {
	return d.extend(proc, token)
}
func (d procs) Seek(_ context.Context, proc string, o api.Offset) (api.Proc, error) {
	return d.seek(proc, o)
}
func (d procs) Proc(_ context.Context, name string) (api.Proc, error)          { return d.one("proc", name) }
func (d procs) Procs(_ context.Context, q api.ProcQuery) (api.ProcList, error) { return d.list(q) }
func (d procs) DestroyProc(_ context.Context, name string) (api.Proc, error) {
	return d.one("destroy", name)
}
func (d procs) DisableProc(_ context.Context, name string) (api.Proc, error) {
	return d.one("disable", name)
}
func (d procs) ResumeProc(_ context.Context, name string) (api.Proc, error) {
	return d.one("resume", name)
}
func (d procs) Wait(_ context.Context, req api.WaitRequest) (api.Waited, error) { return d.wait(req) }
func (d procs) PatchProc(_ context.Context, n string, p api.ProcPatch) (api.Proc, error) {
	return d.patch(n, p)
}
func (d procs) CreateProc(_ context.Context, n string, o api.ProcOptions) (api.Proc, bool, error) {
	return d.create(n, o)
}

type systemProcs struct {
	create func(api.SystemProcSpec) (api.SystemProcMade, bool, error)
	rotate func(string, api.SecretRotation) (api.RotatedSecret, error)
	list   func(after string, limit int) (api.SystemProcList, error)
	patch  func(string, api.SystemProcPatch) (api.SystemProc, error)
	one    func(what, name string) (api.SystemProc, error)
}

func (d systemProcs) CreateSystemProc(_ context.Context, s api.SystemProcSpec) (api.SystemProcMade, bool, error) {
	return d.create(s)
}
func (d systemProcs) RotateSecret(_ context.Context, n string, r api.SecretRotation) (api.RotatedSecret, error) {
	return d.rotate(n, r)
}
func (d systemProcs) SystemProc(_ context.Context, n string) (api.SystemProc, error) {
	return d.one("get", n)
}
func (d systemProcs) SystemProcs(_ context.Context, after string, limit int) (api.SystemProcList, error) {
	return d.list(after, limit)
}
func (d systemProcs) PatchSystemProc(_ context.Context, n string, p api.SystemProcPatch) (api.SystemProc, error) {
	return d.patch(n, p)
}
func (d systemProcs) DestroySystemProc(_ context.Context, n string) (api.SystemProc, error) {
	return d.one("destroy", n)
}

type liveProcs struct {
	api.LiveProcs
	create func(api.LiveProcSpec) (api.Proc, error)
	one    func(what, name string) (api.Proc, error)
}

func (d liveProcs) CreateLiveProc(_ context.Context, s api.LiveProcSpec) (api.Proc, error) {
	return d.create(s)
}
func (d liveProcs) CancelLiveProc(_ context.Context, n string) (api.Proc, error) {
	return d.one("cancel", n)
}
func (d liveProcs) DestroyLiveProc(_ context.Context, n string) (api.Proc, error) {
	return d.one("destroy", n)
}

type collector struct {
	api.Collector
	collect func(int64) (api.GCRun, error)
	last    func() (api.GCRun, error)
}

func (d collector) Collect(_ context.Context, ms int64) (api.GCRun, error) { return d.collect(ms) }
func (d collector) LastCollect(context.Context) (api.GCRun, error)         { return d.last() }

type health func(context.Context) error

func (d health) Ready(ctx context.Context) error { return d(ctx) }

type streams func(what string, w http.ResponseWriter, r *http.Request) error

func (d streams) Changes(w http.ResponseWriter, r *http.Request) error { return d("changes", w, r) }
func (d streams) Live(w http.ResponseWriter, r *http.Request) error    { return d("live", w, r) }
func (d streams) Tail(w http.ResponseWriter, r *http.Request) error    { return d("tail", w, r) }
func (d streams) Admit(*http.Request) (func(), error)                  { return func() {}, nil }

// answered is what a request was answered.
type answered struct {
	status int
	header http.Header
	body   string
}

// code is the problem's; the rest of the problem is checked on the way.
func (a answered) code(t *testing.T) api.Code {
	t.Helper()
	var p problem
	if err := json.Unmarshal([]byte(a.body), &p); err != nil {
		t.Fatalf("%d: not a problem: %v: %q", a.status, err, a.body)
	}
	if got := a.header.Get("Content-Type"); got != "application/problem+json" {
		t.Errorf("a problem has Content-Type %q", got)
	}
	if p.Type != "urn:pipeproc:problem:"+string(p.Code) || p.Title == "" || p.Detail == "" || p.Status != a.status {
		t.Errorf("status %d with the problem %+v", a.status, p)
	}
	return p.Code
}

// request makes a request without a server. headers are "Name: value"; a body is JSON unless they say otherwise.
func request(method, path, body string, headers ...string) *http.Request {
	var reader io.Reader
	if body != "" {
		reader = strings.NewReader(body)
	}
	r := httptest.NewRequest(method, path, reader)
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		if name == "Content-Type" {
			r.Header.Del(name)
		}
		if value != "" {
			r.Header.Add(name, value)
		}
	}
	return r
}

// do answers r; every answer is checked for what they have in common.
func do(t *testing.T, s http.Handler, r *http.Request) answered {
	t.Helper()
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	if got := w.Header().Get("Cache-Control"); got != "no-store" {
		t.Errorf("%s %s: Cache-Control %q", r.Method, r.URL, got)
	}
	return answered{w.Code, w.Header(), w.Body.String()}
}

func call(t *testing.T, s http.Handler, method, path, body string, headers ...string) answered {
	t.Helper()
	return do(t, s, request(method, path, body, headers...))
}

// wants fails unless a is that status and JSON, compared as JSON and to the byte where want says so.
func (a answered) wants(t *testing.T, status int, body string) {
	t.Helper()
	if a.status != status {
		t.Errorf("status %d, want %d: %s", a.status, status, a.body)
	}
	if diff := cmp.Diff(body, strings.TrimSuffix(a.body, "\n")); diff != "" {
		t.Errorf("body (-want +got):\n%s", diff)
	}
}

func (a answered) wantsProblem(t *testing.T, status int, code api.Code) {
	t.Helper()
	if got := a.code(t); got != code || a.status != status {
		t.Errorf("%d %s, want %d %s: %s", a.status, got, status, code, a.body)
	}
}

func id(ts, seq int64) api.ID { return api.ID{TS: ts, Seq: seq} }

// claimed is a claim of proc p on topic t.
func claimed(bodies ...string) *api.Claimed {
	c := &api.Claimed{Proc: "p", Topic: "t", Claim: api.Claim{Token: "tok", Attempt: 1, ExpiresAt: new(int64(99)),
		Range: api.NewRange(id(5, 0), id(5, int64(len(bodies)-1)))}}
	for i, b := range bodies {
		c.Logs = append(c.Logs, api.Log{ID: id(5, int64(i)), Body: json.RawMessage(b)})
	}
	return c
}
