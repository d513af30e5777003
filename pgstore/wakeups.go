package pgstore

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"pipeproc/api"
	"pipeproc/api/fault"
)

// changes are what a transaction has changed, as far as somebody may wait for it.
type changes struct {
	Topics      map[string]int64 `json:"t,omitempty"` // name → head; 0: deleted
	Procs       []string         `json:"p,omitempty"`
	Jobs        bool             `json:"j,omitempty"` // a systemProc's proc, not claimed, is among Procs
	Definitions bool             `json:"d,omitempty"` // systemProcs were created, changed or destroyed

	reclaims int // to be counted, on this server
}

func (c *changes) topic(name string, head int64) {
	if c.Topics == nil {
		c.Topics = map[string]int64{}
	}
	c.Topics[name] = head
}

// proc tells of a changed proc. While it is claimed there is no work for others.
func (c *changes) proc(p *procRow) {
	c.Procs = append(c.Procs, p.Name)
	c.Jobs = c.Jobs || p.Kind == api.KindSystem && p.Claim == nil
	c.reclaims += max(0, p.Reclaims-p.reclaims)
}

func (c *changes) empty() bool {
	return len(c.Topics) == 0 && len(c.Procs) == 0 && !c.Jobs && !c.Definitions
}

// hub wakes up those who wait in this server, and tells the other servers. A wake-up is a hint: waiters look for
// themselves. Those that were lost are made up for every few seconds.
type hub struct {
	store *Store

	mu        sync.Mutex
	topics    map[string]map[*watcher]struct{}
	procs     map[string]map[*watcher]struct{}
	jobs      map[*watcher]struct{}
	jobTopics map[string]struct{}
	heads     map[string]api.TopicHead // the last ones told of watched topics; of wake-ups alone without ID
	states    map[string]int64         // of watched procs, as the last poll found them
	streams   map[string]string        // the streams of liveProcs on this server: their instances
	claimed   map[string]claimedLogs   // of those: what acks have claimed for them
	kept      int                      // bytes of claimed
	outbox    outbox
	ready     chan struct{} // the outbox has something; capacity 1

	// What notify and listen stand on.
	connect func(ctx context.Context, purpose string) (session, error)
	look    func(ctx context.Context) error
}

// session is a connection of its own.
type session interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	WaitForNotification(ctx context.Context) (*pgconn.Notification, error)
	Close(ctx context.Context) error
}

// claimedLogs are the logs that a claim hands out.
type claimedLogs struct {
	token string
	logs  []api.Log
}

func (c claimedLogs) size() (n int) {
	for i := range c.logs {
		n += len(c.logs[i].Body)
	}
	return n
}

// outbox gathers what is to be told to the other servers.
type outbox struct {
	topics      map[string]int64
	procs       map[string]struct{}
	jobs        bool
	definitions bool
}

type watcher struct {
	c chan struct{}
}

func (w *watcher) wake() {
	select {
	case w.c <- struct{}{}:
	default:
	}
}

func newHub(s *Store) *hub {
	h := &hub{store: s, topics: map[string]map[*watcher]struct{}{}, procs: map[string]map[*watcher]struct{}{},
		jobs: map[*watcher]struct{}{}, jobTopics: map[string]struct{}{}, heads: map[string]api.TopicHead{}, states: map[string]int64{},
		streams: map[string]string{}, claimed: map[string]claimedLogs{}, outbox: newOutbox(), ready: make(chan struct{}, 1)}
	h.connect = func(ctx context.Context, purpose string) (session, error) { return s.connect(ctx, purpose) }
	h.look = h.lookAgain
	return h
}

func newOutbox() outbox {
	return outbox{topics: map[string]int64{}, procs: map[string]struct{}{}}
}

// Watch implements api.Watcher.
func (s *Store) Watch(topics, procs []string) api.Watch {
	h, w := s.hub, &watcher{make(chan struct{}, 1)}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, name := range topics {
		subscribe(h.topics, name, w)
	}
	for _, name := range procs {
		subscribe(h.procs, name, w)
	}
	return api.Watch{C: w.c, Close: func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		for _, name := range topics {
			if unsubscribe(h.topics, name, w) {
				delete(h.heads, name)
			}
		}
		for _, name := range procs {
			if unsubscribe(h.procs, name, w) {
				delete(h.states, name)
			}
		}
	}}
}

// WatchJobs implements api.Watcher.
func (s *Store) WatchJobs() api.Watch {
	h, w := s.hub, &watcher{make(chan struct{}, 1)}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.jobs[w] = struct{}{}
	return api.Watch{C: w.c, Close: func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.jobs, w)
	}}
}

func subscribe(m map[string]map[*watcher]struct{}, name string, w *watcher) {
	if m[name] == nil {
		m[name] = map[*watcher]struct{}{}
	}
	m[name][w] = struct{}{}
}

// unsubscribe reports whether w was the last one.
func unsubscribe(m map[string]map[*watcher]struct{}, name string, w *watcher) bool {
	delete(m[name], w)
	if len(m[name]) == 0 {
		delete(m, name)
		return true
	}
	return false
}

func wakeAll(watchers map[*watcher]struct{}) {
	for w := range watchers {
		w.wake()
	}
}

// opened tells of a stream of a liveProc on this server, closed of its end. A later stream of the liveProc takes its place.
func (h *hub) opened(s api.Stream) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.streams[s.LiveProc] = s.Instance
}

func (h *hub) closed(s api.Stream) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.streams[s.LiveProc] == s.Instance {
		delete(h.streams, s.LiveProc)
		h.drop(s.LiveProc)
	}
}

// destroyed tells that a liveProc is gone, with the stream that it had here.
func (h *hub) destroyed(liveProc string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.streams, liveProc)
	h.drop(liveProc)
}

// keptBytes is the most that is kept for streams: one whose client is slow takes its time to come for it.
const keptBytes = 64 << 20

// keep keeps the logs of a claim for the proc's stream, if it is on this server and there is room: one claim, until it
// closes. Whoever finds nothing reads them.
func (h *hub) keep(proc string, c claimedLogs) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.drop(proc)
	if size := c.size(); h.streams[proc] != "" && h.kept+size <= keptBytes {
		h.claimed[proc] = c
		h.kept += size
	}
}

// drop lets go of what is kept for a proc's stream. h.mu is held.
func (h *hub) drop(proc string) {
	h.kept -= h.claimed[proc].size()
	delete(h.claimed, proc)
}

// take answers the logs of a claim that were kept; nil where they are to be read.
func (h *hub) take(proc, token string) []api.Log {
	h.mu.Lock()
	defer h.mu.Unlock()
	c, ok := h.claimed[proc]
	if !ok || c.token != token {
		return nil
	}
	h.drop(proc)
	return c.logs
}

// publish wakes the waiters of this server at once, and has the others told.
func (h *hub) publish(c changes) {
	if c.empty() {
		return
	}
	h.deliver(c)
	h.store.meters.reclaims.Add(float64(c.reclaims))
	h.mu.Lock()
	for name, head := range c.Topics {
		h.outbox.topics[name] = head
	}
	for _, name := range c.Procs {
		h.outbox.procs[name] = struct{}{}
	}
	h.outbox.jobs = h.outbox.jobs || c.Jobs
	h.outbox.definitions = h.outbox.definitions || c.Definitions
	h.mu.Unlock()
	select {
	case h.ready <- struct{}{}:
	default:
	}
}

// deliver wakes the waiters of this server.
func (h *hub) deliver(c changes) {
	h.mu.Lock()
	defer h.mu.Unlock()
	work := c.Jobs || c.Definitions
	for name, head := range c.Topics {
		if watchers := h.topics[name]; watchers != nil {
			h.heads[name] = api.TopicHead{Head: head}
			wakeAll(watchers)
		}
		if _, ok := h.jobTopics[name]; ok {
			work = true
		}
	}
	for _, name := range c.Procs {
		wakeAll(h.procs[name])
	}
	if work {
		wakeAll(h.jobs)
	}
}

func (h *hub) setJobTopics(names []string) {
	topics := make(map[string]struct{}, len(names))
	for _, name := range names {
		topics[name] = struct{}{}
	}
	h.mu.Lock()
	h.jobTopics = topics
	h.mu.Unlock()
}

const lookTimeout = 10 * time.Second

// lookAgain re-reads the heads of the watched topics and the states of the watched procs, and wakes whoever waits for one that
// has changed; those who wait for jobs in any case. Nobody is woken by the clock: whoever waits for a claim's time-out
// times it, and the sweep, which applies it, is a change.
func (h *hub) lookAgain(ctx context.Context) error {
	if fault.Planted(fault.NoLook) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, lookTimeout) // a connection that has fallen silent must not end the polling
	defer cancel()
	h.mu.Lock()
	topics, procs := slices.Collect(maps.Keys(h.topics)), slices.Collect(maps.Keys(h.procs))
	h.mu.Unlock()
	var heads map[string]api.TopicHead
	var states map[string]int64
	var err error
	if len(topics) > 0 {
		if heads, err = h.store.Heads(ctx, topics); err != nil {
			return err
		}
	}
	if len(procs) > 0 {
		if states, err = h.store.procStates(ctx, procs); err != nil {
			return err
		}
	}
	if err := h.store.loadJobTopics(ctx); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, name := range topics {
		if h.topics[name] == nil { // nobody watches it any more
			continue
		}
		known, ok := h.heads[name]
		if now := heads[name]; !ok || known.Head != now.Head || known.ID != now.ID { // made anew, it is another topic
			h.heads[name] = now
			wakeAll(h.topics[name])
		}
	}
	for _, name := range procs {
		if h.procs[name] == nil {
			continue
		}
		known, ok := h.states[name]
		if now := states[name]; !ok || known != now { // 0 for one that is gone
			h.states[name] = now
			wakeAll(h.procs[name])
		}
	}
	wakeAll(h.jobs)
	return nil
}

// procStates answers a number for each proc that exists, which changes whenever somebody who watches it may have to know:
// not with a lease that is renewed, nor with what nobody waits for.
func (s *Store) procStates(ctx context.Context, names []string) (map[string]int64, error) {
	rows, err := s.pool.Query(ctx, s.q(`SELECT p.name, hashtextextended(ROW(p.id, p.status, p.position, p.seeks, p.count, p.reclaims,
			p.claim_token, p.claim_expires_at, l.instance, l.cancelled)::text, 0)
		FROM ns.procs AS p LEFT JOIN ns.live_streams AS l ON l.proc_id = p.id WHERE p.name = ANY($1)`), names)
	if err != nil {
		return nil, err
	}
	states := make(map[string]int64, len(names))
	var name string
	var state int64
	_, err = pgx.ForEachRow(rows, []any{&name, &state}, func() error {
		states[name] = state
		return nil
	})
	return states, err
}

// poll looks every few seconds, for wake-ups that were lost.
func (h *hub) poll(ctx context.Context) error {
	ticker := time.NewTicker(h.store.cfg.PollInterval)
	defer ticker.Stop()
	h.store.pollTurns.Start()
	defer h.store.pollTurns.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			h.store.pollTurns.Begin()
			err := h.look(ctx)
			h.store.pollTurns.End()
			if err != nil && ctx.Err() == nil {
				h.store.log.Debug("polling for changes", "error", err)
			}
		}
	}
}

// channel is the namespace's channel of NOTIFY, as a name.
func (h *hub) channel() string { return "pipeproc_" + h.store.cfg.Namespace }

// message is what servers tell each other.
type message struct {
	From string `json:"f"`
	changes
}

// notifyLimit is the size of a payload that NOTIFY takes for sure (PostgreSQL: below 8,000 bytes).
const notifyLimit = 7_000

// notifyGap is the least time between two messages: under load each commit would send one, which would cost the database
// as much as a small commit does, and wake every server up. The first one after a quiet moment goes out at once.
const notifyGap = 5 * time.Millisecond

// notify tells the other servers what has changed, on a connection of its own: NOTIFY takes a lock that all transactions
// of the cluster which notify share, and must not hold up a commit. Nothing is lost when a server dies that a poll
// would not find, so it need not be durable.
func (h *hub) notify(ctx context.Context) error {
	var conn session
	defer func() {
		if conn != nil {
			_ = conn.Close(context.WithoutCancel(ctx))
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-h.ready:
		}
		h.mu.Lock()
		out := h.outbox
		h.outbox = newOutbox()
		h.mu.Unlock()
		h.store.notifyTurns.Begin()
		for _, payload := range out.payloads(h.store.server) {
			used := conn != nil
			err := h.tell(ctx, &conn, payload)
			if err != nil && used { // the connection may have been cut since it was used last
				err = h.tell(ctx, &conn, payload)
			}
			if err != nil {
				if ctx.Err() == nil {
					h.store.log.Debug("telling other servers of changes", "error", err)
				}
				break // their polls will find it
			}
		}
		h.store.notifyTurns.End()
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(notifyGap):
		}
	}
}

// tell sends one message on *conn, which it opens where there is none, and drops after an error.
func (h *hub) tell(ctx context.Context, conn *session, payload string) (err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if *conn == nil {
		c, err := h.connect(ctx, "notifier")
		if err != nil {
			return err
		}
		*conn = c
		if _, err := c.Exec(ctx, "SET synchronous_commit = off"); err != nil {
			_ = c.Close(context.WithoutCancel(ctx))
			*conn = nil
			return err
		}
	}
	if _, err = (*conn).Exec(ctx, "SELECT pg_notify($1, $2)", h.channel(), payload); err != nil {
		_ = (*conn).Close(context.WithoutCancel(ctx))
		*conn = nil
	}
	return err
}

// payloads splits the outbox into messages that NOTIFY takes.
func (o *outbox) payloads(from string) []string {
	var list []string
	m := message{From: from, changes: changes{Jobs: o.jobs, Definitions: o.definitions}}
	size := 0
	flush := func() {
		if !m.empty() {
			text, _ := json.Marshal(m) // names and numbers alone
			list = append(list, string(text))
		}
		m.changes, size = changes{}, 0
	}
	room := func(n int) {
		if size += n; size > notifyLimit-200 {
			flush()
			size = n
		}
	}
	for name, head := range o.topics {
		room(len(name) + 24)
		m.topic(name, head)
	}
	for name := range o.procs {
		room(len(name) + 3)
		m.Procs = append(m.Procs, name)
	}
	flush()
	return list
}

// listen hears what the other servers tell. On every connection it first listens, then looks for itself, then waits.
func (h *hub) listen(ctx context.Context) error {
	for ctx.Err() == nil {
		if err := h.listenOnce(ctx); err != nil && ctx.Err() == nil {
			h.store.log.Warn("listening to other servers", "error", err)
			h.store.pool.Reset() // what has cut this connection may have cut the idle ones of the pool too
			timer := time.NewTimer(250 * time.Millisecond)
			select {
			case <-timer.C:
			case <-ctx.Done():
				timer.Stop()
			}
		}
	}
	return nil
}

func (h *hub) listenOnce(ctx context.Context) error {
	h.store.listenTurns.Begin()
	defer h.store.listenTurns.End()
	conn, err := h.connect(ctx, listener)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	if _, err := conn.Exec(ctx, "LISTEN "+pgx.Identifier{h.channel()}.Sanitize()); err != nil {
		return err
	}
	if err := h.look(ctx); err != nil {
		return err
	}
	for {
		h.store.listenTurns.End()
		n, err := conn.WaitForNotification(ctx)
		if err != nil {
			return err
		}
		h.store.listenTurns.Begin()
		var m message
		if err := json.Unmarshal([]byte(n.Payload), &m); err != nil || m.From == h.store.server {
			continue
		}
		if m.Definitions {
			if err := h.store.loadJobTopics(ctx); err != nil {
				return err
			}
		}
		h.deliver(m.changes)
	}
}
