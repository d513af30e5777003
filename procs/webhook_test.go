package procs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"pipeproc/api"
)

// TestCall compares a whole call with the contract: the envelope byte for byte, bodies included, and the headers.
func TestCall(t *testing.T) {
	const odd = `{"z":1e2,"a":12345678901234567890,"a":1e400,"s":"<&>\u0000\ud800é` + "\u2028" + `"}`
	bubble(t, func(t *testing.T, m *memory, n *network) {
		type call struct {
			Method, Path, Body string
			Header             http.Header
		}
		calls := make(chan call, 1)
		token := ""
		n.serve(t, "hook", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			token = m.proc("p").Claim.Token
			calls <- call{r.Method, r.URL.String(), string(body), r.Header}
			w.WriteHeader(http.StatusNoContent)
		}))
		m.commit("in", odd, `[2]`)
		m.system("p", "in", []string{"out"}, "http://hook/path?q=1", count(10), func(j *job) {
			j.processor.Headers = map[string]string{"authorization": "Bearer x", "Accept": "application/*"}
			j.secrets = []string{"whsec_" + strings.Repeat("QUJD", 8), "whsec_" + strings.Repeat("REVG", 8)}
		})
		at := time.Now()
		work(t, m, n, Config{Workers: 1, Concurrency: 1, Version: "1.2"})

		got := <-calls
		parent := got.Header.Get("traceparent") // random
		if !regexp.MustCompile(`^00-[0-9a-f]{32}-[0-9a-f]{16}-01$`).MatchString(parent) {
			t.Errorf("traceparent %q", parent)
		}
		ms := at.UnixMilli()
		want := call{"POST", "/path?q=1", fmt.Sprintf(`{"proc":"p","topic":"in","claim":{"token":%q,"attempt":1,`+
			`"expiresAt":%d},"logs":[{"id":"%d-0","body":%s},{"id":"%d-1","body":[2]}]}`, token, ms+10_000, ms, odd, ms),
			http.Header{
				"Accept":          {"application/*"},
				"Authorization":   {"Bearer x"},
				"Content-Type":    {"application/json"},
				"Traceparent":     {parent},
				"User-Agent":      {"pipeproc/1.2"},
				"Webhook-Attempt": {"1"},
				"Webhook-Id":      {"msg_ns_1_0_0_1"},
				"Webhook-Signature": {sign("ABCABCABCABCABCABCABCABC", "msg_ns_1_0_0_1", at, got.Body) + " " +
					sign("DEFDEFDEFDEFDEFDEFDEFDEF", "msg_ns_1_0_0_1", at, got.Body)},
				"Webhook-Timestamp": {fmt.Sprint(at.Unix())},
			}}
		want.Header.Set("Content-Length", fmt.Sprint(len(got.Body)))
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	})
}

// sign makes one signature as the specification's own library does.
func sign(key, id string, at time.Time, body string) string {
	wh, err := standardwebhooks.NewWebhookRaw([]byte(key))
	if err != nil {
		panic(err)
	}
	text, err := wh.Sign(id, at, []byte(body))
	if err != nil {
		panic(err)
	}
	return text
}

// TestEachAttemptIsSigned holds what the attempts at the same logs share, and what not: the id, and nothing else that is
// signed. The trace of a failed one is told in the log.
func TestEachAttemptIsSigned(t *testing.T) {
	bubble(t, func(t *testing.T, m *memory, n *network) {
		const attempts = 3
		var told strings.Builder
		n.logger = slog.New(slog.NewTextHandler(&told, nil))
		traces, stamps := map[string]bool{}, map[string]bool{}
		called := 0
		n.serve(t, "hook", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			called++
			body, _ := io.ReadAll(r.Body)
			wh, err := standardwebhooks.NewWebhook(m.jobs["p"].secrets[0])
			if err != nil {
				t.Error(err)
				return
			}
			if err := wh.Verify(body, r.Header); err != nil {
				t.Errorf("attempt %d: %v", called, err)
			}
			if err := wh.Verify(append(body, ' '), r.Header); err == nil {
				t.Errorf("attempt %d: another body is verified", called)
			}
			if id := r.Header.Get("webhook-id"); id != "msg_ns_1_0_0_0" {
				t.Errorf("attempt %d: webhook-id %s", called, id)
			}
			trace := strings.Split(r.Header.Get("traceparent"), "-")[1]
			traces[trace], stamps[r.Header.Get("webhook-timestamp")] = true, true
			if called < attempts {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
			if logged := told.String(); strings.Contains(logged, trace) {
				t.Errorf("attempt %d: its trace is in the log already: %s", called, logged)
			}
			time.Sleep(time.Second)
		}))
		m.commit("in", `{}`)
		m.system("p", "in", nil, "http://hook/")
		stop := work(t, m, n, one)
		time.Sleep(time.Minute)
		stop()
		if called != attempts || len(traces) != attempts || len(stamps) != attempts {
			t.Errorf("%d calls, traces %v, timestamps %v", called, traces, stamps)
		}
		logged := 0
		for trace := range traces {
			if strings.Contains(told.String(), "trace="+trace) {
				logged++
			}
		}
		if logged != attempts-1 { // the last one did not fail
			t.Errorf("%d traces in the log: %s", logged, &told)
		}
		if strings.Contains(told.String(), "whsec_") {
			t.Errorf("a secret is in the log: %s", &told)
		}
	})
}

// TestBadSecret: a secret that cannot be used fails the attempt; nothing is sent unsigned.
func TestBadSecret(t *testing.T) {
	bubble(t, func(t *testing.T, m *memory, n *network) {
		n.serve(t, "hook", http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("called") }))
		m.commit("in", `{}`)
		m.system("p", "in", nil, "http://hook/", func(j *job) { j.secrets = []string{api.NewSecret(), "whsec_hush"} })
		work(t, m, n, one)
		synctest.Wait()
		if p := m.proc("p"); p.LastError != "the processor cannot be called" || p.Reclaims != 1 {
			t.Errorf("%q, %d reclaims", p.LastError, p.Reclaims)
		}
	})
}

func TestPayloadNeverExpires(t *testing.T) {
	b, err := payload(&api.Execution{Claimed: api.Claimed{Proc: "p", Topic: "t", Claim: api.Claim{Token: `"`, Attempt: 3}}})
	want := `{"proc":"p","topic":"t","claim":{"token":"\"","attempt":3,"expiresAt":null},"logs":[]}`
	if err != nil || string(b) != want {
		t.Errorf("got %s, %v; want %s", b, err, want)
	}
}

// TestAnswers gives every kind of answer to one execution, and looks at what became of it.
func TestAnswers(t *testing.T) {
	ten := strings.Repeat(`{"a":1},`, 5000) + `{"a":1}` // 5001 × 2 topics
	long := `{"s":"` + strings.Repeat("x", 1<<20-8) + `"}`
	tests := []struct {
		name    string
		to      []string
		reply   http.HandlerFunc
		a, b    string // bodies
		goesOn  bool   // under OnMaxContinue
		reason  string // "" acked
		disable bool
		waits   int64 // ms until the next attempt, uncounted
		next    int64 // the same, counted
		later   bool
	}{
		{name: "object", reply: replies(200, "", ` {"n": 1e2} `), a: `{"n":1e2}`, b: `{"n":1e2}`},
		{name: "201", reply: replies(201, "text/plain", `{"n":1}`), a: `{"n":1}`, b: `{"n":1}`},
		{name: "array", reply: replies(200, "application/json", `[{"n":1}, [2], {}]`), a: "{\"n\":1}\n[2]\n{}", b: "{\"n\":1}\n[2]\n{}"},
		{name: "fidelity", reply: replies(200, "", `{"z":12345678901234567890,"a":"<&>\u0000\ud800é","a":1e400}`), to: []string{"a"},
			a: `{"z":12345678901234567890,"a":"<&>\u0000\ud800é","a":1e400}`},
		{name: "null", reply: replies(200, "application/json", ` null`)},
		{name: "no elements", reply: replies(200, "application/json", `[ ]`)},
		{name: "204", reply: replies(204, "", "")},
		{name: "empty", reply: replies(200, "application/json", " \r\n")},
		{name: "no to", to: []string{}, reply: replies(200, "application/json", `{"n":1}`)},
		{name: "no to, no JSON", to: []string{}, reply: replies(200, commitType, strings.Repeat("<", 2<<20))},
		{name: "202", reply: replies(202, "application/json", `{"n":1}`), later: true},
		{name: "202, no to", to: []string{}, reply: replies(202, "", ""), later: true},

		{name: "scalar element", reply: replies(200, "", `[{"n":1}, 2]`), reason: "the answer cannot be committed: a log's body is a JSON object or array"},
		{name: "null element", reply: replies(200, "", `[null]`), reason: "the answer cannot be committed: a log's body is a JSON object or array"},
		{name: "scalar", reply: replies(200, "", `"n"`), reason: "the answer is no object or array"},
		{name: "not JSON", reply: replies(200, "application/json", `{"n":1}}`), reason: "the answer is not JSON"},
		{name: "not UTF-8", reply: replies(200, "application/json", "{\"n\":\"\xff\"}"), reason: "the answer cannot be committed: the body is not valid UTF-8"},
		{name: "too deep", reply: replies(200, "", strings.Repeat("[", 130)+strings.Repeat("]", 130)), reason: "the answer cannot be committed: the log's body is nested deeper than 128"},
		{name: "1 MiB", to: []string{"a"}, reply: replies(200, "", long), a: long},
		{name: "over 1 MiB", reply: replies(200, "", long+" "), reason: "the answer is over 1048576 bytes"},
		{name: "endless", reply: func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, long+long)
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done() // not before the server hangs up
		}, reason: "the answer is over 1048576 bytes"},
		{name: "logs", reply: replies(200, "", "["+ten+"]"), reason: "the answer gives 10002 logs to commit, at most 10000 are possible"},
		{name: "bytes", to: strings.Split("a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p,q", ","), reply: replies(200, "", long),
			reason: "the answer gives 17825792 bytes to commit, at most 16777216 are possible"},

		{name: "commit", reply: replies(200, commitType+"; charset=utf-8", `[{"topic":"b","body":{"n": 1}},{"body":[2],"topic":"a"},{"topic":"b","body":{}}]`),
			a: "[2]", b: "{\"n\":1}\n{}"},
		{name: "commit of nothing", reply: replies(200, commitType, `[]`)},
		{name: "commit, empty", reply: replies(200, commitType, ``)},
		{name: "commit elsewhere", reply: replies(200, commitType, `[{"topic":"a","body":{}},{"topic":"c","body":{}}]`), reason: "the answer names a topic that is not among to"},
		{name: "commit nowhere", reply: replies(200, commitType, `[{"body":{}}]`), reason: "the answer names a topic that is not among to"},
		{name: "commit without body", reply: replies(200, commitType, `[{"topic":"a"}]`), reason: "the answer cannot be committed: the log has no body: a JSON object or array is expected"},
		{name: "commit of a scalar", reply: replies(200, commitType, `[{"topic":"a","body":1}]`), reason: "the answer cannot be committed: a log's body is a JSON object or array"},
		{name: "commit, unknown member", reply: replies(200, commitType, `[{"topic":"a","body":{},"x":1}]`), reason: `the answer cannot be committed: unknown member "[].x"`},
		{name: "commit, member twice", reply: replies(200, commitType, `[{"topic":"a","topic":"a","body":{}}]`), reason: `the answer cannot be committed: member "[].topic" is given twice`},
		{name: "commit of one", reply: replies(200, commitType, `{"topic":"a","body":{}}`), reason: "the answer cannot be committed: the body is not an array"},
		{name: "commit of many", reply: replies(200, commitType, "["+strings.Repeat(`{"topic":"a","body":[]},`, 10_000)+`{"topic":"a","body":[]}]`),
			reason: "the answer gives 10001 logs to commit, at most 10000 are possible"},

		{name: "500", reply: replies(500, "", `{"n":1}`), reason: "the processor answered 500"},
		{name: "304", reply: replies(304, "", ""), reason: "the processor answered 304"},
		{name: "404", reply: replies(404, "", ""), reason: "the processor answered 404"},
		{name: "400", reply: replies(400, "", ""), reason: "the processor answered 400", disable: true},
		{name: "422", reply: replies(422, "", ""), reason: "the processor answered 422", disable: true},
		{name: "410", reply: replies(410, "", ""), reason: "the processor answered 410", disable: true},
		{name: "400, continue", goesOn: true, reply: replies(400, "", ""), reason: "the processor answered 400", next: 300_000},
		{name: "422, continue", goesOn: true, reply: replies(422, "", ""), reason: "the processor answered 422", next: 300_000},
		{name: "410, continue", goesOn: true, reply: replies(410, "", ""), reason: "the processor answered 410", disable: true},
		{name: "429", reply: replies(429, "", ""), reason: "the processor answered 429"},
		{name: "429, later", reply: retry(429, "7"), reason: "the processor answered 429", waits: 7000},
		{name: "503, later", reply: retry(503, "Sat, 01 Jan 2000 00:01:00 GMT"), reason: "the processor answered 503", waits: 60_000}, // the bubble's clock starts at 2000
		{name: "503, a day later", reply: retry(503, "86400"), reason: "the processor answered 503", waits: 86_400_000},
		{name: "500, later", reply: retry(500, "7"), reason: "the processor answered 500"},
		{name: "headers", reply: func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X", strings.Repeat("x", 100<<10)) },
			reason: "the connection to the processor failed"},
		{name: "upgrade", reply: hijack("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\nx"),
			reason: "the processor answered 101"},
		{name: "broken off", reply: hijack("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"), reason: "the connection to the processor failed"},
		{name: "not HTTP", reply: hijack("hello\r\n\r\n"), reason: "the connection to the processor failed"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, m *memory, n *network) {
				n.serve(t, "hook", tt.reply)
				to := tt.to
				if to == nil {
					to = []string{"a", "b"}
				}
				m.commit("in", `{}`)
				m.system("p", "in", to, "http://hook/", func(j *job) {
					if tt.goesOn {
						j.OnMaxReclaimsReached = api.OnMaxContinue
					}
				})
				work(t, m, n, one)
				synctest.Wait() // the clock stands still, so there is no retry
				p := m.proc("p")

				if diff := cmp.Diff([]string{tt.a, tt.b}, []string{m.bodies("a"), m.bodies("b")}); diff != "" {
					t.Error(diff)
				}
				if p.LastError != tt.reason {
					t.Errorf("lastError %q, want %q", p.LastError, tt.reason)
				}
				if acked := p.Position == 1; acked != (tt.reason == "" && !tt.later) {
					t.Errorf("acked: %v", acked)
				}
				if claimed := p.Claim != nil; claimed != tt.later {
					t.Errorf("claimed: %v", claimed)
				}
				if disabled := p.Status == api.StatusDisabled; disabled != tt.disable {
					t.Errorf("disabled: %v", disabled)
				}
				reclaims := 0
				if tt.reason != "" && tt.waits == 0 {
					reclaims = 1
				}
				if p.Reclaims != reclaims {
					t.Errorf("reclaims %d, want %d", p.Reclaims, reclaims)
				}
				if in := max(tt.waits, tt.next); in > 0 && (p.NextAttemptAt == nil || *p.NextAttemptAt != now()+in) {
					t.Errorf("next attempt at %v, want in %d ms", p.NextAttemptAt, in)
				}
			})
		})
	}
}

func retry(status int, after string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", after)
		w.WriteHeader(status)
	}
}

// hijack answers with raw bytes, then closes the connection if they do not leave HTTP.
func hijack(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		c, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		_, _ = io.WriteString(c, text)
		if strings.Contains(text, "101") {
			return // open, as a connection that was switched
		}
		_ = c.Close()
	}
}

// TestTimeout: a call ends after the processor's own time-out, whether it is the headers or the rest that do not come.
func TestTimeout(t *testing.T) {
	own := int64(2500)
	tests := []struct {
		name    string
		headers bool
		edit    func(*job)
		after   time.Duration
		reason  string
	}{
		{"default", false, func(*job) {}, 8 * time.Second, "the processor did not answer within 8000 ms"},
		{"body", true, func(*job) {}, 8 * time.Second, "the processor did not answer within 8000 ms"},
		{"never", false, func(j *job) { j.ReclaimTimeout = -1 }, 10 * time.Second, "the processor did not answer within 10000 ms"},
		{"own", false, func(j *job) { j.processor.Timeout = &own }, 2500 * time.Millisecond, "the processor did not answer within 2500 ms"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, m *memory, n *network) {
				n.serve(t, "hook", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					_, _ = io.Copy(io.Discard, r.Body)
					if tt.headers {
						w.WriteHeader(http.StatusOK)
						_ = http.NewResponseController(w).Flush()
					}
					<-r.Context().Done()
				}))
				m.commit("in", `{}`)
				m.system("p", "in", []string{"out"}, "http://hook/", tt.edit)
				failedAt := make(chan time.Time, 1)
				m.onFail = func() error {
					select {
					case failedAt <- time.Now():
					default:
					}
					return nil
				}
				start := time.Now()
				work(t, m, n, one)
				if d := (<-failedAt).Sub(start); d != tt.after {
					t.Errorf("ended after %v, want %v", d, tt.after)
				}
				synctest.Wait()
				if p := m.proc("p"); p.LastError != tt.reason || p.Reclaims != 1 {
					t.Errorf("lastError %q, %d reclaims; want %q, 1", p.LastError, p.Reclaims, tt.reason)
				}
			})
		})
	}
}

// TestRedirect: no redirect is followed.
func TestRedirect(t *testing.T) {
	for _, status := range []int{301, 302, 303, 307, 308} {
		bubble(t, func(t *testing.T, m *memory, n *network) {
			n.serve(t, "hook", http.RedirectHandler("http://other/", status))
			n.serve(t, "other", http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("followed") }))
			m.commit("in", `{}`)
			m.system("p", "in", nil, "http://hook/")
			work(t, m, n, one)
			synctest.Wait()
			if p, want := m.proc("p"), fmt.Sprintf("the processor answered %d", status); p.LastError != want {
				t.Errorf("lastError %q, want %q", p.LastError, want)
			}
		})
	}
}

// TestNoConnection: reasons tell what happened, not whom the server met.
func TestNoConnection(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := "http://" + l.Addr().String() + "/"
	_ = l.Close()
	plain := httptest.NewServer(replies(200, "", "{}"))
	defer plain.Close()
	tests := []struct{ name, url, reason string }{
		{"refused", closed, "the connection to the processor was refused"},
		{"no TLS", strings.Replace(plain.URL, "http:", "https:", 1), "the connection to the processor failed"},
		{"no URL", "http://a b/", "the processor cannot be called"},
	}
	ps := New(Config{Workers: 1, Concurrency: 1, Reach: Reach{Loopback: true}}).hire()
	defer ps.close()
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := ps.webhook.process(t.Context(), &api.Execution{Processor: api.Processor{URL: tt.url}, ReclaimTimeout: -1})
			var f *attemptError
			if !errors.As(err, &f) || f.Reason != tt.reason {
				t.Errorf("got %v, want %q", err, tt.reason)
			}
		})
	}
}

// TestDialEndsWithTheWorker: a dial that nobody waits for any more does not outlive its worker.
func TestDialEndsWithTheWorker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended := make(chan struct{})
		ps := New(Config{Concurrency: 1, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done()
			close(ended)
			return nil, ctx.Err()
		}}).hire()
		_, err := ps.webhook.process(t.Context(), &api.Execution{Processor: api.Processor{URL: "http://hook/"}, ReclaimTimeout: 1})
		if err == nil {
			t.Error("no error")
		}
		ps.close()
		<-ended
	})
}

func TestRetryAfter(t *testing.T) {
	at := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	const year = 365 * 24 * 60 * 60 * 1000
	tests := []struct {
		value string
		ms    int64
	}{
		{"", 0}, {"soon", 0}, {"-1", 0}, {"1.5", 0}, {"+3", 0},
		{"0", 1000}, {"1", 1000}, {"120", 120_000}, {"3600", 3_600_000}, {"3601", 3_601_000},
		{"31536000", year}, {"31536001", year}, {"99999999999999999999999999", year},
		{"Wed, 02 Jan 2030 03:04:35 GMT", 30_000}, {"Wed, 02 Jan 2030 03:04:00 GMT", 1000}, {"Thu, 03 Jan 2030 03:04:35 GMT", 86_430_000},
		{"Thu, 02 Jan 2031 03:04:05 GMT", year}, {"Thu, 02 Jan 2031 03:04:06 GMT", year}, {"Fri, 31 Dec 9999 23:59:59 GMT", year},
	}
	for _, tt := range tests {
		if got := retryAfter(tt.value, at); got != tt.ms {
			t.Errorf("Retry-After: %q is %d ms, want %d", tt.value, got, tt.ms)
		}
	}
	// At least: a moment within a millisecond counts for the whole of it.
	if got := retryAfter("Wed, 02 Jan 2030 03:04:35 GMT", at.Add(time.Microsecond)); got != 30_000 {
		t.Errorf("a date 29.999999 s away is %d ms", got)
	}
}

// TestOutputOrder: the elements in order, each for the topics in order.
func TestOutputOrder(t *testing.T) {
	log := func(topic, body string) api.NewLog { return api.NewLog{Topic: topic, Body: json.RawMessage(body)} }
	tests := []struct {
		contentType, body string
		want              []api.NewLog
	}{
		{"application/json", `[{"n":1},{"n":2}]`,
			[]api.NewLog{log("b", `{"n":1}`), log("a", `{"n":1}`), log("b", `{"n":2}`), log("a", `{"n":2}`)}},
		{commitType, `[{"topic":"a","body":[1]},{"topic":"b","body":[2]},{"topic":"a","body":[3]}]`,
			[]api.NewLog{log("a", `[1]`), log("b", `[2]`), log("a", `[3]`)}},
	}
	for _, tt := range tests {
		got, err := output(tt.contentType, []byte(tt.body), []string{"b", "a"})
		if err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Error(diff)
		}
	}
}

// FuzzOutput: whatever a processor answers is output that the store takes, or a failed attempt.
func FuzzOutput(f *testing.F) {
	for _, body := range []string{`{}`, `[{"a":1},[2]]`, `null`, `[1]`, ``, `[{"topic":"a","body":{}}]`, "[{\"\xff\":1}]"} {
		f.Add(body, false)
		f.Add(body, true)
	}
	f.Fuzz(func(t *testing.T, body string, addressed bool) {
		contentType := "application/json"
		if addressed {
			contentType = commitType
		}
		logs, err := output(contentType, []byte(body), []string{"a", "b"})
		var f *attemptError
		if err != nil && !errors.As(err, &f) {
			t.Fatalf("error %v", err)
		}
		for _, l := range logs {
			if again, err := api.LogBody(l.Body); err != nil || string(again) != string(l.Body) || !json.Valid(l.Body) {
				t.Fatalf("log %s: %v", l.Body, err)
			}
		}
	})
}
