package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"pipeproc/api"
)

func TestClaim(t *testing.T) {
	var got api.ClaimRequest
	var answer *api.Claimed
	s := New(Config{Procs: procs{claim: func(_ ctx, proc string, req api.ClaimRequest) (*api.Claimed, error) {
		got = req
		return answer, nil
	}}})
	a := call(t, s, "POST", "/v1/procs/p/claim", "")
	a.wants(t, 204, "")
	if diff := cmp.Diff(api.ClaimRequest{}, got); diff != "" {
		t.Error(diff)
	}
	answer = claimed(`{"a":1}`, `[]`)
	call(t, s, "POST", "/v1/procs/p/claim", `{"topic":"t","offset":"$>","count":2,"maxReclaims":-1,"reclaimTimeout":5000,"onMaxReclaimsReached":"continue","wait":60000}`).
		wants(t, 200, `{"proc":"p","topic":"t","claim":{"token":"tok","range":"5-0..5-1","attempt":1,"expiresAt":99},"logs":[{"id":"5-0","body":{"a":1}},{"id":"5-1","body":[]}]}`)
	want := api.ClaimRequest{ProcOptions: api.ProcOptions{Topic: "t", Offset: "$>", Count: new(2), MaxReclaims: new(-1),
		ReclaimTimeout: new(int64(5000)), OnMaxReclaimsReached: "continue"}, Wait: new(int64(60000))}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("request (-want +got):\n%s", diff)
	}
	answer.Claim.ExpiresAt = nil
	if a := call(t, s, "POST", "/v1/procs/p/claim", "{}"); !strings.Contains(a.body, `"expiresAt":null`) {
		t.Error(a.body)
	}
}

func TestClaimRefusals(t *testing.T) {
	s := New(Config{})
	entry := `{"name":"p%d","topic":"t"},`
	var many strings.Builder
	for i := range api.MaxClaimAny + 1 {
		fmt.Fprintf(&many, entry, i)
	}
	for _, c := range []struct {
		members string
		code    api.Code
	}{
		{`"topic":"a.b"`, api.CodeInvalidTopicFormat},
		{`"topic":""`, api.CodeInvalidTopicFormat},
		{`"topic":"t","offset":"x"`, api.CodeInvalidRangeOffset},
		{`"topic":"t","offset":""`, api.CodeInvalidRangeOffset},
		{`"topic":"t","offset":5`, api.CodeInvalidRequest},
		{`"count":0`, api.CodeInvalidRequest},
		{`"count":-1`, api.CodeInvalidRequest},
		{`"count":10001`, api.CodeInvalidRequest},
		{`"count":1.5`, api.CodeInvalidRequest},
		{`"count":"1"`, api.CodeInvalidRequest},
		{`"count":99999999999999999999`, api.CodeInvalidRequest},
		{`"maxReclaims":-2`, api.CodeInvalidRequest},
		{`"maxReclaims":2147483648`, api.CodeInvalidRequest},
		{`"reclaimTimeout":0`, api.CodeInvalidRequest},
		{`"reclaimTimeout":-2`, api.CodeInvalidRequest},
		{`"reclaimTimeout":9223372036854775807`, api.CodeInvalidRequest},
		{`"onMaxReclaimsReached":"stop"`, api.CodeInvalidRequest},
		{`"onMaxReclaimsReached":""`, api.CodeInvalidRequest},
		{`"onMaxReclaimsReached":true`, api.CodeInvalidRequest},
	} {
		call(t, s, "POST", "/v1/procs/p/claim", "{"+c.members+"}").wantsProblem(t, 400, c.code)
		call(t, s, "POST", "/v1/claims", `{"procs":[{"name":"p",`+c.members+`}]}`).wantsProblem(t, 400, c.code)
		call(t, s, "PUT", "/v1/procs/p", "{"+c.members+"}").wantsProblem(t, 400, c.code)
	}
	for _, wait := range []string{"-1", "60001", "1.5", `"1"`} {
		call(t, s, "POST", "/v1/procs/p/claim", `{"wait":`+wait+`}`).wantsProblem(t, 400, api.CodeInvalidRequest)
		call(t, s, "POST", "/v1/claims", `{"procs":[{"name":"p"}],"wait":`+wait+`}`).wantsProblem(t, 400, api.CodeInvalidRequest)
		call(t, s, "POST", "/v1/wait", `{"timeout":`+wait+`}`).wantsProblem(t, 400, api.CodeInvalidRequest)
	}
	for body, code := range map[string]api.Code{
		`{}`:                                    api.CodeInvalidRequest,
		`{"procs":[]}`:                          api.CodeInvalidRequest,
		`{"procs":null}`:                        api.CodeInvalidRequest,
		`{"procs":{}}`:                          api.CodeInvalidRequest,
		`{"procs":[null]}`:                      api.CodeInvalidRequest,
		`{"procs":["p"]}`:                       api.CodeInvalidRequest,
		`{"procs":[{}]}`:                        api.CodeInvalidProcFormat,
		`{"procs":[{"name":""}]}`:               api.CodeInvalidProcFormat,
		`{"procs":[{"name":"p"},{"name":"p"}]}`: api.CodeInvalidRequest,
		`{"procs":[` + strings.TrimSuffix(many.String(), ",") + `]}`: api.CodeInvalidRequest,
		`{"procs":[{"name":"p","topic":"t","wait":5}]}`:              api.CodeInvalidRequest,
		`{"procs":[{"name":"p","topic":"t","topic":"u"}]}`:           api.CodeInvalidRequest,
	} {
		call(t, s, "POST", "/v1/claims", body).wantsProblem(t, 400, code)
	}
	s.Procs = procs{claim: func(ctx, string, api.ClaimRequest) (*api.Claimed, error) {
		e := api.Errorf(api.CodeAlreadyClaimed, "held")
		e.ExpiresAt = new(int64(12))
		return nil, e
	}}
	a := call(t, s, "POST", "/v1/procs/p/claim", "")
	a.wantsProblem(t, 409, api.CodeAlreadyClaimed)
	if !strings.Contains(a.body, `"expiresAt":12`) {
		t.Error(a.body)
	}
}

func TestClaimAny(t *testing.T) {
	var got api.ClaimAnyRequest
	s := New(Config{Procs: procs{claimAny: func(_ ctx, req api.ClaimAnyRequest) (*api.Claimed, error) {
		got = req
		return claimed("{}"), nil
	}}})
	call(t, s, "POST", "/v1/claims", `{"procs":[{"name":"p","topic":"t","count":3},{"name":"q"}],"wait":5}`).
		wants(t, 200, `{"proc":"p","topic":"t","claim":{"token":"tok","range":"5-0..5-0","attempt":1,"expiresAt":99},"logs":[{"id":"5-0","body":{}}]}`)
	want := api.ClaimAnyRequest{Wait: new(int64(5)), Procs: []api.NamedProcOptions{
		{Name: "p", ProcOptions: api.ProcOptions{Topic: "t", Count: new(3)}}, {Name: "q"}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("request (-want +got):\n%s", diff)
	}
}

// deaf is a ResponseWriter whose connection is broken.
type deaf struct {
	http.ResponseWriter
	write, flush error
}

func (w deaf) Write(b []byte) (int, error) {
	if w.write != nil {
		return 0, w.write
	}
	return w.ResponseWriter.Write(b)
}
func (w deaf) FlushError() error { return w.flush }

func TestUndeliveredClaimIsUndone(t *testing.T) {
	broken := errors.New("broken pipe")
	bodyOf := map[string]string{"/v1/procs/p/claim": "", "/v1/claims": `{"procs":[{"name":"p"}]}`}
	for path := range bodyOf {
		for name, w := range map[string]deaf{"write": {write: broken}, "flush": {flush: broken}, "gone": {}} {
			ctx, cancel := context.WithCancel(t.Context())
			undone := 0
			claim := func() (*api.Claimed, error) {
				if name == "gone" {
					cancel()
				}
				return claimed("{}"), nil
			}
			s := New(Config{Procs: procs{
				claim:    func(context.Context, string, api.ClaimRequest) (*api.Claimed, error) { return claim() },
				claimAny: func(context.Context, api.ClaimAnyRequest) (*api.Claimed, error) { return claim() },
				undo: func(ctx context.Context, proc, token string) error {
					undone++
					if _, bounded := ctx.Deadline(); ctx.Err() != nil || !bounded || proc != "p" || token != "tok" {
						t.Errorf("undo of %s %s: %v, bounded %t", proc, token, ctx.Err(), bounded)
					}
					return nil
				},
			}})
			w.ResponseWriter = httptest.NewRecorder()
			func() {
				defer func() {
					if v := recover(); v != http.ErrAbortHandler {
						t.Errorf("%s: panic %v", name, v)
					}
				}()
				s.ServeHTTP(w, request("POST", path, bodyOf[path]).WithContext(ctx))
			}()
			if undone != 1 {
				t.Errorf("%s %s: undone %d times", path, name, undone)
			}
			cancel()
		}
	}
}

func TestDeliveredClaimIsNotUndone(t *testing.T) {
	s := New(Config{Procs: procs{
		claim: func(ctx, string, api.ClaimRequest) (*api.Claimed, error) { return claimed("{}"), nil },
		undo:  func(ctx, string, string) error { t.Error("undone"); return nil },
	}})
	server := serve(t, s)
	resp, err := server.Client().Post(server.URL+"/v1/procs/p/claim", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 200 || resp.ContentLength < 50 {
		t.Errorf("%d, %d bytes", resp.StatusCode, resp.ContentLength)
	}
}

// A client goes away during its long poll; then there are logs.
func TestClaimOfAClientThatWentAway(t *testing.T) {
	for _, reset := range []bool{false, true} {
		waiting, undone := make(chan struct{}), make(chan string, 1)
		s := New(Config{Procs: procs{
			claim: func(ctx ctx, _ string, _ api.ClaimRequest) (*api.Claimed, error) {
				close(waiting)
				<-ctx.Done()
				return claimed("{}"), nil // a store that had claimed by then
			},
			undo: func(_ ctx, proc, token string) error { undone <- proc + " " + token; return nil },
		}})
		server := serve(t, s)
		conn := dial(t, server.Listener.Addr().String())
		fmt.Fprintf(conn, "POST /v1/procs/p/claim HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 14\r\n\r\n%s",
			`{"wait":60000}`)
		<-waiting
		if reset {
			if err := conn.(*net.TCPConn).SetLinger(0); err != nil {
				t.Fatal(err)
			}
		}
		conn.Close()
		if got := <-undone; got != "p tok" {
			t.Errorf("undone %s", got)
		}
	}
}

// A client resets the connection while a large claim is on its way.
func TestClaimOfAClientThatGoesAwayHalfway(t *testing.T) {
	undone := make(chan struct{})
	s := New(Config{Procs: procs{
		claim: func(ctx, string, api.ClaimRequest) (*api.Claimed, error) {
			return claimed(`["` + strings.Repeat("x", 8<<20) + `"]`), nil
		},
		undo: func(ctx, string, string) error { close(undone); return nil },
	}})
	server := serve(t, s)
	conn := dial(t, server.Listener.Addr().String())
	fmt.Fprintf(conn, "POST /v1/procs/p/claim HTTP/1.1\r\nHost: localhost\r\n\r\n")
	if _, err := conn.Read(make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	if err := conn.(*net.TCPConn).SetLinger(0); err != nil {
		t.Fatal(err)
	}
	conn.Close()
	<-undone
}

func TestClaimWhileTheServerStops(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	undone := false
	s := New(Config{Procs: procs{
		claim: func(context.Context, string, api.ClaimRequest) (*api.Claimed, error) {
			cancel(api.Errorf(api.CodeUnavailable, "the server stops"))
			return claimed("{}"), nil
		},
		undo: func(context.Context, string, string) error { undone = true; return nil },
	}})
	do(t, s, request("POST", "/v1/procs/p/claim", "").WithContext(ctx)).wantsProblem(t, 503, api.CodeUnavailable)
	if !undone {
		t.Error("not undone")
	}
}
