package procs

import (
	_ "embed"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/dlclark/regexp2/v2"
	"github.com/dop251/goja"

	"pipeproc/api"
)

const (
	// maxCalls is how deep calls may be nested. The engine takes time that grows with the square of the nesting to leave
	// calls that went through native functions.
	maxCalls = 2_000

	// maxReason is the most bytes of a function's error that are told.
	maxReason = 500
)

// The engine hands expressions that Go's own regexp does not know to regexp2, which backtracks, and takes an error of it
// for no match. So it is not to err while an attempt can still succeed: its time-out is longer than any attempt. What it
// remembers is bounded so that strings of several million characters can be matched.
func init() {
	regexp2.DefaultMatchTimeout = (api.MaxInlineTimeout + 5_000) * time.Millisecond
	regexp2.DefaultOptimizationOptions.MaxBacktrackingStackSize = 16 << 20
}

//go:embed inline.js
var preludeText string

var prelude = goja.MustCompile("", preludeText, true)

// inlineRun is one call of a function, in a runtime of its own.
type inlineRun struct {
	vm    *goja.Runtime
	limit time.Duration
	began time.Time
	over  atomic.Bool

	ended chan struct{} // closed when the rest is set
	logs  []api.NewLog
	err   error
}

func newInlineRun(limit time.Duration) *inlineRun {
	return &inlineRun{vm: goja.New(), limit: limit, began: time.Now(), ended: make(chan struct{})}
}

// interrupt may be called by anyone, at any time.
func (r *inlineRun) interrupt() {
	r.over.Store(true)
	r.vm.Interrupt(errTimeout)
}

// late reports the end of its time.
func (r *inlineRun) late() error {
	return failed(nil, fmt.Sprintf("the function did not end within %d ms", r.limit.Milliseconds()))
}

// isOver also looks at the clock, so that nothing counts that comes after the time, whoever is to interrupt.
func (r *inlineRun) isOver() bool { return r.over.Load() || time.Since(r.began) >= r.limit }

// verdict is how the function told of its end.
type verdict int

const (
	silent   verdict = iota
	answered         // by done, its promise, or a value returned
	erred            // by done
	rejected
	threw
)

// settled is the first verdict, and what it came with.
type settled struct {
	verdict
	value    goja.Value
	waiting  bool // for its promise
	finished bool // its promise gave undefined: done may still be called
}

func (s *settled) settle(v verdict, value goja.Value) {
	if s.verdict == silent {
		s.verdict, s.value = v, value
	}
}

// do calls the function that code is and answers what is to be committed.
func (r *inlineRun) do(code *goja.Program, e *api.Execution) ([]api.NewLog, error) {
	vm := r.vm
	vm.SetParserOptions(noText)
	vm.SetMaxCallStackSize(maxCalls)
	text, stringify := callable(vm.Get("String")), callable(vm.Get("JSON").ToObject(vm).Get("stringify"))

	// The prelude reads only what the engine made, before anybody can have changed it.
	prepare, err := vm.RunProgram(prelude)
	if err != nil {
		return nil, r.failure(text, "the engine failed on the function", err)
	}
	call, err := callable(prepare)(goja.Undefined(), vm.ToValue(parse(vm)))
	if err != nil {
		return nil, r.failure(text, "the engine failed on the function", err)
	}
	f, err := vm.RunProgram(code)
	if err != nil {
		return nil, r.failure(text, "the engine failed on the function", err)
	}
	log, err := r.argument(e)
	if err != nil {
		return nil, err
	}
	var s settled
	_, err = callable(call)(goja.Undefined(), f, log, vm.ToValue(s.done), vm.ToValue(s.returned(vm)), vm.ToValue(s.threw))
	if err != nil {
		return nil, r.failure(text, "the function threw", err)
	}
	value, err := r.result(&s, text)
	if err != nil || len(e.To) == 0 {
		return nil, err
	}
	body, err := r.body(value, text, stringify)
	if err != nil {
		return nil, err
	}
	if r.isOver() {
		return nil, r.late()
	}
	return output("application/json", body, e.To)
}

func callable(v goja.Value) goja.Callable {
	f, ok := goja.AssertFunction(v)
	if !ok {
		panic(errors.New("not a function"))
	}
	return f
}

// argument is {id, body}, or an array of them where the proc takes several logs at a time.
func (r *inlineRun) argument(e *api.Execution) (goja.Value, error) {
	logs := make([]any, len(e.Logs))
	for i := range e.Logs {
		if r.isOver() {
			return nil, r.late()
		}
		log := r.vm.NewObject()
		if err := errors.Join(log.Set("id", e.Logs[i].ID.String()), log.Set("body", read(r.vm, string(e.Logs[i].Body)))); err != nil {
			return nil, err
		}
		logs[i] = log
	}
	if e.Count > 1 || len(logs) != 1 {
		return r.vm.NewArray(logs...), nil
	}
	return logs[0].(goja.Value), nil
}

// done is done(err, result).
func (s *settled) done(call goja.FunctionCall) goja.Value {
	if err := call.Argument(0); err.ToBoolean() {
		s.settle(erred, err)
	} else {
		s.settle(answered, call.Argument(1))
	}
	return goja.Undefined()
}

// threw is told what the function threw.
func (s *settled) threw(call goja.FunctionCall) goja.Value {
	s.settle(threw, call.Argument(0))
	return goja.Undefined()
}

// returned is told what the function returned.
func (s *settled) returned(vm *goja.Runtime) func(goja.FunctionCall) goja.Value {
	return func(call goja.FunctionCall) goja.Value {
		value := call.Argument(0)
		if goja.IsUndefined(value) {
			return value
		}
		object, ok := value.(*goja.Object)
		if ok {
			_, ok = goja.AssertFunction(object.Get("then"))
		}
		if !ok {
			s.settle(answered, value)
			return goja.Undefined()
		}
		s.waiting = true
		promise, resolve, _ := vm.NewPromise()
		if err := resolve(value); err != nil {
			panic(err)
		}
		onFulfilled := func(call goja.FunctionCall) goja.Value {
			if goja.IsUndefined(call.Argument(0)) {
				s.finished = true
			} else {
				s.settle(answered, call.Argument(0))
			}
			return goja.Undefined()
		}
		onRejected := func(call goja.FunctionCall) goja.Value {
			s.settle(rejected, call.Argument(0))
			return goja.Undefined()
		}
		p := vm.ToValue(promise).ToObject(vm)
		if _, err := callable(p.Get("then"))(p, vm.ToValue(onFulfilled), vm.ToValue(onRejected)); err != nil {
			panic(err)
		}
		return goja.Undefined()
	}
}

// result is the value of a good end; nothing is left that could run.
func (r *inlineRun) result(s *settled, text goja.Callable) (goja.Value, error) {
	switch {
	case r.isOver():
		return nil, r.late()
	case s.verdict == answered:
		return s.value, nil
	case s.verdict == erred:
		return nil, r.told("the function called done with an error", text, s.value)
	case s.verdict == rejected:
		return nil, r.told("the function's promise was rejected", text, s.value)
	case s.verdict == threw:
		return nil, r.told("the function threw", text, s.value)
	case s.finished:
		return goja.Undefined(), nil
	case s.waiting:
		return nil, failed(nil, "the function's promise is pending, and nothing is left that could settle it")
	}
	return nil, failed(nil, "the function neither called done nor returned a promise")
}

// body is value as JSON.
func (r *inlineRun) body(value goja.Value, text, stringify goja.Callable) ([]byte, error) {
	g := gauge{over: r.isOver}
	out, err := stringify(goja.Undefined(), value, r.vm.ToValue(g.replace(r.vm)))
	switch {
	case r.isOver():
		return nil, r.late()
	case g.refused != "":
		return nil, failed(nil, g.refused)
	case err != nil:
		return nil, r.failure(text, "the function's result cannot be written as JSON", err)
	case goja.IsUndefined(out):
		return []byte("null"), nil
	}
	body := out.String()
	if len(body) > maxAnswer {
		return nil, failed(nil, tooLarge)
	}
	return []byte(body), nil
}

// failure tells why a call into the engine failed.
func (r *inlineRun) failure(text goja.Callable, what string, err error) error {
	var thrown *goja.Exception
	switch {
	case interrupted(err) || r.isOver():
		return r.late()
	case overflown(err):
		return failed(nil, fmt.Sprintf("the function's calls are nested deeper than %d", maxCalls))
	case errors.As(err, &thrown) && thrown.Value() != nil:
		return r.told(what, text, thrown.Value())
	}
	return failed(err, what)
}

// told is a failed attempt, with the value that tells why, as the function gave it.
func (r *inlineRun) told(what string, text goja.Callable, value goja.Value) error {
	why, err := text(goja.Undefined(), value) // may call the function's own toString
	if r.isOver() {
		return r.late()
	}
	s, ok := why.(goja.String)
	if err != nil || !ok {
		return failed(err, plain(what))
	}
	return failed(nil, plain(what+": "+s.Substring(0, min(s.Length(), maxReason)).String()))
}

// plain is a text that PostgreSQL and terminals bear: valid UTF-8 without control characters, at most maxReason bytes.
func plain(s string) string {
	s = strings.Map(func(c rune) rune {
		if unicode.IsControl(c) {
			return ' '
		}
		return c
	}, strings.ToValidUTF8(s, "\ufffd"))
	if len(s) <= maxReason {
		return s
	}
	end := maxReason
	for !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end]
}
