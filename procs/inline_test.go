package procs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/dlclark/regexp2/v2"
	"github.com/google/go-cmp/cmp"

	"pipeproc/api"
)

// inlines is what runs functions, on a server that may.
func inlines() *inline {
	return newInline(&Config{Inline: true, Logger: slog.New(slog.DiscardHandler)})
}

// execution is one of text on logs with these bodies, for topics a and b.
func execution(text string, bodies ...string) *api.Execution {
	e := &api.Execution{To: []string{"a", "b"}, Processor: api.Processor{Inline: text}, Count: 1, ReclaimTimeout: 10_000}
	e.Proc = "p"
	for i, body := range bodies {
		e.Logs = append(e.Logs, api.Log{ID: api.ID{TS: 1000, Seq: int64(i)}, Body: json.RawMessage(body)})
	}
	return e
}

// first is what went to topic a, one log a line, or the reason of the failure.
func first(a answer, err error) string {
	var f *attemptError
	if errors.As(err, &f) {
		return "failed: " + f.Reason
	}
	if err != nil {
		return "error: " + err.Error()
	}
	var lines []string
	for i, l := range a.logs {
		if want := []string{"a", "b"}[i%2]; l.Topic != want {
			return "wrong topic " + l.Topic
		}
		if i%2 == 0 {
			lines = append(lines, string(l.Body))
		}
	}
	return strings.Join(lines, "\n")
}

// TestInlineWaitsForACore: a function's time begins when it runs, and one that waits gives up with its call.
func TestInlineWaitsForACore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := inlines()
		for range cap(p.cores) {
			p.cores <- struct{}{}
		}
		ended := make(chan string, 1)
		go func() { ended <- first(p.process(t.Context(), execution(`() => ({n: 1})`, "{}"))) }()
		time.Sleep(time.Minute) // of the bubble
		<-p.cores
		if got := <-ended; got != `{"n":1}` {
			t.Error(got)
		}
		p.cores <- struct{}{}
		ctx, cut := context.WithCancelCause(t.Context())
		cut(errLost)
		if _, err := p.process(ctx, execution(`() => ({n: 1})`, "{}")); !errors.Is(err, errLost) {
			t.Error(err)
		}
	})
}

func TestInline(t *testing.T) {
	const body = `{"b":1,"a":{"2":0,"1":[true,false,null,-0,1e400,1e2,12345678901234567890]},"__proto__":5,"d":1,"d":2}`
	tests := map[string]struct{ text, want string }{
		"done":               {`(log, done) => done(null, {n: log.body.b + 1})`, `{"n":2}`},
		"a function":         {"// adds\nfunction add(log, done) { done(null, {n: log.body.b + 1}) }; /* end */ // of it", `{"n":2}`},
		"in parentheses":     {`((function (log, done) { done(undefined, {n: 1}) }))`, `{"n":1}`},
		"one parameter":      {`log => ({id: log.id})`, `{"id":"1000-0"}`},
		"async":              {`async log => ({id: log.id})`, `{"id":"1000-0"}`},
		"async function":     {`async function (log) { await null; return [{n: 1}, {n: 2}] }`, "{\"n\":1}\n{\"n\":2}"},
		"promise":            {`log => new Promise(resolve => resolve({n: 1}))`, `{"n":1}`},
		"thenable":           {`log => ({then(resolve) { resolve({n: 1}) }})`, `{"n":1}`},
		"done in a job":      {`(log, done) => { Promise.resolve().then(() => done(null, {n: 1})) }`, `{"n":1}`},
		"done in async":      {`async (log, done) => { for (let i = 0; i < 9; i++) await 0; done(null, {n: 1}) }`, `{"n":1}`},
		"done after async":   {`async (log, done) => { (async () => { for (let i = 0; i < 9; i++) await 0; done(null, {n: 1}) })() }`, `{"n":1}`},
		"the first done":     {`(log, done) => { done(null, {n: 1}); done(null, {n: 2}); done(new Error('no')); return {n: 3} }`, `{"n":1}`},
		"done, then throw":   {`(log, done) => { done(null, {n: 1}); throw new Error('no') }`, `{"n":1}`},
		"done, then reject":  {`async (log, done) => { done(null, {n: 1}); throw new Error('no') }`, `{"n":1}`},
		"return, then done":  {`(log, done) => { Promise.resolve().then(() => done(new Error('no'))); return {n: 1} }`, `{"n":1}`},
		"reads like JSON":    {`log => log.body`, `{"b":1,"a":{"1":[true,false,null,0,null,100,12345678901234567000],"2":0},"__proto__":5,"d":2}`},
		"numbers":            {`log => [[Object.is(log.body.a[1][3], -0), log.body.a[1][4] === Infinity, typeof log.body.b]]`, `[true,true,"number"]`},
		"own __proto__":      {`log => [[Object.getPrototypeOf(log.body) === Object.prototype, Object.hasOwn(log.body, '__proto__')]]`, `[true,true]`},
		"array in array":     {`log => [[1, 2], [3]]`, "[1,2]\n[3]"},
		"toJSON":             {`log => ({d: new Date(0), m: new Map([[1, 2]]), u: undefined, f() {}, n: NaN, s: new String('s')})`, `{"d":"1970-01-01T00:00:00.000Z","m":{},"n":null,"s":"s"}`},
		"holes":              {`log => ({a: [, undefined, () => 1]})`, `{"a":[null,null,null]}`},
		"the same twice":     {`log => { const o = {x: {y: 1}}; return {a: o, b: [o, o]} }`, `{"a":{"x":{"y":1}},"b":[{"x":{"y":1}},{"x":{"y":1}}]}`},
		"lone surrogates":    {`log => JSON.parse('{"a":"\\ud800\\ude00 \\ud800x\\u0000\\"\\/\\b"}')`, `{"a":"𐈀 \ud800x\u0000\"/\b"}`},
		"null":               {`(log, done) => done(null, null)`, ``},
		"done alone":         {`(log, done) => done()`, ``},
		"promise of nothing": {`async () => {}`, ``},
		"return null":        {`() => null`, ``},
		"return a function":  {`() => () => 1`, ``},
		"an empty array":     {`() => []`, ``},
		"strict":             {`function () { 'use strict'; return {t: typeof this} }`, `{"t":"undefined"}`},
		"no host":            {`() => [['require', 'console', 'setTimeout', 'process', 'module', 'fetch', '_'].filter(n => n in globalThis)]`, `[]`},
		"random, dates":      {`() => ({r: Math.random() !== Math.random(), d: Math.abs(Date.now() - new Date()) < 1000})`, `{"r":true,"d":true}`},
		"modern":             {`({body: {a: {["1"]: [x, ...rest]}, ...more}}) => ({x, n: rest.length, d: more?.d ?? 7, s: 1_0n.toString(), l: [1, 2].at(-1), r: 'ab'.replaceAll(/(?<=a)b/g, 'c')})`, `{"x":true,"n":6,"d":2,"s":"10","l":2,"r":"ac"}`},
		"revived":            {`() => JSON.parse('{"a":[1,2,{"b":3}],"c":4}', (k, v) => k === 'c' ? undefined : typeof v === 'number' ? v + 1 : v)`, `{"a":[2,3,{"b":4}]}`},
		"revived, deleted":   {`() => [[JSON.parse('{"a":1}', (k, v) => k ? undefined : 'a' in v)]]`, `[false]`},
		"wide":               {`() => ({a: [...Array(500)].map(() => ({}))})`, `{"a":[` + strings.Repeat("{},", 499) + `{}]}`},
		"flat":               {`() => [[1, [2, , [3, [4]]]].flat(), [1, [2, [3, [4]]]].flat(Infinity), [[1]].flat(0)]`, "[1,2,[3,[4]]]\n[1,2,3,4]\n[[1]]"},
		"repeat":             {`() => ['ab'.repeat(2), 'a'.padStart(3, 'xy'), 'a'.padEnd(2)].map(s => [s])`, "[\"abab\"]\n[\"xya\"]\n[\"a \"]"},
		"built in":           {`() => [[...Object.keys([]), ...Object.keys('')], [[].flat.name, [].flat.length, JSON.parse.name, JSON.parse.length, ''.repeat.length]]`, "[]\n[\"flat\",0,\"parse\",2,1]"},
		"tampering":          {`log => { JSON.stringify = () => 'x'; Promise = String = undefined; Object.prototype.toJSON = () => ({t: 1}); return {} }`, `{"t":1}`},
		"long expressions":   {`() => [[/^"(?:[^"\\]|\\.)*"(?=x)/.test('"' + 'a'.repeat(1e6) + '"x')]]`, `[true]`},

		"throw":               {`() => { throw new TypeError('boom') }`, `failed: the function threw: TypeError: boom`},
		"throw a string":      {`() => { throw 'boom' }`, `failed: the function threw: boom`},
		"throw nothing":       {`() => { throw undefined }`, `failed: the function threw: undefined`},
		"throw the untold":    {`() => { throw {toString() { throw 1 }} }`, `failed: the function threw`},
		"throw a symbol":      {`() => { throw Symbol('s') }`, `failed: the function threw: Symbol(s)`},
		"throw controls":      {`() => { throw "a\0b\nc\x1b[1m\x7f\u0085d\ud800" }`, "failed: the function threw: a b c [1m  d\ufffd"},
		"reject":              {`async () => { await 0; throw new Error('boom') }`, `failed: the function's promise was rejected: Error: boom`},
		"reject with nothing": {`() => Promise.reject()`, `failed: the function's promise was rejected: undefined`},
		"done with an error":  {`(log, done) => done(new RangeError('boom'), {n: 1})`, `failed: the function called done with an error: RangeError: boom`},
		"done with a string":  {`(log, done) => done('boom')`, `failed: the function called done with an error: boom`},
		"a getter then":       {`() => ({get then() { throw new Error('boom') }})`, `failed: the function threw: Error: boom`},
		"no end":              {`() => {}`, `failed: the function neither called done nor returned a promise`},
		"no end after jobs":   {`() => { Promise.resolve().then(() => {}) }`, `failed: the function neither called done nor returned a promise`},
		"pending":             {`() => new Promise(() => {})`, `failed: the function's promise is pending, and nothing is left that could settle it`},
		"pending await":       {`async () => { await new Promise(() => {}) }`, `failed: the function's promise is pending, and nothing is left that could settle it`},
		"a number":            {`() => 1`, `failed: the answer is no object or array`},
		"a string":            {`() => 'x'`, `failed: the answer is no object or array`},
		"an array of numbers": {`() => [{}, 1]`, `failed: the answer cannot be committed: a log's body is a JSON object or array`},
		"a cycle":             {`() => { const o = {}; o.o = o; return o }`, `failed: the function's result cannot be written as JSON: TypeError: Converting circular structure to JSON`},
		"a BigInt":            {`() => ({n: 1n})`, `failed: the function's result cannot be written as JSON: TypeError: Do not know how to serialize a BigInt`},
		"recursion":           {`function f() { f() }`, `failed: the function's calls are nested deeper than 2000`},
		"caught recursion":    {`function f() { try { f() } catch (e) { } }`, `failed: the function's calls are nested deeper than 2000`},
		"native recursion":    {`function f() { [1].map(f) }`, `failed: the function's calls are nested deeper than 2000`},
		"recursion of toJSON": {`() => ({toJSON() { return JSON.stringify(this) }})`, `failed: the function's calls are nested deeper than 2000`},
		"recursion of errors": {`() => { throw {toString() { return '' + this }} }`, `failed: the function threw`},
		"cyclic flat":         {`() => { const a = []; a[0] = a; return a.flat(Infinity) }`, `failed: the function's calls are nested deeper than 2000`},
		"deep JSON":           {`() => JSON.parse('['.repeat(1e6) + ']'.repeat(1e6))`, `failed: the function threw: SyntaxError: invalid character '[' exceeded max depth`},
		"bad JSON":            {`() => JSON.parse('{"a":}')`, `failed: the function threw: SyntaxError: invalid character '}' looking for beginning of value`},
		"no JSON":             {`() => JSON.parse()`, `failed: the function threw: SyntaxError: invalid character 'u' looking for beginning of value`},
		"a huge string":       {`() => ['x'.repeat(2 ** 40)]`, `failed: the function threw: RangeError: Invalid string length`},
		"a huge pad":          {`() => ['x'.padEnd(2 ** 40)]`, `failed: the function threw: RangeError: Invalid string length`},
		"eval":                {`() => eval('1')`, `failed: the function threw: EvalError: inline functions cannot compile text`},
		"Function":            {`() => new Function('return {}')()`, `failed: the function threw: EvalError: inline functions cannot compile text`},
		"hidden Function":     {`() => (async () => {}).constructor('return {}')()`, `failed: the function threw: EvalError: inline functions cannot compile text`},
		"too large":           {`() => ({s: 'x'.repeat(1 << 20)})`, `failed: the answer is over 1048576 bytes`},
		"larger as text":      {`() => ({s: '\x01'.repeat(1 << 18)})`, `failed: the answer is over 1048576 bytes`},
		"many values":         {`() => new Array(2 ** 32 - 1)`, `failed: the answer is over 1048576 bytes`},
		"too deep":            {`() => { let a = []; for (let i = 0; i < 1e5; i++) a = [a]; return a }`, `failed: the answer is nested deeper than 128`},
	}
	p := inlines()
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if err := p.check(tt.text); err != nil {
				t.Fatal(err)
			}
			e := execution(tt.text, body)
			timeout := int64(20_000) // of a slow machine
			e.Processor.Timeout = &timeout
			if diff := cmp.Diff(tt.want, first(p.process(t.Context(), e))); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

// TestInlineDepth: exactly what can be committed is.
func TestInlineDepth(t *testing.T) {
	deepest := strings.Repeat("[", api.MaxDepth) + strings.Repeat("]", api.MaxDepth)
	for _, text := range []string{`log => [log.body]`, `log => ({then(f) { f([log.body]) }})`} {
		if got := first(inlines().process(t.Context(), execution(text, deepest))); got != deepest {
			t.Errorf("%s: %s", text, got)
		}
	}
	if got := first(inlines().process(t.Context(), execution(`log => ({a: log.body})`, deepest))); !strings.Contains(got, "nested deeper than 128") {
		t.Error(got)
	}
}

// TestInlineArgument: a log where the proc takes one at a time, else an array, also of one.
func TestInlineArgument(t *testing.T) {
	const text = `x => [[Array.isArray(x), x]]`
	for _, tt := range []struct {
		count  int
		bodies []string
		want   string
	}{
		{1, []string{`{"n":0}`}, `[false,{"id":"1000-0","body":{"n":0}}]`},
		{2, []string{`{"n":0}`}, `[true,[{"id":"1000-0","body":{"n":0}}]]`},
		{2, []string{`{"n":0}`, `[]`}, `[true,[{"id":"1000-0","body":{"n":0}},{"id":"1000-1","body":[]}]]`},
		{1, []string{`{}`, `[]`}, `[true,[{"id":"1000-0","body":{}},{"id":"1000-1","body":[]}]]`}, // the retry of a longer range
	} {
		e := execution(text, tt.bodies...)
		e.Count = tt.count
		if diff := cmp.Diff(tt.want, first(inlines().process(t.Context(), e))); diff != "" {
			t.Errorf("count %d, %d logs (-want +got)\n%s", tt.count, len(tt.bodies), diff)
		}
	}
}

// TestInlineNoTargets: without topics to commit to the result is not looked at, as with webhooks; failures count.
func TestInlineNoTargets(t *testing.T) {
	for text, want := range map[string]string{`() => 1n`: "", `() => { throw 1 }`: "failed: the function threw: 1"} {
		e := execution(text, `{}`)
		e.To = nil
		if got := first(inlines().process(t.Context(), e)); got != want {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
}

// TestInlineReason: what is told of a failure is at most 500 bytes of valid UTF-8.
func TestInlineReason(t *testing.T) {
	for _, text := range []string{`() => { throw 'é'.repeat(1e6) }`, `() => { throw 'x' + '𐈀'.repeat(400) }`} {
		_, err := inlines().process(t.Context(), execution(text, `{}`))
		if n := len(err.Error()); n > maxReason || n < maxReason-4 || !utf8.ValidString(err.Error()) {
			t.Errorf("%s: %d bytes: %q", text, n, err)
		}
	}
}

// TestInlineFresh: nothing that a function leaves behind is seen by a later call, of the same function or another.
func TestInlineFresh(t *testing.T) {
	p := inlines()
	leave := `function () {
		const seen = [typeof globalThis.x, typeof [].y, typeof Object.prototype.z, typeof Math.random.w, typeof Symbol.for('s').description,
			(r => r.lastIndex)(/a/g), JSON.stringify.v, (s => s.u)(((s) => s)` + "`t`" + `)];
		x = 1; Array.prototype.y = 1; Object.prototype.z = 1; Math.random.w = 1; JSON.stringify.v = 1; Date.now = () => 7;
		return [[...seen, Date.now() === 7]];
	}`
	const want = `["undefined","undefined","undefined","undefined","string",0,null,null,true]`
	for range 3 {
		for _, proc := range []string{"a", "b"} {
			e := execution(leave, `{}`)
			e.Proc = proc
			if diff := cmp.Diff(want, first(p.process(t.Context(), e))); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		}
	}
	if got := first(p.process(t.Context(), execution(`() => [[typeof x, Date.now() === 7]]`, `{}`))); got != `["undefined",false]` {
		t.Error(got)
	}
}

// TestInlineTimeout: whatever a function does when its time is over, it ends, and the attempt has failed.
func TestInlineTimeout(t *testing.T) {
	for _, text := range []string{
		`() => { while (true); }`,
		`() => { try { while (true); } finally { while (true); } }`,
		`() => { for (;;) try { while (true); } catch (e) { } }`,
		`(log, done) => { done(null, {}); while (true); }`,
		`async () => { while (true) await 0 }`,
		`() => { const f = () => Promise.resolve().then(f); return f() }`,
		`() => ({toJSON() { while (true); }})`,
		`() => ({get x() { while (true); }})`,
		`() => { throw {toString() { while (true); }} }`,
		`async () => { throw {toString() { while (true); }} }`,
		`() => ({get then() { while (true); }})`,
		`() => ({then() { while (true); }})`,
		`() => [3, 2, 1].sort(() => { while (true); })`,
		`() => 'aaa'.replace(/a/g, () => { while (true); })`,
		`() => { for (const x of {[Symbol.iterator]: () => ({next: () => ({value: 1}), return() { while (true); }})}) while (true); }`,
		`() => new Proxy({}, {ownKeys() { while (true); }})`,
		`() => JSON.parse('{}', () => { while (true); })`,
		`() => { const o = {}; for (let i = 0; i < 1e4; i++) o[i + 'x'] = undefined; return Array(1e4).fill(o) }`,
		`() => { function* g() { while (true) yield 1 } for (const x of g()); }`,
	} {
		t.Run(text, func(t *testing.T) {
			t.Parallel()
			p := inlines()
			e := execution(text, `{}`)
			timeout := int64(100)
			e.Processor.Timeout = &timeout
			if got, want := first(p.process(t.Context(), e)), "failed: the function did not end within 100 ms"; got != want {
				t.Errorf("%q, want %q", got, want)
			}
			if p.isStuck(task{"p", text}) {
				t.Error("it was not interrupted")
			}
		})
	}
}

// TestInlineCut: a call whose claim is lost, or whose server stops, is cut off.
func TestInlineCut(t *testing.T) {
	for _, cause := range []error{errStopping, errLost} {
		ctx, cut := context.WithCancelCause(t.Context())
		time.AfterFunc(20*time.Millisecond, func() { cut(cause) })
		timeout := int64(60_000)
		e := execution(`() => { while (true); }`, `{}`)
		e.Processor.Timeout = &timeout
		if _, err := inlines().process(ctx, e); !errors.Is(err, cause) {
			t.Errorf("%v, want %v", err, cause)
		}
	}
}

// TestInlineStuck: a step that does not see the interruption is left to itself. While it goes on, the proc's attempts fail
// at once; other procs, and another function, are not concerned.
func TestInlineStuck(t *testing.T) {
	p := inlines()
	const text = `() => Array.prototype.indexOf.call({length: 4e7}, 1)` // seconds, in one native function
	const busy = "failed: an earlier attempt still runs, in a step that cannot be interrupted"
	e := execution(text, `{}`)
	timeout := int64(50)
	e.Processor.Timeout = &timeout
	began := time.Now()
	if got, want := first(p.process(t.Context(), e)), "failed: the function did not end within 50 ms"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if took := time.Since(began); took < 50*time.Millisecond+inlineGrace {
		t.Errorf("the attempt ended after %s, before the grace", took)
	}
	stuck := p.stuck[task{"p", text}]
	if stuck == nil {
		t.Fatal("it was interrupted: this test is to stick")
	}
	if got := first(p.process(t.Context(), e)); got != busy {
		t.Errorf("%q, want %q", got, busy)
	}
	if got := first(p.process(t.Context(), execution(`() => []`, `{}`))); got != "" {
		t.Errorf("another function: %q", got)
	}
	<-stuck.ended
	p.mu.Lock() // end does both under it
	n := len(p.stuck)
	p.mu.Unlock()
	if n != 0 {
		t.Errorf("%d are stuck after its end", n)
	}
}

// TestInlineBacktracking: the engine takes a regular expression that was given up for one that does not match. None is
// given up while its attempt can still succeed.
func TestInlineBacktracking(t *testing.T) {
	if most := api.MaxInlineTimeout * time.Millisecond; regexp2.DefaultMatchTimeout <= most {
		t.Errorf("matches are given up after %s, attempts last up to %s", regexp2.DefaultMatchTimeout, most)
	}
	if regexp2.DefaultMatchTimeout > 2*api.MaxInlineTimeout*time.Millisecond {
		t.Error("matches go on long after their attempts")
	}
	timeout := int64(20_000)
	e := execution(`() => [[/^(a+)+$(?=x?)/.test('a'.repeat(18) + 'b'), /^(a|b)*(?=c)/.test('ab'.repeat(5e5) + 'c')]]`, `{}`)
	e.Processor.Timeout = &timeout
	if got := first(inlines().process(t.Context(), e)); got != `[false,true]` {
		t.Error(got)
	}
}

func TestInlineCheck(t *testing.T) {
	const notFunction = "inline is the text of one JavaScript function expression"
	for text, want := range map[string]string{
		`(log, done) => {` + "\n  foo bar\n}": "line 2, column 7: Unexpected identifier",
		`x =>`:                                "line 1, column 5: Unexpected end of input",
		`=> 1`:                                "line 1, column 1: Unexpected token =>",
		`x => 1)`:                             "line 1, column 7: Unexpected token )",
		`(x => 1`:                             "line 1, column 8: Unexpected end of input",
		"x => {\r\n\r\n  'é𐈀' ) }":            "line 3, column 8: Unexpected token )",
		"x => {\u2028 y z}":                   "line 2, column 4: Unexpected identifier",
		"\n\n  function (log) {\n    let a; let a }": "line 4, column 16: Identifier 'a' has already been declared",
		`x => { const a }`:                           "line 1, column 14: Missing initializer",
		`x => { break }`:                             "line 1, column 8: Illegal break statement",
		`x => /(/`:                                   "line 1, column 6: Unterminated group",
		`x => import('y')`:                           "line 1, column 6: Unexpected reserved word",
		`export default x => 1`:                      "line 1, column 1: Unexpected reserved word",
		`a) => (b`:                                   "line 1, column 2: Unexpected token )",
		`async function* () {}`:                      "a generator",
		``:                                           "line 1, column 1: Unexpected end of input",
		"\x00":                                       "line 1, column 1",
		`1`:                                          notFunction,
		`f`:                                          notFunction,
		`"(log, done) => 1"`:                         notFunction,
		`class A {}`:                                 notFunction,
		`{n: 1}`:                                     notFunction,
		`(() => 1)()`:                                notFunction,
		`() => 1, () => 2`:                           notFunction,
		"x => 1\ny => 2":                             notFunction,
		`() => 1; while (true);`:                     notFunction,
		`f = () => 1`:                                notFunction,
		`true && (() => 1)`:                          notFunction,
		`new Function('return 1')`:                   notFunction,
		`function* () {}`:                            "a generator",
		"x => 1\n//# sourceMappingURL=none":          "",
		`x => 1;`:                                    "",
		"// a\nx => 1 /* b */; // c":                 "",
		`async x => await 1`:                         "",
		`({body: {n}}, done) => done(null, {n: n ** 2 ?? 1})`: "",
	} {
		err := inlines().check(text)
		if want == "" {
			if err != nil {
				t.Errorf("%q: %v", text, err)
			}
			continue
		}
		if api.CodeOf(err) != api.CodeNoValidProcessor || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

// TestInlineReadsNoFile: source maps are left alone, which the parser would read from any file of the server's.
func TestInlineReadsNoFile(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := inlines().check("() => 1\n//# sourceMappingURL=file://" + pipe); err != nil { // whoever opens it waits
		t.Error(err)
	}
}

// TestInlineSlowText: a text that takes for ever to read is refused, and its reading is not begun again.
func TestInlineSlowText(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const text = `x => (a = (b = 1) => b) => a`
		p := inlines()
		slow := &program{read: make(chan struct{})}
		p.programs.byText[text] = slow
		began := time.Now()
		for range 2 {
			if err := p.check(text); api.CodeOf(err) != api.CodeNoValidProcessor || !strings.Contains(err.Error(), "within 2000 ms") {
				t.Error(err)
			}
		}
		if took := time.Since(began); took != 2*compileTime {
			t.Errorf("refused after %s", took)
		}
		if p.programs.byText[text] != slow {
			t.Error("its reading was begun again")
		}
	})
}

// TestInlinePrograms: each text is compiled once, and not too many are kept.
func TestInlinePrograms(t *testing.T) {
	p := inlines()
	a := p.programs.get(`() => 1`)
	if b := p.programs.get(`() => 1`); a != b {
		t.Error("compiled twice")
	}
	for i := range 2 * maxPrograms {
		if err := p.check(fmt.Sprintf("() => %d", i)); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(p.programs.byText); n > maxPrograms {
		t.Errorf("%d programs are kept", n)
	}
}

// TestInlineDisabled: where the flag is not given, functions are refused, and one that another server took is left to it:
// no claim is made, and nothing is told of its proc.
func TestInlineDisabled(t *testing.T) {
	if err := New(Config{}).Check(&api.Processor{Inline: `() => 1`}); api.CodeOf(err) != api.CodeNoValidProcessor {
		t.Error(err)
	}
	bubble(t, func(t *testing.T, m *memory, n *network) {
		m.commit("in", `{"n":1}`)
		m.system("a", "in", []string{"out"}, "", func(j *job) { j.processor.Inline = `log => log.body` })
		stop := work(t, m, n, one)
		time.Sleep(time.Minute)
		synctest.Wait()
		p := m.proc("a")
		if p.Status != api.StatusActive || p.Lag != 1 || p.LastClaimedAt != nil || p.NextAttemptAt != nil || p.LastError != "" {
			t.Errorf("the proc is %+v", p)
		}
		able := one
		able.Inline = true
		work(t, m, n, able) // beside the other
		synctest.Wait()     // which takes no time
		if got := m.bodies("out"); got != `{"n":1}` {
			t.Errorf("out: %s", got)
		}
		stop()
	})
}

// TestInlineMeanwhile: a server without the flag acks what a webhook answered, and gives back what it claimed along: the
// processor has become a function meanwhile. A server with the flag goes on at once, at the same attempt.
func TestInlineMeanwhile(t *testing.T) {
	bubble(t, func(t *testing.T, m *memory, n *network) {
		h := &hook{}
		h.answer = func(w http.ResponseWriter, _ *http.Request, d delivery) {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.jobs["a"].processor = api.Processor{Inline: `(log, done) => done(null, {inline: log.body.n})`}
			_, _ = w.Write(d.Logs[0].Body)
		}
		n.serve(t, "hook", h)
		m.commit("in", `{"n":1}`, `{"n":2}`)
		m.system("a", "in", []string{"out"}, "http://hook/", func(j *job) { j.MaxReclaims = 1 })
		work(t, m, n, one)
		time.Sleep(time.Minute)
		synctest.Wait()
		if p := m.proc("a"); p.Status != api.StatusActive || p.Lag != 1 || p.Claim != nil || p.Reclaims != 0 || p.NextAttemptAt != nil || p.LastError != "" {
			t.Errorf("the proc is %+v", p)
		}
		if m.made() != 2 || m.undone != 1 {
			t.Errorf("%d claims, %d undone", m.made(), m.undone)
		}
		able := one
		able.Inline = true
		work(t, m, n, able)
		synctest.Wait()
		if diff := cmp.Diff("{\"n\":1}\n{\"inline\":2}", m.bodies("out")); diff != "" {
			t.Error(diff)
		}
	})
}

// TestInlineAttempts: failures are counted and retried, the output is committed once and in order.
func TestInlineAttempts(t *testing.T) {
	bubble(t, func(t *testing.T, m *memory, n *network) {
		m.commit("in", numbered(20)...)
		m.system("a", "in", []string{"out"}, "", count(3), func(j *job) { j.processor.Inline = `logs => logs.map(log => log.body)` })
		m.system("bad", "in", []string{"out"}, "", func(j *job) { j.processor.Inline = `() => { throw new Error('no') }` })
		c := Config{Workers: 2, Concurrency: 2, RestartAfter: 2, Inline: true}
		work(t, m, n, c)
		time.Sleep(time.Hour)
		synctest.Wait()
		if diff := cmp.Diff(strings.Join(numbered(20), "\n"), m.bodies("out")); diff != "" {
			t.Error(diff)
		}
		if p := m.proc("bad"); p.Status != api.StatusDisabled || p.LastError != "the function threw: Error: no" {
			t.Errorf("the proc is %+v", p)
		}
	})
}

func FuzzInlineCheck(f *testing.F) {
	for _, s := range []string{``, `x => 1`, `function (log, done) { done(null, {n: log.body.n + 1}) }`, `async ({a = 1, ...b}) => { await a }`,
		"x => {\n 'é' y }", `class { #a = 1 }`, "x => `${1}`", `x => /(?<a>b)\k<a>/u.test(x?.y ??= 1n)`, `x => { for (const a of b) c: break c }`,
		`x => 1 //# sourceMappingURL=data:application/json,{}`, `(a = (b = 1) => b) => a`, "\u2028=>\r", `x => { 'use strict'; with (a) {} }`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if strings.Count(text, "=>") > 8 {
			t.Skip("may take exponential time")
		}
		if _, err := compile(text); err != nil && api.CodeOf(err) != api.CodeNoValidProcessor {
			t.Errorf("%q: %v", text, err)
		}
	})
}

// FuzzInlineJSON: what a function answers of a body as it is means the same.
func FuzzInlineJSON(f *testing.F) {
	for _, s := range []string{`{}`, `[1,"a",{"b":[null,true,false]}]`, `{"":"\ud83d\ude00\u0000","a":-1.5e-3}`, `[ 1 , { "x" : [ ] } ]`} {
		f.Add(s)
	}
	p := inlines()
	f.Fuzz(func(t *testing.T, body string) {
		compact, err := api.LogBody([]byte(body))
		if err != nil {
			t.Skip()
		}
		var want any
		if json.Unmarshal(compact, &want) != nil {
			t.Skip("numbers that Go does not read")
		}
		a, err := p.process(t.Context(), execution(`log => [log.body]`, string(compact)))
		if err != nil {
			t.Fatalf("%s: %v", body, err)
		}
		var got any
		if err := json.Unmarshal(a.logs[0].Body, &got); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got)\n%s", body, diff)
		}
	})
}

// BenchmarkInline is one execution, from the claimed logs to those to commit.
func BenchmarkInline(b *testing.B) {
	p := inlines()
	for name, text := range map[string]string{
		"done":    `(log, done) => done(null, {n: log.body.myNumber + 1})`,
		"promise": `async log => ({n: log.body.myNumber + 1})`,
	} {
		b.Run(name, func(b *testing.B) {
			e := execution(text, `{"myNumber":1}`)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := p.process(context.Background(), e); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
