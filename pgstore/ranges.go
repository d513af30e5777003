package pgstore

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"

	"pipeproc/api"
)

// topicState reads a topic that has had a commit; CodeInvalidTopic when there is none of that name.
func (s *Store) topicState(ctx context.Context, q querier, name string) (id int64, t api.TopicState, err error) {
	err = q.QueryRow(ctx, s.q("SELECT id, first, head, last_ts FROM ns.topics WHERE name = $1 AND head > 0"), name).
		Scan(&id, &t.First, &t.Head, &t.LastTS)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, t, unknownTopic(name)
	}
	if err == nil && t.First > 0 {
		t.FirstID, err = s.firstID(ctx, q, id, t.First, t.Head)
	}
	return id, t, err
}

// resolve finds the run of logs that a range means.
func (s *Store) resolve(ctx context.Context, tx querier, topic string, q api.RangeQuery) (api.Run, error) {
	low, high := q.Start, q.End
	if q.Reverse {
		low, high = high, low
	}
	id, t, err := s.topicState(ctx, tx, topic)
	if err != nil {
		return api.Run{}, err
	}
	from, to, err := t.Resolve(low, high, q.Exclusive, s.search(ctx, tx, id, t))
	return api.Run{TopicID: id, From: from, To: to, Reverse: q.Reverse}, err
}

// Range implements api.Logs.
func (s *Store) Range(ctx context.Context, topic string, q api.RangeQuery) (page api.Page, err error) {
	err = s.readTx(ctx, func(tx pgx.Tx) error {
		run, err := s.resolve(ctx, tx, topic, q)
		if err != nil {
			return err
		}
		page, err = s.page(ctx, tx, run, q)
		return err
	})
	return page, err
}

// page reads the first page of a run.
func (s *Store) page(ctx context.Context, q querier, run api.Run, query api.RangeQuery) (api.Page, error) {
	page := api.Page{Logs: []api.Log{}}
	if run.Len() == 0 {
		return page, nil
	}
	first := run.First(int64(query.Limit))
	logs, err := s.readLogs(ctx, q, run.TopicID, first.From, first.To, run.Reverse, api.MaxPageBytes)
	if err != nil {
		return page, err
	}
	if len(logs) == 0 {
		return page, errGone
	}
	page.Logs = logs
	last := logs[len(logs)-1].ID
	left := run.After(last.Seq)
	switch {
	case left.Len() == 0:
	case query.Exclusive:
		page.Next = &last
	default:
		next := api.ID{Seq: left.From}
		if run.Reverse {
			next.Seq = left.To - 1
		}
		err = q.QueryRow(ctx, s.q("SELECT ts FROM ns.logs WHERE topic_id = $1 AND seq = $2"), run.TopicID, next.Seq).Scan(&next.TS)
		page.Next = &next
	}
	return page, err
}

// readLogs reads the seqs [from, to), in reverse if asked, until size bytes of bodies, with at least one log.
func (s *Store) readLogs(ctx context.Context, q querier, topic, from, to int64, reverse bool, size int) ([]api.Log, error) {
	order := "ASC"
	if reverse {
		order = "DESC"
	}
	// The sum stops before the log that would exceed the limit, so that no more than a page ever leaves PostgreSQL.
	rows, err := q.Query(ctx, s.q(`SELECT ts, seq, body FROM (
			SELECT ts, seq, body, sum(octet_length(body)) OVER w AS bytes, row_number() OVER w AS n
			FROM ns.logs WHERE topic_id = $1 AND seq >= $2 AND seq < $3 WINDOW w AS (ORDER BY seq `+order+` ROWS UNBOUNDED PRECEDING)) AS l
		WHERE bytes <= $4 OR n = 1 ORDER BY seq `+order), topic, from, to, int64(size))
	if err != nil {
		return nil, err
	}
	return collectLogs(rows, int(min(to-from, api.DefaultPageLogs)))
}

// collectLogs reads ts, seq and body of about n logs.
func collectLogs(rows pgx.Rows, n int) ([]api.Log, error) {
	logs := make([]api.Log, 0, n)
	var l api.Log
	var body []byte
	_, err := pgx.ForEachRow(rows, []any{&l.ID.TS, &l.ID.Seq, &body}, func() error {
		l.Body, body = body, nil
		logs = append(logs, l)
		return nil
	})
	return logs, err
}

// Log implements api.Logs.
func (s *Store) Log(ctx context.Context, topic string, at api.Bound) (l api.Log, err error) {
	err = s.readTx(ctx, func(tx pgx.Tx) error {
		id, t, err := s.topicState(ctx, tx, topic)
		if err != nil {
			return err
		}
		if at.Form == api.BoundID || at.ID.Seq < t.Head {
			if _, _, err := t.Resolve(at, at, false, s.search(ctx, tx, id, t)); err != nil {
				return err
			}
		}
		err = tx.QueryRow(ctx, s.q("SELECT ts, seq, body FROM ns.logs WHERE topic_id = $1 AND seq = $2 AND seq >= $3"),
			id, at.ID.Seq, t.First).Scan(&l.ID.TS, &l.ID.Seq, &l.Body)
		if errors.Is(err, pgx.ErrNoRows) || err == nil && at.Form == api.BoundID && l.ID != at.ID {
			return api.Errorf(api.CodeLogNotFound, "topic %q has no such log", topic)
		}
		return err
	})
	if err != nil {
		return api.Log{}, err
	}
	return l, nil
}

// Place implements api.Tailer.
func (s *Store) Place(ctx context.Context, topic string, earliest bool, at api.Bound) (place api.Place, err error) {
	err = s.readTx(ctx, func(tx pgx.Tx) error {
		id, t, err := s.topicState(ctx, tx, topic)
		if err != nil {
			return err
		}
		place = api.Place{TopicID: s.tailID(id), Seq: t.Head}
		switch {
		case earliest:
			place.Seq = t.First
		case at.Form != api.BoundNone:
			place.Seq, _, err = t.Resolve(at, api.Bound{}, false, s.search(ctx, tx, id, t))
		}
		return err
	})
	if at.Form == api.BoundNone && api.CodeOf(err) == api.CodeInvalidTopic {
		return api.Place{}, nil
	}
	return place, err
}

// Heads implements api.Tailer.
func (s *Store) Heads(ctx context.Context, topics []string) (map[string]api.TopicHead, error) {
	rows, err := s.pool.Query(ctx, s.q("SELECT name, id, first, head FROM ns.topics WHERE name = ANY($1) AND head > 0"), topics)
	if err != nil {
		return nil, mapError(err)
	}
	heads := map[string]api.TopicHead{}
	var name string
	var h api.TopicHead
	_, err = pgx.ForEachRow(rows, []any{&name, &h.ID, &h.First, &h.Head}, func() error {
		h.ID = s.tailID(h.ID)
		heads[name] = h
		return nil
	})
	return heads, mapError(err)
}

// ReadFrom implements api.Tailer.
func (s *Store) ReadFrom(ctx context.Context, topicID, seq int64, limit, size int) (logs []api.Log, first int64, exists bool, err error) {
	topicID, ok := s.ownTopic(topicID)
	if !ok {
		return nil, 0, false, nil
	}
	err = s.readTx(ctx, func(tx pgx.Tx) error {
		var head int64
		err := tx.QueryRow(ctx, s.q("SELECT first, head FROM ns.topics WHERE id = $1"), topicID).Scan(&first, &head)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		if err != nil {
			return err
		}
		exists = true
		from := max(seq, first)
		if from >= head {
			return nil
		}
		logs, err = s.readLogs(ctx, tx, topicID, from, min(head, from+int64(limit)), false, size)
		return err
	})
	return logs, first, exists, err
}
