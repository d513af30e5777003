package procs

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"time"

	"pipeproc/api"
)

// commitType is the content type of answers that name the topic of each log.
const commitType = "application/vnd.pipeproc.commit+json"

// A Retry-After is taken as it is between these. Below, an answer that is not counted would be asked for without end.
const (
	minRetryAfter = time.Second
	maxRetryAfter = api.MaxReclaimTimeout * time.Millisecond
)

// refusal is what the answer's status says against the attempt; nil for 2xx.
func refusal(resp *http.Response, now time.Time) *attemptError {
	if resp.StatusCode >= 200 && resp.StatusCode <= 299 {
		return nil
	}
	f := failed(nil, fmt.Sprintf("the processor answered %d", resp.StatusCode))
	switch resp.StatusCode {
	case http.StatusBadRequest, http.StatusUnprocessableEntity:
		f.Disable = true
	case http.StatusGone:
		f.Gone = true
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		f.RetryAfter = retryAfter(resp.Header.Get("Retry-After"), now)
	}
	return f
}

// retryAfter reads seconds, or an HTTP date, into ms, and never less than asked for; 0 when there is neither.
func retryAfter(value string, now time.Time) int64 {
	var after time.Duration
	if seconds, err := strconv.ParseUint(value, 10, 64); err == nil || errors.Is(err, strconv.ErrRange) {
		after = time.Duration(min(seconds, uint64(maxRetryAfter/time.Second))) * time.Second
	} else if at, err := http.ParseTime(value); err == nil {
		after = at.Sub(now)
	} else {
		return 0
	}
	after = min(max(after, minRetryAfter), maxRetryAfter)
	return (after + time.Millisecond - 1).Milliseconds()
}

// output turns the body of a 2xx into the logs to commit: none for null, [] and nothing at all. to is not empty.
func output(contentType string, body []byte, to []string) ([]api.NewLog, error) {
	body = bytes.Trim(body, " \t\r\n")
	if len(body) == 0 {
		return nil, nil
	}
	if media, _, err := mime.ParseMediaType(contentType); err == nil && media == commitType {
		return addressed(body, to)
	}
	switch {
	case string(body) == "null":
		return nil, nil
	case body[0] == '{':
		logs, err := spread([]json.RawMessage{body}, to)
		if err != nil && !json.Valid(body) {
			err = errNotJSON
		}
		return logs, err
	case body[0] == '[':
		var elements []json.RawMessage // each as it is written
		if err := json.Unmarshal(body, &elements); err != nil {
			return nil, errNotJSON
		}
		return spread(elements, to)
	case !json.Valid(body):
		return nil, errNotJSON
	}
	return nil, failed(nil, "the answer is no object or array")
}

var errNotJSON = failed(nil, "the answer is not JSON")

// spread makes a log of each element for each topic, the topics of the first element first.
func spread(elements []json.RawMessage, to []string) ([]api.NewLog, error) {
	if n := len(elements) * len(to); n > api.MaxCommitLogs {
		return nil, tooMany(n)
	}
	logs := make([]api.NewLog, 0, len(elements)*len(to))
	for _, element := range elements {
		body, err := api.LogBody(element)
		if err != nil {
			return nil, unfit(err)
		}
		for _, topic := range to {
			logs = append(logs, api.NewLog{Topic: topic, Body: body})
		}
	}
	return sized(logs)
}

// addressed reads [{topic, body}, …], each topic among to.
func addressed(body []byte, to []string) ([]api.NewLog, error) {
	var logs []api.NewLog
	if err := api.DecodeJSON(body, &logs); err != nil {
		return nil, unfit(err)
	}
	if len(logs) > api.MaxCommitLogs {
		return nil, tooMany(len(logs))
	}
	for i := range logs {
		if !slices.Contains(to, logs[i].Topic) {
			return nil, failed(nil, "the answer names a topic that is not among to")
		}
		var err error
		if logs[i].Body, err = api.DecodedLogBody(logs[i].Body); err != nil {
			return nil, unfit(err)
		}
	}
	return sized(logs)
}

func sized(logs []api.NewLog) ([]api.NewLog, error) {
	size := 0
	for i := range logs {
		size += len(logs[i].Body)
	}
	if size > api.MaxRequestSize {
		return nil, failed(nil, fmt.Sprintf("the answer gives %d bytes to commit, at most %d are possible", size,
			api.MaxRequestSize))
	}
	return logs, nil
}

func tooMany(n int) error {
	return failed(nil, fmt.Sprintf("the answer gives %d logs to commit, at most %d are possible", n, api.MaxCommitLogs))
}

// unfit tells why api refused the answer.
func unfit(err error) error {
	var refused *api.Error
	if !errors.As(err, &refused) {
		return failed(err, "the answer cannot be committed")
	}
	return failed(err, "the answer cannot be committed: "+refused.Message)
}
