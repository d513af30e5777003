package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"pipeproc/api"
	"pipeproc/pgstore/pgtest"
)

// odd are bodies that JSON libraries like to change.
var odd = []string{
	`{"z":1,"a":2,"z":3}`, `{"n":[1e2,1E+2,-0,0.10,12345678901234567890,1e400]}`, `{"s":"\u0000\ud800\u00e9é\/<>&\u003c"}`,
	`[[],{},[null,true,"x"]]`, `{"":{"":[]}}`, `{"emoji":"😀\ud83d\ude00"}`,
}

// TestWebhook holds the call of a processor and what becomes of its answers, each test on topics of its own.
func TestWebhook(t *testing.T) {
	t.Parallel()
	s := start(t)
	for name, test := range map[string]func(procWire){
		"call":            testCall,
		"never expires":   testCallNeverExpires,
		"bodies":          testBodiesAreKept,
		"later":           testAnswersLater,
		"user acks":       testUserAcksFirst,
		"user reclaims":   testUserReclaims,
		"time-out":        testWebhookTimesOut,
		"answer is lost":  testAnswerIsLost,
		"disabled":        testDisabledWhileCalled,
		"max reclaims":    testWebhookMaxReclaims,
		"continue":        testWebhookContinues,
		"seek":            testSeekSystemProc,
		"anew":            testSystemProcMadeAnew,
		"destroyed":       testDestroyedWhileCalled,
		"patched":         testPatchedWhileCalled,
		"output too late": testTopicGoneWhileCalled,
		"no redirects":    testRedirectIsNotFollowed,
		"not reachable":   testUnreachableProcessor,
		"wait":            testWaitForSystemProcs,
		"chain":           testChain,
		"fan in, fan out": testFan,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(wireTo(t, s))
		})
	}
}

func testCall(w procWire) {
	p := newProcessor(w.t)
	w.commitBodies("call_a", odd...)
	ids := w.get("/v1/topics/call_a/logs").ids("logs")
	w.post("/v1/system-procs", fmt.Sprintf(`{"name":"call","from":"call_a","to":"call_o","count":%d,"reclaimTimeout":5000,
		"processor":{"url":%q,"headers":{"Authorization":"Bearer abc","X-Own":"é"}}}`, len(odd), p.URL)).is(201)
	c := p.next()

	var whole map[string]json.RawMessage
	if err := json.Unmarshal(c.Body, &whole); err != nil {
		w.t.Fatal(err)
	}
	told := &wireAnswer{t: w.t, what: "the call", Text: string(c.Body)}
	d := json.NewDecoder(strings.NewReader(told.Text))
	d.UseNumber()
	if err := d.Decode(&told.JSON); err != nil {
		w.t.Fatal(err)
	}
	told.hasExactly("", "proc", "topic", "claim", "logs").hasExactly("claim", "token", "attempt", "expiresAt").
		hasExactly("logs.0", "id", "body").has("proc", "call").has("topic", "call_a")
	if d := cmp.Diff(ids, told.ids("logs")); d != "" {
		w.t.Error(d)
	}
	var logs []string
	for i, body := range odd {
		logs = append(logs, fmt.Sprintf(`{"id":%q,"body":%s}`, ids[i], body))
	}
	if want := "[" + strings.Join(logs, ",") + "]"; string(whole["logs"]) != want {
		w.t.Errorf("logs:\n%s\nwant\n%s", whole["logs"], want)
	}
	for name, want := range map[string]string{"Content-Type": "application/json", "Authorization": "Bearer abc", "X-Own": "é",
		"Webhook-Attempt": "1"} {
		if got := c.Header.Get(name); got != want {
			w.t.Errorf("header %s: %q, want %q", name, got, want)
		}
	}
	if at, err := strconv.ParseInt(c.Header.Get("webhook-timestamp"), 10, 64); err != nil || time.Since(time.Unix(at, 0)).Abs() > time.Minute {
		w.t.Errorf("webhook-timestamp %q", c.Header.Get("webhook-timestamp"))
	}
	if id := c.Header.Get("webhook-id"); id == "" || strings.Contains(id, ".") {
		w.t.Errorf("webhook-id %q", id)
	}
	// The claim is that of the proc.
	proc := w.proc("call").hasExactly("claim", "token", "range", "attempt", "expiresAt").has("claim.token", c.Claim.Token).
		has("claim.attempt", 1).has("claim.range", wireRange(ids...)).has("lag", len(odd)).has("lastClaimedRange", wireRange(ids...))
	if c.Claim.Attempt != 1 || c.Claim.ExpiresAt == nil || *c.Claim.ExpiresAt != proc.num("claim.expiresAt") ||
		*c.Claim.ExpiresAt != proc.num("lastClaimedAt")+5000 {
		w.t.Errorf("claim %+v of %s", c.Claim, proc.Text)
	}
	w.get("/v1/topics/call_o").isProblem(404, "invalid_topic")
	c.answer(200, `{"done":true}`)
	w.done("call")
	w.proc("call").has("claim", nil).has("lastAckedRange", wireRange(ids...)).has("reclaims", 0).has("lag", 0)
	if got := w.bodies("call_o"); got != `{"done":true}` {
		w.t.Errorf("output %s", got)
	}

	// One log at a time is the default, in order, each under an id of its own.
	w.systemProc("call_each", "call_a", p.URL)
	seen := map[string]bool{c.Header.Get("webhook-id"): true}
	for i, id := range ids {
		c := p.next()
		if len(c.Logs) != 1 || c.Logs[0].ID.String() != id || seen[c.Header.Get("webhook-id")] {
			w.t.Errorf("call %d: %s", i, c.Body)
		}
		seen[c.Header.Get("webhook-id")] = true
		c.answer(204, "")
	}
	w.done("call_each")
	p.idle()
}

func testCallNeverExpires(w procWire) {
	p := newProcessor(w.t)
	w.commit("never_a", 1)
	w.systemProc("never", "never_a", p.URL, `"reclaimTimeout":-1`)
	c := p.next()
	if !strings.Contains(string(c.Body), `"expiresAt":null`) {
		w.t.Errorf("the call: %s", c.Body)
	}
	w.proc("never").has("claim.expiresAt", nil)
	c.answer(200, `null`)
	w.done("never")
}

func testBodiesAreKept(w procWire) {
	w.commitBodies("kept_a", odd...)
	w.systemProc("kept", "kept_a", serveWebhook(w.t, echoes), `"to":"kept_b"`, `"count":4`)
	w.systemProc("kept2", "kept_b", serveWebhook(w.t, echoes), `"to":"kept_c"`)
	w.done("kept", "kept2")
	want := strings.Join(odd, "\n")
	if got := w.bodies("kept_c"); got != want {
		w.t.Errorf("output\n%s\nwant\n%s", got, want)
	}
}

// TestWebhookOutputs holds what each form of answer gives.
func TestWebhookOutputs(t *testing.T) {
	t.Parallel()
	s := start(t)
	const (
		js     = "application/json"
		commit = "application/vnd.pipeproc.commit+json"
	)
	addressed := func(topics ...string) string {
		var logs []string
		for i, topic := range topics {
			logs = append(logs, fmt.Sprintf(`{"topic":%q,"body":{"n":%d}}`, topic, i))
		}
		return "[" + strings.Join(logs, ", ") + "]"
	}
	for _, tt := range []struct {
		name, to    string // to: names of topics, each test's own
		status      int
		contentType string
		answer      string
		want        string // of each topic of to: "topic: bodies"; "failed" where the attempt failed
	}{
		{"object", `"A"`, 200, js, `{"x": [1, 2]}`, `A: {"x":[1,2]}`},
		{"empty object", `"A"`, 200, js, `{}`, `A: {}`},
		{"odd object", `"A"`, 200, js, odd[0], `A: ` + odd[0]},
		{"created", `"A"`, 201, js, `{"x":1}`, `A: {"x":1}`},
		{"another 2xx", `"A"`, 299, js, `{"x":1}`, `A: {"x":1}`},
		{"charset", `"A"`, 200, js + "; charset=utf-8", `{"x":1}`, `A: {"x":1}`},
		{"space around", `"A"`, 200, js, "\n { \"x\" : 1 } \n", `A: {"x":1}`},
		{"array", `"A"`, 200, js, `[{"x":1}, {"x":2}, {"x":3}]`, "A: {\"x\":1} {\"x\":2} {\"x\":3}"},
		{"array of arrays", `"A"`, 200, js, `[[1], [[2]], []]`, `A: [1] [[2]] []`},
		{"odd array", `"A"`, 200, js, "[" + strings.Join(odd[:2], ",") + "]", "A: " + odd[0] + " " + odd[1]},
		{"object to several", `["A","B","C"]`, 200, js, `{"x":1}`, `A: {"x":1} B: {"x":1} C: {"x":1}`},
		{"array to several", `["A","B"]`, 200, js, `[{"x":1},[2]]`, `A: {"x":1} [2] B: {"x":1} [2]`},
		{"null", `"A"`, 200, js, `null`, ``},
		{"empty array", `"A"`, 200, js, `[]`, ``},
		{"empty array with space", `"A"`, 200, js, " [ ]\n", ``},
		{"204", `"A"`, 204, "", ``, ``},
		{"empty", `"A"`, 200, "", ``, ``},
		{"empty JSON", `"A"`, 200, js, ``, ``},
		{"no to", `[]`, 200, js, `{"x":1}`, ``},
		{"to is absent", ``, 200, js, `[{"x":1}]`, ``},
		{"no to, text", ``, 200, "text/plain", `OK`, ``},
		{"addressed", `["A","B"]`, 200, commit, addressed("B", "A", "B"), `A: {"n":1} B: {"n":0} {"n":2}`},
		{"addressed to one of several", `["A","B"]`, 200, commit, addressed("B"), `B: {"n":0}`},
		{"addressed, charset", `"A"`, 200, commit + "; charset=utf-8", addressed("A"), `A: {"n":0}`},
		{"addressed, odd", `"A"`, 200, commit, `[{"body":` + odd[1] + `,"topic":"A"}]`, `A: ` + odd[1]},
		{"addressed to nobody", `"A"`, 200, commit, `[]`, ``},

		{"addressed elsewhere", `["A"]`, 200, commit, addressed("A", "B"), "failed"},
		{"addressed to a bad topic", `["A"]`, 200, commit, `[{"topic":"a b","body":{}}]`, "failed"},
		{"addressed scalar", `["A"]`, 200, commit, `[{"topic":"A","body":{}},{"topic":"A","body":1}]`, "failed"},
		{"addressed without body", `["A"]`, 200, commit, `[{"topic":"A"}]`, "failed"},
		{"addressed with more", `["A"]`, 200, commit, `[{"topic":"A","body":{},"id":1}]`, "failed"},
		{"addressed object", `["A"]`, 200, commit, `{"topic":"A","body":{}}`, "failed"},
		{"number", `"A"`, 200, js, `7`, "failed"},
		{"string", `"A"`, 200, js, `"x"`, "failed"},
		{"true", `"A"`, 200, js, `true`, "failed"},
		{"array with a number", `"A"`, 200, js, `[{"x":1}, 7]`, "failed"},
		{"array with a string", `"A"`, 200, js, `["x"]`, "failed"},
		{"array with null", `"A"`, 200, js, `[null]`, "failed"},
		{"array with null after", `["A","B"]`, 200, js, `[{"x":1}, null]`, "failed"},
		{"no JSON", `"A"`, 200, js, `{"x":1`, "failed"},
		{"two values", `"A"`, 200, js, `{} {}`, "failed"},
		{"text", `"A"`, 200, "text/plain", `OK`, "failed"},
		{"invalid UTF-8", `"A"`, 200, js, "{\"x\":\"\xff\"}", "failed"},
		{"too large", `"A"`, 200, js, `{"x":"` + strings.Repeat("y", 1<<20) + `"}`, "failed"},
		{"301", `"A"`, 301, js, `{"x":1}`, "failed"},
		{"304", `"A"`, 304, "", ``, "failed"},
		{"401", `"A"`, 401, js, `{"x":1}`, "failed"},
		{"404", `"A"`, 404, js, `{"x":1}`, "failed"},
		{"409", `"A"`, 409, "", ``, "failed"},
		{"500", `"A"`, 500, js, `{"x":1}`, "failed"},
		{"503", `"A"`, 503, "", ``, "failed"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := wireTo(t, s)
			own := func(text string) string {
				for _, topic := range []string{"A", "B", "C"} {
					text = strings.ReplaceAll(text, `"`+topic+`"`, fmt.Sprintf("%q", ownTopic(t, topic)))
				}
				return text
			}
			p := newProcessor(t)
			in, name := ownTopic(t, "in"), ownTopic(t, "sp")
			w.commitBodies(in, `{"i":0}`, `{"i":1}`)
			var members []string
			if tt.to != "" {
				members = append(members, `"to":`+own(tt.to))
			}
			w.systemProc(name, in, p.URL, members...)
			first := p.next()
			first.answerAs(tt.status, tt.contentType, own(tt.answer))
			second := p.next()

			if tt.want == "failed" {
				if second.Header.Get("webhook-id") != first.Header.Get("webhook-id") || second.Claim.Attempt != 2 ||
					second.Claim.Token == first.Claim.Token || second.Header.Get("webhook-attempt") != "2" {
					t.Errorf("the second call is no second attempt: %s", second.Body)
				}
				if d := cmp.Diff(first.Logs, second.Logs); d != "" {
					t.Errorf("the second attempt (-first +second):\n%s", d)
				}
				got := w.proc(name).has("reclaims", 1).has("lag", 2).has("lastAckedRange", "").has("claim.attempt", 2).has("status", "active")
				if got.str("lastError") == "" {
					t.Error("lastError is empty")
				}
				for _, topic := range []string{"A", "B", "C"} {
					w.get("/v1/topics/"+ownTopic(t, topic)).isProblem(404, "invalid_topic")
				}
				second.answer(200, "null") // a good answer ends the trouble
				third := p.next()
				if len(third.Logs) != 1 || string(third.Logs[0].Body) != `{"i":1}` || third.Claim.Attempt != 1 {
					t.Errorf("after the second attempt: %s", third.Body)
				}
				if _, told := w.proc(name).has("reclaims", 0).JSON.(map[string]any)["lastError"]; told {
					t.Error("lastError is told after an ack")
				}
				third.answer(204, "")
				w.done(name)
				return
			}
			if len(second.Logs) != 1 || string(second.Logs[0].Body) != `{"i":1}` || second.Claim.Attempt != 1 {
				t.Errorf("the second call: %s", second.Body)
			}
			second.answer(204, "")
			w.done(name)
			var got []string
			for _, topic := range []string{"A", "B", "C"} {
				if bodies := w.bodies(ownTopic(t, topic)); bodies != "" {
					got = append(got, topic+": "+strings.ReplaceAll(bodies, "\n", " "))
				}
			}
			if d := cmp.Diff(tt.want, strings.Join(got, " ")); d != "" {
				t.Errorf("output (-want +got):\n%s", d)
			}
			// All of one commit share one timestamp.
			stamps := map[int64]bool{}
			for _, topic := range []string{"A", "B", "C"} {
				a := w.get("/v1/topics/" + ownTopic(t, topic) + "/logs")
				if a.Status != 200 {
					continue
				}
				for _, text := range a.ids("logs") {
					id, err := api.ParseID(text)
					if err != nil {
						t.Fatal(err)
					}
					stamps[id.TS] = true
				}
			}
			if len(stamps) > 1 {
				t.Errorf("one answer was committed with several timestamps: %v", stamps)
			}
		})
	}
}

// ownTopic is a name that no other test has.
func ownTopic(t *testing.T, name string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return '_'
	}, t.Name()) + "-" + name
}

func testAnswersLater(w procWire) {
	p := newProcessor(w.t)
	w.commit("later_a", 5)
	ids := w.get("/v1/topics/later_a/logs").ids("logs")
	w.systemProc("later", "later_a", p.URL, `"to":"later_o"`, `"reclaimTimeout":60000`)
	const proc = "/v1/procs/later"

	// ack-commit, to any topic.
	c := p.next()
	c.answer(202, `{"not":"an output"}`)
	w.until("later", "a claim", func(p api.Proc) bool { return p.Claim != nil })
	a := w.post(proc+"/ack-commit", `{"token":"`+c.Claim.Token+`","logs":[{"topic":"later_o","body":{"n":0}},{"topic":"later_else","body":{"n":0}}]}`).is(200)
	a.hasExactly("", "ackedLogId", "ids").has("ackedLogId", ids[0])
	// Repeated, it is the same.
	w.post(proc+"/ack-commit", `{"token":"`+c.Claim.Token+`","logs":{"topic":"later_o","body":{"n":9}}}`).tellsAs(a)

	// ack.
	c = p.next()
	if c.Logs[0].ID.String() != ids[1] {
		w.t.Errorf("after an ack-commit: %s", c.Body)
	}
	c.answer(202, ``)
	w.post(proc+"/ack", `{"token":"`+c.Claim.Token+`"}`).is(200).hasExactly("", "ackedLogId").has("ackedLogId", ids[1])

	// extend, then reclaim: the same logs under the same id.
	c = p.next()
	c.answer(202, ``)
	w.post(proc+"/extend", `{"token":"no"}`).isProblem(409, "claim_lost")
	e := w.post(proc+"/extend", `{"token":"`+c.Claim.Token+`"}`).is(200).hasExactly("", "claim").hasExactly("claim", "token", "range", "attempt", "expiresAt")
	e.has("claim.token", c.Claim.Token).has("claim.attempt", 1).has("claim.range", ids[2]+".."+ids[2])
	if e.num("claim.expiresAt") <= *c.Claim.ExpiresAt {
		w.t.Errorf("extended from %d: %s", *c.Claim.ExpiresAt, e.Text)
	}
	w.post(proc+"/reclaim", `{"token":"no"}`).isProblem(409, "claim_lost")
	w.post(proc+"/reclaim", `{"token":"`+c.Claim.Token+`"}`).is(200).has("lastClaimedRange", ids[1]+".."+ids[1])
	again := p.next()
	if again.Header.Get("webhook-id") != c.Header.Get("webhook-id") || again.Claim.Attempt != 2 || again.Logs[0].ID.String() != ids[2] {
		w.t.Errorf("after a reclaim: %s", again.Body)
	}
	again.answer(202, ``)
	// The first attempt's token is worth nothing now.
	w.post(proc+"/ack-commit", `{"token":"`+c.Claim.Token+`","logs":{"topic":"later_o","body":{"late":true}}}`).isProblem(409, "claim_lost")
	// claimNext would be a claim by a user.
	w.post(proc+"/ack", `{"token":"`+again.Claim.Token+`","claimNext":true}`).isProblem(409, "proc_is_managed")
	w.post(proc+"/ack", `{"token":"`+again.Claim.Token+`"}`).is(200)

	// The next answers at once.
	p.next().answer(200, `{"n":3}`)
	c = p.next()
	c.answer(202, ``)
	w.post(proc+"/ack-commit", `{"token":"`+c.Claim.Token+`","logs":[]}`).is(400) // no logs: that is an ack
	w.post(proc+"/ack", `{"token":"`+c.Claim.Token+`"}`).is(200)
	w.done("later")
	if got := w.bodies("later_o") + " " + w.bodies("later_else"); got != "{\"n\":0}\n{\"n\":3} {\"n\":0}" {
		w.t.Errorf("output %s", got)
	}
}

func testUserAcksFirst(w procWire) {
	p := newProcessor(w.t)
	w.commit("first_a", 2)
	w.systemProc("first", "first_a", p.URL, `"to":"first_o"`)
	c := p.next()
	w.post("/v1/procs/first/ack-commit", `{"token":"`+c.Claim.Token+`","logs":{"topic":"first_o","body":{"by":"user"}}}`).is(200)
	c.answer(200, `{"by":"processor"}`) // too late: the claim is no more
	second := p.next()
	if second.Header.Get("webhook-id") == c.Header.Get("webhook-id") {
		w.t.Errorf("called again for acked logs: %s", second.Body)
	}
	second.answer(200, `{"by":"processor"}`)
	w.done("first")
	if got := w.bodies("first_o"); got != "{\"by\":\"user\"}\n{\"by\":\"processor\"}" {
		w.t.Errorf("output %s", got)
	}
}

func testUserReclaims(w procWire) {
	p := newProcessor(w.t)
	w.commit("reclaimed_a", 1)
	w.patientSystemProc("reclaimed", "reclaimed_a", p.URL, `"to":"reclaimed_o"`)
	c := p.next()
	w.post("/v1/procs/reclaimed/reclaim", `{"token":"`+c.Claim.Token+`"}`).is(200).hasExactly("", "lastClaimedRange").has("lastClaimedRange", "")
	again := p.next() // the first call has not ended by itself
	if again.Header.Get("webhook-id") != c.Header.Get("webhook-id") || again.Claim.Attempt != 2 {
		w.t.Errorf("after a reclaim: %s", again.Body)
	}
	c.answer(200, `{"attempt":1}`)
	again.answer(200, `{"attempt":2}`)
	w.done("reclaimed")
	if got := w.bodies("reclaimed_o"); got != `{"attempt":2}` {
		w.t.Errorf("output %s", got)
	}
}

func testWebhookTimesOut(w procWire) {
	p := newProcessor(w.t)
	w.commit("slow_a", 1)
	w.post("/v1/system-procs", fmt.Sprintf(`{"name":"slow","from":"slow_a","to":"slow_o","processor":{"url":%q,"timeout":50}}`, p.URL)).is(201)
	c := p.next()
	select { // the server hangs up
	case <-c.gone:
	case <-time.After(10 * time.Second):
		w.t.Fatal("a call has no time-out")
	}
	again := p.next()
	if again.Header.Get("webhook-id") != c.Header.Get("webhook-id") || again.Claim.Attempt != 2 {
		w.t.Errorf("after a time-out: %s", again.Body)
	}
	c.answer(200, `{"attempt":1}`)
	w.send(http.MethodPatch, "/v1/system-procs/slow", `{"processor":"`+p.URL+`"}`).is(200)
	for again.Claim.Attempt < 5 { // until one comes that was begun with the new time-out
		select {
		case again = <-p.calls:
			continue
		case <-again.gone:
			again = p.next()
			continue
		case <-time.After(200 * time.Millisecond):
		}
		break
	}
	again.answer(200, `{"in":"time"}`)
	w.done("slow")
	if got := w.bodies("slow_o"); got != `{"in":"time"}` {
		w.t.Errorf("output %s", got)
	}
}

// testAnswerIsLost: the processor has done its work, and the answer does not arrive. It is called again, under the same
// id; the output is committed once.
func testAnswerIsLost(w procWire) {
	p := newProcessor(w.t)
	w.commit("lost_a", 3)
	w.systemProc("lost", "lost_a", p.URL, `"to":"lost_o"`, `"count":2`)
	c := p.next()
	w.commit("lost_a", 3) // a retry is the same range all the same
	c.die()
	again := p.next()
	if d := cmp.Diff(c.Logs, again.Logs); d != "" || again.Header.Get("webhook-id") != c.Header.Get("webhook-id") || again.Claim.Attempt != 2 {
		w.t.Errorf("after a lost answer: %s\n%s", again.Body, d)
	}
	w.send(http.MethodPatch, "/v1/procs/lost", `{"count":10}`).is(200)
	again.die()
	again = p.next()
	if d := cmp.Diff(c.Logs, again.Logs); d != "" || again.Header.Get("webhook-id") != c.Header.Get("webhook-id") || again.Claim.Attempt != 3 {
		w.t.Errorf("after another lost answer: %s\n%s", again.Body, d)
	}
	again.answer(200, `{"n":1}`)
	rest := p.next()
	if len(rest.Logs) != 4 {
		w.t.Errorf("the rest, with the new count: %s", rest.Body)
	}
	rest.answer(200, `{"n":2}`)
	w.done("lost")
	if got := w.bodies("lost_o"); got != "{\"n\":1}\n{\"n\":2}" {
		w.t.Errorf("output %s", got)
	}
}

// testDisabledWhileCalled: a disabled proc's webhook answer is still applied.
func testDisabledWhileCalled(w procWire) {
	p := newProcessor(w.t)
	w.commit("disabled_a", 2)
	w.systemProc("disabled", "disabled_a", p.URL, `"to":"disabled_o"`)
	c := p.next()
	w.post("/v1/procs/disabled/disable", ``).is(200).has("claim.token", c.Claim.Token)
	w.post("/v1/procs/disabled/reclaim", `{"token":"`+c.Claim.Token+`"}`).isProblem(409, "proc_is_disabled")
	c.answer(200, `{"n":0}`)
	w.until("disabled", "an ack", func(p api.Proc) bool { return p.LastAckedAt != nil })
	w.proc("disabled").has("lag", 1).has("claim", nil).has("status", "disabled")
	w.post("/v1/wait", `{"procs":["disabled"]}`).isProblem(409, "proc_is_disabled")
	w.commit("disabled_a", 1)
	p.idle()
	w.post("/v1/procs/disabled/resume", ``).is(200)
	c = p.next()
	c.answer(200, `{"n":1}`)
	p.next().answer(200, `{"n":2}`)
	w.done("disabled")
	if got := w.bodies("disabled_o"); got != "{\"n\":0}\n{\"n\":1}\n{\"n\":2}" {
		w.t.Errorf("output %s", got)
	}
}

func testWebhookMaxReclaims(w procWire) {
	p := newProcessor(w.t)
	w.commit("poison_a", 2)
	w.systemProc("poison", "poison_a", p.URL, `"maxReclaims":2`)
	id := ""
	for attempt := 1; attempt <= 2; attempt++ {
		c := p.next()
		if id == "" {
			id = c.Header.Get("webhook-id")
		}
		if c.Claim.Attempt != attempt || c.Header.Get("webhook-id") != id {
			w.t.Errorf("attempt %d: %s", attempt, c.Body)
		}
		c.answer(500, `{"e":1}`)
	}
	got := w.until("poison", "been disabled", func(p api.Proc) bool { return p.Status == api.StatusDisabled })
	if got.Reclaims != 2 || got.Claim != nil || got.Lag != 2 || got.LastError == "" {
		w.t.Errorf("disabled: %+v", got)
	}
	w.post("/v1/procs/poison/resume", ``).is(200).has("reclaims", 0)
	c := p.next()
	if c.Claim.Attempt != 1 || c.Header.Get("webhook-id") != id {
		w.t.Errorf("after a resume: %s", c.Body)
	}
	c.answer(500, ``)
	p.next().answer(500, ``)
	w.until("poison", "been disabled", func(p api.Proc) bool { return p.Status == api.StatusDisabled })
	// Skip the poison log.
	w.post("/v1/procs/poison/seek", `{"offset":":0"}`).is(200).has("status", "disabled").has("reclaims", 0)
	w.post("/v1/procs/poison/resume", ``).is(200)
	c = p.next()
	if string(c.Logs[0].Body) != `{"i":1}` || c.Header.Get("webhook-id") == id {
		w.t.Errorf("after the poison log: %s", c.Body)
	}
	c.answer(204, ``)
	w.done("poison")
}

func testWebhookContinues(w procWire) {
	p := newProcessor(w.t)
	w.commit("continue_a", 1)
	w.systemProc("continue", "continue_a", p.URL, `"maxReclaims":1`, `"onMaxReclaimsReached":"continue"`)
	for attempt := 1; attempt <= 3; attempt++ {
		c := p.next()
		if c.Claim.Attempt != attempt {
			w.t.Errorf("attempt %d: %s", attempt, c.Body)
		}
		if attempt < 3 {
			c.answer(500, ``)
		} else {
			w.proc("continue").has("status", "active").has("reclaims", 2)
			c.answer(200, ``)
		}
	}
	w.done("continue")
}

func testSeekSystemProc(w procWire) {
	p := newProcessor(w.t)
	w.commit("seek_a", 2)
	w.systemProc("seek", "seek_a", p.URL)
	first := p.next()
	w.post("/v1/procs/seek/seek", `{"offset":">"}`).isProblem(409, "already_claimed", "expiresAt")
	first.answer(204, ``)
	p.next().answer(204, ``)
	w.done("seek")
	w.post("/v1/procs/seek/seek", `{"offset":">"}`).is(200).has("lag", 2).has("lastClaimedRange", "").has("lastAckedRange", "")
	c := p.next()
	if c.Logs[0].ID != first.Logs[0].ID || c.Claim.Attempt != 1 || c.Header.Get("webhook-id") == first.Header.Get("webhook-id") {
		w.t.Errorf("a replay is another delivery: %s under %s", c.Body, c.Header.Get("webhook-id"))
	}
	c.answer(204, ``)
	p.next().answer(204, ``)
	w.done("seek")
}

func testSystemProcMadeAnew(w procWire) {
	p := newProcessor(w.t)
	w.commit("anew_a", 1)
	w.systemProc("anew", "anew_a", p.URL)
	first := p.next()
	first.answer(204, ``)
	w.done("anew")
	w.send(http.MethodDelete, "/v1/system-procs/anew", "").is(200)
	w.systemProc("anew", "anew_a", p.URL)
	c := p.next()
	if c.Logs[0].ID != first.Logs[0].ID || c.Header.Get("webhook-id") == first.Header.Get("webhook-id") || c.Claim.Token == first.Claim.Token {
		w.t.Errorf("another proc's delivery: %s under %s", c.Body, c.Header.Get("webhook-id"))
	}
	c.answer(204, ``)
	w.done("anew")
}

func testDestroyedWhileCalled(w procWire) {
	p := newProcessor(w.t)
	w.commit("destroyed_a", 1)
	w.patientSystemProc("destroyed", "destroyed_a", p.URL, `"to":"destroyed_o"`)
	c := p.next()
	w.send(http.MethodDelete, "/v1/system-procs/destroyed", "").is(200).has("procs.0.claim.token", c.Claim.Token)
	w.systemProc("destroyed", "destroyed_a", p.URL, `"to":"destroyed_o"`)
	again := p.next()
	c.answer(200, `{"by":"the former"}`)
	w.post("/v1/procs/destroyed/ack", `{"token":"`+c.Claim.Token+`"}`).isProblem(409, "claim_lost")
	again.answer(200, `{"by":"the new"}`)
	w.done("destroyed")
	if got := w.bodies("destroyed_o"); got != `{"by":"the new"}` {
		w.t.Errorf("output %s", got)
	}
}

// testPatchedWhileCalled: PATCH keeps position and claim; what is called, and with what, changes from the next call on.
func testPatchedWhileCalled(w procWire) {
	p, q := newProcessor(w.t), newProcessor(w.t)
	w.commit("patched_a", 5)
	w.systemProc("patched", "patched_a", p.URL, `"to":"patched_o"`)
	p.next().answer(200, `{"n":0}`)
	c := p.next()
	a := w.send(http.MethodPatch, "/v1/system-procs/patched", fmt.Sprintf(`{"to":["patched_o","patched_o2"],"count":3,"processor":%q}`, q.URL)).is(200)
	a.has("procs.0.claim.token", c.Claim.Token).has("procs.0.lag", 4).has("procs.0.count", 3)
	c.answer(200, `{"n":1}`)
	c = q.next()
	if len(c.Logs) != 3 {
		w.t.Errorf("with a count of 3: %s", c.Body)
	}
	c.answer(200, `{"n":2}`)
	w.done("patched")
	p.idle()
	if got := w.bodies("patched_o") + " " + w.bodies("patched_o2"); got != "{\"n\":0}\n{\"n\":1}\n{\"n\":2} {\"n\":2}" {
		w.t.Errorf("output %s", got)
	}
}

// testTopicGoneWhileCalled: a topic that is deleted meanwhile is made anew by the output, from seq 0.
func testTopicGoneWhileCalled(w procWire) {
	p := newProcessor(w.t)
	w.commit("gone_a", 2)
	w.systemProc("gone", "gone_a", p.URL, `"to":"gone_o"`)
	p.next().answer(200, `{"n":0}`)
	c := p.next()
	w.send(http.MethodDelete, "/v1/topics/gone_o", "").isEmpty(204)
	c.answer(200, `{"n":1}`)
	w.done("gone")
	w.get("/v1/topics/gone_o/logs").is(200).hasSeqs("logs", 0, 0).has("logs.0.body.n", 1)
}

func testRedirectIsNotFollowed(w procWire) {
	elsewhere := newProcessor(w.t)
	calls := make(chan int, 10)
	s := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		select {
		case calls <- len(calls):
		default:
		}
		http.Redirect(rw, r, elsewhere.URL, http.StatusTemporaryRedirect)
	}))
	defer s.Close()
	w.commit("redirect_a", 1)
	w.systemProc("redirect", "redirect_a", s.URL, `"maxReclaims":2`)
	w.until("redirect", "been disabled", func(p api.Proc) bool { return p.Status == api.StatusDisabled })
	if len(calls) != 2 {
		w.t.Errorf("called %d times", len(calls))
	}
	elsewhere.idle()
}

func testUnreachableProcessor(w procWire) {
	w.commit("unreachable_a", 1)
	w.systemProc("unreachable", "unreachable_a", nowhere, `"maxReclaims":2`)
	got := w.until("unreachable", "been disabled", func(p api.Proc) bool { return p.Status == api.StatusDisabled })
	if got.Reclaims != 2 || got.LastError == "" {
		w.t.Errorf("%+v", got)
	}
}

func testWaitForSystemProcs(w procWire) {
	p := newProcessor(w.t)
	w.commit("wait_a", 2)
	w.systemProc("wait", "wait_a", p.URL)
	c := p.next()
	w.post("/v1/wait", `{"procs":["wait"],"timeout":0}`).is(200).hasExactly("", "done", "procs").hasExactly("procs.0", "name", "lag").
		has("done", false).has("procs.0.name", "wait").has("procs.0.lag", 2) // claimed ones counted
	held := w.background("/v1/wait", `{"procs":["wait"]}`)
	c.answer(204, ``)
	p.next().answer(204, ``)
	w.soon(held).is(200).has("done", true).has("procs.0.lag", 0)
}

// testChain: a → b → c. Acks and outputs are one transaction, so procs that are all done at one instant have passed on
// everything.
func testChain(w procWire) {
	const n = 20
	url := serveWebhook(w.t, echoes)
	// The last one first: the order does not matter, nor that its topic is not known yet.
	w.systemProc("chain_3", "chain_c", url, `"to":"chain_d"`, `"count":7`)
	w.systemProc("chain_1", "chain_a", url, `"to":["chain_b"]`)
	w.systemProc("chain_2", "chain_b", url, `"to":"chain_c"`, `"count":3`)
	for round := 1; round <= 2; round++ {
		w.commit("chain_a", n)
		w.done("chain_1", "chain_2", "chain_3")
		w.get(fmt.Sprintf("/v1/topics/chain_d/logs?limit=1000&start=:%d", (round-1)*n)).is(200).
			hasSeqs("logs", int64(round-1)*n, int64(round)*n-1).has(fmt.Sprintf("logs.%d.body.i", n-1), n-1)
	}
	if a, d := w.bodies("chain_a"), w.bodies("chain_d"); a != d {
		w.t.Errorf("in\n%s\nout\n%s", a, d)
	}
}

// testFan: several topics to one processor, one output to several topics.
func testFan(w procWire) {
	w.commit("fan_a", 10)
	w.commit("fan_b", 20)
	w.post("/v1/system-procs", fmt.Sprintf(`{"name":"fan","from":["fan_a","fan_b"],"to":["fan_x","fan_y"],"processor":%q}`,
		serveWebhook(w.t, echoes))).is(201)
	w.done("fan__fan_a", "fan__fan_b")
	x, y := w.bodies("fan_x"), w.bodies("fan_y")
	if x != y || strings.Count(x, "\n") != 29 {
		w.t.Errorf("outputs:\n%s\n\n%s", x, y)
	}
	w.get("/v1/topics/fan_x").is(200).has("length", 30)
}

// TestWebhookClaimTimesOut moves the clock: a claim is lost while its processor still works.
func TestWebhookClaimTimesOut(t *testing.T) {
	t.Parallel()
	s := start(t)
	w := wireTo(t, s)
	p := newProcessor(t)
	w.commit("a", 2)
	w.patientSystemProc("sp", "a", p.URL, `"to":"o"`)
	first := p.next()
	pgtest.MoveClock(t, s.Database, "default", 61*time.Second)
	again := p.next() // by the sweep, and a retry's delay
	if again.Header.Get("webhook-id") != first.Header.Get("webhook-id") || again.Claim.Attempt != 2 || again.Claim.Token == first.Claim.Token {
		t.Errorf("after the claim's time-out: %s", again.Body)
	}
	w.proc("sp").has("reclaims", 1).has("claim.attempt", 2)
	first.answer(200, `{"attempt":1}`)
	w.post("/v1/procs/sp/ack", `{"token":"`+first.Claim.Token+`"}`).isProblem(409, "claim_lost")
	again.answer(200, `{"attempt":2}`)

	// A processor that said 202 and never acks loses its claim as well.
	c := p.next()
	c.answer(202, ``)
	pgtest.MoveClock(t, s.Database, "default", 200*time.Second)
	again = p.next()
	if again.Header.Get("webhook-id") != c.Header.Get("webhook-id") || again.Claim.Attempt != 2 {
		t.Errorf("after 202 and the time-out: %s", again.Body)
	}
	again.answer(200, `{"attempt":4}`)
	w.done("sp")
	if got := w.bodies("o"); got != "{\"attempt\":2}\n{\"attempt\":4}" {
		t.Errorf("output %s", got)
	}
}

// TestFinalAnswers holds the answers that tell what to do with the proc, under both strategies, by a clock that stands still.
func TestFinalAnswers(t *testing.T) {
	t.Parallel()
	s := start(t)
	w := wireTo(t, s)
	clock := w.stopClock()
	const longest, year = 5 * 60 * 1000, 365 * 24 * 60 * 60 * 1000
	for i, tt := range []struct {
		status             int
		retryAfter         string
		disabled, goesOn   bool // under disable, under continue: still active
		reclaims           int64
		waits, waitsGoesOn int64 // ms; -1 not told
	}{
		{400, "", true, true, 1, -1, longest},
		{422, "", true, true, 1, -1, longest},
		{422, "7", true, true, 1, -1, longest},
		{410, "", true, false, 1, -1, -1},
		{429, "7", false, true, 0, 7_000, 7_000},
		{503, "0", false, true, 0, 1_000, 1_000},
		{503, "7200", false, true, 0, 7_200_000, 7_200_000},
		{503, "31536000", false, true, 0, year, year},
		{429, "99999999999999999999", false, true, 0, year, year},
	} {
		for _, on := range []string{"disable", "continue"} {
			name := fmt.Sprintf("final_%d_%s", i, on)
			url := serveWebhook(t, func(rw http.ResponseWriter, _ *http.Request) {
				if tt.retryAfter != "" {
					rw.Header().Set("Retry-After", tt.retryAfter)
				}
				rw.WriteHeader(tt.status)
			})
			w.commit(name, 1)
			w.systemProc(name, name, url, `"onMaxReclaimsReached":"`+on+`"`)
			got := w.until(name, "failed", func(p api.Proc) bool { return p.LastError != "" })
			disabled, waits := tt.disabled, tt.waits
			if on == "continue" {
				disabled, waits = !tt.goesOn, tt.waitsGoesOn
			}
			if (got.Status == api.StatusDisabled) != disabled || int64(got.Reclaims) != tt.reclaims || got.Claim != nil || got.Lag != 1 {
				t.Errorf("%d %q, %s: %+v", tt.status, tt.retryAfter, on, got)
			}
			if waits >= 0 && (got.NextAttemptAt == nil || *got.NextAttemptAt != clock.Now+waits) {
				t.Errorf("%d %q, %s: the next attempt at %v, want in %d ms", tt.status, tt.retryAfter, on, got.NextAttemptAt, waits)
			}
		}
	}
}

// TestRetriesWaitLonger holds the delays of a processor that fails again and again: they grow, and have a limit.
func TestRetriesWaitLonger(t *testing.T) {
	t.Parallel()
	s := start(t)
	w := wireTo(t, s)
	p := newProcessor(t)
	clock := w.stopClock() // so that no retry comes before it is asked for
	w.commit("a", 1)
	w.systemProc("sp", "a", p.URL, `"maxReclaims":-1`)
	most := int64(100)
	for attempt := 1; attempt <= 12; attempt++ {
		c := p.next()
		if c.Claim.Attempt != attempt {
			t.Fatalf("attempt %d: %s", attempt, c.Body)
		}
		c.answer(500, ``)
		got := w.until("sp", "failed", func(p api.Proc) bool { return p.Reclaims == attempt && p.Claim == nil })
		if got.NextAttemptAt == nil {
			t.Fatalf("attempt %d: no retry is told: %+v", attempt, got)
		}
		if delay := *got.NextAttemptAt - clock.Now; delay < 0 || delay > most {
			t.Errorf("retry %d comes after %d ms, at most %d", attempt, delay, most)
		}
		most = min(4*most, 5*60*1000)
		clock.pass(*got.NextAttemptAt - clock.Now)
		w.post("/v1/procs/sp/claim", ``).isProblem(409, "proc_is_managed")
		w.send(http.MethodPatch, "/v1/procs/sp", `{"count":1}`).is(200) // a hint: look again
	}
	p.next().answer(200, ``)
	w.done("sp")
}
