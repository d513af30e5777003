package pgstore

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"pipeproc/api"
	"pipeproc/api/fault"
)

// What the planted bugs of package fault do instead of what is right. A release holds none of it.

// halfway leaves some time between two steps of a planted bug that are to be one.
func halfway() {
	time.Sleep(2*time.Millisecond + rand.N(6*time.Millisecond)) //nolint:gosec // nothing secret, and but for tests
	fault.Point(fault.PlantedHalfway)
}

// appendLate counts the seqs on in one transaction and adds the logs in another (fault.SeqsBeforeCommit).
func (b *batch) appendLate(ctx context.Context, requests []*request) (missing []string, err error) {
	b.answers = make([]error, len(requests))
	for _, r := range requests {
		o := r.op.(*commitOp)
		t := &topicRow{name: o.logs[0].Topic}
		err := b.store.pool.QueryRow(ctx, b.store.q(`UPDATE ns.topics SET head = head + $2, last_ts = greatest(last_ts, ns.now_ms()),
				created_at = CASE WHEN head = 0 THEN ns.now_ms() ELSE created_at END
			WHERE name = $1 RETURNING id, head, last_ts`), t.name, len(o.logs)).Scan(&t.id, &t.head, &t.lastTS)
		if errors.Is(err, pgx.ErrNoRows) {
			return []string{t.name}, nil
		}
		if err != nil {
			return nil, err
		}
		b.touched[t] = struct{}{}
		o.answer = api.Committed{}
		for i := range o.logs {
			id := api.ID{TS: t.lastTS, Seq: t.head - int64(len(o.logs)-i)}
			o.answer.IDs = append(o.answer.IDs, id)
			b.logs.topics, b.logs.seqs = append(b.logs.topics, t.id), append(b.logs.seqs, id.Seq)
			b.logs.tss, b.logs.bodies = append(b.logs.tss, id.TS), append(b.logs.bodies, o.logs[i].Body)
		}
	}
	halfway()
	q := &pgx.Batch{}
	q.Queue("BEGIN ISOLATION LEVEL READ COMMITTED")
	q.Queue(b.store.q("INSERT INTO ns.logs (topic_id, seq, ts, body) SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bytea[])"),
		b.logs.topics, b.logs.seqs, b.logs.tss, b.logs.bodies)
	q.Queue("COMMIT")
	return nil, b.send(ctx, q)
}

// sendLate sends what was answered before (fault.EarlyAnswers).
func (l *lane) sendLate(ctx context.Context) {
	if l.late == nil {
		return
	}
	halfway() // the answers are on their way
	l.late(ctx)
	l.late = nil
}

// serverClock is the time by the server, a while ago (fault.EarlyClock).
func serverClock() int64 {
	now := time.Now().UnixMilli()
	halfway()
	return now
}

func severalTopics(logs []api.NewLog) bool {
	return slices.ContainsFunc(logs, func(l api.NewLog) bool { return l.Topic != logs[0].Topic })
}

// commitByTopic commits topic by topic (fault.SplitCommits).
func (s *Store) commitByTopic(ctx context.Context, logs []api.NewLog) (api.Committed, error) {
	answer := api.Committed{IDs: make([]api.ID, len(logs))}
	places := map[string][]int{}
	for i := range logs {
		places[logs[i].Topic] = append(places[logs[i].Topic], i)
	}
	for _, of := range places {
		var part []api.NewLog
		for _, i := range of {
			part = append(part, logs[i])
		}
		committed, err := s.Commit(ctx, part, nil)
		if err != nil {
			return answer, err
		}
		for j, i := range of {
			answer.IDs[i] = committed.IDs[j]
		}
		halfway()
	}
	return answer, nil
}

// ackThenCommit acks, then commits the output (fault.TornAckCommits).
func (s *Store) ackThenCommit(ctx context.Context, o *ackOp) (api.Acked, error) {
	output := o.req.Logs
	o.req.Logs = nil
	answer, err := s.ack(ctx, o)
	if err != nil || o.repeat {
		return answer, err
	}
	halfway()
	committed, err := s.Commit(ctx, output, nil)
	answer.IDs, answer.One = committed.IDs, o.one
	return answer, err
}
