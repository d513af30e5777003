package client

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"time"

	"pipeproc/api"
)

// StatusError is an answer that refuses a request.
type StatusError struct {
	Status int    // the HTTP status
	Method string // of the request
	Path   string
	// Err is the problem that the answer tells, an *api.Error; or, where it tells none (an answer of some proxy), an
	// error that is none.
	Err error
}

func (e *StatusError) Error() string {
	return fmt.Sprintf("%s %s: %d: %s", e.Method, e.Path, e.Status, e.Err.Error())
}

// Unwrap gives the problem.
func (e *StatusError) Unwrap() error { return e.Err }

// StatusOf tells the HTTP status of a refusal; 0 for every other error.
func StatusOf(err error) int {
	var e *StatusError
	if errors.As(err, &e) {
		return e.Status
	}
	return 0
}

// maxProblem is the most that is read of a refusal, in bytes.
const maxProblem = 1 << 20

// ErrorOf makes a *StatusError of an answer whose status is not 2xx, reading its body; nil of any other, untouched.
func ErrorOf(resp *http.Response) error {
	if resp.StatusCode >= 200 && resp.StatusCode <= 299 {
		return nil
	}
	e := &StatusError{Status: resp.StatusCode}
	if resp.Request != nil {
		e.Method, e.Path = resp.Request.Method, resp.Request.URL.RequestURI()
	}
	e.Err = problemOf(resp)
	return e
}

// problemOf reads the problem that an answer tells.
func problemOf(resp *http.Response) error {
	contentType := resp.Header.Get("Content-Type")
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxProblem))
	if err != nil {
		return err
	}
	if media, _, _ := mime.ParseMediaType(contentType); media != "application/problem+json" {
		return fmt.Errorf("not a problem but %q: %s", contentType, clip(data))
	}
	var p struct {
		Detail    string   `json:"detail"`
		Code      api.Code `json:"code"`
		ExpiresAt *int64   `json:"expiresAt"`
		FirstID   *api.ID  `json:"firstId"`
	}
	if err := json.Unmarshal(data, &p); err != nil {
		if len(data) == 0 { // the answer to a HEAD
			return errors.New("a problem, not told")
		}
		return err
	}
	if p.Code == "" {
		return fmt.Errorf("a problem without a code: %s", clip(data))
	}
	return &api.Error{Code: p.Code, Message: p.Detail, ExpiresAt: p.ExpiresAt, FirstID: p.FirstID,
		RetryAfter: retryAfter(resp.Header.Get("Retry-After"))}
}

// retryAfter reads seconds, or an HTTP date; 0 when there is neither.
func retryAfter(value string) time.Duration {
	if seconds, err := strconv.ParseInt(value, 10, 32); err == nil {
		return time.Duration(max(0, seconds)) * time.Second
	}
	if at, err := http.ParseTime(value); err == nil {
		return max(0, time.Until(at))
	}
	return 0
}

// clip keeps an answer short enough for an error's text.
func clip(data []byte) []byte {
	const most = 256
	if len(data) <= most {
		return data
	}
	return append(bytes.ToValidUTF8(data[:most], nil), "…"...)
}

// retryAfterOf is how long a refusal asks to wait; 0 when it does not.
func retryAfterOf(err error) time.Duration {
	var e *api.Error
	if errors.As(err, &e) {
		return e.RetryAfter
	}
	return 0
}
