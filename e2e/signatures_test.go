package e2e

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"log/slog"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"pipeproc/api"
	"pipeproc/cmd/server/service"
	"pipeproc/pgstore/pgtest"
)

// TestSignatures holds how the calls of webhooks are signed, and by what, each test on topics of its own.
func TestSignatures(t *testing.T) {
	t.Parallel()
	s := start(t)
	for name, test := range map[string]func(procWire){
		"each attempt":      testEachAttemptIsSigned,
		"claimed by an ack": testSignedAfterAck,
		"bodies":            testSignedBodies,
		"several topics":    testOneSecretForAllProcs,
		"given secret":      testGivenSecret,
		"rotation":          testRotation,
		"rotation repeated": testRotationRepeated,
		"rotated back":      testRotatedBack,
		"ten secrets":       testTenSecrets,
		"typed client":      testRotationByClient,
		"bad secrets":       testBadSecrets,
		"bad rotations":     testBadRotations,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(wireTo(t, s))
		})
	}
}

const (
	secretA = "whsec_QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFB" // 24 bytes
	secretB = "whsec_QkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQg=="
	secretC = "whsec_Q0NDQ0NDQ0NDQ0NDQ0NDQ0NDQ0NDQ0NDQ0M="
)

// verify verifies a call as the specification's own library does.
func verify(t *testing.T, secret string, header http.Header, body []byte) error {
	t.Helper()
	wh, err := standardwebhooks.NewWebhook(secret)
	if err != nil {
		t.Fatalf("%q: %v", secret, err)
	}
	return wh.Verify(body, header)
}

// signedBy holds that a call is signed by exactly these secrets, in this order, each of which verifies it.
func (c *webhookCall) signedBy(t *testing.T, secrets ...string) *webhookCall {
	t.Helper()
	at := time.Unix(mustParse(t, c.Header.Get("webhook-timestamp")), 0)
	var want []string
	for i, secret := range secrets {
		if err := verify(t, secret, c.Header, c.Body); err != nil {
			t.Errorf("secret %d does not verify: %v", i, err)
		}
		wh, err := standardwebhooks.NewWebhook(secret)
		if err != nil {
			t.Fatal(err)
		}
		signature, err := wh.Sign(c.Header.Get("webhook-id"), at, c.Body)
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, signature)
	}
	if diff := cmp.Diff(want, strings.Split(c.Header.Get("webhook-signature"), " ")); diff != "" {
		t.Errorf("webhook-signature (-want +got):\n%s", diff)
	}
	if id := c.Header.Get("webhook-id"); id == "" || strings.Contains(id, ".") {
		t.Errorf("webhook-id %q", id)
	}
	for _, name := range []string{"webhook-id", "webhook-timestamp", "webhook-signature", "traceparent"} {
		if n := len(c.Header.Values(name)); n != 1 {
			t.Errorf("%s is sent %d times", name, n)
		}
	}
	return c
}

func mustParse(t *testing.T, text string) (n int64) {
	t.Helper()
	if _, err := fmt.Sscanf(text, "%d", &n); err != nil || fmt.Sprint(n) != text {
		t.Fatalf("%q is no number", text)
	}
	return n
}

// trace is the id of the trace that a call belongs to.
func (c *webhookCall) trace(t *testing.T) string {
	t.Helper()
	m := regexp.MustCompile(`^00-([0-9a-f]{32})-([0-9a-f]{16})-01$`).FindStringSubmatch(c.Header.Get("traceparent"))
	if m == nil || strings.Trim(m[1], "0") == "" || strings.Trim(m[2], "0") == "" {
		t.Fatalf("traceparent %q", c.Header.Get("traceparent"))
	}
	return m[1]
}

// secretOf is the secret of a systemProc that was created without one.
func secretOf(created *wireAnswer) string {
	created.t.Helper()
	created.is(201).hasExactly("", "procs", "secret")
	secret := created.str("secret")
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
	if err != nil || len(key) != 32 || !strings.HasPrefix(secret, "whsec_") {
		created.t.Fatalf("a generated secret is %q: %d bytes, %v", secret, len(key), err)
	}
	return secret
}

// rotate rotates the secret of a systemProc.
func (w procWire) rotate(name, body string) *wireAnswer {
	w.t.Helper()
	return w.post("/v1/system-procs/"+name+"/rotate-secret", body)
}

func testEachAttemptIsSigned(w procWire) {
	p := newProcessor(w.t)
	w.commit("attempts_a", 1)
	secret := secretOf(w.systemProc("attempts", "attempts_a", p.URL))
	first := p.next().signedBy(w.t, secret)

	// Whatever is changed on the way is seen.
	for what, change := range map[string]func(h http.Header, body []byte) []byte{
		"body": func(_ http.Header, body []byte) []byte {
			return bytes.Replace(body, []byte(`"i":0`), []byte(`"i":1`), 1)
		},
		"space":   func(_ http.Header, body []byte) []byte { return append(body, ' ') },
		"no body": func(http.Header, []byte) []byte { return nil },
		"id":      func(h http.Header, body []byte) []byte { h.Set("webhook-id", h.Get("webhook-id")+"0"); return body },
		"timestamp": func(h http.Header, body []byte) []byte {
			h.Set("webhook-timestamp", fmt.Sprint(time.Now().Unix()+60))
			return body
		},
	} {
		header := first.Header.Clone()
		if err := verify(w.t, secret, header, change(header, bytes.Clone(first.Body))); err == nil {
			w.t.Errorf("another %s is verified", what)
		}
	}
	if err := verify(w.t, secretA, first.Header, first.Body); err == nil {
		w.t.Error("another secret verifies it")
	}

	// The next attempt comes a second later.
	first.reply <- func(rw http.ResponseWriter) {
		rw.Header().Set("Retry-After", "1")
		rw.WriteHeader(http.StatusServiceUnavailable)
	}
	second := p.next().signedBy(w.t, secret)
	second.answer(500, "")
	third := p.next().signedBy(w.t, secret)
	third.answer(204, "")
	for i, c := range []*webhookCall{second, third} {
		if c.Header.Get("webhook-id") != first.Header.Get("webhook-id") {
			w.t.Errorf("attempt %d: id %q, at first %q", i+2, c.Header.Get("webhook-id"), first.Header.Get("webhook-id"))
		}
	}
	if a, b := mustParse(w.t, first.Header.Get("webhook-timestamp")), mustParse(w.t, second.Header.Get("webhook-timestamp")); b <= a {
		w.t.Errorf("timestamps %d, %d", a, b)
	}
	if a, b, c := first.trace(w.t), second.trace(w.t), third.trace(w.t); a == b || b == c || a == c {
		w.t.Errorf("attempts share a trace: %s %s %s", a, b, c)
	}
	w.done("attempts")
}

// testSignedAfterAck: logs that are claimed with the ack of those before are signed as any, by what signs by then.
func testSignedAfterAck(w procWire) {
	p := newProcessor(w.t)
	w.commit("acked_a", 5)
	secret := secretOf(w.systemProc("acked", "acked_a", p.URL))
	p.next().signedBy(w.t, secret).answer(204, "")
	c := p.next().signedBy(w.t, secret)
	rotated := w.rotate("acked", `{}`).is(200).str("secret")
	c.answer(204, "")
	c = p.next().signedBy(w.t, rotated, secret)
	w.rotate("acked", `{"secret":"`+secretA+`","overlap":0}`).is(200)
	c.answer(500, "") // the retry is signed anew
	p.next().signedBy(w.t, secretA).answer(204, "")
	c = p.next().signedBy(w.t, secretA)
	c.answer(202, "")
	w.post("/v1/procs/acked/reclaim", `{"token":"`+c.Claim.Token+`"}`).is(200)
	p.next().signedBy(w.t, secretA).answer(204, "")
	p.next().signedBy(w.t, secretA).answer(204, "")
	w.done("acked")
}

// testSignedBodies: what is signed is what is sent, byte for byte.
func testSignedBodies(w procWire) {
	p := newProcessor(w.t)
	w.commitBodies("signed_a", odd...)
	w.commitBodies("signed_a", `{"s":"`+strings.Repeat("é", 1<<18)+`"}`)
	secret := secretOf(w.systemProc("signed", "signed_a", p.URL, `"count":4`))
	for range 2 {
		p.next().signedBy(w.t, secret).answer(204, "")
	}
	w.done("signed")
}

func testOneSecretForAllProcs(w procWire) {
	p := newProcessor(w.t)
	w.commit("several_a", 1)
	w.commit("several_b", 1)
	spec := func(from string) string { return `{"name":"several","from":` + from + `,"processor":"` + p.URL + `"}` }
	secret := secretOf(w.post("/v1/system-procs", spec(`["several_a"]`)))
	// A list that gains a topic makes no other secret, nor tells it.
	w.post("/v1/system-procs", spec(`["several_a","several_b"]`)).is(200).hasExactly("", "procs")
	for range 2 {
		p.next().signedBy(w.t, secret).answer(204, "")
	}
	w.done("several__several_a", "several__several_b")
	// Made anew, it has another one.
	w.send(http.MethodDelete, "/v1/system-procs/several", "").is(200)
	if again := secretOf(w.post("/v1/system-procs", spec(`["several_a"]`))); again == secret {
		w.t.Error("the secret of a systemProc that is gone is used again")
	} else {
		p.next().signedBy(w.t, again).answer(204, "")
	}
}

func testGivenSecret(w procWire) {
	p := newProcessor(w.t)
	w.commit("given_a", 2)
	spec := func(members string) string {
		return `{"name":"given","from":"given_a","processor":"` + p.URL + `"` + members + `}`
	}
	w.post("/v1/system-procs", spec(`,"secret":"`+secretA+`"`)).is(201).hasExactly("", "procs")
	p.next().signedBy(w.t, secretA).answer(204, "")

	// The same again, with the secret or without it.
	for _, members := range []string{"", `,"secret":"` + secretA + `"`, `,"secret":null`} {
		w.post("/v1/system-procs", spec(members)).is(200).hasExactly("", "procs")
	}
	refused := w.post("/v1/system-procs", spec(`,"secret":"`+secretB+`"`)).isProblem(409, "proc_options_differ")
	if !strings.Contains(refused.str("detail"), "rotate-secret") || strings.Contains(refused.Text, "whsec_") {
		w.t.Errorf("told: %s", refused.Text)
	}
	w.post("/v1/system-procs", spec(`,"count":2,"secret":"`+secretA+`"`)).isProblem(409, "proc_options_differ")
	w.send(http.MethodPatch, "/v1/system-procs/given", `{"secret":"`+secretB+`"}`).isProblem(400, "invalid_request")
	p.next().signedBy(w.t, secretA).answer(204, "")

	// After a rotation it is the current one that counts.
	w.rotate("given", `{"secret":"`+secretB+`"}`).is(200)
	w.post("/v1/system-procs", spec(`,"secret":"`+secretB+`"`)).is(200)
	w.post("/v1/system-procs", spec(`,"secret":"`+secretA+`"`)).isProblem(409, "proc_options_differ")
	w.send(http.MethodPatch, "/v1/system-procs/given", `{"processor":{"url":"`+p.URL+`","timeout":5000}}`).is(200)
	w.commit("given_a", 1)
	p.next().signedBy(w.t, secretB, secretA).answer(204, "")
	w.done("given")

	// Bounds of the specification: 24 to 64 bytes.
	for _, n := range []int{24, 25, 64} {
		name := fmt.Sprintf("given_%d", n)
		secret := "whsec_" + base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{0xff}, n))
		w.systemProc(name, "given_a", p.URL, `"offset":":1"`, `"secret":"`+secret+`"`)
		p.next().signedBy(w.t, secret).answer(204, "")
	}
}

// testRotation: the answers, whatever the clock.
func testRotation(w procWire) {
	p := newProcessor(w.t)
	w.commit("rotation_a", 1)
	first := secretOf(w.systemProc("rotation", "rotation_a", p.URL))
	between := func(a *wireAnswer, from time.Time, overlap time.Duration) {
		w.t.Helper()
		ends := time.UnixMilli(a.num("previousExpiresAt"))
		if ends.Before(from.Add(overlap).Truncate(time.Millisecond)) || ends.After(time.Now().Add(overlap)) {
			w.t.Errorf("previousExpiresAt %v from now, want %v", time.Until(ends), overlap)
		}
	}
	now := time.Now()
	a := w.rotate("rotation", ``).is(200).hasExactly("", "secret", "previousExpiresAt")
	between(a, now, 24*time.Hour)
	second := a.str("secret")
	now = time.Now()
	a = w.rotate("rotation", `{"overlap":2592000000}`).is(200).hasExactly("", "secret", "previousExpiresAt")
	between(a, now, 30*24*time.Hour)
	third := a.str("secret")
	now = time.Now()
	a = w.rotate("rotation", `{"secret":"`+secretA+`","overlap":60000}`).is(200).hasExactly("", "previousExpiresAt")
	between(a, now, time.Minute)
	if first == second || second == third || first == third {
		w.t.Error("a secret is generated twice")
	}
	p.next().answer(500, "") // as it was signed when it was claimed
	p.next().signedBy(w.t, secretA, third, second, first).answer(204, "")
	w.done("rotation")

	w.rotate("rotation", `{"overlap":0}`).is(200).hasExactly("", "secret", "previousExpiresAt").has("previousExpiresAt", nil)
	w.rotate("nobody", ``).isProblem(404, "invalid_system_proc")
	w.rotate("nobody", `{"overlap":-1}`).isProblem(400, "invalid_request") // 400s come first
}

func testRotationRepeated(w procWire) {
	p := newProcessor(w.t)
	w.commit("repeated_a", 1)
	secret := secretOf(w.systemProc("repeated", "repeated_a", p.URL))
	c := p.next()
	a := w.rotate("repeated", `{"secret":"`+secretA+`","overlap":60000}`).is(200)
	for _, overlap := range []string{``, `,"overlap":60000`, `,"overlap":0`, `,"overlap":2592000000`} {
		w.rotate("repeated", `{"secret":"`+secretA+`"`+overlap+`}`).tellsAs(a)
	}
	c.answer(500, "")
	p.next().signedBy(w.t, secretA, secret).answer(204, "")
	w.done("repeated")
	// The current one from the beginning on.
	w.rotate("repeated", `{"secret":"`+secretB+`","overlap":0}`).is(200).has("previousExpiresAt", nil)
	w.rotate("repeated", `{"secret":"`+secretB+`"}`).is(200).hasExactly("", "previousExpiresAt").has("previousExpiresAt", nil)
}

func testRotatedBack(w procWire) {
	p := newProcessor(w.t)
	w.commit("back_a", 1)
	w.systemProc("back", "back_a", p.URL, `"secret":"`+secretA+`"`)
	c := p.next()
	w.rotate("back", `{"secret":"`+secretB+`"}`).is(200)
	w.rotate("back", `{"secret":"`+secretA+`"}`).is(200)
	c.answer(500, "")
	p.next().signedBy(w.t, secretA, secretB).answer(204, "")
	w.done("back")
}

func testTenSecrets(w procWire) {
	p := newProcessor(w.t)
	w.commit("ten_a", 1)
	secrets := []string{secretOf(w.systemProc("ten", "ten_a", p.URL))}
	c := p.next()
	for range 9 {
		secrets = append([]string{w.rotate("ten", ``).is(200).str("secret")}, secrets...)
	}
	for _, body := range []string{``, `{"overlap":1000}`, `{"secret":"` + secretA + `"}`} {
		refused := w.rotate("ten", body).isProblem(400, "invalid_request")
		if !strings.Contains(refused.str("detail"), `"overlap": 0`) {
			w.t.Errorf("it is not told what to do: %s", refused.str("detail"))
		}
	}
	c.answer(500, "")
	c = p.next().signedBy(w.t, secrets...)
	last := w.rotate("ten", `{"overlap":0}`).is(200).str("secret")
	c.answer(500, "")
	p.next().signedBy(w.t, last).answer(204, "")
	w.done("ten")
}

func testRotationByClient(w procWire) {
	p := newProcessor(w.t)
	w.commit("typed_a", 1)
	made, created, err := w.SystemProc(w.t.Context(), api.SystemProcSpec{Name: "typed", From: api.Names{List: []string{"typed_a"}, Single: true},
		Processor: &api.Processor{URL: p.URL}})
	if err != nil || !created || len(made.Procs) != 1 {
		w.t.Fatalf("%+v, %v, %v", made, created, err)
	}
	p.next().signedBy(w.t, made.Secret).answer(500, "")
	rotated, err := w.RotateSecret(w.t.Context(), "typed", api.SecretRotation{Overlap: new(int64(0))})
	if err != nil || rotated.PreviousExpiresAt != nil {
		w.t.Fatalf("%+v, %v", rotated, err)
	}
	c := p.next()
	if verify(w.t, made.Secret, c.Header, c.Body) == nil { // it was claimed before
		c.answer(500, "")
		c = p.next()
	}
	c.signedBy(w.t, rotated.Secret).answer(204, "")
	w.done("typed")
}

func testBadSecrets(w procWire) {
	key := func(n int) string { return "whsec_" + base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, n)) }
	url := `"processor":"` + nowhere + `"`
	for _, secret := range []string{`""`, `"whsec_"`, `"x"`, `7`, `true`, `[]`, `{}`, `["` + secretA + `"]`, `"` + strings.TrimPrefix(secretA, "whsec_") + `"`,
		`"WHSEC_` + strings.TrimPrefix(secretA, "whsec_") + `"`, `"whpk_` + strings.TrimPrefix(secretA, "whsec_") + `"`, `" ` + secretA + `"`,
		`"` + secretA + ` "`, `"` + secretA + `\n"`, `"` + secretA + `="`, `"` + key(0) + `"`, `"` + key(23) + `"`, `"` + key(65) + `"`, `"` + key(4096) + `"`,
		`"` + strings.TrimRight(key(32), "=") + `"`, `"whsec_` + strings.Repeat("_", 32) + `"`, `"whsec_` + strings.Repeat("-", 32) + `"`,
		`"whsec_` + strings.Repeat("é", 16) + `"`, `"whsec_` + strings.Repeat(`\u0000`, 32) + `"`, `"` + strings.TrimSuffix(key(25), "==") + `"`} {
		a := w.post("/v1/system-procs", `{"name":"bad","from":"bad_a",`+url+`,"secret":`+secret+`}`).isProblem(400, "invalid_request")
		if given := strings.Trim(secret, `" `); len(given) > 8 && strings.Contains(a.Text, given) {
			w.t.Errorf("the secret is told: %s", a.Text)
		}
	}
	w.post("/v1/system-procs", `{"name":"bad","from":"bad_a",`+url+`,"Secret":"`+secretA+`"}`).isProblem(400, "invalid_request")
	w.post("/v1/system-procs", `{"name":"bad","from":"bad_a",`+url+`,"secret":"`+secretA+`","secret":"`+secretA+`"}`).isProblem(400, "invalid_request")
	w.post("/v1/system-procs", `{"name":"bad","from":"bad_a","processor":{"url":"`+nowhere+`","secret":"`+secretA+`"}}`).isProblem(400, "invalid_request")
	a := w.post("/v1/system-procs", `{"name":"bad","from":"bad_a","processor":{"inline":"(log, done) => done()"},"secret":"`+secretA+`"}`).isProblem(400, "invalid_request")
	if got := a.str("detail"); got != "secret belongs to a url" {
		w.t.Errorf("an inline function with a secret: %s", got)
	}
	// None of the headers is a user's to set.
	for _, name := range []string{"webhook-signature", "Webhook-Id", "WEBHOOK-TIMESTAMP", "traceparent", "tracestate"} {
		w.post("/v1/system-procs", `{"name":"bad","from":"bad_a","processor":{"url":"`+nowhere+`","headers":{"`+name+`":"x"}}}`).
			isProblem(400, "no_valid_processor_provided")
	}
	w.get("/v1/system-procs/bad").isProblem(404, "invalid_system_proc")
}

func testBadRotations(w procWire) {
	w.systemProc("badrotation", "badrotation_a", nowhere, `"secret":"`+secretA+`"`)
	for _, body := range []string{`{"secret":""}`, `{"secret":"x"}`, `{"secret":7}`, `{"secret":["` + secretB + `"]}`, `{"overlap":-1}`, `{"overlap":2592000001}`,
		`{"overlap":1.5}`, `{"overlap":1e3}`, `{"overlap":"1000"}`, `{"overlap":true}`, `{"overlap":9223372036854775808}`, `{"overlap":1,"overlap":1}`,
		`{"Overlap":1}`, `{"secrets":["` + secretB + `"]}`, `{"secret":"` + secretB + `","overlap":-1}`, `{"secret":"x","overlap":0}`,
		`"` + secretB + `"`, `[]`, `null`, `{`} {
		w.rotate("badrotation", body).isProblem(400, "invalid_request")
	}
	w.rotate("a%20b", ``).isProblem(400, "invalid_proc_format")
	w.get("/v1/system-procs/badrotation/rotate-secret").isProblem(405, "method_not_allowed")
	w.send(http.MethodDelete, "/v1/system-procs/badrotation/rotate-secret", "").isProblem(405, "method_not_allowed")
	w.post("/v1/system-procs/badrotation/rotate-secret?overlap=0", ``).isProblem(400, "invalid_request")
	// A proc of that name is no systemProc.
	w.send(http.MethodPut, "/v1/procs/badrotation_p", `{"topic":"badrotation_a"}`).is(201)
	w.rotate("badrotation_p", ``).isProblem(404, "invalid_system_proc")
	// None of it changed anything: the secret is the current one.
	w.post("/v1/system-procs", `{"name":"badrotation","from":"badrotation_a","processor":"`+nowhere+`","secret":"`+secretA+`"}`).is(200)
	w.rotate("badrotation", `{"secret":"`+secretA+`"}`).is(200).has("previousExpiresAt", nil)
}

// TestSecretsOverlap moves the clock through the overlaps of two rotations.
func TestSecretsOverlap(t *testing.T) {
	t.Parallel()
	s := start(t)
	w := wireTo(t, s)
	p := newProcessor(t)
	w.systemProc("sp", "a", p.URL, `"secret":"`+secretA+`"`)
	call := func(secrets ...string) *webhookCall {
		t.Helper()
		w.commit("a", 1)
		c := p.next().signedBy(t, secrets...)
		c.answer(204, "")
		w.done("sp")
		return c
	}
	call(secretA)
	w.rotate("sp", `{"secret":"`+secretB+`"}`).is(200) // 24 h
	call(secretB, secretA)
	pgtest.MoveClock(t, s.Database, "default", 23*time.Hour)
	w.rotate("sp", `{"secret":"`+secretC+`","overlap":172800000}`).is(200)
	call(secretC, secretB, secretA)

	pgtest.MoveClock(t, s.Database, "default", 24*time.Hour+time.Minute)
	c := call(secretC, secretB) // the first one was not prolonged
	if err := verify(t, secretA, c.Header, c.Body); err == nil {
		t.Error("the first secret verifies after its overlap")
	}
	pgtest.MoveClock(t, s.Database, "default", (23+48)*time.Hour+time.Minute)
	c = call(secretC)
	for _, secret := range []string{secretA, secretB} {
		if err := verify(t, secret, c.Header, c.Body); err == nil {
			t.Error("a former secret verifies after its overlap")
		}
	}
	w.rotate("sp", `{"secret":"`+secretC+`"}`).is(200).has("previousExpiresAt", nil)

	// A shorter overlap shortens that of an earlier rotation, and 0 ends it.
	w.rotate("sp", `{"secret":"`+secretB+`"}`).is(200)
	w.rotate("sp", `{"secret":"`+secretA+`","overlap":60000}`).is(200)
	call(secretA, secretB, secretC)
	pgtest.MoveClock(t, s.Database, "default", (23+48)*time.Hour+3*time.Minute)
	call(secretA)
	w.rotate("sp", `{"secret":"`+secretB+`"}`).is(200)
	call(secretB, secretA)
	w.rotate("sp", `{"secret":"`+secretC+`","overlap":0}`).is(200).has("previousExpiresAt", nil)
	call(secretC)
}

// TestSignedAfterRestart: another server goes on with the same webhook-id, and signs with the same secrets.
func TestSignedAfterRestart(t *testing.T) {
	t.Parallel()
	s := start(t)
	w := wireTo(t, s)
	p := newProcessor(t)
	w.commit("a", 1)
	secret := secretOf(w.systemProc("sp", "a", p.URL))
	rotated := w.rotate("sp", ``).is(200).str("secret")
	first := p.next()
	first.reply <- func(rw http.ResponseWriter) {
		rw.Header().Set("Retry-After", "3600")
		rw.WriteHeader(http.StatusTooManyRequests)
	}
	w.until("sp", "failed", func(p api.Proc) bool { return p.LastError != "" })
	s.Stop()
	p.idle()
	pgtest.MoveClock(t, s.Database, "default", time.Hour)

	w = wireTo(t, startOn(t, s.Database))
	second := p.next().signedBy(t, rotated, secret)
	if a, b := first.Header.Get("webhook-id"), second.Header.Get("webhook-id"); a != b {
		t.Errorf("webhook-id %q before the restart, %q after it", a, b)
	}
	if a, b := mustParse(t, first.Header.Get("webhook-timestamp")), mustParse(t, second.Header.Get("webhook-timestamp")); b < a {
		t.Errorf("timestamps %d, %d", a, b)
	}
	if first.trace(t) == second.trace(t) {
		t.Errorf("attempts share a trace: %s", first.trace(t))
	}
	second.answer(204, "")
	w.done("sp")
	// Nobody is told the secret afterwards either.
	w.post("/v1/system-procs", `{"name":"sp","from":"a","processor":"`+p.URL+`"}`).is(200).hasExactly("", "procs")
}

// lockedBuffer is written by the server and read by the test.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// TestSecretsAreNotTold: no answer but the one that a secret was generated for tells it, nor does the server's log; which
// tells the trace of an attempt that failed.
func TestSecretsAreNotTold(t *testing.T) {
	t.Parallel()
	var told lockedBuffer
	s := start(t, func(c *service.Config) {
		c.Logger = slog.New(slog.NewTextHandler(&told, &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	w := wireTo(t, s)
	p := newProcessor(t)
	w.commit("a", 2)
	secrets := []string{secretA, secretB, secretC}
	var answers []*wireAnswer
	keep := func(a *wireAnswer) *wireAnswer { answers = append(answers, a); return a }

	spec := func(name, members string) string {
		return `{"name":"` + name + `","from":"a","to":"o","processor":{"url":"` + p.URL + `","headers":{"X-Key":"v"}}` + members + `}`
	}
	generated := w.post("/v1/system-procs", spec("sp", ``))
	secrets = append(secrets, secretOf(generated))
	keep(w.post("/v1/system-procs", spec("sp", ``)).is(200))
	keep(w.post("/v1/system-procs", spec("sp", `,"secret":"`+secretA+`"`)).is(409))
	keep(w.post("/v1/system-procs", spec("sp", `,"secret":"`+secretA+`=="`)).is(400))
	keep(w.post("/v1/system-procs", spec("given", `,"offset":"$>","secret":"`+secretA+`"`)).is(201))
	keep(w.post("/v1/system-procs", spec("given", `,"offset":"$>","secret":"`+secretB+`"`)).is(409))
	keep(w.rotate("given", `{"secret":"`+secretB+`"}`).is(200))
	keep(w.rotate("given", `{"secret":"`+secretB+`"}`).is(200))
	keep(w.rotate("given", `{"secret":"`+secretC+`x"}`).is(400))
	keep(w.rotate("nobody", `{"secret":"`+secretC+`"}`).is(404))
	secrets = append(secrets, w.rotate("sp", ``).is(200).str("secret"))
	keep(w.send(http.MethodPatch, "/v1/system-procs/sp", `{"secret":"`+secretC+`"}`).is(400))
	keep(w.send(http.MethodPatch, "/v1/system-procs/sp", `{"maxReclaims":3}`).is(200))

	c := p.next()
	trace := c.trace(t)
	c.answer(200, `{"`+strings.Repeat("x", 10)) // not JSON
	c = p.next()
	c.die()
	p.next().answer(500, secretA)
	w.until("sp", "been disabled", func(p api.Proc) bool { return p.Status == api.StatusDisabled })
	if log := told.String(); !strings.Contains(log, "trace="+trace) || !strings.Contains(log, "trace="+c.trace(t)) {
		t.Errorf("the log does not tell the trace %s of a failed attempt:\n%s", trace, log)
	}

	for _, path := range []string{"/v1/system-procs", "/v1/system-procs/sp", "/v1/system-procs/given", "/v1/procs", "/v1/procs/sp", "/v1/procs/given",
		"/v1/topics", "/v1/topics/a", "/v1/topics/a/logs", "/v1/gc", "/metrics", "/readyz", "/healthz"} {
		keep(w.get(path).is(200))
	}
	keep(w.post("/v1/wait", `{"procs":["given"]}`).is(200))
	keep(w.send(http.MethodDelete, "/v1/system-procs/given", "").is(200))
	keep(w.send(http.MethodDelete, "/v1/system-procs/sp", "").is(200))
	s.Stop()
	log := told.String()
	if log == "" {
		t.Error("the log is empty")
	}
	for i, secret := range secrets {
		key := strings.TrimPrefix(secret, "whsec_")
		for _, a := range answers {
			if strings.Contains(a.Text, key) {
				t.Errorf("%s tells secret %d: %s", a.what, i, a.Text)
			}
		}
		if strings.Contains(log, key) {
			t.Errorf("the log tells secret %d:\n%s", i, log)
		}
	}
}
