package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.uber.org/goleak"

	"pipeproc/api"
	"pipeproc/client"
	"pipeproc/client/contracttest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// contract is the document that the canned answers are held to.
var contract = sync.OnceValues(func() (*contracttest.Contract, error) {
	doc, err := os.ReadFile("../openapi.yaml")
	if err != nil {
		return nil, err
	}
	return contracttest.New(doc)
})

// open makes a client of a server that answers with h, and holds the answers to the contract.
func open(t *testing.T, h http.HandlerFunc, options ...client.Option) *client.Client {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	doc, err := contract()
	if err != nil {
		t.Fatal(err)
	}
	base := &http.Transport{}
	t.Cleanup(base.CloseIdleConnections)
	options = append([]client.Option{client.WithHTTPClient(&http.Client{Transport: doc.Transport(base, t.Errorf)})}, options...)
	c, err := client.New(server.URL, options...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// answer writes a JSON answer, or a problem.
func answer(w http.ResponseWriter, status int, body string) {
	w.Header().Set("Cache-Control", "no-store")
	if status >= 400 {
		w.Header().Set("Content-Type", "application/problem+json")
	} else if body != "" {
		w.Header().Set("Content-Type", "application/json")
	}
	w.WriteHeader(status)
	_, _ = io.WriteString(w, body)
}

func problem(status int, code, more string) string {
	return fmt.Sprintf(`{"type":"urn:pipeproc:problem:%s","title":"t","status":%d,"detail":"d","code":%q%s}`, code, status,
		code, more)
}

const (
	procText = `{"name":"p","topic":"t","kind":"proc","status":"active","offset":">","count":1,"createdAt":1,` +
		`"lastClaimedRange":"1-0..1-0","previousClaimedRange":"","lastAckedRange":"","lastClaimedAt":2,` +
		`"lastAckedAt":null,"reclaims":0,"maxReclaims":10,"reclaimTimeout":10000,"onMaxReclaimsReached":"disable","lag":2,` +
		`"claim":` + claimText + `}`
	claimText   = `{"token":"x","range":"1-0..1-0","attempt":1,"expiresAt":9}`
	logsText    = `[{"id":"1-0","body":{"n":1e400,"s":"<\ud800>"}}]`
	claimedText = `{"proc":"p","topic":"t","claim":` + claimText + `,"logs":` + logsText + `}`
	systemText  = `{"name":"s","from":"a","to":["b","c"],"processor":"http://x/","createdAt":1,"procs":[` + procText + `]}`
)

var (
	id0   = api.ID{TS: 1, Seq: 0}
	id1   = api.ID{TS: 1, Seq: 1}
	log0  = api.Log{ID: id0, Body: json.RawMessage(`{"n":1e400,"s":"<\ud800>"}`)}
	claim = api.Claim{Token: "x", Range: api.NewRange(id0, id0), Attempt: 1, ExpiresAt: new(int64(9))}
	proc  = api.Proc{Name: "p", Topic: "t", Kind: api.KindProc, Status: api.StatusActive, Offset: ">", Count: 1, CreatedAt: 1,
		LastClaimedRange: api.NewRange(id0, id0), LastClaimedAt: new(int64(2)), MaxReclaims: 10, ReclaimTimeout: 10000,
		OnMaxReclaimsReached: api.OnMaxDisable, Lag: 2, Claim: &claim}
	claimed = &api.Claimed{Proc: "p", Topic: "t", Claim: claim, Logs: []api.Log{log0}}
	system  = api.SystemProc{Name: "s", From: api.Names{List: []string{"a"}, Single: true}, To: api.Names{List: []string{"b", "c"}},
		Processor: api.Processor{URL: "http://x/", Bare: true}, CreatedAt: 1, Procs: []api.Proc{proc}}
	compare = cmp.Options{cmp.Comparer(func(a, b api.Range) bool { return a == b }), cmpopts.EquateEmpty()}
)

// pair is what a method with two answers gives.
type pair struct{ A, B any }

func two[A, B any](a A, b B, err error) (any, error) { return pair{a, b}, err }
func one[A any](a A, err error) (any, error)         { return a, err }
func none(err error) (any, error)                    { return nil, err }

// Each method sends the documented request, and reads the documented answer.
func TestCalls(t *testing.T) {
	raw := json.RawMessage(`{"a": "<&>"}`)
	log := api.NewLog{Topic: "t", Body: raw}
	const logText = `{"topic":"t","body":{"a":"<&>"}}`
	for _, test := range []struct {
		name    string
		call    func(ctx context.Context, c *client.Client) (any, error)
		request string // method, URL, body, and an Idempotency-Key
		status  int
		answer  string
		want    any
	}{
		{"Commit", func(ctx context.Context, c *client.Client) (any, error) { return one(c.Commit(ctx, log)) },
			"POST /v1/commit " + logText, 201, `{"id":"1-0"}`, client.Committed{ID: id0, IDs: []api.ID{id0}}},
		{"Commit with a key", func(ctx context.Context, c *client.Client) (any, error) {
			return one(c.Commit(ctx, log, client.IdempotencyKey("k")))
		}, "POST /v1/commit " + logText + " k", 200, `{"id":"1-0","duplicate":true}`,
			client.Committed{ID: id0, IDs: []api.ID{id0}, Duplicate: true}},
		{"CommitAll", func(ctx context.Context, c *client.Client) (any, error) {
			return one(c.CommitAll(ctx, []api.NewLog{log, log}))
		}, "POST /v1/commit [" + logText + "," + logText + "]", 201, `{"ids":["1-0","1-1"]}`,
			client.Committed{ID: id0, IDs: []api.ID{id0, id1}}},
		{"CommitAll of nothing", func(ctx context.Context, c *client.Client) (any, error) { return one(c.CommitAll(ctx, nil)) },
			"POST /v1/commit []", 400, problem(400, "invalid_request", ""), api.CodeInvalidRequest},
		{"CommitTo", func(ctx context.Context, c *client.Client) (any, error) {
			return one(c.CommitTo(ctx, "t", raw, client.IdempotencyKey("k")))
		}, `POST /v1/topics/t/logs {"a": "<&>"} k`, 201, `{"id":"1-0"}`,
			client.Committed{ID: id0, IDs: []api.ID{id0}, Location: "/v1/topics/t/logs/1-0"}},
		{"CommitTo of a value", func(ctx context.Context, c *client.Client) (any, error) {
			return one(c.CommitTo(ctx, "t", []string{"<"}))
		}, `POST /v1/topics/t/logs ["<"]`, 201, `{"id":"1-0"}`,
			client.Committed{ID: id0, IDs: []api.ID{id0}, Location: "/v1/topics/t/logs/1-0"}},
		{"Range", func(ctx context.Context, c *client.Client) (any, error) {
			return one(c.Range(ctx, "t", client.RangeOptions{}))
		}, "GET /v1/topics/t/logs", 200, `{"logs":` + logsText + `}`, api.Page{Logs: []api.Log{log0}}},
		{"Revrange", func(ctx context.Context, c *client.Client) (any, error) {
			return one(c.Revrange(ctx, "t", client.RangeOptions{Start: ":5", End: "1-0", Limit: -1, Exclusive: true}))
		}, "GET /v1/topics/t/logs?direction=reverse&end=1-0&exclusive=true&limit=-1&start=%3A5", 200,
			`{"logs":` + logsText + `,"next":"1-1"}`, api.Page{Logs: []api.Log{log0}, Next: &id1}},
		{"Log", func(ctx context.Context, c *client.Client) (any, error) { return one(c.Log(ctx, "t", ":0")) },
			"GET /v1/topics/t/logs/:0", 200, strings.Trim(logsText, "[]"), log0},
		{"Topic", func(ctx context.Context, c *client.Client) (any, error) { return one(c.Topic(ctx, "t")) },
			"GET /v1/topics/t", 200, `{"name":"t","length":0,"committed":3,"firstId":null,"lastId":null,"createdAt":1}`,
			api.Topic{Name: "t", Committed: 3, CreatedAt: 1}},
		{"Length", func(ctx context.Context, c *client.Client) (any, error) { return one(c.Length(ctx, "t")) },
			"GET /v1/topics/t", 200, `{"name":"t","length":2,"committed":3,"firstId":"1-0","lastId":"1-1","createdAt":1}`, int64(2)},
		{"Topics", func(ctx context.Context, c *client.Client) (any, error) {
			return one(c.Topics(ctx, client.ListOptions{After: "a", Limit: 5}))
		}, "GET /v1/topics?after=a&limit=5", 200, `{"topics":[],"next":"z"}`, api.TopicList{Next: "z"}},
		{"DeleteTopic", func(ctx context.Context, c *client.Client) (any, error) { return none(c.DeleteTopic(ctx, "t", true)) },
			"DELETE /v1/topics/t?force=true", 204, "", nil},
		{"DeleteTopic in use", func(ctx context.Context, c *client.Client) (any, error) { return none(c.DeleteTopic(ctx, "t", false)) },
			"DELETE /v1/topics/t", 409, problem(409, "topic_in_use", ""), api.CodeTopicInUse},
		{"Proc", func(ctx context.Context, c *client.Client) (any, error) {
			return one(c.Proc(ctx, "p", api.ClaimRequest{ProcOptions: api.ProcOptions{Topic: "t", Offset: "$>", Count: new(2),
				MaxReclaims: new(-1), ReclaimTimeout: new(int64(5)), OnMaxReclaimsReached: api.OnMaxContinue}, Wait: new(int64(0))}))
		}, `POST /v1/procs/p/claim {"topic":"t","offset":"$>","count":2,"maxReclaims":-1,"reclaimTimeout":5,` +
			`"onMaxReclaimsReached":"continue","wait":0}`, 200, claimedText, claimed},
		{"Proc without work", func(ctx context.Context, c *client.Client) (any, error) {
			return one(c.Proc(ctx, "p", api.ClaimRequest{}))
		}, `POST /v1/procs/p/claim {}`, 204, "", (*api.Claimed)(nil)},
		{"AvailableProc", func(ctx context.Context, c *client.Client) (any, error) {
			return one(c.AvailableProc(ctx, api.ClaimAnyRequest{Procs: []api.NamedProcOptions{{Name: "p",
				ProcOptions: api.ProcOptions{Topic: "t"}}}, Wait: new(int64(7))}))
		}, `POST /v1/claims {"procs":[{"name":"p","topic":"t"}],"wait":7}`, 200, claimedText, claimed},
		{"Ack", func(ctx context.Context, c *client.Client) (any, error) {
			return one(c.Ack(ctx, "p", client.AckOptions{}))
		},
			`POST /v1/procs/p/ack {}`, 200, `{"ackedLogId":"1-0"}`, api.Acked{Acked: "1-0"}},
		{"Ack and no more", func(ctx context.Context, c *client.Client) (any, error) {
			return one(c.Ack(ctx, "p", client.AckOptions{Token: "x", ClaimNext: true, Count: new(3)}))
		}, `POST /v1/procs/p/ack {"token":"x","claimNext":true,"count":3}`, 200, `{"ackedLogId":"1-0..1-1","next":null}`,
			api.Acked{Acked: "1-0..1-1", NextAsked: true}},
		{"AckCommit", func(ctx context.Context, c *client.Client) (any, error) {
			return one(c.AckCommit(ctx, "p", client.AckOptions{Token: "x"}, log))
		}, `POST /v1/procs/p/ack-commit {"token":"x","logs":` + logText + `}`, 200, `{"ackedLogId":"1-0","id":"1-1"}`,
			api.Acked{Acked: "1-0", IDs: []api.ID{id1}, One: true}},
		{"AckCommitAll", func(ctx context.Context, c *client.Client) (any, error) {
			return one(c.AckCommitAll(ctx, "p", client.AckOptions{Token: "x", ClaimNext: true}, []api.NewLog{log}))
		}, `POST /v1/procs/p/ack-commit {"token":"x","claimNext":true,"logs":[` + logText + `]}`, 200,
			`{"ackedLogId":"1-0","ids":["1-1"],"next":{"claim":` + claimText + `,"logs":` + logsText + `}}`,
			api.Acked{Acked: "1-0", IDs: []api.ID{id1}, NextAsked: true,
				Next: &api.Claimed{Proc: "p", Claim: claim, Logs: []api.Log{log0}}}},
		{"AckCommitAll of nothing", func(ctx context.Context, c *client.Client) (any, error) {
			return one(c.AckCommitAll(ctx, "p", client.AckOptions{}, nil))
		}, `POST /v1/procs/p/ack-commit {"logs":[]}`, 400, problem(400, "invalid_request", ""), api.CodeInvalidRequest},
		{"Reclaim", func(ctx context.Context, c *client.Client) (any, error) { return one(c.Reclaim(ctx, "p", "x")) },
			`POST /v1/procs/p/reclaim {"token":"x"}`, 200, `{"lastClaimedRange":""}`, api.Range{}},
		{"Reclaim without a token", func(ctx context.Context, c *client.Client) (any, error) { return one(c.Reclaim(ctx, "p", "")) },
			`POST /v1/procs/p/reclaim {}`, 200, `{"lastClaimedRange":"1-0..1-1"}`, api.NewRange(id0, id1)},
		{"Extend", func(ctx context.Context, c *client.Client) (any, error) { return one(c.Extend(ctx, "p", "x")) },
			`POST /v1/procs/p/extend {"token":"x"}`, 200, `{"claim":` + claimText + `}`, claim},
		{"Seek", func(ctx context.Context, c *client.Client) (any, error) { return one(c.Seek(ctx, "p", ":3")) },
			`POST /v1/procs/p/seek {"offset":":3"}`, 200, procText, proc},
		{"InspectProc", func(ctx context.Context, c *client.Client) (any, error) { return one(c.InspectProc(ctx, "p")) },
			`GET /v1/procs/p`, 200, procText, proc},
		{"InspectProcs", func(ctx context.Context, c *client.Client) (any, error) {
			return one(c.InspectProcs(ctx, api.ProcQuery{Topic: "t", Kind: api.KindLive, After: "a", Limit: 1}))
		}, `GET /v1/procs?after=a&kind=live&limit=1&topic=t`, 200, `{"procs":[` + procText + `],"next":"p"}`,
			api.ProcList{Procs: []api.Proc{proc}, Next: "p"}},
		{"CreateProc", func(ctx context.Context, c *client.Client) (any, error) {
			return two(c.CreateProc(ctx, "p", api.ProcOptions{Topic: "t"}))
		}, `PUT /v1/procs/p {"topic":"t"}`, 201, procText, pair{proc, true}},
		{"CreateProc again", func(ctx context.Context, c *client.Client) (any, error) {
			return two(c.CreateProc(ctx, "p", api.ProcOptions{Topic: "t"}))
		}, `PUT /v1/procs/p {"topic":"t"}`, 200, procText, pair{proc, false}},
		{"PatchProc", func(ctx context.Context, c *client.Client) (any, error) {
			return one(c.PatchProc(ctx, "p", api.ProcPatch{Count: new(2)}))
		}, `PATCH /v1/procs/p {"count":2}`, 200, procText, proc},
		{"DestroyProc", func(ctx context.Context, c *client.Client) (any, error) { return one(c.DestroyProc(ctx, "p")) },
			`DELETE /v1/procs/p`, 200, procText, proc},
		{"DisableProc", func(ctx context.Context, c *client.Client) (any, error) { return one(c.DisableProc(ctx, "p")) },
			`POST /v1/procs/p/disable`, 200, procText, proc},
		{"ResumeProc", func(ctx context.Context, c *client.Client) (any, error) { return one(c.ResumeProc(ctx, "p")) },
			`POST /v1/procs/p/resume`, 200, procText, proc},
		{"WaitForProcs", func(ctx context.Context, c *client.Client) (any, error) {
			return one(c.WaitForProcs(ctx, api.WaitRequest{}))
		}, `POST /v1/wait {}`, 200, `{"done":true,"procs":[{"name":"p","lag":0}]}`,
			api.Waited{Done: true, Procs: []api.ProcLag{{Name: "p"}}}},
		{"WaitForProcs up to a log", func(ctx context.Context, c *client.Client) (any, error) {
			return one(c.WaitForProcs(ctx, api.WaitRequest{UpTo: map[string]api.ID{"p": id1}}))
		}, `POST /v1/wait {"upTo":{"p":"1-1"}}`, 200, `{"done":true,"procs":[{"name":"p","lag":3}]}`,
			api.Waited{Done: true, Procs: []api.ProcLag{{Name: "p", Lag: 3}}}},
		{"WaitForProcs of none", func(ctx context.Context, c *client.Client) (any, error) {
			return one(c.WaitForProcs(ctx, api.WaitRequest{Procs: []string{}, Timeout: new(int64(0))}))
		}, `POST /v1/wait {"procs":[],"timeout":0}`, 400, problem(400, "invalid_request", ""), api.CodeInvalidRequest},
		{"SystemProc", func(ctx context.Context, c *client.Client) (any, error) {
			return two(c.SystemProc(ctx, api.SystemProcSpec{Name: "s", From: api.Names{List: []string{"a"}, Single: true},
				To: api.Names{List: []string{"b"}}, Processor: &api.Processor{URL: "http://x/?a&b", Timeout: new(int64(5))}}))
		}, `POST /v1/system-procs {"name":"s","from":"a","to":["b"],"processor":{"url":"http://x/?a\u0026b","timeout":5}}`, 201,
			`{"procs":[` + procText + `],"secret":"whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}`, pair{api.SystemProcMade{Procs: []api.Proc{proc}, Secret: "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}, true}},
		{"SystemProc with a secret", func(ctx context.Context, c *client.Client) (any, error) {
			return two(c.SystemProc(ctx, api.SystemProcSpec{Name: "s", From: api.Names{List: []string{"a"}},
				Processor: &api.Processor{URL: "http://x/", Bare: true}, Secret: "whsec_BBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBB"}))
		}, `POST /v1/system-procs {"name":"s","from":["a"],"to":[],"processor":"http://x/","secret":"whsec_BBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBB"}`, 200,
			`{"procs":[` + procText + `]}`, pair{api.SystemProcMade{Procs: []api.Proc{proc}}, false}},
		{"RotateSecret", func(ctx context.Context, c *client.Client) (any, error) {
			return one(c.RotateSecret(ctx, "s", api.SecretRotation{}))
		}, `POST /v1/system-procs/s/rotate-secret {}`, 200, `{"secret":"whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA","previousExpiresAt":9}`,
			api.RotatedSecret{Secret: "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", PreviousExpiresAt: new(int64(9))}},
		{"RotateSecret to one", func(ctx context.Context, c *client.Client) (any, error) {
			return one(c.RotateSecret(ctx, "s", api.SecretRotation{Secret: "whsec_BBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBB", Overlap: new(int64(0))}))
		}, `POST /v1/system-procs/s/rotate-secret {"secret":"whsec_BBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBB","overlap":0}`, 200, `{"previousExpiresAt":null}`, api.RotatedSecret{}},
		{"InspectSystemProc", func(ctx context.Context, c *client.Client) (any, error) { return one(c.InspectSystemProc(ctx, "s")) },
			`GET /v1/system-procs/s`, 200, systemText, system},
		{"InspectSystemProcs", func(ctx context.Context, c *client.Client) (any, error) {
			return one(c.InspectSystemProcs(ctx, client.ListOptions{}))
		}, `GET /v1/system-procs`, 200, `{"systemProcs":[` + systemText + `]}`,
			api.SystemProcList{SystemProcs: []api.SystemProc{system}}},
		{"PatchSystemProc", func(ctx context.Context, c *client.Client) (any, error) {
			return one(c.PatchSystemProc(ctx, "s", api.SystemProcPatch{To: &api.Names{}}))
		}, `PATCH /v1/system-procs/s {"to":[]}`, 200, systemText, system},
		{"DestroySystemProc", func(ctx context.Context, c *client.Client) (any, error) { return one(c.DestroySystemProc(ctx, "s")) },
			`DELETE /v1/system-procs/s`, 200, systemText, system},
		{"CancelLiveProc", func(ctx context.Context, c *client.Client) (any, error) { return one(c.CancelLiveProc(ctx, "p")) },
			`POST /v1/live-procs/p/cancel`, 200, procText, proc},
		{"DestroyLiveProc", func(ctx context.Context, c *client.Client) (any, error) { return one(c.DestroyLiveProc(ctx, "p")) },
			`DELETE /v1/live-procs/p`, 200, procText, proc},
		{"GC", func(ctx context.Context, c *client.Client) (any, error) { return one(c.GC(ctx)) },
			`POST /v1/gc`, 200, `{"topics":[{"topic":"t","collected":2,"firstId":"1-0"}]}`,
			api.GCRun{Topics: []api.Collected{{Topic: "t", Collected: 2, FirstID: &id0}}}},
		{"LastGC", func(ctx context.Context, c *client.Client) (any, error) { return one(c.LastGC(ctx)) },
			`GET /v1/gc`, 200, `{"topics":[],"finishedAt":5}`, api.GCRun{FinishedAt: new(int64(5))}},
		{"Healthz", func(ctx context.Context, c *client.Client) (any, error) { return none(c.Healthz(ctx)) },
			`GET /healthz`, 200, `{"status":"ok"}`, nil},
		{"Readyz", func(ctx context.Context, c *client.Client) (any, error) { return none(c.Readyz(ctx)) },
			`GET /readyz`, 200, `{"status":"ready"}`, nil},
		{"Shutdown", func(ctx context.Context, c *client.Client) (any, error) { return none(c.Shutdown(ctx)) },
			`POST /v1/shutdown`, 404, problem(404, "not_found", ""), api.CodeNotFound},
		{"names are escaped", func(ctx context.Context, c *client.Client) (any, error) { return one(c.InspectProc(ctx, "a/b c")) },
			`GET /v1/procs/a%2Fb%20c`, 400, problem(400, "invalid_proc_format", ""), api.CodeInvalidProcFormat},
	} {
		t.Run(test.name, func(t *testing.T) {
			var request string
			c := open(t, func(w http.ResponseWriter, r *http.Request) {
				body, err := io.ReadAll(r.Body)
				if err != nil {
					t.Error(err)
				}
				request = strings.Join(strings.Fields(strings.Join([]string{r.Method, r.RequestURI, string(body),
					r.Header.Get("Idempotency-Key")}, " ")), " ")
				if wantType := r.Header.Get("Content-Type"); (len(body) > 0) != (wantType == "application/json") {
					t.Errorf("%d bytes of %q", len(body), wantType)
				}
				if r.Method == "POST" && strings.HasSuffix(r.URL.Path, "/logs") {
					w.Header().Set("Location", r.URL.Path+"/1-0")
				}
				answer(w, test.status, test.answer)
			})
			got, err := test.call(t.Context(), c)
			if request != test.request {
				t.Errorf("sent\n%s, want\n%s", request, test.request)
			}
			if code, ok := test.want.(api.Code); ok {
				if api.CodeOf(err) != code || client.StatusOf(err) != test.status {
					t.Errorf("%v, want %s", err, code)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got, compare); diff != "" {
				t.Errorf("answer (-want +got):\n%s", diff)
			}
		})
	}
}

// What a problem tells besides its code arrives.
func TestProblems(t *testing.T) {
	for _, test := range []struct {
		status int
		code   string
		more   string
		header string
		want   api.Error
	}{
		{409, "already_claimed", `,"expiresAt":5`, "", api.Error{ExpiresAt: new(int64(5))}},
		{409, "already_claimed", `,"expiresAt":null`, "", api.Error{}},
		{410, "collected", `,"firstId":"1-0"`, "", api.Error{FirstID: &id0}},
		{503, "overloaded", "", "2", api.Error{RetryAfter: 2 * time.Second}},
		{503, "unavailable", "", "1", api.Error{RetryAfter: time.Second}},
	} {
		c := open(t, func(w http.ResponseWriter, _ *http.Request) {
			if test.header != "" {
				w.Header().Set("Retry-After", test.header)
			}
			answer(w, test.status, problem(test.status, test.code, test.more))
		})
		_, err := c.Proc(t.Context(), "p", api.ClaimRequest{})
		var got *api.Error
		if !errors.As(err, &got) {
			t.Fatalf("%s: %v", test.code, err)
		}
		test.want.Code, test.want.Message = api.Code(test.code), "d"
		if diff := cmp.Diff(&test.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.code, diff)
		}
		if client.StatusOf(err) != test.status {
			t.Errorf("%s: status %d", test.code, client.StatusOf(err))
		}
	}
}

// A refusal that is no problem, as a proxy sends it, is an error with its status.
func TestRefusalsThatAreNoProblems(t *testing.T) {
	for name, header := range map[string]string{"a page": "text/html", "half a problem": "application/problem+json"} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", header)
			w.WriteHeader(http.StatusBadGateway)
			_, _ = io.WriteString(w, "<html>")
		}))
		t.Cleanup(server.Close)
		c := plain(t, server.URL)
		_, err := c.Topic(t.Context(), "t")
		if client.StatusOf(err) != http.StatusBadGateway || api.CodeOf(err) != api.CodeInternal {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// plain is a client without a contract.
func plain(t *testing.T, base string, options ...client.Option) *client.Client {
	t.Helper()
	c, err := client.New(base, options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.CloseIdleConnections)
	return c
}

func TestPagesAreFollowed(t *testing.T) {
	var asked []string
	c := open(t, func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.URL.RawQuery)
		switch len(asked) {
		case 1:
			answer(w, 200, `{"logs":[{"id":"1-0","body":[]}],"next":"1-1"}`)
		case 2:
			answer(w, 200, `{"logs":[{"id":"1-1","body":[]}],"next":"1-2"}`)
		default:
			answer(w, 410, problem(410, "collected", `,"firstId":null`))
		}
	})
	var ids []string
	for log, err := range c.RangeAll(t.Context(), "t", client.RangeOptions{Limit: 1}) {
		if err != nil {
			ids = append(ids, string(api.CodeOf(err)))
			continue
		}
		ids = append(ids, log.ID.String())
	}
	if diff := cmp.Diff([]string{"1-0", "1-1", "collected"}, ids); diff != "" {
		t.Errorf("logs (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"limit=1", "limit=1&start=1-1", "limit=1&start=1-2"}, asked); diff != "" {
		t.Errorf("asked (-want +got):\n%s", diff)
	}
}

func TestKeysAreSent(t *testing.T) {
	var given string
	c := open(t, func(w http.ResponseWriter, r *http.Request) {
		given = r.Header.Get("Authorization")
		answer(w, 200, `{"status":"ok"}`)
	}, client.WithToken("secret"))
	if err := c.Healthz(t.Context()); err != nil || given != "Bearer secret" {
		t.Errorf("sent %q, %v", given, err)
	}
}

func TestUnixSockets(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		answer(w, 200, `{"status":"ok"}`)
	}))
	server.Listener.Close()
	server.Listener = l
	server.Start()
	t.Cleanup(server.Close)
	for name, c := range map[string]*client.Client{
		"unix:///": plain(t, "unix://"+socket),
		"unix:/":   plain(t, "unix:"+socket),
		"option":   plain(t, "http://name", client.WithUnixSocket(socket)),
		"both":     plain(t, "unix:"+socket, client.WithHTTPClient(&http.Client{Timeout: time.Minute})),
	} {
		if err := c.Healthz(t.Context()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := client.New("unix:"+socket, client.WithHTTPClient(&http.Client{Transport: http.NewFileTransport(http.Dir("/"))})); err == nil {
		t.Error("a socket under another transport is taken")
	}
}

func TestNewRefusesWhatIsNoBaseURL(t *testing.T) {
	for _, base := range []string{"", "localhost:8080", "ftp://x", "http://", "http://x?a", "http://x#a", "http://\x7f"} {
		if _, err := client.New(base); err == nil {
			t.Errorf("%q is taken", base)
		}
	}
}

// A commit whose connection breaks is not sent again, not even with a key: net/http would by itself.
func TestWritesAreNotRetried(t *testing.T) {
	var asked atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if asked.Add(1) == 1 {
			answer(w, 201, `{"id":"1-0"}`)
			return
		}
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		conn.Close()
	}))
	t.Cleanup(server.Close)
	c := plain(t, server.URL)
	log := api.NewLog{Topic: "t", Body: json.RawMessage(`{}`)}
	if _, err := c.Commit(t.Context(), log, client.IdempotencyKey("k")); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Commit(t.Context(), log, client.IdempotencyKey("k")); err == nil {
		t.Error("the second commit is answered")
	}
	if n := asked.Load(); n != 2 {
		t.Errorf("%d requests, want 2", n)
	}
}

func TestDo(t *testing.T) {
	c := open(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if r.Header.Get("Content-Type") != "text/plain" || string(body) != "x" || r.Method != "POST" {
			t.Errorf("%s %q of %q", r.Method, body, r.Header.Get("Content-Type"))
		}
		answer(w, 415, problem(415, "unsupported_media_type", ""))
	})
	resp, err := c.Do(t.Context(), "POST", "/v1/commit", strings.NewReader("x"), http.Header{"Content-Type": {"text/plain"}})
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := client.ErrorOf(resp); api.CodeOf(err) != api.CodeUnsupportedMedia {
		t.Errorf("%v", err)
	}
}

func TestLogs(t *testing.T) {
	logs, err := client.Logs("t", map[string]string{"a": "<"}, json.RawMessage(`[ ]`))
	if err != nil {
		t.Fatal(err)
	}
	want := []api.NewLog{{Topic: "t", Body: json.RawMessage(`{"a":"<"}`)}, {Topic: "t", Body: json.RawMessage(`[ ]`)}}
	if diff := cmp.Diff(want, logs); diff != "" {
		t.Errorf("logs (-want +got):\n%s", diff)
	}
	if _, err := client.Logs("t", func() {}); err == nil {
		t.Error("a function is taken for a body")
	}
}
