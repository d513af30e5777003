package client

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"mime"
	"net/http"

	"pipeproc/api"
)

const ndjson = "application/x-ndjson"

// maxLine is the most bytes of a line: a log's body with its id.
const maxLine = api.MaxBodySize + 256

// RangeLines reads a range of any size in one answer, log by log; o.Limit is the most logs in all, 0 and -1 no limit. What
// is in it is fixed at the start. An error ends it, also one that breaks the answer off: where the iteration ends without
// an error, it was whole. Leaving the loop ends the answer.
func (c *Client) RangeLines(ctx context.Context, topic string, o RangeOptions) iter.Seq2[api.Log, error] {
	return c.lines(ctx, topic, o, false)
}

// RevrangeLines is RangeLines in the inverted order; Start and End are inverted as well.
func (c *Client) RevrangeLines(ctx context.Context, topic string, o RangeOptions) iter.Seq2[api.Log, error] {
	return c.lines(ctx, topic, o, true)
}

func (c *Client) lines(ctx context.Context, topic string, o RangeOptions, reverse bool) iter.Seq2[api.Log, error] {
	return func(yield func(api.Log, error) bool) {
		resp, err := c.send(ctx, c.streams, http.MethodGet, withQuery(path("topics", topic, "logs"), o.query(reverse)), nil,
			http.Header{"Accept": {ndjson}})
		if err == nil {
			defer resp.Body.Close()
			err = notLines(resp)
		}
		if err != nil {
			yield(api.Log{}, err)
			return
		}
		for log, err := range readLines(resp.Body) {
			if !yield(log, err) {
				return
			}
		}
	}
}

// notLines tells why an answer is no range as lines; nil when it is one.
func notLines(resp *http.Response) error {
	if err := ErrorOf(resp); err != nil {
		return err
	}
	contentType := resp.Header.Get("Content-Type")
	if media, _, _ := mime.ParseMediaType(contentType); media != ndjson {
		return fmt.Errorf("%d: not lines of JSON but %q", resp.StatusCode, contentType)
	}
	return nil
}

// readLines reads logs, one a line; an error is the last. A last line without its end is one that broke off.
func readLines(r io.Reader) iter.Seq2[api.Log, error] {
	return func(yield func(api.Log, error) bool) {
		in := bufio.NewReaderSize(r, 64<<10)
		var long []byte // a line that is longer than the buffer
		for {
			line, err := in.ReadSlice('\n')
			if errors.Is(err, bufio.ErrBufferFull) && len(long) <= maxLine {
				long = append(long, line...)
				continue
			}
			if len(long) > 0 {
				line = append(long, line...)
				long = line[:0]
			}
			var log api.Log
			switch {
			case err == nil:
				err = json.Unmarshal(line, &log)
			case errors.Is(err, io.EOF) && len(line) == 0:
				return
			case errors.Is(err, io.EOF):
				err = fmt.Errorf("%w within the line %s", io.ErrUnexpectedEOF, clip(bytes.Clone(line)))
			case errors.Is(err, bufio.ErrBufferFull):
				err = fmt.Errorf("a line is longer than %d bytes", maxLine)
			}
			if !yield(log, err) || err != nil {
				return
			}
		}
	}
}
