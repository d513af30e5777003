package livestream

import (
	"context"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/r3labs/sse/v2"

	"pipeproc/api"
	"pipeproc/api/fault"
)

// storeTimeout is the longest that a stream waits for one answer of the store before it tries again.
const storeTimeout = api.StreamLease / 3 * time.Millisecond

// closeTimeout is the longest that the end of a stream waits for the store.
const closeTimeout = 2 * time.Second

// Changes handles GET /v1/live-procs/{name}/changes: the stream of a liveProc. With Last-Event-ID (or ?lastEventId=) the
// client comes back to its stream; 204 tells it not to come again: the liveProc is gone, disabled or cancelled, or a
// later stream took over. Without, it takes over; 204 says that the liveProc is gone, disabled or cancelled.
//
// Errors: CodeInvalidRequest, CodeInvalidProcFormat, CodeInvalidProc (a name that no liveProc has had).
func (s *Streams) Changes(w http.ResponseWriter, r *http.Request) error {
	name := r.PathValue("name")
	if err := api.CheckProc(name); err != nil {
		return err
	}
	q, err := queryOf(r, "lastEventId")
	if err != nil {
		return err
	}
	back, err := comesBack(r, q)
	if err != nil {
		return err
	}
	if back != nil && back.liveProc != name {
		return api.Errorf(api.CodeInvalidRequest, "the last event id is of another liveProc")
	}
	ctx, done, err := s.begin(r, &s.liveProcs, name)
	if err != nil {
		return err
	}
	defer done()

	if r.Method == http.MethodHead {
		p, found, err := s.find(ctx, name)
		switch {
		case err != nil:
			return s.refused(err)
		case !found && back == nil && !wasLiveProc(name):
			return api.Errorf(api.CodeInvalidProc, "there is no liveProc %q", name)
		case !found, p.Status == api.StatusDisabled:
			w.WriteHeader(http.StatusNoContent)
			return nil
		}
		answerHead(w)
		return nil
	}

	l := &liveStream{Streams: s, roomy: make(chan struct{}, 1)}
	connection := int64(0)
	if back != nil {
		connection, l.last = back.connection, back.last
	}
	var ok bool
	l.stream, l.proc, ok, err = s.LiveProcs.OpenStream(ctx, name, connection)
	switch {
	case api.CodeOf(err) == api.CodeInvalidProc && (back != nil || wasLiveProc(name)), err == nil && !ok:
		w.WriteHeader(http.StatusNoContent)
		return nil
	case err != nil:
		return s.refused(err)
	}
	return l.serve(ctx, w, r)
}

var liveProcName = regexp.MustCompile(`^liveproc-[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)

// wasLiveProc tells the name of a liveProc that is gone from one that never was: the service alone makes such names.
func wasLiveProc(name string) bool { return liveProcName.MatchString(name) }

// Live handles GET /v1/topics/{topic}/live: it creates a liveProc of the topic and streams it. With Last-Event-ID (or
// ?lastEventId=) it resumes the liveProc that the id names; if that one is gone, a gap event tells so, and a new one
// takes its place.
//
// Errors: CodeForbidden for requests from other sites, since it is a GET that writes; CodeInvalidRequest,
// CodeInvalidTopicFormat.
func (s *Streams) Live(w http.ResponseWriter, r *http.Request) error {
	if fromElsewhere(r) {
		return api.Errorf(api.CodeForbidden, "a page of another site may not create liveProcs")
	}
	topic := r.PathValue("topic")
	q, err := queryOf(r, "mode", "count", "ttl", "lastEventId")
	if err != nil {
		return err
	}
	spec, err := liveProcSpec(topic, q)
	if err != nil {
		return err
	}
	back, err := comesBack(r, q)
	if err != nil {
		return err
	}
	if r.Method == http.MethodHead {
		answerHead(w)
		return nil
	}
	had := ""
	if back != nil {
		had = back.liveProc
	}
	ctx, done, err := s.begin(r, &s.liveProcs, had)
	if err != nil {
		return err
	}
	defer done()

	l := &liveStream{Streams: s, roomy: make(chan struct{}, 1)}
	if back != nil {
		again, refused, err := l.resume(ctx, topic, *back)
		switch {
		case err != nil:
			return s.refused(err)
		case refused:
			w.WriteHeader(http.StatusNoContent)
			return nil
		case again:
			return l.serve(ctx, w, r)
		}
	}
	if err := l.create(ctx, spec); err != nil {
		return s.refused(err)
	}
	s.mu.Lock()
	forget := s.count(l.proc.Name)
	s.mu.Unlock()
	defer forget()
	if back != nil {
		l.gap = &gapData{Topic: topic, ResumedAt: seqForm(l.proc.Position), Reason: gapRecreated}
		if back.last != "" {
			l.gap.Requested = &back.last
		}
	}
	return l.serve(ctx, w, r)
}

// fromElsewhere reports whether a browser sends r on behalf of a page of another site. To servers that it does not trust
// (plain http, but for loopback) it does not say so; there Origin tells, which a GET of the page's own origin is without.
func fromElsewhere(r *http.Request) bool {
	if site := r.Header.Get("Sec-Fetch-Site"); site != "" {
		return site == "cross-site"
	}
	origin := r.Header.Get("Origin")
	if origin == "" {
		return false
	}
	u, err := url.Parse(origin)
	return err != nil || !strings.EqualFold(u.Host, r.Host)
}

// comesBack reads the id of the last event that the client saw, if it tells one.
func comesBack(r *http.Request, q url.Values) (*eventID, error) {
	text := lastEventID(r, q)
	if text == "" {
		return nil, nil
	}
	id, err := parseEventID(text)
	return &id, err
}

func liveProcSpec(topic string, q url.Values) (api.LiveProcSpec, error) {
	spec := api.LiveProcSpec{Topic: topic, Mode: api.ModeLive}
	if q.Has("mode") {
		spec.Mode = api.LiveMode(q.Get("mode"))
	}
	count, err := number(q, "count")
	if err != nil {
		return spec, err
	}
	if count != nil {
		n := int(min(*count, api.MaxCount+1)) // Validate refuses what is over
		spec.Count = &n
	}
	if spec.TTL, err = number(q, "ttl"); err != nil {
		return spec, err
	}
	return spec, spec.Validate()
}

// find answers the liveProc of that name; found is false where there is none, or a proc of another kind.
func (s *Streams) find(ctx context.Context, name string) (p api.Proc, found bool, err error) {
	p, err = s.Procs.Proc(ctx, name)
	if api.CodeOf(err) == api.CodeInvalidProc {
		return p, false, nil
	}
	return p, err == nil && p.Kind == api.KindLive, err
}

// A liveStream is one stream of a liveProc.
type liveStream struct {
	*Streams
	stream  api.Stream
	proc    api.Proc
	last    string   // the id of the last log delivered
	held    string   // the token of the claim that this stream has sent
	gap     *gapData // to be told first
	created bool     // here, for this client

	tries backoff
	share *share        // of the room, for the event of the live claim: held, or asked for
	roomy chan struct{} // dirty flag: the share that was waited for is there
}

// resume opens the stream of the liveProc that the client had. again is false when it is gone, refused is true when
// the client is not to come back to it.
func (l *liveStream) resume(ctx context.Context, topic string, back eventID) (again, refused bool, err error) {
	p, found, err := l.find(ctx, back.liveProc)
	if err != nil || !found {
		return false, false, err
	}
	if p.Topic != topic {
		return false, false, api.Errorf(api.CodeInvalidRequest, "the last event id is of a liveProc of another topic")
	}
	var ok bool
	l.stream, l.proc, ok, err = l.LiveProcs.OpenStream(ctx, back.liveProc, back.connection)
	if api.CodeOf(err) == api.CodeInvalidProc {
		return false, false, nil
	}
	l.last = back.last
	return ok, !ok, err
}

func (l *liveStream) create(ctx context.Context, spec api.LiveProcSpec) (err error) {
	if l.proc, err = l.LiveProcs.CreateLiveProc(ctx, spec); err != nil {
		return err
	}
	l.created = true
	name := l.proc.Name
	if l.stream, l.proc, _, err = l.LiveProcs.OpenStream(ctx, name, 0); err != nil {
		l.proc.Name = name
		l.forget(ctx)
	}
	return err
}

// close tells the store that the stream is gone. Where the store does not answer, the lease tells it.
func (l *liveStream) close(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	if err := l.LiveProcs.CloseStream(ctx, l.stream); err != nil && api.CodeOf(err) != api.CodeInvalidProc {
		l.Logger.Warn("stream of a liveProc not closed", "request", api.CallerOf(ctx).RequestID, "proc", l.proc.Name, "err", err)
	}
}

// forget destroys a liveProc whose name no client can know.
func (l *liveStream) forget(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	if _, err := l.LiveProcs.DestroyLiveProc(ctx, l.proc.Name); err != nil && api.CodeOf(err) != api.CodeInvalidProc {
		l.Logger.Warn("liveProc not destroyed", "request", api.CallerOf(ctx).RequestID, "proc", l.proc.Name, "err", err)
	}
}

// serve streams until the liveProc ends it, the client is gone, or ctx is done.
func (l *liveStream) serve(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	release := l.lease(l.stream)
	x, err := newWriter(l.ctx, w, r, l.WriteTimeout)
	if err == nil {
		defer x.finish()
	}
	told := false
	defer func() {
		release()
		l.giveRoom() // not before r3labs has let go of the event
		if l.created && !told {
			l.forget(ctx)
		} else {
			l.close(ctx)
		}
	}()
	if err != nil {
		return err
	}
	l.Streams.serve(x, r, l.retry(), func(c *connection) {
		// ctx ends by age and Close as well; the stream then ends between two events.
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(c.gone, cancel)()
		told = true // or may be from here on: a client that hangs up now can have seen its name
		if l.introduce(c) {
			l.run(ctx, c)
		}
	})
	return nil
}

// introduce tells the client whose stream it is on.
func (l *liveStream) introduce(c *connection) bool {
	if l.gap != nil && !l.send(c, "gap", encode(l.gap)) {
		return false
	}
	return l.send(c, "liveproc", encode(l.proc))
}

// run does what the store tells it to, turn by turn. The claim moves by acks alone, so a batch that did not reach the
// client is simply sent again: on the client's next stream, or when the claim has timed out.
func (l *liveStream) run(ctx context.Context, c *connection) {
	// Before the first look. Logs that are committed are news only while nothing is claimed.
	proc, topic := l.Watcher.Watch(nil, []string{l.proc.Name}), l.Watcher.Watch([]string{l.proc.Topic}, nil)
	defer proc.Close()
	defer topic.Close()
	heartbeat := time.NewTicker(l.Heartbeat)
	defer heartbeat.Stop()
	for ctx.Err() == nil {
		turn, wait := l.turn(ctx)
		switch {
		case turn.End != "":
			l.send(c, "end", encode(liveProcEnd{turn.End}))
			return
		case turn.Claimed == nil:
			l.giveRoom()
		case l.fits(c, turn.Claimed):
			if !l.deliver(c, turn.Claimed) {
				return
			}
		}
		logs := topic.C
		if turn.Proc.Claim != nil || turn.Claimed != nil {
			logs = nil
		}
		l.wait(ctx, c, wait, proc.C, logs, heartbeat.C) // what has changed since the turn was asked for has left a hint
	}
}

// turn asks the store what to do. Where the store does not answer, the stream stays open and asks again after wait; wait
// is negative when only a hint tells that there is something new.
func (l *liveStream) turn(ctx context.Context) (turn api.StreamTurn, wait time.Duration) {
	call, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	turn, err := l.LiveProcs.Turn(call, l.stream, l.held)
	switch {
	case ctx.Err() != nil:
		return api.StreamTurn{}, 0
	case api.CodeOf(err) == api.CodeInvalidProc:
		return api.StreamTurn{End: api.EndDestroyed}, 0
	case err != nil:
		wait, first := l.tries.next()
		if first {
			l.Logger.Warn("turn of a liveProc's stream", "request", api.CallerOf(ctx).RequestID, "proc", l.proc.Name, "err", err)
		}
		return api.StreamTurn{}, wait
	}
	l.tries.reset()
	if turn.Wait < 0 {
		return turn, -1
	}
	return turn, time.Duration(turn.Wait+1) * time.Millisecond // past the instant, not at it
}

// fits tells whether there is room for the event of a claim. Where there is none it lets go of the logs and asks for it:
// roomy tells when it is time for another turn.
func (l *liveStream) fits(c *connection, claimed *api.Claimed) bool {
	n := 2 * sizeOf(claimed.Logs) // the logs and the event; then the event and what r3labs writes of it
	if n <= 2*ownBytes {
		return true
	}
	if !l.share.covers(n) {
		l.giveRoom()
		l.share = l.room.ask(n, l.roomy, c.cutShort)
	}
	if l.share.waits() {
		claimed.Logs = nil
		return false
	}
	return true
}

// deliver sends the logs of a claim; false when the client is gone, which may keep the event for a while yet.
func (l *liveStream) deliver(c *connection, claimed *api.Claimed) bool {
	before := l.last
	if n := len(claimed.Logs); n > 0 {
		l.last = claimed.Logs[n-1].ID.String()
	}
	event := appendClaimed(nil, claimed)
	fault.Point(fault.LiveClaimed)
	claimed.Logs = nil // not to be kept for as long as a slow client takes
	l.share.begin()
	if !l.send(c, "logs", event) {
		l.last = before
		return false
	}
	l.giveRoom()
	l.held = claimed.Claim.Token
	return true
}

func (l *liveStream) giveRoom() {
	l.share.give()
	l.share = nil
}

// wait returns when there may be something new, or the stream is to end.
func (l *liveStream) wait(ctx context.Context, c *connection, d time.Duration, proc, logs <-chan struct{}, beat <-chan time.Time) {
	var due <-chan time.Time
	if d >= 0 {
		timer := time.NewTimer(d)
		defer timer.Stop()
		due = timer.C
	}
	for {
		select {
		case <-proc:
			return
		case <-logs:
			return
		case <-l.roomy:
			return
		case <-due:
			return
		case <-ctx.Done():
			return
		case <-beat:
			if !c.publish(&sse.Event{Comment: []byte(heartbeatText)}) {
				return
			}
		}
	}
}

// send sends one event under the id of the last log delivered; false when the client is gone.
func (l *liveStream) send(c *connection, event string, data []byte) bool {
	id := eventID{l.stream.LiveProc, l.stream.Connection, l.last}
	return c.publish(&sse.Event{ID: []byte(id.String()), Event: []byte(event), Data: data})
}
