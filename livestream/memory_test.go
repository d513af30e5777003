package livestream

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pipeproc/api"
)

type procsRole = api.Procs // which has a method of the name that an embedded field would get

// A memory is a store without a database: the roles that streams stand on, by the same rules.
type memory struct {
	procsRole     // the methods that are not here are not called
	api.LiveProcs // likewise
	api.Watcher   // likewise

	mu       sync.Mutex
	ids      int64 // last one given
	skew     int64 // ms that the clock is ahead
	topics   map[string]*memoryTopic
	deleted  map[int64]bool
	live     map[string]*memoryLiveProc
	watches  map[chan struct{}][]string
	fails    error // of every call
	failed   int   // calls that did
	openErr  error // of OpenStream
	reads    int   // calls of ReadFrom
	closed   int   // streams closed
	turns    int   // calls of Turn
	timeouts int64 // reclaimTimeout of new liveProcs

	kept [][]api.Stream // calls of KeepStreams
}

type memoryTopic struct {
	id    int64
	first int64
	logs  []api.Log // from first on
}

func (t *memoryTopic) head() int64 { return t.first + int64(len(t.logs)) }

type memoryLiveProc struct {
	api.Proc
	connections int64
	stream      *api.Stream // that is open
	cancelled   bool
}

func newMemory() *memory {
	return &memory{topics: map[string]*memoryTopic{}, deleted: map[int64]bool{}, live: map[string]*memoryLiveProc{},
		watches: map[chan struct{}][]string{}, timeouts: -1}
}

func (m *memory) now() int64 { return time.Now().UnixMilli() + m.skew }

func (m *memory) hint(names ...string) {
	for c, watched := range m.watches {
		if slices.ContainsFunc(names, func(n string) bool { return slices.Contains(watched, n) }) {
			raise(c)
		}
	}
}

func (m *memory) Watch(topics, procs []string) api.Watch {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := make(chan struct{}, 1)
	m.watches[c] = append(slices.Clone(topics), procs...)
	return api.Watch{C: c, Close: func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.watches, c)
	}}
}

// do runs change under the lock and wakes the watchers of names.
func (m *memory) do(change func(), names ...string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change()
	m.hint(names...)
}

// commit adds one log for each body.
func (m *memory) commit(topic string, bodies ...string) []api.Log {
	m.mu.Lock()
	defer m.mu.Unlock()
	t := m.topics[topic]
	if t == nil {
		m.ids++
		t = &memoryTopic{id: m.ids}
		m.topics[topic] = t
	}
	ts := m.now()
	var logs []api.Log
	for _, b := range bodies {
		logs = append(logs, api.Log{ID: api.ID{TS: ts, Seq: t.head() + int64(len(logs))}, Body: json.RawMessage(b)})
	}
	t.logs = append(t.logs, logs...)
	m.hint(topic)
	return logs
}

// fill adds n logs that can be told apart.
func (m *memory) fill(topic string, n int) []api.Log {
	bodies := make([]string, n)
	for i := range bodies {
		bodies[i] = fmt.Sprintf(`{"n":%d}`, i)
	}
	return m.commit(topic, bodies...)
}

func (m *memory) collect(topic string, n int) {
	m.do(func() {
		t := m.topics[topic]
		t.first += int64(n)
		t.logs = slices.Clone(t.logs[n:])
	})
}

func (m *memory) delete(topic string) {
	m.do(func() {
		m.deleted[m.topics[topic].id] = true
		delete(m.topics, topic)
	}, topic)
}

func (m *memory) Heads(_ context.Context, topics []string) (map[string]api.TopicHead, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fails != nil {
		m.failed++
		return nil, m.fails
	}
	heads := map[string]api.TopicHead{}
	for _, name := range topics {
		if t := m.topics[name]; t != nil {
			heads[name] = api.TopicHead{ID: t.id, First: t.first, Head: t.head()}
		}
	}
	return heads, nil
}

func (m *memory) Place(_ context.Context, topic string, _ bool, at api.Bound) (api.Place, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	t := m.topics[topic]
	if t == nil {
		return api.Place{}, api.Errorf(api.CodeInvalidTopic, "there is no topic %q", topic)
	}
	state := api.TopicState{First: t.first, Head: t.head()}
	if len(t.logs) > 0 {
		state.FirstID = &t.logs[0].ID
	}
	from, _, err := state.Resolve(at, api.Bound{}, false, func(int64) (int64, error) {
		return t.head(), nil
	})
	return api.Place{TopicID: t.id, Seq: from}, err
}

func (m *memory) ReadFrom(_ context.Context, topicID, seq int64, limit, most int) ([]api.Log, int64, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.reads++
	if m.fails != nil {
		m.failed++
		return nil, 0, false, m.fails
	}
	for _, t := range m.topics {
		if t.id != topicID {
			continue
		}
		from := max(seq, t.first)
		if from >= t.head() {
			return nil, t.first, true, nil
		}
		logs := t.logs[from-t.first:]
		logs = logs[:min(limit, len(logs))]
		size := 0
		for i, l := range logs {
			if size += len(l.Body); i > 0 && size > most {
				logs = logs[:i]
				break
			}
		}
		return slices.Clone(logs), t.first, true, nil
	}
	return nil, 0, false, nil
}

func (m *memory) CreateLiveProc(_ context.Context, spec api.LiveProcSpec) (api.Proc, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ids++
	p := api.Proc{Name: fmt.Sprintf("liveproc-%d", m.ids), Topic: spec.Topic, Kind: api.KindLive, Status: api.StatusActive,
		Count: 1, ReclaimTimeout: m.timeouts, OnMaxReclaimsReached: api.OnMaxContinue, ID: m.ids}
	if spec.Count != nil {
		p.Count = *spec.Count
	}
	if t := m.topics[spec.Topic]; t != nil && spec.Mode == api.ModeLive {
		p.Position = t.head()
	}
	m.live[p.Name] = &memoryLiveProc{Proc: p}
	return p, nil
}

func (m *memory) OpenStream(_ context.Context, name string, connection int64) (api.Stream, api.Proc, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.openErr != nil {
		return api.Stream{}, api.Proc{}, false, m.openErr
	}
	p := m.live[name]
	switch {
	case p == nil:
		return api.Stream{}, api.Proc{}, false, api.Errorf(api.CodeInvalidProc, "there is no liveProc %q", name)
	case p.Status == api.StatusDisabled, p.stream != nil && connection != 0 && p.stream.Connection > connection:
		return api.Stream{}, api.Proc{}, false, nil
	}
	if connection == 0 {
		p.connections++
		connection = p.connections
	}
	m.ids++
	p.stream = &api.Stream{LiveProc: name, Connection: connection, Instance: fmt.Sprint(m.ids)}
	m.hint(name)
	return *p.stream, p.Proc, true, nil
}

func (m *memory) Turn(_ context.Context, s api.Stream, held string) (api.StreamTurn, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.turns++
	if m.fails != nil {
		m.failed++
		return api.StreamTurn{}, m.fails
	}
	p := m.live[s.LiveProc]
	switch {
	case p == nil:
		return api.StreamTurn{}, api.Errorf(api.CodeInvalidProc, "gone")
	case p.stream == nil || *p.stream != s:
		return api.StreamTurn{End: api.EndReplaced}, nil
	case p.cancelled:
		return api.StreamTurn{End: api.EndCancelled}, nil
	case p.Status == api.StatusDisabled:
		return api.StreamTurn{End: api.EndDisabled}, nil
	}
	now := m.now()
	p.Expire(now)
	t := m.topics[p.Topic]
	if p.Claim == nil && t != nil {
		first, most, _ := p.Window(0)
		if last := min(first+int64(most), t.head()) - 1; last >= first {
			m.ids++
			p.Take(now, api.NewRange(t.logs[first-t.first].ID, t.logs[last-t.first].ID), 0, fmt.Sprintf("token-%d", m.ids))
		}
	}
	turn := api.StreamTurn{Proc: p.Proc, Wait: -1}
	if p.Claim != nil {
		if p.Claim.ExpiresAt != nil {
			turn.Wait = *p.Claim.ExpiresAt - now
		}
		if p.Claim.Token != held {
			r := p.Claim.Range
			turn.Claimed = &api.Claimed{Proc: p.Name, Topic: p.Topic, Claim: *p.Claim,
				Logs: slices.Clone(t.logs[r.First.Seq-t.first : r.Last.Seq-t.first+1])}
		}
	}
	return turn, nil
}

func (m *memory) KeepStreams(_ context.Context, streams []api.Stream) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.kept = append(m.kept, slices.Clone(streams))
	if m.fails != nil {
		m.failed++
	}
	return m.fails
}

func (m *memory) CloseStream(_ context.Context, s api.Stream) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed++
	if p := m.live[s.LiveProc]; p != nil && p.stream != nil && *p.stream == s {
		p.stream = nil
	}
	return nil
}

func (m *memory) DestroyLiveProc(_ context.Context, name string) (api.Proc, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.live, name)
	m.hint(name)
	return api.Proc{}, nil
}

func (m *memory) Proc(_ context.Context, name string) (api.Proc, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if p := m.live[name]; p != nil {
		return p.Proc, nil
	}
	return api.Proc{}, api.Errorf(api.CodeInvalidProc, "there is no proc %q", name)
}

// onLive changes a liveProc and wakes its watchers.
func (m *memory) onLive(t *testing.T, name string, change func(p *memoryLiveProc) error) {
	t.Helper()
	m.do(func() {
		if err := change(m.live[name]); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}, name)
}

func (m *memory) ack(t *testing.T, name, token string) {
	t.Helper()
	m.onLive(t, name, func(p *memoryLiveProc) error {
		_, err := p.Ack(m.now(), token)
		return err
	})
}

// count reads one of m's numbers.
func (m *memory) count(what *int) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return *what
}

func body(n int) string { return `{"pad":"` + strings.Repeat("x", n) + `"}` }
