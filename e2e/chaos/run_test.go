//go:build linux

package chaos

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"pipeproc/api"
	"pipeproc/client"
	"pipeproc/e2e/check"
)

// How much the load wants to do a second.
type rates struct {
	singles, batches, multis, once, fresh, rude, reads float64
	writers, procs, tails, lives                       int
}

// run is the load on a cluster, its faults, and the end of both.
type run struct {
	*cluster
	rates rates
	hook  *hook

	procs   []check.Proc // that are worked on, to their end
	lives   []check.Proc
	anchors []check.Proc // that nobody ever claims
	end     ending
	writes  *errgroup.Group
	works   *errgroup.Group
	stop    struct{ writes, works context.CancelFunc }
}

// start begins the load: first the procs and those who follow the topics from their begin, then the writers.
func (r *run) start(ctx context.Context, seed uint64) error {
	l := r.load
	r.end.told = make(chan struct{})
	var err error
	if r.hook, err = newHook(l, seed); err != nil {
		return err
	}
	u := l.visitor("setup")
	defer u.CloseIdleConnections()
	whole := []string{l.hookInput(), l.hookOutput(), l.held()}
	for i := range keptTopics {
		whole = append(whole, l.kept(i))
	}
	for _, topic := range whole {
		p, err := l.create(ctx, u, "anchor-"+topic, topic)
		if err != nil {
			return err
		}
		r.anchors = append(r.anchors, p)
	}
	system, err := r.hook.create(ctx, u)
	if err != nil {
		return err
	}
	r.procs = append(r.procs, system)

	working, stopWorks := context.WithCancel(ctx)
	r.works, working = errgroup.WithContext(working)
	writing, stopWrites := context.WithCancel(ctx)
	r.writes, writing = errgroup.WithContext(writing)
	r.stop.works, r.stop.writes = stopWorks, stopWrites

	var names []string
	for i := range r.rates.procs {
		p, err := l.create(ctx, u, l.own("proc-", i), l.flow(i))
		if err != nil {
			return err
		}
		r.procs, names = append(r.procs, p), append(names, p.Name)
		ask := func(ctx context.Context, u *visitor) *api.Claimed { return l.claim(ctx, u, p.Name) }
		r.works.Go(func() error { l.work(working, ask); return nil })
		if i%4 == 0 { // somebody else works on it as well
			r.works.Go(func() error { l.work(working, ask); return nil })
		}
	}
	var several []api.NamedProcOptions
	for i := range 4 {
		p, err := l.create(ctx, u, l.own("any-", i), l.flow(i))
		if err != nil {
			return err
		}
		r.procs = append(r.procs, p)
		several = append(several, api.NamedProcOptions{Name: p.Name, ProcOptions: options(p.Topic, 3)})
	}
	for range 3 {
		r.works.Go(func() error {
			l.work(working, func(ctx context.Context, u *visitor) *api.Claimed { return l.claimAny(ctx, u, several) })
			return nil
		})
	}
	known := make(chan check.Proc)
	for i := range r.rates.lives {
		r.works.Go(func() error { return l.watch(working, l.live(i), known) })
	}
	for range r.rates.lives {
		select {
		case p := <-known:
			r.lives = append(r.lives, p)
		case <-working.Done():
			return errors.Join(errors.New("a liveProc has no stream"), r.works.Wait())
		}
	}
	for i := range r.rates.tails {
		r.works.Go(func() error { return l.tail(working, []string{l.flow(i), l.flow(i + 1), l.kept(i)}, &r.end) })
	}
	r.works.Go(func() error { l.waitForProcs(writing, names); return nil })

	var first []api.NewLog // every topic has a log at least
	for i := range max(keptTopics, flowTopics, liveTopics) {
		for _, topic := range []string{l.kept(i), l.flow(i), l.live(i)} {
			first = append(first, logOf(topic, l.value(u.name)))
		}
	}
	for _, topic := range []string{l.hookInput(), l.held()} {
		first = append(first, logOf(topic, l.value(u.name)))
	}
	if l.commit(ctx, u, "", first) != check.OK {
		return errors.New("the first commit is not answered")
	}

	write := func(perSecond float64, next func(*visitor) []api.NewLog) {
		for range r.rates.writers {
			r.writes.Go(func() error { l.write(writing, perSecond/float64(r.rates.writers), next); return nil })
		}
	}
	write(r.rates.singles, l.single)
	write(r.rates.batches, l.batch)
	write(r.rates.multis, l.multi)
	write(r.rates.fresh, l.fresh)
	write(10, l.toHeld)
	for range r.rates.writers {
		r.writes.Go(func() error { l.writeOnce(writing, r.rates.once/float64(r.rates.writers)); return nil })
	}
	for range 4 {
		r.writes.Go(func() error { l.rude(writing, r.rates.rude/4); return nil })
	}
	for range 3 {
		r.works.Go(func() error { l.read(writing, r.rates.reads/3); return nil })
	}
	r.works.Go(func() error { l.collect(writing, 0.5); return nil })
	return nil
}

// handOver measures how soon the logs of dead workers move: a client's that is gone with its claim, and those of servers
// that die while they call a processor.
func (r *run) handOver(ctx context.Context) error {
	l := r.load
	u, other := l.visitor("dies"), l.visitor("takes-over")
	defer u.CloseIdleConnections()
	defer other.CloseIdleConnections()
	topic := l.own("hand-over")
	p, err := l.create(ctx, u, topic, topic)
	if err != nil {
		return err
	}
	r.procs = append(r.procs, p)
	for l.commit(ctx, u, "", []api.NewLog{logOf(topic, l.value(u.name))}) != check.OK {
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	for l.claim(ctx, u, p.Name) == nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	begun := time.Now()
	takeOver := func() *api.Claimed {
		return l.claimBy(ctx, other, true, 10*time.Second, func(ctx context.Context) (*api.Claimed, error) {
			return other.Proc(ctx, p.Name, api.ClaimRequest{Wait: new(int64(10_000))})
		})
	}
	claimed := takeOver()
	if claimed == nil {
		return errors.New("the logs of a dead worker do not come to another one")
	}
	if err := r.moved(time.Since(begun)); err != nil {
		return err
	}
	for acked := check.Unknown; acked != check.OK; {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if acked == check.Failed { // it came too late
			if claimed = takeOver(); claimed == nil {
				continue
			}
		}
		_, acked = l.ack(ctx, other, claimed, client.AckOptions{Token: claimed.Claim.Token}, nil)
	}

	r.hook.mu.Lock()
	doomed := l.value("doomed")
	r.hook.doomed = doomed
	r.hook.mu.Unlock()
	r.hook.bad.Store(false)
	if err := l.idle(ctx, []string{l.own("hook")}, r.notef); err != nil { // so that it comes first in its claim
		return err
	}
	for l.commit(ctx, u, doomed, []api.NewLog{logOf(l.hookInput(), doomed)}) != check.OK {
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	if err := r.hook.calledAgain(ctx, doomed, 1); err != nil {
		return err
	}
	begun = time.Now()
	if r.steady {
		return nil // the server that is not to die may be the one that calls
	}
	for _, replica := range r.replicas {
		if err := replica.signal(syscall.SIGKILL); err != nil {
			return err
		}
	}
	if err := r.hook.calledAgain(ctx, doomed, 2); err != nil {
		return err
	}
	return r.moved(time.Since(begun))
}

func (r *run) moved(took time.Duration) error {
	r.tally.longest(handOverTime, took)
	if most := reclaimTimeout + 2*time.Second; took > most {
		return fmt.Errorf("the logs of a dead worker moved after %v, at most %v is allowed", took, most)
	}
	return nil
}

// rest ends the commits.
func (r *run) rest(context.Context) error {
	r.stop.writes()
	return r.writes.Wait()
}

// quiesce lets everything come to its end: all procs get everything, all tails see everything.
func (r *run) quiesce(ctx context.Context) error {
	var names []string
	for _, p := range slices.Concat(r.procs, r.lives) {
		names = append(names, p.Name)
	}
	within, cancel := context.WithTimeout(ctx, endTime*2/3)
	defer cancel()
	if err := r.load.idle(within, names, r.notef); err != nil {
		r.stop.works()
		return errors.Join(err, r.works.Wait())
	}
	r.notef("--- no proc has any lag")
	heads, err := r.heads(ctx)
	if err != nil {
		return err
	}
	r.end.heads = heads
	close(r.end.told)
	ended := make(chan error, 1)
	go func() { ended <- r.works.Wait() }()
	// The tails end by themselves, the others when they are told to. Who is told to while a tail still reads is not whole.
	for {
		if done := r.load.tally.count(tailsDone) == int64(r.rates.tails); done {
			r.stop.works()
			return <-ended
		}
		select {
		case err := <-ended:
			return err
		case <-ctx.Done():
			r.stop.works()
			return errors.Join(ctx.Err(), <-ended)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

const tailsDone = "tails that had everything"

// heads are those of all topics.
func (r *run) heads(ctx context.Context) (map[string]int64, error) {
	u := r.load.visitor("heads")
	defer u.CloseIdleConnections()
	heads := map[string]int64{}
	for after := ""; ; {
		list, err := u.Topics(ctx, client.ListOptions{After: after, Limit: api.MaxListed})
		if err != nil {
			return nil, err
		}
		for _, t := range list.Topics {
			heads[t.Name] = t.Committed
		}
		if after = list.Next; after == "" {
			return heads, nil
		}
	}
}

// final takes down what is left in the end; whole tells that everything has come to its end.
func (r *run) final(ctx context.Context, whole bool) error {
	l := r.load
	u := l.visitor("final")
	defer u.CloseIdleConnections()
	heads, err := r.heads(ctx)
	if err != nil {
		return err
	}
	topics := map[string]check.Topic{}
	for _, name := range slices.Sorted(maps.Keys(heads)) {
		t, err := r.topic(ctx, u, name, heads[name])
		if err != nil {
			return err
		}
		topics[name] = t
		l.recorder.Topic(name, t)
		l.tally.add("logs read in the end", int64(len(t.Logs)))
	}
	for i, p := range slices.Concat(r.anchors, r.procs, r.lives) {
		p.Whole = whole && i >= len(r.anchors)
		if err := l.finish(ctx, u, p, heads); err != nil {
			return err
		}
	}
	if !whole {
		return nil
	}
	return r.onceInOrder(topics)
}

// topic reads all that a topic retains; once more where GC went on while it was read.
func (r *run) topic(ctx context.Context, u *visitor, name string, head int64) (check.Topic, error) {
	for {
		t := check.Topic{First: head, Head: head}
		var failed error
		for log, err := range u.RangeLines(ctx, name, client.RangeOptions{}) {
			if failed = err; err == nil {
				t.Logs = append(t.Logs, check.Log{ID: log.ID, Value: valueOf(log.Body)})
			}
		}
		if api.CodeOf(failed) == api.CodeCollected && ctx.Err() == nil {
			continue
		}
		if failed != nil {
			return t, failed
		}
		if len(t.Logs) > 0 {
			t.First = t.Logs[0].ID.Seq
		}
		return t, nil
	}
}

// clear removes all that the round has left, and so has topics deleted under GC.
func (r *run) clear(ctx context.Context) error {
	u := r.load.visitor("clear")
	defer u.CloseIdleConnections()
	if _, err := u.DestroySystemProc(ctx, r.load.own("hook")); err != nil {
		return err
	}
	heads, err := r.heads(ctx)
	if err != nil {
		return err
	}
	for topic := range heads {
		if err := u.DeleteTopic(ctx, topic, true); err != nil {
			return err
		}
	}
	return nil
}

// onceInOrder holds the processor's output against its input: one for each log, in their order.
func (r *run) onceInOrder(topics map[string]check.Topic) error {
	in, out := topics[r.load.hookInput()].Logs, topics[r.load.hookOutput()].Logs
	if len(in) == 0 || len(in) != len(out) {
		return fmt.Errorf("the processor had %d logs, and its output are %d", len(in), len(out))
	}
	for i := range in {
		if want := "out-" + in[i].Value; out[i].Value != want {
			return fmt.Errorf("output %d of the processor is %s, want %s", i, out[i].Value, want)
		}
	}
	r.tally.add("outputs of the processor, each once and in order", int64(len(out)))
	return nil
}
