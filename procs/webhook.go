package procs

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"syscall"
	"time"

	"go.opentelemetry.io/otel/trace"

	"pipeproc/api"
)

// Limits of a webhook's answer and connection, besides the processor's own time-out, which holds for a call in all.
const (
	maxAnswer        = 1 << 20 // bytes of the body
	maxAnswerHeaders = 64 << 10
	maxDiscarded     = 64 << 10 // bytes read of a body that nobody wants, to keep its connection
	discardTime      = time.Second
	dialTimeout      = 10 * time.Second
	idleTimeout      = 90 * time.Second
	maxIdle          = 1024 // connections kept by a worker, for all hosts
)

// errTimeout is the cause with which a call ends that took too long.
var errTimeout = errors.New("the processor's time is over")

// webhook calls processors over HTTP. It follows no redirects, asks no proxy and decompresses nothing.
type webhook struct {
	transport http.RoundTripper
	agent     string
	tracer    trace.Tracer // nil: nothing is traced
}

// newProcessors makes the processors of one worker, with connections of their own.
func newProcessors(c *Config) processors {
	t := &http.Transport{
		DialContext:            c.Dial,
		TLSClientConfig:        c.TLS.Clone(),
		TLSHandshakeTimeout:    dialTimeout,
		ForceAttemptHTTP2:      true,
		MaxIdleConns:           maxIdle,
		MaxIdleConnsPerHost:    c.Concurrency,
		IdleConnTimeout:        idleTimeout,
		MaxResponseHeaderBytes: maxAnswerHeaders,
		DisableCompression:     true,
	}
	return processors{
		webhook: &webhook{transport: t, agent: "pipeproc/" + c.Version, tracer: c.Tracer},
		close:   t.CloseIdleConnections, // and dials that nobody waits for any more
	}
}

func (h *webhook) process(ctx context.Context, e *api.Execution) (a answer, err error) {
	ctx, traced, parent, ended := h.called(ctx, e)
	status := 0
	defer func() { // however it ends
		a.trace = traced
		ended(status)
	}()
	timeout := milliseconds(e.Processor.CallTimeout(e.ReclaimTimeout))
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, errTimeout)
	defer cancel()
	req, err := h.request(ctx, e, parent)
	if err != nil {
		return answer{}, failed(err, "the processor cannot be called")
	}
	resp, err := h.transport.RoundTrip(req) // not a http.Client, which would follow redirects
	if err != nil {
		return answer{}, broken(ctx, timeout, err)
	}
	defer resp.Body.Close()
	status = resp.StatusCode

	if f := refusal(resp, time.Now()); f != nil {
		discard(resp, cancel)
		return answer{}, f
	}
	if resp.StatusCode == http.StatusAccepted {
		discard(resp, cancel)
		return answer{later: true}, nil
	}
	if len(e.To) == 0 {
		discard(resp, cancel)
		return answer{}, nil
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return answer{}, broken(ctx, timeout, err)
	}
	if len(body) > maxAnswer {
		return answer{}, failed(nil, fmt.Sprintf("the answer is over %d bytes", maxAnswer))
	}
	logs, err := output(resp.Header.Get("Content-Type"), body, e.To)
	return answer{logs: logs}, err
}

// request is the call of a processor, told in the OpenAPI document.
func (h *webhook) request(ctx context.Context, e *api.Execution, traceparent string) (*http.Request, error) {
	body, err := payload(e)
	if err != nil {
		return nil, err
	}
	timestamp := strconv.FormatInt(time.Now().Unix(), 10)
	signature, err := signatures(e.Secrets, e.WebhookID, timestamp, body)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, e.Processor.URL, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	for name, value := range e.Processor.Headers {
		req.Header.Set(name, value)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", h.agent)
	req.Header.Set("webhook-id", e.WebhookID)
	req.Header.Set("webhook-timestamp", timestamp)
	req.Header.Set("webhook-signature", signature)
	req.Header.Set("webhook-attempt", strconv.Itoa(e.Claim.Attempt))
	req.Header.Set("traceparent", traceparent)
	return req, nil
}

// payload is {proc, topic, claim: {token, attempt, expiresAt}, logs: [{id, body}]}. encoding/json would escape the
// bodies anew; they are to arrive byte for byte.
func payload(e *api.Execution) ([]byte, error) {
	type claim struct {
		Token     string `json:"token"`
		Attempt   int    `json:"attempt"`
		ExpiresAt *int64 `json:"expiresAt"`
	}
	head, err := json.Marshal(struct {
		Proc  string `json:"proc"`
		Topic string `json:"topic"`
		Claim claim  `json:"claim"`
	}{e.Proc, e.Topic, claim{e.Claim.Token, e.Claim.Attempt, e.Claim.ExpiresAt}})
	if err != nil {
		return nil, err
	}
	size := len(head) + len(`,"logs":[]}`)
	for i := range e.Logs {
		size += len(`{"id":"","body":},`) + 40 + len(e.Logs[i].Body)
	}
	b := make([]byte, 0, size)
	b = append(b, head[:len(head)-1]...)
	b = append(b, `,"logs":[`...)
	for i := range e.Logs {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"id":"`...)
		b = e.Logs[i].ID.Append(b)
		b = append(b, `","body":`...)
		b = append(b, e.Logs[i].Body...)
		b = append(b, '}')
	}
	return append(b, "]}"...), nil
}

// broken tells why a call ended without an answer.
func broken(ctx context.Context, timeout time.Duration, err error) error {
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, errStopping), errors.Is(cause, errLost):
		return cause
	case cause != nil:
		return failed(err, fmt.Sprintf("the processor did not answer within %d ms", timeout.Milliseconds()))
	case errors.Is(err, errForbidden), isLookup(err):
		// One text for both: what is and what is not in the server's network is not told.
		return failed(err, "the processor's host has no address that may be called")
	case errors.Is(err, syscall.ECONNREFUSED):
		return failed(err, "the connection to the processor was refused")
	}
	return failed(err, "the connection to the processor failed")
}

func isLookup(err error) bool {
	_, ok := errors.AsType[*net.DNSError](err)
	return ok
}

// discard reads what is left of a short body, so that the connection can be used again. hangUp ends that when it takes its
// time: what the answer says is known.
func discard(resp *http.Response, hangUp func()) {
	if resp.StatusCode == http.StatusSwitchingProtocols {
		return // what follows has no end, and no time-out
	}
	defer time.AfterFunc(discardTime, hangUp).Stop()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, maxDiscarded))
}
