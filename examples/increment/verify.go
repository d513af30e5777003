package main

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// tolerance is how far a call's timestamp may be from the clock here: an old call that somebody kept is refused.
const tolerance = 5 * time.Minute

// readSecrets reads whsec_… secrets with spaces between: while one is rotated, the former and the new one.
func readSecrets(text string) (keys [][]byte, err error) {
	for secret := range strings.FieldsSeq(text) {
		key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
		if err != nil || !strings.HasPrefix(secret, "whsec_") {
			return nil, errors.New("INCREMENT_SECRET is whsec_…, or several of them with spaces between")
		}
		keys = append(keys, key)
	}
	return keys, nil
}

// verify tells whether a call is signed with one of the keys, as Standard Webhooks defines it: the header has a signature
// for each secret that PipeProc signs with, of the id, the timestamp and the body as it was sent.
func verify(keys [][]byte, h http.Header, body []byte, now time.Time) error {
	timestamp := h.Get("webhook-timestamp")
	seconds, err := strconv.ParseInt(timestamp, 10, 64)
	if err != nil || now.Sub(time.Unix(seconds, 0)).Abs() > tolerance {
		return errors.New("the webhook's timestamp is not about now")
	}
	for _, key := range keys {
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(h.Get("webhook-id") + "." + timestamp + "."))
		mac.Write(body)
		want := "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
		for given := range strings.FieldsSeq(h.Get("webhook-signature")) {
			if hmac.Equal([]byte(given), []byte(want)) { // in constant time
				return nil
			}
		}
	}
	return errors.New("the webhook's signature is not that of a known secret")
}
