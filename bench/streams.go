package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"pipeproc/api"
	"pipeproc/client"
)

// streams measures Server-Sent Events: a thousand readers of a busy topic, ten thousand of idle ones, one that catches up,
// a liveProc that goes from batch to ack and to the next batch, and what a reader that does not read costs the others.
func streams(ctx context.Context, b *bench) error {
	for _, c := range []struct {
		name string
		run  func(context.Context, *bench, string) error
	}{
		{"1,000 tails of one topic, 100 commits/s", manyTails},
		{"10,000 idle tails", idleTails},
		{"one tail over 1 M logs", catchUp},
		{"one liveProc, event to ack", liveCycles},
		{"500 tails beside a stalled one", stalledTail},
	} {
		if !b.wants(c.name) {
			continue
		}
		if err := c.run(ctx, b, c.name); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
	}
	return nil
}

// withServer runs f with a server of its own.
func withServer(ctx context.Context, b *bench, f func(*server) error) (err error) {
	s, err := startServer(ctx, b.binary)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	return f(s)
}

const (
	commitRate  = 100 // a second
	commitsEach = 10 * commitRate
)

func manyTails(ctx context.Context, b *bench, name string) error {
	var p50, p99, most, rss []float64
	for range b.rounds {
		err := withServer(ctx, b, func(s *server) error {
			all, err := fanOut(ctx, s, 1_000)
			if err != nil {
				return err
			}
			p50, p99 = append(p50, millis(percentile(all, 0.5))), append(p99, millis(percentile(all, 0.99)))
			most = append(most, millis(percentile(all, 1)))
			used, err := s.memory()
			rss = append(rss, used)
			return err
		})
		if err != nil {
			return err
		}
	}
	b.table.tell(name+": commit to receipt, p50", median(p50), "ms")
	b.table.below(name+": commit to receipt, p99", median(p99), 100, "ms")
	b.table.tell(name+": commit to receipt, all", median(most), "ms")
	b.table.tell(name+": server RSS", median(rss), "MiB")
	return nil
}

// fanOut commits at commitRate to a topic that n tails follow, and answers the times from the sending of a commit to its
// receipt, of each commit and tail. Each tail must get every log, in order.
func fanOut(ctx context.Context, s *server, n int) ([]time.Duration, error) {
	if _, err := s.Commit(ctx, api.NewLog{Topic: "busy", Body: body}); err != nil {
		return nil, err
	}
	tails, err := openTails(ctx, s, n, func(int) string { return "busy" })
	if err != nil {
		return nil, err
	}
	defer closeTails(tails)
	times := make([][]time.Duration, n)
	var readers sync.WaitGroup
	failed := make(chan error, n)
	for i, t := range tails {
		readers.Go(func() {
			times[i] = make([]time.Duration, 0, commitsEach)
			for k := range commitsEach {
				data, err := t.next()
				if err == nil {
					err = t.follows(k)
				}
				if err != nil {
					failed <- err
					return
				}
				times[i] = append(times[i], time.Duration(time.Now().UnixNano()-sentAt(data)))
			}
		})
	}
	if err := commitSteadily(ctx, s, "busy"); err != nil {
		closeTails(tails)
		readers.Wait()
		return nil, err
	}
	readers.Wait()
	select {
	case err := <-failed:
		return nil, err
	default:
	}
	all := make([]time.Duration, 0, n*commitsEach)
	for _, t := range times {
		all = append(all, t...)
	}
	return all, nil
}

// commitSteadily commits at commitRate, whatever the answers take; each body tells when it was sent.
func commitSteadily(ctx context.Context, s *server, topic string) error {
	tick := time.NewTicker(time.Second / commitRate)
	defer tick.Stop()
	var commits sync.WaitGroup
	var failed atomic.Pointer[error]
	order := make(chan struct{}, 1) // one after the other, so that the topic's order is theirs
	order <- struct{}{}
	for range commitsEach {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		at := time.Now().UnixNano()
		<-order
		commits.Go(func() {
			body := fmt.Appendf(nil, `{"at":%d,"text":"%060d"}`, at, 0)
			if _, err := s.Commit(ctx, api.NewLog{Topic: topic, Body: body}); err != nil {
				failed.Store(&err)
			}
			order <- struct{}{}
		})
	}
	commits.Wait()
	if err := failed.Load(); err != nil {
		return *err
	}
	return nil
}

func sentAt(data []byte) int64 {
	_, rest, _ := bytes.Cut(data, []byte(`"at":`))
	digits, _, _ := bytes.Cut(rest, []byte(","))
	at, _ := strconv.ParseInt(string(digits), 10, 64)
	return at
}

func idleTails(ctx context.Context, b *bench, name string) error {
	const n, topics, seconds = 10_000, 1_000, 30
	return withServer(ctx, b, func(s *server) error {
		for i := range topics {
			if _, err := s.Commit(ctx, api.NewLog{Topic: fmt.Sprint("idle", i), Body: body}); err != nil {
				return err
			}
		}
		tails, err := openTails(ctx, s, n, func(i int) string { return fmt.Sprint("idle", i%topics) })
		if err != nil {
			return err
		}
		defer closeTails(tails)
		var rss, cpu []float64
		for range b.rounds {
			before, err := s.cpu()
			if err != nil {
				return err
			}
			time.Sleep(seconds * time.Second)
			after, err := s.cpu()
			if err != nil {
				return err
			}
			used, err := s.memory()
			if err != nil {
				return err
			}
			rss, cpu = append(rss, used), append(cpu, 100*(after-before).Seconds()/seconds)
		}
		b.table.below(name+": server RSS", median(rss), 400, "MiB")
		b.table.below(name+": CPU", median(cpu), 3, "% of a core")
		return nil
	})
}

func catchUp(ctx context.Context, b *bench, name string) error {
	const n = 1_000_000
	return withServer(ctx, b, func(s *server) error {
		if err := (&jobs{server: s}).fill(ctx, "long", n); err != nil {
			return err
		}
		var rates []float64
		for range b.rounds {
			begin := time.Now()
			t, err := openTail(ctx, s, "long", "earliest")
			if err != nil {
				return err
			}
			for range n {
				if _, err := t.next(); err != nil {
					return errors.Join(err, t.close())
				}
			}
			rates = append(rates, n/time.Since(begin).Seconds())
			if err := t.close(); err != nil {
				return err
			}
		}
		b.table.atLeast(name, median(rates), 150_000, "logs/s")
		return nil
	})
}

func liveCycles(ctx context.Context, b *bench, name string) error {
	const n = 5_000
	return withServer(ctx, b, func(s *server) error {
		if err := (&jobs{server: s}).fill(ctx, "live", n); err != nil {
			return err
		}
		var rates []float64
		for range b.rounds {
			live, err := s.LiveProc(ctx, api.LiveProcSpec{Topic: "live", Mode: api.ModeAll})
			if err != nil {
				return err
			}
			events, err := live.Changes(ctx)
			if err != nil {
				return err
			}
			begin := time.Now()
			for done := 0; done < n; {
				e, err := events.Next()
				if err != nil {
					return err
				}
				if e.Type != "logs" {
					continue
				}
				var batch struct {
					Claim struct{ Token string }
				}
				if err := json.Unmarshal(e.Data, &batch); err != nil {
					return err
				}
				if _, err := live.Ack(ctx, client.AckOptions{Token: batch.Claim.Token}); err != nil {
					return err
				}
				done++
			}
			rates = append(rates, n/time.Since(begin).Seconds())
			if err := events.Close(); err != nil {
				return err
			}
			if _, err := live.Destroy(ctx); err != nil {
				return err
			}
		}
		b.table.atLeast(name, median(rates), 1_000, "batches/s")
		return nil
	})
}

// tail is one reader. It parses no more than it needs, since all readers share the machine with the server.
type tail struct {
	body  io.Closer
	lines *bufio.Reader
	id    []byte
	first int64
}

var tailClient = &http.Client{Transport: &http.Transport{DisableCompression: true, ReadBufferSize: 4 << 10, WriteBufferSize: 1 << 10}}

func openTail(ctx context.Context, s *server, topic, start string) (*tail, error) {
	return openTailBy(ctx, tailClient, s, url.Values{"topic": {topic}, "start": {start}})
}

func openTailBy(ctx context.Context, by *http.Client, s *server, query url.Values) (*tail, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url+"/v1/tail?"+query.Encode(), nil)
	if err != nil {
		return nil, err
	}
	resp, err := by.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, errors.Join(fmt.Errorf("a tail is answered %s", resp.Status), resp.Body.Close())
	}
	return &tail{body: resp.Body, lines: bufio.NewReaderSize(resp.Body, 4<<10), first: -1}, nil
}

// openTails opens them a few at a time.
func openTails(ctx context.Context, s *server, n int, topic func(int) string) ([]*tail, error) {
	tails := make([]*tail, n)
	errs := make(chan error, n)
	slots := make(chan struct{}, 32)
	var all sync.WaitGroup
	for i := range tails {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			var err error
			if tails[i], err = openTail(ctx, s, topic(i), "latest"); err != nil {
				errs <- err
			}
		})
	}
	all.Wait()
	select {
	case err := <-errs:
		closeTails(tails)
		return nil, err
	default:
		return tails, nil
	}
}

func closeTails(tails []*tail) {
	for _, t := range tails {
		if t != nil {
			_ = t.close()
		}
	}
}

func (t *tail) close() error { return t.body.Close() }

// next answers the data of the next log, valid until it is called again.
func (t *tail) next() ([]byte, error) {
	for {
		line, err := t.lines.ReadSlice('\n')
		if err != nil {
			return nil, err
		}
		if data, ok := bytes.CutPrefix(line, []byte("data: ")); ok {
			return data, nil
		}
		if id, ok := bytes.CutPrefix(line, []byte("id: ")); ok {
			t.id = append(t.id[:0], bytes.TrimSpace(id)...)
		}
	}
}

// follows errs unless the log that next answered is k after the first one: its seq ends the event's id.
func (t *tail) follows(k int) error {
	_, digits, _ := bytes.Cut(t.id[bytes.LastIndexByte(t.id, '~')+1:], []byte("."))
	seq, err := strconv.ParseInt(string(digits), 10, 64)
	if err != nil {
		return fmt.Errorf("event id %q: %w", t.id, err)
	}
	if t.first < 0 {
		t.first = seq
	}
	if seq != t.first+int64(k) {
		return fmt.Errorf("a tail got seq %d, wanted %d", seq, t.first+int64(k))
	}
	return nil
}
