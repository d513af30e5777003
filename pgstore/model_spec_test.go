package pgstore_test

import (
	"cmp"
	"encoding/json"
	"maps"
	"slices"
	"strconv"

	"pipeproc/api"
)

// What follows is the service in memory, one request after the other: the specification that TestModel holds the store
// to. It takes its shapes from package api and none of its rules: those are told here once more, from the design.

// model is a namespace.
type model struct {
	now    int64
	topics map[string]*modelTopic // reserved names as well: they have had no logs
	procs  map[string]*modelProc
	keys   map[string]*modelKey
	lastGC api.GCRun
}

func newModel(now int64) *model {
	return &model{now: now, topics: map[string]*modelTopic{}, procs: map[string]*modelProc{}, keys: map[string]*modelKey{},
		lastGC: api.GCRun{Topics: []api.Collected{}}}
}

// modelTopic is a topic. It remembers what GC took, to tell the ids.
type modelTopic struct {
	name  string
	logs  []modelLog
	first int64 // the first retained seq
}

type modelLog struct {
	ts   int64
	body string
}

type modelProc struct {
	name      string
	topic     *modelTopic
	offset    string
	createdAt int64

	count, maxReclaims int
	reclaimTimeout     int64
	onMaxReclaims      api.OnMaxReclaims

	disabled                   bool
	position                   int64 // the first log not acked
	last, previous, acked      run   // claimed last, claimed before it, acked last
	lastClaimedAt, lastAckedAt *int64
	reclaims                   int
	claim                      *modelClaim
	retry                      run // to be handed out again
	retryCount                 int // to whoever gives no count, or this one
	ack                        *modelAck
}

// modelClaim is a claim. Its token is the store's to choose: it is learnt from the answer.
type modelClaim struct {
	token     string
	logs      run
	count     int
	expiresAt *int64
}

// modelAck is the last applied ack, for its repeats.
type modelAck struct {
	token  string
	answer api.Acked // without Next
	next   *modelClaim
}

type modelKey struct {
	hash [32]byte
	ids  []api.ID
	at   int64
}

// run is the seqs [from, to).
type run struct{ from, to int64 }

func (r run) none() bool { return r.from >= r.to }

// place is a place in a topic as a caller names it.
type place struct {
	form    byte // 0 not given, '>' earliest, '$' latest, ':' seq, 't' timestamp, 'i' full id
	ts, seq int64
}

func (p place) String() string {
	switch p.form {
	case '>':
		return ">"
	case '$':
		return "$>"
	case ':':
		return ":" + strconv.FormatInt(p.seq, 10)
	case 't':
		return strconv.FormatInt(p.ts, 10)
	case 'i':
		return api.ID{TS: p.ts, Seq: p.seq}.String()
	}
	return ""
}

// modelOptions are a proc's options, with their offset as a place.
type modelOptions struct {
	name string // of the proc, in a list
	api.ProcOptions
	at place
}

func refuse(code api.Code) *api.Error { return &api.Error{Code: code} }

// Logs.

func (t *modelTopic) head() int64 { return int64(len(t.logs)) }

func (t *modelTopic) id(seq int64) api.ID { return api.ID{TS: t.logs[seq].ts, Seq: seq} }

func (t *modelTopic) firstID() *api.ID {
	if t.first == t.head() {
		return nil
	}
	id := t.id(t.first)
	return &id
}

func (t *modelTopic) wire(r run) api.Range {
	if r.none() {
		return api.Range{}
	}
	return api.NewRange(t.id(r.from), t.id(r.to-1))
}

func (t *modelTopic) read(r run) []api.Log {
	logs := []api.Log{}
	for seq := r.from; seq < r.to; seq++ {
		logs = append(logs, api.Log{ID: t.id(seq), Body: json.RawMessage(t.logs[seq].body)})
	}
	return logs
}

// known is the topic of that name unless it is unknown or only reserved.
func (m *model) known(name string) (*modelTopic, *api.Error) {
	if t := m.topics[name]; t != nil && t.head() > 0 {
		return t, nil
	}
	return nil, refuse(api.CodeInvalidTopic)
}

// commit adds logs. They share one timestamp: the clock, or the last one of any topic touched.
func (m *model) commit(logs []api.NewLog) []api.ID {
	ts := m.now
	for _, l := range logs {
		t := m.topics[l.Topic]
		if t == nil {
			t = &modelTopic{name: l.Topic}
			m.topics[l.Topic] = t
		}
		if t.head() > 0 {
			ts = max(ts, t.logs[t.head()-1].ts)
		}
	}
	var ids []api.ID
	for _, l := range logs {
		t := m.topics[l.Topic]
		t.logs = append(t.logs, modelLog{ts, string(l.Body)})
		ids = append(ids, t.id(t.head()-1))
	}
	return ids
}

const modelKeyLife = 24 * 60 * 60 * 1000

func (m *model) commitWithKey(logs []api.NewLog, key *api.IdempotencyKey) (api.Committed, *api.Error) {
	k := m.keys[key.Key]
	switch {
	case k == nil || m.now-k.at >= modelKeyLife:
		k = &modelKey{hash: key.Hash, ids: m.commit(logs), at: m.now}
		m.keys[key.Key] = k
		return api.Committed{IDs: k.ids}, nil
	case k.hash != key.Hash:
		return api.Committed{}, refuse(api.CodeKeyReused)
	}
	return api.Committed{IDs: k.ids, Duplicate: true}, nil
}

// inRange tells what a bound has to say of a log; sign is 1 for a lower bound, -1 for an upper one.
func (p place) inRange(id api.ID, exclusive bool, sign int) bool {
	var order int
	switch p.form {
	case ':':
		order = cmp.Compare(id.Seq, p.seq)
	case 't':
		return cmp.Compare(id.TS, p.ts)*sign >= 0
	case 'i':
		order = cmp.Or(cmp.Compare(id.TS, p.ts), cmp.Compare(id.Seq, p.seq))
	default:
		return true
	}
	return order*sign > 0 || order == 0 && !exclusive
}

// readable refuses a bound beyond the head, or before the first retained log once GC has taken some.
func (t *modelTopic) readable(p place) *api.Error {
	switch {
	case p.form == ':' && p.seq >= t.head():
		return refuse(api.CodeInvalidToneIDSearch)
	case p.form == ':' && p.seq < t.first, p.form == 'i' && t.first > 0 && t.before(p):
		return &api.Error{Code: api.CodeCollected, FirstID: t.firstID()}
	}
	return nil
}

// before tells whether a full id lies before the first retained log; where none is, whether it is one of those taken.
func (t *modelTopic) before(p place) bool {
	if t.first < t.head() {
		return !p.inRange(t.id(t.first), false, -1)
	}
	return p.inRange(t.id(t.head()-1), false, 1)
}

func (m *model) rangeOf(topic string, start, end place, exclusive, reverse bool, limit int) (api.Page, *api.Error) {
	t, refused := m.known(topic)
	if refused != nil {
		return api.Page{}, refused
	}
	low, high := start, end
	if reverse {
		low, high = end, start
	}
	for _, bound := range []place{low, high} {
		if refused := t.readable(bound); refused != nil {
			return api.Page{}, refused
		}
	}
	var found []api.Log
	for _, l := range t.read(run{t.first, t.head()}) {
		if low.inRange(l.ID, exclusive, 1) && high.inRange(l.ID, exclusive, -1) {
			found = append(found, l)
		}
	}
	if reverse {
		slices.Reverse(found)
	}
	page := api.Page{Logs: []api.Log{}}
	for bytes := 0; len(found) > 0 && len(page.Logs) < limit; found = found[1:] {
		bytes += len(found[0].Body)
		if bytes > 8<<20 && len(page.Logs) > 0 {
			break
		}
		page.Logs = append(page.Logs, found[0])
	}
	switch {
	case len(found) == 0:
	case exclusive:
		page.Next = &page.Logs[len(page.Logs)-1].ID
	default:
		page.Next = &found[0].ID
	}
	return page, nil
}

func (m *model) log(topic string, at place) (api.Log, *api.Error) {
	t, refused := m.known(topic)
	if refused != nil {
		return api.Log{}, refused
	}
	if refused := t.readable(at); refused != nil && refused.Code == api.CodeCollected {
		return api.Log{}, refused
	}
	if at.seq < t.first || at.seq >= t.head() || at.form == 'i' && t.logs[at.seq].ts != at.ts {
		return api.Log{}, refuse(api.CodeLogNotFound)
	}
	return t.read(run{at.seq, at.seq + 1})[0], nil
}

func (m *model) topicsList() []api.Topic {
	list := []api.Topic{}
	for _, name := range slices.Sorted(maps.Keys(m.topics)) {
		t, refused := m.known(name)
		if refused != nil {
			continue
		}
		topic := api.Topic{Name: name, Length: t.head() - t.first, Committed: t.head(), FirstID: t.firstID(), CreatedAt: t.logs[0].ts}
		if topic.Length > 0 {
			last := t.id(t.head() - 1)
			topic.LastID = &last
		}
		list = append(list, topic)
	}
	return list
}

func (m *model) deleteTopic(name string, force bool) *api.Error {
	t, refused := m.known(name)
	if refused != nil {
		return refused
	}
	for _, p := range m.procs {
		if p.topic == t && !force {
			return refuse(api.CodeTopicInUse)
		}
	}
	maps.DeleteFunc(m.procs, func(_ string, p *modelProc) bool { return p.topic == t })
	delete(m.topics, name)
	return nil
}

// Procs.

func (m *model) proc(name string) (*modelProc, *api.Error) {
	if p := m.procs[name]; p != nil {
		return p, nil
	}
	return nil, refuse(api.CodeInvalidProc)
}

// start resolves an offset to the first seq that a proc is to be handed.
func (m *model) start(t *modelTopic, at place) (int64, *api.Error) {
	start := t.head()
	switch at.form {
	case '$':
		return start, nil
	case ':':
		start = at.seq + 1
	case 't':
		if at.ts > m.now {
			return 0, refuse(api.CodeInvalidRangeOffset)
		}
		for start = t.first; start < t.head() && t.logs[start].ts < at.ts; start++ {
		}
	case 'i':
		for start = 0; start < t.head() && !at.inRange(t.id(start), true, 1); start++ {
		}
	default:
		start = t.first
	}
	if start < t.first {
		return 0, &api.Error{Code: api.CodeCollected, FirstID: t.firstID()}
	}
	return start, nil
}

// create makes a proc; a topic that does not exist is reserved.
func (m *model) create(name string, o modelOptions) (*modelProc, *api.Error) {
	t := m.topics[o.Topic]
	if t == nil {
		t = &modelTopic{name: o.Topic}
	}
	start, refused := m.start(t, o.at)
	if refused != nil {
		return nil, refused
	}
	p := &modelProc{name: name, topic: t, createdAt: m.now, position: start}
	p.offset, p.count, p.maxReclaims, p.reclaimTimeout, p.onMaxReclaims = o.resolved()
	m.topics[o.Topic], m.procs[name] = t, p
	return p, nil
}

// resolved are the options with their defaults.
func (o modelOptions) resolved() (offset string, count, maxReclaims int, timeout int64, onMax api.OnMaxReclaims) {
	p := &modelProc{count: 1, maxReclaims: 10, reclaimTimeout: 10_000, onMaxReclaims: "disable"}
	p.patch(api.ProcPatch{Count: o.Count, MaxReclaims: o.MaxReclaims, ReclaimTimeout: o.ReclaimTimeout, OnMaxReclaimsReached: o.OnMaxReclaimsReached})
	return cmp.Or(o.at.String(), ">"), p.count, p.maxReclaims, p.reclaimTimeout, p.onMaxReclaims
}

func (p *modelProc) patch(patch api.ProcPatch) {
	if patch.Count != nil {
		p.count = *patch.Count
	}
	if patch.MaxReclaims != nil {
		p.maxReclaims = cmp.Or(*patch.MaxReclaims, 10)
	}
	if patch.ReclaimTimeout != nil {
		p.reclaimTimeout = *patch.ReclaimTimeout
	}
	p.onMaxReclaims = cmp.Or(patch.OnMaxReclaimsReached, p.onMaxReclaims)
}

// put creates a proc without claiming.
func (m *model) put(name string, o modelOptions) (p *modelProc, created bool, refused *api.Error) {
	if p := m.procs[name]; p != nil {
		offset, count, maxReclaims, timeout, onMax := o.resolved()
		if p.topic.name != o.Topic || p.offset != offset || p.count != count || p.maxReclaims != maxReclaims ||
			p.reclaimTimeout != timeout || p.onMaxReclaims != onMax {
			return nil, false, refuse(api.CodeProcOptionsDiffer)
		}
		return p, false, nil
	}
	p, refused = m.create(name, o)
	return p, refused == nil, refused
}

// wireClaim is the live claim as it is told.
func (p *modelProc) wireClaim() *api.Claim {
	if p.claim == nil {
		return nil
	}
	return &api.Claim{Token: p.claim.token, Range: p.topic.wire(p.claim.logs), Attempt: p.reclaims + 1, ExpiresAt: p.claim.expiresAt}
}

func (p *modelProc) claimed() *api.Claimed {
	return &api.Claimed{Proc: p.name, Topic: p.topic.name, Claim: *p.wireClaim(), Logs: p.topic.read(p.claim.logs)}
}

func (p *modelProc) lag() int64 { return max(0, p.topic.head()-p.position) }

func (p *modelProc) wire() api.Proc {
	status := api.ProcStatus("active")
	if p.disabled {
		status = "disabled"
	}
	return api.Proc{Name: p.name, Topic: p.topic.name, Kind: "proc", Status: status, Offset: p.offset, Count: p.count,
		CreatedAt: p.createdAt, LastClaimedRange: p.topic.wire(p.last), PreviousClaimedRange: p.topic.wire(p.previous),
		LastAckedRange: p.topic.wire(p.acked), LastClaimedAt: p.lastClaimedAt, LastAckedAt: p.lastAckedAt, Reclaims: p.reclaims,
		MaxReclaims: p.maxReclaims, ReclaimTimeout: p.reclaimTimeout, OnMaxReclaimsReached: p.onMaxReclaims,
		Lag: p.lag(), Claim: p.wireClaim()}
}

// take makes a claim of a proc that has none; nil when there are no logs. count 0 is not given.
func (m *model) take(p *modelProc, count int) *modelClaim {
	c := &modelClaim{logs: p.retry, count: p.retryCount}
	if p.retry.none() || count != 0 && count != p.retryCount {
		c.count = cmp.Or(count, p.count)
		c.logs = run{p.position, p.position}
		for bytes := 0; c.logs.to < p.topic.head() && c.logs.to-c.logs.from < int64(c.count); c.logs.to++ {
			bytes += len(p.topic.logs[c.logs.to].body)
			if bytes > 8<<20 && !c.logs.none() {
				break
			}
		}
	}
	if c.logs.none() {
		return nil
	}
	now := m.now
	p.previous, p.last, p.lastClaimedAt = p.last, c.logs, &now
	p.claim = c
	m.extendLive(p)
	return c
}

func (m *model) extendLive(p *modelProc) {
	p.claim.expiresAt = nil
	if p.reclaimTimeout >= 0 {
		at := m.now + p.reclaimTimeout
		p.claim.expiresAt = &at
	}
}

func (p *modelProc) claimable() *api.Error {
	switch {
	case p.disabled:
		return refuse(api.CodeProcIsDisabled)
	case p.claim != nil:
		return &api.Error{Code: api.CodeAlreadyClaimed, ExpiresAt: p.claim.expiresAt}
	}
	return nil
}

// claimProc answers the proc with its new live claim, nil when there is nothing to do.
func (m *model) claimProc(name string, o modelOptions) (*modelProc, *api.Error) {
	p := m.procs[name]
	var refused *api.Error
	switch {
	case p == nil && o.Topic == "":
		return nil, refuse(api.CodeInvalidProc)
	case p == nil:
		p, refused = m.create(name, o)
	case o.Topic != "" && o.Topic != p.topic.name:
		return nil, refuse(api.CodeProcNameNotUnique)
	}
	if refused == nil {
		refused = p.claimable()
	}
	if refused != nil || m.take(p, optional(o.Count)) == nil {
		return nil, refused
	}
	return p, nil
}

// claimAny creates the unknown procs, in order, unless the request is refused as it stands; then it claims of the first
// with work, the least recently claimed first.
func (m *model) claimAny(list []modelOptions) (*modelProc, *api.Error) {
	for _, o := range list {
		if p := m.procs[o.name]; p != nil && o.Topic != "" && o.Topic != p.topic.name {
			return nil, refuse(api.CodeProcNameNotUnique)
		}
	}
	for _, o := range list {
		if m.procs[o.name] == nil && o.Topic == "" {
			return nil, refuse(api.CodeInvalidProc)
		}
	}
	for _, o := range list {
		if m.procs[o.name] == nil {
			if _, refused := m.create(o.name, o); refused != nil {
				return nil, refused
			}
		}
	}
	slices.SortStableFunc(list, func(a, b modelOptions) int {
		return cmp.Compare(optional(m.procs[a.name].lastClaimedAt), optional(m.procs[b.name].lastClaimedAt))
	})
	for _, o := range list {
		if p := m.procs[o.name]; p.claimable() == nil && m.take(p, optional(o.Count)) != nil {
			return p, nil
		}
	}
	return nil, nil
}

func optional[N int | int64](n *N) N {
	if n == nil {
		return 0
	}
	return *n
}

func (p *modelProc) holds(token string) *api.Error {
	if token != "" && (p.claim == nil || p.claim.token != token) {
		return refuse(api.CodeClaimLost)
	}
	return nil
}

// ack ends the live claim, commits req.Logs and claims the next logs. applied is false for a repeat.
func (m *model) ack(name string, req api.AckRequest) (p *modelProc, applied bool, refused *api.Error) {
	p, refused = m.proc(name)
	switch {
	case refused != nil:
		return nil, false, refused
	case p.ack != nil && req.Token == p.ack.token:
		return p, false, nil
	}
	if refused := p.holds(req.Token); refused != nil {
		return nil, false, refused
	}
	if p.claim == nil {
		return nil, false, refuse(api.CodeInvalidAck)
	}
	now := m.now
	p.acked, p.lastAckedAt, p.position = p.claim.logs, &now, p.claim.logs.to
	p.ack = &modelAck{token: p.claim.token}
	p.claim, p.retry, p.reclaims = nil, run{}, 0

	answer := api.Acked{Acked: p.topic.id(p.acked.from).String(), One: req.One, NextAsked: req.ClaimNext}
	if p.acked.to > p.acked.from+1 {
		answer.Acked += ".." + p.topic.id(p.acked.to-1).String()
	}
	if req.Logs != nil {
		answer.IDs = m.commit(req.Logs)
	}
	if req.ClaimNext && !p.disabled {
		p.ack.next = m.take(p, optional(req.Count))
	}
	p.ack.answer = answer
	return p, true, nil
}

// acknowledged is what the last applied ack answers, now.
func (p *modelProc) acknowledged() api.Acked {
	answer := p.ack.answer
	if p.ack.next != nil && p.ack.next == p.claim && !p.disabled {
		answer.Next = p.claimed()
	}
	return answer
}

// end ends the live claim without an ack, and restores the previous range.
func (p *modelProc) end() {
	p.retry, p.retryCount = p.claim.logs, p.claim.count
	p.last = p.previous
	p.claim = nil
}

func (p *modelProc) countReclaim() {
	p.end()
	p.reclaims++
	if p.maxReclaims != -1 && p.reclaims >= p.maxReclaims && p.onMaxReclaims == "disable" {
		p.disabled = true
	}
}

func (m *model) reclaim(name, token string) (api.Range, *api.Error) {
	p, refused := m.proc(name)
	if refused == nil && p.disabled {
		refused = refuse(api.CodeProcIsDisabled)
	}
	if refused == nil {
		refused = p.holds(token)
	}
	if refused == nil && p.claim == nil {
		refused = refuse(api.CodeNothingToReclaim)
	}
	if refused != nil {
		return api.Range{}, refused
	}
	p.countReclaim()
	return p.topic.wire(p.last), nil
}

// undo ends a claim whose answer could not be written: it does not count.
func (m *model) undo(name, token string) {
	p := m.procs[name]
	if p == nil || p.claim == nil || p.claim.token != token {
		return
	}
	retry, count := p.retry, p.retryCount
	p.end()
	p.retry, p.retryCount = retry, count
}

func (m *model) extend(name, token string) (api.Claim, *api.Error) {
	p, refused := m.proc(name)
	if refused == nil {
		refused = p.holds(token)
	}
	if refused != nil {
		return api.Claim{}, refused
	}
	m.extendLive(p)
	return *p.wireClaim(), nil
}

func (m *model) disable(name string) (*modelProc, *api.Error) {
	p, refused := m.proc(name)
	if refused == nil && p.disabled {
		refused = refuse(api.CodeProcAlreadyDisabled)
	}
	if refused == nil {
		p.disabled = true
	}
	return p, refused
}

// resume also ends a claim that expired while the proc was disabled.
func (m *model) resume(name string) (*modelProc, *api.Error) {
	p, refused := m.proc(name)
	if refused == nil && !p.disabled {
		refused = refuse(api.CodeProcAlreadyActive)
	}
	if refused == nil {
		p.disabled, p.reclaims = false, 0
		if m.expired(p) {
			p.end()
		}
	}
	return p, refused
}

func (m *model) seek(name string, at place) (*modelProc, *api.Error) {
	p, refused := m.proc(name)
	if refused != nil {
		return nil, refused
	}
	start, refused := m.start(p.topic, at)
	if refused == nil && !p.disabled && p.claim != nil {
		refused = p.claimable()
	}
	if refused == nil {
		p.claim, p.position = nil, start
		p.last, p.previous, p.acked, p.retry, p.reclaims = run{}, run{}, run{}, run{}, 0
	}
	return p, refused
}

// destroy forgets a proc; a topic that was only reserved goes with its last one.
func (m *model) destroy(name string) (*modelProc, *api.Error) {
	p, refused := m.proc(name)
	if refused != nil {
		return nil, refused
	}
	delete(m.procs, name)
	if p.topic.head() == 0 && !slices.ContainsFunc(slices.Collect(maps.Values(m.procs)), func(q *modelProc) bool { return q.topic == p.topic }) {
		delete(m.topics, p.topic.name)
	}
	return p, nil
}

func (m *model) procsList(topic string) []api.Proc {
	list := []api.Proc{}
	for _, name := range slices.Sorted(maps.Keys(m.procs)) {
		if p := m.procs[name]; topic == "" || p.topic.name == topic {
			list = append(list, p.wire())
		}
	}
	return list
}

// wait is done when the lags are all 0; names nil: every active proc's.
func (m *model) wait(names []string) (api.Waited, *api.Error) {
	if names == nil {
		for _, p := range m.procsList("") {
			if p.Status == "active" {
				names = append(names, p.Name)
			}
		}
	}
	w := api.Waited{Done: true, Procs: []api.ProcLag{}}
	for _, name := range names {
		p, refused := m.proc(name)
		if refused == nil && p.disabled {
			refused = refuse(api.CodeProcIsDisabled)
		}
		if refused != nil {
			return api.Waited{}, refused
		}
		w.Procs = append(w.Procs, api.ProcLag{Name: name, Lag: p.lag()})
		w.Done = w.Done && p.lag() == 0
	}
	return w, nil
}

// Time.

func (m *model) expired(p *modelProc) bool {
	return p.claim != nil && p.claim.expiresAt != nil && *p.claim.expiresAt <= m.now
}

// setClock moves the clock and applies the time-outs that are due. It cannot be told from applying each of them with the
// next operation on its proc, as long as the clock does not go back across one.
func (m *model) setClock(now int64) {
	m.now = now
	for _, p := range m.procs {
		if !p.disabled && m.expired(p) {
			p.countReclaim()
		}
	}
}

// sweep forgets idempotency keys.
func (m *model) sweep() {
	maps.DeleteFunc(m.keys, func(_ string, k *modelKey) bool { return m.now-k.at > modelKeyLife })
}

// floor is the first seq that GC keeps for a proc, whatever its status.
func (p *modelProc) floor() int64 {
	if p.previous.none() {
		return p.position
	}
	return min(p.previous.from, p.position)
}

// collect takes the logs below the floor of every proc that are older than minPruneTime.
func (m *model) collect(minPruneTime int64) api.GCRun {
	done := api.GCRun{Topics: []api.Collected{}}
	for _, topic := range m.topicsList() {
		t := m.topics[topic.Name]
		floor := t.head()
		for _, p := range m.procs {
			if p.topic == t {
				floor = min(floor, p.floor())
			}
		}
		before := t.first
		for t.first < floor && m.now-t.logs[t.first].ts >= minPruneTime {
			t.first++
		}
		done.Topics = append(done.Topics, api.Collected{Topic: t.name, Collected: t.first - before, FirstID: t.firstID()})
	}
	finished := m.now
	m.lastGC = api.GCRun{Topics: done.Topics, FinishedAt: &finished}
	return done
}
