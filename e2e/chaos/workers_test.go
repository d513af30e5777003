//go:build linux

package chaos

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"pipeproc/api"
	"pipeproc/client"
	"pipeproc/e2e/check"
)

// options are those of a proc that chaos does not disable.
func options(topic string, count int) api.ProcOptions {
	return api.ProcOptions{Topic: topic, Count: &count, MaxReclaims: new(-1), ReclaimTimeout: new(reclaimTimeout.Milliseconds())}
}

// create makes a proc that begins with the first log of its topic, and answers what is to be told of it at the end.
func (l *load) create(ctx context.Context, u *visitor, name, topic string) (check.Proc, error) {
	p := check.Proc{Name: name, Topic: topic, Created: l.recorder.Begin(u.name)}
	for {
		ctx, cancel := request(ctx, 0)
		_, _, err := u.CreateProc(ctx, name, options(topic, 3))
		cancel()
		if o := l.outcome(err); o != check.Unknown {
			p.Created = l.recorder.End(p.Created, o)
			return p, err
		}
	}
}

// handed takes a claim down that has come to u.
func (l *load) handed(u *visitor, span check.Span, via check.Via, waited bool, claimed *api.Claimed) {
	c := check.Claim{Span: span, Proc: claimed.Proc, Token: claimed.Claim.Token, Attempt: claimed.Claim.Attempt,
		Logs: seen(claimed.Logs), Via: via, Waited: waited}
	if claimed.Claim.ExpiresAt != nil {
		c.ExpiresAt = *claimed.Claim.ExpiresAt
	}
	l.recorder.Claim(c)
	l.tally.add(claims, 1)
}

// claim asks for the next logs of a proc; nil is none.
func (l *load) claim(ctx context.Context, u *visitor, proc string) *api.Claimed {
	req := api.ClaimRequest{}
	if u.random.IntN(4) > 0 {
		req.Count = new(u.count())
	}
	if u.random.IntN(8) > 0 {
		req.Wait = new(int64(500 + u.random.IntN(2_500)))
	}
	wait := time.Duration(*cmp.Or(req.Wait, new(int64(0)))) * time.Millisecond
	return l.claimBy(ctx, u, req.Wait != nil, wait, func(ctx context.Context) (*api.Claimed, error) { return u.Proc(ctx, proc, req) })
}

// count is how many logs a claim asks for: few, mostly, so that there are many claims; now and then as many as it takes to
// catch up.
func (u *visitor) count() int {
	if u.random.IntN(32) == 0 {
		return 200
	}
	return 1 + u.random.IntN(6)
}

// claimAny asks for logs of whichever proc has some.
func (l *load) claimAny(ctx context.Context, u *visitor, procs []api.NamedProcOptions) *api.Claimed {
	wait := int64(1_000)
	return l.claimBy(ctx, u, true, time.Second, func(ctx context.Context) (*api.Claimed, error) {
		return u.AvailableProc(ctx, api.ClaimAnyRequest{Procs: procs, Wait: &wait})
	})
}

func (l *load) claimBy(ctx context.Context, u *visitor, waited bool, wait time.Duration, ask func(context.Context) (*api.Claimed, error)) *api.Claimed {
	ctx, cancel := request(ctx, wait)
	defer cancel()
	span := l.recorder.Begin(u.name)
	claimed, err := ask(ctx)
	span = l.recorder.End(span, l.outcome(err))
	switch {
	case api.CodeOf(err) == api.CodeProcIsDisabled:
		l.wrongf("a proc without a limit on reclaims is disabled: %v", err)
	case err != nil:
		u.turnAway(ctx)
	case claimed != nil:
		l.handed(u, span, check.ByClaim, waited, claimed)
	}
	return claimed
}

// work claims logs by ask and processes them until ctx is done. What was claimed then is acked all the same.
func (l *load) work(ctx context.Context, ask func(ctx context.Context, u *visitor) *api.Claimed) {
	u := l.visitor("p")
	defer u.CloseIdleConnections()
	for ctx.Err() == nil {
		for claimed := ask(ctx, u); claimed != nil; {
			claimed = l.process(context.WithoutCancel(ctx), u, claimed, ctx.Err() == nil)
		}
	}
}

// process does with a claim what a worker may do with it, and answers the next one.
func (l *load) process(ctx context.Context, u *visitor, claimed *api.Claimed, goOn bool) *api.Claimed {
	o := client.AckOptions{Token: claimed.Claim.Token, ClaimNext: goOn && u.random.IntN(8) > 0}
	if o.ClaimNext && u.random.IntN(2) == 0 {
		o.Count = new(u.count())
	}
	switch n := u.random.IntN(1_000); {
	case n == 0: // dies
		l.tally.add("claims left to their time-out", 1)
		return nil
	case n < 4:
		l.reclaim(ctx, u, claimed.Proc, o.Token)
		return nil
	case n < 10: // goes on with the token of what it has given up, though it or somebody else has another one
		if l.reclaim(ctx, u, claimed.Proc, o.Token) != check.OK {
			return nil
		}
		var again *api.Claimed
		if goOn {
			again = l.claim(ctx, u, claimed.Proc)
		}
		l.tally.add(lostTokens, 1)
		switch n % 3 {
		case 0:
			l.ack(ctx, u, claimed, client.AckOptions{Token: o.Token}, nil)
		case 1:
			l.extend(ctx, u, claimed.Proc, o.Token)
		case 2:
			l.reclaim(ctx, u, claimed.Proc, o.Token)
		}
		return again
	case n < 18:
		l.extend(ctx, u, claimed.Proc, o.Token)
	}
	var output []api.NewLog
	if u.random.IntN(3) == 0 {
		for range 1 + u.random.IntN(3) {
			output = append(output, logOf(l.kept(u.random.IntN(keptTopics)), l.value(u.name)))
		}
	}
	for range 10 {
		next, outcome := l.ack(ctx, u, claimed, o, output)
		if outcome == check.OK && u.random.IntN(100) == 0 && !o.ClaimNext {
			l.ack(ctx, u, claimed, o, output) // once more: the same answer
		}
		if outcome != check.Unknown {
			return next
		}
		u.turnAway(ctx)
	}
	return nil
}

// ack acks, and commits the output if there is one.
func (l *load) ack(ctx context.Context, u *visitor, claimed *api.Claimed, o client.AckOptions, output []api.NewLog) (*api.Claimed, check.Outcome) {
	ctx, cancel := request(ctx, 0)
	defer cancel()
	a := check.Ack{Proc: claimed.Proc, Token: o.Token, Span: l.recorder.Begin(u.name)}
	var acked api.Acked
	var err error
	if output == nil {
		acked, err = u.Ack(ctx, claimed.Proc, o)
	} else {
		a.Output = recorded(output)
		acked, err = u.AckCommitAll(ctx, claimed.Proc, o, output)
	}
	a.Span, a.IDs, a.Lost = l.recorder.End(a.Span, l.outcome(err)), acked.IDs, api.CodeOf(err) == api.CodeClaimLost
	l.recorder.Ack(a)
	if a.Outcome != check.OK {
		return nil, a.Outcome
	}
	l.tally.add(acks, 1)
	for i, id := range acked.IDs {
		l.reached(output[i].Topic, id.Seq)
	}
	if acked.Next != nil {
		acked.Next.Proc, acked.Next.Topic = claimed.Proc, claimed.Topic
		l.handed(u, a.Span, check.ByAck, false, acked.Next)
	}
	return acked.Next, check.OK
}

func (l *load) reclaim(ctx context.Context, u *visitor, proc, token string) check.Outcome {
	ctx, cancel := request(ctx, 0)
	defer cancel()
	r := check.Reclaim{Span: l.recorder.Begin(u.name), Proc: proc, Token: token}
	_, err := u.Reclaim(ctx, proc, token)
	r.Span, r.Lost = l.recorder.End(r.Span, l.outcome(err)), api.CodeOf(err) == api.CodeClaimLost
	l.recorder.Reclaim(r)
	if r.Outcome == check.OK {
		l.tally.add(reclaims, 1)
	}
	return r.Outcome
}

func (l *load) extend(ctx context.Context, u *visitor, proc, token string) {
	ctx, cancel := request(ctx, 0)
	defer cancel()
	e := check.Extend{Span: l.recorder.Begin(u.name), Proc: proc, Token: token}
	claim, err := u.Extend(ctx, proc, token)
	e.Span, e.Lost = l.recorder.End(e.Span, l.outcome(err)), api.CodeOf(err) == api.CodeClaimLost
	if claim.ExpiresAt != nil {
		e.ExpiresAt = *claim.ExpiresAt
	}
	l.recorder.Extend(e)
	if e.Outcome == check.OK {
		l.tally.add(extends, 1)
	}
}

// finish tells of a proc how it stands at the end.
func (l *load) finish(ctx context.Context, u *visitor, p check.Proc, heads map[string]int64) error {
	now, err := u.InspectProc(ctx, p.Name)
	if err != nil {
		return err
	}
	p.Position = heads[p.Topic] - now.Lag
	l.recorder.Proc(p)
	return nil
}

// idle waits until procs have no lag.
func (l *load) idle(ctx context.Context, procs []string, notef func(string, ...any)) error {
	u := l.visitor("idle")
	defer u.CloseIdleConnections()
	var last api.Waited
	var failed error
	for ctx.Err() == nil {
		waited, err := u.WaitForProcs(ctx, api.WaitRequest{Procs: procs, Timeout: new(int64(2_000))})
		if err == nil && waited.Done {
			return nil
		}
		if ctx.Err() == nil {
			last, failed = waited, err
			notef("--- there is lag: %v, %v", lagError(lagging(waited)), err)
		}
		if err != nil {
			_ = pause(ctx, 100*time.Millisecond)
		}
	}
	return errors.Join(errors.New("procs do not come to their end"), failed, ctx.Err(), lagError(lagging(last)))
}

func lagging(w api.Waited) []api.ProcLag {
	return slices.DeleteFunc(slices.Clone(w.Procs), func(p api.ProcLag) bool { return p.Lag == 0 })
}

type lagError []api.ProcLag

func (e lagError) Error() string {
	text := "lags:"
	for _, p := range e {
		text += " " + p.Name + "=" + fmt.Sprint(p.Lag)
	}
	return text
}
