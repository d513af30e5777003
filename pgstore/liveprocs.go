package pgstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"pipeproc/api"
	"pipeproc/api/fault"
)

// CreateLiveProc implements api.LiveProcs.
func (s *Store) CreateLiveProc(ctx context.Context, spec api.LiveProcSpec) (api.Proc, error) {
	options := api.ProcOptions{Topic: spec.Topic, Count: spec.Count, OnMaxReclaimsReached: api.OnMaxContinue}
	if spec.Mode == api.ModeLive {
		options.Offset = "$>"
	}
	ttl := int64(api.DefaultLiveTTL)
	if spec.TTL != nil {
		ttl = *spec.TTL
	}
	p, _, err := s.createProc(ctx, newProc{name: liveProcPrefix + newUUID(), kind: api.KindLive, options: options, ttl: ttl})
	if err != nil {
		return api.Proc{}, err
	}
	return p.Proc, nil
}

// liveProcPrefix begins the names of liveProcs, and may begin others.
const liveProcPrefix = "liveproc-"

// streamRow is a row of live_streams.
type streamRow struct {
	connections int64
	connection  int64
	instance    string // "" while no stream is open
	openUntil   int64
	cancelled   bool // why it is disabled; means nothing once it was resumed
}

// open reports whether a stream holds the liveProc at the time now.
func (r *streamRow) open(now int64) bool { return r.instance != "" && r.openUntil > now }

func (s *Store) readStream(ctx context.Context, q querier, proc int64) (r streamRow, err error) {
	err = q.QueryRow(ctx, s.q("SELECT connections, connection, instance, open_until, cancelled FROM ns.live_streams WHERE proc_id = $1"), proc).
		Scan(&r.connections, &r.connection, &r.instance, &r.openUntil, &r.cancelled)
	if errors.Is(err, pgx.ErrNoRows) {
		return streamRow{}, nil
	}
	return r, err
}

// writeStream writes the stream of a liveProc whose row is locked.
func (s *Store) writeStream(ctx context.Context, tx pgx.Tx, proc int64, r streamRow) error {
	_, err := tx.Exec(ctx, s.q(`INSERT INTO ns.live_streams (proc_id, connections, connection, instance, open_until, cancelled)
		VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (proc_id) DO UPDATE SET connections = excluded.connections,
			connection = excluded.connection, instance = excluded.instance, open_until = excluded.open_until,
			cancelled = excluded.cancelled`), proc, r.connections, r.connection, r.instance, r.openUntil, r.cancelled)
	return err
}

// onLiveProc runs f with a liveProc and its stream locked, and writes both.
func (s *Store) onLiveProc(ctx context.Context, name string, f func(now int64, p *procRow, r *streamRow) error) (*procRow, error) {
	var p *procRow
	err := s.writeTx(ctx, func(ctx context.Context, tx pgx.Tx) error {
		var now int64
		var err error
		if p, now, err = s.lockProc(ctx, tx, name); err != nil {
			return err
		}
		if p.Kind != api.KindLive {
			return unknownProc(name)
		}
		r, err := s.readStream(ctx, tx, p.ID)
		if err != nil {
			return err
		}
		if err := f(now, p, &r); err != nil {
			return err
		}
		if err := s.writeStream(ctx, tx, p.ID, r); err != nil {
			return err
		}
		return s.writeProc(ctx, tx, p)
	})
	return p, err
}

// OpenStream implements api.LiveProcs.
func (s *Store) OpenStream(ctx context.Context, name string, connection int64) (stream api.Stream, _ api.Proc, ok bool, err error) {
	p, err := s.onLiveProc(ctx, name, func(now int64, p *procRow, r *streamRow) error {
		stream, ok = api.Stream{LiveProc: name, Connection: connection, Instance: newUUID()}, false
		switch {
		case p.Status == api.StatusDisabled, connection > 0 && r.open(now) && r.connection > connection:
			return nil
		case connection > r.connections:
			return api.Errorf(api.CodeInvalidRequest, "the last event id is of a connection that liveProc %q never had", name)
		case connection == 0:
			stream.Connection = r.connections + 1
		}
		ok = true
		r.connections = max(r.connections, stream.Connection)
		r.connection, r.instance, r.openUntil = stream.Connection, stream.Instance, now+api.StreamLease
		p.keep(now, max(p.TTL, api.StreamLease))
		return nil
	})
	if err != nil {
		return api.Stream{}, api.Proc{}, false, err
	}
	if ok {
		s.hub.opened(stream)
		s.hub.publish(changesOf(p))
	}
	return stream, p.Proc, ok, nil
}

// Turn implements api.LiveProcs.
func (s *Store) Turn(ctx context.Context, stream api.Stream, held string) (turn api.StreamTurn, err error) {
	p, r, now, err := s.readLiveProc(ctx, stream.LiveProc)
	if disconnected(err) && ctx.Err() == nil {
		s.pool.Reset()
		p, r, now, err = s.readLiveProc(ctx, stream.LiveProc)
	}
	if err != nil {
		return turn, mapError(err)
	}
	if p == nil {
		return s.ended(ctx, stream)
	}
	turn = api.StreamTurn{Proc: p.Proc, Wait: -1}
	switch {
	case r.instance != stream.Instance:
		turn.End = api.EndReplaced
		return turn, nil
	case r.cancelled && p.Status == api.StatusDisabled:
		turn.End = api.EndCancelled
		return turn, nil
	case p.Status == api.StatusDisabled:
		turn.End = api.EndDisabled
		return turn, nil
	}
	claim := p.Claim
	var logs []api.Log
	if claim == nil && p.Lag > 0 {
		o := &claimOp{names: []string{stream.LiveProc}, role: api.KindLive, request: func(string) api.ClaimRequest { return api.ClaimRequest{} }}
		if err := s.submit(ctx, o); err != nil {
			switch api.CodeOf(err) { // what has changed meanwhile wakes the stream up again
			case api.CodeAlreadyClaimed, api.CodeProcIsDisabled, api.CodeInvalidProc:
				turn.Wait = 1
				return turn, nil
			}
			return turn, err
		}
		if claim = o.claim; claim != nil {
			p, logs, now = &o.proc, o.logs, *o.proc.LastClaimedAt
		}
	}
	if claim == nil {
		return turn, nil
	}
	if claim.ExpiresAt != nil {
		turn.Wait = max(1, *claim.ExpiresAt-now)
	}
	if claim.Token == held {
		return turn, nil
	}
	if logs == nil {
		logs = s.hub.take(p.Name, claim.Token)
	}
	turn.Claimed, err = s.handOut(ctx, p, *claim, logs) // not undone: an earlier stream may have sent it
	if fault.Planted(fault.ShorterResends) && held == "" && turn.Proc.Claim != nil && err == nil && len(turn.Claimed.Logs) > 1 {
		turn.Claimed.Logs = turn.Claimed.Logs[1:]
	}
	if code := api.CodeOf(err); code == api.CodeClaimLost || code == api.CodeInvalidTopic {
		turn.Wait, err = 1, nil // the next turn tells why
	}
	return turn, err
}

// readLiveProc reads a liveProc and its stream as they are at the time now, by one statement: one that is destroyed
// meanwhile has no stream, but was not replaced. p is nil where there is none.
func (s *Store) readLiveProc(ctx context.Context, name string) (p *procRow, r streamRow, now int64, err error) {
	var topic string
	var head int64
	p, err = scanProc(s.pool.QueryRow(ctx, s.q(`SELECT p.*, t.name, t.head, ns.now_ms(), coalesce(l.instance, ''),
			coalesce(l.cancelled, false)
		FROM (SELECT `+procColumns+` FROM ns.procs) AS p JOIN ns.topics AS t ON t.id = p.topic_id
		LEFT JOIN ns.live_streams AS l ON l.proc_id = p.id WHERE p.name = $1`), name),
		&topic, &head, &now, &r.instance, &r.cancelled)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, r, 0, nil
	}
	if err != nil {
		return nil, r, 0, err
	}
	if p.gone(now) {
		return nil, r, now, nil
	}
	p.Topic = topic
	p.Expire(now)
	p.SetLag(head)
	return p, r, now, nil
}

// ended tells why a liveProc is gone: it was destroyed unless its time was over. The row of an expired one stays until its
// stream had the time to look.
func (s *Store) ended(ctx context.Context, stream api.Stream) (api.StreamTurn, error) {
	var expired bool
	err := s.pool.QueryRow(ctx, s.q("SELECT EXISTS (SELECT FROM ns.procs WHERE name = $1)"), stream.LiveProc).Scan(&expired)
	if err != nil {
		return api.StreamTurn{}, mapError(err)
	}
	if expired {
		return api.StreamTurn{End: api.EndExpired}, nil
	}
	return api.StreamTurn{End: api.EndDestroyed}, nil
}

const (
	keepBatch = 1_000                  // streams whose leases one statement renews: more would hold their rows for long
	keepPause = 20 * time.Millisecond  // until rows that were held are tried again; twice as long each time, up to
	keepLull  = 500 * time.Millisecond // this
)

// KeepStreams implements api.LiveProcs.
func (s *Store) KeepStreams(ctx context.Context, streams []api.Stream) error {
	for pause := keepPause; ; pause = min(2*pause, keepLull) {
		var held []api.Stream
		for part := range slices.Chunk(streams, keepBatch) {
			rest, err := s.keepStreams(ctx, part)
			if err != nil {
				return mapError(err)
			}
			held = append(held, rest...)
		}
		if len(held) == 0 {
			return nil
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return fmt.Errorf("the rows of %d liveProcs are held: %w", len(held), ctx.Err())
		}
		streams = held
	}
}

// keepStreams renews the leases of those that are still their liveProcs' streams, but of liveProcs whose rows somebody
// holds, a batch for a moment, most likely: held are these. It waits for nobody, and so has no place in the order of locks.
func (s *Store) keepStreams(ctx context.Context, streams []api.Stream) (held []api.Stream, err error) {
	names, instances := make([]string, len(streams)), make([]string, len(streams))
	for i, stream := range streams {
		names[i], instances[i] = stream.LiveProc, stream.Instance
	}
	err = readCommitted(ctx, s.pool, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, s.q(`WITH clock AS MATERIALIZED (SELECT ns.now_ms() AS now),
			free AS MATERIALIZED (
				SELECT p.id FROM clock, unnest($1::text[], $2::text[]) AS u (name, instance)
					JOIN ns.procs AS p ON p.name = u.name JOIN ns.live_streams AS l ON l.proc_id = p.id AND l.instance = u.instance
				WHERE p.expires_at IS NULL OR p.expires_at > clock.now
				ORDER BY p.id FOR UPDATE OF p, l SKIP LOCKED),
			leases AS (
				UPDATE ns.live_streams AS l SET open_until = clock.now + $3 FROM clock, free WHERE l.proc_id = free.id),
			lives AS (
				UPDATE ns.procs AS p SET expires_at = greatest(p.expires_at, clock.now + greatest(p.ttl, $3))
				FROM clock, free WHERE p.id = free.id AND p.expires_at IS NOT NULL)
			SELECT u.i - 1 FROM clock, unnest($1::text[], $2::text[]) WITH ORDINALITY AS u (name, instance, i)
				JOIN ns.procs AS p ON p.name = u.name JOIN ns.live_streams AS l ON l.proc_id = p.id AND l.instance = u.instance
			WHERE (p.expires_at IS NULL OR p.expires_at > clock.now) AND p.id NOT IN (SELECT id FROM free)`),
			names, instances, int64(api.StreamLease))
		if err != nil {
			return err
		}
		var i int
		_, err = pgx.ForEachRow(rows, []any{&i}, func() error {
			held = append(held, streams[i])
			return nil
		})
		return err
	})
	return held, err
}

// CloseStream implements api.LiveProcs.
func (s *Store) CloseStream(ctx context.Context, stream api.Stream) error {
	s.hub.closed(stream)
	_, err := s.onLiveProc(ctx, stream.LiveProc, func(now int64, p *procRow, r *streamRow) error {
		if r.instance != stream.Instance {
			return errNotTheStream
		}
		r.instance = ""
		if p.ExpiresAt != nil {
			at := now + p.TTL
			p.ExpiresAt = &at
		}
		return nil
	})
	if errors.Is(err, errNotTheStream) || api.CodeOf(err) == api.CodeInvalidProc {
		return nil
	}
	return err
}

var errNotTheStream = errors.New("the liveProc has another stream")

// CancelLiveProc implements api.LiveProcs.
func (s *Store) CancelLiveProc(ctx context.Context, name string) (api.Proc, error) {
	p, err := s.onLiveProc(ctx, name, func(_ int64, p *procRow, r *streamRow) error {
		r.cancelled = true
		p.Status = api.StatusDisabled
		return nil
	})
	if err != nil {
		return api.Proc{}, err
	}
	s.hub.publish(changesOf(p))
	return p.Proc, nil
}

// DestroyLiveProc implements api.LiveProcs.
func (s *Store) DestroyLiveProc(ctx context.Context, name string) (api.Proc, error) {
	p, err := s.destroy(ctx, name, func(p *procRow) error {
		if p.Kind != api.KindLive {
			return unknownProc(name)
		}
		return nil
	})
	if err == nil {
		s.hub.destroyed(name)
	}
	return p, err
}
