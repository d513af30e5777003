package pgstore

import (
	"context"
	"encoding/json"
	"slices"

	"github.com/jackc/pgx/v5"

	"pipeproc/api"
)

// Topic implements api.Topics.
func (s *Store) Topic(ctx context.Context, name string) (api.Topic, error) {
	topics, err := s.readTopics(ctx, "t.name = $1", name)
	if err != nil {
		return api.Topic{}, err
	}
	if len(topics) == 0 {
		return api.Topic{}, unknownTopic(name)
	}
	return topics[0], nil
}

// Topics implements api.Topics.
func (s *Store) Topics(ctx context.Context, after string, limit int) (api.TopicList, error) {
	topics, err := s.readTopics(ctx, "t.name > $1 ORDER BY t.name LIMIT $2", after, limit+1)
	if err != nil {
		return api.TopicList{}, err
	}
	list := api.TopicList{Topics: topics}
	if len(topics) > limit {
		list.Topics, list.Next = topics[:limit], topics[limit-1].Name
	}
	return list, nil
}

func (s *Store) readTopics(ctx context.Context, tail string, args ...any) ([]api.Topic, error) {
	rows, err := s.pool.Query(ctx, s.q(`SELECT t.name, t.first, t.head, t.last_ts, t.created_at,
			(SELECT ts FROM ns.logs AS l WHERE l.topic_id = t.id AND l.seq = t.first AND t.first < t.head)
		FROM ns.topics AS t WHERE t.head > 0 AND `+tail), args...)
	if err != nil {
		return nil, mapError(err)
	}
	topics, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (t api.Topic, err error) {
		var first, head, lastTS int64
		var firstTS *int64
		err = row.Scan(&t.Name, &first, &head, &lastTS, &t.CreatedAt, &firstTS)
		t.Length, t.Committed = head-first, head
		if firstTS != nil {
			t.FirstID = &api.ID{TS: *firstTS, Seq: first}
			t.LastID = &api.ID{TS: lastTS, Seq: head - 1}
		}
		return t, err
	})
	return topics, mapError(err)
}

// DeleteTopic implements api.Topics. Procs of systemProcs are destroyed as well: the systemProc loses the topic, and goes
// with the last one.
func (s *Store) DeleteTopic(ctx context.Context, name string, force bool) error {
	var procs []*procRow
	err := s.writeTx(ctx, func(ctx context.Context, tx pgx.Tx) (err error) {
		if force {
			if err := s.lockSystemProcs(ctx, tx); err != nil {
				return err
			}
		}
		if procs, err = s.lockProcsOf(ctx, tx, name); err != nil {
			return err
		}
		topics, err := s.lockKnownTopics(ctx, tx, []string{name})
		if err != nil {
			return err
		}
		topic := topics[name]
		if topic == nil || topic.Head == 0 {
			return unknownTopic(name)
		}
		var now int
		if err := tx.QueryRow(ctx, s.q("SELECT count(*) FROM ns.procs WHERE topic_id = $1"), topic.id).Scan(&now); err != nil {
			return err
		}
		if now != len(procs) { // one was made before the topic was locked
			return errAgain
		}
		if err := s.inUse(ctx, tx, name, procs, force); err != nil {
			return err
		}
		if err := s.dropFromSystemProcs(ctx, tx, name, procs); err != nil {
			return err
		}
		if err := s.forgetProcs(ctx, tx, procs...); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, s.q("INSERT INTO ns.dropped_topics (id) VALUES ($1)"), topic.id); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, s.q("DELETE FROM ns.topics WHERE id = $1"), topic.id)
		return err
	})
	if err != nil {
		return err
	}
	c := changesOf(procs...)
	c.topic(name, 0)
	s.hub.publish(c)
	return s.loadJobTopics(ctx)
}

// inUse answers CodeTopicInUse where live procs exist, unless force.
func (s *Store) inUse(ctx context.Context, tx pgx.Tx, name string, procs []*procRow, force bool) error {
	var now int64
	if err := tx.QueryRow(ctx, s.q("SELECT ns.now_ms()")).Scan(&now); err != nil {
		return err
	}
	if !force && slices.ContainsFunc(procs, func(p *procRow) bool { return !p.gone(now) }) {
		return api.Errorf(api.CodeTopicInUse, "topic %q has procs; force=true destroys them", name)
	}
	return nil
}

func (s *Store) lockProcsOf(ctx context.Context, tx pgx.Tx, topic string) (procs []*procRow, err error) {
	rows, err := tx.Query(ctx, s.q("SELECT "+procColumns+` FROM ns.procs
		WHERE topic_id = (SELECT id FROM ns.topics WHERE name = $1) ORDER BY id FOR UPDATE`), topic)
	if err != nil {
		return nil, err
	}
	err = eachProc(rows, func(p *procRow) { procs = append(procs, p) })
	return procs, err
}

func (s *Store) dropFromSystemProcs(ctx context.Context, tx pgx.Tx, topic string, procs []*procRow) error {
	for _, p := range procs {
		if p.SystemProcID == 0 {
			continue
		}
		var text string
		var spec api.SystemProcSpec
		if err := tx.QueryRow(ctx, s.q("SELECT spec FROM ns.system_procs WHERE id = $1"), p.SystemProcID).Scan(&text); err != nil {
			return err
		}
		if err := json.Unmarshal([]byte(text), &spec); err != nil {
			return err
		}
		spec.From.List = slices.DeleteFunc(spec.From.List, func(name string) bool { return name == topic })
		if err := s.writeSystemProc(ctx, tx, p.SystemProcID, spec); err != nil {
			return err
		}
	}
	return nil
}
