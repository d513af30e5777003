package pgstore

import (
	"context"
	"encoding/json"
	"slices"

	"github.com/jackc/pgx/v5"

	"pipeproc/api"
)

// systemProcRow is a row of system_procs.
type systemProcRow struct {
	id        int64
	spec      api.SystemProcSpec
	createdAt int64
}

func (r *systemProcRow) wire(procs []api.Proc) api.SystemProc {
	if procs == nil {
		procs = []api.Proc{}
	}
	return api.SystemProc{Name: r.spec.Name, From: r.spec.From, To: r.spec.To, Processor: r.spec.Processor.Redacted(),
		CreatedAt: r.createdAt, Procs: procs}
}

// lockSystemProcs lets one transaction at a time change definitions. It comes before every row lock.
func (s *Store) lockSystemProcs(ctx context.Context, tx pgx.Tx) error {
	_, err := tx.Exec(ctx, s.q("LOCK TABLE ns.system_procs IN SHARE ROW EXCLUSIVE MODE"))
	return err
}

func (s *Store) readSystemProcs(ctx context.Context, q querier, tail string, args ...any) ([]*systemProcRow, error) {
	rows, err := q.Query(ctx, s.q("SELECT id, spec, created_at FROM ns.system_procs WHERE "+tail), args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (*systemProcRow, error) {
		r := &systemProcRow{}
		var spec string
		if err := row.Scan(&r.id, &spec, &r.createdAt); err != nil {
			return nil, err
		}
		return r, json.Unmarshal([]byte(spec), &r.spec)
	})
}

// procsOf answers the procs of systemProcs, by the id of the systemProc.
func (s *Store) procsOf(ctx context.Context, q querier, rows ...*systemProcRow) (map[int64][]api.Proc, error) {
	ids := make([]int64, len(rows))
	for i, r := range rows {
		ids[i] = r.id
	}
	procs, err := s.readProcs(ctx, q, "p.system_proc_id = ANY($1) AND p.system_proc_id > 0 ORDER BY p.name", ids)
	if err != nil {
		return nil, err
	}
	of := map[int64][]api.Proc{}
	for _, p := range procs {
		of[p.SystemProcID] = append(of[p.SystemProcID], p.Proc)
	}
	return of, nil
}

// SystemProc implements api.SystemProcs.
func (s *Store) SystemProc(ctx context.Context, name string) (sp api.SystemProc, err error) {
	err = s.readTx(ctx, func(tx pgx.Tx) error {
		sp, err = s.systemProc(ctx, tx, name)
		return err
	})
	return sp, err
}

func (s *Store) systemProc(ctx context.Context, tx pgx.Tx, name string) (api.SystemProc, error) {
	rows, err := s.readSystemProcs(ctx, tx, "name = $1", name)
	if err != nil {
		return api.SystemProc{}, err
	}
	if len(rows) == 0 {
		return api.SystemProc{}, unknownSystemProc(name)
	}
	procs, err := s.procsOf(ctx, tx, rows...)
	if err != nil {
		return api.SystemProc{}, err
	}
	return rows[0].wire(procs[rows[0].id]), nil
}

func unknownSystemProc(name string) error {
	return api.Errorf(api.CodeInvalidSystemProc, "systemProc %q is unknown", name)
}

// SystemProcs implements api.SystemProcs.
func (s *Store) SystemProcs(ctx context.Context, after string, limit int) (list api.SystemProcList, err error) {
	err = s.readTx(ctx, func(tx pgx.Tx) error {
		rows, err := s.readSystemProcs(ctx, tx, "name > $1 ORDER BY name LIMIT $2", after, limit+1)
		if err != nil {
			return err
		}
		list = api.SystemProcList{SystemProcs: []api.SystemProc{}}
		if len(rows) > limit {
			rows = rows[:limit]
			list.Next = rows[limit-1].spec.Name
		}
		procs, err := s.procsOf(ctx, tx, rows...)
		for _, r := range rows {
			list.SystemProcs = append(list.SystemProcs, r.wire(procs[r.id]))
		}
		return err
	})
	return list, err
}

// CreateSystemProc implements api.SystemProcs.
func (s *Store) CreateSystemProc(ctx context.Context, spec api.SystemProcSpec) (made api.SystemProcMade, created bool, err error) {
	secret := spec.Secret
	if secret == "" {
		secret = api.NewSecret()
	}
	var sp api.SystemProc
	var changed []*procRow
	err = s.writeTx(ctx, func(ctx context.Context, tx pgx.Tx) error {
		changed, created = nil, false
		if err := s.lockSystemProcs(ctx, tx); err != nil {
			return err
		}
		rows, err := s.readSystemProcs(ctx, tx, "name = $1", spec.Name)
		if err != nil {
			return err
		}
		var id int64
		if len(rows) > 0 {
			id = rows[0].id
			if !extends(rows[0].spec, spec) {
				return api.Errorf(api.CodeProcOptionsDiffer, "systemProc %q exists with another definition; PATCH changes it", spec.Name)
			}
			if err := s.checkSecret(ctx, tx, id, spec); err != nil {
				return err
			}
			if err := s.writeSystemProc(ctx, tx, id, spec); err != nil {
				return err
			}
		} else {
			created = true
			if id, err = s.insertSystemProc(ctx, tx, spec, secret); err != nil {
				return err
			}
		}
		if changed, err = s.createProcsOf(ctx, tx, id, spec); err != nil {
			return err
		}
		sp, err = s.systemProc(ctx, tx, spec.Name)
		return err
	})
	if err != nil {
		return api.SystemProcMade{}, false, err
	}
	made.Procs = sp.Procs
	if created && spec.Secret == "" && spec.Processor.URL != "" {
		made.Secret = secret
	}
	return made, created, s.definitionsChanged(ctx, changed)
}

// definitionsChanged wakes up whoever runs systemProcs, on every server.
func (s *Store) definitionsChanged(ctx context.Context, changed []*procRow) error {
	err := s.loadJobTopics(ctx)
	c := changesOf(changed...)
	c.Definitions = true
	s.hub.publish(c)
	return err
}

// extends reports whether next is the definition old, or only adds topics to its From list.
func extends(old, next api.SystemProcSpec) bool {
	if old.From.Single != next.From.Single {
		return false
	}
	for _, topic := range old.From.List {
		if !slices.Contains(next.From.List, topic) {
			return false
		}
	}
	if !slices.Equal(old.To.List, next.To.List) || !sameProcessor(*old.Processor, *next.Processor) {
		return false
	}
	var p, q api.Proc
	oldOptions, nextOptions := old.Options(""), next.Options("")
	oldOptions.Apply(&p)
	nextOptions.Apply(&q)
	return p == q
}

func sameProcessor(p, q api.Processor) bool {
	p.Bare, q.Bare = false, false
	a, _ := json.Marshal(p)
	b, _ := json.Marshal(q)
	return string(a) == string(b)
}

// createProcsOf makes the procs of a definition that do not exist yet, and answers them.
func (s *Store) createProcsOf(ctx context.Context, tx pgx.Tx, id int64, spec api.SystemProcSpec) (made []*procRow, err error) {
	topics, now, err := s.lockTopics(ctx, tx, spec.From.List)
	if err != nil {
		return nil, err
	}
	for _, topic := range slices.Sorted(slices.Values(spec.From.List)) {
		name := spec.ProcName(topic)
		p, created, err := s.insertProc(ctx, tx, newProc{name: name, kind: api.KindSystem, options: spec.Options(topic),
			systemProc: id, ttl: -1}, topics[topic], now)
		if err != nil {
			return nil, err
		}
		if !created && p.SystemProcID != id {
			return nil, api.Errorf(api.CodeProcNameNotUnique, "proc %q exists and is not this systemProc's", name)
		}
		if created {
			made = append(made, p)
		}
	}
	return made, nil
}

// definition is the text that is kept of a definition: all but the secret, which has a column of its own.
func definition(spec api.SystemProcSpec) ([]byte, error) {
	spec.Secret = ""
	return json.Marshal(spec) //nolint:gosec // it is empty
}

func (s *Store) insertSystemProc(ctx context.Context, tx pgx.Tx, spec api.SystemProcSpec, secret string) (id int64, err error) {
	text, err := definition(spec)
	if err != nil {
		return 0, err
	}
	secrets, err := json.Marshal(api.Secrets{{Secret: secret}}) //nolint:gosec // what the database is to hold
	if err != nil {
		return 0, err
	}
	err = tx.QueryRow(ctx, s.q(`INSERT INTO ns.system_procs (name, spec, secrets, created_at)
		VALUES ($1, $2, $3, ns.now_ms()) RETURNING id`), spec.Name, text, secrets).Scan(&id)
	return id, err
}

// writeSystemProc writes a changed definition; one without topics goes.
func (s *Store) writeSystemProc(ctx context.Context, tx pgx.Tx, id int64, spec api.SystemProcSpec) error {
	if len(spec.From.List) == 0 {
		_, err := tx.Exec(ctx, s.q("DELETE FROM ns.system_procs WHERE id = $1"), id)
		return err
	}
	text, err := definition(spec)
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, s.q("UPDATE ns.system_procs SET spec = $2 WHERE id = $1"), id, text)
	return err
}

// PatchSystemProc implements api.SystemProcs.
func (s *Store) PatchSystemProc(ctx context.Context, name string, patch api.SystemProcPatch) (sp api.SystemProc, err error) {
	var changed []*procRow
	err = s.writeTx(ctx, func(ctx context.Context, tx pgx.Tx) error {
		changed = nil
		row, procs, err := s.lockSystemProc(ctx, tx, name)
		if err != nil {
			return err
		}
		if err := patch.Apply(&row.spec); err != nil {
			return err
		}
		if err := s.writeSystemProc(ctx, tx, row.id, row.spec); err != nil {
			return err
		}
		var kept, left []*procRow
		options := api.ProcPatch{Count: patch.Count, MaxReclaims: patch.MaxReclaims, ReclaimTimeout: patch.ReclaimTimeout,
			OnMaxReclaimsReached: patch.OnMaxReclaimsReached}
		for _, p := range procs {
			if slices.Contains(row.spec.From.List, p.Topic) {
				options.Apply(&p.Proc)
				if err := row.spec.Processor.Validate(p.ReclaimTimeout); err != nil { // which may be the proc's own by now
					return err
				}
				kept = append(kept, p)
			} else {
				left = append(left, p)
			}
		}
		if err := s.writeProc(ctx, tx, kept...); err != nil {
			return err
		}
		if len(left) > 0 {
			if err := s.forgetProcs(ctx, tx, left...); err != nil {
				return err
			}
		}
		made, err := s.createProcsOf(ctx, tx, row.id, row.spec)
		if err != nil {
			return err
		}
		changed = slices.Concat(kept, left, made)
		sp, err = s.systemProc(ctx, tx, name)
		return err
	})
	if err != nil {
		return api.SystemProc{}, err
	}
	return sp, s.definitionsChanged(ctx, changed)
}

// lockSystemProc locks a definition and its procs, whose topics it tells.
func (s *Store) lockSystemProc(ctx context.Context, tx pgx.Tx, name string) (*systemProcRow, []*procRow, error) {
	if err := s.lockSystemProcs(ctx, tx); err != nil {
		return nil, nil, err
	}
	rows, err := s.readSystemProcs(ctx, tx, "name = $1", name)
	if err != nil {
		return nil, nil, err
	}
	if len(rows) == 0 {
		return nil, nil, unknownSystemProc(name)
	}
	found, err := tx.Query(ctx, s.q("SELECT "+procColumns+" FROM ns.procs WHERE system_proc_id = $1 AND system_proc_id > 0 ORDER BY id FOR UPDATE"), rows[0].id)
	if err != nil {
		return nil, nil, err
	}
	var procs []*procRow
	if err := eachProc(found, func(p *procRow) { procs = append(procs, p) }); err != nil {
		return nil, nil, err
	}
	for _, p := range procs {
		if err := tx.QueryRow(ctx, s.q("SELECT name FROM ns.topics WHERE id = $1"), p.TopicID).Scan(&p.Topic); err != nil {
			return nil, nil, err
		}
	}
	return rows[0], procs, nil
}

// DestroySystemProc implements api.SystemProcs.
func (s *Store) DestroySystemProc(ctx context.Context, name string) (sp api.SystemProc, err error) {
	var procs []*procRow
	err = s.writeTx(ctx, func(ctx context.Context, tx pgx.Tx) error {
		var row *systemProcRow
		if row, procs, err = s.lockSystemProc(ctx, tx, name); err != nil {
			return err
		}
		if sp, err = s.systemProc(ctx, tx, name); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, s.q("DELETE FROM ns.system_procs WHERE id = $1"), row.id); err != nil {
			return err
		}
		return s.forgetProcs(ctx, tx, procs...)
	})
	if err != nil {
		return api.SystemProc{}, err
	}
	return sp, s.definitionsChanged(ctx, procs)
}

// RunnableJobs implements api.Jobs.
func (s *Store) RunnableJobs(ctx context.Context, limit int, inline bool) (procs []string, next int64, err error) {
	these := ""
	if !inline {
		these = "AND NOT EXISTS (SELECT FROM ns.system_procs AS sp WHERE sp.id = p.system_proc_id AND sp.inline)"
	}
	// wait is NULL for a claim without a time-out. The last row has no name: it tells next.
	rows, err := s.pool.Query(ctx, s.q(`WITH work AS (
			SELECT p.id, p.name, p.last_claimed_at, CASE WHEN p.claim_token <> '' THEN p.claim_expires_at
				ELSE coalesce(greatest(p.next_attempt_at, n.now), n.now) END - n.now AS wait
			FROM ns.procs AS p JOIN ns.topics AS t ON t.id = p.topic_id, (SELECT ns.now_ms() AS now) AS n
			WHERE p.system_proc_id > 0 AND p.status = 'active' AND p.position < t.head `+these+`)
		(SELECT name, wait FROM work WHERE wait <= 0 ORDER BY last_claimed_at NULLS FIRST, id LIMIT $1)
		UNION ALL SELECT '', coalesce(min(wait), -1) FROM work WHERE wait > 0`), limit)
	if err != nil {
		return nil, 0, mapError(err)
	}
	var name string
	_, err = pgx.ForEachRow(rows, []any{&name, &next}, func() error {
		if name != "" {
			procs = append(procs, name)
		}
		return nil
	})
	return procs, next, mapError(err)
}

// ClaimJob implements api.Jobs.
func (s *Store) ClaimJob(ctx context.Context, proc, token string) (*api.Execution, error) {
	o := &claimOp{names: []string{proc}, role: api.KindSystem, token: token, request: func(string) api.ClaimRequest { return api.ClaimRequest{} }}
	if err := s.submit(ctx, o); err != nil {
		switch api.CodeOf(err) {
		case api.CodeInvalidProc, api.CodeProcIsDisabled, api.CodeAlreadyClaimed, api.CodeProcIsManaged:
			return nil, nil
		}
		return nil, err
	}
	if o.claim == nil {
		return nil, nil
	}
	claimed, err := s.deliver(ctx, &o.proc, *o.claim, o.logs)
	if err != nil {
		return nil, err
	}
	return s.execution(&o.proc, claimed)
}

// definition is that of a systemProc's proc, read in a batch.
func (p *procRow) definition() (spec api.SystemProcSpec, err error) {
	return spec, json.Unmarshal([]byte(p.spec), &spec)
}

// execution adds to a claim what its worker needs.
func (s *Store) execution(p *procRow, claimed *api.Claimed) (*api.Execution, error) {
	spec, err := p.definition()
	if err != nil {
		return nil, err
	}
	secrets, err := parseSecrets(p.secrets)
	if err != nil {
		return nil, err
	}
	return &api.Execution{Claimed: *claimed, SystemProc: spec.Name, To: spec.To.List, Processor: *spec.Processor,
		Count: p.Count, Secrets: secrets.Signing(p.readAt), ReclaimTimeout: p.ReclaimTimeout, WebhookID: p.WebhookID(s.namespace)}, nil
}

// AckJob implements api.Jobs.
func (s *Store) AckJob(ctx context.Context, proc, token string, logs []api.NewLog, claimNext bool) (*api.Execution, error) {
	o := &ackOp{name: proc, req: api.AckRequest{Token: token, ClaimNext: claimNext, Logs: logs}, role: api.KindSystem, bytes: sizeOf(logs)}
	acked, err := s.ack(context.WithoutCancel(ctx), o)
	if err != nil || acked.Next == nil {
		return nil, err
	}
	return s.execution(&o.proc, acked.Next)
}

// FailJob implements api.Jobs.
func (s *Store) FailJob(ctx context.Context, proc, token string, f api.Failure) error {
	return s.onProc(context.WithoutCancel(ctx), proc, func(now int64, p *procRow) error { return p.Fail(now, token, f) })
}

// UndoJob implements api.Jobs.
func (s *Store) UndoJob(ctx context.Context, proc, token string) error {
	return s.UndoClaim(context.WithoutCancel(ctx), proc, token)
}

// loadJobTopics tells the hub whose commits give systemProcs work.
func (s *Store) loadJobTopics(ctx context.Context) error {
	rows, err := s.pool.Query(ctx, s.q("SELECT DISTINCT t.name FROM ns.procs AS p JOIN ns.topics AS t ON t.id = p.topic_id WHERE p.system_proc_id > 0"))
	if err != nil {
		return mapError(err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return mapError(err)
	}
	s.hub.setJobTopics(names)
	return nil
}
