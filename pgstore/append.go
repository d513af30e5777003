package pgstore

import (
	"context"
	"errors"
	"slices"

	"github.com/jackc/pgx/v5"

	"pipeproc/api"
	"pipeproc/api/fault"
)

// appendable reports whether the requests do nothing but add logs, each of them to one topic. There is nothing to decide
// on locked rows then: PostgreSQL gives the ids itself, and one round trip does.
func appendable(requests []*request) bool {
	for _, r := range requests {
		o, ok := r.op.(*commitOp)
		if !ok || o.key != nil || len(o.logs) == 0 {
			return false
		}
		for i := range o.logs[1:] {
			if o.logs[i+1].Topic != o.logs[0].Topic {
				return false
			}
		}
	}
	return true
}

// appendLogs carries out requests that are appendable: it locks, writes and commits in one round trip. missing are topics
// that may have to be made first; nothing was added then. Its errors are send's.
func (b *batch) appendLogs(ctx context.Context, requests []*request) (missing []string, err error) {
	var topics []*topicRow // head: how many logs each of them gets, then where they end
	known := map[string]int32{}
	n := 0
	for _, r := range requests {
		n += len(r.op.(*commitOp).logs)
	}
	ordinals := make([]int32, 0, n)
	b.logs.seqs, b.logs.bodies = make([]int64, 0, n), make([][]byte, 0, n)
	for _, r := range requests {
		logs := r.op.(*commitOp).logs
		i, ok := known[logs[0].Topic]
		if !ok {
			i = int32(len(topics)) //nolint:gosec // a batch has fewer topics
			known[logs[0].Topic] = i
			topics = append(topics, &topicRow{name: logs[0].Topic})
		}
		for j := range logs {
			ordinals = append(ordinals, i)
			b.logs.seqs = append(b.logs.seqs, topics[i].head)
			b.logs.bodies = append(b.logs.bodies, logs[j].Body)
			topics[i].head++
		}
	}
	q := &pgx.Batch{}
	q.Queue("BEGIN ISOLATION LEVEL READ COMMITTED")
	var places []int64
	if len(topics) == 1 {
		b.queueAppend(q, topics[0], &places)
	} else {
		b.queueAppends(q, topics, ordinals, &places)
	}
	q.Queue("COMMIT")
	fault.Point(fault.AppendBegins)
	err = b.send(ctx, q)
	if places == nil { // the answer was lost with the connection
		places = b.places
	}
	if err == nil && places == nil || sqlState(err) == stateNotNull {
		for _, t := range topics {
			missing = append(missing, t.name)
		}
		slices.Sort(missing)
		return missing, nil
	}
	if err != nil {
		return nil, err
	}
	fault.Point(fault.AppendCommitted)
	for i, t := range topics {
		t.id, t.stored, t.lastTS = places[i], places[i+len(topics)], places[i+2*len(topics)]
		t.head += t.stored
		b.touched[t] = struct{}{}
	}
	b.answers = make([]error, len(requests))
	n = 0
	for _, r := range requests {
		o := r.op.(*commitOp)
		ids := make([]api.ID, len(o.logs))
		for i := range ids {
			t := topics[ordinals[n]]
			ids[i] = api.ID{TS: t.lastTS, Seq: t.stored + b.logs.seqs[n]}
			n++
		}
		o.answer = api.Committed{IDs: ids}
	}
	return nil, nil
}

// queueAppend adds the logs to one topic, and sets places, as they are kept with the batch. Where it is missing nothing is
// added. The row is locked first: an UPDATE that waits for its row has read the clock before.
func (b *batch) queueAppend(q *pgx.Batch, t *topicRow, places *[]int64) {
	q.Queue(b.store.q("SELECT FROM ns.topics WHERE name = $1 FOR UPDATE"), t.name)
	q.Queue(b.store.q(`WITH t AS (
			UPDATE ns.topics SET head = head + cardinality($2::bytea[]), last_ts = greatest(last_ts, now),
				created_at = CASE WHEN head = 0 THEN greatest(last_ts, now) ELSE created_at END
			FROM (SELECT ns.now_ms() AS now OFFSET 0) AS clock
			WHERE name = $1 RETURNING id, head - cardinality($2::bytea[]) AS first, last_ts AS ts
		), l AS (
			INSERT INTO ns.logs (topic_id, seq, ts, body)
			SELECT t.id, t.first + u.i - 1, t.ts, u.body FROM t, unnest($2::bytea[]) WITH ORDINALITY AS u (body, i)
		), w AS (
			INSERT INTO ns.lanes (server, lane, batch, written_at, places)
			SELECT $3, $4, $5, ns.now_ms(), ARRAY[id, first, ts] FROM t
			ON CONFLICT (server, lane) DO UPDATE
			SET batch = excluded.batch, written_at = excluded.written_at, places = excluded.places
		) SELECT ARRAY[id, first, ts] FROM t`), t.name, b.logs.bodies, b.store.server, b.lane.number, b.id).
		QueryRow(func(row pgx.Row) error {
			if err := row.Scan(places); !errors.Is(err, pgx.ErrNoRows) {
				return err
			}
			return nil
		})
}

// queueAppends adds the logs to several topics, each to that of its ordinal, and sets places, as they are kept with the
// batch. Where one is missing the arrays of those that are there are too short for the last one's logs, and the transaction
// fails with stateNotNull.
func (b *batch) queueAppends(q *pgx.Batch, topics []*topicRow, ordinals []int32, places *[]int64) {
	names, counts := make([]string, len(topics)), make([]int64, len(topics))
	for i, t := range topics {
		names[i], counts[i] = t.name, t.head
	}
	q.Queue(b.store.q("SELECT FROM ns.topics WHERE name = ANY($1) ORDER BY id FOR UPDATE"), names)
	q.Queue(b.store.q(`WITH t AS (
			UPDATE ns.topics AS t SET head = t.head + u.n, last_ts = greatest(t.last_ts, now),
				created_at = CASE WHEN t.head = 0 THEN greatest(t.last_ts, now) ELSE t.created_at END
			FROM (SELECT ns.now_ms() AS now OFFSET 0) AS clock,
				unnest($1::text[], $2::bigint[]) WITH ORDINALITY AS u (name, n, i)
			WHERE t.name = u.name RETURNING u.i, t.id, t.head - u.n AS first, t.last_ts AS ts
		), a AS (
			SELECT array_agg(id) AS ids, array_agg(first) AS firsts, array_agg(ts) AS tss
			FROM (SELECT id, first, ts FROM t ORDER BY i) AS t
		), l AS (
			INSERT INTO ns.logs (topic_id, seq, ts, body)
			SELECT a.ids[u.t + 1], a.firsts[u.t + 1] + u.n, a.tss[u.t + 1], u.body
			FROM a, unnest($3::int[], $4::bigint[], $5::bytea[]) AS u (t, n, body)
		), w AS (
			INSERT INTO ns.lanes (server, lane, batch, written_at, places)
			SELECT $6, $7, $8, ns.now_ms(), ids || firsts || tss FROM a
			ON CONFLICT (server, lane) DO UPDATE
			SET batch = excluded.batch, written_at = excluded.written_at, places = excluded.places
		) SELECT ids || firsts || tss FROM a`),
		names, counts, ordinals, b.logs.seqs, b.logs.bodies, b.store.server, b.lane.number, b.id).
		QueryRow(func(row pgx.Row) error { return row.Scan(places) })
}
