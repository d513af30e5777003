package pgstore

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"pipeproc/api"
)

// Resolve implements api.Logs.
func (s *Store) Resolve(ctx context.Context, topic string, q api.RangeQuery) (run api.Run, err error) {
	err = s.readTx(ctx, func(tx pgx.Tx) error {
		run, err = s.resolve(ctx, tx, topic, q)
		return err
	})
	if q.Limit > 0 {
		run = run.First(int64(q.Limit))
	}
	return run, err
}

// ReadRun implements api.Logs. It is one statement, so that it sees the logs and what GC has left of the topic at one
// instant, and no transaction is open when it returns.
func (s *Store) ReadRun(ctx context.Context, run api.Run, size int, visit func(api.ID, []byte)) error {
	n, err := s.readRun(ctx, run, size, visit)
	if n == 0 && disconnected(err) && ctx.Err() == nil { // a connection from the pool may have been cut for a while
		s.pool.Reset()
		n, err = s.readRun(ctx, run, size, visit)
	}
	if n == 0 && err == nil {
		err = s.lost(ctx, run)
	}
	return mapError(err)
}

// readRun answers how many logs it has read: none where any of the run is gone.
func (s *Store) readRun(ctx context.Context, run api.Run, size int, visit func(api.ID, []byte)) (n int, err error) {
	order := "ASC"
	if run.Reverse {
		order = "DESC"
	}
	rows, err := s.pool.Query(ctx, s.q(`SELECT ts, seq, body FROM (
			SELECT ts, seq, body, sum(octet_length(body)) OVER (ORDER BY seq `+order+` ROWS UNBOUNDED PRECEDING) - octet_length(body) AS before
			FROM ns.logs WHERE topic_id = $1 AND seq >= $2 AND seq < $3) AS l
		WHERE before < $4 AND EXISTS (SELECT FROM ns.topics WHERE id = $1 AND first <= $2) ORDER BY seq `+order),
		run.TopicID, run.From, run.To, int64(size))
	if err != nil {
		return 0, err
	}
	var id api.ID
	var body pgtype.DriverBytes // not a copy
	_, err = pgx.ForEachRow(rows, []any{&id.TS, &id.Seq, &body}, func() error {
		visit(id, body)
		n++
		return nil
	})
	return n, err
}

// lost tells why a run cannot be read any more.
func (s *Store) lost(ctx context.Context, run api.Run) error {
	return s.readTx(ctx, func(tx pgx.Tx) error {
		var t api.TopicState
		err := tx.QueryRow(ctx, s.q("SELECT first, head, last_ts FROM ns.topics WHERE id = $1"), run.TopicID).
			Scan(&t.First, &t.Head, &t.LastTS)
		switch {
		case errors.Is(err, pgx.ErrNoRows):
			return api.Errorf(api.CodeInvalidTopic, "the topic was deleted")
		case err != nil:
			return err
		case t.First <= run.From:
			return errGone
		}
		if t.FirstID, err = s.firstID(ctx, tx, run.TopicID, t.First, t.Head); err != nil {
			return err
		}
		return t.Collected()
	})
}
