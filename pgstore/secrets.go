package pgstore

import (
	"context"
	"encoding/json"

	"github.com/jackc/pgx/v5"

	"pipeproc/api"
)

// parseSecrets reads the column secrets.
func parseSecrets(text string) (secrets api.Secrets, err error) {
	return secrets, json.Unmarshal([]byte(text), &secrets)
}

// readSecrets answers the secrets of a definition, with the clock that they are to be judged by.
func (s *Store) readSecrets(ctx context.Context, tx pgx.Tx, id int64) (secrets api.Secrets, now int64, err error) {
	var text string
	if err := tx.QueryRow(ctx, s.q("SELECT secrets, ns.now_ms() FROM ns.system_procs WHERE id = $1"), id).Scan(&text, &now); err != nil {
		return nil, 0, err
	}
	secrets, err = parseSecrets(text)
	return secrets, now, err
}

// checkSecret holds that the secret that spec gives, if any, is the current one.
func (s *Store) checkSecret(ctx context.Context, tx pgx.Tx, id int64, spec api.SystemProcSpec) error {
	if spec.Secret == "" {
		return nil
	}
	secrets, _, err := s.readSecrets(ctx, tx, id)
	if err == nil && !secrets.Current(spec.Secret) {
		return api.Errorf(api.CodeProcOptionsDiffer, "systemProc %q exists with another secret; "+
			"POST /v1/system-procs/%s/rotate-secret changes it", spec.Name, spec.Name)
	}
	return err
}

// RotateSecret implements api.SystemProcs.
func (s *Store) RotateSecret(ctx context.Context, name string, r api.SecretRotation) (answer api.RotatedSecret, err error) {
	secret, overlap := r.Secret, int64(api.DefaultOverlap)
	if secret == "" {
		secret = api.NewSecret()
		answer.Secret = secret
	}
	if r.Overlap != nil {
		overlap = *r.Overlap
	}
	err = s.writeTx(ctx, func(ctx context.Context, tx pgx.Tx) error {
		if err := s.lockSystemProcs(ctx, tx); err != nil {
			return err
		}
		rows, err := s.readSystemProcs(ctx, tx, "name = $1", name)
		if err != nil {
			return err
		}
		if len(rows) == 0 {
			return unknownSystemProc(name)
		}
		secrets, now, err := s.readSecrets(ctx, tx, rows[0].id)
		if err != nil {
			return err
		}
		if secrets, err = secrets.Rotate(now, secret, overlap); err != nil {
			return err
		}
		answer.PreviousExpiresAt = secrets.PreviousExpiresAt(now)
		text, err := json.Marshal(secrets) //nolint:gosec // what the database is to hold
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, s.q("UPDATE ns.system_procs SET secrets = $2 WHERE id = $1"), rows[0].id, text)
		return err
	})
	if err != nil {
		return api.RotatedSecret{}, err
	}
	return answer, nil
}
