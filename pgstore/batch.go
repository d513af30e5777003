package pgstore

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"pipeproc/api"
	"pipeproc/api/fault"
)

// needs gathers the rows that a batch locks.
type needs struct {
	keys   map[keyID]*api.IdempotencyKey
	procs  map[string]struct{}
	topics map[string]struct{}
	claims map[string]ask // by the proc that is to be claimed
}

// ask is what a claim asks for: so many logs (0: the proc's own count), as soon as the live claim is acked or without one.
type ask struct {
	count int
	acks  bool
}

func newNeeds() *needs {
	return &needs{keys: map[keyID]*api.IdempotencyKey{}, procs: map[string]struct{}{}, topics: map[string]struct{}{},
		claims: map[string]ask{}}
}

func (n *needs) proc(name string) { n.procs[name] = struct{}{} }

// claim tells that the next logs of a proc will be asked for. Of several requests of one proc an ack counts, else the last
// one: what it tells is read ahead, and whatever else is needed is read when it is.
func (n *needs) claim(name string, a ask) {
	n.proc(name)
	if a.acks || !n.claims[name].acks {
		n.claims[name] = a
	}
}

func (n *needs) logs(logs []api.NewLog) {
	for i := range logs {
		n.topics[logs[i].Topic] = struct{}{}
	}
}

// rows names the procs' and topics' rows: "p:name", "t:name".
func (n *needs) rows() []string {
	rows := make([]string, 0, len(n.procs)+len(n.topics))
	for name := range n.procs {
		rows = append(rows, "p:"+name)
	}
	for name := range n.topics {
		rows = append(rows, "t:"+name)
	}
	return rows
}

// topicRow is a topic in a batch.
type topicRow struct {
	id     int64
	name   string
	first  int64
	head   int64 // with the batch's own logs
	lastTS int64
	stored int64   // the head before the batch
	added  []entry // the batch's own logs, from seq stored on
}

// entry is what a claim needs to know of a log.
type entry struct {
	ts   int64
	size int64
	body []byte // nil when it was not read along
}

// window is a run of stored logs: n from its first on.
type window struct {
	windowStart
	n int64
}

type windowStart struct {
	topic int64
	first int64
}

// fetched is what was read of a window of n logs; it is shorter only if logs are missing.
type fetched struct {
	n       int64
	entries []entry
}

// batch is one transaction for several requests. Its maps hold the locked rows; ops change them in memory, in order of
// arrival; commit writes what has changed.
type batch struct {
	lane  *lane
	store *Store
	conn  *pgx.Conn
	id    string // a UUID, written with the batch
	now   int64
	begun int64 // by the server's clock: for a planted bug

	topics  map[string]*topicRow // locked, by name
	byID    map[int64]*topicRow  // locked, and those of locked procs as of now
	procs   map[string]*procRow  // locked, by name; expired liveProcs are left out
	keys    map[keyID]*keyRow
	entries map[windowStart]fetched
	answers []error // one a request

	logs       logColumns
	touched    map[*topicRow]struct{}
	changed    map[*procRow]struct{}
	ackAnswers map[int64]ackAnswer
	places     []int64                // of a batch whose COMMIT was not answered: where its logs went, see appendLogs
	streamed   map[string]claimedLogs // by liveProc: what acks have claimed for its stream
}

// logColumns are the logs to insert.
type logColumns struct {
	topics, seqs, tss []int64
	bodies            [][]byte
}

func newBatch(l *lane) *batch {
	return &batch{lane: l, store: l.store, conn: l.conn, id: newUUID(),
		topics: map[string]*topicRow{}, byID: map[int64]*topicRow{}, procs: map[string]*procRow{},
		keys: map[keyID]*keyRow{}, entries: map[windowStart]fetched{},
		touched: map[*topicRow]struct{}{}, changed: map[*procRow]struct{}{}, ackAnswers: map[int64]ackAnswer{},
		streamed: map[string]claimedLogs{}}
}

// decide carries the requests out in two round trips: one locks what they need, then each of them decides, the other one
// writes and commits. missing are topics that are to be made first; nothing was committed then.
func (b *batch) decide(ctx context.Context, requests []*request) (missing []string, err error) {
	fault.Point(fault.BatchBegins)
	if missing, err = b.prepare(ctx, requests); err != nil {
		b.lane.rollback(ctx)
	}
	if err != nil || len(missing) > 0 {
		return missing, err
	}
	return nil, b.commit(ctx)
}

// prepare begins the transaction, locks what the requests need, and lets each decide. missing are topics that are to be
// made before the batch can go on. A panic is an error like those of PostgreSQL: nothing was written yet, and alone the
// request that brings it about fails alone.
func (b *batch) prepare(ctx context.Context, requests []*request) (missing []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, lockPhase)
	defer cancel()
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("panic: %v\n%s", v, debug.Stack())
		}
	}()
	if fault.Planted(fault.EarlyClock) {
		b.begun = serverClock()
	}
	n := newNeeds()
	for _, r := range requests {
		r.op.needs(n)
	}
	if err := b.lock(ctx, n); err != nil {
		return nil, err
	}
	for name := range n.topics {
		if b.topics[name] == nil {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		slices.Sort(missing)
		return missing, nil
	}
	if len(requests) > 1 && b.windowRows(n.claims) > batchRows {
		return nil, errTooManyRows
	}
	b.answers = make([]error, len(requests))
	for i, r := range requests {
		err := r.op.apply(ctx, b)
		if api.CodeOf(err) == api.CodeInternal { // PostgreSQL's: the transaction is spoilt
			return nil, err
		}
		b.answers[i] = err
	}
	return nil, nil
}

// lock begins the transaction and locks rows in the one order that all transactions keep, in one round trip.
func (b *batch) lock(ctx context.Context, n *needs) error {
	q := &pgx.Batch{}
	q.Queue("BEGIN ISOLATION LEVEL READ COMMITTED")
	b.queueKeys(q, n)
	if len(n.procs) > 0 {
		names := sortedKeys(n.procs)
		// The topic is only read, as of the statement's begin: the logs below the head that a claim sees cannot change, and GC
		// keeps them for the proc. What was committed while the statement waited for a row is the next look's.
		// The definition and its secrets come along, so that an execution needs no read of its own, which could fail once
		// the claim is made.
		q.Queue(b.store.q("SELECT "+procColumns+`, topic, first, head, last_ts, coalesce(spec, ''), coalesce(secrets, ''),
				coalesce(open_until, 0)
			FROM ns.procs AS p
			JOIN (SELECT id AS of_topic, name AS topic, first, head, last_ts FROM ns.topics) AS t ON of_topic = topic_id
			LEFT JOIN (SELECT id AS of_definition, spec, secrets FROM ns.system_procs) AS sp ON of_definition = system_proc_id
			LEFT JOIN (SELECT proc_id, open_until FROM ns.live_streams WHERE instance <> '') AS ls ON proc_id = id
			WHERE name = ANY($1) ORDER BY id FOR UPDATE OF p`), names).
			Query(func(rows pgx.Rows) error {
				var t topicRow
				var beside procRow
				return eachProc(rows, func(p *procRow) {
					p.spec, p.secrets, p.openUntil = beside.spec, beside.secrets, beside.openUntil
					b.procs[p.Name] = p
					if b.byID[p.TopicID] == nil {
						read := t
						read.id, read.stored = p.TopicID, t.head
						b.byID[p.TopicID] = &read
					}
				}, &t.name, &t.first, &t.head, &t.lastTS, &beside.spec, &beside.secrets, &beside.openUntil)
			})
	}
	if len(n.topics) > 0 {
		q.Queue(b.store.q("SELECT id, name, first, head, last_ts FROM ns.topics WHERE name = ANY($1) ORDER BY id FOR UPDATE"),
			sortedKeys(n.topics)).Query(func(rows pgx.Rows) error {
			return b.eachTopic(rows, func(t *topicRow) {
				b.topics[t.name] = t
				b.byID[t.id] = t
			})
		})
	}
	b.queueWindows(q, n.claims)
	q.Queue(b.store.q("SELECT ns.now_ms()")).QueryRow(func(row pgx.Row) error { return row.Scan(&b.now) })
	if err := b.conn.SendBatch(ctx, q).Close(); err != nil {
		return err
	}
	for name, p := range b.procs {
		if p.gone(b.now) {
			delete(b.procs, name)
			continue
		}
		p.Topic, p.readAt = b.byID[p.TopicID].name, b.now
		if !fault.Planted(fault.NoTimeouts) && p.Expire(b.now) {
			b.changed[p] = struct{}{}
		}
	}
	return nil
}

func (b *batch) eachTopic(rows pgx.Rows, f func(*topicRow)) error {
	defer rows.Close()
	for rows.Next() {
		t := &topicRow{}
		if err := rows.Scan(&t.id, &t.name, &t.first, &t.head, &t.lastTS); err != nil {
			return err
		}
		t.stored = t.head
		f(t)
	}
	return rows.Err()
}

// proc answers a locked proc, or CodeInvalidProc.
func (b *batch) proc(name string) (*procRow, error) {
	if p := b.procs[name]; p != nil {
		return p, nil
	}
	return nil, unknownProc(name)
}

// add commits logs to the batch's topics and answers their ids: one timestamp for all of them.
func (b *batch) add(logs []api.NewLog) []api.ID {
	ts := b.now
	for i := range logs {
		ts = max(ts, b.topics[logs[i].Topic].lastTS)
	}
	if fault.Planted(fault.EarlyClock) {
		ts = b.begun
	}
	ids := make([]api.ID, len(logs))
	for i := range logs {
		t := b.topics[logs[i].Topic]
		ids[i] = api.ID{TS: ts, Seq: t.head}
		b.logs.topics = append(b.logs.topics, t.id)
		b.logs.seqs = append(b.logs.seqs, t.head)
		b.logs.tss = append(b.logs.tss, ts)
		b.logs.bodies = append(b.logs.bodies, logs[i].Body)
		t.added = append(t.added, entry{ts, int64(len(logs[i].Body)), logs[i].Body})
		t.head++
		t.lastTS = ts
		b.touched[t] = struct{}{}
	}
	return ids
}

// claim hands out the next logs of p, which can be claimed; nil when there are none. count 0 is the proc's own. logs are
// what it hands out, nil where their bodies were not all read along.
func (b *batch) claim(ctx context.Context, p *procRow, count int, token string) (claim *api.Claim, logs []api.Log, err error) {
	t := b.byID[p.TopicID]
	first, most, retry := p.Window(count)
	r := p.Retry
	var entries []entry
	if retry {
		entries = b.known(t, first, int64(most))
	} else {
		n := min(int64(most), t.head-first)
		if n <= 0 {
			return nil, nil, nil
		}
		if entries, err = b.window(ctx, t, first, n); err != nil {
			return nil, nil, err
		}
		last, bytes := 0, entries[0].size
		for last+1 < len(entries) && bytes+entries[last+1].size <= api.MaxPageBytes {
			last++
			bytes += entries[last].size
		}
		entries = entries[:last+1]
		r = api.NewRange(api.ID{TS: entries[0].ts, Seq: first}, api.ID{TS: entries[last].ts, Seq: first + int64(last)})
	}
	p.Take(b.now, r, count, token)
	b.changed[p] = struct{}{}
	c := *p.Claim
	return &c, logsOf(first, entries), nil
}

// logsOf answers the logs from seq first on; nil when a body is missing, or there are none.
func logsOf(first int64, entries []entry) []api.Log {
	if len(entries) == 0 || slices.ContainsFunc(entries, func(e entry) bool { return e.body == nil }) {
		return nil
	}
	logs := make([]api.Log, len(entries))
	for i, e := range entries {
		logs[i] = api.Log{ID: api.ID{TS: e.ts, Seq: first + int64(i)}, Body: e.body}
	}
	return logs
}

// window answers the n entries of t from seq first on, all of which exist.
func (b *batch) window(ctx context.Context, t *topicRow, first, n int64) ([]entry, error) {
	var entries []entry
	if stored := min(n, t.stored-first); stored > 0 {
		w := window{windowStart{t.id, first}, stored}
		if b.entries[w.windowStart].n < stored {
			if err := b.fetch(ctx, []window{w}); err != nil {
				return nil, err
			}
		}
		got := b.entries[w.windowStart].entries
		if int64(len(got)) < stored {
			return nil, errGone
		}
		entries = got[:stored:stored]
	}
	if own := first + n - t.stored; own > 0 {
		from := max(0, first-t.stored)
		for _, e := range t.added[from:own] {
			e.body = bytes.Clone(e.body) // it may be a part of a large request
			entries = append(entries, e)
		}
	}
	return entries, nil
}

// known answers the n stored entries of t from seq first on, if they were read along; else nil.
func (b *batch) known(t *topicRow, first, n int64) []entry {
	if f := b.entries[windowStart{t.id, first}]; int64(len(f.entries)) >= n {
		return f.entries[:n]
	}
	return nil
}

// Bodies that are read along with a window: those of small claims, so that neither the locks are held for long nor much
// memory is taken; the others are read after COMMIT.
const (
	claimBodies = 256 << 10 // of one claim
	batchBodies = 4 << 20   // of all claims in a batch
)

// batchRows is how many logs the claims of one batch may look at: more would hold its locks for long.
const batchRows = 100_000

// errTooManyRows says that the requests are too much for one batch.
var errTooManyRows = errors.New("the claims of a batch look at too many logs")

// windowRows is how many logs the claims may look at.
func (b *batch) windowRows(claims map[string]ask) (rows int64) {
	for name, a := range claims {
		if p := b.procs[name]; p != nil {
			rows += max(0, min(int64(cmp.Or(a.count, p.Count)), b.byID[p.TopicID].head-p.Position))
		}
	}
	return rows
}

// queueWindows reads, in the round trip that locks, what the claims will ask for: sizes, and bodies while they are few. The
// next logs of a proc begin at its position, or after the claim that is about to be acked. Nothing is read for a proc that
// cannot be claimed. Where that is not what is asked for in the end, window reads again.
func (b *batch) queueWindows(q *pgx.Batch, claims map[string]ask) {
	if len(claims) == 0 {
		return
	}
	var names []string
	var counts []int
	var acks []bool
	for name, a := range claims {
		names, counts, acks = append(names, name), append(counts, a.count), append(acks, a.acks)
	}
	q.Queue(b.store.q(`SELECT w.i, w.topic_id, l.seq, l.ts, l.size, CASE WHEN l.size * w.count <= $4 THEN l.body END
		FROM (SELECT u.i, p.topic_id, CASE WHEN u.count > 0 THEN u.count ELSE p.count END AS count, t.head,
				CASE WHEN u.acks AND p.claim_token <> '' THEN split_part(p.last_claimed, '-', 3)::bigint + 1 ELSE p.position END AS first
			FROM unnest($1::text[], $2::int[], $3::bool[]) WITH ORDINALITY AS u (name, count, acks, i)
			JOIN ns.procs AS p ON p.name = u.name JOIN ns.topics AS t ON t.id = p.topic_id
			WHERE p.status = 'active' AND (u.acks OR p.claim_token = '' OR p.claim_expires_at <= ns.now_ms())) AS w
		CROSS JOIN LATERAL (SELECT seq, ts, body, octet_length(body)::bigint AS size FROM ns.logs
			WHERE topic_id = w.topic_id AND seq >= w.first AND seq < w.head ORDER BY seq LIMIT least(w.count, $5)) AS l
		ORDER BY w.i, l.seq`), names, counts, acks, min(claimBodies, batchBodies/len(claims)), max(1, batchRows/len(claims))).
		Query(func(rows pgx.Rows) error {
			var i, last, seq int64
			var start windowStart
			var entries []entry
			keep := func() { // procs at one place of a topic share what was read for the one that asks for most
				if len(entries) > len(b.entries[start].entries) {
					b.entries[start] = fetched{int64(len(entries)), entries}
				}
				entries = nil
			}
			var topic int64
			var e entry
			_, err := pgx.ForEachRow(rows, []any{&i, &topic, &seq, &e.ts, &e.size, &e.body}, func() error {
				if i != last {
					keep()
					last, start = i, windowStart{topic, seq}
				}
				entries = append(entries, e)
				e.body = nil
				return nil
			})
			keep()
			return err
		})
}

func (b *batch) fetch(ctx context.Context, windows []window) error {
	topics, firsts, ends := make([]int64, len(windows)), make([]int64, len(windows)), make([]int64, len(windows))
	for i, w := range windows {
		topics[i], firsts[i], ends[i] = w.topic, w.first, w.first+w.n
		b.entries[w.windowStart] = fetched{n: w.n, entries: make([]entry, 0, w.n)}
	}
	rows, err := b.conn.Query(ctx, b.store.q(`SELECT w.i, l.ts, octet_length(l.body)::bigint
		FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) WITH ORDINALITY AS w (topic, first, beyond, i)
		CROSS JOIN LATERAL (SELECT seq, ts, body FROM ns.logs
			WHERE topic_id = w.topic AND seq >= w.first AND seq < w.beyond ORDER BY seq) AS l
		ORDER BY w.i, l.seq`), topics, firsts, ends)
	if err != nil {
		return err
	}
	var i int64
	var e entry
	_, err = pgx.ForEachRow(rows, []any{&i, &e.ts, &e.size}, func() error {
		f := b.entries[windows[i-1].windowStart]
		f.entries = append(f.entries, e)
		b.entries[windows[i-1].windowStart] = f
		return nil
	})
	return err
}

// commit writes what has changed and commits, in one round trip. nil means committed; errUnknown that it could not be
// found out; everything else that nothing was.
func (b *batch) commit(ctx context.Context) error {
	if len(b.touched) == 0 && len(b.changed) == 0 {
		b.lane.rollback(ctx) // nothing to write: the locks were all
		return nil
	}
	q := &pgx.Batch{}
	if len(b.logs.seqs) > 0 {
		q.Queue(b.store.q(`INSERT INTO ns.logs (topic_id, seq, ts, body)
			SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bytea[])`),
			b.logs.topics, b.logs.seqs, b.logs.tss, b.logs.bodies)
		b.queueTopics(q)
	}
	if len(b.changed) > 0 {
		b.store.queueProcs(q, b.changedProcs())
	}
	b.queueAckAnswers(q)
	b.queueKeyAnswers(q)
	q.Queue(b.store.q(`INSERT INTO ns.lanes (server, lane, batch, written_at) VALUES ($1, $2, $3, $4)
		ON CONFLICT (server, lane) DO UPDATE SET batch = excluded.batch, written_at = excluded.written_at`),
		b.store.server, b.lane.number, b.id, b.now)
	q.Queue("COMMIT")
	if fault.Planted(fault.EarlyAnswers) {
		b.lane.late = func(ctx context.Context) { _ = b.send(ctx, q) }
		return nil
	}
	fault.Point(fault.BatchLocked)
	if err := b.send(ctx, q); err != nil {
		return err
	}
	fault.Point(fault.BatchCommitted)
	return nil
}

// send sends q, which ends with COMMIT. nil means committed; errUnknown that it could not be found out; everything else
// that nothing was.
func (b *batch) send(ctx context.Context, q *pgx.Batch) error {
	b.lane.warned = false
	sent, cancel := context.WithTimeout(ctx, b.store.patience.commit)
	defer cancel()
	results := b.conn.SendBatch(sent, q)
	fault.Point(fault.BatchSent)
	err := results.Close()
	switch {
	case err == nil && !b.lane.warned:
		return nil
	case sqlState(err) != "" && !disconnected(err): // refused
		b.lane.rollback(ctx)
		return err
	}
	if fault.Planted(fault.BlindRetry) {
		b.lane.disconnect()
		return errLost
	}
	b.places, err = b.lane.resolve(ctx, b.id)
	return err
}

// queueTopics writes the topics that have new logs.
func (b *batch) queueTopics(q *pgx.Batch) {
	var ids, heads, tss, firstTSs []int64
	for t := range b.touched {
		ids, heads, tss, firstTSs = append(ids, t.id), append(heads, t.head), append(tss, t.lastTS), append(firstTSs, t.added[0].ts)
	}
	if len(ids) <= fewRows {
		for i := range ids {
			q.Queue(b.store.q(`UPDATE ns.topics SET head = $2, last_ts = $3,
				created_at = CASE WHEN head = 0 THEN $4 ELSE created_at END WHERE id = $1`), ids[i], heads[i], tss[i], firstTSs[i])
		}
		return
	}
	q.Queue(b.store.q(`UPDATE ns.topics AS t SET head = u.head, last_ts = u.ts,
			created_at = CASE WHEN t.head = 0 THEN u.first_ts ELSE t.created_at END
		FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[]) AS u (id, head, ts, first_ts) WHERE t.id = u.id`),
		ids, heads, tss, firstTSs)
}

func (b *batch) changedProcs() []*procRow {
	procs := make([]*procRow, 0, len(b.changed))
	for p := range b.changed {
		procs = append(procs, p)
	}
	slices.SortFunc(procs, func(p, q *procRow) int { return cmp.Compare(p.ID, q.ID) })
	return procs
}

// announce tells waiters what the committed batch has changed.
func (b *batch) announce() {
	var c changes
	for t := range b.touched {
		c.topic(t.name, t.head)
	}
	for p := range b.changed {
		c.proc(p)
	}
	b.store.meters.committed(len(b.logs.seqs))
	for proc, c := range b.streamed {
		b.store.hub.keep(proc, c)
	}
	b.store.hub.publish(c)
}

// ackAnswer is what the last ackCommit of a proc answered.
type ackAnswer struct {
	token string
	body  ackAnswerBody
}

type ackAnswerBody struct {
	Acked string   `json:"acked"`
	IDs   []api.ID `json:"ids,omitempty"`
	One   bool     `json:"one,omitempty"`
}

func (b *batch) queueAckAnswers(q *pgx.Batch) {
	if len(b.ackAnswers) == 0 {
		return
	}
	var ids []int64
	var tokens []string
	var answers [][]byte
	for id, a := range b.ackAnswers {
		body, _ := json.Marshal(a.body) // strings and numbers alone
		ids, tokens, answers = append(ids, id), append(tokens, a.token), append(answers, body)
	}
	if len(ids) <= fewRows {
		for i := range ids {
			q.Queue(b.store.q(`INSERT INTO ns.ack_answers (proc_id, token, answer) VALUES ($1, $2, $3)
				ON CONFLICT (proc_id) DO UPDATE SET token = excluded.token, answer = excluded.answer`), ids[i], tokens[i], answers[i])
		}
		return
	}
	q.Queue(b.store.q(`INSERT INTO ns.ack_answers (proc_id, token, answer)
		SELECT * FROM unnest($1::bigint[], $2::text[], $3::bytea[])
		ON CONFLICT (proc_id) DO UPDATE SET token = excluded.token, answer = excluded.answer`), ids, tokens, answers)
}

// held tells which of the rows that the requests need are locked by others right now.
func (l *lane) held(ctx context.Context, requests []*request) (map[string]bool, error) {
	n := newNeeds()
	for _, r := range requests {
		r.op.needs(n)
	}
	if err := l.ensureConnected(ctx); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, lockPhase)
	defer cancel()
	held := map[string]bool{}
	for _, kind := range []struct {
		prefix, table string
		names         map[string]struct{}
	}{{"p:", "ns.procs", n.procs}, {"t:", "ns.topics", n.topics}} {
		if len(kind.names) == 0 {
			continue
		}
		rows, err := l.conn.Query(ctx, l.store.q(strings.ReplaceAll(`SELECT name FROM TABLE WHERE name = ANY($1) AND name NOT IN
			(SELECT name FROM TABLE WHERE name = ANY($1) FOR UPDATE SKIP LOCKED)`, "TABLE", kind.table)), sortedKeys(kind.names))
		if err != nil {
			return nil, err
		}
		names, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			held[kind.prefix+name] = true
		}
	}
	return held, nil
}

func sortedKeys(m map[string]struct{}) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
