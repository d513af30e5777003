package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"pipeproc/api"
	"pipeproc/cmd/server/service"
)

func withInline(c *service.Config) { c.InlineProcessors = true }

// inlineProc creates a systemProc in -> out that does not exist, with a function; members are those beside these.
func (w procWire) inlineProc(name, text string, members ...string) *wireAnswer {
	w.t.Helper()
	return w.post("/v1/system-procs", inlineSpec(name, text, members...)).is(http.StatusCreated)
}

func inlineSpec(name, text string, members ...string) string {
	quoted, _ := json.Marshal(text)
	list := append([]string{fmt.Sprintf(`"name":%q,"processor":{"inline":%s}`, name, quoted)}, members...)
	return "{" + strings.Join(list, ",") + "}"
}

// TestInline holds what functions get, and what becomes of what they give, each test on topics of its own.
func TestInline(t *testing.T) {
	t.Parallel()
	s := start(t, withInline)
	for name, test := range map[string]func(procWire){
		"increment":  testInlineIncrement,
		"several":    testInlineSeveral,
		"lists":      testInlineLists,
		"bodies":     testInlineBodies,
		"failures":   testInlineFailures,
		"defaults":   testInlineTime,
		"not read":   testInlineSyntax,
		"definition": testInlineDefinition,
		"patched":    testInlinePatched,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(wireTo(t, s))
		})
	}
}

// testInlineIncrement is PipeProc's own example, by callback, promise and value.
func testInlineIncrement(w procWire) {
	w.commitBodies("increment_in", `{"myNumber":1}`, `{"myNumber":2}`)
	for name, text := range map[string]string{
		"callback": `(log, done) => done(null, {myIncrementedNumber: log.body.myNumber + 1})`,
		"function": "function (log, done) {\n  // PipeProc's way\n  done(null, {myIncrementedNumber: log.body.myNumber + 1});\n}",
		"promise":  `log => Promise.resolve({myIncrementedNumber: log.body.myNumber + 1})`,
		"async":    `async ({body: {myNumber}}) => ({myIncrementedNumber: await myNumber + 1})`,
		"value":    `log => ({myIncrementedNumber: log.body.myNumber + 1})`,
	} {
		w.inlineProc("increment_"+name, text, `"from":"increment_in"`, fmt.Sprintf(`"to":%q`, "increment_"+name))
		w.done("increment_" + name)
		if diff := cmp.Diff("{\"myIncrementedNumber\":2}\n{\"myIncrementedNumber\":3}", w.bodies("increment_"+name)); diff != "" {
			w.t.Errorf("%s (-want +got)\n%s", name, diff)
		}
	}
}

// testInlineSeveral: with a count over 1 the function gets an array, also of one log, with their ids.
func testInlineSeveral(w procWire) {
	ids := w.commit("several_in", 5)
	w.inlineProc("several", `(logs, done) => done(null, {ids: logs.map(log => log.id), sum: logs.reduce((sum, log) => sum + log.body.i, 0)})`,
		`"from":"several_in"`, `"to":"several_out"`, `"count":2`)
	w.done("several")
	want := fmt.Sprintf(`{"ids":["%s","%s"],"sum":1}`+"\n"+`{"ids":["%s","%s"],"sum":5}`+"\n"+`{"ids":["%s"],"sum":4}`,
		ids[0], ids[1], ids[2], ids[3], ids[4])
	if diff := cmp.Diff(want, w.bodies("several_out")); diff != "" {
		w.t.Errorf("(-want +got)\n%s", diff)
	}
}

// testInlineLists: a proc for each topic of from; arrays go to each topic of to, element by element; nothing acks only.
func testInlineLists(w procWire) {
	w.commitBodies("lists_a", `{"n":1}`, `{"n":2}`)
	w.commitBodies("lists_b", `{"n":3}`)
	w.inlineProc("lists", `({body: {n}}) => n === 2 ? null : [{n}, [n]]`, `"from":["lists_a","lists_b"]`, `"to":["lists_x","lists_y"]`,
		`"offset":">"`)
	w.done("lists__lists_a", "lists__lists_b")
	for _, topic := range []string{"lists_x", "lists_y"} {
		got := w.bodies(topic)
		if got != "{\"n\":1}\n[1]\n{\"n\":3}\n[3]" && got != "{\"n\":3}\n[3]\n{\"n\":1}\n[1]" {
			w.t.Errorf("%s: %s", topic, got)
		}
	}
	w.commitBodies("none_in", `{}`)
	w.inlineProc("none", `log => log.body`, `"from":"none_in"`)
	w.done("none")
}

// testInlineBodies: bodies are read and written as JavaScript does, to the byte.
func testInlineBodies(w procWire) {
	w.commitBodies("odd_in", odd...)
	w.inlineProc("odd", `log => log.body.n ? [{...log.body, inf: log.body.n[5] === Infinity}] : [log.body]`, `"from":"odd_in"`, `"to":"odd_out"`)
	w.done("odd")
	want := []string{
		`{"z":3,"a":2}`, `{"n":[100,100,0,0.1,12345678901234567000,null],"inf":true}`, `{"s":"\u0000\ud800éé/<>&<"}`,
		`[[],{},[null,true,"x"]]`, `{"":{"":[]}}`, `{"emoji":"😀😀"}`,
	}
	if diff := cmp.Diff(want, strings.Split(w.bodies("odd_out"), "\n")); diff != "" {
		w.t.Errorf("(-want +got)\n%s", diff)
	}
}

// testInlineFailures: each failure is an attempt that is counted, and told in lastError; nothing of it is committed.
func testInlineFailures(w procWire) {
	w.commitBodies("failures_in", `{"n":1}`)
	i := 0
	for text, want := range map[string]string{
		`() => { throw new TypeError('boom') }`:          "the function threw: TypeError: boom",
		`log => log.body.a.b`:                            "the function threw: TypeError: Cannot read property 'b' of undefined",
		`async () => { throw new Error('boom') }`:        "the function's promise was rejected: Error: boom",
		`(log, done) => done(new Error('boom'), {n: 1})`: "the function called done with an error: Error: boom",
		`() => { throw 'a\u0000b\nc' }`:                  "the function threw: a b c",
		`() => { throw 'é'.repeat(1000) }`:               "the function threw: " + strings.Repeat("é", 240),
		`() => { while (true); }`:                        "the function did not end within 200 ms",
		`() => {}`:                                       "the function neither called done nor returned a promise",
		`() => new Promise(() => {})`:                    "the function's promise is pending, and nothing is left that could settle it",
		`() => 1`:                                        "the answer is no object or array",
		`() => [{}, 1]`:                                  "the answer cannot be committed: a log's body is a JSON object or array",
		`() => { const o = {}; o.o = o; return o }`:      "the function's result cannot be written as JSON: TypeError: Converting circular structure to JSON",
		`() => ({s: 'x'.repeat(1 << 20)})`:               "the answer is over 1048576 bytes",
		`function f() { f() }`:                           "the function's calls are nested deeper than 2000",
		`() => require('fs')`:                            "the function threw: ReferenceError: require is not defined",
		`() => eval('1')`:                                "the function threw: EvalError: inline functions cannot compile text",
		`log => { globalThis.n = (globalThis.n ?? 0) + log.body.n; throw n }`: "the function threw: 1",
	} {
		i++
		name := fmt.Sprintf("failures_%d", i)
		timeout := 8000 // of a busy machine
		if strings.Contains(want, "200 ms") {
			timeout = 200
		}
		quoted, _ := json.Marshal(text)
		w.post("/v1/system-procs", fmt.Sprintf(`{"name":%q,"from":"failures_in","to":"failures_out","maxReclaims":2,
			"processor":{"inline":%s,"timeout":%d}}`, name, quoted, timeout)).is(http.StatusCreated)
		p := w.until(name, "two reclaims", func(p api.Proc) bool { return p.Status == api.StatusDisabled })
		if p.Reclaims != 2 || p.LastError != want || p.Claim != nil {
			w.t.Errorf("%s: %d reclaims, lastError %q, want %q", text, p.Reclaims, p.LastError, want)
		}
	}
	w.get("/v1/topics/failures_out").isProblem(404, "invalid_topic")
}

// testInlineTime: a function has a second, or 80 % of a short reclaimTimeout; a time that is given is below it, and at
// most a minute.
func testInlineTime(w procWire) {
	w.commitBodies("time_in", `{}`)
	for name, tt := range map[string]struct {
		members string
		ms      int
	}{"default": {``, 1000}, "short": {`,"reclaimTimeout":1000`, 800}, "never": {`,"reclaimTimeout":-1`, 1000}} {
		w.inlineProc("time_"+name, `() => { while (true); }`, `"from":"time_in","maxReclaims":-1`+tt.members)
		want := fmt.Sprintf("the function did not end within %d ms", tt.ms)
		w.until("time_"+name, want, func(p api.Proc) bool { return p.LastError == want })
		w.post("/v1/procs/time_"+name+"/disable", "").is(200)
	}
	for _, timeout := range []string{"0", "10000", "-1"} {
		w.post("/v1/system-procs", `{"name":"time_bad","from":"time_in","processor":{"inline":"() => 1","timeout":`+timeout+`}}`).
			isProblem(400, "invalid_request")
	}
	w.post("/v1/system-procs", `{"name":"time_bad","from":"time_in","reclaimTimeout":-1,"processor":{"inline":"() => 1","timeout":60001}}`).
		isProblem(400, "invalid_request")
	w.post("/v1/system-procs", `{"name":"time_most","from":"time_in","reclaimTimeout":-1,"processor":{"inline":"() => 1","timeout":60000}}`).is(201)
}

// testInlineSyntax: what is no function is refused, with the place of a syntax error; nothing of it runs, nothing is left.
func testInlineSyntax(w procWire) {
	w.commit("syntax_in", 1)
	w.inlineProc("syntax_ok", `() => null`, `"from":"syntax_in"`)
	for text, want := range map[string]string{
		"(log, done) => {\n  done(null, {n: log.body..n})\n}": "line 2, column 26",
		"function (log, done) {":                              "line 1, column 23",
		"\n\n  'é' 'é'":                                       "line 3, column 7",
		"log => 1; log => 2":                                  "one JavaScript function expression",
		"(() => { throw 1 })()":                               "one JavaScript function expression",
		"1":                                                   "one JavaScript function expression",
		"class A {}":                                          "one JavaScript function expression",
		"function* () {}":                                     "not to be a generator",
		"() => 1 // " + strings.Repeat("x", 64<<10): "at most 65536 bytes",
		"\x00": "line 1, column 1",
	} {
		for _, a := range []*wireAnswer{
			w.post("/v1/system-procs", inlineSpec("syntax", text, `"from":"syntax_in"`)),
			w.send(http.MethodPatch, "/v1/system-procs/syntax_ok", inlinePatch(text)),
		} {
			if a.isProblem(400, "no_valid_processor_provided"); !strings.Contains(a.str("detail"), want) {
				w.t.Errorf("%.40q: %q, want %q", text, a.str("detail"), want)
			}
		}
	}
	w.get("/v1/system-procs/syntax").isProblem(404, "invalid_system_proc")
	w.get("/v1/system-procs/syntax_ok").is(200).has("processor.inline", `() => null`)
	longest := "() => null //" + strings.Repeat("x", 64<<10-13)
	w.inlineProc("syntax_longest", longest, `"from":"syntax_in"`)
	w.done("syntax_longest")
}

func inlinePatch(text string) string {
	quoted, _ := json.Marshal(text)
	return fmt.Sprintf(`{"processor":{"inline":%s}}`, quoted)
}

// testInlineDefinition: the text is part of the definition, and told as it was given.
func testInlineDefinition(w procWire) {
	const text = "(log, done) =>\n  done(null, log.body) // é \"quoted\""
	w.inlineProc("definition", text, `"from":"definition_in"`).hasExactly("", "procs")
	w.get("/v1/system-procs/definition").is(200).has("processor.inline", text).hasExactly("processor", "inline")
	w.post("/v1/system-procs", inlineSpec("definition", text, `"from":"definition_in"`)).is(200)
	w.post("/v1/system-procs", inlineSpec("definition", text+" ", `"from":"definition_in"`)).isProblem(409, "proc_options_differ")
}

// testInlinePatched: from a webhook to a function and back; the position stays.
func testInlinePatched(w procWire) {
	w.systemProc("patched", "patched_in", serveWebhook(w.t, echoes), `"to":"patched_out"`)
	w.commitBodies("patched_in", `{"n":1}`)
	w.done("patched")
	w.send(http.MethodPatch, "/v1/system-procs/patched", inlinePatch(`log => ({inline: log.body.n})`)).is(200)
	w.commitBodies("patched_in", `{"n":2}`)
	w.done("patched")
	w.send(http.MethodPatch, "/v1/system-procs/patched", fmt.Sprintf(`{"processor":%q}`, serveWebhook(w.t, echoes))).is(200)
	w.commitBodies("patched_in", `{"n":3}`)
	w.done("patched")
	if got := w.bodies("patched_out"); got != "{\"n\":1}\n{\"inline\":2}\n{\"n\":3}" {
		w.t.Errorf("patched_out: %s", got)
	}
}

// TestInlineDisabled: without the flag functions are refused, and one that was given to another server is left to those
// with the flag. While there are none it waits, as it is; once there is one, it runs there at once.
func TestInlineDisabled(t *testing.T) {
	t.Parallel()
	without := wireTo(t, start(t))
	for _, text := range []string{`() => 1`, `no function`} {
		without.post("/v1/system-procs", inlineSpec("f", text, `"from":"in"`)).isProblem(400, "no_valid_processor_provided")
	}
	without.systemProc("url", "in", "http://127.0.0.1:9/", `"offset":"$>"`)
	without.send(http.MethodPatch, "/v1/system-procs/url", inlinePatch(`() => 1`)).isProblem(400, "no_valid_processor_provided")

	idle := func(c *service.Config) { c.Workers = 0 }
	creator := wireTo(t, startOn(t, without.Database, withInline, idle))
	creator.inlineProc("f", `log => log.body`, `"from":"f_in"`, `"to":"f_out"`, `"maxReclaims":1`)
	without.commitBodies("f_in", `{"n":1}`)
	without.systemProc("next", "f_in", serveWebhook(t, echoes), `"to":"next_out"`)
	without.done("next") // the server has looked for work since
	p := without.until("f", "it is there", func(api.Proc) bool { return true })
	if p.Status != api.StatusActive || p.Lag != 1 || p.LastClaimedAt != nil || p.NextAttemptAt != nil || p.LastError != "" {
		t.Errorf("the proc is %+v", p)
	}

	with := wireTo(t, startOn(t, without.Database, withInline))
	with.done("f")
	for n := 2; n < 20; n++ { // whichever of the two hears of it first
		began := time.Now()
		without.commitBodies("f_in", fmt.Sprintf(`{"n":%d}`, n))
		without.done("f", "next")
		if took := time.Since(began); took > 4*time.Second {
			t.Errorf("log %d was processed after %s", n, took)
		}
	}
	if in, out := without.bodies("f_in"), without.bodies("f_out"); in != out {
		t.Errorf("f_out: %s", out)
	}
	// It was not even claimed by the one without, and given back.
	if bad := regexp.MustCompile(`pipeproc_systemproc_executions_total\{outcome="(undone|failed)"\} [1-9].*`).
		FindAllString(without.get("/metrics").is(200).Text, -1); bad != nil {
		t.Errorf("without the flag: %q", bad)
	}
}

// TestInlineGivenUp: a function that cannot be interrupted fails in time, and the next attempt at once; the corrected
// function runs meanwhile, and a server that stops does not wait.
func TestInlineGivenUp(t *testing.T) {
	t.Parallel()
	ended := &awaited{text: "could not be interrupted has ended", seen: make(chan struct{})}
	w := wireTo(t, start(t, withInline, func(c *service.Config) { c.Logger = slog.New(slog.NewTextHandler(ended, nil)) }))
	w.commitBodies("in", `{"n":1}`)
	w.post("/v1/system-procs", `{"name":"f","from":"in","to":"out","maxReclaims":-1,
		"processor":{"inline":"() => [].indexOf.call({length: 5e7})","timeout":20}}`).is(201)
	w.until("f", "an attempt that failed at once", func(p api.Proc) bool {
		return strings.Contains(p.LastError, "an earlier attempt still runs")
	})
	w.send(http.MethodPatch, "/v1/system-procs/f", inlinePatch(`log => log.body`)).is(200)
	w.done("f")
	if got := w.bodies("out"); got != `{"n":1}` {
		t.Errorf("out: %s", got)
	}
	began := time.Now()
	w.Stop()
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("the server stopped after %s", took)
	}
	<-ended.seen // so that it is not taken for a leak
}

// awaited is a log that tells when a line with text was written.
type awaited struct {
	text string
	once sync.Once
	seen chan struct{}
}

func (a *awaited) Write(line []byte) (int, error) {
	if bytes.Contains(line, []byte(a.text)) {
		a.once.Do(func() { close(a.seen) })
	}
	return len(line), nil
}
