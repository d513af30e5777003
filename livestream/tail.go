package livestream

import (
	"context"
	"net/http"
	"strconv"
	"sync"
	"time"

	"pipeproc/api"
	"pipeproc/api/fault"
)

// MaxTailTopics is the most topics that one tail may follow: each event's id names the place in every one of them.
const MaxTailTopics = 100

// What a tail takes at a time.
const (
	batchBytes = 32 << 10  // to be written: the buffer of a client; a larger log goes out by itself
	pageBytes  = 128 << 10 // from the store, of a client that is behind; a larger log needs a share of the room
	firstPage  = 32        // logs, as long as their size is not known
)

// Tail handles GET /v1/tail?topic=a&topic=b&start=: the logs of topics, without a proc. start is "latest" (default,
// also "$>"), "earliest" (also ">") or any start of a range, which holds for every topic; topics need not exist yet, but
// for the last. Last-Event-ID (or ?lastEventId=) wins over start for each topic that it names. Where GC took what either
// of them asks for, a gap event tells so.
//
// Errors: CodeInvalidRequest, CodeInvalidTopicFormat, and for a start of a range what a range answers, but for
// CodeCollected. CodeRateLimited, CodeOverloaded: a limit on streams, or on topics followed.
//
// Where the path names a topic (GET /v1/topics/{topic}/logs), that one is followed, and the query has none.
func (s *Streams) Tail(w http.ResponseWriter, r *http.Request) error {
	takes, topics := []string{"start", "lastEventId"}, []string{r.PathValue("topic")}
	if topics[0] == "" {
		takes, topics = append(takes, "topic"), nil
	}
	q, err := queryOf(r, takes...)
	if err != nil {
		return err
	}
	if topics == nil {
		topics = q["topic"]
	}
	if err := checkTopics(topics); err != nil {
		return err
	}
	start, err := parseStart(q.Get("start"))
	if err != nil {
		return err
	}
	from, err := parseCursor(lastEventID(r, q))
	if err != nil {
		return err
	}
	ctx, done, err := s.begin(r, &s.tails, "")
	if err != nil {
		return err
	}
	defer done()
	places, err := s.places(ctx, topics, start, from)
	if err != nil {
		return s.refused(err)
	}
	if r.Method == http.MethodHead {
		answerHead(w)
		return nil
	}
	t := &tail{Streams: s, topics: places, notify: make(chan struct{}, 1)}
	defer t.unfollow()
	if err := t.follow(); err != nil {
		return err
	}
	if t.w, err = newWriter(s.ctx, w, r, s.WriteTimeout); err != nil {
		return err
	}
	defer t.w.finish()
	t.run(ctx)
	return nil
}

func checkTopics(topics []string) error {
	if len(topics) < 1 || len(topics) > MaxTailTopics {
		return api.Errorf(api.CodeInvalidRequest, "a tail follows 1 to %d topics", MaxTailTopics)
	}
	seen := make(map[string]bool, len(topics))
	for _, topic := range topics {
		if err := api.CheckTopic(topic); err != nil {
			return err
		}
		if seen[topic] {
			return api.Errorf(api.CodeInvalidRequest, "topic %q is given twice", topic)
		}
		seen[topic] = true
	}
	return nil
}

// tailStart is where a tail starts in the topics that its cursor does not name.
type tailStart struct {
	earliest bool
	at       api.Bound
}

func parseStart(s string) (tailStart, error) {
	switch s {
	case "", "latest", "$>":
		return tailStart{}, nil
	case "earliest", ">":
		return tailStart{earliest: true}, nil
	}
	at, err := api.ParseBound(s)
	return tailStart{at: at}, err
}

// A followed is a topic that a tail follows.
type followed struct {
	topic    string
	follower *follower
	position
	known time.Time // when the position was last compared with the store: an older view of the topic tells nothing
	gap   *gap      // to be told before the next log
	page  int       // logs to ask the store for
	large bool      // the next log needs more room than there was
}

// A gap is yet to be told; from is the position before it.
type gap struct {
	from   position
	reason string
}

// places resolves where to start. A cursor beyond the head was never sent by us: CodeInvalidRequest.
func (s *Streams) places(ctx context.Context, topics []string, start tailStart, from cursor) ([]*followed, error) {
	heads, err := s.Tailer.Heads(ctx, topics)
	if err != nil {
		return nil, err
	}
	known := time.Now()
	places := make([]*followed, len(topics))
	for i, topic := range topics {
		f := &followed{topic: topic, known: known, page: firstPage}
		h, exists := heads[topic]
		p, resumed := from[topic]
		switch {
		case resumed:
			f.position = p
			if exists && p.TopicID != 0 && p.TopicID != h.ID {
				f.anew(h.ID)
			} else if exists && p.TopicID == h.ID && p.Seq > h.Head {
				return nil, api.Errorf(api.CodeInvalidRequest, "the last event id lies beyond the head of topic %q", topic)
			} else if fault.Planted(fault.SkippingTails) && p.Seq < h.Head {
				f.Seq++
			}
		case start.at.Form != api.BoundNone:
			f.Place, err = s.Tailer.Place(ctx, topic, false, start.at)
			if api.CodeOf(err) == api.CodeCollected && exists { // to be told as a gap
				f.Place, err = api.Place{TopicID: h.ID, Seq: min(start.at.ID.Seq, h.First)}, nil
			}
			if err != nil {
				return nil, err
			}
		case !exists:
		case start.earliest:
			f.Place = api.Place{TopicID: h.ID, Seq: h.First}
		default:
			f.Place = api.Place{TopicID: h.ID, Seq: h.Head}
		}
		places[i] = f
	}
	return places, nil
}

// anew moves f to the beginning of another topic of the same name.
func (f *followed) anew(topicID int64) {
	f.gap = &gap{from: f.position, reason: gapRecreated}
	f.position = position{Place: api.Place{TopicID: topicID}}
}

// told is the position that the client may be told: a gap that it does not know of yet is still before it.
func (f *followed) told() position {
	if f.gap != nil {
		return f.gap.from
	}
	return f.position
}

// A tail is one client that follows topics.
type tail struct {
	*Streams
	w      *writer
	topics []*followed
	notify chan struct{} // dirty flag: a topic has news, or the share that was waited for is there
	tries  backoff
	share  *share // of the room, for the next log of asker: held, or asked for
	asker  *followed
}

// follow subscribes to the topics. unfollow is to be called also after an error.
func (t *tail) follow() (err error) {
	for _, f := range t.topics {
		if f.follower, err = t.Streams.follow(f.topic, t.notify); err != nil {
			return err
		}
	}
	return nil
}

func (t *tail) unfollow() {
	for _, f := range t.topics {
		if f.follower != nil {
			t.Streams.unfollow(f.follower, t.notify)
		}
	}
}

// run streams until the client is gone or ctx is done. It always ends between two events.
func (t *tail) run(ctx context.Context) {
	defer func() { t.share.give() }()
	setHeaders(t.w.Header())
	t.w.WriteHeader(http.StatusOK)
	// The client knows its position from the start, so that it can resume before the first log has come.
	_, _ = t.w.Write(t.appendID(t.retry())) // kept in t.w.err
	t.w.Flush()

	heartbeat := time.NewTicker(t.Heartbeat)
	defer heartbeat.Stop()
	for {
		retry := t.catchUp(ctx)
		if t.w.err != nil {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-t.notify:
		case <-retry:
		case <-heartbeat.C:
			_, _ = t.w.Write(heartbeatFrame)
			t.w.Flush()
		}
	}
}

// catchUp sends all that there is. Where the store does not answer it is to be called again at retry.
func (t *tail) catchUp(ctx context.Context) (retry <-chan time.Time) {
	for more := true; more; {
		more = false
		for _, f := range t.topics { // in turn, so that a busy topic does not hold the others up
			if ctx.Err() != nil || t.w.err != nil {
				return nil
			}
			sent, err := t.step(ctx, f)
			if t.asker == f && (sent || err != nil) {
				t.share.give()
				t.share, t.asker = nil, nil
			}
			switch {
			case ctx.Err() != nil:
				return nil
			case err != nil:
				d, first := t.tries.next()
				if first {
					t.Logger.Warn("topic of a tail not read", "request", api.CallerOf(ctx).RequestID, "topic", f.topic, "err", err)
				}
				return time.After(d)
			case sent:
				t.tries.reset()
				more = true
			}
		}
	}
	return nil
}

// step sends the next logs of one topic; sent is false when there is nothing to send now, or no room for it: notify tells
// when there is.
func (t *tail) step(ctx context.Context, f *followed) (sent bool, err error) {
	v := f.follower.view.Load()
	if v == nil || f.large && v.id == f.TopicID && t.share.waits() { // to be read when there is room
		return false, nil
	}
	if f.ended || f.TopicID == 0 {
		if v.id == 0 || v.id == f.TopicID {
			return false, nil
		}
		if !v.asOf.After(f.known) { // it may be the topic that was deleted before
			f.follower.refresh()
			return false, nil
		}
		if f.ended {
			f.anew(v.id)
		} else {
			f.TopicID = v.id
		}
	}
	if v.id != f.TopicID || f.Seq < v.first {
		return t.page(ctx, f)
	}
	if f.Seq >= v.next() { // a gap that is yet to be told waits for the first logs of the topic made anew
		return false, nil
	}
	frames := v.frames[f.Seq-v.first:]
	if len(frames[0].bytes) > ownBytes {
		s := t.room.join(frames[0].bytes, t.w.cutShort)
		if s == nil {
			return t.page(ctx, f)
		}
		defer s.give()
	}
	f.large = false
	t.tellGap(f, frames[0].id.String())
	t.sendFrames(f, frames)
	return true, nil
}

// sendFrames sends as many frames as fit into a buffer, and the first one in any case.
func (t *tail) sendFrames(f *followed, frames []frame) {
	if fr := frames[0]; len(frames) == 1 || len(fr.bytes) > batchBytes {
		f.Seq++
		if len(t.topics) == 1 {
			_, _ = t.w.Write(fr.bytes)
		} else {
			_, _ = t.w.Write(fr.bytes[:fr.event])
			_, _ = t.w.Write(t.appendID(nil))
		}
		t.w.Flush()
		return
	}
	b := newBatch(t, f)
	for _, fr := range frames {
		if !b.fits(len(fr.bytes)) {
			break
		}
		f.Seq++
		if len(t.topics) == 1 {
			*b.buf = append(*b.buf, fr.bytes...)
		} else {
			b.end(append(*b.buf, fr.bytes[:fr.event]...))
		}
	}
	b.send()
	t.w.Flush()
}

// page sends the next logs from the store, to a client that is behind the ring, or whose topic is not the follower's.
func (t *tail) page(ctx context.Context, f *followed) (sent bool, err error) {
	call, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	logs, first, exists, err := t.Tailer.ReadFrom(call, f.TopicID, f.Seq, f.page, pageBytes)
	switch {
	case err != nil:
		return false, err
	case !t.fits(f, logs):
		return false, nil
	case !exists:
		f.position, f.gap = f.told(), nil
		f.ended, f.known = true, time.Now()
		t.event("end", topicEnd{f.topic, "deleted"})
		return true, nil
	}
	if first > f.Seq {
		if f.gap == nil {
			f.gap = &gap{from: f.position, reason: gapCollected}
		}
		f.Seq = first
	}
	if len(logs) == 0 {
		return t.tellGap(f, seqForm(f.Seq)), nil
	}
	t.share.begin()
	t.tellGap(f, logs[0].ID.String())
	f.resize(logs)
	b := newBatch(t, f)
	for _, l := range logs {
		if !b.fits(len(l.Body)) {
			b.send()
			b = newBatch(t, f)
		}
		f.Seq = l.ID.Seq + 1
		b.end(appendLogEvent(*b.buf, f.topic, l))
	}
	b.send()
	t.w.Flush()
	return true, nil
}

// fits tells whether there is room for logs, of which a large one comes alone. Where there is none it asks for it, and they
// are to be let go.
func (t *tail) fits(f *followed, logs []api.Log) bool {
	n := 2 * sizeOf(logs) // the log, and the event
	if f.large = len(logs) == 1 && n > 2*ownBytes; !f.large {
		return true
	}
	if t.asker == f && !t.share.waits() && !t.share.covers(n) { // it was for another log, which GC took
		t.share.give()
		t.asker = nil
	}
	if t.asker == nil {
		t.asker, t.share = f, t.room.ask(n, t.notify, t.w.cutShort)
	}
	return t.asker == f && !t.share.waits()
}

// resize makes the next page about pageBytes large.
func (f *followed) resize(logs []api.Log) {
	f.page = max(1, min(pageBytes*len(logs)/sizeOf(logs), 4*f.page, api.MaxPageLogs))
}

// tellGap tells the gap that is yet to be told, if there is one.
func (t *tail) tellGap(f *followed, resumedAt string) bool {
	g := f.gap
	if g == nil {
		return false
	}
	f.gap = nil
	requested := seqForm(g.from.Seq)
	t.event("gap", gapData{Topic: f.topic, Requested: &requested, ResumedAt: resumedAt, Reason: g.reason})
	return true
}

func (t *tail) event(name string, data any) {
	_, _ = t.w.Write(t.appendID(appendEvent(nil, name, encode(data))))
	t.w.Flush()
}

// appendID appends the id line, the cursor as it stands, and ends the event.
func (t *tail) appendID(b []byte) []byte {
	b = append(b, "id: "...)
	for i, f := range t.topics {
		if i > 0 {
			b = append(b, ',')
		}
		p := f.told()
		b = appendPlace(b, f.topic, p.Place, p.ended)
	}
	return append(b, "\n\n"...)
}

// A batch gathers events of one topic, to be written at once. Its buffer is borrowed: clients that have nothing to read
// hold none.
type batch struct {
	t             *tail
	f             *followed
	buf           *[]byte
	before, after []byte // the id line around the seq, which alone changes
}

var buffers = sync.Pool{New: func() any { b := make([]byte, 0, batchBytes); return &b }}

func newBatch(t *tail, f *followed) *batch {
	b := &batch{t: t, f: f, buf: buffers.Get().(*[]byte)}
	*b.buf = (*b.buf)[:0]
	ids := append(make([]byte, 0, 64*len(t.topics)), "id: "...)
	for i, other := range t.topics {
		if i > 0 {
			ids = append(ids, ',')
		}
		if other == f {
			ids = appendPlaceTopic(ids, f.topic, f.TopicID)
			b.before, ids = ids, nil
			continue
		}
		p := other.told()
		ids = appendPlace(ids, other.topic, p.Place, p.ended)
	}
	b.after = append(ids, "\n\n"...)
	return b
}

// fits tells whether an event of about n bytes is to go with those gathered.
func (b *batch) fits(n int) bool {
	return len(*b.buf) == 0 || len(*b.buf)+n+len(b.before)+len(b.after)+64 <= batchBytes
}

// end ends the event that buf closes with; the place is the one after it.
func (b *batch) end(buf []byte) {
	buf = append(buf, b.before...)
	buf = strconv.AppendInt(buf, b.f.Seq, 10)
	*b.buf = append(buf, b.after...)
}

// send writes what was gathered and gives the buffer back, unless an outsized event made it grow.
func (b *batch) send() {
	_, _ = b.t.w.Write(*b.buf)
	if cap(*b.buf) <= 2*batchBytes {
		buffers.Put(b.buf)
	}
}
