package client

import (
	"context"
	"iter"
	"net/http"
	"net/url"

	"pipeproc/api"
)

const idempotencyKey = "Idempotency-Key"

// Committed is the answer to a commit.
type Committed struct {
	ID        api.ID   // of the log, or of the first one of a list
	IDs       []api.ID // one for each log, in order
	Duplicate bool     // the idempotency key was known: these are the ids of the first time, nothing was committed
	Location  string   // the log's path; told by CommitTo alone
}

// A CommitOption changes a commit.
type CommitOption func(*commitOptions)

type commitOptions struct{ header []string }

// IdempotencyKey makes a commit safe to repeat for 24 hours.
func IdempotencyKey(key string) CommitOption {
	return func(o *commitOptions) { o.header = []string{idempotencyKey, key} }
}

// Commit adds one log to a topic, which comes into being with it. The answer comes when it is durable.
func (c *Client) Commit(ctx context.Context, log api.NewLog, options ...CommitOption) (Committed, error) {
	return c.commit(ctx, path("commit"), log, options)
}

// CommitAll adds logs to any topics, all or none.
func (c *Client) CommitAll(ctx context.Context, logs []api.NewLog, options ...CommitOption) (Committed, error) {
	if logs == nil {
		logs = []api.NewLog{}
	}
	return c.commit(ctx, path("commit"), logs, options)
}

// CommitTo adds one log to a topic. body is anything that encodes to a JSON object or array; a json.RawMessage is sent
// as it is.
func (c *Client) CommitTo(ctx context.Context, topic string, body any, options ...CommitOption) (Committed, error) {
	return c.commit(ctx, path("topics", topic, "logs"), body, options)
}

func (c *Client) commit(ctx context.Context, path string, in any, options []CommitOption) (Committed, error) {
	var o commitOptions
	for _, option := range options {
		option(&o)
	}
	var out struct {
		ID        *api.ID  `json:"id"`
		IDs       []api.ID `json:"ids"`
		Duplicate bool     `json:"duplicate"`
	}
	resp, err := c.call(ctx, http.MethodPost, path, in, &out, o.header...)
	if err != nil {
		return Committed{}, err
	}
	done := Committed{IDs: out.IDs, Duplicate: out.Duplicate, Location: resp.Header.Get("Location")}
	if out.ID != nil {
		done.IDs = []api.ID{*out.ID}
	}
	if len(done.IDs) > 0 {
		done.ID = done.IDs[0]
	}
	return done, nil
}

// RangeOptions select a run of logs. Bounds are full ids, timestamps or ":seq"; "" is the end of the topic.
type RangeOptions struct {
	Start     string // in a Revrange, the upper bound
	End       string
	Limit     int  // logs of a page, 1 to 10,000; 0 is left out and -1 sent, both mean 1,000
	Exclusive bool // leave out bounds given as full id or ":seq"
}

func (o RangeOptions) query(reverse bool) url.Values {
	q := url.Values{}
	set(q, "start", o.Start)
	set(q, "end", o.End)
	setNumber(q, "limit", o.Limit)
	if o.Exclusive {
		q.Set("exclusive", "true")
	}
	if reverse {
		q.Set("direction", "reverse")
	}
	return q
}

// Range reads a page of a topic, in order.
func (c *Client) Range(ctx context.Context, topic string, o RangeOptions) (api.Page, error) {
	return c.page(ctx, topic, o, false)
}

// Revrange reads a page of a topic in the inverted order; Start and End are inverted as well.
func (c *Client) Revrange(ctx context.Context, topic string, o RangeOptions) (api.Page, error) {
	return c.page(ctx, topic, o, true)
}

func (c *Client) page(ctx context.Context, topic string, o RangeOptions, reverse bool) (page api.Page, err error) {
	_, err = c.call(ctx, http.MethodGet, withQuery(path("topics", topic, "logs"), o.query(reverse)), nil, &page)
	return page, err
}

// RangeAll reads as Range does, page after page of o.Limit logs. An error ends it.
func (c *Client) RangeAll(ctx context.Context, topic string, o RangeOptions) iter.Seq2[api.Log, error] {
	return c.pages(ctx, topic, o, false)
}

// RevrangeAll reads as Revrange does, page after page of o.Limit logs. An error ends it.
func (c *Client) RevrangeAll(ctx context.Context, topic string, o RangeOptions) iter.Seq2[api.Log, error] {
	return c.pages(ctx, topic, o, true)
}

func (c *Client) pages(ctx context.Context, topic string, o RangeOptions, reverse bool) iter.Seq2[api.Log, error] {
	return func(yield func(api.Log, error) bool) {
		o := o
		for {
			page, err := c.page(ctx, topic, o, reverse)
			if err != nil {
				yield(api.Log{}, err)
				return
			}
			for _, log := range page.Logs {
				if !yield(log, nil) {
					return
				}
			}
			if page.Next == nil {
				return
			}
			o.Start = page.Next.String()
		}
	}
}

// Log reads one log; at is a full id or ":seq".
func (c *Client) Log(ctx context.Context, topic, at string) (log api.Log, err error) {
	_, err = c.call(ctx, http.MethodGet, path("topics", topic, "logs", at), nil, &log)
	return log, err
}

// Length is the number of logs now in a topic.
func (c *Client) Length(ctx context.Context, topic string) (int64, error) {
	t, err := c.Topic(ctx, topic)
	return t.Length, err
}

// Topic tells of a topic as it stands.
func (c *Client) Topic(ctx context.Context, name string) (topic api.Topic, err error) {
	_, err = c.call(ctx, http.MethodGet, path("topics", name), nil, &topic)
	return topic, err
}

// Topics lists the topics, by name.
func (c *Client) Topics(ctx context.Context, o ListOptions) (list api.TopicList, err error) {
	_, err = c.call(ctx, http.MethodGet, withQuery(path("topics"), o.query()), nil, &list)
	return list, err
}

// DeleteTopic deletes a topic with its logs. While procs exist it is refused, unless force, which destroys them.
func (c *Client) DeleteTopic(ctx context.Context, name string, force bool) error {
	q := url.Values{}
	if force {
		q.Set("force", "true")
	}
	_, err := c.call(ctx, http.MethodDelete, withQuery(path("topics", name), q), nil, nil)
	return err
}
