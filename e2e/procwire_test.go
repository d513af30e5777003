package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"pipeproc/pgstore/pgtest"
)

// procWire speaks raw HTTP to a server, so that a test sees answers as they are on the wire.
type procWire struct {
	*server
	t *testing.T
}

// wireTo speaks to s on behalf of t, whose failure it is when something is not as said.
func wireTo(t *testing.T, s *server) procWire { return procWire{s, t} }

// wireAnswer is an answer on the wire; JSON is read, its numbers kept as text.
type wireAnswer struct {
	t      *testing.T
	what   string // the request, for messages
	Status int
	Header http.Header
	Text   string
	JSON   any
}

// send sends one request; body "" is none, all else is sent as application/json.
func (w procWire) send(method, path, body string) *wireAnswer {
	w.t.Helper()
	a, err := w.try(w.t.Context(), method, path, body)
	if err != nil {
		w.t.Fatal(err)
	}
	return a
}

// try is send for other goroutines than the test's.
func (w procWire) try(ctx context.Context, method, path, body string) (*wireAnswer, error) {
	var r io.Reader
	header := http.Header{}
	if body != "" {
		r = strings.NewReader(body)
		header.Set("Content-Type", "application/json")
	}
	resp, err := w.Do(ctx, method, path, r, header)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	a := &wireAnswer{t: w.t, what: fmt.Sprintf("%s %s %.200s", method, path, body), Status: resp.StatusCode, Header: resp.Header,
		Text: string(data)}
	if strings.Contains(resp.Header.Get("Content-Type"), "json") && len(data) > 0 {
		d := json.NewDecoder(bytes.NewReader(data))
		d.UseNumber()
		if err := d.Decode(&a.JSON); err != nil {
			return nil, fmt.Errorf("%s: %w", a.what, err)
		}
	}
	return a, nil
}

func (w procWire) post(path, body string) *wireAnswer {
	w.t.Helper()
	return w.send(http.MethodPost, path, body)
}

func (w procWire) get(path string) *wireAnswer {
	w.t.Helper()
	return w.send(http.MethodGet, path, "")
}

// proc is what GET tells of a proc.
func (w procWire) proc(name string) *wireAnswer {
	w.t.Helper()
	return w.get("/v1/procs/" + name).is(http.StatusOK)
}

// claim claims of a proc and expects logs.
func (w procWire) claim(proc, body string) *wireAnswer {
	w.t.Helper()
	return w.post("/v1/procs/"+proc+"/claim", body).is(http.StatusOK)
}

// ack acks the claim of an earlier answer.
func (w procWire) ack(proc string, claimed *wireAnswer) *wireAnswer {
	w.t.Helper()
	return w.post("/v1/procs/"+proc+"/ack", `{"token":"`+claimed.str("claim.token")+`"}`).is(http.StatusOK)
}

// commit commits n logs to a topic, in one commit, and answers their ids.
func (w procWire) commit(topic string, n int) []string {
	w.t.Helper()
	logs := make([]string, n)
	for i := range logs {
		logs[i] = fmt.Sprintf(`{"topic":%q,"body":{"i":%d}}`, topic, i)
	}
	return w.post("/v1/commit", "["+strings.Join(logs, ",")+"]").is(http.StatusCreated).strs("ids")
}

// background sends a POST that is expected to be held, and answers the channel of its answer. It comes back when the
// server has most likely begun to hold it: it has answered other requests since.
func (w procWire) background(path, body string) <-chan *wireAnswer {
	w.t.Helper()
	answers := make(chan *wireAnswer, 1)
	ctx := w.t.Context()
	go func() {
		a, err := w.try(ctx, http.MethodPost, path, body)
		if err != nil {
			a = &wireAnswer{t: w.t, what: path, Text: err.Error()}
		}
		answers <- a
	}()
	for range 3 {
		w.commit("unrelated", 1)
	}
	select {
	case a := <-answers:
		w.t.Fatalf("%s was answered at once: %d %s", a.what, a.Status, a.Text)
	default:
	}
	return answers
}

// soon is the answer of a held request, which is to come without waiting for a poll or a time-out of the request.
func (w procWire) soon(answers <-chan *wireAnswer) *wireAnswer {
	w.t.Helper()
	select {
	case a := <-answers:
		return a
	case <-time.After(15 * time.Second):
		w.t.Fatal("the request is still held")
		return nil
	}
}

// wireClock is a database's clock, which stands still until it is moved.
type wireClock struct {
	t   *testing.T
	url string
	Now int64
}

// stopClock stops the clock of the server's database.
func (w procWire) stopClock() *wireClock {
	w.t.Helper()
	c := &wireClock{w.t, w.Database, time.Now().UnixMilli()}
	pgtest.SetClock(w.t, c.url, "default", c.Now)
	return c
}

// pass lets ms pass.
func (c *wireClock) pass(ms int64) {
	c.t.Helper()
	c.Now += ms
	pgtest.SetClock(c.t, c.url, "default", c.Now)
}

// is holds the status.
func (a *wireAnswer) is(status int) *wireAnswer {
	a.t.Helper()
	if a.Status != status {
		a.t.Fatalf("%s: %d %.600s, want %d", a.what, a.Status, a.Text, status)
	}
	return a
}

// isEmpty holds the status of an answer without a body.
func (a *wireAnswer) isEmpty(status int) *wireAnswer {
	a.t.Helper()
	if a.is(status); a.Text != "" {
		a.t.Errorf("%s: the body of a %d: %q", a.what, status, a.Text)
	}
	return a
}

// isProblem holds that a is an RFC 9457 problem with this code, and with these extensions alone.
func (a *wireAnswer) isProblem(status int, code string, extensions ...string) *wireAnswer {
	a.t.Helper()
	if a.Status != status || a.at("code") != code {
		a.t.Fatalf("%s: %d %.600s, want %d %s", a.what, a.Status, a.Text, status, code)
	}
	if got := a.Header.Get("Content-Type"); got != "application/problem+json" {
		a.t.Errorf("%s: the problem is %s", a.what, got)
	}
	a.hasExactly("", append([]string{"type", "title", "status", "detail", "code", "requestId"}, extensions...)...)
	if a.num("status") != int64(status) {
		a.t.Errorf("%s: the problem tells status %v of a %d", a.what, a.at("status"), status)
	}
	for _, member := range []string{"type", "title", "detail"} {
		if a.str(member) == "" {
			a.t.Errorf("%s: the problem's %s is empty", a.what, member)
		}
	}
	return a
}

// at is the value at a path of members, "" for the whole; an index selects from an array. It fails where there is none.
func (a *wireAnswer) at(path string) any {
	a.t.Helper()
	v := a.JSON
	if path == "" {
		return v
	}
	for name := range strings.SplitSeq(path, ".") {
		switch in := v.(type) {
		case map[string]any:
			var ok bool
			if v, ok = in[name]; !ok {
				a.t.Fatalf("%s: no member %s in %.600s", a.what, path, a.Text)
			}
		case []any:
			i, err := strconv.Atoi(name)
			if err != nil || i >= len(in) {
				a.t.Fatalf("%s: no element %s in %.600s", a.what, path, a.Text)
			}
			v = in[i]
		default:
			a.t.Fatalf("%s: no member %s in %d %.600s", a.what, path, a.Status, a.Text)
		}
	}
	return v
}

func (a *wireAnswer) str(path string) string {
	a.t.Helper()
	s, ok := a.at(path).(string)
	if !ok {
		a.t.Fatalf("%s: %s is no string in %.600s", a.what, path, a.Text)
	}
	return s
}

func (a *wireAnswer) num(path string) int64 {
	a.t.Helper()
	n, ok := a.at(path).(json.Number)
	if !ok {
		a.t.Fatalf("%s: %s is no number in %.600s", a.what, path, a.Text)
	}
	i, err := n.Int64()
	if err != nil {
		a.t.Fatalf("%s: %s is no whole number in %.600s", a.what, path, a.Text)
	}
	return i
}

func (a *wireAnswer) list(path string) []any {
	a.t.Helper()
	list, ok := a.at(path).([]any)
	if !ok {
		a.t.Fatalf("%s: %s is no array in %.600s", a.what, path, a.Text)
	}
	return list
}

func (a *wireAnswer) strs(path string) []string {
	a.t.Helper()
	list := []string{}
	for i := range a.list(path) {
		list = append(list, a.str(path+"."+strconv.Itoa(i)))
	}
	return list
}

// has holds that the value at path is want: a string, a bool, nil, or a whole number.
func (a *wireAnswer) has(path string, want any) *wireAnswer {
	a.t.Helper()
	switch n := want.(type) {
	case int:
		want = json.Number(strconv.Itoa(n))
	case int64:
		want = json.Number(strconv.FormatInt(n, 10))
	}
	if got := a.at(path); got != want {
		a.t.Errorf("%s: %s is %v, want %v; in %.600s", a.what, path, got, want, a.Text)
	}
	return a
}

// hasExactly holds the set of members of the object at path.
func (a *wireAnswer) hasExactly(path string, members ...string) *wireAnswer {
	a.t.Helper()
	object, ok := a.at(path).(map[string]any)
	if !ok {
		a.t.Fatalf("%s: %q is no object in %.600s", a.what, path, a.Text)
	}
	members = slices.Sorted(slices.Values(members)) // a list may be shared
	if d := cmp.Diff(members, slices.Sorted(maps.Keys(object))); d != "" {
		a.t.Errorf("%s: members of %q (-want +got):\n%s", a.what, path, d)
	}
	return a
}

// ids are those of the logs at path.
func (a *wireAnswer) ids(path string) []string {
	a.t.Helper()
	ids := []string{}
	for i := range a.list(path) {
		ids = append(ids, a.str(path+"."+strconv.Itoa(i)+".id"))
	}
	return ids
}

// seqs are those of the logs at path.
func (a *wireAnswer) seqs(path string) []int64 {
	a.t.Helper()
	seqs := []int64{}
	for _, id := range a.ids(path) {
		_, seq, _ := strings.Cut(id, "-")
		n, err := strconv.ParseInt(seq, 10, 64)
		if err != nil {
			a.t.Fatalf("%s: id %q", a.what, id)
		}
		seqs = append(seqs, n)
	}
	return seqs
}

// hasSeqs holds the logs at path: the run of seqs from first to last.
func (a *wireAnswer) hasSeqs(path string, first, last int64) *wireAnswer {
	a.t.Helper()
	want := []int64{}
	for seq := first; seq <= last; seq++ {
		want = append(want, seq)
	}
	if d := cmp.Diff(want, a.seqs(path)); d != "" {
		a.t.Errorf("%s: seqs of %s (-want +got):\n%s", a.what, path, d)
	}
	return a
}

// tellsAs holds that a tells the same as want.
func (a *wireAnswer) tellsAs(want *wireAnswer) *wireAnswer {
	a.t.Helper()
	named := cmpopts.IgnoreMapEntries(func(name string, _ any) bool { return name == "requestId" })
	if d := cmp.Diff(want.JSON, a.JSON, named); d != "" || want.Status != a.Status {
		a.t.Errorf("%s: %d (-want +got):\n%s", a.what, a.Status, d)
	}
	return a
}

// atOnce calls f n times at once and waits for all of them.
func atOnce(n int, f func(i int)) {
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { f(i) })
	}
	wg.Wait()
}

// wireRange is how a proc tells a run of logs.
func wireRange(ids ...string) string { return ids[0] + ".." + ids[len(ids)-1] }
