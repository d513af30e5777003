package procs

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"

	"pipeproc/api"
)

// signatures is the header webhook-signature as Standard Webhooks defines it: for each secret "v1," and the HMAC-SHA256 of
// "id.timestamp.body", with spaces between.
func signatures(secrets []string, id, timestamp string, body []byte) (string, error) {
	var b []byte
	for _, secret := range secrets {
		key, err := api.SecretKey(secret)
		if err != nil {
			return "", err
		}
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(id + "." + timestamp + "."))
		mac.Write(body)
		if len(b) > 0 {
			b = append(b, ' ')
		}
		b = base64.StdEncoding.AppendEncode(append(b, "v1,"...), mac.Sum(nil))
	}
	return string(b), nil
}

// randomHex is n random bytes, as the ids of W3C's Trace Context are written.
func randomHex(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never errs
	return hex.EncodeToString(b)
}
