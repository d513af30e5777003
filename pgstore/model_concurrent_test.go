package pgstore_test

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"pgregory.net/rapid"

	"pipeproc/api"
	"pipeproc/pgstore"
	"pipeproc/pgstore/pgtest"
)

// concurrentTime is how long TestModelConcurrent looks for a broken promise, unless -rapid.checks tells how often.
const concurrentTime = 20 * time.Second

// TestModelConcurrent sends random requests at once, through two servers of one database. Nobody can tell their order
// beforehand; the promises hold in any.
func TestModelConcurrent(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	stores := []*pgstore.Store{open(t, url), open(t, url)}
	conn := connect(t, url)
	checks := 0
	checkFor(t, concurrentTime, func(rt *rapid.T) {
		checks++
		plans := rapid.SliceOfN(rapid.SliceOfN(rapid.Custom(drawTask), 10, 20), 4, 8).Draw(rt, "workers")
		emptyNamespace(rt, conn)
		c := &crowd{stores: stores, committed: map[string]map[int64]api.Log{}, claims: map[string]*api.Claimed{}, acks: map[string]ackTold{}}
		if err := c.run(rt.Context(), plans); err != nil {
			rt.Fatal(err)
		}
		if err := c.judge(rt.Context()); err != nil {
			rt.Fatal(err)
		}
	})
	t.Logf("%d checks", checks)
}

// task is one thing that a worker does.
type task struct {
	Do    string
	Proc  string
	Count int
	Via   int // the store
}

func drawTask(t *rapid.T) task {
	return task{
		Do: pick(t, "do", "commit", "commit", "commit both", "ack", "ack", "ack next", "ackCommit", "ackCommit", "ack twice", "claimAny",
			"abandon", "give back", "reclaim", "disable", "resume", "extend", "collect", "sweep"),
		Proc: pick(t, "proc", crowdProcs...), Count: rapid.IntRange(1, 4).Draw(t, "count"), Via: rapid.IntRange(0, 1).Draw(t, "via"),
	}
}

// The procs consume "in". "out" takes what they make of it, and a proc that never claims keeps it. "x" and "y" are only
// committed to together.
var crowdProcs = []string{"p", "q"}

// crowd is several workers, and what they were told.
type crowd struct {
	stores []*pgstore.Store

	mu        sync.Mutex
	n         int
	committed map[string]map[int64]api.Log // by topic
	claims    map[string]*api.Claimed      // by token
	acks      map[string]ackTold           // by token
}

type ackTold struct {
	acked  api.Acked
	output json.RawMessage // committed with it, nil for none
}

func (c *crowd) run(ctx context.Context, plans [][]task) error {
	for _, p := range []struct {
		name, topic string
		timeout     int64
	}{{"p", "in", 15}, {"q", "in", -1}, {"keeper", "out", -1}} {
		unlimited := -1
		options := api.ProcOptions{Topic: p.topic, MaxReclaims: &unlimited, ReclaimTimeout: &p.timeout}
		if _, _, err := c.stores[0].CreateProc(ctx, p.name, options); err != nil {
			return err
		}
	}
	var workers, readers errgroup.Group
	reading, stop := context.WithCancel(ctx)
	for _, s := range c.stores {
		readers.Go(func() error { return c.watch(reading, s) })
	}
	for _, plan := range plans {
		workers.Go(func() error {
			for _, task := range plan {
				if err := c.do(ctx, c.stores[task.Via], task); err != nil {
					return fmt.Errorf("%+v: %w", task, err)
				}
			}
			return nil
		})
	}
	err := workers.Wait()
	stop()
	return cmp.Or(err, readers.Wait())
}

func (c *crowd) do(ctx context.Context, s *pgstore.Store, task task) error {
	switch task.Do {
	case "commit":
		return c.commit(ctx, s, slices.Repeat([]string{"in"}, task.Count)...)
	case "commit both":
		return c.commit(ctx, s, "x", "in", "y")
	case "reclaim":
		_, err := s.Reclaim(ctx, task.Proc, "")
		return but(err, api.CodeNothingToReclaim, api.CodeProcIsDisabled)
	case "disable":
		_, err := s.DisableProc(ctx, task.Proc)
		return but(err, api.CodeProcAlreadyDisabled)
	case "resume":
		_, err := s.ResumeProc(ctx, task.Proc)
		return but(err, api.CodeProcAlreadyActive)
	case "collect":
		_, err := s.Collect(ctx, 0)
		return err
	case "sweep":
		return s.Sweep(ctx)
	}
	var claimed *api.Claimed
	var err error
	if task.Do == "claimAny" {
		claimed, err = s.ClaimAny(ctx, api.ClaimAnyRequest{Procs: []api.NamedProcOptions{
			{Name: "p", ProcOptions: api.ProcOptions{Count: &task.Count}}, {Name: "q"}}})
	} else {
		claimed, err = s.Claim(ctx, task.Proc, api.ClaimRequest{ProcOptions: api.ProcOptions{Count: &task.Count}})
		err = but(err, api.CodeAlreadyClaimed, api.CodeProcIsDisabled)
	}
	if err != nil || claimed == nil {
		return but(err, api.CodeClaimLost) // reclaimed, acked and collected through others before its logs were read
	}
	if err := c.claimed(claimed); err != nil {
		return err
	}
	token := claimed.Claim.Token
	switch task.Do {
	case "abandon":
		return nil
	case "give back":
		return s.UndoClaim(ctx, claimed.Proc, token)
	case "extend":
		_, err := s.Extend(ctx, claimed.Proc, token)
		return but(err, api.CodeClaimLost)
	case "ack twice": // at once
		var both errgroup.Group
		for _, s := range c.stores {
			both.Go(func() error { return c.ack(ctx, s, claimed, true, false) })
		}
		return both.Wait()
	}
	return c.ack(ctx, s, claimed, task.Do == "ackCommit", task.Do == "ack next")
}

// but lets some refusals pass.
func but(err error, codes ...api.Code) error {
	if err != nil && slices.Contains(codes, api.CodeOf(err)) {
		return nil
	}
	return err
}

func (c *crowd) commit(ctx context.Context, s *pgstore.Store, topics ...string) error {
	logs := make([]api.NewLog, len(topics))
	for i, topic := range topics {
		c.mu.Lock()
		c.n++
		logs[i] = api.NewLog{Topic: topic, Body: json.RawMessage(fmt.Sprintf(`{"n":%d}`, c.n))}
		c.mu.Unlock()
	}
	told, err := s.Commit(ctx, logs, nil)
	if err != nil {
		return err
	}
	return c.record(logs, told.IDs)
}

// record remembers the ids of a commit: none was given before, and they share a timestamp.
func (c *crowd) record(logs []api.NewLog, ids []api.ID) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, id := range ids {
		topic := c.committed[logs[i].Topic]
		if topic == nil {
			topic = map[int64]api.Log{}
			c.committed[logs[i].Topic] = topic
		}
		if _, ok := topic[id.Seq]; ok || id.TS != ids[0].TS {
			return fmt.Errorf("commit to %s: id %v was given twice, or is not of one time: %v", logs[i].Topic, id, ids)
		}
		topic[id.Seq] = api.Log{ID: id, Body: logs[i].Body}
	}
	return nil
}

func (c *crowd) claimed(claimed *api.Claimed) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.claims[claimed.Claim.Token]; ok {
		return fmt.Errorf("token %q was given twice", claimed.Claim.Token)
	}
	c.claims[claimed.Claim.Token] = claimed
	return nil
}

// ack acks a claim, with output or without; an answer that repeats another is the same.
func (c *crowd) ack(ctx context.Context, s *pgstore.Store, claimed *api.Claimed, output, next bool) error {
	token := claimed.Claim.Token
	req := api.AckRequest{Token: token, ClaimNext: next}
	told := ackTold{}
	if output {
		told.output = json.RawMessage(fmt.Sprintf(`{"proc":%q,"of":%q}`, claimed.Proc, claimed.Claim.Range))
		req.Logs = []api.NewLog{{Topic: "out", Body: told.output}, {Topic: "in", Body: told.output}}
	}
	acked, err := s.Ack(ctx, claimed.Proc, req)
	if err != nil {
		return but(err, api.CodeClaimLost)
	}
	if acked.Next != nil {
		if err := c.claimed(acked.Next); err != nil {
			return err
		}
	}
	acked.Next, told.acked = nil, acked
	c.mu.Lock()
	before, repeated := c.acks[token]
	c.acks[token] = told
	c.mu.Unlock()
	if repeated {
		if a, b := fmt.Sprint(before.acked), fmt.Sprint(acked); a != b {
			return fmt.Errorf("the same ack is answered %s and %s", a, b)
		}
		return nil
	}
	return c.record(req.Logs, acked.IDs)
}

// watch reads while others write: what is seen has no holes, never shrinks, and shows a commit as a whole.
func (c *crowd) watch(ctx context.Context, s *pgstore.Store) error {
	var head int64
	for ctx.Err() == nil {
		list, err := s.Topics(ctx, "", 100)
		if err != nil {
			return alive(ctx, err)
		}
		count := map[string]int64{}
		for _, t := range list.Topics {
			count[t.Name] = t.Committed
		}
		if count["x"] != count["y"] {
			return fmt.Errorf("half a commit was seen: %v", count)
		}
		page, err := s.Range(ctx, "in", api.RangeQuery{Limit: api.MaxPageLogs})
		if err != nil {
			if err := alive(ctx, but(err, api.CodeInvalidTopic)); err != nil {
				return err
			}
			continue
		}
		for i, l := range page.Logs {
			if i > 0 && (l.ID.Seq != page.Logs[i-1].ID.Seq+1 || l.ID.TS < page.Logs[i-1].ID.TS) {
				return fmt.Errorf("log %v follows %v", l.ID, page.Logs[i-1].ID)
			}
		}
		if n := len(page.Logs); n > 0 {
			if page.Logs[n-1].ID.Seq+1 < head {
				return fmt.Errorf("the head was %d and is %v", head, page.Logs[n-1].ID)
			}
			head = page.Logs[n-1].ID.Seq + 1
		}
	}
	return nil
}

// alive passes over errors of a reader that was stopped.
func alive(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// judge lets the procs finish, and holds the outcome to what was told.
func (c *crowd) judge(ctx context.Context) error {
	s := c.stores[0]
	for _, proc := range crowdProcs {
		if err := c.finish(ctx, s, proc); err != nil {
			return err
		}
	}
	list, err := s.Topics(ctx, "", 100)
	if err != nil {
		return err
	}
	for _, t := range list.Topics {
		if err := c.whole(t); err != nil {
			return err
		}
	}
	for _, proc := range crowdProcs {
		if err := c.eachOnce(proc); err != nil {
			return err
		}
	}
	return c.outputs(ctx, s)
}

// finish acks all that is left.
func (c *crowd) finish(ctx context.Context, s *pgstore.Store, proc string) error {
	if _, err := s.ResumeProc(ctx, proc); but(err, api.CodeProcAlreadyActive) != nil {
		return err
	}
	if _, err := s.Reclaim(ctx, proc, ""); but(err, api.CodeNothingToReclaim) != nil {
		return err
	}
	forever, count := int64(-1), 100
	if _, err := s.PatchProc(ctx, proc, api.ProcPatch{ReclaimTimeout: &forever}); err != nil {
		return err
	}
	for {
		claimed, err := s.Claim(ctx, proc, api.ClaimRequest{ProcOptions: api.ProcOptions{Count: &count}})
		if err != nil || claimed == nil {
			return err
		}
		if err := c.claimed(claimed); err != nil {
			return err
		}
		if err := c.ack(ctx, s, claimed, false, false); err != nil {
			return err
		}
		told := c.acks[claimed.Claim.Token].acked
		again, err := c.stores[1].Ack(ctx, proc, api.AckRequest{Token: claimed.Claim.Token})
		if err != nil {
			return err
		}
		if fmt.Sprint(again) != fmt.Sprint(told) {
			return fmt.Errorf("the ack of %s was answered %v, its repeat %v", proc, told, again)
		}
	}
}

// whole holds that a topic has the logs that were told of, without holes, and timestamps that never decrease.
func (c *crowd) whole(t api.Topic) error {
	told := c.committed[t.Name]
	if int64(len(told)) != t.Committed {
		return fmt.Errorf("topic %s: %d logs were told of, there are %d", t.Name, len(told), t.Committed)
	}
	for seq := range t.Committed {
		l, ok := told[seq]
		if !ok || seq > 0 && l.ID.TS < told[seq-1].ID.TS {
			return fmt.Errorf("topic %s: a hole, or a time before the one before it, at %d", t.Name, seq)
		}
	}
	return nil
}

// eachOnce holds that the acks of a proc, put together, are its topic: each log delivered as committed, and acked once.
func (c *crowd) eachOnce(proc string) error {
	acked := []*api.Claimed{}
	for token, told := range c.acks {
		claimed := c.claims[token]
		if claimed.Proc != proc {
			continue
		}
		if told.acked.Acked != claimed.Claim.Range.Acked() {
			return fmt.Errorf("proc %s: claimed %v, acked %s", proc, claimed.Claim.Range, told.acked.Acked)
		}
		acked = append(acked, claimed)
	}
	slices.SortFunc(acked, func(a, b *api.Claimed) int { return a.Claim.Range.First.Compare(b.Claim.Range.First) })
	var next int64
	for _, claimed := range acked {
		for _, l := range claimed.Logs {
			if want := c.committed["in"][next]; l.ID != want.ID || string(l.Body) != string(want.Body) {
				return fmt.Errorf("proc %s: log %v %s was acked where %v %s was due", proc, l.ID, l.Body, want.ID, want.Body)
			}
			next++
		}
	}
	if head := int64(len(c.committed["in"])); next != head {
		return fmt.Errorf("proc %s: acked %d logs of %d", proc, next, head)
	}
	return nil
}

// outputs holds that what ackCommits committed is there once each, a proc's in the order of its claims.
func (c *crowd) outputs(ctx context.Context, s *pgstore.Store) error {
	page, err := s.Range(ctx, "out", api.RangeQuery{Limit: api.MaxPageLogs})
	if err != nil {
		return but(err, api.CodeInvalidTopic)
	}
	want := map[string]int{}
	for _, told := range c.acks {
		if told.output != nil {
			want[string(told.output)]++
		}
	}
	last := map[string]api.ID{}
	for _, l := range page.Logs {
		want[string(l.Body)]--
		var output struct {
			Proc string
			Of   api.Range
		}
		if err := json.Unmarshal(l.Body, &output); err != nil {
			return err
		}
		if output.Of.First.Compare(last[output.Proc]) < 0 {
			return fmt.Errorf("proc %s: the output of %v comes after that of %v", output.Proc, output.Of, last[output.Proc])
		}
		last[output.Proc] = output.Of.Last
	}
	for body, n := range want {
		if n != 0 {
			return fmt.Errorf("output %s: %d acks too many for it", body, n)
		}
	}
	return nil
}
