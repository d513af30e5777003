package httpapi

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"pipeproc/api"
)

// bodyTexts come back byte for byte, but for the space between tokens.
var bodyTexts = []string{
	`{}`, `[]`,
	`{"b":1,"a":2,"b":3}`,
	`{"n":1e2,"m":12345678901234567890,"o":1e400,"p":-0.0,"q":1E+2}`,
	`{"html":"<>&\u003c","sep":"` + "\u2028\u2029" + `","nul":"\u0000","lone":"\ud800","esc":"\/é\u00e9"}`,
	`[[{"":[null,true,false,"x\\\"y"]}]]`,
	strings.Repeat("[", 128) + strings.Repeat("]", 128),
}

// keeping is a surface that remembers the last commit.
func keeping(got *[]api.NewLog, key **api.IdempotencyKey) *Server {
	return New(Config{Logs: logs{commit: func(l []api.NewLog, k *api.IdempotencyKey) (api.Committed, error) {
		*got = l
		if key != nil {
			*key = k
		}
		var done api.Committed
		for i := range l {
			done.IDs = append(done.IDs, id(7, int64(i)))
		}
		return done, nil
	}}})
}

func TestCommit(t *testing.T) {
	var got []api.NewLog
	s := keeping(&got, nil)
	call(t, s, "POST", "/v1/commit", `{"topic":"t","body":{"a":1}}`).wants(t, 201, `{"id":"7-0"}`)
	call(t, s, "POST", "/v1/commit", `[{"topic":"t","body":{}}]`).wants(t, 201, `{"ids":["7-0"]}`)
	call(t, s, "POST", "/v1/commit", ` [ {"topic":"t","body":{}} , {"body":[ ],"topic":"u"} ] `).wants(t, 201, `{"ids":["7-0","7-1"]}`)
	want := []api.NewLog{{Topic: "t", Body: json.RawMessage("{}")}, {Topic: "u", Body: json.RawMessage("[]")}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("committed (-want +got):\n%s", diff)
	}
	a := call(t, s, "POST", "/v1/topics/abc/logs", `[{"topic":"t","body":{}}, 5]`)
	a.wants(t, 201, `{"id":"7-0"}`)
	if location := a.header.Get("Location"); location != "/v1/topics/abc/logs/7-0" {
		t.Errorf("Location %q", location)
	}
	want = []api.NewLog{{Topic: "abc", Body: json.RawMessage(`[{"topic":"t","body":{}},5]`)}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("committed (-want +got):\n%s", diff)
	}
}

func TestBodiesAreKept(t *testing.T) {
	var got []api.NewLog
	s := keeping(&got, nil)
	s.Procs = procs{ack: func(_ string, req api.AckRequest) (api.Acked, error) { got = req.Logs; return api.Acked{}, nil }}
	for _, text := range bodyTexts {
		spaced := strings.NewReplacer("[", " [\n", "]", "\t] ", "{", "{ ", ":1", " :\r1").Replace(text)
		for path, body := range map[string]string{
			"/v1/topics/t/logs":      spaced,
			"/v1/commit":             `{"topic":"t","body":` + spaced + `}`,
			"/v1/commit?":            `[{"topic":"t","body":` + spaced + `}]`,
			"/v1/procs/p/ack-commit": `{"logs":[{"topic":"t","body":` + spaced + `}]}`,
		} {
			got = nil
			if a := call(t, s, "POST", path, body); a.status >= 300 {
				t.Errorf("%s %.60s: %s", path, text, a.body)
				continue
			}
			if string(got[0].Body) != text {
				t.Errorf("%s: %s became %s", path, text, got[0].Body)
			}
		}
		// And out again, from wherever logs are told.
		s := New(Config{
			Logs: logs{
				rng: func(string, api.RangeQuery) (api.Page, error) {
					return api.Page{Logs: []api.Log{{ID: id(1, 2), Body: json.RawMessage(text)}, {ID: id(1, 3), Body: json.RawMessage("[]")}}, Next: &api.ID{TS: 1, Seq: 4}}, nil
				},
				log: func(string, api.Bound) (api.Log, error) {
					return api.Log{ID: id(1, 2), Body: json.RawMessage(text)}, nil
				},
			},
			Procs: procs{
				claim: func(ctx, string, api.ClaimRequest) (*api.Claimed, error) { return claimed(text), nil },
				ack: func(string, api.AckRequest) (api.Acked, error) {
					return api.Acked{Acked: "1-2", NextAsked: true, Next: claimed(text)}, nil
				},
			},
		})
		const claim = `"claim":{"token":"tok","range":"5-0..5-0","attempt":1,"expiresAt":99}`
		call(t, s, "GET", "/v1/topics/t/logs", "").wants(t, 200, `{"logs":[{"id":"1-2","body":`+text+`},{"id":"1-3","body":[]}],"next":"1-4"}`)
		call(t, s, "GET", "/v1/topics/t/logs/1-2", "").wants(t, 200, `{"id":"1-2","body":`+text+`}`)
		call(t, s, "POST", "/v1/procs/p/claim", "").wants(t, 200, `{"proc":"p","topic":"t",`+claim+`,"logs":[{"id":"5-0","body":`+text+`}]}`)
		call(t, s, "POST", "/v1/procs/p/ack", "").wants(t, 200, `{"ackedLogId":"1-2","next":{`+claim+`,"logs":[{"id":"5-0","body":`+text+`}]}}`)
	}
}

func TestCommitRefusals(t *testing.T) {
	s := New(Config{Logs: logs{commit: func([]api.NewLog, *api.IdempotencyKey) (api.Committed, error) {
		t.Error("committed")
		return api.Committed{}, nil
	}}})
	deep := strings.Repeat("[", 129) + strings.Repeat("]", 129)
	big := `["` + strings.Repeat("x", api.MaxBodySize-3) + `"]`
	many := "[" + strings.Repeat(`{"topic":"t","body":{}},`, api.MaxCommitLogs) + `{"topic":"t","body":{}}]`
	for _, c := range []struct {
		body   string
		status int
		code   api.Code
	}{
		{`[]`, 400, api.CodeInvalidRequest},
		{`[null]`, 400, api.CodeInvalidRequest},
		{`[[]]`, 400, api.CodeInvalidRequest},
		{`{}`, 400, api.CodeInvalidTopicFormat},
		{`{"body":{}}`, 400, api.CodeInvalidTopicFormat},
		{`{"topic":null,"body":{}}`, 400, api.CodeInvalidTopicFormat},
		{`{"topic":"","body":{}}`, 400, api.CodeInvalidTopicFormat},
		{`{"topic":"a b","body":{}}`, 400, api.CodeInvalidTopicFormat},
		{`{"topic":"` + strings.Repeat("x", 129) + `","body":{}}`, 400, api.CodeInvalidTopicFormat},
		{`{"topic":5,"body":{}}`, 400, api.CodeInvalidRequest},
		{`{"topic":"t"}`, 400, api.CodeInvalidLogFormat},
		{`{"topic":"t","body":null}`, 400, api.CodeInvalidLogFormat},
		{`{"topic":"t","body":5}`, 400, api.CodeInvalidLogFormat},
		{`{"topic":"t","body":"{}"}`, 400, api.CodeInvalidLogFormat},
		{`{"topic":"t","body":true}`, 400, api.CodeInvalidLogFormat},
		{`{"topic":"t","body":` + deep + `}`, 400, api.CodeInvalidLogFormat},
		{`{"topic":"t","body":` + big + `}`, 413, api.CodeTooLarge},
		{many, 413, api.CodeTooLarge},
		{`[{"topic":"t","body":{}},{"topic":"t","body":1}]`, 400, api.CodeInvalidLogFormat},
		{`[{"topic":"t","body":{}},{"topic":"t","body":{},"body":{}}]`, 400, api.CodeInvalidRequest},
		{`[{"topic":"t","body":{}},{"topic":"t","Body":{}}]`, 400, api.CodeInvalidRequest},
	} {
		call(t, s, "POST", "/v1/commit", c.body).wantsProblem(t, c.status, c.code)
		if !strings.HasPrefix(c.body, "[") { // the same beside an ack
			call(t, s, "POST", "/v1/commit", "["+c.body+"]").wantsProblem(t, c.status, c.code)
		}
		call(t, s, "POST", "/v1/procs/p/ack-commit", `{"token":"x","logs":`+c.body+`}`).wantsProblem(t, c.status, c.code)
	}
	if a := call(t, s, "POST", "/v1/commit", `[{"topic":"t","body":{}},{"topic":"t","body":1}]`); !strings.Contains(a.body, "log 1: ") {
		t.Errorf("which log is wrong is not told: %s", a.body)
	}
	for body, want := range map[string]api.Code{"5": api.CodeInvalidLogFormat, "null": api.CodeInvalidLogFormat,
		`"x"`: api.CodeInvalidLogFormat, "": api.CodeInvalidLogFormat, "  ": api.CodeInvalidLogFormat, deep: api.CodeInvalidLogFormat} {
		call(t, s, "POST", "/v1/topics/t/logs", body).wantsProblem(t, 400, want)
	}
	call(t, s, "POST", "/v1/topics/t/logs", big+" ").wantsProblem(t, 413, api.CodeTooLarge)
}

func TestLimitsOfACommitAreAllowed(t *testing.T) {
	var got []api.NewLog
	s := keeping(&got, nil)
	big := `["` + strings.Repeat("x", api.MaxBodySize-4) + `"]`
	if a := call(t, s, "POST", "/v1/commit", `{"topic":"t","body":  `+big+`}`); a.status != 201 || len(got[0].Body) != api.MaxBodySize {
		t.Errorf("%d %s", a.status, a.body)
	}
	many := "[" + strings.Repeat(`{"topic":"t","body":{}},`, api.MaxCommitLogs-1) + `{"topic":"t","body":{}}]`
	if a := call(t, s, "POST", "/v1/commit", many); a.status != 201 || len(got) != api.MaxCommitLogs {
		t.Errorf("%d %.200s", a.status, a.body)
	}
}

func TestIdempotencyKey(t *testing.T) {
	var got []api.NewLog
	var key *api.IdempotencyKey
	s := keeping(&got, &key)
	call(t, s, "POST", "/v1/commit", `{"topic":"t","body":{}}`)
	if key != nil {
		t.Errorf("a key without the header: %+v", key)
	}
	// The hash tells these apart ...
	seen := map[[32]byte]string{}
	for _, c := range []struct{ path, body string }{
		{"/v1/commit", `{"topic":"t","body":{}}`},
		{"/v1/commit", `[{"topic":"t","body":{}}]`},
		{"/v1/topics/t/logs", `{}`},
		{"/v1/topics/u/logs", `{}`},
		{"/v1/commit", `{"topic":"u","body":{}}`},
		{"/v1/commit", `{"topic":"t","body":[]}`},
		{"/v1/commit", `[{"topic":"t","body":{}},{"topic":"t","body":{}}]`},
		{"/v1/commit", `[{"topic":"t","body":{}},{"topic":"u","body":{}}]`},
		{"/v1/commit", `[{"topic":"u","body":{}},{"topic":"t","body":{}}]`},
		{"/v1/commit", `{"topic":"t","body":{"a":1,"b":2}}`},
		{"/v1/commit", `{"topic":"t","body":{"b":2,"a":1}}`},
		{"/v1/commit", `{"topic":"t","body":[1]}`},
		{"/v1/commit", `{"topic":"t","body":[1.0]}`},
	} {
		a := call(t, s, "POST", c.path, c.body, "Idempotency-Key: k-1")
		if a.status != 201 || strings.Contains(a.body, "duplicate") || key.Key != "k-1" || key.APIKey != "" {
			t.Errorf("%d %s, key %+v", a.status, a.body, key)
		}
		if other := seen[key.Hash]; other != "" {
			t.Errorf("%s %s hashes as %s", c.path, c.body, other)
		}
		seen[key.Hash] = c.path + " " + c.body
		// ... but not what differs in space alone.
		hash := key.Hash
		call(t, s, "POST", c.path, strings.ReplaceAll(c.body, ":", " : ")+"\n", "Idempotency-Key: k-2")
		if key.Hash != hash || key.Key != "k-2" {
			t.Errorf("%s %s hashes differently with spaces", c.path, c.body)
		}
	}
	for _, good := range []string{"x", strings.Repeat("~", 255), `"quoted"`, "!"} {
		if a := call(t, s, "POST", "/v1/commit", `{"topic":"t","body":{}}`, "Idempotency-Key: "+good); a.status != 201 || key.Key != good {
			t.Errorf("%q: %d", good, a.status)
		}
	}
	for _, bad := range [][]string{{strings.Repeat("x", 256)}, {"a b"}, {"é"}, {"a\tb"}, {""}, {"a", "a"}, {"a", "b"}, {"\x7f"}} {
		for path, body := range map[string]string{"/v1/commit": `{"topic":"t","body":{}}`, "/v1/topics/t/logs": "{}"} {
			got = nil
			r := request("POST", path, body)
			r.Header["Idempotency-Key"] = bad
			do(t, s, r).wantsProblem(t, 400, api.CodeInvalidRequest)
			if got != nil {
				t.Errorf("committed with the key %q", bad)
			}
		}
	}
}

func TestDuplicateCommit(t *testing.T) {
	s := New(Config{Logs: logs{commit: func(l []api.NewLog, k *api.IdempotencyKey) (api.Committed, error) {
		return api.Committed{IDs: make([]api.ID, len(l)), Duplicate: true}, nil
	}}})
	const key = "Idempotency-Key: k"
	call(t, s, "POST", "/v1/commit", `{"topic":"t","body":{}}`, key).wants(t, 200, `{"id":"0-0","duplicate":true}`)
	call(t, s, "POST", "/v1/commit", `[{"topic":"t","body":{}}]`, key).wants(t, 200, `{"ids":["0-0"],"duplicate":true}`)
	a := call(t, s, "POST", "/v1/topics/t/logs", `{}`, key)
	a.wants(t, 200, `{"id":"0-0","duplicate":true}`)
	if a.header.Get("Location") != "/v1/topics/t/logs/0-0" {
		t.Error(a.header)
	}
	s = New(Config{Logs: logs{commit: func([]api.NewLog, *api.IdempotencyKey) (api.Committed, error) {
		return api.Committed{}, api.Errorf(api.CodeKeyReused, "reused")
	}}})
	call(t, s, "POST", "/v1/topics/t/logs", `{}`, key).wantsProblem(t, 422, api.CodeKeyReused)
}
