package pgstore

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"math"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"pipeproc/api"
	"pipeproc/api/fault"
)

// removeBatch is how many logs one transaction removes from the table.
const removeBatch = 10_000

// Collect implements api.Collector. A topic's logs are given up under its lock, by moving its first retained seq in a
// short transaction; their rows are removed afterwards, in bounded batches that no commit waits for, with as long a rest
// after each.
func (s *Store) Collect(ctx context.Context, minPruneTime int64) (_ api.GCRun, err error) {
	defer s.meters.ran(time.Now(), &err)
	run := api.GCRun{Topics: []api.Collected{}}
	rows, err := s.pool.Query(ctx, s.q("SELECT id FROM ns.topics WHERE head > 0 ORDER BY name"))
	if err != nil {
		return run, mapError(err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		return run, mapError(err)
	}
	var locked error
	for _, id := range ids {
		row, err := s.collectTopic(ctx, id, minPruneTime)
		if api.CodeOf(err) == api.CodeOverloaded { // an outsider holds this one: the others go on
			locked = err
			continue
		}
		if err != nil {
			return run, err
		}
		if row != nil {
			if row.Collected > 0 {
				fault.Point(fault.CollectFloorMoved)
			}
			run.Topics = append(run.Topics, *row)
			s.meters.collected.Add(float64(row.Collected))
		}
		if err := ctx.Err(); err != nil {
			return run, err
		}
	}
	if err := cmp.Or(s.removeRows(ctx, func() bool { return false }), locked); err != nil {
		return run, err
	}
	topics, err := json.Marshal(run.Topics)
	if err != nil {
		return run, err
	}
	_, err = exec(ctx, s.pool, s.q(`INSERT INTO ns.gc_runs (finished_at, topics) VALUES (ns.now_ms(), $1)
		ON CONFLICT (id) DO UPDATE SET finished_at = excluded.finished_at, topics = excluded.topics`), string(topics))
	return run, mapError(err)
}

// collectTopic gives up the logs of one topic that GC may take; nil when the topic is gone.
func (s *Store) collectTopic(ctx context.Context, id, minPruneTime int64) (row *api.Collected, err error) {
	err = s.writeTx(ctx, func(ctx context.Context, tx pgx.Tx) error {
		row = nil
		t := lockedTopic{id: id}
		var now int64
		err := tx.QueryRow(ctx, s.q("SELECT name, first, head, last_ts FROM ns.topics WHERE id = $1 FOR UPDATE"), id).
			Scan(&t.name, &t.First, &t.Head, &t.LastTS)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		if err == nil {
			err = tx.QueryRow(ctx, s.q("SELECT ns.now_ms()")).Scan(&now)
		}
		if err != nil {
			return err
		}
		first, err := s.search(ctx, tx, id, t.TopicState)(max(now-minPruneTime+1, math.MinInt64))
		if err != nil {
			return err
		}
		floor, err := s.floor(ctx, tx, id, now)
		if err != nil {
			return err
		}
		first = max(t.First, min(first, floor))
		row = &api.Collected{Topic: t.name, Collected: first - t.First}
		if row.FirstID, err = s.firstID(ctx, tx, id, first, t.Head); err != nil || first == t.First {
			return err
		}
		_, err = tx.Exec(ctx, s.q("UPDATE ns.topics SET first = $2 WHERE id = $1"), id, first)
		return err
	})
	return row, err
}

// floor is the first seq that the procs of a locked topic keep. A proc that is being created waits for the topic's lock,
// so none is missed. Expired liveProcs keep nothing, once their rows are locked: an ack or a stream that came in time, but
// has not committed yet, still prolongs the life of one that looks expired. Nothing waits for such a lock, so the lock
// order is kept.
func (s *Store) floor(ctx context.Context, tx pgx.Tx, topic, now int64) (int64, error) {
	locked, err := tx.Query(ctx, s.q("SELECT id FROM ns.procs WHERE topic_id = $1 AND expires_at <= $2 FOR UPDATE SKIP LOCKED"), topic, now)
	if err != nil {
		return 0, err
	}
	expired, err := pgx.CollectRows(locked, pgx.RowTo[int64])
	if err != nil {
		return 0, err
	}
	rows, err := tx.Query(ctx, s.q("SELECT "+procColumns+" FROM ns.procs WHERE topic_id = $1"), topic)
	if err != nil {
		return 0, err
	}
	floor := int64(math.MaxInt64)
	err = eachProc(rows, func(p *procRow) {
		if fault.Planted(fault.ForgottenProcs) && (p.LastClaimedAt == nil || p.Status == api.StatusDisabled) {
			return
		}
		if !slices.Contains(expired, p.ID) {
			p.Expire(now)
			floor = min(floor, p.Floor())
		}
	})
	return floor, err
}

// removeRows removes the rows of logs that were given up, and those of deleted topics. It passes over topics that an
// outsider holds, leaves to another server what that one is at, and leaves the rest to the next time once enough says so.
func (s *Store) removeRows(ctx context.Context, enough func() bool) error {
	after := int64(0)
	for {
		if enough() {
			return nil
		}
		var id, from, to int64
		err := s.pool.QueryRow(ctx, s.q("SELECT id, removed, first FROM ns.topics WHERE removed < first AND id > $1 ORDER BY id LIMIT 1"), after).
			Scan(&id, &from, &to)
		if errors.Is(err, pgx.ErrNoRows) {
			break
		}
		if err != nil {
			return mapError(err)
		}
		to = min(to, from+removeBatch)
		begun := time.Now()
		if _, err := exec(ctx, s.pool, s.q("DELETE FROM ns.logs WHERE topic_id = $1 AND seq >= $2 AND seq < $3"), id, from, to); err != nil {
			return mapError(err)
		}
		fault.Point(fault.CollectRowsRemoved)
		err = s.writeTx(ctx, func(ctx context.Context, tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, "SET LOCAL lock_timeout = '100ms'"); err != nil {
				return err
			}
			// Two servers may do this at once: the greater mark stays, and neither passes rows that are still there.
			_, err := tx.Exec(ctx, s.q("UPDATE ns.topics SET removed = greatest(removed, $2) WHERE id = $1"), id, to)
			return err
		})
		switch {
		case api.CodeOf(err) == api.CodeOverloaded:
			after = id
		case err != nil:
			return err
		}
		fault.Point(fault.CollectBatchDone)
		rest(ctx, time.Since(begun))
	}
	after = 0
	for {
		if enough() {
			return nil
		}
		var id int64
		err := s.pool.QueryRow(ctx, s.q("SELECT id FROM ns.dropped_topics WHERE id > $1 ORDER BY id LIMIT 1"), after).Scan(&id)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		if err != nil {
			return mapError(err)
		}
		begun := time.Now()
		// An array is made once, where IN may be joined: of a topic that PostgreSQL's statistics do not know yet it would
		// look for the rows anew for each of them.
		tag, err := exec(ctx, s.pool, s.q(`DELETE FROM ns.logs WHERE ctid = ANY (ARRAY(
			SELECT ctid FROM ns.logs WHERE topic_id = $1 ORDER BY seq LIMIT $2 FOR UPDATE SKIP LOCKED))`), id, removeBatch)
		if err != nil {
			return mapError(err)
		}
		if tag.RowsAffected() > 0 {
			rest(ctx, time.Since(begun))
			continue
		}
		// Another server may be at the last of them: who finds none left forgets the topic.
		if _, err := exec(ctx, s.pool, s.q(`DELETE FROM ns.dropped_topics WHERE id = $1
			AND NOT EXISTS (SELECT FROM ns.logs WHERE topic_id = $1)`), id); err != nil {
			return mapError(err)
		}
		after = id
	}
}

// rest leaves the database to others for as long as the last batch took of it, at most a second.
func rest(ctx context.Context, took time.Duration) {
	timer := time.NewTimer(min(took, time.Second))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// LastCollect implements api.Collector.
func (s *Store) LastCollect(ctx context.Context) (api.GCRun, error) {
	run := api.GCRun{Topics: []api.Collected{}}
	var topics string
	err := s.pool.QueryRow(ctx, s.q("SELECT finished_at, topics FROM ns.gc_runs")).Scan(&run.FinishedAt, &topics)
	if errors.Is(err, pgx.ErrNoRows) {
		return run, nil
	}
	if err != nil {
		return run, mapError(err)
	}
	return run, json.Unmarshal([]byte(topics), &run.Topics)
}

// sweepBatch is how many procs one transaction of the sweep touches.
const sweepBatch = 500

// Sweep implements api.Collector.
func (s *Store) Sweep(ctx context.Context) error {
	var failed []error // a step that is blocked does not hold up the others
	for _, step := range []func(context.Context) error{s.sweepTimeouts, s.sweepLiveProcs, s.sweepReserved, s.sweepKeys, s.removeSomeRows} {
		if err := ctx.Err(); err != nil {
			return err
		}
		failed = append(failed, step(ctx))
	}
	return errors.Join(failed...)
}

// removeTime is how long a sweep removes rows: the time-outs of the next one must not wait for a large topic to go.
const removeTime = time.Second

func (s *Store) removeSomeRows(ctx context.Context) error {
	end := time.Now().Add(removeTime)
	return s.removeRows(ctx, func() bool { return time.Now().After(end) })
}

// sweepTimeouts applies the time-outs that are due.
func (s *Store) sweepTimeouts(ctx context.Context) error {
	return s.sweepProcs(ctx, "status = 'active' AND claim_token <> '' AND claim_expires_at <= ns.now_ms()",
		func(ctx context.Context, tx pgx.Tx, now int64, procs []*procRow) error {
			for _, p := range procs {
				p.Expire(now)
			}
			return s.writeProc(ctx, tx, procs...)
		})
}

// sweepLiveProcs forgets expired liveProcs. One that has a stream stays for one more sweep, so that the stream can tell
// its client why it ends.
func (s *Store) sweepLiveProcs(ctx context.Context) error {
	return s.sweepProcs(ctx, "expires_at <= ns.now_ms()",
		func(ctx context.Context, tx pgx.Tx, _ int64, procs []*procRow) error {
			ids := make([]int64, len(procs))
			for i, p := range procs {
				ids[i] = p.ID
			}
			rows, err := tx.Query(ctx, s.q(`UPDATE ns.live_streams SET instance = '' WHERE proc_id = ANY($1) AND instance <> ''
				RETURNING proc_id`), ids)
			if err != nil {
				return err
			}
			streamed, err := pgx.CollectRows(rows, pgx.RowTo[int64])
			if err != nil {
				return err
			}
			return s.forgetProcs(ctx, tx, slices.DeleteFunc(slices.Clone(procs), func(p *procRow) bool {
				return slices.Contains(streamed, p.ID)
			})...)
		})
}

// sweepProcs runs f on the procs that meet condition, in batches, passing over those that somebody has locked: whoever
// it is applies what is due himself, or the next sweep does.
func (s *Store) sweepProcs(ctx context.Context, condition string, f func(ctx context.Context, tx pgx.Tx, now int64, procs []*procRow) error) error {
	for {
		var procs []*procRow
		err := s.writeTx(ctx, func(ctx context.Context, tx pgx.Tx) error {
			procs = nil
			rows, err := tx.Query(ctx, s.q("SELECT "+procColumns+" FROM ns.procs WHERE "+condition+` ORDER BY id LIMIT $1
				FOR UPDATE SKIP LOCKED`), sweepBatch)
			if err != nil {
				return err
			}
			if err := eachProc(rows, func(p *procRow) { procs = append(procs, p) }); err != nil || len(procs) == 0 {
				return err
			}
			var now int64
			if err := tx.QueryRow(ctx, s.q("SELECT ns.now_ms()")).Scan(&now); err != nil {
				return err
			}
			return f(ctx, tx, now, procs)
		})
		if err != nil {
			return err
		}
		if len(procs) == 0 {
			return nil
		}
		s.hub.publish(changesOf(procs...))
		if len(procs) < sweepBatch {
			return nil
		}
	}
}

// sweepReserved removes names that were reserved for a commit which then was refused. It locks them before it looks for
// procs: one that was being created has come to its end then.
func (s *Store) sweepReserved(ctx context.Context) error {
	return s.writeTx(ctx, func(ctx context.Context, tx pgx.Tx) error {
		rows, err := tx.Query(ctx, s.q(`SELECT id FROM ns.topics AS t WHERE head = 0
			AND NOT EXISTS (SELECT FROM ns.procs WHERE topic_id = t.id) ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED`), sweepBatch)
		if err != nil {
			return err
		}
		ids, err := pgx.CollectRows(rows, pgx.RowTo[int64])
		if err != nil || len(ids) == 0 {
			return err
		}
		_, err = tx.Exec(ctx, s.q(`DELETE FROM ns.topics AS t WHERE id = ANY($1)
			AND NOT EXISTS (SELECT FROM ns.procs WHERE topic_id = t.id)`), ids)
		return err
	})
}

// sweepKeys removes idempotency keys that are no longer known, and lanes of servers long gone.
func (s *Store) sweepKeys(ctx context.Context) error {
	const laneLife = 7 * 24 * time.Hour
	for {
		tag, err := exec(ctx, s.pool, s.q(`DELETE FROM ns.idempotency_keys WHERE ctid = ANY (ARRAY(
			SELECT ctid FROM ns.idempotency_keys WHERE created_at < (SELECT ns.now_ms()) - $1
			ORDER BY created_at LIMIT $2 FOR UPDATE SKIP LOCKED))`), int64(keyLife), removeBatch)
		if err != nil {
			return mapError(err)
		}
		if tag.RowsAffected() < removeBatch {
			break
		}
	}
	_, err := exec(ctx, s.pool, s.q("DELETE FROM ns.lanes WHERE written_at < ns.now_ms() - $1"), laneLife.Milliseconds())
	return mapError(err)
}

// Ready implements api.Health.
func (s *Store) Ready(ctx context.Context) error {
	latest, err := latestMigration(s.cfg.steps)
	if err != nil {
		return err
	}
	version, dirty, err := s.schemaVersion(ctx, s.pool)
	if err != nil {
		return unavailable(err)
	}
	fits := version >= latest && !dirty
	if version > latest {
		oldest, err := s.oldest(ctx, s.pool)
		if err != nil {
			return unavailable(err)
		}
		fits = fits && oldest <= latest
	}
	if !fits {
		e := api.Errorf(api.CodeUnavailable, "the database's schema is not this program's")
		e.RetryAfter = time.Second
		return e
	}
	return nil
}
