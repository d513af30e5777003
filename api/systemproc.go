package api

import (
	"context"
	"encoding/json"
	"net/url"
	"slices"
	"strings"
)

// Names is one name or a list of them, and keeps the form that it was given in: "a" or ["a", "b"].
type Names struct {
	List   []string
	Single bool
}

// MarshalJSON gives the form that n was given in; none is [].
func (n Names) MarshalJSON() ([]byte, error) {
	if n.Single && len(n.List) == 1 {
		return json.Marshal(n.List[0])
	}
	if n.List == nil {
		return []byte("[]"), nil
	}
	return json.Marshal(n.List)
}

// UnmarshalJSON reads a string or an array of strings; null is none.
func (n *Names) UnmarshalJSON(data []byte) error {
	*n = Names{}
	if data[0] == '"' {
		n.Single = true
		n.List = []string{unquote(data)}
		return nil
	}
	return DecodeJSON(data, &n.List)
}

// Processor tells what runs on the logs of a systemProc: a webhook's URL, or the text of a JavaScript function.
type Processor struct {
	URL     string            `json:"url,omitempty"`
	Timeout *int64            `json:"timeout,omitempty"` // ms that one call may take
	Headers map[string]string `json:"headers,omitempty"` // sent with each call
	Inline  string            `json:"inline,omitempty"`
	Bare    bool              `json:"-"` // given as a string, the URL alone
}

// Limits of a processor.
const (
	DefaultWebhookTimeout = 10_000
	DefaultInlineTimeout  = 1_000
	MaxInlineTimeout      = 60_000
	MaxInline             = 64 << 10 // bytes of an inline function
	MaxProcessorHeaders   = 32
)

// MarshalJSON gives the form that p was given in.
func (p Processor) MarshalJSON() ([]byte, error) {
	if p.Bare {
		return json.Marshal(p.URL)
	}
	type plain Processor
	return json.Marshal(plain(p))
}

// UnmarshalJSON reads a string or an object; strictly, as DecodeJSON does. Anything else is CodeNoValidProcessor.
func (p *Processor) UnmarshalJSON(data []byte) error {
	switch data[0] {
	case '"':
		*p = Processor{URL: unquote(data), Bare: true}
		return nil
	case '{':
	default:
		return Errorf(CodeNoValidProcessor, "processor is a URL, {url, timeout, headers} or {inline}")
	}
	type plain Processor
	return DecodeJSON(data, (*plain)(p))
}

// Validate answers CodeNoValidProcessor, or CodeInvalidRequest for a timeout out of bounds. reclaimTimeout is the
// systemProc's, -1 for never.
func (p *Processor) Validate(reclaimTimeout int64) error {
	switch {
	case p == nil || p.URL == "" && p.Inline == "":
		return Errorf(CodeNoValidProcessor, "processor is a URL, {url, timeout, headers} or {inline}")
	case p.URL != "" && p.Inline != "":
		return Errorf(CodeNoValidProcessor, "processor has a url or an inline function, not both")
	case p.Inline != "" && len(p.Headers) > 0:
		return Errorf(CodeNoValidProcessor, "headers belong to a url")
	case len(p.Inline) > MaxInline:
		return Errorf(CodeNoValidProcessor, "inline has at most %d bytes, this one has %d", MaxInline, len(p.Inline))
	}
	if p.URL != "" {
		u, err := url.Parse(p.URL)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.Opaque != "" {
			return Errorf(CodeNoValidProcessor, "the processor's url is an absolute http or https URL without user name or password")
		}
	}
	if len(p.Headers) > MaxProcessorHeaders {
		return Errorf(CodeNoValidProcessor, "a processor has at most %d headers", MaxProcessorHeaders)
	}
	for name, value := range p.Headers {
		if !validHeader(name, value) {
			return Errorf(CodeNoValidProcessor, "header %q cannot be sent", clip(name))
		}
	}
	if t := p.Timeout; t != nil {
		most := int64(MaxReclaimTimeout)
		if p.Inline != "" {
			most = MaxInlineTimeout
		}
		if *t < 1 || *t > most {
			return Errorf(CodeInvalidRequest, "the processor's timeout is 1 to %d ms", most)
		}
		if reclaimTimeout >= 0 && *t >= reclaimTimeout {
			return Errorf(CodeInvalidRequest, "the processor's timeout is to be below reclaimTimeout (%d ms)", reclaimTimeout)
		}
	}
	return nil
}

// CallTimeout is the time in ms that one call may take: the processor's own, else the smaller of 10 s (inline: 1 s) and
// 80 % of reclaimTimeout.
func (p *Processor) CallTimeout(reclaimTimeout int64) int64 {
	most := int64(DefaultWebhookTimeout)
	if p.Inline != "" {
		most = DefaultInlineTimeout
	}
	switch {
	case p.Timeout != nil:
		return *p.Timeout
	case reclaimTimeout < 0:
		return most
	}
	return max(1, min(most, reclaimTimeout*8/10))
}

// Redacted is p without what may be secret.
func (p Processor) Redacted() Processor {
	headers := make(map[string]string, len(p.Headers))
	for name := range p.Headers {
		headers[name] = "[redacted]"
	}
	if p.Headers != nil {
		p.Headers = headers
	}
	return p
}

// validHeader allows tokens of RFC 9110 that are not the service's own to set, and values without control characters.
func validHeader(name, value string) bool {
	if name == "" || len(name) > 128 || len(value) > 4096 {
		return false
	}
	for _, c := range []byte(name) {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_') {
			return false
		}
	}
	for _, c := range []byte(value) {
		if c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return !slices.ContainsFunc(ownHeaders, func(own string) bool { return strings.EqualFold(own, name) })
}

// ownHeaders are set by the service or by HTTP itself.
var ownHeaders = []string{"Content-Type", "Content-Length", "Host", "Connection", "Transfer-Encoding", "Upgrade", "TE",
	"Trailer", "Keep-Alive", "Proxy-Connection", "Expect", "Accept-Encoding", "User-Agent", "traceparent", "tracestate",
	"webhook-id", "webhook-timestamp", "webhook-signature", "webhook-attempt"}

// SystemProcSpec defines a systemProc.
type SystemProcSpec struct {
	Name      string     `json:"name"`
	From      Names      `json:"from"`
	To        Names      `json:"to,omitempty"`
	Processor *Processor `json:"processor"`

	Offset               string        `json:"offset,omitempty" empty:"invalid_range_offset"`
	Count                *int          `json:"count,omitempty"`
	MaxReclaims          *int          `json:"maxReclaims,omitempty"`
	ReclaimTimeout       *int64        `json:"reclaimTimeout,omitempty"`
	OnMaxReclaimsReached OnMaxReclaims `json:"onMaxReclaimsReached,omitempty" empty:"invalid_request"`

	// Secret signs the calls of a webhook; "": the server generates one. It is not part of the definition that is kept.
	Secret string `json:"secret,omitempty" empty:"invalid_request"`
}

// MaxSystemProcTopics is the most topics that from, and to, may name.
const MaxSystemProcTopics = 1_000

// Options are what the systemProc's proc on topic is created with.
func (s *SystemProcSpec) Options(topic string) ProcOptions {
	return ProcOptions{Topic: topic, Offset: s.Offset, Count: s.Count, MaxReclaims: s.MaxReclaims,
		ReclaimTimeout: s.ReclaimTimeout, OnMaxReclaimsReached: s.OnMaxReclaimsReached}
}

// ProcName is the name of the systemProc's proc on topic: the systemProc's own where From is one name, else
// name__topic.
func (s *SystemProcSpec) ProcName(topic string) string {
	if s.From.Single {
		return s.Name
	}
	return s.Name + "__" + topic
}

// Validate answers the 400 that s deserves.
func (s *SystemProcSpec) Validate() error {
	if err := CheckProc(s.Name); err != nil {
		return err
	}
	if len(s.From.List) == 0 || len(s.From.List) > MaxSystemProcTopics || len(s.To.List) > MaxSystemProcTopics {
		return Errorf(CodeInvalidRequest, "from names 1 to %d topics, to 0 to %d", MaxSystemProcTopics, MaxSystemProcTopics)
	}
	for _, names := range [][]string{s.From.List, s.To.List} {
		for i, topic := range names {
			if err := CheckTopic(topic); err != nil {
				return err
			}
			if slices.Contains(names[:i], topic) {
				return Errorf(CodeInvalidRequest, "topic %q is named twice", topic)
			}
		}
	}
	for _, topic := range s.From.List {
		if err := CheckProc(s.ProcName(topic)); err != nil {
			return err
		}
	}
	options := s.Options("")
	if err := options.Validate(); err != nil {
		return err
	}
	var p Proc
	options.Apply(&p)
	if err := s.Processor.Validate(p.ReclaimTimeout); err != nil {
		return err
	}
	if s.Secret == "" {
		return nil
	}
	if s.Processor.URL == "" {
		return Errorf(CodeInvalidRequest, "secret belongs to a url")
	}
	_, err := SecretKey(s.Secret)
	return err
}

// SystemProcPatch changes a systemProc; absent members stay as they are, the procs' positions and claims as well. From
// keeps its form: one name stays that name; a list may gain and lose topics, whose procs are created and destroyed.
type SystemProcPatch struct {
	From                 *Names        `json:"from,omitempty"`
	To                   *Names        `json:"to,omitempty"`
	Processor            *Processor    `json:"processor,omitempty"`
	Count                *int          `json:"count,omitempty"`
	MaxReclaims          *int          `json:"maxReclaims,omitempty"`
	ReclaimTimeout       *int64        `json:"reclaimTimeout,omitempty"`
	OnMaxReclaimsReached OnMaxReclaims `json:"onMaxReclaimsReached,omitempty" empty:"invalid_request"`
}

// Apply changes s and answers the 400 that the outcome deserves.
func (p SystemProcPatch) Apply(s *SystemProcSpec) error {
	if p.From != nil {
		if p.From.Single != s.From.Single || s.From.Single && !slices.Equal(p.From.List, s.From.List) {
			return Errorf(CodeInvalidRequest, "from keeps its form: a name stays that name, a list stays a list")
		}
		s.From = *p.From
	}
	if p.To != nil {
		s.To = *p.To
	}
	if p.Processor != nil {
		s.Processor = p.Processor
	}
	if p.Count != nil {
		s.Count = p.Count
	}
	if p.MaxReclaims != nil {
		s.MaxReclaims = p.MaxReclaims
	}
	if p.ReclaimTimeout != nil {
		s.ReclaimTimeout = p.ReclaimTimeout
	}
	if p.OnMaxReclaimsReached != "" {
		s.OnMaxReclaimsReached = p.OnMaxReclaimsReached
	}
	return s.Validate()
}

// SystemProc is a systemProc on the wire.
type SystemProc struct {
	Name      string    `json:"name"`
	From      Names     `json:"from"`
	To        Names     `json:"to"`
	Processor Processor `json:"processor"` // redacted
	CreatedAt int64     `json:"createdAt"`
	Procs     []Proc    `json:"procs"`
}

// SystemProcMade is the answer to the creation of a systemProc.
type SystemProcMade struct {
	Procs  []Proc `json:"procs"`
	Secret string `json:"secret,omitempty"` // the one that was generated for a webhook, told this once
}

// SystemProcs is the role of the store that keeps systemProcs.
type SystemProcs interface {
	// CreateSystemProc makes a systemProc and its procs; spec is valid. A secret is generated where none is given, also for
	// an inline function, which is not told of it. The same definition again changes nothing (created is false), one whose
	// From list only gains topics adds their procs. Errors: CodeProcOptionsDiffer for any other definition and for a given
	// secret that is not the current one, CodeProcNameNotUnique where a name is taken by a proc that is not the
	// systemProc's, CodeCollected.
	CreateSystemProc(ctx context.Context, spec SystemProcSpec) (made SystemProcMade, created bool, err error)

	// SystemProc answers one; CodeInvalidSystemProc.
	SystemProc(ctx context.Context, name string) (SystemProc, error)

	// SystemProcs lists the systemProcs after the given name.
	SystemProcs(ctx context.Context, after string, limit int) (SystemProcList, error)

	// PatchSystemProc changes one; CodeInvalidSystemProc, and what CreateSystemProc answers.
	PatchSystemProc(ctx context.Context, name string, patch SystemProcPatch) (SystemProc, error)

	// RotateSecret gives one another secret, as Secrets.Rotate tells; r is valid. CodeInvalidSystemProc.
	RotateSecret(ctx context.Context, name string, r SecretRotation) (RotatedSecret, error)

	// DestroySystemProc destroys one with its procs, and answers it as it was; CodeInvalidSystemProc.
	DestroySystemProc(ctx context.Context, name string) (SystemProc, error)
}

// SystemProcList is a page of systemProcs, by name.
type SystemProcList struct {
	SystemProcs []SystemProc `json:"systemProcs"`
	Next        string       `json:"next,omitempty"`
}

// Execution is one claim of a systemProc's proc, with what its worker is to do with it.
type Execution struct {
	Claimed
	SystemProc     string
	To             []string
	Processor      Processor // not redacted
	Count          int       // the proc's own, whatever the number of Logs
	Secrets        []string  // those that sign it, as of the claim, newest first
	ReclaimTimeout int64     // ms, -1 never
	WebhookID      string    // the same for every attempt of this range, and for no other one anywhere
}

// Jobs is the role of the store that the workers of systemProcs use.
type Jobs interface {
	// RunnableJobs lists the procs of systemProcs that are active, not claimed, due, and have logs to hand out, the least
	// recently claimed first, at most limit. next is the time in ms until another one becomes due by the clock alone (a
	// retry's delay, a claim's time-out), negative when there is none. Those whose processor is an inline function are
	// left out of both unless inline is true: they are for servers that run such functions.
	RunnableJobs(ctx context.Context, limit int, inline bool) (procs []string, next int64, err error)

	// ClaimJob claims the next logs of a systemProc's proc under token, a new one for each claim. A repeat answers the
	// claim that lives under it. nil when there is nothing to do: no work, not due, disabled, claimed already, or gone.
	// Errors: CodeUnavailable (unknown whether claimed; a repeat with the same token resolves it).
	ClaimJob(ctx context.Context, proc, token string) (*Execution, error)

	// AckJob acks an execution, commits its output logs (already one for each target topic; may be empty) and, with
	// claimNext, claims the next logs in the same transaction; nil where there are none. Errors: CodeClaimLost,
	// CodeInvalidProc, CodeUnavailable (unknown whether applied; a repeat with the same token resolves it).
	AckJob(ctx context.Context, proc, token string, logs []NewLog, claimNext bool) (*Execution, error)

	// FailJob ends the claim after a failed attempt. Errors: CodeClaimLost, CodeInvalidProc.
	FailJob(ctx context.Context, proc, token string, f Failure) error

	// UndoJob gives a claim back that was not used, as if it had not been made. Nothing happens when it was lost.
	UndoJob(ctx context.Context, proc, token string) error
}
