//go:build linux

package chaos

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"pipeproc/api"
	"pipeproc/client"
	"pipeproc/e2e/check"
)

// Times of the load.
const (
	reclaimTimeout = 3 * time.Second
	requestTimeout = 12 * time.Second // more than a server takes to find out what became of a COMMIT
)

// Topics. Those that are kept have a proc that never claims, so that GC leaves them whole; the others are collected.
const (
	keptTopics = 4
	flowTopics = 4
	liveTopics = 2
)

func (l *load) kept(i int) string  { return l.own("kept-", i%keptTopics) }
func (l *load) flow(i int) string  { return l.own("flow-", i%flowTopics) }
func (l *load) live(i int) string  { return l.own("live-", i%liveTopics) }
func (l *load) held() string       { return l.own("held") } // that an outsider holds
func (l *load) hookInput() string  { return l.own("hook-in") }
func (l *load) hookOutput() string { return l.own("hook-out") }

// own is a name that no other round uses.
func (l *load) own(parts ...any) string { return fmt.Sprint("r", l.round, "-") + fmt.Sprint(parts...) }

// load is what the servers' clients do, all of it taken down.
type load struct {
	recorder *check.Recorder
	tally    *tally
	url      string // of the front
	round    int

	values  atomic.Int64
	clients atomic.Int64
	seed    uint64

	mu      sync.Mutex
	heads   map[string]int64 // the greatest seq known of each topic
	strange []string         // answers that nothing explains
	wrong   []string         // answers that there may not be
}

func newLoad(url string, seed uint64, round int, tally *tally) *load {
	return &load{recorder: check.NewRecorder(), tally: tally, url: url, seed: seed, round: round, heads: map[string]int64{}}
}

// body is a log's body that nothing else has, and the value that the checker knows it by.
type body struct {
	Value string `json:"v"`
	Of    string `json:"of,omitempty"` // of a processor's output: the value of its input
}

// value is unique.
func (l *load) value(client string) string { return fmt.Sprint(client, ".", l.values.Add(1)) }

// valueOf is the value of a body that is as it was made, byte for byte; of any other it is all of it.
func valueOf(text []byte) string {
	var b body
	if json.Unmarshal(text, &b) != nil || !bytes.Equal(text, b.text()) {
		return string(text)
	}
	return b.Value
}

func (b body) text() []byte {
	text, _ := json.Marshal(b) // strings alone
	return text
}

func logOf(topic, value string) api.NewLog {
	return api.NewLog{Topic: topic, Body: body{Value: value}.text()}
}

func recorded(logs []api.NewLog) []check.NewLog {
	out := make([]check.NewLog, len(logs))
	for i, log := range logs {
		out[i] = check.NewLog{Topic: log.Topic, Value: valueOf(log.Body)}
	}
	return out
}

func seen(logs []api.Log) []check.Log {
	out := make([]check.Log, len(logs))
	for i, log := range logs {
		out[i] = check.Log{ID: log.ID, Value: valueOf(log.Body)}
	}
	return out
}

// visitor is one of the clients. Its requests go over several connections in turn, so that what it claims by one server it
// acks by another.
type visitor struct {
	*client.Client
	name      string
	random    *rand.Rand
	transport *turning
}

// turning sends each request by the next of its transports.
type turning struct {
	transports []*http.Transport
	turn       atomic.Int64
}

func (t *turning) RoundTrip(r *http.Request) (*http.Response, error) {
	return t.transports[int(t.turn.Add(1))%len(t.transports)].RoundTrip(r)
}

func (t *turning) CloseIdleConnections() {
	for _, one := range t.transports {
		one.CloseIdleConnections()
	}
}

func (l *load) visitor(kind string) *visitor {
	n := l.clients.Add(1)
	u := &visitor{name: l.own(kind, n), random: rand.New(rand.NewPCG(l.seed, uint64(n))), transport: &turning{}}
	for range 2 {
		u.transport.transports = append(u.transport.transports, &http.Transport{MaxIdleConnsPerHost: 4,
			DialContext: (&net.Dialer{Timeout: time.Second}).DialContext})
	}
	var err error
	if u.Client, err = client.New(l.url, client.WithHTTPClient(&http.Client{Transport: u.transport})); err != nil {
		panic(err) // the URL is our own
	}
	return u
}

// turnAway is what a client does that was not served: it waits a little, and connects anew, perhaps to another server.
func (u *visitor) turnAway(ctx context.Context) {
	u.CloseIdleConnections()
	_ = pause(ctx, 50*time.Millisecond)
}

// request limits one request of a user, beyond the time that it asks the server to wait.
func request(ctx context.Context, wait time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, wait+requestTimeout)
}

// outcome is what a client may conclude from an error. A refusal is one, also of an overloaded server; all else leaves it
// open.
func (l *load) outcome(err error) check.Outcome {
	switch status := client.StatusOf(err); {
	case err == nil:
		return check.OK
	case status >= 400 && status < 500, api.CodeOf(err) == api.CodeOverloaded:
		l.tally.add("answers "+string(api.CodeOf(err)), 1)
		return check.Failed
	case status == http.StatusInternalServerError:
		l.tally.add("answers 500", 1)
		l.oddityf("%v", err)
	case status > 0:
		l.tally.add("answers "+string(api.CodeOf(err)), 1)
	case !errors.Is(err, context.Canceled):
		l.tally.add("requests without an answer", 1)
	}
	return check.Unknown
}

// oddityf keeps what should not happen, for whoever reads the output.
func (l *load) oddityf(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.strange) < 20 {
		l.strange = append(l.strange, fmt.Sprintf("%v  ", l.recorder.Now().Round(time.Millisecond))+fmt.Sprintf(format, args...))
	}
}

// wrongf keeps what may not happen.
func (l *load) wrongf(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wrong = append(l.wrong, fmt.Sprintf(format, args...))
}

// reached tells of a log that is in a topic.
func (l *load) reached(topic string, seq int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.heads[topic] = max(l.heads[topic], seq)
}

// head is the greatest seq that anybody knows of.
func (l *load) head(topic string) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.heads[topic]
}

// pace answers a function that waits until it is time for the next of so many things a second. What was missed is made up
// for, but not more than a second of it.
func pace(ctx context.Context, perSecond float64) func() bool {
	gap := time.Duration(float64(time.Second) / perSecond)
	next := time.Now()
	return func() bool {
		if late := time.Since(next); late > time.Second {
			next = next.Add(late - time.Second)
		}
		err := pause(ctx, time.Until(next))
		next = next.Add(gap)
		return err == nil
	}
}
