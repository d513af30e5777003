package api

import (
	"hash/fnv"
	"math"
)

// ProcKind tells who runs a proc.
type ProcKind string

// The kinds of procs.
const (
	KindProc   ProcKind = "proc"   // its users, by claiming
	KindSystem ProcKind = "system" // the server, as part of a systemProc
	KindLive   ProcKind = "live"   // a stream, as a liveProc
)

// ProcStatus tells whether a proc hands out logs.
type ProcStatus string

// The statuses of a proc.
const (
	StatusActive   ProcStatus = "active"
	StatusDisabled ProcStatus = "disabled"
)

// OnMaxReclaims is what happens to a proc whose reclaims reach MaxReclaims.
type OnMaxReclaims string

// The strategies.
const (
	OnMaxDisable  OnMaxReclaims = "disable"
	OnMaxContinue OnMaxReclaims = "continue"
)

// Defaults and limits of a proc's options.
const (
	DefaultCount          = 1
	MaxCount              = 10_000
	DefaultMaxReclaims    = 10
	DefaultReclaimTimeout = 10_000
	MaxReclaimTimeout     = 365 * 24 * 60 * 60 * 1000
	DefaultLiveTTL        = 5 * 60 * 1000
)

// Claim is the one live claim of a proc: the logs of Range were handed out to whoever holds Token.
type Claim struct {
	Token     string `json:"token"`
	Range     Range  `json:"range"`
	Attempt   int    `json:"attempt"`   // 1 for the first time that these logs are handed out
	ExpiresAt *int64 `json:"expiresAt"` // epoch ms; nil: never
}

// Proc is a consumer of one topic. Its exported JSON is the proc on the wire; the rest is the state that the rules below
// need. A Proc says nothing about storage: pgstore loads it under a row lock, applies one of its methods, and writes it.
//
// All times are the database's clock in epoch ms, passed in as now. Every method that changes an active proc is to be
// called after Expire, with the same now.
type Proc struct {
	Name                 string        `json:"name"`
	Topic                string        `json:"topic"`
	Kind                 ProcKind      `json:"kind"`
	Status               ProcStatus    `json:"status"`
	Offset               string        `json:"offset"`
	Count                int           `json:"count"`
	CreatedAt            int64         `json:"createdAt"`
	LastClaimedRange     Range         `json:"lastClaimedRange"`
	PreviousClaimedRange Range         `json:"previousClaimedRange"`
	LastAckedRange       Range         `json:"lastAckedRange"`
	LastClaimedAt        *int64        `json:"lastClaimedAt"`
	LastAckedAt          *int64        `json:"lastAckedAt"`
	Reclaims             int           `json:"reclaims"`
	MaxReclaims          int           `json:"maxReclaims"`
	ReclaimTimeout       int64         `json:"reclaimTimeout"`
	OnMaxReclaimsReached OnMaxReclaims `json:"onMaxReclaimsReached"`
	Lag                  int64         `json:"lag"`
	Claim                *Claim        `json:"claim"`
	// NextAttemptAt and LastError tell of a systemProc's retries; absent while there is nothing to tell.
	NextAttemptAt *int64 `json:"nextAttemptAt,omitempty"`
	LastError     string `json:"lastError,omitempty"`

	ID         int64  `json:"-"`
	TopicID    int64  `json:"-"`
	Position   int64  `json:"-"` // the seq of the first log that is not acked, or where the next one will be
	ClaimCount int    `json:"-"` // the count that the live claim, or the one to be retried, was made with
	Retry      Range  `json:"-"` // what is to be handed out again; none when nothing is
	AckToken   string `json:"-"` // the token of the last applied ack
	// AckNext tells what the last applied ack claimed for its caller: nil when it did not ask, "" when there was nothing,
	// else the token.
	AckNext *string `json:"-"`
	Seeks   int     `json:"-"`
}

// SetLag sets Lag: the logs from the proc's position on that are committed and not acked, claimed ones counted.
func (p *Proc) SetLag(head int64) { p.Lag = max(0, head-p.Position) }

// Floor is the first seq that GC must keep for p: the smaller of the first log of its previous claimed range and the
// first log not acked (never claimed: its start). It does not depend on the status.
func (p *Proc) Floor() int64 {
	if !p.PreviousClaimedRange.IsZero() {
		return min(p.PreviousClaimedRange.First.Seq, p.Position)
	}
	return p.Position
}

// Expire applies the time-out of the live claim if it is due, and reports whether it was. A disabled proc's claim does
// not time out.
func (p *Proc) Expire(now int64) bool {
	if p.Status != StatusActive || !p.expired(now) {
		return false
	}
	p.reclaim(now)
	if p.Kind == KindSystem {
		p.LastError = "the claim expired before an answer came"
	}
	return true
}

func (p *Proc) expired(now int64) bool {
	return p.Claim != nil && p.Claim.ExpiresAt != nil && *p.Claim.ExpiresAt <= now
}

// CanClaim answers CodeProcIsDisabled and CodeAlreadyClaimed, in this order.
func (p *Proc) CanClaim() error {
	if p.Status == StatusDisabled {
		return Errorf(CodeProcIsDisabled, "proc %q is disabled", p.Name)
	}
	if p.Claim != nil {
		e := Errorf(CodeAlreadyClaimed, "proc %q has a live claim", p.Name)
		e.ExpiresAt = p.Claim.ExpiresAt
		return e
	}
	return nil
}

// Due reports whether a retry of a systemProc's proc need not wait any longer; true where there is no retry.
func (p *Proc) Due(now int64) bool { return p.NextAttemptAt == nil || *p.NextAttemptAt <= now }

// Window tells what the next claim may hand out: at most count logs from seq first on, or, for a retry, exactly those
// up to its last. count 0 is the proc's own. A retry is the same range again unless count differs from the count it was
// made with.
func (p *Proc) Window(count int) (first int64, most int, retry bool) {
	if !p.Retry.IsZero() && (count == 0 || count == p.ClaimCount) {
		return p.Retry.First.Seq, p.Retry.Len(), true
	}
	if count == 0 {
		count = p.Count
	}
	return p.Position, count, false
}

// Take makes r the live claim. count is what the caller asked for, 0 for the proc's own.
func (p *Proc) Take(now int64, r Range, count int, token string) {
	if count == 0 && p.Retry.IsZero() {
		count = p.Count
	}
	if count != 0 {
		p.ClaimCount = count
	}
	p.PreviousClaimedRange = p.LastClaimedRange
	p.LastClaimedRange = r
	p.LastClaimedAt = &now
	p.NextAttemptAt = nil
	p.Claim = &Claim{Token: token, Range: r, Attempt: p.Reclaims + 1, ExpiresAt: p.expiry(now)}
}

func (p *Proc) expiry(now int64) *int64 {
	if p.ReclaimTimeout < 0 {
		return nil
	}
	at := now + p.ReclaimTimeout
	return &at
}

// holds answers CodeClaimLost when token, unless it is "", is not the live claim's.
func (p *Proc) holds(token string) error {
	if token != "" && (p.Claim == nil || p.Claim.Token != token) {
		return Errorf(CodeClaimLost, "the claim was lost: its token is not the live claim's of proc %q", p.Name)
	}
	return nil
}

// Repeats reports whether token is the one of the last applied ack: the ack is a repeat, and is answered as the first
// time.
func (p *Proc) Repeats(token string) bool {
	return token != "" && token == p.AckToken
}

// Ack ends the live claim: its logs are processed. It answers the range acked. "" as the token means the live claim,
// whosever it is. Errors: CodeClaimLost, CodeInvalidAck (nothing claimed).
func (p *Proc) Ack(now int64, token string) (Range, error) {
	if err := p.holds(token); err != nil {
		return Range{}, err
	}
	if p.Claim == nil {
		return Range{}, Errorf(CodeInvalidAck, "proc %q has no claim to ack", p.Name)
	}
	acked := p.Claim.Range
	p.AckToken, p.AckNext = p.Claim.Token, nil
	p.LastAckedRange = acked
	p.LastAckedAt = &now
	p.Position = acked.Last.Seq + 1
	p.Reclaims = 0
	p.Claim = nil
	p.Retry = Range{}
	p.NextAttemptAt, p.LastError = nil, ""
	return acked, nil
}

// CanReclaim answers CodeProcIsDisabled, CodeClaimLost and CodeNothingToReclaim, in this order.
func (p *Proc) CanReclaim(token string) error {
	if p.Status == StatusDisabled {
		return Errorf(CodeProcIsDisabled, "proc %q is disabled", p.Name)
	}
	if err := p.holds(token); err != nil {
		return err
	}
	if p.Claim == nil {
		return Errorf(CodeNothingToReclaim, "proc %q has no claim to reclaim", p.Name)
	}
	return nil
}

// Reclaim ends the live claim without an ack: the same logs will be handed out again. The reclaim that brings the count
// to MaxReclaims disables the proc, or does not, as OnMaxReclaimsReached tells. Errors: those of CanReclaim.
func (p *Proc) Reclaim(now int64, token string) error {
	if err := p.CanReclaim(token); err != nil {
		return err
	}
	p.reclaim(now)
	return nil
}

func (p *Proc) reclaim(now int64) {
	p.drop()
	p.Reclaims++
	if p.MaxReclaims >= 0 && p.Reclaims >= p.MaxReclaims && p.OnMaxReclaimsReached == OnMaxDisable {
		p.Status = StatusDisabled
	}
	if p.Kind == KindSystem {
		at := now + p.delay()
		p.NextAttemptAt = &at
	}
}

// EndClaim ends the live claim, if there is one, uncounted: whoever has it is not known any more. The same logs will be
// handed out again.
func (p *Proc) EndClaim() {
	if p.Claim != nil {
		p.drop()
	}
}

// drop ends the live claim and restores the previous range.
func (p *Proc) drop() {
	p.Retry = p.Claim.Range
	p.LastClaimedRange = p.PreviousClaimedRange
	p.Claim = nil
}

// Retry delays of a systemProc: 100 ms × 4ⁿ, at most 5 min, with full jitter.
const (
	firstDelay = 100
	MaxDelay   = 5 * 60 * 1000
)

// delay is the time from the latest reclaim to the next attempt. Its jitter is drawn from the proc's state, so that
// whoever applies the same reclaim to the same row comes to the same time.
func (p *Proc) delay() int64 {
	most := float64(MaxDelay)
	if n := p.Reclaims - 1; n < 8 {
		most = min(most, firstDelay*math.Pow(4, float64(n)))
	}
	h := fnv.New64a()
	h.Write([]byte(p.handedOut()))
	h.Write([]byte{byte(p.Reclaims), byte(p.Reclaims >> 8)}) //nolint:gosec // what is cut off would but change the delay
	x := h.Sum64()                                           // mixed, so that near inputs do not give near delays
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	return int64(float64(x>>11) / (1 << 53) * most)
}

// Undo ends the live claim as if it had never been made: it was not delivered. Anything but the live claim's token
// changes nothing. It reports whether it did something.
func (p *Proc) Undo(token string) bool {
	if p.Claim == nil || p.Claim.Token != token {
		return false
	}
	retry := p.Retry
	if !retry.IsZero() && retry != p.Claim.Range {
		p.ClaimCount = retry.Len() // the claim's own count was another, and is not to name the retry's logs
	}
	p.drop()
	p.Retry = retry
	return true
}

// Extend gives the live claim a full ReclaimTimeout from now on. Errors: CodeClaimLost.
func (p *Proc) Extend(now int64, token string) error {
	if err := p.holds(token); err != nil {
		return err
	}
	if p.Claim == nil {
		return Errorf(CodeClaimLost, "proc %q has no claim to extend", p.Name)
	}
	p.Claim.ExpiresAt = p.expiry(now)
	return nil
}

// Disable stops p from handing out logs; a live claim stays and can still be acked. CodeProcAlreadyDisabled.
func (p *Proc) Disable() error {
	if p.Status == StatusDisabled {
		return Errorf(CodeProcAlreadyDisabled, "proc %q is disabled already", p.Name)
	}
	p.Status = StatusDisabled
	return nil
}

// Resume lets p hand out logs again, with no reclaims counted; a claim that expired meanwhile ends, uncounted.
// CodeProcAlreadyActive.
func (p *Proc) Resume(now int64) error {
	if p.Status == StatusActive {
		return Errorf(CodeProcAlreadyActive, "proc %q is active already", p.Name)
	}
	p.Status = StatusActive
	p.Reclaims = 0
	p.NextAttemptAt, p.LastError = nil, ""
	if p.expired(now) {
		p.drop()
	} else if p.Claim != nil {
		p.Claim.Attempt = 1 // reclaims + 1, as ever
	}
	return nil
}

// SeekTo moves p to the seq start. A live claim is CodeAlreadyClaimed on an active proc, and ends on a disabled one.
func (p *Proc) SeekTo(start int64) error {
	if p.Status == StatusActive && p.Claim != nil {
		return p.CanClaim()
	}
	p.Claim = nil
	p.Position = start
	p.LastClaimedRange, p.PreviousClaimedRange, p.LastAckedRange = Range{}, Range{}, Range{}
	p.Retry = Range{}
	p.Reclaims = 0
	p.NextAttemptAt, p.LastError = nil, ""
	p.Seeks++
	return nil
}

// Failure tells how a systemProc's processor failed.
type Failure struct {
	Reason     string // told as lastError
	Disable    bool   // the proc is disabled at once; under OnMaxContinue it is retried at the longest delay
	Gone       bool   // the processor is no more: the proc is disabled at once, under OnMaxContinue too
	RetryAfter int64  // ms to wait at least; when > 0, the attempt is not counted as a reclaim
}

// Fail ends the live claim of a systemProc's proc after its processor failed. Errors: those of CanReclaim, but for a
// disabled proc, whose claim ends uncounted.
func (p *Proc) Fail(now int64, token string, f Failure) error {
	if err := p.holds(token); err != nil {
		return err
	}
	if p.Claim == nil {
		return Errorf(CodeNothingToReclaim, "proc %q has no claim to reclaim", p.Name)
	}
	switch {
	case p.Status == StatusDisabled:
		p.drop()
	case f.RetryAfter > 0:
		p.drop()
		at := now + f.RetryAfter
		p.NextAttemptAt = &at
	default:
		p.reclaim(now)
	}
	switch {
	case f.Gone, f.Disable && p.OnMaxReclaimsReached == OnMaxDisable:
		p.Status = StatusDisabled
	case f.Disable:
		at := now + MaxDelay
		p.NextAttemptAt = &at
	}
	p.LastError = f.Reason
	return nil
}

// WebhookID is the same for every attempt of a claimed range, and of no other one, seeks included. It has no dots.
// namespace names p's namespace among all there are: each of them counts its procs from 1. It is to be asked while the
// range is claimed or waits for its retry.
func (p *Proc) WebhookID(namespace string) string { return "msg_" + namespace + "_" + p.handedOut() }

// handedOut names the range that is claimed, or waits for its retry, among all that were ever handed out.
func (p *Proc) handedOut() string {
	r := p.Retry
	if p.Claim != nil {
		r = p.Claim.Range
	}
	b := []byte(itoa(p.ID))
	for _, n := range []int64{int64(p.Seeks), r.First.Seq, r.Last.Seq} {
		b = append(b, '_')
		b = append(b, itoa(n)...)
	}
	return string(b)
}
