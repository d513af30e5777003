package api

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"strings"
)

// Limits of the secrets that sign the calls of webhooks, as Standard Webhooks has them, and of their rotation.
const (
	secretPrefix  = "whsec_"
	minSecretSize = 24 // bytes
	maxSecretSize = 64
	newSecretSize = 32

	DefaultOverlap = 24 * 60 * 60 * 1000      // ms
	MaxOverlap     = 30 * 24 * 60 * 60 * 1000 // ms
	MaxSecrets     = 10                       // that sign at a time
)

// NewSecret makes a secret: whsec_ and the standard base64 of 32 random bytes.
func NewSecret() string {
	key := make([]byte, newSecretSize)
	_, _ = rand.Read(key) // never errs
	return secretPrefix + base64.StdEncoding.EncodeToString(key)
}

// SecretKey is the key that a secret stands for. What is not whsec_ and the standard base64 of 24 to 64 bytes is
// CodeInvalidRequest, in words that do not repeat it.
func SecretKey(secret string) ([]byte, error) {
	text, prefixed := strings.CutPrefix(secret, secretPrefix)
	key, err := base64.StdEncoding.DecodeString(text)
	// One text for each key: the decoder skips line breaks and takes loose bits at the end, not every other one does.
	if !prefixed || err != nil || base64.StdEncoding.EncodeToString(key) != text ||
		len(key) < minSecretSize || len(key) > maxSecretSize {
		return nil, Errorf(CodeInvalidRequest, "a secret is %s and the standard base64, padded, of %d to %d bytes", secretPrefix,
			minSecretSize, maxSecretSize)
	}
	return key, nil
}

// Secrets are those of a systemProc, newest first. The first one is current and has no end; the others, used before it,
// go on signing until theirs.
type Secrets []SecretUse

// SecretUse is a secret, and until when it signs: epoch ms, nil without end.
type SecretUse struct {
	Secret    string `json:"secret"`
	ExpiresAt *int64 `json:"expiresAt,omitempty"`
}

// Signing are the secrets that sign now, newest first: each call carries a signature of each.
func (s Secrets) Signing(now int64) []string {
	var list []string
	for _, u := range s {
		if u.signs(now) {
			list = append(list, u.Secret)
		}
	}
	return list
}

func (u SecretUse) signs(now int64) bool { return u.ExpiresAt == nil || now < *u.ExpiresAt }

// Current reports whether secret is the current one, in a time that does not tell how much of it is right.
func (s Secrets) Current(secret string) bool {
	return len(s) > 0 && subtle.ConstantTimeCompare([]byte(s[0].Secret), []byte(secret)) == 1
}

// Rotate makes secret, which is valid, the current one. Those that sign now go on for overlap ms, or until their own end
// where that comes first; with 0 they end. The current one again changes nothing. CodeInvalidRequest when more than
// MaxSecrets would sign.
func (s Secrets) Rotate(now int64, secret string, overlap int64) (Secrets, error) {
	if s.Current(secret) {
		return s, nil
	}
	next := Secrets{{Secret: secret}}
	end := now + overlap
	for _, u := range s {
		if overlap == 0 || !u.signs(now) || u.Secret == secret {
			continue
		}
		if u.ExpiresAt == nil || *u.ExpiresAt > end {
			u.ExpiresAt = &end
		}
		next = append(next, u)
	}
	if len(next) > MaxSecrets {
		return nil, Errorf(CodeInvalidRequest, "%d secrets sign at a time at most, and so many do already: rotate with "+
			`"overlap": 0, which ends all former ones at once, or wait until one of them ends`, MaxSecrets)
	}
	return next, nil
}

// PreviousExpiresAt is when the secret used before the current one ends, and with it the last of the former ones; nil
// when none of them signs now.
func (s Secrets) PreviousExpiresAt(now int64) *int64 {
	if len(s) < 2 || !s[1].signs(now) {
		return nil
	}
	return s[1].ExpiresAt
}

// SecretRotation asks for another secret of a systemProc.
type SecretRotation struct {
	Secret  string `json:"secret,omitempty" empty:"invalid_request"` // "": the server generates one
	Overlap *int64 `json:"overlap,omitempty"`                        // ms, 0 to MaxOverlap; nil: DefaultOverlap
}

// Validate answers the 400 that r deserves.
func (r *SecretRotation) Validate() error {
	if r.Secret != "" {
		if _, err := SecretKey(r.Secret); err != nil {
			return err
		}
	}
	if r.Overlap != nil && (*r.Overlap < 0 || *r.Overlap > MaxOverlap) {
		return Errorf(CodeInvalidRequest, "overlap is 0 to %d ms", int64(MaxOverlap))
	}
	return nil
}

// RotatedSecret is the answer to a SecretRotation.
type RotatedSecret struct {
	Secret            string `json:"secret,omitempty"`  // the one that was generated, told this once
	PreviousExpiresAt *int64 `json:"previousExpiresAt"` // epoch ms: when the secret used until now ends; nil: it has
}
