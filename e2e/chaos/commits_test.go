//go:build linux

package chaos

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"

	"pipeproc/api"
	"pipeproc/client"
	"pipeproc/e2e/check"
)

// commit makes one request to commit, and takes it down.
func (l *load) commit(ctx context.Context, u *visitor, key string, logs []api.NewLog) check.Outcome {
	ctx, cancel := request(ctx, 0)
	defer cancel()
	var options []client.CommitOption
	if key != "" {
		options = append(options, client.IdempotencyKey(key))
	}
	c := check.Commit{Span: l.recorder.Begin(u.name), Key: key, Logs: recorded(logs)}
	var done client.Committed
	var err error
	if len(logs) == 1 {
		if done, err = u.Commit(ctx, logs[0], options...); err == nil && len(done.IDs) == 0 {
			done.IDs = []api.ID{done.ID}
		}
	} else {
		done, err = u.CommitAll(ctx, logs, options...)
	}
	c.Span, c.IDs = l.recorder.End(c.Span, l.outcome(err)), done.IDs
	l.recorder.Commit(c)
	if c.Outcome == check.OK {
		l.tally.add(commits, 1)
		l.tally.add("logs committed", int64(len(logs)))
		if done.Duplicate {
			l.tally.add(duplicates, 1)
		}
		for i, id := range done.IDs {
			l.reached(logs[i].Topic, id.Seq)
		}
	}
	return c.Outcome
}

// write commits until ctx is done, so many times a second. next answers the logs of each commit.
func (l *load) write(ctx context.Context, perSecond float64, next func(u *visitor) []api.NewLog) {
	u := l.visitor("w")
	defer u.CloseIdleConnections()
	for turn := pace(ctx, perSecond); turn(); {
		if l.commit(context.WithoutCancel(ctx), u, "", next(u)) != check.OK {
			u.turnAway(ctx)
		}
	}
}

// single is one log to any topic.
func (l *load) single(u *visitor) []api.NewLog {
	n := u.random.IntN(16)
	topic := l.flow(n)
	switch {
	case n == 15:
		topic = l.live(u.random.IntN(liveTopics))
	case n == 14:
		topic = l.hookInput()
	case n >= 8:
		topic = l.kept(n)
	}
	return []api.NewLog{logOf(topic, l.value(u.name))}
}

// toHeld is a log to the topic that an outsider holds now and then.
func (l *load) toHeld(u *visitor) []api.NewLog { return []api.NewLog{logOf(l.held(), l.value(u.name))} }

// batch is a few logs to one topic.
func (l *load) batch(u *visitor) []api.NewLog {
	topic := l.kept(u.random.IntN(keptTopics))
	logs := make([]api.NewLog, 2+u.random.IntN(8))
	for i := range logs {
		logs[i] = logOf(topic, l.value(u.name))
	}
	return logs
}

// multi is logs to several topics.
func (l *load) multi(u *visitor) []api.NewLog {
	var logs []api.NewLog
	for range 2 + u.random.IntN(3) {
		topic := l.kept(u.random.IntN(keptTopics))
		if u.random.IntN(3) == 0 {
			topic = l.flow(u.random.IntN(flowTopics))
		}
		logs = append(logs, logOf(topic, l.value(u.name)))
	}
	return logs
}

// fresh is a log to a topic that there is not yet, beside one that there is.
func (l *load) fresh(u *visitor) []api.NewLog {
	value := l.value(u.name)
	return []api.NewLog{logOf(l.own("fresh-", u.random.IntN(1_000_000)), value), logOf(l.kept(u.random.IntN(keptTopics)), value+"k")}
}

// writeOnce commits under idempotency keys: a request that was not answered is repeated until one is, and some that were
// are repeated all the same, also while the first one is on its way.
func (l *load) writeOnce(ctx context.Context, perSecond float64) {
	u := l.visitor("i")
	defer u.CloseIdleConnections()
	for turn := pace(ctx, perSecond); turn(); {
		logs := l.single(u)
		if u.random.IntN(2) == 0 {
			logs = l.multi(u)
		}
		key := "key-" + l.value(u.name)
		ctx := context.WithoutCancel(ctx)
		twin := make(chan struct{})
		if u.random.IntN(10) > 0 {
			close(twin)
		} else {
			other := l.visitor("t") // sends the same, a little later
			after := time.Duration(u.random.IntN(3_000)) * time.Microsecond
			go func() {
				defer close(twin)
				defer other.CloseIdleConnections()
				_ = pause(ctx, after)
				l.commit(ctx, other, key, logs)
			}()
		}
		for range 20 {
			if l.commit(ctx, u, key, logs) == check.OK {
				break
			}
			u.turnAway(ctx)
		}
		<-twin
		if u.random.IntN(20) == 0 {
			l.commit(ctx, u, key, logs)
		}
	}
}

// commitsAgain commits until it is answered.
func (l *load) commitsAgain(ctx context.Context, url string) error {
	u := l.visitor("probe")
	transport := &http.Transport{DisableKeepAlives: true}
	var err error
	if u.Client, err = client.New(url, client.WithHTTPClient(&http.Client{Transport: transport})); err != nil {
		return err
	}
	for ctx.Err() == nil {
		try, cancel := context.WithTimeout(ctx, time.Second)
		o := l.commit(try, u, "", []api.NewLog{logOf(l.kept(1), l.value(u.name))})
		cancel()
		if o == check.OK {
			return nil
		}
		_ = pause(ctx, 10*time.Millisecond)
	}
	return ctx.Err()
}

// collect has GC run, beside what it does by itself.
func (l *load) collect(ctx context.Context, perSecond float64) {
	u := l.visitor("gc")
	defer u.CloseIdleConnections()
	firsts := map[string]int64{}
	for turn := pace(ctx, perSecond); turn(); {
		ctx, cancel := request(ctx, 0)
		span := l.recorder.Begin(u.name)
		run, err := u.GC(ctx)
		cancel()
		if span = l.recorder.End(span, l.outcome(err)); err != nil {
			continue
		}
		for _, c := range run.Topics {
			if c.FirstID != nil {
				l.tally.add(collected, c.FirstID.Seq-firsts[c.Topic])
				firsts[c.Topic] = c.FirstID.Seq
				l.recorder.Collection(check.Collection{Span: span, Topic: c.Topic, First: c.FirstID.Seq})
			}
		}
	}
}

// read reads ranges near the end of topics, page by page or as lines. That a range is refused is an answer as well: it tells
// where the topic ends or begins.
func (l *load) read(ctx context.Context, perSecond float64) {
	u := l.visitor("r")
	defer u.CloseIdleConnections()
	for turn := pace(ctx, perSecond); turn(); {
		n := u.random.IntN(keptTopics + flowTopics)
		topic := l.kept(n)
		if n >= keptTopics {
			topic = l.flow(n)
		}
		r := check.Read{Topic: topic, From: max(0, l.head(topic)-int64(u.random.IntN(60))), Reverse: u.random.IntN(4) == 0}
		options := client.RangeOptions{Start: fmt.Sprint(":", r.From), Limit: 100}
		var err error
		ctx, cancel := request(ctx, 0)
		r.Span = l.recorder.Begin(u.name)
		switch {
		case u.random.IntN(3) == 0:
			lines := u.RangeLines
			if r.Reverse {
				lines = u.RevrangeLines
			}
			for log, failed := range lines(ctx, topic, options) {
				if err = failed; err == nil {
					r.Logs = append(r.Logs, check.Log{ID: log.ID, Value: valueOf(log.Body)})
				}
			}
			r.More = len(r.Logs) == options.Limit // whether more follows is not told
		default:
			page := u.Range
			if r.Reverse {
				page = u.Revrange
			}
			var p api.Page
			p, err = page(ctx, topic, options)
			r.Logs, r.More = seen(p.Logs), p.Next != nil
		}
		cancel()
		r.Span = l.recorder.End(r.Span, l.outcome(err))
		switch api.CodeOf(err) {
		case "":
			if err != nil {
				continue
			}
		case api.CodeInvalidToneIDSearch, api.CodeInvalidTopic: // there is nothing from there on
			r.Span.Outcome, r.Logs, r.More, r.Reverse = check.OK, nil, false, false
		case api.CodeCollected: // GC has taken that and all before it
			r.Span.Outcome = check.OK
			l.recorder.Collection(check.Collection{Span: r.Span, Topic: topic, First: r.From + 1})
			continue
		default:
			continue
		}
		l.recorder.Read(r)
		l.tally.add(ranges, 1)
	}
}

// waitForProcs waits for procs to have acked what was committed.
func (l *load) waitForProcs(ctx context.Context, procs []string) {
	u := l.visitor("wait")
	defer u.CloseIdleConnections()
	for turn := pace(ctx, 2); turn(); {
		timeout := int64(u.random.IntN(2_000))
		some := slices.Clone(procs)
		u.random.Shuffle(len(some), func(i, j int) { some[i], some[j] = some[j], some[i] })
		try, cancel := request(ctx, time.Duration(timeout)*time.Millisecond)
		waited, err := u.WaitForProcs(try, api.WaitRequest{Procs: some[:1+u.random.IntN(3)], Timeout: &timeout})
		cancel()
		if l.outcome(err) != check.OK {
			continue
		}
		l.tally.add(waits, 1)
		for _, p := range waited.Procs {
			if waited.Done && p.Lag != 0 {
				l.wrongf("wait is done, and %s has lag %d", p.Name, p.Lag)
			}
		}
	}
}
