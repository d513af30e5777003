package pgstore

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"pipeproc/api"
	"pipeproc/api/fault"
)

// errGone says that logs which a claim relies on are missing.
var errGone = errors.New("logs of a claim are missing")

// claimOp hands out the next logs of the first of several procs that has work.
type claimOp struct {
	names   []string
	request func(name string) api.ClaimRequest // what is asked of each
	any     bool                               // several: disabled and claimed ones are passed over
	role    role
	token   string // names the claim; "": a fresh one does

	unknown []string // procs that do not exist
	proc    procRow  // a copy of the one claimed, as it was left
	claim   *api.Claim
	logs    []api.Log // what it hands out; nil: to be read
	waitFor []string  // the topics that may bring work
	freeAt  int64     // when the first of the live claims that are in its way times out; 0: none does
}

// role tells who claims: a proc belongs to its users, a systemProc's to its worker, a liveProc's to its stream.
type role = api.ProcKind

func (o *claimOp) needs(n *needs) {
	for _, name := range o.names {
		if o.any {
			n.proc(name)
		} else {
			n.claim(name, ask{count: optional(o.request(name).Count)})
		}
	}
}

func (o *claimOp) size() int { return 64 * len(o.names) }

func (o *claimOp) apply(ctx context.Context, b *batch) error {
	o.unknown, o.claim, o.logs, o.waitFor, o.freeAt = nil, nil, nil, nil, 0
	var candidates []*procRow
	for _, name := range o.names {
		p := b.procs[name]
		if p == nil {
			o.unknown = append(o.unknown, name)
			continue
		}
		if p.Kind != o.role {
			return managed(p)
		}
		if topic := o.request(name).Topic; topic != "" && topic != p.Topic {
			return api.Errorf(api.CodeProcNameNotUnique, "proc %q exists on topic %q", name, p.Topic)
		}
		candidates = append(candidates, p)
		o.waitFor = append(o.waitFor, p.Topic)
	}
	if len(o.unknown) > 0 {
		return unknownProc(o.unknown[0])
	}
	if o.any {
		slices.SortStableFunc(candidates, func(p, q *procRow) int {
			return cmp.Compare(optional(p.LastClaimedAt), optional(q.LastClaimedAt))
		})
	}
	for _, p := range candidates {
		if p.Claim != nil && p.Claim.Token == o.token { // a repeat
			claim := *p.Claim
			o.claim, o.proc = &claim, *p
			return nil
		}
		if p.Repeats(o.token) { // acked already, by somebody who looked the token up
			continue
		}
		if err := p.CanClaim(); err != nil {
			var refusal *api.Error
			if errors.As(err, &refusal) && refusal.ExpiresAt != nil && (o.freeAt == 0 || *refusal.ExpiresAt < o.freeAt) {
				o.freeAt = *refusal.ExpiresAt
			}
			if o.any {
				continue
			}
			return err
		}
		if o.role == api.KindSystem && !p.Due(b.now) {
			continue
		}
		claim, logs, err := b.claim(ctx, p, optional(o.request(p.Name).Count), cmp.Or(o.token, newToken()))
		if err != nil {
			return err
		}
		if claim != nil {
			o.claim, o.logs, o.proc = claim, logs, *p
			return nil
		}
	}
	return nil
}

// optional is *n, 0 where it is absent.
func optional[N int | int64](n *N) N {
	if n == nil {
		return 0
	}
	return *n
}

// Claim implements api.Procs.
func (s *Store) Claim(ctx context.Context, proc string, req api.ClaimRequest) (*api.Claimed, error) {
	return s.claim(ctx, &claimOp{names: []string{proc}, role: api.KindProc,
		request: func(string) api.ClaimRequest { return req }}, req.Wait)
}

// ClaimAny implements api.Procs.
func (s *Store) ClaimAny(ctx context.Context, req api.ClaimAnyRequest) (*api.Claimed, error) {
	o := &claimOp{any: true, role: api.KindProc}
	options := map[string]api.ProcOptions{}
	for _, p := range req.Procs {
		o.names = append(o.names, p.Name)
		options[p.Name] = p.ProcOptions
	}
	o.request = func(name string) api.ClaimRequest { return api.ClaimRequest{ProcOptions: options[name]} }
	return s.claim(ctx, o, req.Wait)
}

// claim runs o, creating the procs that are unknown, and again whenever something has changed, until there are logs or
// wait (ms) is over.
func (s *Store) claim(ctx context.Context, o *claimOp, wait *int64) (*api.Claimed, error) {
	deadline := time.Now().Add(time.Duration(optional(wait)) * time.Millisecond)
	var watch api.Watch
	for {
		err := s.submit(ctx, o)
		if len(o.unknown) > 0 && api.CodeOf(err) == api.CodeInvalidProc { // nothing is made for a request that is refused
			if err := s.createMissing(ctx, o); err != nil {
				return nil, err
			}
			continue
		}
		if err == nil && o.claim != nil {
			return s.deliver(ctx, &o.proc, *o.claim, o.logs)
		}
		code := api.CodeOf(err)
		if err != nil && code != api.CodeAlreadyClaimed || !time.Now().Before(deadline) {
			return nil, err
		}
		if watch.C == nil { // subscribe, then look once more
			watch = s.Watch(o.waitFor, o.names)
			defer watch.Close()
			continue
		}
		pause := time.Until(deadline)
		if o.freeAt > 0 {
			pause = min(pause, s.until(ctx, o.freeAt))
		}
		timer := time.NewTimer(pause)
		select {
		case <-watch.C:
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, ctx.Err()
		}
		timer.Stop()
	}
}

// createMissing creates the procs that o found unknown, where it tells their topic.
func (s *Store) createMissing(ctx context.Context, o *claimOp) error {
	for _, name := range o.unknown {
		if o.request(name).Topic == "" {
			return unknownProc(name)
		}
	}
	for _, name := range o.unknown {
		options := o.request(name).ProcOptions
		if _, _, err := s.createProc(ctx, newProc{name: name, kind: api.KindProc, options: options}); err != nil {
			return err
		}
	}
	return nil
}

// until is the time until the database's clock shows at; at least a millisecond.
func (s *Store) until(ctx context.Context, at int64) time.Duration {
	var left int64
	if err := s.pool.QueryRow(ctx, s.q("SELECT $1 - ns.now_ms()"), at).Scan(&left); err != nil {
		return time.Second
	}
	return time.Duration(max(left, 1)) * time.Millisecond
}

// deliverTimeout bounds the reading of a claim's bodies, which no client's going away ends: a database that has fallen
// silent must not hold the request.
const deliverTimeout = 30 * time.Second

// deliver answers a claim that was just made; one whose logs cannot be read is undone, since nobody has seen it.
func (s *Store) deliver(ctx context.Context, p *procRow, claim api.Claim, logs []api.Log) (*api.Claimed, error) {
	claimed, err := s.handOut(ctx, p, claim, logs)
	switch api.CodeOf(err) {
	case "", api.CodeClaimLost, api.CodeInvalidTopic:
	default:
		_ = s.UndoClaim(context.WithoutCancel(ctx), p.Name, claim.Token)
	}
	return claimed, err
}

// handOut answers a claim that was committed, with its logs, which it reads unless they were read along. Where the logs
// have gone with their topic it answers CodeInvalidTopic, where the claim was lost and GC came, CodeClaimLost.
func (s *Store) handOut(ctx context.Context, p *procRow, claim api.Claim, logs []api.Log) (*api.Claimed, error) {
	claimed := &api.Claimed{Proc: p.Name, Topic: p.Topic, Claim: claim, Logs: logs}
	if logs != nil {
		return claimed, nil
	}
	r := claim.Range
	reading, cancel := context.WithTimeout(context.WithoutCancel(ctx), deliverTimeout)
	defer cancel()
	var err error
	claimed.Logs, err = s.claimedLogs(reading, p.TopicID, r)
	if err != nil {
		return nil, mapError(err)
	}
	if len(claimed.Logs) != r.Len() {
		if _, err := s.Topic(ctx, p.Topic); err != nil {
			return nil, err
		}
		return nil, api.Errorf(api.CodeClaimLost, "the claim of proc %q was lost before it was answered", p.Name)
	}
	return claimed, nil
}

// claimedLogs reads the logs of a claim, whose size was bounded when it was made.
func (s *Store) claimedLogs(ctx context.Context, topic int64, r api.Range) ([]api.Log, error) {
	rows, err := s.pool.Query(ctx, s.q("SELECT ts, seq, body FROM ns.logs WHERE topic_id = $1 AND seq BETWEEN $2 AND $3 ORDER BY seq"),
		topic, r.First.Seq, r.Last.Seq)
	if err != nil {
		return nil, err
	}
	return collectLogs(rows, r.Len())
}

// procOp applies a rule to one locked proc.
type procOp struct {
	name string
	rule func(b *batch, p *procRow) error
}

func (o *procOp) needs(n *needs) { n.proc(o.name) }
func (o *procOp) size() int      { return 64 }

func (o *procOp) apply(_ context.Context, b *batch) error {
	p, err := b.proc(o.name)
	if err != nil {
		return err
	}
	return o.rule(b, p)
}

// onProc applies rule to a proc in the next batch; the proc is written when rule answers nil.
func (s *Store) onProc(ctx context.Context, name string, rule func(now int64, p *procRow) error) error {
	return s.submit(ctx, &procOp{name, func(b *batch, p *procRow) error {
		if err := rule(b.now, p); err != nil {
			return err
		}
		b.changed[p] = struct{}{}
		return nil
	}})
}

// UndoClaim implements api.Procs.
func (s *Store) UndoClaim(ctx context.Context, proc, token string) error {
	err := s.submit(ctx, &procOp{proc, func(b *batch, p *procRow) error {
		if p.Undo(token) {
			b.changed[p] = struct{}{}
		}
		return nil
	}})
	if api.CodeOf(err) == api.CodeInvalidProc {
		return nil
	}
	return err
}

// Reclaim implements api.Procs.
func (s *Store) Reclaim(ctx context.Context, proc, token string) (last api.Range, err error) {
	err = s.onProc(ctx, proc, func(now int64, p *procRow) error {
		if p.Kind == api.KindSystem && token == "" {
			return managed(p)
		}
		if err := p.Reclaim(now, token); err != nil {
			return err
		}
		last = p.LastClaimedRange
		return nil
	})
	return last, err
}

// Extend implements api.Procs.
func (s *Store) Extend(ctx context.Context, proc, token string) (claim api.Claim, err error) {
	err = s.onProc(ctx, proc, func(now int64, p *procRow) error {
		if err := p.Extend(now, token); err != nil {
			return err
		}
		claim = *p.Claim
		return nil
	})
	return claim, err
}

// ackOp acks, commits and claims the next logs.
type ackOp struct {
	name string
	req  api.AckRequest
	one  bool
	role role // KindProc: on behalf of a user

	repeat  bool
	proc    procRow
	acked   api.Range
	ids     []api.ID
	next    *api.Claim
	logs    []api.Log      // that next hands out; nil: to be read
	answer  *ackAnswerBody // of a repeat
	ackNext *string
	bytes   int
}

func (o *ackOp) needs(n *needs) {
	n.logs(o.req.Logs)
	if o.req.ClaimNext || strings.HasPrefix(o.name, liveProcPrefix) {
		n.claim(o.name, ask{optional(o.req.Count), true})
	} else {
		n.proc(o.name)
	}
}

func (o *ackOp) size() int { return o.bytes + 64 }

func (o *ackOp) apply(ctx context.Context, b *batch) error {
	o.repeat, o.acked, o.ids, o.next, o.logs, o.answer, o.ackNext = false, api.Range{}, nil, nil, nil, nil, nil
	p, err := b.proc(o.name)
	if err != nil {
		return err
	}
	if o.role == api.KindProc && (p.Kind == api.KindSystem && o.req.Token == "" || p.Kind != api.KindProc && o.req.ClaimNext) {
		return managed(p)
	}
	if p.Repeats(o.req.Token) {
		o.repeat, o.ackNext = true, p.AckNext
		if a, ok := b.ackAnswers[p.ID]; ok && a.token == o.req.Token {
			o.answer = &a.body
		} else if o.answer, err = b.ackAnswer(ctx, p); err != nil {
			return err
		}
		if p.AckNext != nil && p.Claim != nil && p.Claim.Token == *p.AckNext && p.Status == api.StatusActive {
			claim := *p.Claim
			o.next = &claim
		}
		o.proc = *p
		return nil
	}
	if fault.Planted(fault.AckAnyToken) {
		o.req.Token = ""
	}
	if o.acked, err = p.Ack(b.now, o.req.Token); err != nil {
		return err
	}
	b.changed[p] = struct{}{}
	p.keep(b.now, p.TTL)
	if o.req.Logs != nil {
		o.ids = b.add(o.req.Logs)
		b.ackAnswers[p.ID] = ackAnswer{p.AckToken, ackAnswerBody{Acked: o.acked.Acked(), IDs: o.ids, One: o.one}}
	}
	if o.req.ClaimNext {
		token := ""
		if p.CanClaim() == nil {
			if o.next, o.logs, err = b.claim(ctx, p, optional(o.req.Count), newToken()); err != nil {
				return err
			}
			if o.next != nil {
				token = o.next.Token
			}
		}
		p.AckNext = &token
	} else if p.openUntil > b.now && p.CanClaim() == nil { // its stream waits for the next logs
		claim, logs, err := b.claim(ctx, p, 0, newToken())
		if err != nil {
			return err
		}
		if claim != nil && logs != nil {
			b.streamed[p.Name] = claimedLogs{claim.Token, logs}
		}
	}
	o.proc = *p
	return nil
}

// Ack implements api.Procs.
func (s *Store) Ack(ctx context.Context, proc string, req api.AckRequest) (api.Acked, error) {
	o := &ackOp{name: proc, req: req, one: req.One, role: api.KindProc, bytes: sizeOf(req.Logs)}
	return s.ack(ctx, o)
}

func (s *Store) ack(ctx context.Context, o *ackOp) (api.Acked, error) {
	if fault.Planted(fault.TornAckCommits) && o.req.Logs != nil {
		return s.ackThenCommit(ctx, o)
	}
	if err := s.submit(ctx, o); err != nil {
		return api.Acked{}, err
	}
	answer := api.Acked{Acked: o.acked.Acked(), IDs: o.ids, One: o.one, NextAsked: o.req.ClaimNext}
	if o.repeat {
		answer = api.Acked{Acked: o.answer.Acked, IDs: o.answer.IDs, One: o.answer.One, NextAsked: o.ackNext != nil}
	}
	if o.next != nil {
		give := s.deliver
		if o.repeat { // the first answer may have told of it
			give = s.handOut
		}
		next, err := give(ctx, &o.proc, *o.next, o.logs)
		switch api.CodeOf(err) {
		case "":
			answer.Next = next
		case api.CodeClaimLost, api.CodeInvalidTopic: // it no longer lives; the ack was applied all the same
		default:
			return api.Acked{}, err
		}
	}
	return answer, nil
}

// ackAnswer is what the last applied ack of p answered: an ack alone is told by the proc itself, an ackCommit beside it.
// It is read under p's lock: the next ack replaces it.
func (b *batch) ackAnswer(ctx context.Context, p *procRow) (*ackAnswerBody, error) {
	var text []byte
	err := b.conn.QueryRow(ctx, b.store.q("SELECT answer FROM ns.ack_answers WHERE proc_id = $1 AND token = $2"), p.ID, p.AckToken).
		Scan(&text)
	if errors.Is(err, pgx.ErrNoRows) {
		return &ackAnswerBody{Acked: p.LastAckedRange.Acked()}, nil
	}
	if err != nil {
		return nil, err
	}
	var body ackAnswerBody
	return &body, json.Unmarshal(text, &body)
}
