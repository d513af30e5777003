package api

import "context"

// Procs is the role of the store that keeps the procs. Every operation on an active proc first applies the time-out that
// is due. Names and requests are valid. All of them answer CodeInvalidProc for an unknown proc unless they create it;
// writes may answer CodeOverloaded (not done) and CodeUnavailable (unknown whether done).
type Procs interface {
	// Claim hands out the next logs of a proc; nil when there are none, after req.Wait. An unknown proc is created when
	// req.Topic is given. A known one takes only Count and Wait from req. Errors, in this order: CodeProcIsManaged,
	// CodeProcNameNotUnique, CodeProcIsDisabled, CodeAlreadyClaimed (after req.Wait); creating: CodeCollected,
	// CodeInvalidRangeOffset.
	Claim(ctx context.Context, proc string, req ClaimRequest) (*Claimed, error)

	// ClaimAny creates the unknown procs and hands out logs of the first with work, the least recently claimed first;
	// disabled and claimed ones are passed over. nil when none has work, after req.Wait.
	ClaimAny(ctx context.Context, req ClaimAnyRequest) (*Claimed, error)

	// UndoClaim gives back a claim whose answer could not be delivered, as if it had not been made. Any other token than
	// the live claim's changes nothing.
	UndoClaim(ctx context.Context, proc, token string) error

	// Ack ends the live claim and commits req.Logs, in one transaction. A repeat with the token of the last applied ack
	// answers the same and changes nothing. Errors: CodeProcIsManaged (a systemProc's proc without a token, or claimNext on
	// a managed one), CodeClaimLost, CodeInvalidAck.
	Ack(ctx context.Context, proc string, req AckRequest) (Acked, error)

	// Reclaim ends the live claim without an ack and answers the last claimed range after it. Errors: CodeProcIsManaged (a
	// systemProc's proc without a token), CodeProcIsDisabled, CodeClaimLost, CodeNothingToReclaim.
	Reclaim(ctx context.Context, proc, token string) (Range, error)

	// Extend gives the live claim a full reclaimTimeout from now on; CodeClaimLost.
	Extend(ctx context.Context, proc, token string) (Claim, error)

	// Seek moves a proc; CodeAlreadyClaimed on an active proc with a live claim, CodeCollected, CodeInvalidRangeOffset.
	Seek(ctx context.Context, proc string, offset Offset) (Proc, error)

	// Proc answers one proc.
	Proc(ctx context.Context, name string) (Proc, error)

	// Procs lists procs by name.
	Procs(ctx context.Context, q ProcQuery) (ProcList, error)

	// CreateProc creates a proc without claiming; the same options again change nothing (created is false). Errors:
	// CodeProcOptionsDiffer, CodeProcIsManaged, CodeCollected, CodeInvalidRangeOffset.
	CreateProc(ctx context.Context, name string, o ProcOptions) (p Proc, created bool, err error)

	// PatchProc changes options; a live claim keeps its expiry.
	PatchProc(ctx context.Context, name string, patch ProcPatch) (Proc, error)

	// DestroyProc forgets a proc and answers it as it was; CodeProcIsManaged.
	DestroyProc(ctx context.Context, name string) (Proc, error)

	// DisableProc and ResumeProc answer CodeProcAlreadyDisabled and CodeProcAlreadyActive the second time.
	DisableProc(ctx context.Context, name string) (Proc, error)
	ResumeProc(ctx context.Context, name string) (Proc, error)

	// Wait waits until every named proc has acked what req waits for at one instant, or the time-out (Done false). Errors:
	// CodeInvalidProc, CodeProcIsDisabled (also for one that is disabled, or goes, meanwhile).
	Wait(ctx context.Context, req WaitRequest) (Waited, error)
}

// LiveProcSpec defines a liveProc.
type LiveProcSpec struct {
	Topic string   `json:"topic"`
	Mode  LiveMode `json:"mode"`
	Count *int     `json:"count,omitempty"`
	TTL   *int64   `json:"ttl,omitempty"` // ms without a connected stream or an ack; default 5 min, -1 never
}

// LiveMode tells where a liveProc starts.
type LiveMode string

// The modes: with the logs committed after the liveProc's creation, or with all.
const (
	ModeLive LiveMode = "live"
	ModeAll  LiveMode = "all"
)

// Validate answers the 400 that s deserves.
func (s *LiveProcSpec) Validate() error {
	if err := CheckTopic(s.Topic); err != nil {
		return err
	}
	if s.Mode != ModeLive && s.Mode != ModeAll {
		return Errorf(CodeInvalidRequest, `mode is "live" or "all"`)
	}
	if t := s.TTL; t != nil && *t != -1 && (*t < 1 || *t > MaxReclaimTimeout) {
		return Errorf(CodeInvalidRequest, "ttl is -1 (never) or 1 to %d ms", int64(MaxReclaimTimeout))
	}
	return checkCount(s.Count)
}

// Stream is one connection of a liveProc, as the store knows it.
type Stream struct {
	LiveProc   string
	Connection int64  // its number, told in every event's id
	Instance   string // names this very stream, among those that had the same number
}

// EndReason tells why a stream of a liveProc ends.
type EndReason string

// The reasons.
const (
	EndDisabled  EndReason = "disabled"
	EndDestroyed EndReason = "destroyed"
	EndExpired   EndReason = "expired"
	EndCancelled EndReason = "cancelled"
	EndReplaced  EndReason = "replaced"
)

// StreamTurn is what a stream of a liveProc is to do next: end, or send Claimed, or (both empty) wait.
type StreamTurn struct {
	End     EndReason
	Proc    Proc
	Claimed *Claimed // the live claim with its logs: made now, or outstanding
	// Wait is the time in ms until the clock alone may change the answer (a claim's time-out); negative: never.
	Wait int64
}

// LiveProcs is the role of the store that keeps liveProcs. A liveProc is a proc of KindLive, so the other operations are
// those of Procs. It expires when it had no open stream and no ack for its ttl.
type LiveProcs interface {
	// CreateLiveProc makes one; spec is valid.
	CreateLiveProc(ctx context.Context, spec LiveProcSpec) (Proc, error)

	// OpenStream makes a connection the liveProc's stream, and ends an earlier one (it sees EndReplaced). connection 0 asks
	// for the next number. A number presented again is kept; it is refused (ok false) while a greater number is open. Both
	// are refused when the liveProc is disabled or cancelled. Errors: CodeInvalidProc (also a proc of another kind, or an
	// expired one), CodeInvalidRequest (a number that was never given).
	OpenStream(ctx context.Context, name string, connection int64) (s Stream, p Proc, ok bool, err error)

	// Turn tells the stream what to do: it claims the next logs when nothing is claimed. held is the token of the claim
	// that the stream has sent already: while it lives, Claimed is nil.
	Turn(ctx context.Context, s Stream, held string) (StreamTurn, error)

	// KeepStreams renews the leases of all that are still their liveProcs' streams, by one statement for many. It is to be
	// called at least every StreamLease/3: without it a liveProc takes its stream for gone. Where somebody holds the rows of
	// a liveProc, the others' leases do not wait for them: they are tried again until ctx is done, which then is an error.
	KeepStreams(ctx context.Context, streams []Stream) error

	// CloseStream tells that the stream is gone; its ttl begins. Nothing happens when it was replaced.
	CloseStream(ctx context.Context, s Stream) error

	// CancelLiveProc ends the stream and disables the liveProc (which may be disabled already).
	CancelLiveProc(ctx context.Context, name string) (Proc, error)

	// DestroyLiveProc forgets a liveProc and answers it as it was.
	DestroyLiveProc(ctx context.Context, name string) (Proc, error)
}

// StreamLease is how long, in ms, a stream counts as open after its last sign of life.
const StreamLease = 30_000

// Collector is the role of the store that GC uses.
type Collector interface {
	// Collect runs GC once: for every topic, logs below its floor that are older than minPruneTime (ms) go. It may be
	// called at any time, by several servers at once.
	Collect(ctx context.Context, minPruneTime int64) (GCRun, error)

	// LastCollect answers the last run of any server; the zero GCRun when there was none.
	LastCollect(ctx context.Context) (GCRun, error)

	// Sweep applies time-outs that are due, removes expired liveProcs, idempotency keys, and the logs of deleted topics.
	// It may be called at any time, by several servers at once.
	Sweep(ctx context.Context) error
}

// GCRun tells what one run of GC did, a topic a row.
type GCRun struct {
	Topics     []Collected `json:"topics"`
	FinishedAt *int64      `json:"finishedAt,omitempty"`
}

// Collected tells what GC took of a topic: the number of logs, and the first log that is left (nil: none).
type Collected struct {
	Topic     string `json:"topic"`
	Collected int64  `json:"collected"`
	FirstID   *ID    `json:"firstId"`
}

// Watch tells that something may have changed: a hint, after which the watcher looks for itself. C has room for one
// hint; hints that find it full are merged. Subscribe before reading the state that is waited for. Close it when done.
type Watch struct {
	C     <-chan struct{}
	Close func()
}

// Watcher is the role of the store that wakes waiters up. Hints come after commits of this server at once, after those of
// other servers on the same database within milliseconds, and seconds later where word of them was lost. What time alone
// changes, such as a claim that times out, gives a hint when it is applied.
type Watcher interface {
	// Watch subscribes to the topics and procs of these names, which need not exist.
	Watch(topics, procs []string) Watch

	// WatchJobs subscribes to whatever may give systemProcs work.
	WatchJobs() Watch
}

// Health is the role of the store that readiness is asked of.
type Health interface {
	// Ready answers nil when the database answers and its schema is current.
	Ready(ctx context.Context) error
}
