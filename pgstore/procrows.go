package pgstore

import (
	"github.com/jackc/pgx/v5"

	"pipeproc/api"
)

// procRow is a row of procs. Topic is not part of it.
type procRow struct {
	api.Proc
	SystemProcID int64
	TTL          int64  // of a liveProc; -1 never
	ExpiresAt    *int64 // of a liveProc; nil never

	reclaims int // as the row has it

	// In batches alone: of the systemProc, as JSON, and the time by which that holds; the lease of the liveProc's stream, 0
	// without one.
	spec, secrets string
	readAt        int64
	openUntil     int64
}

// gone reports whether p is a liveProc that has expired: it counts as unknown, and the sweep removes it.
func (p *procRow) gone(now int64) bool { return p.ExpiresAt != nil && *p.ExpiresAt <= now }

// keep lets a liveProc live on for at least ms, if it can expire.
func (p *procRow) keep(now, ms int64) {
	if p.ExpiresAt != nil {
		at := max(*p.ExpiresAt, now+ms)
		p.ExpiresAt = &at
	}
}

const procColumns = `id, name, topic_id, system_proc_id, kind, start_offset, created_at, status, count, max_reclaims,
	reclaim_timeout, on_max_reclaims, position, last_claimed, previous_claimed, last_acked, last_claimed_at, last_acked_at,
	reclaims, claim_token, claim_expires_at, claim_count, retry, ack_token, ack_next, seeks, next_attempt_at, last_error,
	ttl, expires_at`

// eachProc reads procColumns, and more columns into more before each call of f.
func eachProc(rows pgx.Rows, f func(*procRow), more ...any) error {
	defer rows.Close()
	for rows.Next() {
		p, err := scanProc(rows, more...)
		if err != nil {
			return err
		}
		f(p)
	}
	return rows.Err()
}

// scanProc reads procColumns, and more columns into more.
func scanProc(row pgx.Row, more ...any) (*procRow, error) {
	p := &procRow{}
	var token, lastClaimed, previous, acked, retry string
	var expires *int64
	err := row.Scan(append([]any{&p.ID, &p.Name, &p.TopicID, &p.SystemProcID, &p.Kind, &p.Offset, &p.CreatedAt, &p.Status, &p.Count,
		&p.MaxReclaims, &p.ReclaimTimeout, &p.OnMaxReclaimsReached, &p.Position, &lastClaimed, &previous, &acked,
		&p.LastClaimedAt, &p.LastAckedAt, &p.Reclaims, &token, &expires, &p.ClaimCount, &retry, &p.AckToken, &p.AckNext,
		&p.Seeks, &p.NextAttemptAt, &p.LastError, &p.TTL, &p.ExpiresAt}, more...)...)
	if err != nil {
		return nil, err
	}
	for _, r := range []struct {
		text string
		to   *api.Range
	}{{lastClaimed, &p.LastClaimedRange}, {previous, &p.PreviousClaimedRange}, {acked, &p.LastAckedRange}, {retry, &p.Retry}} {
		if *r.to, err = api.ParseRange(r.text); err != nil {
			return nil, err
		}
	}
	p.reclaims = p.Reclaims
	if token != "" {
		p.Claim = &api.Claim{Token: token, Range: p.LastClaimedRange, Attempt: p.Reclaims + 1, ExpiresAt: expires}
	}
	return p, nil
}

// procColumnArrays holds the changing columns of several procs, as unnest takes them.
type procColumnArrays struct {
	ids, reclaimTimeouts, positions                             []int64
	statuses, onMax, lastClaimed, previous, acked, tokens       []string
	retries, ackTokens, lastErrors                              []string
	counts, maxReclaims, reclaims, claimCounts, seeks           []int
	lastClaimedAt, lastAckedAt, expires, nextAttempts, liveEnds []*int64
	ackNexts                                                    []*string
}

// liveClaim is the columns of the live claim.
func (p *procRow) liveClaim() (token string, expires *int64) {
	if p.Claim == nil {
		return "", nil
	}
	return p.Claim.Token, p.Claim.ExpiresAt
}

// fewRows is up to how many rows are written by a statement each. unnest takes many rows at once, but costs as much as
// several of them before the first one.
const fewRows = 4

// queueProcs queues UPDATEs that write the procs as they are.
func (s *Store) queueProcs(q *pgx.Batch, procs []*procRow) {
	if len(procs) <= fewRows {
		for _, p := range procs {
			token, expires := p.liveClaim()
			q.Queue(s.q(`UPDATE ns.procs SET status = $2, count = $3, max_reclaims = $4, reclaim_timeout = $5, on_max_reclaims = $6,
					position = $7, last_claimed = $8, previous_claimed = $9, last_acked = $10, last_claimed_at = $11,
					last_acked_at = $12, reclaims = $13, claim_token = $14, claim_expires_at = $15, claim_count = $16, retry = $17,
					ack_token = $18, ack_next = $19, seeks = $20, next_attempt_at = $21, last_error = $22, expires_at = $23
				WHERE id = $1`),
				p.ID, string(p.Status), p.Count, p.MaxReclaims, p.ReclaimTimeout, string(p.OnMaxReclaimsReached), p.Position,
				p.LastClaimedRange.String(), p.PreviousClaimedRange.String(), p.LastAckedRange.String(), p.LastClaimedAt,
				p.LastAckedAt, p.Reclaims, token, expires, p.ClaimCount, p.Retry.String(), p.AckToken, p.AckNext, p.Seeks,
				p.NextAttemptAt, p.LastError, p.ExpiresAt)
		}
		return
	}
	var c procColumnArrays
	for _, p := range procs {
		token, expires := p.liveClaim()
		c.ids = append(c.ids, p.ID)
		c.statuses = append(c.statuses, string(p.Status))
		c.counts = append(c.counts, p.Count)
		c.maxReclaims = append(c.maxReclaims, p.MaxReclaims)
		c.reclaimTimeouts = append(c.reclaimTimeouts, p.ReclaimTimeout)
		c.onMax = append(c.onMax, string(p.OnMaxReclaimsReached))
		c.positions = append(c.positions, p.Position)
		c.lastClaimed = append(c.lastClaimed, p.LastClaimedRange.String())
		c.previous = append(c.previous, p.PreviousClaimedRange.String())
		c.acked = append(c.acked, p.LastAckedRange.String())
		c.lastClaimedAt = append(c.lastClaimedAt, p.LastClaimedAt)
		c.lastAckedAt = append(c.lastAckedAt, p.LastAckedAt)
		c.reclaims = append(c.reclaims, p.Reclaims)
		c.tokens = append(c.tokens, token)
		c.expires = append(c.expires, expires)
		c.claimCounts = append(c.claimCounts, p.ClaimCount)
		c.retries = append(c.retries, p.Retry.String())
		c.ackTokens = append(c.ackTokens, p.AckToken)
		c.ackNexts = append(c.ackNexts, p.AckNext)
		c.seeks = append(c.seeks, p.Seeks)
		c.nextAttempts = append(c.nextAttempts, p.NextAttemptAt)
		c.lastErrors = append(c.lastErrors, p.LastError)
		c.liveEnds = append(c.liveEnds, p.ExpiresAt)
	}
	q.Queue(s.q(`UPDATE ns.procs AS p SET status = u.status, count = u.count, max_reclaims = u.max_reclaims,
			reclaim_timeout = u.reclaim_timeout, on_max_reclaims = u.on_max_reclaims, position = u.position,
			last_claimed = u.last_claimed, previous_claimed = u.previous_claimed, last_acked = u.last_acked,
			last_claimed_at = u.last_claimed_at, last_acked_at = u.last_acked_at, reclaims = u.reclaims,
			claim_token = u.claim_token, claim_expires_at = u.claim_expires_at, claim_count = u.claim_count,
			retry = u.retry, ack_token = u.ack_token, ack_next = u.ack_next, seeks = u.seeks,
			next_attempt_at = u.next_attempt_at, last_error = u.last_error, expires_at = u.expires_at
		FROM unnest($1::bigint[], $2::text[], $3::int[], $4::int[], $5::bigint[], $6::text[], $7::bigint[], $8::text[],
			$9::text[], $10::text[], $11::bigint[], $12::bigint[], $13::int[], $14::text[], $15::bigint[], $16::int[],
			$17::text[], $18::text[], $19::text[], $20::int[], $21::bigint[], $22::text[], $23::bigint[])
			AS u (id, status, count, max_reclaims, reclaim_timeout, on_max_reclaims, position, last_claimed, previous_claimed,
				last_acked, last_claimed_at, last_acked_at, reclaims, claim_token, claim_expires_at, claim_count, retry,
				ack_token, ack_next, seeks, next_attempt_at, last_error, expires_at)
		WHERE p.id = u.id`),
		c.ids, c.statuses, c.counts, c.maxReclaims, c.reclaimTimeouts, c.onMax, c.positions, c.lastClaimed, c.previous, c.acked,
		c.lastClaimedAt, c.lastAckedAt, c.reclaims, c.tokens, c.expires, c.claimCounts, c.retries, c.ackTokens, c.ackNexts,
		c.seeks, c.nextAttempts, c.lastErrors, c.liveEnds)
}

func unknownProc(name string) error {
	return api.Errorf(api.CodeInvalidProc, "proc %q is unknown", name)
}

func unknownTopic(name string) error {
	return api.Errorf(api.CodeInvalidTopic, "topic %q is unknown", name)
}

func managed(p *procRow) error {
	return api.Errorf(api.CodeProcIsManaged, "proc %q belongs to a %s: the server runs it", p.Name,
		map[api.ProcKind]string{api.KindSystem: "systemProc", api.KindLive: "liveProc"}[p.Kind])
}
