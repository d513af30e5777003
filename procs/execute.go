package procs

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"go.opentelemetry.io/otel/trace"

	"pipeproc/api"
	"pipeproc/api/fault"
)

const (
	// Writes that the store did not do, or may or may not have done, are repeated after a growing delay.
	firstStoreDelay = 50 * time.Millisecond
	maxStoreDelay   = time.Second

	// claimTries is how often a claim is tried before the slot is left to others.
	claimTries = 5
)

// serve executes proc in the slot that it got, for as long as it has work and nobody waits for the slot. again tells that
// it may have more.
func (r *run) serve(proc string, s *seat) (again bool) {
	ctx, end := r.traced(proc, trace.SpanContext{})
	e := r.claim(ctx, proc)
	for e != nil {
		if r.taking.Err() != nil {
			r.undo(e)
			end(undone)
			return false
		}
		former := trace.SpanContextFromContext(ctx)
		var o outcome
		e, again, o = r.execute(ctx, e, s)
		end(o)
		if e != nil {
			ctx, end = r.traced(proc, former)
		}
	}
	return again
}

// claim answers nil when there is nothing to do. A claim that may have been made is asked for until that is known:
// nobody else has its token, and it may have no time-out.
func (r *run) claim(ctx context.Context, proc string) *api.Execution {
	token := rand.Text()
	delay := firstStoreDelay
	for range claimTries {
		var e *api.Execution
		// Not r.taking: a claim that is cut off may have been made, and then nobody would give it back.
		err := r.settle(time.Time{}, func() (err error) {
			e, err = r.Jobs.ClaimJob(ctx, proc, token)
			return err
		})
		switch api.CodeOf(err) {
		case "":
			if e != nil {
				fault.Point(fault.JobClaimed)
			}
			return e
		case api.CodeInvalidProc, api.CodeInvalidTopic: // gone meanwhile
			return nil
		}
		r.Logger.Warn("systemProcs: cannot claim", "proc", proc, "error", err)
		if !wait(r.taking, delay) {
			return nil
		}
		delay = min(4*delay, maxStoreDelay)
	}
	return nil
}

// execute takes e from the call of its processor to its ack, and answers the next execution of the proc, if it went on
// to it. again: it did not, because others wait for the slot.
func (r *run) execute(ctx context.Context, e *api.Execution, s *seat) (next *api.Execution, again bool, o outcome) {
	// By this server's clock, and not before the claim's own expiry by the database's.
	var expiry time.Time
	if e.ReclaimTimeout >= 0 {
		expiry = time.Now().Add(milliseconds(e.ReclaimTimeout))
	}
	r.metrics.inFlight.Inc()
	defer r.metrics.inFlight.Dec()

	a, err := r.process(ctx, e, s)
	var f *attemptError
	switch {
	case errors.Is(err, errStopping):
		o = r.abandon(e)
	case errors.Is(err, errLost):
		o = r.lose(e)
	case errors.Is(err, errElsewhere):
		o = r.undo(e)
	case errors.As(err, &f):
		o = r.fail(e, expiry, a.trace, f)
	case err != nil:
		o = r.fail(e, expiry, a.trace, failed(err, "the processor could not be run"))
	case a.later:
		o = deferred
		r.metrics.count(o)
	default:
		return r.ack(ctx, e, expiry, a)
	}
	return nil, false, o
}

// process calls e's processor. A fault of the program is a failed attempt, and keeps neither the others nor the server from
// going on.
func (r *run) process(ctx context.Context, e *api.Execution, s *seat) (a answer, err error) {
	w := s.begin()
	defer s.end(w)
	defer func() {
		if v := recover(); v != nil {
			err = failed(fmt.Errorf("panic: %v\n%s", v, debug.Stack()), "the processor could not be run")
		}
	}()
	p, err := w.of(&e.Processor)
	if err != nil {
		return answer{}, err
	}
	ctx, cut := context.WithCancelCause(trace.ContextWithSpan(r.calls, trace.SpanFromContext(ctx)))
	defer r.turns.begin(e.Proc, cut)()
	defer r.metrics.timed(time.Now())
	return p.process(ctx, e)
}

// ack commits the output. An answer in hand is committed also while the workers stop.
func (r *run) ack(ctx context.Context, e *api.Execution, expiry time.Time, a answer) (next *api.Execution, again bool, o outcome) {
	others := r.turns.contended()
	goOn := !others && r.taking.Err() == nil
	fault.Point(fault.JobAnswered)
	err := r.settle(expiry, func() (err error) {
		next, err = r.Jobs.AckJob(ctx, e.Proc, e.Claim.Token, a.logs, goOn)
		return err
	})
	switch code := api.CodeOf(err); {
	case err == nil:
		r.metrics.count(acked)
		return next, others, acked
	case gone(code):
		o = r.lose(e)
	case unsure(code):
		o = unknown
		r.metrics.count(o)
		r.Logger.Warn("systemProcs: an ack had no answer", "proc", e.Proc, "attempt", e.Claim.Attempt, "error", err)
	default:
		reason := "the output could not be committed"
		var refused *api.Error
		if errors.As(err, &refused) && code != api.CodeInternal {
			reason += ": " + refused.Message
		}
		o = r.fail(e, expiry, a.trace, failed(err, reason))
	}
	return nil, false, o
}

// lose ends an execution whose claim was lost before the answer came.
func (r *run) lose(e *api.Execution) outcome {
	r.metrics.count(lost)
	r.Logger.Info("systemProcs: a claim was lost before the answer came", "proc", e.Proc, "attempt", e.Claim.Attempt)
	return lost
}

// fail tells of a failed attempt; trace is the id that its call was traced under.
func (r *run) fail(e *api.Execution, expiry time.Time, trace string, f *attemptError) outcome {
	r.metrics.count(failing)
	r.Logger.Info("systemProcs: an attempt failed", "proc", e.Proc, "attempt", e.Claim.Attempt, "trace", trace,
		"reason", f.Reason, "cause", f.cause)
	r.giveBack(e, expiry, func() error { return r.Jobs.FailJob(r.store, e.Proc, e.Claim.Token, f.Failure) })
	return failing
}

// abandon ends an execution whose call was cut off. The server's own end is not held against the processor, which may
// have done its work: it is asked again, for the same logs under the same webhook-id. So the claim is not undone, after
// which another number of logs could be handed out.
func (r *run) abandon(e *api.Execution) outcome {
	r.metrics.count(undone)
	f := api.Failure{Reason: "the server stopped before the processor answered", RetryAfter: 1}
	r.giveBack(e, time.Now().Add(settleTime), func() error {
		return r.Jobs.FailJob(r.store, e.Proc, e.Claim.Token, f)
	})
	return undone
}

// undo gives back a claim whose processor was not called.
func (r *run) undo(e *api.Execution) outcome {
	r.metrics.count(undone)
	r.giveBack(e, time.Now().Add(settleTime), func() error { return r.Jobs.UndoJob(r.store, e.Proc, e.Claim.Token) })
	return undone
}

// giveBack ends a claim without an ack. Where that is not possible the claim's time-out does it later.
func (r *run) giveBack(e *api.Execution, until time.Time, write func() error) {
	if err := r.settle(until, write); err != nil && !gone(api.CodeOf(err)) {
		r.Logger.Warn("systemProcs: cannot end a claim", "proc", e.Proc, "error", err)
	}
}

// settle repeats a write until its outcome is known, or until the time has come (zero: never) when the claim is over
// anyway. The claim's token makes the repetition safe.
func (r *run) settle(until time.Time, write func() error) error {
	for delay := firstStoreDelay; ; delay = min(2*delay, maxStoreDelay) {
		err := write()
		if !unsure(api.CodeOf(err)) {
			return err
		}
		if !until.IsZero() && time.Until(until) < delay {
			return err
		}
		if !wait(r.store, delay) {
			return errors.Join(err, context.Cause(r.store))
		}
	}
}

// unsure: the store did not do it (overloaded), or may have (unavailable).
func unsure(code api.Code) bool { return code == api.CodeUnavailable || code == api.CodeOverloaded }

// gone: the claim is not ours any more, or the proc is no more.
func gone(code api.Code) bool {
	return code == api.CodeClaimLost || code == api.CodeNothingToReclaim || code == api.CodeInvalidProc
}
