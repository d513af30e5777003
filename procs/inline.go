package procs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"runtime/debug"
	"sync"
	"time"

	"github.com/dop251/goja"

	"pipeproc/api"
)

// inlineGrace is how long an interrupted function may take to end. The engine sees an interruption between two steps of
// the function, but not within one: a native function that it called.
const inlineGrace = 250 * time.Millisecond

// errElsewhere says that an execution is for servers that run inline functions. None is asked for here: the processor has
// become one since its proc was listed.
var errElsewhere = errors.New("inline processors are not enabled on this server")

// inline runs functions in this process, each execution in a global state of its own. It is shared by all workers.
type inline struct {
	enabled  bool
	programs programs
	logger   *slog.Logger
	cores    chan struct{} // a place for each function that runs: more of them at a time would take each other's time

	mu    sync.Mutex
	stuck map[task]*inlineRun // given up, and still running
}

// task is what a run is given up with.
type task struct{ proc, text string }

func newInline(c *Config) *inline {
	return &inline{enabled: c.Inline, programs: programs{byText: map[string]*program{}}, logger: c.Logger,
		cores: make(chan struct{}, runtime.GOMAXPROCS(0)), stuck: map[task]*inlineRun{}}
}

// check answers CodeNoValidProcessor for a text that is no function, or where inline processors do not run.
func (p *inline) check(text string) error {
	if !p.enabled {
		return api.Errorf(api.CodeNoValidProcessor, "inline processors are not enabled on this server")
	}
	_, err := p.programs.of(text)
	return err
}

func (p *inline) process(ctx context.Context, e *api.Execution) (answer, error) {
	if !p.enabled {
		return answer{}, errElsewhere
	}
	t := task{e.Proc, e.Processor.Inline}
	if p.isStuck(t) {
		return answer{}, failed(nil, "an earlier attempt still runs, in a step that cannot be interrupted")
	}
	select {
	case p.cores <- struct{}{}:
		defer func() { <-p.cores }() // also when the run is given up: two of them must not stop all others
	case <-ctx.Done():
		return answer{}, context.Cause(ctx)
	}
	limit := milliseconds(e.Processor.CallTimeout(e.ReclaimTimeout))
	timer := time.NewTimer(limit)
	defer timer.Stop()
	r := newInlineRun(limit)
	go p.run(r, t, e)

	var cut error
	select {
	case <-r.ended:
		return answer{logs: r.logs}, r.err
	case <-timer.C:
		cut = r.late()
	case <-ctx.Done():
		cut = context.Cause(ctx)
	}
	r.interrupt()
	grace := time.NewTimer(inlineGrace)
	defer grace.Stop()
	select {
	case <-r.ended:
	case <-grace.C:
		p.giveUp(r, t)
	}
	return answer{}, cut
}

// run does r, and keeps what goes wrong in the engine from ending the server.
func (p *inline) run(r *inlineRun, t task, e *api.Execution) {
	defer p.end(r, t)
	defer func() {
		if v := recover(); v != nil {
			r.logs, r.err = nil, failed(fmt.Errorf("panic: %v\n%s", v, debug.Stack()), "the engine failed on the function")
		}
	}()
	code, err := p.programs.of(t.text)
	if err != nil {
		r.err = unreadable(err)
		return
	}
	r.logs, r.err = r.do(code, e)
}

// unreadable is a text that was accepted, by another version maybe, and is no function here.
func unreadable(err error) error {
	var refused *api.Error
	if errors.As(err, &refused) {
		return failed(nil, plain(refused.Message))
	}
	return failed(err, "the function cannot be read")
}

// giveUp leaves r, which was interrupted and does not end, to itself. While it runs its proc's attempts with the same
// function fail at once, so that they do not pile up.
func (p *inline) giveUp(r *inlineRun, t task) {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-r.ended:
		return
	default:
	}
	p.stuck[t] = r
	p.logger.Error("systemProcs: an inline function cannot be interrupted, and goes on", "proc", t.proc)
}

func (p *inline) end(r *inlineRun, t task) {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(r.ended)
	if p.stuck[t] == r {
		delete(p.stuck, t)
		p.logger.Info("systemProcs: an inline function that could not be interrupted has ended", "proc", t.proc,
			"after", time.Since(r.began))
	}
}

func (p *inline) isStuck(t task) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stuck[t] != nil
}

// interrupted and overflown tell how the engine ended a function.
func interrupted(err error) bool {
	var e *goja.InterruptedError
	return errors.As(err, &e)
}

func overflown(err error) bool {
	var e *goja.StackOverflowError
	return errors.As(err, &e)
}
