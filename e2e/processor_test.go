package e2e

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"pipeproc/api"
)

// webhookCall is one call of a processor: an HTTP request that waits for its answer.
type webhookCall struct {
	Header   http.Header
	Body     []byte // as it was sent
	delivery        // as it reads
	reply    chan<- func(http.ResponseWriter)
	gone     <-chan struct{} // closed when the server hangs up
}

// delivery is what a webhook is sent.
type delivery struct {
	Proc  string `json:"proc"`
	Topic string `json:"topic"`
	Claim struct {
		Token     string `json:"token"`
		Attempt   int    `json:"attempt"`
		ExpiresAt *int64 `json:"expiresAt"`
	} `json:"claim"`
	Logs []api.Log `json:"logs"`
}

func readDelivery(r *http.Request) (d delivery, body []byte, err error) {
	if body, err = io.ReadAll(r.Body); err != nil {
		return d, nil, err
	}
	if r.Method != http.MethodPost || r.Header.Get("Content-Type") != "application/json" {
		return d, nil, fmt.Errorf("a processor is called with %s %q", r.Method, r.Header.Get("Content-Type"))
	}
	return d, body, json.Unmarshal(body, &d)
}

// answer answers with JSON; body "" is an answer without one.
func (c *webhookCall) answer(status int, body string) { c.answerAs(status, "application/json", body) }

func (c *webhookCall) answerAs(status int, contentType, body string) {
	c.reply <- func(w http.ResponseWriter) {
		if body != "" {
			w.Header().Set("Content-Type", contentType)
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

// die breaks the connection: the work is done, and nobody hears of it.
func (c *webhookCall) die() {
	c.reply <- func(http.ResponseWriter) { panic(http.ErrAbortHandler) }
}

// processor is a webhook whose calls a test answers one by one.
type processor struct {
	t     *testing.T
	URL   string
	calls chan *webhookCall
}

func newProcessor(t *testing.T) *processor {
	t.Helper()
	p := &processor{t: t, calls: make(chan *webhookCall, 1_000)}
	p.URL = serveWebhook(t, func(w http.ResponseWriter, r *http.Request) {
		d, body, err := readDelivery(r)
		if err != nil {
			t.Error(err)
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		reply := make(chan func(http.ResponseWriter), 1)
		p.calls <- &webhookCall{Header: r.Header, Body: body, delivery: d, reply: reply, gone: r.Context().Done()}
		select {
		case f := <-reply:
			f(w)
		case <-r.Context().Done():
		}
	})
	return p
}

// next is the next call.
func (p *processor) next() *webhookCall {
	p.t.Helper()
	select {
	case c := <-p.calls:
		return c
	case <-time.After(20 * time.Second):
		p.t.Fatal("the processor is not called")
		return nil
	}
}

// idle holds that the processor was not called, as far as can be seen now.
func (p *processor) idle() {
	p.t.Helper()
	select {
	case c := <-p.calls:
		p.t.Errorf("the processor is called: %s", c.Body)
	default:
	}
}

// serveWebhook runs h until the end of the test and answers its URL.
func serveWebhook(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(func() {
		s.CloseClientConnections() // of servers that are stopped later
		s.Close()
	})
	return s.URL + "/hook?of=" + cmp.Or(strings.ReplaceAll(t.Name(), "/", "-"), "test")
}

// echoes is a processor that answers the bodies of its logs, byte for byte.
func echoes(w http.ResponseWriter, r *http.Request) {
	d, _, err := readDelivery(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	bodies := make([]string, len(d.Logs))
	for i, l := range d.Logs {
		bodies[i] = string(l.Body)
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = io.WriteString(w, "["+strings.Join(bodies, ",")+"]")
}

// systemProc creates a systemProc that does not exist; members are those beside name, from and processor.
func (w procWire) systemProc(name, from, processor string, members ...string) *wireAnswer {
	w.t.Helper()
	list := append([]string{fmt.Sprintf(`"name":%q,"from":%q,"processor":%q`, name, from, processor)}, members...)
	return w.post("/v1/system-procs", "{"+strings.Join(list, ",")+"}").is(http.StatusCreated)
}

// patientSystemProc creates a systemProc whose processor has more time than a test.
func (w procWire) patientSystemProc(name, from, processor string, members ...string) *wireAnswer {
	w.t.Helper()
	list := append([]string{fmt.Sprintf(`"name":%q,"from":%q,"reclaimTimeout":60000,"processor":{"url":%q,"timeout":50000}`,
		name, from, processor)}, members...)
	return w.post("/v1/system-procs", "{"+strings.Join(list, ",")+"}").is(http.StatusCreated)
}

// commitBodies commits bodies to a topic, all in one commit.
func (w procWire) commitBodies(topic string, bodies ...string) *wireAnswer {
	w.t.Helper()
	logs := make([]string, len(bodies))
	for i, body := range bodies {
		logs[i] = fmt.Sprintf(`{"topic":%q,"body":%s}`, topic, body)
	}
	return w.post("/v1/commit", "["+strings.Join(logs, ",")+"]").is(http.StatusCreated)
}

// done waits until procs have processed everything.
func (w procWire) done(procs ...string) {
	w.t.Helper()
	names, _ := json.Marshal(procs)
	w.post("/v1/wait", fmt.Sprintf(`{"procs":%s,"timeout":30000}`, names)).is(http.StatusOK).has("done", true)
}

// bodies are those of a topic as they are on the wire, one a line; "" for an unknown topic.
func (w procWire) bodies(topic string) string {
	w.t.Helper()
	a := w.get("/v1/topics/" + topic + "/logs?limit=10000")
	if a.Status == http.StatusNotFound {
		return ""
	}
	a.is(http.StatusOK)
	var page struct {
		Logs []struct {
			Body json.RawMessage `json:"body"`
		} `json:"logs"`
	}
	if err := json.Unmarshal([]byte(a.Text), &page); err != nil {
		w.t.Fatal(err)
	}
	lines := make([]string, len(page.Logs))
	for i, l := range page.Logs {
		lines[i] = string(l.Body)
	}
	return strings.Join(lines, "\n")
}

// until polls a proc until it is as ok says.
func (w procWire) until(proc, what string, ok func(api.Proc) bool) api.Proc {
	w.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; {
		var p api.Proc
		if err := json.Unmarshal([]byte(w.proc(proc).Text), &p); err != nil {
			w.t.Fatal(err)
		}
		if ok(p) {
			return p
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("proc %s never has %s: %+v", proc, what, p)
		}
	}
}
