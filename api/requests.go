package api

import (
	"maps"
	"slices"
)

// ProcOptions are what a proc is created with. Absent members (nil, "") take the defaults.
type ProcOptions struct {
	Topic                string        `json:"topic,omitempty" empty:"invalid_topic_format"`
	Offset               string        `json:"offset,omitempty" empty:"invalid_range_offset"`          // default ">"
	Count                *int          `json:"count,omitempty"`                                        // logs of a claim, 1 to 10,000; default 1
	MaxReclaims          *int          `json:"maxReclaims,omitempty"`                                  // default 10 (0 as well), -1 no limit
	ReclaimTimeout       *int64        `json:"reclaimTimeout,omitempty"`                               // ms; default 10,000, -1 never
	OnMaxReclaimsReached OnMaxReclaims `json:"onMaxReclaimsReached,omitempty" empty:"invalid_request"` // default "disable"
}

// Validate answers the 400 that o deserves. Topic is checked unless it is absent.
func (o *ProcOptions) Validate() error {
	if o.Topic != "" {
		if err := CheckTopic(o.Topic); err != nil {
			return err
		}
	}
	if _, err := ParseOffset(o.Offset); err != nil {
		return err
	}
	return ProcPatch{o.Count, o.MaxReclaims, o.ReclaimTimeout, o.OnMaxReclaimsReached}.Validate()
}

// Apply gives p the options, defaults where they are absent.
func (o *ProcOptions) Apply(p *Proc) {
	offset, _ := ParseOffset(o.Offset)
	p.Offset = offset.String()
	p.Count, p.MaxReclaims, p.ReclaimTimeout = DefaultCount, DefaultMaxReclaims, DefaultReclaimTimeout
	p.OnMaxReclaimsReached = OnMaxDisable
	ProcPatch{o.Count, o.MaxReclaims, o.ReclaimTimeout, o.OnMaxReclaimsReached}.Apply(p)
}

// Match reports whether a proc created with o would have the options of p.
func (o *ProcOptions) Match(p *Proc) bool {
	var q Proc
	o.Apply(&q)
	return o.Topic == p.Topic && q.Offset == p.Offset && q.Count == p.Count && q.MaxReclaims == p.MaxReclaims &&
		q.ReclaimTimeout == p.ReclaimTimeout && q.OnMaxReclaimsReached == p.OnMaxReclaimsReached
}

// ProcPatch changes options of a proc; absent members stay as they are.
type ProcPatch struct {
	Count                *int          `json:"count,omitempty"`
	MaxReclaims          *int          `json:"maxReclaims,omitempty"`
	ReclaimTimeout       *int64        `json:"reclaimTimeout,omitempty"`
	OnMaxReclaimsReached OnMaxReclaims `json:"onMaxReclaimsReached,omitempty" empty:"invalid_request"`
}

// Validate answers the 400 that o deserves.
func (o ProcPatch) Validate() error {
	if err := checkCount(o.Count); err != nil {
		return err
	}
	if m := o.MaxReclaims; m != nil && (*m < -1 || *m > 1<<31-1) {
		return Errorf(CodeInvalidRequest, "maxReclaims is -1 (no limit), 0 (the default) or a number up to 2^31-1")
	}
	if t := o.ReclaimTimeout; t != nil && *t != -1 && (*t < 1 || *t > MaxReclaimTimeout) {
		return Errorf(CodeInvalidRequest, "reclaimTimeout is -1 (never) or 1 to %d ms", int64(MaxReclaimTimeout))
	}
	switch o.OnMaxReclaimsReached {
	case "", OnMaxDisable, OnMaxContinue:
		return nil
	}
	return Errorf(CodeInvalidRequest, `onMaxReclaimsReached is "disable" or "continue"`)
}

// Apply changes p.
func (o ProcPatch) Apply(p *Proc) {
	if o.Count != nil {
		p.Count = *o.Count
	}
	if o.MaxReclaims != nil {
		p.MaxReclaims = *o.MaxReclaims
		if p.MaxReclaims == 0 {
			p.MaxReclaims = DefaultMaxReclaims
		}
	}
	if o.ReclaimTimeout != nil {
		p.ReclaimTimeout = *o.ReclaimTimeout
	}
	if o.OnMaxReclaimsReached != "" {
		p.OnMaxReclaimsReached = o.OnMaxReclaimsReached
	}
}

func checkCount(count *int) error {
	if count != nil && (*count < 1 || *count > MaxCount) {
		return Errorf(CodeInvalidRequest, "count is 1 to %d", MaxCount)
	}
	return nil
}

// MaxWait is the longest that a claim or a wait may hold a request, in ms.
const MaxWait = 60_000

func checkWait(name string, wait *int64) error {
	if wait != nil && (*wait < 0 || *wait > MaxWait) {
		return Errorf(CodeInvalidRequest, "%s is 0 to %d ms", name, MaxWait)
	}
	return nil
}

// ClaimRequest asks for logs; it creates the proc if it is unknown and Topic is given.
type ClaimRequest struct {
	ProcOptions
	Wait *int64 `json:"wait,omitempty"` // ms to wait for logs, or for a held claim to end; 0 to 60,000
}

// Validate answers the 400 that r deserves.
func (r *ClaimRequest) Validate() error {
	if err := r.ProcOptions.Validate(); err != nil {
		return err
	}
	return checkWait("wait", r.Wait)
}

// ClaimAnyRequest asks for logs of any of several procs.
type ClaimAnyRequest struct {
	Procs []NamedProcOptions `json:"procs"`
	Wait  *int64             `json:"wait,omitempty"`
}

// NamedProcOptions are a proc's name and the options to create it with.
type NamedProcOptions struct {
	Name string `json:"name"`
	ProcOptions
}

// MaxClaimAny is the most procs that one ClaimAnyRequest may name.
const MaxClaimAny = 1_000

// Validate answers the 400 that r deserves.
func (r *ClaimAnyRequest) Validate() error {
	if len(r.Procs) < 1 || len(r.Procs) > MaxClaimAny {
		return Errorf(CodeInvalidRequest, "procs has 1 to %d entries", MaxClaimAny)
	}
	seen := make(map[string]bool, len(r.Procs))
	for i := range r.Procs {
		p := &r.Procs[i]
		if err := CheckProc(p.Name); err != nil {
			return err
		}
		if seen[p.Name] {
			return Errorf(CodeInvalidRequest, "proc %q is named twice", p.Name)
		}
		seen[p.Name] = true
		if err := p.Validate(); err != nil {
			return err
		}
	}
	return checkWait("wait", r.Wait)
}

// Claimed is a claim with its logs.
type Claimed struct {
	Proc  string `json:"proc"`
	Topic string `json:"topic"`
	Claim Claim  `json:"claim"`
	Logs  []Log  `json:"logs"`
}

// AckRequest acks a claim, and commits Logs in the same transaction when there are any.
type AckRequest struct {
	Token     string // "": the live claim, whosever it is
	ClaimNext bool   // claim the next logs in the same transaction; needs Token
	Count     *int   // of that next claim alone
	Logs      []NewLog
	One       bool // Logs was given as one log, not as a list
}

// Validate answers the 400 that r deserves; Logs are taken as valid.
func (r *AckRequest) Validate() error {
	if r.ClaimNext && r.Token == "" {
		return Errorf(CodeInvalidRequest, "claimNext needs a token")
	}
	return checkCount(r.Count)
}

// Acked is the answer to an ack: the same again when it is repeated with the token of the last applied ack.
type Acked struct {
	Acked string // the id acked, or first..last for several
	IDs   []ID   // of the logs committed with it
	One   bool   // the commit was given as one log, not as a list
	// Next is meant where NextAsked is true: the next claim, nil when there is no work, the proc is disabled or, on a
	// repeat, that claim no longer lives.
	NextAsked bool
	Next      *Claimed
}

// WaitRequest asks to wait until, at one instant, every named proc has acked everything, or everything up to its id in
// UpTo. Procs nil: those of UpTo, or, where that is nil as well, every active proc.
type WaitRequest struct {
	Procs   []string      `json:"procs,omitempty"`
	UpTo    map[string]ID `json:"upTo,omitempty"`    // a proc's name → the id of the last log to wait for, which need not exist
	Timeout *int64        `json:"timeout,omitempty"` // ms, 0 to 60,000; default 30,000
}

// DefaultWaitTimeout is in ms.
const DefaultWaitTimeout = 30_000

// MaxWaitProcs is the most procs that one WaitRequest may name.
const MaxWaitProcs = 1_000

// Validate answers the 400 that r deserves.
func (r *WaitRequest) Validate() error {
	names := r.Names()
	switch {
	case names != nil && len(names) == 0:
		return Errorf(CodeInvalidRequest, "no procs are named: leave procs and upTo out to wait for every active proc")
	case len(names) > MaxWaitProcs:
		return Errorf(CodeInvalidRequest, "a wait names at most %d procs", MaxWaitProcs)
	}
	named := make(map[string]bool, len(names))
	for _, name := range names {
		if err := CheckProc(name); err != nil {
			return err
		}
		named[name] = true
	}
	for name := range r.UpTo {
		if !named[name] {
			return Errorf(CodeInvalidRequest, "upTo names proc %q, which is not among procs", clip(name))
		}
	}
	return checkWait("timeout", r.Timeout)
}

// Names are the procs to wait for, in the order of the answer; nil: every active proc.
func (r *WaitRequest) Names() []string {
	if r.Procs == nil && r.UpTo != nil {
		names := slices.AppendSeq(make([]string, 0, len(r.UpTo)), maps.Keys(r.UpTo)) // not nil where it is empty
		slices.Sort(names)
		return names
	}
	return r.Procs
}

// Met reports whether p has acked what r waits for: everything up to its id in r.UpTo, or, where it has none there,
// everything. Of the id the seq decides, since timestamps never decrease along it.
func (r *WaitRequest) Met(p *Proc) bool {
	if id, ok := r.UpTo[p.Name]; ok {
		return p.Position > id.Seq
	}
	return p.Lag == 0
}

// Waited is the answer to a WaitRequest.
type Waited struct {
	Done  bool      `json:"done"`
	Procs []ProcLag `json:"procs"`
}

// ProcLag is a proc's lag.
type ProcLag struct {
	Name string `json:"name"`
	Lag  int64  `json:"lag"`
}

// ProcList is a page of procs, by name.
type ProcList struct {
	Procs []Proc `json:"procs"`
	Next  string `json:"next,omitempty"`
}

// ProcQuery selects procs to list.
type ProcQuery struct {
	Topic string   // "" every topic
	Kind  ProcKind // "" every kind
	After string
	Limit int
}
