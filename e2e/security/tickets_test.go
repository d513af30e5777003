//go:build security && linux

package security

import (
	"bytes"
	"encoding/base64"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// ticket asks for one.
func (s *server) ticket(path, authorization string) string {
	s.t.Helper()
	var made struct{ Ticket string }
	s.call("POST", "/v1/stream-tickets", `{"path":"`+path+`"}`, "Authorization", authorization).is(http.StatusCreated).into(&made)
	return made.Ticket
}

// TestTicketsInTheMatrix: a ticket of each role opens its stream, and no other route by any method; and nobody gets one of a stream
// that the key does not open.
func TestTicketsInTheMatrix(t *testing.T) {
	t.Parallel()
	s, people := launchGuarded(t, "--allow-shutdown", "--workers", "0")
	filled := s.prepare()
	_, streams := documentedRoles(t, s.document())
	s.under(bounds{memory: 64, goroutines: 200}, func() {
		for _, d := range deeds {
			if !streams[d.route] || d.route == "GET /v1/live-procs/{name}/changes" || d.route == "GET /v1/topics/{topic}/live" {
				continue // those two change something: below
			}
			path, query, _ := strings.Cut(d.path, "?")
			for _, who := range roles[1:] {
				ticket := s.ticket(path, people.says[who])
				for _, other := range deeds {
					method, _, _ := strings.Cut(other.route, " ")
					target, own, _ := strings.Cut(filled.Replace(other.path), "?")
					target += "?ticket=" + ticket + "&" + own
					switch {
					case other.role == roleNone:
						s.call(method, target, "", "Authorization", "").isProblem(http.StatusBadRequest, "invalid_request")
					case other.route == d.route:
					default:
						s.call(method, target, filled.Replace(other.body), "Authorization", "").isProblem(http.StatusUnauthorized, "unauthorized")
					}
				}
				stream := s.open(path + "?" + query + "&ticket=" + ticket)
				if stream.StatusCode != http.StatusOK || !strings.HasPrefix(stream.Header.Get("Content-Type"), "text/event-stream") {
					t.Errorf("%s by %s's ticket: %s", d.route, who, stream.Status)
				}
				stream.Body.Close()
			}
		}
		for _, path := range []string{"/v1/topics/t/live", filled.Replace("/v1/live-procs/LIVEPROC/changes")} {
			for who := range people.says {
				if !may(role(who), roleWrite) {
					status, code := http.StatusForbidden, "forbidden"
					if role(who) == roleNone {
						status, code = http.StatusUnauthorized, "unauthorized"
					}
					s.call("POST", "/v1/stream-tickets", `{"path":"`+path+`"}`, "Authorization", people.says[who]).isProblem(status, code)
				}
			}
		}
		for _, path := range []string{"", "/", "*", "/v1/topics", "/v1/topics/t", "/v1/tail?topic=t", "/v1/tail/", "/v1/tail#x", "//v1/tail", "/v1//tail",
			"/v1/../v1/tail", "/V1/tail", "/v1/t%61il", "/v1/tail%00", "/v1/tail\\u0000", "/v1/tail\\n", "http://localhost/v1/tail", "/v1/topics/%74/logs",
			"/v1/topics/a.b/logs", "/v1/topics//logs", "/v1/topics/{topic}/logs", "/v1/topics/t/logs/:0", "/v1/topics/t/logs/", "/v1/topics/t/logs;x",
			"/v1/topics/" + strings.Repeat("x", 129) + "/logs", "/v1/live-procs/*/changes", "/metrics", "/healthz"} {
			s.call("POST", "/v1/stream-tickets", `{"path":"`+path+`"}`).isProblem(http.StatusBadRequest, "invalid_request")
		}
	})
	for _, who := range []string{roleWrite, roleAdmin} {
		for _, path := range []string{"/v1/topics/t/live?mode=all&", filled.Replace("/v1/live-procs/LIVEPROC/changes?")} {
			only, _, _ := strings.Cut(path, "?")
			stream := s.open(path + "ticket=" + s.ticket(only, people.says[who]))
			if stream.StatusCode != http.StatusOK {
				t.Errorf("%s by %s's ticket: %s", path, who, stream.Status)
			}
			stream.Body.Close()
		}
	}
}

// TestForgedTickets: a ticket of which anything was changed is none.
func TestForgedTickets(t *testing.T) {
	t.Parallel()
	s, people := launchGuarded(t)
	s.call("POST", "/v1/topics/t/logs", "{}").is(http.StatusCreated)
	ticket := s.ticket("/v1/tail", people.says[roleRead])
	raw, err := base64.RawURLEncoding.DecodeString(ticket)
	if err != nil {
		t.Fatal(err)
	}
	refused := func(ticket string) {
		t.Helper()
		a := s.refusal("/v1/tail?topic=t&ticket="+url.QueryEscape(ticket)).isProblem(http.StatusUnauthorized, "unauthorized")
		a.asksForKey()
		if len(ticket) > 20 && strings.Contains(a.body, ticket) {
			t.Errorf("it tells %s", a.body)
		}
	}
	s.under(bounds{memory: 64, goroutines: 100}, func() {
		for i := range raw {
			for bit := range 8 {
				forged := bytes.Clone(raw)
				forged[i] ^= 1 << bit
				refused(base64.RawURLEncoding.EncodeToString(forged))
			}
		}
		for i := range ticket {
			refused(ticket[:i])
			refused(ticket[i+1:])
			for _, c := range []string{"-", "_", "=", "+", "/", " ", "\n", "\r\n", "\x00", "%"} {
				refused(ticket[:i] + c + ticket[i:])
			}
		}
		for _, text := range []string{ticket + ticket, ticket + "=", ticket + "\n", base64.StdEncoding.EncodeToString(raw[:71]), strings.ToUpper(ticket),
			strings.Repeat("A", len(ticket)), strings.Repeat("A", 50_000), base64.RawURLEncoding.EncodeToString(make([]byte, 72)),
			base64.RawURLEncoding.EncodeToString(append(bytes.Clone(raw), 0)), strings.TrimPrefix(people.says[roleAdmin], "Bearer ")} {
			refused(text)
		}
	})
	stream := s.open("/v1/tail?topic=t&ticket=" + ticket)
	defer stream.Body.Close()
	if stream.StatusCode != http.StatusOK {
		t.Errorf("the ticket itself: %s", stream.Status)
	}
}

// TestReplayedTickets: a ticket opens one stream at a time, at one path, by GET, on servers of its secret, while its key lives.
// Neither it nor a key is told by logs, metrics, problems or traces.
func TestReplayedTickets(t *testing.T) {
	t.Parallel()
	var traces spans
	collector := httptest.NewServer(&traces)
	defer collector.Close()
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte(strings.Repeat("0123456789abcdef", 4)), 0o600); err != nil {
		t.Fatal(err)
	}
	keys := newPeople(t)
	env := []string{"OTEL_EXPORTER_OTLP_ENDPOINT=" + collector.URL, "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf", "OTEL_BSP_SCHEDULE_DELAY=100"}
	flags := []string{"--log-level", "debug", "--api-keys-file", keys.file, "--ticket-secret-file", secret}
	s := launchWith(t, env, append(flags, "--log-format", "json")...)
	twin := launch(t, flags...) // of the same keys and the same secret
	loner := launch(t, "--api-keys-file", keys.file)
	strangers, _ := launchGuarded(t, "--ticket-secret-file", secret)
	open := launch(t, "--ticket-secret-file", secret)
	for _, s := range []*server{s, twin, loner, strangers, open} {
		if s != strangers && s != open {
			s.key = strings.TrimPrefix(keys.says[roleAdmin], "Bearer ")
		}
		s.call("POST", "/v1/topics/t/logs", "{}").is(http.StatusCreated)
	}
	var tickets []string
	take := func(path, who string) string {
		tickets = append(tickets, s.ticket(path, keys.says[who]))
		return tickets[len(tickets)-1]
	}
	refused := func(s *server, path, ticket string, headers ...string) {
		t.Helper()
		s.refusal(path+"ticket="+ticket, headers...).isProblem(http.StatusUnauthorized, "unauthorized").asksForKey()
	}

	ended := make(chan error, 1)
	s.under(bounds{memory: 64, goroutines: 200}, func() {
		ticket := take("/v1/topics/t/logs", roleRead)
		const path = "/v1/topics/t/logs?"
		for _, other := range []string{"/v1/topics/u/logs?", "/v1/tail?topic=t&", "/v1/topics/t/live?mode=all&", "/v1/topics/T/logs?"} {
			refused(s, other, ticket)
		}
		for _, other := range []*server{loner, strangers, open} {
			refused(other, path, ticket)
		}
		refused(s, path, ticket, "Accept", "application/json")
		refused(s, path, ticket, "Accept", "application/x-ndjson")
		s.call("HEAD", path+"ticket="+ticket, "", "Authorization", "", "Accept", "text/event-stream").is(http.StatusUnauthorized)
		for _, method := range []string{"POST", "PUT", "DELETE", "PATCH", "OPTIONS", "get", "STREAM"} {
			a := s.call(method, path+"ticket="+ticket, "", "Authorization", "", "Accept", "text/event-stream")
			if a.status != http.StatusUnauthorized && a.status != http.StatusMethodNotAllowed {
				t.Errorf("%s with a ticket: %d %s", method, a.status, a.body)
			}
		}
		for _, beside := range []string{"Bearer " + s.key, "Bearer x", "Basic x", keys.says[roleRead]} {
			s.refusal(path+"ticket="+ticket, "Authorization", beside).isProblem(http.StatusBadRequest, "invalid_request")
		}
		for _, twice := range []string{"ticket=" + ticket + "&ticket=" + ticket, "ticket=x&ticket=" + ticket, "ticket=&ticket=" + ticket,
			"ticket=" + ticket + "&tick%65t=x"} {
			s.refusal(path+twice).isProblem(http.StatusBadRequest, "invalid_request")
		}
		for _, misspelt := range []string{"Ticket=", "TICKET=", "ticket[]=", "ticket%00=", "%20ticket=", "ticket.=", "x=ticket=", "ticket;a=b&ticket="} {
			s.refusal(path+misspelt+ticket).isProblem(http.StatusUnauthorized, "unauthorized")
		}
		for _, encoded := range []string{"/v1/topics/t/log%73?", "/v1/t%6fpics/t/logs?", "/v1/topics/t/logs%3f", "/v1/topics/t/logs/%3f"} {
			a := s.refusal(encoded + "ticket=" + ticket)
			if a.status < 400 || a.problem() == "" || strings.Contains(a.body, ticket[:16]) {
				t.Errorf("%s: %d %s", encoded, a.status, a.body)
			}
		}

		// After all that it still opens its stream, by other spellings of the same name, too; while that is open, no other one.
		stream := s.open("/v1/topics/%74/logs?tick%65t=" + url.QueryEscape(ticket))
		if stream.StatusCode != http.StatusOK {
			t.Errorf("the ticket itself: %s", stream.Status)
		}
		var beside sync.WaitGroup
		for range 20 {
			beside.Go(func() { refused(s, path, ticket) })
		}
		beside.Wait()
		stream.Body.Close()
		for range 3 { // one after the other
			stream = s.open(path + "ticket=" + ticket)
			if stream.StatusCode != http.StatusOK {
				t.Errorf("once more: %s", stream.Status)
			}
			stream.Body.Close()
		}
		ticket = take("/v1/topics/t/logs", roleRead)
		if stream = twin.open(path + "ticket=" + ticket); stream.StatusCode != http.StatusOK {
			t.Errorf("a twin: %s", stream.Status)
		}
		stream.Body.Close()
	})

	// The key is removed: the stream ends, and its tickets are of no use, whether they were used or not.
	used, unused := take("/v1/tail", roleRead), take("/v1/tail", roleRead)
	stream := s.open("/v1/tail?topic=t&ticket=" + used)
	go func() {
		_, err := io.Copy(io.Discard, stream.Body)
		ended <- err
	}()
	keys.write(t, roleWrite, roleAdmin)
	if err := <-ended; err != nil {
		t.Errorf("the stream's end: %v", err)
	}
	stream.Body.Close()
	s.under(bounds{memory: 64, goroutines: 100}, func() {
		refused(s, "/v1/tail?topic=t&", used)
		refused(s, "/v1/tail?topic=t&", unused)
		s.get("/v1/topics", "Authorization", keys.says[roleRead]).isProblem(http.StatusUnauthorized, "unauthorized")
	})
	// And another key of its name and role does not bring them back.
	_, keys.lines[roleRead] = keygen(t, roleRead, roleRead)
	keys.write(t, roles[1:]...)
	s.eventually("the new key is told of", func() bool { return strings.Contains(s.log.String(), `"action":"add key","target":"read"`) })
	s.under(bounds{memory: 64, goroutines: 100}, func() {
		refused(s, "/v1/tail?topic=t&", used)
		refused(s, "/v1/tail?topic=t&", unused)
	})

	s.eventually("spans come", func() bool {
		return strings.Contains(traces.String(), "/v1/tail") && strings.Contains(traces.String(), "/v1/topics/t/logs")
	})
	told := map[string]string{"log": s.log.String(), "log of a twin": twin.log.String(), "metrics": s.get("/metrics").is(http.StatusOK).body,
		"traces": traces.String(), "profiles": s.goroutines()}
	for where, text := range told {
		for _, key := range keys.says {
			if key = strings.TrimPrefix(key, "Bearer "); key != "" && strings.Contains(text, key) {
				t.Errorf("%s: a key is told", where)
			}
		}
		for _, ticket := range tickets {
			if strings.Contains(text, ticket) || strings.Contains(text, ticket[:32]) {
				t.Errorf("%s: a ticket is told", where)
			}
		}
		if strings.Contains(text, "ticket=") || strings.Contains(text, "0123456789abcdef0123") {
			t.Errorf("%s: the query or the secret is told", where)
		}
	}
	if !strings.Contains(told["log"], `"level":"DEBUG"`) || !strings.Contains(told["log"], `"path":"/v1/tail"`) {
		t.Error("the log tells too little for this to mean anything")
	}
}

// spans collects what is exported, as it comes.
type spans struct {
	mu  sync.Mutex
	got bytes.Buffer
}

func (c *spans) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, _ = io.Copy(&c.got, r.Body)
	w.WriteHeader(http.StatusOK)
}

func (c *spans) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.got.String()
}
