package procs

import (
	"context"
	"sync"

	"pipeproc/api"
)

// processor is what runs on the logs of a systemProc.
type processor interface {
	// process answers for one execution. It errs with a *attemptError when the attempt failed, with errStopping or
	// errLost when it was cut off because that is the cause of ctx's end, with errElsewhere when it does not run here.
	process(ctx context.Context, e *api.Execution) (answer, error)
}

// answer is what a processor made of its logs.
type answer struct {
	logs  []api.NewLog // to commit with the ack
	later bool         // neither: the processor will ack by itself
	trace string       // the id that the call was traced under; "": it was not
}

// attemptError is a failed attempt. Its Reason is told to users; the cause is for the server's log alone.
type attemptError struct {
	api.Failure
	cause error // may be nil
}

func (f *attemptError) Error() string { return f.Reason }
func (f *attemptError) Unwrap() error { return f.cause }

func failed(cause error, reason string) *attemptError {
	return &attemptError{api.Failure{Reason: reason}, cause}
}

// processors are the processors of one worker, by kind.
type processors struct {
	webhook processor
	inline  processor
	close   func() // lets their connections go
}

// of answers the processor that runs p.
func (ps processors) of(p *api.Processor) (processor, error) {
	switch {
	case p.URL != "":
		return ps.webhook, nil
	case p.Inline != "":
		return ps.inline, nil
	}
	return nil, failed(nil, "this server does not run processors of this kind")
}

// worker is one worker from its first execution to its last.
type worker struct {
	processors
	begun   int // executions
	running int
	retired bool
}

// seat is the place of a worker. When the worker there has begun its last execution a fresh one takes the seat; the
// former ends with the executions that it still runs, and delays nobody by it.
type seat struct {
	hire         func() processors
	restartAfter int
	restarted    func()
	taken        int // slots; guarded by turns

	mu     sync.Mutex
	worker *worker
}

func newSeat(hire func() processors, restartAfter int, restarted func()) *seat {
	return &seat{hire: hire, restartAfter: restartAfter, restarted: restarted, worker: &worker{processors: hire()}}
}

// begin gives an execution to the worker that sits here; it is to be ended with end.
func (s *seat) begin() *worker {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.worker
	w.begun++
	w.running++
	if w.begun == s.restartAfter {
		w.retired = true
		s.worker = &worker{processors: s.hire()}
		s.restarted()
	}
	return w
}

func (s *seat) end(w *worker) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w.running--
	if w.retired && w.running == 0 {
		w.close()
	}
}

// close ends the worker that sits here; nothing runs any more.
func (s *seat) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.worker.close()
}
