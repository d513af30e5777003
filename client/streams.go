package client

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"

	"pipeproc/api"
)

// TailOptions select what a tail follows.
type TailOptions struct {
	Topics []string // one at least
	// Start is where to begin: "earliest" at the first retained log, "latest" (or "") with the logs committed from now on,
	// or a full id, a timestamp, ":seq", which hold for every topic.
	Start string
}

// Tail streams topics without a proc. Its events are "log" (TailLog), "gap" (Gap) and "end" (TailEnd, of one topic); ids
// are cursors to resume after.
func (c *Client) Tail(ctx context.Context, o TailOptions, options ...StreamOption) (*Events, error) {
	q := url.Values{"topic": o.Topics}
	set(q, "start", o.Start)
	return c.stream(ctx, withQuery(path("tail"), q), options)
}

// StreamTicket opens streams of events at one path, one at a time: for those who can send but a URL, as a browser's
// EventSource. The first is to be opened before ExpiresAt, each further one within a minute of the end of the one before.
type StreamTicket struct {
	Ticket    string `json:"ticket"` // goes into the query, as ticket=
	Path      string `json:"path"`
	ExpiresAt int64  `json:"expiresAt"` // ms
}

// StreamTicket makes a ticket with the client's API key, whose role is to be enough for the path: /v1/tail,
// /v1/topics/{topic}/logs, /v1/topics/{topic}/live, or a liveProc's ChangesPath.
func (c *Client) StreamTicket(ctx context.Context, path string) (t StreamTicket, err error) {
	_, err = c.call(ctx, http.MethodPost, "/v1/stream-tickets", struct {
		Path string `json:"path"`
	}{path}, &t)
	return t, err
}

// WithTicket opens the stream with a ticket for its path, instead of the client's API key.
func WithTicket(ticket string) StreamOption {
	return func(e *Events) {
		keyless := *e.client
		keyless.token = ""
		e.client = &keyless
		before := "?"
		if strings.Contains(e.path, "?") {
			before = "&"
		}
		e.path += before + url.Values{"ticket": {ticket}}.Encode()
	}
}

// TailLog is the data of a tail's "log".
type TailLog struct {
	Topic string          `json:"topic"`
	ID    api.ID          `json:"id"`
	Body  json.RawMessage `json:"body"`
}

// TailEnd is the data of a tail's "end": the topic was deleted. The others go on.
type TailEnd struct {
	Topic  string `json:"topic"`
	Reason string `json:"reason"` // "deleted"
}

// Gap is the data of a "gap": logs that were asked for cannot be sent. The places are ids of logs, or ":seq".
type Gap struct {
	Topic     string  `json:"topic"`
	Requested *string `json:"requested"` // nil where nothing was delivered before
	ResumedAt string  `json:"resumedAt"`
	Reason    string  `json:"reason"` // "collected" or "recreated"
}

// End is the data of a liveProc's "end".
type End struct {
	Reason api.EndReason `json:"reason"`
}

// LiveProc is a liveProc, with simpler versions of the proc's methods.
type LiveProc struct {
	Proc        api.Proc // as it was created
	ChangesPath string   // the path of its stream
	client      *Client
}

// LiveProc creates a liveProc.
func (c *Client) LiveProc(ctx context.Context, spec api.LiveProcSpec) (*LiveProc, error) {
	var out struct {
		api.Proc
		Changes string `json:"changes"`
	}
	if _, err := c.call(ctx, http.MethodPost, path("live-procs"), spec, &out); err != nil {
		return nil, err
	}
	return &LiveProc{Proc: out.Proc, ChangesPath: out.Changes, client: c}, nil
}

// Changes streams the liveProc's logs: "liveproc" (api.Proc) first, then "logs" (api.Claimed, but for its Topic), the
// next batch when this one is acked; "end" (End) is the last.
func (l *LiveProc) Changes(ctx context.Context, options ...StreamOption) (*Events, error) {
	return l.client.stream(ctx, l.ChangesPath, options)
}

// Inspect tells of the liveProc as it stands.
func (l *LiveProc) Inspect(ctx context.Context) (api.Proc, error) {
	return l.client.InspectProc(ctx, l.Proc.Name)
}

// Ack ends the live claim: the next batch may come.
func (l *LiveProc) Ack(ctx context.Context, o AckOptions) (api.Acked, error) {
	return l.client.Ack(ctx, l.Proc.Name, o)
}

// AckCommit is Ack that commits one log in the same transaction.
func (l *LiveProc) AckCommit(ctx context.Context, o AckOptions, log api.NewLog) (api.Acked, error) {
	return l.client.AckCommit(ctx, l.Proc.Name, o, log)
}

// AckCommitAll is Ack that commits logs in the same transaction.
func (l *LiveProc) AckCommitAll(ctx context.Context, o AckOptions, logs []api.NewLog) (api.Acked, error) {
	return l.client.AckCommitAll(ctx, l.Proc.Name, o, logs)
}

// Reclaim ends the live claim without an ack: the same batch comes again.
func (l *LiveProc) Reclaim(ctx context.Context, token string) (api.Range, error) {
	return l.client.Reclaim(ctx, l.Proc.Name, token)
}

// Disable stops the liveProc, which ends its stream.
func (l *LiveProc) Disable(ctx context.Context) (api.Proc, error) {
	return l.client.DisableProc(ctx, l.Proc.Name)
}

// Resume lets a disabled liveProc go on.
func (l *LiveProc) Resume(ctx context.Context) (api.Proc, error) {
	return l.client.ResumeProc(ctx, l.Proc.Name)
}

// Cancel ends the stream and disables the liveProc.
func (l *LiveProc) Cancel(ctx context.Context) (api.Proc, error) {
	return l.client.CancelLiveProc(ctx, l.Proc.Name)
}

// Destroy forgets the liveProc, and answers it as it was.
func (l *LiveProc) Destroy(ctx context.Context) (api.Proc, error) {
	return l.client.DestroyLiveProc(ctx, l.Proc.Name)
}

// LiveProcChanges streams a liveProc's logs, as LiveProc.Changes does.
func (c *Client) LiveProcChanges(ctx context.Context, name string, options ...StreamOption) (*Events, error) {
	return c.stream(ctx, path("live-procs", name, "changes"), options)
}

// CancelLiveProc ends a liveProc's stream and disables it.
func (c *Client) CancelLiveProc(ctx context.Context, name string) (api.Proc, error) {
	return c.proc(ctx, http.MethodPost, path("live-procs", name, "cancel"), nil)
}

// DestroyLiveProc forgets a liveProc, and answers it as it was.
func (c *Client) DestroyLiveProc(ctx context.Context, name string) (api.Proc, error) {
	return c.proc(ctx, http.MethodDelete, path("live-procs", name), nil)
}

// LiveOptions are those of a liveProc made by its stream; zero members are left out.
type LiveOptions struct {
	Mode  api.LiveMode
	Count int
}

// TopicLive creates a liveProc and streams it, in one step; the events are those of LiveProc.Changes. Resumed with
// LastEventID, it goes on with the liveProc that the id names.
func (c *Client) TopicLive(ctx context.Context, topic string, o LiveOptions, options ...StreamOption) (*Events, error) {
	q := url.Values{}
	set(q, "mode", string(o.Mode))
	setNumber(q, "count", o.Count)
	return c.stream(ctx, withQuery(path("topics", topic, "live"), q), options)
}
