package httpapi

import (
	"context"
	"errors"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"pipeproc/api"
)

// procJSON is a fresh proc on the wire: every member, none null that is an array.
const procJSON = `{"name":"p","topic":"t","kind":"proc","status":"active","offset":">","count":1,"createdAt":5,` +
	`"lastClaimedRange":"","previousClaimedRange":"","lastAckedRange":"","lastClaimedAt":null,"lastAckedAt":null,"reclaims":0,` +
	`"maxReclaims":10,"reclaimTimeout":10000,"onMaxReclaimsReached":"disable","lag":0,"claim":null}`

func freshProc(name string) api.Proc {
	p := api.Proc{Name: name, Topic: "t", Kind: api.KindProc, Status: api.StatusActive, CreatedAt: 5, ID: 77, AckToken: "secret"}
	options := api.ProcOptions{Topic: "t"}
	options.Apply(&p)
	return p
}

func TestOneProc(t *testing.T) {
	var got string
	s := New(Config{Procs: procs{one: func(what, name string) (api.Proc, error) {
		got = what + " " + name
		return freshProc(name), nil
	}}})
	for _, c := range []struct{ method, path, want string }{
		{"GET", "/v1/procs/p", "proc p"},
		{"DELETE", "/v1/procs/p", "destroy p"},
		{"POST", "/v1/procs/p/disable", "disable p"},
		{"POST", "/v1/procs/p/resume", "resume p"},
	} {
		call(t, s, c.method, c.path, "").wants(t, 200, procJSON)
		if got != c.want {
			t.Errorf("%s %s: %s", c.method, c.path, got)
		}
	}
	s.Procs = procs{one: func(string, string) (api.Proc, error) { return api.Proc{}, api.Errorf(api.CodeInvalidProc, "unknown") }}
	call(t, s, "GET", "/v1/procs/p", "").wantsProblem(t, 404, api.CodeInvalidProc)
}

func TestListProcs(t *testing.T) {
	var got api.ProcQuery
	answer := api.ProcList{}
	s := New(Config{Procs: procs{list: func(q api.ProcQuery) (api.ProcList, error) { got = q; return answer, nil }}})
	for query, want := range map[string]api.ProcQuery{
		"":                                       {Limit: 100},
		"?topic=t&kind=system&limit=5&after=p-_": {Topic: "t", Kind: api.KindSystem, Limit: 5, After: "p-_"},
		"?kind=proc":                             {Kind: api.KindProc, Limit: 100},
		"?kind=live&limit=1000":                  {Kind: api.KindLive, Limit: 1000},
	} {
		call(t, s, "GET", "/v1/procs"+query, "").wants(t, 200, `{"procs":[]}`)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", query, diff)
		}
	}
	answer = api.ProcList{Procs: []api.Proc{freshProc("p")}, Next: "p"}
	call(t, s, "GET", "/v1/procs", "").wants(t, 200, `{"procs":[`+procJSON+`],"next":"p"}`)
	for _, kind := range []string{"", "Proc", "all", "x"} {
		call(t, s, "GET", "/v1/procs?kind="+kind, "").wantsProblem(t, 400, api.CodeInvalidRequest)
	}
	call(t, s, "GET", "/v1/procs?topic=a.b", "").wantsProblem(t, 400, api.CodeInvalidTopicFormat)
	call(t, s, "GET", "/v1/procs?topic=", "").wantsProblem(t, 400, api.CodeInvalidTopicFormat)
}

func TestCreateAndPatchProc(t *testing.T) {
	var options api.ProcOptions
	var patch api.ProcPatch
	created := true
	s := New(Config{Procs: procs{
		create: func(name string, o api.ProcOptions) (api.Proc, bool, error) {
			options = o
			return freshProc(name), created, nil
		},
		patch: func(name string, p api.ProcPatch) (api.Proc, error) { patch = p; return freshProc(name), nil },
	}})
	call(t, s, "PUT", "/v1/procs/p", `{"topic":"t","offset":":5","count":2}`).wants(t, 201, procJSON)
	if diff := cmp.Diff(api.ProcOptions{Topic: "t", Offset: ":5", Count: new(2)}, options); diff != "" {
		t.Error(diff)
	}
	created = false
	call(t, s, "PUT", "/v1/procs/p", `{"topic":"t"}`).wants(t, 200, procJSON)
	call(t, s, "PUT", "/v1/procs/p", `{}`).wantsProblem(t, 400, api.CodeInvalidTopicFormat)
	call(t, s, "PUT", "/v1/procs/p", `{"topic":null}`).wantsProblem(t, 400, api.CodeInvalidTopicFormat)
	call(t, s, "PUT", "/v1/procs/p", `{"topic":"t","wait":5}`).wantsProblem(t, 400, api.CodeInvalidRequest)

	call(t, s, "PATCH", "/v1/procs/p", `{"count":3,"maxReclaims":0,"reclaimTimeout":-1,"onMaxReclaimsReached":"continue"}`).wants(t, 200, procJSON)
	want := api.ProcPatch{Count: new(3), MaxReclaims: new(0), ReclaimTimeout: new(int64(-1)), OnMaxReclaimsReached: "continue"}
	if diff := cmp.Diff(want, patch); diff != "" {
		t.Error(diff)
	}
	call(t, s, "PATCH", "/v1/procs/p", `{}`).wants(t, 200, procJSON)
	if diff := cmp.Diff(api.ProcPatch{}, patch); diff != "" {
		t.Error(diff)
	}
	for _, bad := range []string{`{"topic":"t"}`, `{"offset":">"}`, `{"count":0}`, `{"reclaimTimeout":0}`, `{"maxReclaims":-2}`, `{"name":"q"}`} {
		call(t, s, "PATCH", "/v1/procs/p", bad).wantsProblem(t, 400, api.CodeInvalidRequest)
	}
}

func TestSeek(t *testing.T) {
	var got api.Offset
	s := New(Config{Procs: procs{seek: func(name string, o api.Offset) (api.Proc, error) { got = o; return freshProc(name), nil }}})
	for offset, want := range map[string]string{">": ">", "earliest": ">", "$>": "$>", "latest": "$>", ":5": ":5", "5": "5", "5-6": "5-6"} {
		call(t, s, "POST", "/v1/procs/p/seek", `{"offset":"`+offset+`"}`).wants(t, 200, procJSON)
		if got.String() != want {
			t.Errorf("%s: %s", offset, got)
		}
	}
	call(t, s, "POST", "/v1/procs/p/seek", `{}`).wantsProblem(t, 400, api.CodeInvalidRequest)
	call(t, s, "POST", "/v1/procs/p/seek", `{"offset":null}`).wantsProblem(t, 400, api.CodeInvalidRequest)
	call(t, s, "POST", "/v1/procs/p/seek", `{"offset":5}`).wantsProblem(t, 400, api.CodeInvalidRequest)
	call(t, s, "POST", "/v1/procs/p/seek", `{"offset":""}`).wantsProblem(t, 400, api.CodeInvalidRangeOffset)
	call(t, s, "POST", "/v1/procs/p/seek", `{"offset":"<"}`).wantsProblem(t, 400, api.CodeInvalidRangeOffset)
}

func TestWait(t *testing.T) {
	var got api.WaitRequest
	s := New(Config{Procs: procs{wait: func(req api.WaitRequest) (api.Waited, error) {
		got = req
		return api.Waited{Procs: []api.ProcLag{{Name: "p", Lag: 3}}}, nil
	}}})
	for body, want := range map[string]api.WaitRequest{
		"":                            {Timeout: new(int64(30000))},
		`{"procs":null}`:              {Timeout: new(int64(30000))},
		`{"procs":["p"],"timeout":0}`: {Procs: []string{"p"}, Timeout: new(int64(0))},
		`{"timeout":60000}`:           {Timeout: new(int64(60000))},
	} {
		call(t, s, "POST", "/v1/wait", body).wants(t, 200, `{"done":false,"procs":[{"name":"p","lag":3}]}`)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", body, diff)
		}
	}
	call(t, s, "POST", "/v1/wait", `{"procs":[]}`).wantsProblem(t, 400, api.CodeInvalidRequest)
	call(t, s, "POST", "/v1/wait", `{"procs":"p"}`).wantsProblem(t, 400, api.CodeInvalidRequest)
	call(t, s, "POST", "/v1/wait", `{"procs":[5]}`).wantsProblem(t, 400, api.CodeInvalidRequest)
	call(t, s, "POST", "/v1/wait", `{"procs":["a.b"]}`).wantsProblem(t, 400, api.CodeInvalidProcFormat)
}

const goodSecret = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"

const specJSON = `{"name":"s","from":"a","processor":"http://h/"}`

func TestSystemProcs(t *testing.T) {
	var spec api.SystemProcSpec
	var patch api.SystemProcPatch
	var rotation api.SecretRotation
	created, secret := true, "whsec_generated"
	sp := api.SystemProc{Name: "s", From: api.Names{List: []string{"a"}, Single: true},
		Processor: api.Processor{URL: "http://h/?a=1", Headers: map[string]string{"X": "[redacted]"}}, CreatedAt: 4}
	s := New(Config{SystemProcs: systemProcs{
		create: func(got api.SystemProcSpec) (api.SystemProcMade, bool, error) {
			spec = got
			return api.SystemProcMade{Procs: []api.Proc{freshProc("p")}, Secret: secret}, created, nil
		},
		rotate: func(_ string, got api.SecretRotation) (api.RotatedSecret, error) {
			rotation = got
			return api.RotatedSecret{Secret: secret, PreviousExpiresAt: got.Overlap}, nil
		},
		patch: func(_ string, got api.SystemProcPatch) (api.SystemProc, error) { patch = got; return sp, nil },
		one:   func(string, string) (api.SystemProc, error) { return sp, nil },
		list: func(string, int) (api.SystemProcList, error) {
			return api.SystemProcList{SystemProcs: []api.SystemProc{sp}, Next: "s"}, nil
		},
	}})
	call(t, s, "POST", "/v1/system-procs", `{"name":"s","from":["a","b"],"to":"c","count":5,"processor":{"url":"https://h/x","timeout":100,"headers":{"X-Key":"v"}}}`).
		wants(t, 201, `{"procs":[`+procJSON+`],"secret":"whsec_generated"}`)
	want := api.SystemProcSpec{Name: "s", From: api.Names{List: []string{"a", "b"}}, To: api.Names{List: []string{"c"}, Single: true}, Count: new(5),
		Processor: &api.Processor{URL: "https://h/x", Timeout: new(int64(100)), Headers: map[string]string{"X-Key": "v"}}}
	if diff := cmp.Diff(want, spec); diff != "" {
		t.Errorf("spec (-want +got):\n%s", diff)
	}
	created, secret = false, ""
	call(t, s, "POST", "/v1/system-procs", strings.Replace(specJSON, "{", `{"secret":"`+goodSecret+`",`, 1)).wants(t, 200, `{"procs":[`+procJSON+`]}`)
	if spec.Secret != goodSecret {
		t.Errorf("secret %q", spec.Secret)
	}

	call(t, s, "POST", "/v1/system-procs/s/rotate-secret", `{"secret":"`+goodSecret+`","overlap":0}`).wants(t, 200, `{"previousExpiresAt":0}`)
	if diff := cmp.Diff(api.SecretRotation{Secret: goodSecret, Overlap: new(int64(0))}, rotation); diff != "" {
		t.Errorf("rotation (-want +got):\n%s", diff)
	}
	secret = "whsec_generated"
	call(t, s, "POST", "/v1/system-procs/s/rotate-secret", ``).wants(t, 200, `{"secret":"whsec_generated","previousExpiresAt":null}`)

	const wire = `{"name":"s","from":"a","to":[],"processor":{"url":"http://h/?a=1","headers":{"X":"[redacted]"}},"createdAt":4,"procs":[]}`
	call(t, s, "GET", "/v1/system-procs/s", "").wants(t, 200, wire)
	call(t, s, "DELETE", "/v1/system-procs/s", "").wants(t, 200, wire)
	call(t, s, "GET", "/v1/system-procs", "").wants(t, 200, `{"systemProcs":[`+wire+`],"next":"s"}`)
	call(t, s, "PATCH", "/v1/system-procs/s", `{"to":["x"],"from":["a"],"reclaimTimeout":50,"processor":"http://h/2"}`).wants(t, 200, wire)
	if diff := cmp.Diff(api.SystemProcPatch{To: &api.Names{List: []string{"x"}}, From: &api.Names{List: []string{"a"}}, ReclaimTimeout: new(int64(50)),
		Processor: &api.Processor{URL: "http://h/2", Bare: true}}, patch); diff != "" {
		t.Errorf("patch (-want +got):\n%s", diff)
	}
	call(t, s, "PATCH", "/v1/system-procs/s", `{"to":[]}`).wants(t, 200, wire)
	call(t, s, "PATCH", "/v1/system-procs/s", `{}`).wants(t, 200, wire)
	s.SystemProcs = systemProcs{list: func(string, int) (api.SystemProcList, error) { return api.SystemProcList{}, nil }}
	call(t, s, "GET", "/v1/system-procs", "").wants(t, 200, `{"systemProcs":[]}`)
}

func TestSystemProcRefusals(t *testing.T) {
	s := New(Config{})
	for _, processor := range []string{`5`, `true`, `[]`, `null`, `""`, `{}`, `"h"`, `"ftp://h/"`, `"http://"`, `"http://u:p@h/"`, `"mailto:a@b"`,
		`{"url":""}`, `{"timeout":5}`, `{"url":"http://h/","inline":"() => 1"}`, `{"inline":"() => 1","headers":{"a":"b"}}`,
		`{"url":"http://h/","headers":{"Host":"x"}}`, `{"url":"http://h/","headers":{"a\nb":"x"}}`} {
		call(t, s, "POST", "/v1/system-procs", `{"name":"s","from":"a","processor":`+processor+`}`).wantsProblem(t, 400, api.CodeNoValidProcessor)
		if processor != "null" { // absent
			call(t, s, "PATCH", "/v1/system-procs/s", `{"processor":`+processor+`}`).wantsProblem(t, 400, api.CodeNoValidProcessor)
		}
	}
	call(t, s, "POST", "/v1/system-procs", `{"name":"s","from":"a"}`).wantsProblem(t, 400, api.CodeNoValidProcessor)
	long := strings.Repeat("x", 120)
	for _, c := range []struct {
		body string
		code api.Code
	}{
		{`{"from":"a","processor":"http://h/"}`, api.CodeInvalidProcFormat},
		{`{"name":"a.b","from":"a","processor":"http://h/"}`, api.CodeInvalidProcFormat},
		{`{"name":"s","processor":"http://h/"}`, api.CodeInvalidRequest},
		{`{"name":"s","from":[],"processor":"http://h/"}`, api.CodeInvalidRequest},
		{`{"name":"s","from":5,"processor":"http://h/"}`, api.CodeInvalidRequest},
		{`{"name":"s","from":["a","a"],"processor":"http://h/"}`, api.CodeInvalidRequest},
		{`{"name":"s","from":"","processor":"http://h/"}`, api.CodeInvalidTopicFormat},
		{`{"name":"s","from":["a.b"],"processor":"http://h/"}`, api.CodeInvalidTopicFormat},
		{`{"name":"s","from":"a","to":"a.b","processor":"http://h/"}`, api.CodeInvalidTopicFormat},
		{`{"name":"` + long + `","from":["aaaaaaaaaa"],"processor":"http://h/"}`, api.CodeInvalidProcFormat},
		{`{"name":"s","from":"a","processor":{"url":"http://h/","timeout":10000}}`, api.CodeInvalidRequest},
		{`{"name":"s","from":"a","processor":{"url":"http://h/","nope":1}}`, api.CodeInvalidRequest},
		{`{"name":"s","from":"a","processor":"http://h/","offset":"x"}`, api.CodeInvalidRangeOffset},
		{`{"name":"s","from":"a","processor":"http://h/","secret":""}`, api.CodeInvalidRequest},
		{`{"name":"s","from":"a","processor":"http://h/","secret":"x"}`, api.CodeInvalidRequest},
		{`{"name":"s","from":"a","processor":"http://h/","secret":5}`, api.CodeInvalidRequest},
		{`{"name":"s","from":"a","processor":{"inline":"() => 1"},"secret":"` + goodSecret + `"}`, api.CodeInvalidRequest},
		{`{"name":"s","from":"a","processor":"nope","secret":"x"}`, api.CodeNoValidProcessor},
	} {
		call(t, s, "POST", "/v1/system-procs", c.body).wantsProblem(t, 400, c.code)
	}
	for body, code := range map[string]api.Code{
		`{"name":"x"}`:                    api.CodeInvalidRequest,
		`{"secret":"` + goodSecret + `"}`: api.CodeInvalidRequest,
		`{"offset":">"}`:                  api.CodeInvalidRequest,
		`{"from":[]}`:                     api.CodeInvalidRequest,
		`{"from":["a","a"]}`:              api.CodeInvalidRequest,
		`{"to":"a.b"}`:                    api.CodeInvalidTopicFormat,
		`{"count":0}`:                     api.CodeInvalidRequest,
		`{"reclaimTimeout":50,"processor":{"url":"http://h/","timeout":50}}`: api.CodeInvalidRequest,
	} {
		call(t, s, "PATCH", "/v1/system-procs/s", body).wantsProblem(t, 400, code)
	}
	for _, body := range []string{`{"secret":""}`, `{"secret":"x"}`, `{"secret":5}`, `{"secret":["` + goodSecret + `"]}`, `{"overlap":-1}`,
		`{"overlap":2592000001}`, `{"overlap":"1"}`, `{"overlap":1.5}`, `{"Overlap":1}`, `{"overlap":1,"overlap":1}`, `{"previous":1}`, `null`, `[]`} {
		call(t, s, "POST", "/v1/system-procs/s/rotate-secret", body).wantsProblem(t, 400, api.CodeInvalidRequest)
	}
	call(t, s, "PATCH", "/v1/system-procs/"+long, `{"from":["aaaaaaaaaa"]}`).wantsProblem(t, 400, api.CodeInvalidProcFormat)
}

func TestProcessorsAreChecked(t *testing.T) {
	var got *api.Processor
	check := func(p *api.Processor) error {
		if p.Inline == "no" {
			return api.Errorf(api.CodeNoValidProcessor, "no")
		}
		return nil
	}
	s := New(Config{CheckProcessor: check, SystemProcs: systemProcs{create: func(spec api.SystemProcSpec) (api.SystemProcMade, bool, error) {
		got = spec.Processor
		return api.SystemProcMade{}, true, nil
	}}})
	call(t, s, "POST", "/v1/system-procs", `{"name":"s","from":"a","processor":{"inline":"() => 1"}}`).wants(t, 201, `{"procs":[]}`)
	if got.Inline != "() => 1" {
		t.Errorf("%+v", got)
	}
	got = nil
	call(t, s, "POST", "/v1/system-procs", `{"name":"s","from":"a","processor":{"inline":"no"}}`).wantsProblem(t, 400, api.CodeNoValidProcessor)
	call(t, s, "PATCH", "/v1/system-procs/s", `{"processor":{"inline":"no"}}`).wantsProblem(t, 400, api.CodeNoValidProcessor)
	if got != nil {
		t.Errorf("%+v", got)
	}
}

func TestLiveProcs(t *testing.T) {
	var spec api.LiveProcSpec
	var did string
	s := New(Config{LiveProcs: liveProcs{
		create: func(got api.LiveProcSpec) (api.Proc, error) { spec = got; return freshProc("p"), nil },
		one:    func(what, name string) (api.Proc, error) { did = what + " " + name; return freshProc("p"), nil },
	}})
	call(t, s, "POST", "/v1/live-procs", `{"topic":"t","mode":"all","count":3,"ttl":-1}`).
		wants(t, 201, strings.TrimSuffix(procJSON, "}")+`,"changes":"/v1/live-procs/p/changes"}`)
	if diff := cmp.Diff(api.LiveProcSpec{Topic: "t", Mode: api.ModeAll, Count: new(3), TTL: new(int64(-1))}, spec); diff != "" {
		t.Error(diff)
	}
	call(t, s, "POST", "/v1/live-procs/n/cancel", "").wants(t, 200, procJSON)
	if did != "cancel n" {
		t.Error(did)
	}
	call(t, s, "DELETE", "/v1/live-procs/n", "").wants(t, 200, procJSON)
	if did != "destroy n" {
		t.Error(did)
	}
	for body, code := range map[string]api.Code{
		`{"mode":"all"}`:                          api.CodeInvalidTopicFormat,
		`{"topic":"a.b","mode":"all"}`:            api.CodeInvalidTopicFormat,
		`{"topic":"t"}`:                           api.CodeInvalidRequest,
		`{"topic":"t","mode":"old"}`:              api.CodeInvalidRequest,
		`{"topic":"t","mode":"all","ttl":0}`:      api.CodeInvalidRequest,
		`{"topic":"t","mode":"all","count":0}`:    api.CodeInvalidRequest,
		`{"topic":"t","mode":"all","offset":"5"}`: api.CodeInvalidRequest,
	} {
		call(t, s, "POST", "/v1/live-procs", body).wantsProblem(t, 400, code)
	}
}

func TestGC(t *testing.T) {
	var prune int64
	run := api.GCRun{}
	s := New(Config{MinPruneTime: 1234, Collector: collector{
		collect: func(ms int64) (api.GCRun, error) { prune = ms; return run, nil },
		last:    func() (api.GCRun, error) { return run, nil },
	}})
	call(t, s, "POST", "/v1/gc", "").wants(t, 200, `{"topics":[]}`)
	if prune != 1234 {
		t.Error(prune)
	}
	call(t, s, "GET", "/v1/gc", "").wants(t, 200, `{"topics":[],"finishedAt":null}`)
	run = api.GCRun{Topics: []api.Collected{{Topic: "t", Collected: 2, FirstID: &api.ID{TS: 1, Seq: 2}}, {Topic: "u", Collected: 1}}, FinishedAt: new(int64(9))}
	const topics = `"topics":[{"topic":"t","collected":2,"firstId":"1-2"},{"topic":"u","collected":1,"firstId":null}]`
	call(t, s, "POST", "/v1/gc", "{}").wants(t, 200, `{`+topics+`}`)
	call(t, s, "GET", "/v1/gc", "").wants(t, 200, `{`+topics+`,"finishedAt":9}`)
	call(t, s, "POST", "/v1/gc", `{"minPruneTime":0}`).wantsProblem(t, 400, api.CodeInvalidRequest)
}

func TestOperations(t *testing.T) {
	var asked context.Context
	ready := error(nil)
	s := New(Config{OpenAPI: []byte("openapi: 3.1.0\n"), Health: health(func(ctx context.Context) error { asked = ctx; return ready })})
	call(t, s, "GET", "/healthz", "").wants(t, 200, `{"status":"ok"}`)
	call(t, s, "GET", "/readyz", "").wants(t, 200, `{"status":"ready"}`)
	if _, bounded := asked.Deadline(); !bounded {
		t.Error("readiness may take for ever")
	}
	for _, ready = range []error{errors.New("secret cause"), api.Errorf(api.CodeOverloaded, "secret cause"), context.DeadlineExceeded} {
		a := call(t, s, "GET", "/readyz", "")
		a.wantsProblem(t, 503, api.CodeUnavailable)
		if strings.Contains(a.body, "secret") || a.header.Get("Retry-After") != "1" {
			t.Errorf("%s %v", a.body, a.header)
		}
	}
	a := call(t, s, "GET", "/openapi.yaml", "")
	a.wants(t, 200, "openapi: 3.1.0")
	if a.header.Get("Content-Type") != "application/yaml" {
		t.Error(a.header)
	}
}

func TestShutdownAnswersFirst(t *testing.T) {
	w := httptest.NewRecorder()
	answered := false
	s := New(Config{Shutdown: func() { answered = w.Flushed && w.Code == 202 && w.Body.Len() > 0 }})
	s.ServeHTTP(w, request("POST", "/v1/shutdown", ""))
	if !answered || w.Body.String() != `{"status":"shutting down"}`+"\n" {
		t.Errorf("answered %t: %d %s", answered, w.Code, w.Body)
	}
}
