package main

import (
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

const (
	secretA = "whsec_QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFB"
	secretB = "whsec_QkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQg=="
	secretC = "whsec_Q0NDQ0NDQ0NDQ0NDQ0NDQ0NDQ0NDQ0NDQ0M=" // nobody knows it
)

// signedCalls calls a processor that knows secretA and secretB.
func signedCalls(t *testing.T, url string) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	const body = `{"proc":"p","topic":"numbers","claim":{"token":"t","attempt":1,"expiresAt":null},"logs":[{"id":"1-0","body":{"myNumber":1,"s":"é"}}]}`
	now := time.Now()
	sign := func(secret, id string, at time.Time, body string) string {
		wh, err := standardwebhooks.NewWebhook(secret)
		if err != nil {
			t.Fatal(err)
		}
		signature, err := wh.Sign(id, at, []byte(body))
		if err != nil {
			t.Fatal(err)
		}
		return signature
	}
	a, b, c := sign(secretA, "msg_1", now, body), sign(secretB, "msg_1", now, body), sign(secretC, "msg_1", now, body)
	type change func(h http.Header)
	with := func(name, value string) change { return func(h http.Header) { h.Set(name, value) } }
	at := func(d time.Duration) change {
		return func(h http.Header) {
			h.Set("webhook-timestamp", unix(now.Add(d)))
			h.Set("webhook-signature", sign(secretA, "msg_1", now.Add(d), body))
		}
	}
	tests := []struct {
		name   string
		change change
		body   string
		status int
	}{
		{"the first secret", with("webhook-signature", a), body, 200},
		{"the second secret", with("webhook-signature", b), body, 200},
		{"both", with("webhook-signature", b+" "+a), body, 200},
		{"another one as well", with("webhook-signature", c+" "+b), body, 200},
		{"other versions as well", with("webhook-signature", "v2,x v1a,y== v1 , v1, "+a), body, 200},
		{"4 minutes old", at(-4 * time.Minute), body, 200},
		{"4 minutes early", at(4 * time.Minute), body, 200},
		{"signed, and no good", with("webhook-signature", sign(secretA, "msg_1", now, "{")), "{", 422},

		{"another secret", with("webhook-signature", c), body, 401},
		{"no signature", func(h http.Header) { h.Del("webhook-signature") }, body, 401},
		{"empty", with("webhook-signature", ""), body, 401},
		{"another version", with("webhook-signature", "v2"+a[2:]), body, 401},
		{"no version", with("webhook-signature", a[3:]), body, 401},
		{"cut off", with("webhook-signature", a[:len(a)-1]), body, 401},
		{"longer", with("webhook-signature", a+"="), body, 401},
		{"not ASCII", with("webhook-signature", "v1,é"), body, 401},
		{"commas between", with("webhook-signature", a+","+b), body, 401},
		{"another body", with("webhook-signature", a), body + " ", 401},
		{"no body", with("webhook-signature", a), "", 401},
		{"another id", with("webhook-id", "msg_2"), body, 401},
		{"no id", func(h http.Header) { h.Del("webhook-id") }, body, 401},
		{"another timestamp", with("webhook-timestamp", unix(now.Add(time.Second))), body, 401},
		{"no timestamp", func(h http.Header) { h.Del("webhook-timestamp") }, body, 401},
		{"no number", with("webhook-timestamp", "now"), body, 401},
		{"no end", with("webhook-timestamp", strings.Repeat("9", 400)), body, 401},
		{"6 minutes old", at(-6 * time.Minute), body, 401},
		{"6 minutes early", at(6 * time.Minute), body, 401},
	}
	for _, tt := range tests {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(tt.body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header = http.Header{"Content-Type": {"application/json"}, "Webhook-Id": {"msg_1"}, "Webhook-Timestamp": {unix(now)}, "Webhook-Signature": {a}}
		tt.change(req.Header)
		resp, err := client.Do(req)
		if err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		answer, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != tt.status {
			t.Errorf("%s: status %d, want %d: %s, %v", tt.name, resp.StatusCode, tt.status, answer, err)
		}
	}
}

func unix(at time.Time) string { return strconv.FormatInt(at.Unix(), 10) }
