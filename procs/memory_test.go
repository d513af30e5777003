package procs

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"pipeproc/api"
)

// memory is a store in memory that follows the rules of api.Proc. The on… functions, where set, decide what a call
// answers after (applied) or instead of (not) its effect.
type memory struct {
	mu      sync.Mutex
	topics  map[string][]api.Log
	jobs    map[string]*job
	watches map[chan struct{}]bool
	claims  int // ever made
	looks   int
	undone  int

	onLook     func() error
	onClaim    func(proc string) error // before; then nothing is done
	afterClaim func() error            // it was made, if there was work
	onAck      func(logs []api.NewLog) (apply bool, err error)
	onFail     func() error
}

type job struct {
	api.Proc
	to        []string
	processor api.Processor
	secrets   []string
	turn      int // number of the last claim
}

func newMemory() *memory {
	return &memory{topics: map[string][]api.Log{}, jobs: map[string]*job{}, watches: map[chan struct{}]bool{}}
}

// system makes a systemProc from → to that calls url.
func (m *memory) system(name, from string, to []string, url string, edits ...func(*job)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	j := &job{to: to, processor: api.Processor{URL: url}, secrets: []string{api.NewSecret()}}
	(&api.ProcOptions{Topic: from}).Apply(&j.Proc)
	j.Name, j.Topic, j.Kind, j.Status, j.ID = name, from, api.KindSystem, api.StatusActive, int64(len(m.jobs)+1)
	for _, edit := range edits {
		edit(j)
	}
	m.jobs[name] = j
	m.hint()
}

func count(n int) func(*job) { return func(j *job) { j.Count = n } }

func (m *memory) commit(topic string, bodies ...string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, body := range bodies {
		m.append(api.NewLog{Topic: topic, Body: json.RawMessage(body)})
	}
	m.hint()
}

func (m *memory) append(l api.NewLog) {
	id := api.ID{TS: now(), Seq: int64(len(m.topics[l.Topic]))}
	m.topics[l.Topic] = append(m.topics[l.Topic], api.Log{ID: id, Body: l.Body})
}

func now() int64 { return time.Now().UnixMilli() }

func (m *memory) hint() {
	for c := range m.watches {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

// bodies are the bodies of a topic, one a line.
func (m *memory) bodies(topic string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var lines []string
	for _, l := range m.topics[topic] {
		lines = append(lines, string(l.Body))
	}
	return strings.Join(lines, "\n")
}

// proc is a proc as it stands.
func (m *memory) proc(name string) api.Proc {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.jobs[name].Proc
	p.SetLag(int64(len(m.topics[p.Topic])))
	return p
}

// change does something to a proc, as its users may.
func (m *memory) change(name string, do func(*api.Proc) error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	defer m.hint()
	return do(&m.jobs[name].Proc)
}

func (m *memory) made() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.claims
}

func (m *memory) WatchJobs() api.Watch {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := make(chan struct{}, 1)
	m.watches[c] = true
	return api.Watch{C: c, Close: func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.watches, c)
	}}
}

func (m *memory) Watch(_, _ []string) api.Watch { panic("not for workers") }

func (m *memory) RunnableJobs(_ context.Context, limit int, inline bool) ([]string, int64, error) {
	if m.onLook != nil {
		if err := m.onLook(); err != nil {
			return nil, 0, err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.looks++
	var runnable []*job
	next := int64(-1)
	for _, j := range m.jobs {
		if j.processor.Inline != "" && !inline {
			continue
		}
		j.Expire(now())
		due := j.NextAttemptAt
		if j.Claim != nil {
			due = j.Claim.ExpiresAt
		}
		switch {
		case j.Status == api.StatusDisabled:
		case due != nil && *due > now():
			if in := *due - now(); next < 0 || in < next {
				next = in
			}
		case j.Claim == nil && m.work(j) > 0:
			runnable = append(runnable, j)
		}
	}
	slices.SortFunc(runnable, func(a, b *job) int {
		return cmp.Or(cmp.Compare(a.turn, b.turn), strings.Compare(a.Name, b.Name))
	})
	var names []string
	for _, j := range runnable[:min(limit, len(runnable))] {
		names = append(names, j.Name)
	}
	return names, next, nil
}

func (m *memory) work(j *job) int {
	first, most, _ := j.Window(0)
	return max(0, min(most, len(m.topics[j.Topic])-int(first)))
}

func (m *memory) ClaimJob(_ context.Context, proc, token string) (*api.Execution, error) {
	if m.onClaim != nil {
		if err := m.onClaim(proc); err != nil {
			return nil, err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.claim(proc, token)
	if m.afterClaim != nil {
		if err := m.afterClaim(); err != nil {
			return nil, err
		}
	}
	return e, nil
}

func (m *memory) claim(proc, token string) *api.Execution {
	j := m.jobs[proc]
	if j == nil {
		return nil
	}
	j.Expire(now())
	if j.Claim != nil && j.Claim.Token == token {
		return m.execution(j)
	}
	n := m.work(j)
	if j.CanClaim() != nil || !j.Due(now()) || n == 0 {
		return nil
	}
	first, _, _ := j.Window(0)
	logs := m.topics[j.Topic][first : int(first)+n]
	m.claims++
	j.turn = m.claims
	j.Take(now(), api.NewRange(logs[0].ID, logs[n-1].ID), 0, token)
	return m.execution(j)
}

func (m *memory) execution(j *job) *api.Execution {
	r := j.Claim.Range
	return &api.Execution{
		Claimed: api.Claimed{Proc: j.Name, Topic: j.Topic, Claim: *j.Claim,
			Logs: slices.Clone(m.topics[j.Topic][r.First.Seq : r.Last.Seq+1])},
		SystemProc: j.Name, To: j.to, Processor: j.processor, Count: j.Count, Secrets: j.secrets, ReclaimTimeout: j.ReclaimTimeout, WebhookID: j.WebhookID("ns"),
	}
}

func (m *memory) AckJob(_ context.Context, proc, token string, logs []api.NewLog, claimNext bool) (*api.Execution, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	defer m.hint()
	apply, answer := true, error(nil)
	if m.onAck != nil {
		apply, answer = m.onAck(logs)
	}
	if !apply {
		return nil, answer
	}
	next, err := m.ack(proc, token, logs, claimNext)
	if answer != nil {
		return nil, answer
	}
	return next, err
}

func (m *memory) ack(proc, token string, logs []api.NewLog, claimNext bool) (*api.Execution, error) {
	j := m.jobs[proc]
	if j == nil {
		return nil, api.Errorf(api.CodeInvalidProc, "no such proc")
	}
	j.Expire(now())
	if j.Repeats(token) {
		if j.AckNext != nil && j.Claim != nil && *j.AckNext == j.Claim.Token {
			return m.execution(j), nil
		}
		return nil, nil
	}
	if _, err := j.Ack(now(), token); err != nil {
		return nil, err
	}
	for _, l := range logs {
		m.append(l)
	}
	if !claimNext {
		return nil, nil
	}
	next := m.claim(proc, fmt.Sprintf("token-%d", m.claims))
	none := ""
	j.AckNext = &none
	if next != nil {
		j.AckNext = &next.Claim.Token
	}
	return next, nil
}

func (m *memory) FailJob(_ context.Context, proc, token string, f api.Failure) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.onFail != nil {
		if err := m.onFail(); err != nil {
			return err
		}
	}
	j := m.jobs[proc]
	if j == nil {
		return api.Errorf(api.CodeInvalidProc, "no such proc")
	}
	j.Expire(now())
	return j.Fail(now(), token, f)
}

func (m *memory) UndoJob(_ context.Context, proc, token string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if j := m.jobs[proc]; j != nil && j.Undo(token) {
		m.undone++
	}
	return nil
}
