package pgstore

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"

	"pipeproc/api"
)

// Proc implements api.Procs.
func (s *Store) Proc(ctx context.Context, name string) (api.Proc, error) {
	procs, err := s.readProcs(ctx, s.pool, "p.name = $1", name)
	if err != nil {
		return api.Proc{}, mapError(err)
	}
	if len(procs) == 0 {
		return api.Proc{}, unknownProc(name)
	}
	return procs[0].Proc, nil
}

// Procs implements api.Procs.
func (s *Store) Procs(ctx context.Context, q api.ProcQuery) (api.ProcList, error) {
	rows, err := s.readProcs(ctx, s.pool, `p.name > $1 AND ($2 = '' OR t.name = $2) AND ($3 = '' OR p.kind = $3)
		ORDER BY p.name LIMIT $4`, q.After, q.Topic, string(q.Kind), q.Limit+1)
	if err != nil {
		return api.ProcList{}, mapError(err)
	}
	list := api.ProcList{Procs: make([]api.Proc, 0, len(rows))}
	for i, p := range rows {
		if i == q.Limit {
			list.Next = rows[i-1].Name
			break
		}
		list.Procs = append(list.Procs, p.Proc)
	}
	return list, nil
}

// readProcs answers procs as of now: a time-out that is due is applied to what is answered, and an expired liveProc is
// left out. tail is a condition on p (procs) and t (topics), and what may follow it.
func (s *Store) readProcs(ctx context.Context, q querier, tail string, args ...any) ([]*procRow, error) {
	rows, err := q.Query(ctx, s.q(`SELECT p.*, t.name, t.head, ns.now_ms()
		FROM (SELECT `+procColumns+` FROM ns.procs) AS p JOIN ns.topics AS t ON t.id = p.topic_id
		WHERE (p.expires_at IS NULL OR p.expires_at > ns.now_ms()) AND `+tail), args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (*procRow, error) {
		var topic string
		var head, now int64
		p, err := scanProc(row, &topic, &head, &now)
		if err != nil {
			return nil, err
		}
		p.Topic = topic
		p.Expire(now)
		p.SetLag(head)
		return p, nil
	})
}

// newProc is a proc to be created.
type newProc struct {
	name       string
	kind       api.ProcKind
	options    api.ProcOptions
	systemProc int64
	ttl        int64 // of a liveProc; -1 never
}

// createProc makes a proc unless the name is taken, and reserves its topic.
func (s *Store) createProc(ctx context.Context, n newProc) (p *procRow, created bool, err error) {
	err = s.writeTx(ctx, func(ctx context.Context, tx pgx.Tx) error {
		topics, now, err := s.lockTopics(ctx, tx, []string{n.options.Topic})
		if err != nil {
			return err
		}
		p, created, err = s.insertProc(ctx, tx, n, topics[n.options.Topic], now)
		return err
	})
	if err == nil && created {
		s.hub.publish(changesOf(p))
	}
	return p, created, err
}

// lockTopics locks the topics' rows, and tells the time after it. Names that are unknown are missingTopicsError.
func (s *Store) lockTopics(ctx context.Context, tx pgx.Tx, names []string) (map[string]*lockedTopic, int64, error) {
	topics, err := s.lockKnownTopics(ctx, tx, names)
	if err != nil {
		return nil, 0, err
	}
	var missing []string
	for _, name := range names {
		if topics[name] == nil {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		return nil, 0, missingTopicsError(missing)
	}
	var now int64
	err = tx.QueryRow(ctx, s.q("SELECT ns.now_ms()")).Scan(&now)
	return topics, now, err
}

// lockedTopic is a topic whose row is locked.
type lockedTopic struct {
	id   int64
	name string
	api.TopicState
}

func (s *Store) lockKnownTopics(ctx context.Context, tx pgx.Tx, names []string) (map[string]*lockedTopic, error) {
	rows, err := tx.Query(ctx, s.q("SELECT id, name, first, head, last_ts FROM ns.topics WHERE name = ANY($1) ORDER BY id FOR UPDATE"), names)
	if err != nil {
		return nil, err
	}
	topics := map[string]*lockedTopic{}
	t := lockedTopic{}
	_, err = pgx.ForEachRow(rows, []any{&t.id, &t.name, &t.First, &t.Head, &t.LastTS}, func() error {
		topic := t
		topics[t.name] = &topic
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, t := range topics {
		if t.FirstID, err = s.firstID(ctx, tx, t.id, t.First, t.Head); err != nil {
			return nil, err
		}
	}
	return topics, nil
}

// firstID is the id of a topic's first retained log; nil when there is none.
func (s *Store) firstID(ctx context.Context, q querier, topic, first, head int64) (*api.ID, error) {
	if first >= head {
		return nil, nil
	}
	id := &api.ID{Seq: first}
	err := q.QueryRow(ctx, s.q("SELECT ts FROM ns.logs WHERE topic_id = $1 AND seq = $2"), topic, first).Scan(&id.TS)
	return id, err
}

// search finds places in a topic by time.
func (s *Store) search(ctx context.Context, q querier, topic int64, t api.TopicState) api.Search {
	return func(ts int64) (seq int64, err error) {
		err = q.QueryRow(ctx, s.q("SELECT ns.seq_at($1, $2, $3, $4)"), topic, t.First, t.Head, ts).Scan(&seq)
		return seq, err
	}
}

// insertProc makes a proc on a locked topic; where the name is taken, it answers the proc that is there.
func (s *Store) insertProc(ctx context.Context, tx pgx.Tx, n newProc, topic *lockedTopic, now int64) (p *procRow, created bool, err error) {
	if old, err := s.readProcs(ctx, tx, "p.name = $1", n.name); err != nil || len(old) > 0 {
		if err != nil {
			return nil, false, err
		}
		return old[0], false, nil
	}
	p = &procRow{SystemProcID: n.systemProc, TTL: n.ttl}
	n.options.Apply(&p.Proc)
	p.Name, p.Topic, p.TopicID, p.Kind, p.Status, p.CreatedAt = n.name, topic.name, topic.id, n.kind, api.StatusActive, now
	if n.kind == api.KindLive && n.ttl >= 0 {
		at := now + n.ttl
		p.ExpiresAt = &at
	}
	offset, err := api.ParseOffset(n.options.Offset)
	if err != nil {
		return nil, false, err
	}
	if p.Position, err = topic.Start(offset, now, s.search(ctx, tx, topic.id, topic.TopicState)); err != nil {
		return nil, false, err
	}
	p.SetLag(topic.Head)
	err = tx.QueryRow(ctx, s.q(`INSERT INTO ns.procs (name, topic_id, system_proc_id, kind, start_offset, created_at, status, count,
			max_reclaims, reclaim_timeout, on_max_reclaims, position, ttl, expires_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14) ON CONFLICT (name) DO NOTHING RETURNING id`),
		p.Name, p.TopicID, p.SystemProcID, string(p.Kind), p.Offset, p.CreatedAt, string(p.Status), p.Count, p.MaxReclaims, p.ReclaimTimeout,
		string(p.OnMaxReclaimsReached), p.Position, p.TTL, p.ExpiresAt).Scan(&p.ID)
	if errors.Is(err, pgx.ErrNoRows) {
		var expired bool
		err = tx.QueryRow(ctx, s.q("SELECT EXISTS (SELECT FROM ns.procs WHERE name = $1 AND expires_at <= ns.now_ms())"), n.name).Scan(&expired)
		switch {
		case err != nil:
			return nil, false, err
		case expired: // a liveProc's, until the next sweep
			return nil, false, managed(&procRow{Proc: api.Proc{Name: n.name, Kind: api.KindLive}})
		}
		return nil, false, errAgain // made by somebody else a moment ago
	}
	return p, err == nil, err
}

// CreateProc implements api.Procs.
func (s *Store) CreateProc(ctx context.Context, name string, o api.ProcOptions) (api.Proc, bool, error) {
	if old, err := s.Proc(ctx, name); err == nil { // spares a reserved topic
		return old, false, same(&old, o)
	}
	p, created, err := s.createProc(ctx, newProc{name: name, kind: api.KindProc, options: o})
	if err != nil {
		return api.Proc{}, false, err
	}
	if !created {
		return p.Proc, false, same(&p.Proc, o)
	}
	return p.Proc, true, nil
}

func same(p *api.Proc, o api.ProcOptions) error {
	if p.Kind != api.KindProc {
		return managed(&procRow{Proc: *p})
	}
	if !o.Match(p) {
		return api.Errorf(api.CodeProcOptionsDiffer, "proc %q exists with other options", p.Name)
	}
	return nil
}

// changeProc applies rule to a proc and answers it as it is then.
func (s *Store) changeProc(ctx context.Context, name string, rule func(now int64, p *procRow) error) (after api.Proc, err error) {
	err = s.submit(ctx, &procOp{name, func(b *batch, p *procRow) error {
		if err := rule(b.now, p); err != nil {
			return err
		}
		b.changed[p] = struct{}{}
		after = p.Proc
		after.SetLag(b.byID[p.TopicID].head)
		return nil
	}})
	return after, err
}

// PatchProc implements api.Procs.
func (s *Store) PatchProc(ctx context.Context, name string, patch api.ProcPatch) (api.Proc, error) {
	return s.changeProc(ctx, name, func(_ int64, p *procRow) error {
		changed := p.Proc
		patch.Apply(&changed)
		if p.Kind == api.KindSystem { // whose call is to end before its claim does
			spec, err := p.definition()
			if err == nil {
				err = spec.Processor.Validate(changed.ReclaimTimeout)
			}
			if err != nil {
				return err
			}
		}
		p.Proc = changed
		return nil
	})
}

// DisableProc implements api.Procs.
func (s *Store) DisableProc(ctx context.Context, name string) (api.Proc, error) {
	return s.changeProc(ctx, name, func(_ int64, p *procRow) error { return p.Disable() })
}

// ResumeProc implements api.Procs.
func (s *Store) ResumeProc(ctx context.Context, name string) (api.Proc, error) {
	p, err := s.changeProc(ctx, name, func(now int64, p *procRow) error { return p.Resume(now) })
	if err == nil && p.Kind == api.KindLive {
		if _, err := exec(ctx, s.pool, s.q("UPDATE ns.live_streams SET cancelled = false WHERE proc_id = $1 AND cancelled"), p.ID); err != nil {
			return p, mapError(err)
		}
	}
	return p, err
}

// lockProc locks a proc's row and applies the time-out that is due.
func (s *Store) lockProc(ctx context.Context, tx pgx.Tx, name string) (p *procRow, now int64, err error) {
	p, err = scanProc(tx.QueryRow(ctx, s.q("SELECT "+procColumns+" FROM ns.procs WHERE name = $1 FOR UPDATE"), name))
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, 0, unknownProc(name)
	}
	if err != nil {
		return nil, 0, err
	}
	var head int64
	err = tx.QueryRow(ctx, s.q("SELECT name, head, ns.now_ms() FROM ns.topics WHERE id = $1"), p.TopicID).Scan(&p.Topic, &head, &now)
	if err != nil {
		return nil, 0, err
	}
	if p.gone(now) {
		return nil, 0, unknownProc(name)
	}
	p.Expire(now)
	p.SetLag(head)
	return p, now, nil
}

// writeProc writes a locked proc.
func (s *Store) writeProc(ctx context.Context, tx pgx.Tx, procs ...*procRow) error {
	q := &pgx.Batch{}
	s.queueProcs(q, procs)
	return tx.SendBatch(ctx, q).Close()
}

// Seek implements api.Procs.
func (s *Store) Seek(ctx context.Context, name string, offset api.Offset) (api.Proc, error) {
	var p *procRow
	err := s.writeTx(ctx, func(ctx context.Context, tx pgx.Tx) (err error) {
		if p, _, err = s.lockProc(ctx, tx, name); err != nil {
			return err
		}
		topics, now, err := s.lockTopics(ctx, tx, []string{p.Topic})
		if err != nil {
			return err
		}
		topic := topics[p.Topic]
		start, err := topic.Start(offset, now, s.search(ctx, tx, topic.id, topic.TopicState))
		if err != nil {
			return err
		}
		// The proc is about to forget what its last ack was; its repeats are still to be answered.
		if p.AckToken != "" {
			if _, err := tx.Exec(ctx, s.q(`INSERT INTO ns.ack_answers AS a (proc_id, token, answer)
				VALUES ($1, $2, convert_to(json_build_object('acked', $3::text)::text, 'UTF8'))
				ON CONFLICT (proc_id) DO UPDATE SET token = excluded.token, answer = excluded.answer
				WHERE a.token <> excluded.token`), p.ID, p.AckToken, p.LastAckedRange.Acked()); err != nil {
				return err
			}
		}
		if err := p.SeekTo(start); err != nil {
			return err
		}
		p.SetLag(topic.Head)
		return s.writeProc(ctx, tx, p)
	})
	if err != nil {
		return api.Proc{}, err
	}
	s.hub.publish(changesOf(p))
	return p.Proc, nil
}

// DestroyProc implements api.Procs.
func (s *Store) DestroyProc(ctx context.Context, name string) (api.Proc, error) {
	return s.destroy(ctx, name, func(p *procRow) error {
		if p.Kind != api.KindProc {
			return managed(p)
		}
		return nil
	})
}

// destroy forgets a proc that allowed accepts.
func (s *Store) destroy(ctx context.Context, name string, allowed func(*procRow) error) (api.Proc, error) {
	var p *procRow
	err := s.writeTx(ctx, func(ctx context.Context, tx pgx.Tx) (err error) {
		if p, _, err = s.lockProc(ctx, tx, name); err != nil {
			return err
		}
		if err := allowed(p); err != nil {
			return err
		}
		return s.forgetProcs(ctx, tx, p)
	})
	if err != nil {
		return api.Proc{}, err
	}
	s.hub.publish(changesOf(p))
	return p.Proc, nil
}

// forgetProcs removes locked procs and what stands beside them; a topic that was only reserved goes with its last one.
func (s *Store) forgetProcs(ctx context.Context, tx pgx.Tx, procs ...*procRow) error {
	var ids, topics []int64
	for _, p := range procs {
		ids, topics = append(ids, p.ID), append(topics, p.TopicID)
	}
	if _, err := tx.Exec(ctx, s.q("SELECT FROM ns.topics WHERE id = ANY($1) ORDER BY id FOR UPDATE"), topics); err != nil {
		return err
	}
	q := &pgx.Batch{}
	q.Queue(s.q("DELETE FROM ns.procs WHERE id = ANY($1)"), ids)
	q.Queue(s.q("DELETE FROM ns.ack_answers WHERE proc_id = ANY($1)"), ids)
	q.Queue(s.q("DELETE FROM ns.live_streams WHERE proc_id = ANY($1)"), ids)
	q.Queue(s.q(`DELETE FROM ns.topics AS t WHERE id = ANY($1) AND head = 0
		AND NOT EXISTS (SELECT FROM ns.procs WHERE topic_id = t.id)`), topics)
	return tx.SendBatch(ctx, q).Close()
}

// changesOf is the wake-up for changed procs.
func changesOf(procs ...*procRow) changes {
	var c changes
	for _, p := range procs {
		c.proc(p)
	}
	return c
}
