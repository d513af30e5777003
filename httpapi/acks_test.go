package httpapi

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"

	"pipeproc/api"
)

func TestAck(t *testing.T) {
	var got api.AckRequest
	var answer api.Acked
	s := New(Config{Procs: procs{ack: func(_ string, req api.AckRequest) (api.Acked, error) {
		got = req
		return answer, nil
	}}})
	logs := []api.NewLog{{Topic: "u", Body: json.RawMessage("{}")}}
	for _, c := range []struct {
		path, body string
		want       api.AckRequest
	}{
		{"ack", "", api.AckRequest{}},
		{"ack", `{}`, api.AckRequest{}},
		{"ack", `{"token":null,"count":null}`, api.AckRequest{}},
		{"ack", `{"token":"x","claimNext":true,"count":5}`, api.AckRequest{Token: "x", ClaimNext: true, Count: new(5)}},
		{"ack-commit", `{"logs":{"topic":"u","body":{}}}`, api.AckRequest{Logs: logs, One: true}},
		{"ack-commit", `{"token":"x","claimNext":true,"count":5,"logs":[{"topic":"u","body":{}}]}`,
			api.AckRequest{Token: "x", ClaimNext: true, Count: new(5), Logs: logs}},
	} {
		if a := call(t, s, "POST", "/v1/procs/p/"+c.path, c.body); a.status != 200 {
			t.Errorf("%s %s: %d %s", c.path, c.body, a.status, a.body)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s %s (-want +got):\n%s", c.path, c.body, diff)
		}
	}
	const next = `{"claim":{"token":"tok","range":"5-0..5-0","attempt":1,"expiresAt":99},"logs":[{"id":"5-0","body":{}}]}`
	for want, a := range map[string]api.Acked{
		`{"ackedLogId":"1-2"}`:                                 {Acked: "1-2"},
		`{"ackedLogId":"1-2..1-4"}`:                            {Acked: "1-2..1-4"},
		`{"ackedLogId":"1-2","id":"3-0"}`:                      {Acked: "1-2", IDs: []api.ID{id(3, 0)}, One: true},
		`{"ackedLogId":"1-2","ids":["3-0"]}`:                   {Acked: "1-2", IDs: []api.ID{id(3, 0)}},
		`{"ackedLogId":"1-2","ids":["3-0","3-1"],"next":null}`: {Acked: "1-2", IDs: []api.ID{id(3, 0), id(3, 1)}, NextAsked: true},
		`{"ackedLogId":"1-2","next":null}`:                     {Acked: "1-2", NextAsked: true},
		`{"ackedLogId":"1-2","id":"3-0","next":` + next + `}`:  {Acked: "1-2", IDs: []api.ID{id(3, 0)}, One: true, NextAsked: true, Next: claimed("{}")},
	} {
		// A repeat is answered as the first ack was, by whatever route it comes.
		answer = a
		call(t, s, "POST", "/v1/procs/p/ack", `{"token":"x"}`).wants(t, 200, want)
		call(t, s, "POST", "/v1/procs/p/ack-commit", `{"token":"x","logs":[{"topic":"t","body":{}}]}`).wants(t, 200, want)
	}
}

func TestAckRefusals(t *testing.T) {
	s := New(Config{})
	logs := `"logs":{"topic":"t","body":{}}`
	for _, members := range []string{`"token":""`, `"token":5`, `"claimNext":true`, `"claimNext":1,"token":"x"`, `"count":0`, `"count":10001`,
		`"token":"x","token":"x"`, `"Token":"x"`, `"proc":"p"`} {
		call(t, s, "POST", "/v1/procs/p/ack", "{"+members+"}").wantsProblem(t, 400, api.CodeInvalidRequest)
		call(t, s, "POST", "/v1/procs/p/ack-commit", "{"+members+","+logs+"}").wantsProblem(t, 400, api.CodeInvalidRequest)
	}
	call(t, s, "POST", "/v1/procs/p/ack", "{"+logs+"}").wantsProblem(t, 400, api.CodeInvalidRequest)
	for _, body := range []string{`{}`, `{"token":"x"}`, `{"logs":null}`, `{"logs":[]}`, `{"logs":5}`, `{"logs":"x"}`, "{" + logs + "," + logs + "}"} {
		call(t, s, "POST", "/v1/procs/p/ack-commit", body).wantsProblem(t, 400, api.CodeInvalidRequest)
	}
	for _, token := range []string{`""`, `5`, `{}`} {
		call(t, s, "POST", "/v1/procs/p/reclaim", `{"token":`+token+`}`).wantsProblem(t, 400, api.CodeInvalidRequest)
		call(t, s, "POST", "/v1/procs/p/extend", `{"token":`+token+`}`).wantsProblem(t, 400, api.CodeInvalidRequest)
	}
	call(t, s, "POST", "/v1/procs/p/extend", `{}`).wantsProblem(t, 400, api.CodeInvalidRequest)
	call(t, s, "POST", "/v1/procs/p/extend", `{"token":null}`).wantsProblem(t, 400, api.CodeInvalidRequest)
	s.Procs = procs{ack: func(string, api.AckRequest) (api.Acked, error) {
		return api.Acked{}, api.Errorf(api.CodeClaimLost, "lost")
	}}
	call(t, s, "POST", "/v1/procs/p/ack", "").wantsProblem(t, 409, api.CodeClaimLost)
}

func TestReclaimAndExtend(t *testing.T) {
	var got string
	last := api.Range{}
	s := New(Config{Procs: procs{
		reclaim: func(proc, token string) (api.Range, error) { got = proc + " " + token; return last, nil },
		extend: func(proc, token string) (api.Claim, error) {
			got = proc + " " + token
			return api.Claim{Token: token, Range: api.NewRange(id(1, 0), id(1, 0)), Attempt: 2}, nil
		},
	}})
	call(t, s, "POST", "/v1/procs/p/reclaim", "").wants(t, 200, `{"lastClaimedRange":""}`)
	if got != "p " {
		t.Error(got)
	}
	last = api.NewRange(id(1, 0), id(1, 1))
	call(t, s, "POST", "/v1/procs/p/reclaim", `{"token":"x"}`).wants(t, 200, `{"lastClaimedRange":"1-0..1-1"}`)
	if got != "p x" {
		t.Error(got)
	}
	call(t, s, "POST", "/v1/procs/q/extend", `{"token":"y"}`).
		wants(t, 200, `{"claim":{"token":"y","range":"1-0..1-0","attempt":2,"expiresAt":null}}`)
	if got != "q y" {
		t.Error(got)
	}
}
