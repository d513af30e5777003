package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"pipeproc/client"
)

// nastyBodies are bodies as they are sent; they come back as compacted JSON, else byte for byte.
var nastyBodies = []string{
	`{"z":1,"a":2,"m":{"y":1,"b":2}}`, // the order of keys
	`{"a":1,"a":2,"A":3,"a":1}`,       // duplicate keys
	`{"":0," ":1}`,                    // odd keys
	`[1e2,1E+2,1.0,-0,-0.0,0e0,100]`,  // the text of numbers
	`[12345678901234567890,1e400,-1e-400,0.1000000000000000055511151231257827]`, // beyond float64 and int64
	`["\u0000","a\u0000b","\ud800","\udfff\ud800"]`,                             // NUL and lone surrogates
	`["\ud83d\ude00","😀","\u00e9","é","\/","/"]`,                                // escapes stay escapes
	`["<script>&amp;</script>","\u003c\u003e\u0026"]`,                           // nothing is escaped for HTML
	"[\"\u2028\u2029\",\"\x7f\",\"\ufeff\",\"\ufffd\"]",
	`["\n\r\t\b\f\\\"","line\\nbreak"]`,
	`{"id":"1-0","body":{"logs":[]},"next":null}`, // what the envelopes say themselves
	`["data: x\n\nevent: y"]`,
	`[true,false,null,[],{},[[]],[{}]]`,
	`{}`,
	`[]`,
	" {\n\t\"a\" :\r\n [ 1 , 2 ] , \"b\" : \" spaced  out \" }\n",
	strings.Repeat("[", 128) + strings.Repeat("]", 128),
}

// compacted is a body as it is to come back.
func compacted(t *testing.T, body string) string {
	t.Helper()
	var b bytes.Buffer
	if err := json.Compact(&b, []byte(body)); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// Promise 9, on every way that a body can take.
func TestBodiesComeBackAsTheyWere(t *testing.T) {
	t.Parallel()
	w := wireTo(t, start(t))
	var want []string
	for i, body := range nastyBodies {
		want = append(want, compacted(t, body))
		if i%2 == 0 {
			w.post("/v1/topics/t/logs", body).is(201)
		} else {
			w.post("/v1/commit", `{"body":`+body+`,"topic":"t"}`).is(201)
		}
	}
	var all []string // {"id":…,"body":…} of every log, as it is to come back
	for i, id := range w.get("/v1/topics/t/logs").is(200).ids("logs") {
		all = append(all, fmt.Sprintf(`{"id":%q,"body":%s}`, id, want[i]))
	}
	has := func(a *wireAnswer, part string) {
		t.Helper()
		if a.is(200); !strings.Contains(a.Text, part) {
			t.Errorf("%s: %s\nhas no %s", a.what, a.Text, part)
		}
	}
	logs := `"logs":[` + strings.Join(all, ",") + `]`
	has(w.get("/v1/topics/t/logs"), logs)
	has(w.get("/v1/topics/t/logs?direction=reverse&limit=1"), `"logs":[`+all[len(all)-1]+`]`)
	for i := range all {
		if one := w.get(fmt.Sprintf("/v1/topics/t/logs/:%d", i)).is(200); strings.TrimSpace(one.Text) != all[i] {
			t.Errorf("log %d is %s\nwant %s", i, one.Text, all[i])
		}
	}
	has(w.post("/v1/procs/whole/claim", `{"topic":"t","count":1000}`), logs)
	has(w.post("/v1/claims", `{"procs":[{"name":"any","topic":"t","count":1000}]}`), logs)
	first := w.claim("next", `{"topic":"t"}`)
	has(w.post("/v1/procs/next/ack", `{"token":"`+first.str("claim.token")+`","claimNext":true,"count":1000}`),
		`"logs":[`+strings.Join(all[1:], ",")+`]`)

	// ackCommit's logs are bodies like all others.
	outputs := make([]string, len(nastyBodies))
	for i, body := range nastyBodies {
		outputs[i] = `{"topic":"out","body":` + body + `}`
	}
	w.post("/v1/procs/whole/ack-commit", `{"logs":[`+strings.Join(outputs, ",")+`]}`).is(200)
	for i := range want {
		if one := w.get(fmt.Sprintf("/v1/topics/out/logs/:%d", i)).is(200); !strings.HasSuffix(strings.TrimSpace(one.Text), `"body":`+want[i]+"}") {
			t.Errorf("the output %d is %s\nwant %s", i, one.Text, want[i])
		}
	}

	// The streams.
	tail, err := w.Tail(t.Context(), client.TailOptions{Topics: []string{"t"}, Start: "earliest"})
	if err != nil {
		t.Fatal(err)
	}
	defer tail.Close()
	for i := range all {
		event, err := tail.Next()
		if err != nil {
			t.Fatal(err)
		}
		if got := string(event.Data); event.Type != "log" || got != `{"topic":"t",`+all[i][1:] {
			t.Errorf("the tail's event %s is %s\nwant %s", event.Type, got, all[i])
		}
	}
	live, err := w.TopicLive(t.Context(), "t", client.LiveOptions{Mode: "all", Count: 1000})
	if err != nil {
		t.Fatal(err)
	}
	defer live.Close()
	for {
		event, err := live.Next()
		if err != nil {
			t.Fatal(err)
		}
		if event.Type == "logs" {
			if !strings.Contains(string(event.Data), logs) {
				t.Errorf("the liveProc's event is %s\nhas no %s", event.Data, logs)
			}
			break
		}
	}
}
