package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
)

// cycles are rounds of procs that work off a topic each. Every round has procs of its own, which begin at the topic's first
// log.
type cycles struct {
	*subject
	procs   int
	claimed bool // each begins with a claim
	work    cycle
	round   int
}

// cycle makes what a proc does again and again, from its first claim's token on if it has one.
type cycle func(proc, topic, token string) worker

// newCycles fills the topics with more logs than a round can work off.
func (x *subject) newCycles(ctx context.Context, procs int, claimed bool, work cycle) (*cycles, error) {
	return &cycles{subject: x, procs: procs, claimed: claimed, work: work}, x.fill(ctx, "in", procs, max(5_000, 40_000/procs))
}

// run is one round.
func (c *cycles) run(ctx context.Context) (figures, error) {
	c.round++
	workers := make([]worker, c.procs)
	for i := range workers {
		name, topic, token := fmt.Sprintf("proc%d-%d", c.round, i), fmt.Sprint("in", i), ""
		// No claim of an earlier round runs into its time-out while a later one is measured.
		err := c.ask(ctx, http.MethodPut, "/v1/procs/"+name, `{"topic":"`+topic+`","reclaimTimeout":-1}`)
		if err == nil && c.claimed {
			token, err = c.firstClaim(ctx, name)
		}
		if err != nil {
			return figures{}, err
		}
		workers[i] = c.work(name, topic, token)
	}
	f, err := c.closed(ctx, c.lab.long(), workers)
	for i := range workers {
		err = errors.Join(err, c.ask(ctx, http.MethodDelete, fmt.Sprintf("/v1/procs/proc%d-%d", c.round, i), ""))
	}
	return f, err
}

// cycling measures cycles against a limit.
func (x *subject) cycling(ctx context.Context, to limit, procs int, claimed bool, work cycle) (*series, error) {
	c, err := x.newCycles(ctx, procs, claimed, work)
	if err != nil {
		return nil, err
	}
	return x.against(ctx, to, c.run)
}

// ask is a call beside the load.
func (x *subject) ask(ctx context.Context, method, path, body string) error {
	request, err := http.NewRequestWithContext(ctx, method, x.url+path, strings.NewReader(body))
	if err != nil {
		return err
	}
	if body != "" {
		request.Header.Set("Content-Type", "application/json")
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode >= 300 {
		return fmt.Errorf("%s %s: %s", method, path, answer.Status)
	}
	return nil
}

func (x *subject) firstClaim(ctx context.Context, proc string) (token string, err error) {
	w, err := dialWire(ctx, x.address)
	if err != nil {
		return "", err
	}
	defer w.close()
	answer, err := w.do(postEmpty("/v1/procs/"+proc+"/claim"), 200)
	if err != nil {
		return "", err
	}
	got, err := tokenIn(answer)
	return string(got), err
}

var errNoToken = errors.New("the answer has no token")

// tokenIn finds the claim's token in an answer.
func tokenIn(answer []byte) ([]byte, error) {
	const before = `"token":"`
	i := bytes.Index(answer, []byte(before))
	if i < 0 {
		return nil, fmt.Errorf("%w: %.200s", errNoToken, answer)
	}
	token, _, ok := bytes.Cut(answer[i+len(before):], []byte(`"`))
	if !ok || len(token) == 0 {
		return nil, fmt.Errorf("%w: %.200s", errNoToken, answer)
	}
	return token, nil
}

// tokenRequest is a request that differs from one time to the next by its token alone.
type tokenRequest struct {
	request []byte
	build   func(token string) []byte
	token   []byte // the part of request
}

func newTokenRequest(token string, build func(token string) []byte) *tokenRequest {
	r := &tokenRequest{build: build}
	r.set([]byte(token))
	return r
}

func (r *tokenRequest) set(token []byte) {
	if len(token) > 0 && len(token) == len(r.token) {
		copy(r.token, token)
		return
	}
	r.request = r.build(string(token))
	if len(token) > 0 {
		at := bytes.LastIndex(r.request, token)
		r.token = r.request[at : at+len(token)]
	}
}

// claimAndAck is two requests a log.
func claimAndAck(proc, _, _ string) worker {
	claim := postEmpty("/v1/procs/" + proc + "/claim")
	ack := newTokenRequest("", func(token string) []byte {
		return post("/v1/procs/"+proc+"/ack", []byte(`{"token":"`+token+`"}`))
	})
	return func(w *wire) error {
		answer, err := w.do(claim, 200)
		if err != nil {
			return err
		}
		token, err := tokenIn(answer)
		if err != nil {
			return err
		}
		ack.set(token)
		_, err = w.do(ack.request, 200)
		return err
	}
}

func claimsAndAcks(ctx context.Context, x *subject) error {
	s, err := x.cycling(ctx, x.noOp(64), 64, false, claimAndAck)
	if err != nil {
		return err
	}
	x.add(x.name, "cycles/s", s, rateBar(s, 7_000, "cycles/s"), ratioBar(s, 0.10))
	return nil
}

// chain is a worker that acks with claimNext: each answer has the token of the next request.
func chain(token string, build func(token string) []byte) worker {
	ack := newTokenRequest(token, build)
	return func(w *wire) error {
		answer, err := w.do(ack.request, 200)
		if err != nil {
			return err
		}
		next, err := tokenIn(answer)
		if err != nil {
			return err
		}
		ack.set(next)
		return nil
	}
}

func ackWithNext(proc, _, token string) worker {
	return chain(token, func(token string) []byte {
		return post("/v1/procs/"+proc+"/ack", []byte(`{"claimNext":true,"token":"`+token+`"}`))
	})
}

func acksWithNext(ctx context.Context, x *subject) error {
	s, err := x.cycling(ctx, x.noOp(64), 64, true, ackWithNext)
	if err != nil {
		return err
	}
	x.add(x.name, "cycles/s", s, ratioBar(s, 0.22))
	return nil
}

func ackCommitsWithNext(ctx context.Context, x *subject) error {
	s, err := x.cycling(ctx, x.noOp(64), 64, true, func(proc, topic, token string) worker {
		return chain(token, func(token string) []byte {
			return post("/v1/procs/"+proc+"/ack-commit",
				[]byte(`{"claimNext":true,"logs":{"topic":"out-`+topic+`","body":`+string(body)+`},"token":"`+token+`"}`))
		})
	})
	if err != nil {
		return err
	}
	x.add(x.name, "cycles/s", s, ratioBar(s, 0.20))
	return nil
}

func oneProc(ctx context.Context, x *subject) error {
	s, err := x.cycling(ctx, x.pgbench(1), 1, true, ackWithNext)
	if err != nil {
		return err
	}
	x.add(x.name, "cycles/s", s, ratioBar(s, 0.50))
	return nil
}
