package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
)

// cycleLogs is how many logs there are for each proc in a round: more than it can do.
const cycleLogs = 20_000

// cycles runs rounds of procs that work off a topic each. Every round has procs of its own, which begin at the topic's
// first log; work makes what one of them does again and again, after a first claim where that is wanted.
func (x *subject) cycles(ctx context.Context, to limit, procs int, claimed bool, work func(proc, topic, token string) worker) (*series, error) {
	if err := x.fill(ctx, "in", procs, x.lab.size(cycleLogs)); err != nil {
		return nil, err
	}
	round := 0
	return x.against(ctx, to, func(ctx context.Context) (figures, error) {
		round++
		workers := make([]worker, procs)
		for i := range workers {
			name, topic := fmt.Sprintf("proc%d-%d", round, i), fmt.Sprint("in", i)
			// No claim of an earlier round runs into its time-out while a later one is measured.
			if err := x.ask(ctx, http.MethodPut, "/v1/procs/"+name, `{"topic":"`+topic+`","reclaimTimeout":-1}`); err != nil {
				return figures{}, err
			}
			token := ""
			if claimed {
				var err error
				if token, err = x.firstClaim(ctx, name); err != nil {
					return figures{}, err
				}
			}
			workers[i] = work(name, topic, token)
		}
		f, err := x.closed(ctx, x.lab.long(), workers)
		for i := range workers {
			err = errors.Join(err, x.ask(ctx, http.MethodDelete, fmt.Sprintf("/v1/procs/proc%d-%d", round, i), ""))
		}
		return f, err
	})
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

func claimsAndAcks(ctx context.Context, x *subject) error {
	s, err := x.cycles(ctx, x.noOp(64), 64, false, func(proc, _, _ string) worker {
		claim := postEmpty("/v1/procs/" + proc + "/claim")
		ack := newTokenRequest("", func(token string) []byte { return post("/v1/procs/"+proc+"/ack", []byte(`{"token":"`+token+`"}`)) })
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
	})
	if err != nil {
		return err
	}
	x.lab.results.add(x.name, "cycles/s", s, rateBar(s, 7_000, "cycles/s"), ratioBar(s, 0.10))
	x.tellMemory()
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
	s, err := x.cycles(ctx, x.noOp(64), 64, true, ackWithNext)
	if err != nil {
		return err
	}
	x.lab.results.add(x.name, "cycles/s", s, ratioBar(s, 0.22))
	x.tellMemory()
	return nil
}

func ackCommitsWithNext(ctx context.Context, x *subject) error {
	s, err := x.cycles(ctx, x.noOp(64), 64, true, func(proc, topic, token string) worker {
		return chain(token, func(token string) []byte {
			return post("/v1/procs/"+proc+"/ack-commit",
				[]byte(`{"claimNext":true,"logs":{"topic":"out-`+topic+`","body":`+string(body)+`},"token":"`+token+`"}`))
		})
	})
	if err != nil {
		return err
	}
	x.lab.results.add(x.name, "cycles/s", s, ratioBar(s, 0.20))
	x.tellMemory()
	return nil
}

func oneProc(ctx context.Context, x *subject) error {
	s, err := x.cycles(ctx, x.pgbench(1), 1, true, ackWithNext)
	if err != nil {
		return err
	}
	x.lab.results.add(x.name, "cycles/s", s, ratioBar(s, 0.50))
	x.tellMemory()
	return nil
}
