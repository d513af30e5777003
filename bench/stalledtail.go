package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"time"

	"pipeproc/api"
)

// stalledTail measures what a reader that does not read costs the others. Beside them there is one more tail in any case,
// which follows their topic and one of great logs: in one run it reads, in the other it does not, and the server has to be
// rid of it.
func stalledTail(ctx context.Context, b *bench, name string) error {
	var reading, stalled, stayed []float64
	for range b.rounds {
		for _, reads := range []bool{true, false} {
			err := withServer(ctx, b, func(s *server) error {
				gone, leave, err := besideGreatLogs(ctx, s, reads)
				if err != nil {
					return err
				}
				defer leave()
				all, err := fanOut(ctx, s, 500)
				if err != nil {
					return err
				}
				p99 := millis(percentile(all, 0.99))
				if reads {
					reading = append(reading, p99)
					return nil
				}
				stalled = append(stalled, p99)
				select {
				case d := <-gone:
					stayed = append(stayed, d.Seconds())
					return nil
				case <-time.After(stallLimit):
					return errors.New("the stalled tail stays")
				}
			})
			if err != nil {
				return err
			}
		}
	}
	b.table.tell(name+": p99 while it reads", median(reading), "ms")
	b.table.tell(name+": p99", median(stalled), "ms")
	b.table.below(name+": p99, of that while it reads", median(stalled)/median(reading), 2, "×")
	b.table.below(name+": the stalled one is gone after", slices.Max(stayed), stallLimit.Seconds(), "s")
	return nil
}

// stallLimit is how long a client that does not read may stay.
const stallLimit = 15 * time.Second

// besideGreatLogs opens a tail of the topic busy and of great logs, more of them than fit between it and the server, so
// that one which does not read is stalled by them. gone tells how long that one was there; leave is to be called last.
func besideGreatLogs(ctx context.Context, s *server, reads bool) (gone <-chan time.Duration, leave func(), err error) {
	const logs = 16
	great := json.RawMessage(`{"text":"` + strings.Repeat("x", 1_000_000) + `"}`)
	for _, topic := range []string{"busy", "great"} {
		if _, err := s.Commit(ctx, api.NewLog{Topic: topic, Body: body}); err != nil {
			return nil, nil, err
		}
	}
	dial := net.Dialer{Control: func(_, _ string, c syscall.RawConn) (err error) {
		controlled := c.Control(func(fd uintptr) { err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4096) })
		return errors.Join(controlled, err)
	}}
	by := &http.Client{Transport: &http.Transport{DisableCompression: true}}
	if !reads {
		by.Transport = &http.Transport{DisableCompression: true, DialContext: dial.DialContext}
	}
	ctx, cancel := context.WithCancel(ctx)
	t, err := openTailBy(ctx, by, s, url.Values{"topic": {"busy", "great"}})
	if err != nil {
		cancel()
		return nil, nil, err
	}
	if reads {
		go func() { _, _ = io.Copy(io.Discard, t.lines) }()
	}
	begin := time.Now()
	for range logs {
		if _, err := s.Commit(ctx, api.NewLog{Topic: "great", Body: great}); err != nil {
			cancel()
			return nil, nil, errors.Join(err, t.close())
		}
	}
	if n, err := s.followed(ctx); err != nil || n != 2 {
		cancel()
		return nil, nil, errors.Join(fmt.Errorf("%d topics are followed", n), err, t.close())
	}
	left := make(chan time.Duration, 1)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if n, err := s.followed(ctx); err == nil && n < 2 { // nobody else follows the great logs
				left <- time.Since(begin)
				return
			}
		}
	}()
	return left, func() {
		cancel()
		<-ended
		_ = t.close()
	}, nil
}

// followed is the number of topics that the server's tails follow.
func (s *server) followed(ctx context.Context) (n int, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url+"/metrics", nil)
	if err != nil {
		return 0, err
	}
	resp, err := tailClient.Do(req)
	if err != nil {
		return 0, err
	}
	text, err := io.ReadAll(resp.Body)
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(text), "\npipeproc_streams_followed_topics ")
	_, err = fmt.Sscan(rest, &n)
	return n, err
}
