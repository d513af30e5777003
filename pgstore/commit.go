package pgstore

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"

	"github.com/jackc/pgx/v5"

	"pipeproc/api"
	"pipeproc/api/fault"
)

// commitOp adds logs.
type commitOp struct {
	logs   []api.NewLog
	key    *api.IdempotencyKey
	bytes  int
	answer api.Committed
}

// Commit implements api.Logs.
func (s *Store) Commit(ctx context.Context, logs []api.NewLog, key *api.IdempotencyKey) (api.Committed, error) {
	if fault.Planted(fault.SplitCommits) && key == nil && severalTopics(logs) {
		return s.commitByTopic(ctx, logs)
	}
	o := &commitOp{logs: logs, key: key, bytes: sizeOf(logs)}
	err := s.submit(ctx, o)
	return o.answer, err
}

func sizeOf(logs []api.NewLog) int {
	n := 0
	for i := range logs {
		n += len(logs[i].Body) + 64
	}
	return n
}

func (o *commitOp) needs(n *needs) {
	n.logs(o.logs)
	if o.key != nil {
		n.keys[keyID{o.key.APIKey, o.key.Key}] = o.key
	}
}

func (o *commitOp) size() int { return o.bytes }

func (o *commitOp) apply(_ context.Context, b *batch) error {
	if o.key == nil {
		o.answer = api.Committed{IDs: b.add(o.logs)}
		return nil
	}
	row := b.keys[keyID{o.key.APIKey, o.key.Key}]
	switch {
	case row.ids == nil:
		o.answer = api.Committed{IDs: b.add(o.logs)}
		row.hash, row.ids, row.fresh = o.key.Hash, o.answer.IDs, true
	case row.hash != o.key.Hash:
		return api.Errorf(api.CodeKeyReused, "the Idempotency-Key was used for another commit")
	default:
		o.answer = api.Committed{IDs: row.ids, Duplicate: true}
	}
	return nil
}

// keyID names an idempotency key.
type keyID struct{ apiKey, key string }

func (k keyID) compare(other keyID) int {
	return cmp.Or(cmp.Compare(k.apiKey, other.apiKey), cmp.Compare(k.key, other.key))
}

// keyRow is an idempotency key in a batch, its row locked. ids is nil when it is new, or older than keyLife.
type keyRow struct {
	hash  [32]byte
	ids   []api.ID
	fresh bool // to be written
}

// keyLife is how long, in ms, an idempotency key is known.
const keyLife = 24 * 60 * 60 * 1000

// queueKeys locks the keys' rows, and makes those that are missing: a row is what makes a second server wait.
func (b *batch) queueKeys(q *pgx.Batch, n *needs) {
	if len(n.keys) == 0 {
		return
	}
	ids := make([]keyID, 0, len(n.keys))
	for id := range n.keys {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, keyID.compare)
	var apiKeys, keys []string
	var hashes [][]byte
	for _, id := range ids {
		apiKeys, keys, hashes = append(apiKeys, id.apiKey), append(keys, id.key), append(hashes, n.keys[id].Hash[:])
	}
	// DO UPDATE locks the rows that are there; they stay as they are.
	q.Queue(b.store.q(`INSERT INTO ns.idempotency_keys AS k (api_key, key, hash, created_at)
		SELECT a, u.key, h, ns.now_ms() FROM unnest($1::text[], $2::text[], $3::bytea[]) WITH ORDINALITY AS u (a, key, h, i) ORDER BY i
		ON CONFLICT (api_key, key) DO UPDATE SET key = excluded.key
		RETURNING k.api_key, k.key, k.hash, k.ids, k.created_at > ns.now_ms() - $4`),
		apiKeys, keys, hashes, int64(keyLife)).Query(func(rows pgx.Rows) error {
		defer rows.Close()
		for rows.Next() {
			var id keyID
			var hash, ids []byte
			var alive bool
			if err := rows.Scan(&id.apiKey, &id.key, &hash, &ids, &alive); err != nil {
				return err
			}
			row := &keyRow{}
			copy(row.hash[:], hash)
			if alive && len(ids) > 0 {
				if err := json.Unmarshal(ids, &row.ids); err != nil {
					return err
				}
			}
			b.keys[id] = row
		}
		return rows.Err()
	})
}

func (b *batch) queueKeyAnswers(q *pgx.Batch) {
	var apiKeys, keys []string
	var hashes, answers [][]byte
	for id, row := range b.keys {
		if !row.fresh || fault.Planted(fault.ForgottenKeys) {
			continue
		}
		ids, _ := json.Marshal(row.ids) // numbers alone
		apiKeys, keys = append(apiKeys, id.apiKey), append(keys, id.key)
		hashes, answers = append(hashes, row.hash[:]), append(answers, ids)
	}
	if len(keys) > 0 {
		// created_at is indexed: a row made a moment ago keeps its own, so that the update stays in the page.
		q.Queue(b.store.q(`UPDATE ns.idempotency_keys AS k SET hash = u.h, ids = u.ids,
				created_at = CASE WHEN k.ids = '' THEN k.created_at ELSE $5 END
			FROM unnest($1::text[], $2::text[], $3::bytea[], $4::bytea[]) AS u (a, k, h, ids)
			WHERE k.api_key = u.a AND k.key = u.k`), apiKeys, keys, hashes, answers, b.now)
	}
}

// reserveTopics makes rows for the topics that have none, in a transaction of its own and in order of name, so that
// batches which wait for each other's names cannot deadlock.
func (s *Store) reserveTopics(ctx context.Context, db beginner, names []string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lockPhase)
	defer cancel()
	_, err := exec(ctx, db, s.q(`INSERT INTO ns.topics (name) SELECT name FROM unnest($1::text[]) AS name ORDER BY name
		ON CONFLICT DO NOTHING`), names)
	return err
}
