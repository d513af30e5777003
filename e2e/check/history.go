// Package check holds what clients of PipeProc saw against what they were promised.
//
// A test records into a [Recorder] what each client asked, when, and what came of it; at the end, what is left in the
// topics and of the procs. [Verify] then tells every promise that this [History] breaks, with the evidence.
//
// It judges by what is certain alone. A request takes effect at one moment between its begin and its end; one whose
// outcome is unknown takes effect at some moment after its begin, or never. Nothing is a violation unless no such moments
// explain what was seen.
//
// Bodies are unique ([NewLog.Value]): so a log that is found somewhere names the request that made it.
package check

import (
	"math"
	"slices"
	"sync"
	"time"

	"pipeproc/api"
)

// Moment is a time on a recorder's clock, which does not go back: since the recorder was made.
type Moment = time.Duration

// Never is after every moment.
const Never Moment = math.MaxInt64

// Outcome is what a client knows of a request.
type Outcome uint8

// The outcomes.
const (
	OK      Outcome = iota // it was carried out
	Failed                 // it was refused: nothing has changed, nor will
	Unknown                // it may have been carried out, may still be, or never
)

func (o Outcome) String() string { return [...]string{"ok", "failed", "unknown"}[o] }

// Span is who asked something, when, and how it ended.
type Span struct {
	Client     string
	Begin, End Moment // End of an Unknown one: when the client gave up
	Outcome    Outcome
}

// latest is the last moment at which it can have taken effect.
func (s Span) latest() Moment {
	if s.Outcome == Unknown {
		return Never
	}
	return s.End
}

// NewLog is a log to be committed. No two requests have the same Value, unless they are repeats with one
// Idempotency-Key, or answers of a processor of which one at most is committed.
type NewLog struct {
	Topic string
	Value string // the body, or what names it
}

// Log is a log as it was seen.
type Log struct {
	ID    api.ID
	Value string
}

// Commit is one request to commit, not an ackCommit.
type Commit struct {
	Span
	Key  string // the Idempotency-Key; repeats have the same, and the same Logs
	Logs []NewLog
	IDs  []api.ID // of an OK one
	Sent int      // how often the request may have reached a server, also late; 0 counts as 1
}

// Claim is a claim that was handed out. Refusals, and answers that there is nothing to do, are none; a claim whose answer
// was lost cannot be told of.
type Claim struct {
	Span      // Begin is 0 where it is not known when it was made: calls of a processor, events of a stream
	Proc      string
	Token     string
	Attempt   int
	ExpiresAt int64 // epoch ms by the database's clock; 0: never
	Logs      []Log
	Via       Via
	// Call is the id under which a processor was called, which only calls for the same logs share; "" where there is none.
	Call string
	// Waited tells that the request waited for logs: it is to be answered soon after they are there.
	Waited bool
}

// Via is how a claim reached its holder.
type Via uint8

// The ways.
const (
	ByClaim     Via = iota
	ByAck           // claimNext: its Span is the ack's
	ByProcessor     // a call of a systemProc's processor: the server may give the claim up at any time
	ByStream        // an event of a liveProc: the same claim may be sent again
)

// Ack is one ack or, with Output, one ackCommit; also what a processor answered (Unknown, with the call's token, from the
// moment of its answer on), since the server acks with it or does not.
type Ack struct {
	Span
	Proc   string
	Token  string   // never ""
	Output []NewLog // nil: a plain ack
	IDs    []api.ID // of the Output of an OK one
	Lost   bool     // of a Failed one: refused with claim_lost
}

// Reclaim is one request to end a claim without an ack, also a processor's answer that makes the server do so.
type Reclaim struct {
	Span
	Proc  string
	Token string // never ""
	Lost  bool   // of a Failed one: refused with claim_lost
}

// Extend is one request to extend a claim.
type Extend struct {
	Span
	Proc      string
	Token     string
	ExpiresAt int64 // of an OK one: as in Claim
	Lost      bool  // of a Failed one: refused with claim_lost
}

// Seek is one request to move a proc, on which claims and acks go on from Position. It is refused while a claim lives.
type Seek struct {
	Span
	Proc     string
	Position int64
}

// Read is one range of a topic, read forward from a seq on or backward from one down.
type Read struct {
	Span
	Topic   string
	From    int64 // the first seq asked for, from where Reverse goes down; -1: the first, or in Reverse the last there is
	Reverse bool
	Logs    []Log // in the order of the answer
	More    bool  // more may follow: a limit, or a bound of its own, cut it off
}

// Event is one event of a stream, as it was received: Logs of a topic, or a Gap.
type Event struct {
	At         Moment
	Stream     string
	Connection int    // counted from 1 by the client; each reconnect is a new one
	Topic      string // of the logs, or of the gap
	Logs       []Log
	Gap        *Gap
}

// Gap tells that the stream goes on at another seq than was asked for.
type Gap struct{ Requested, ResumedAt int64 }

// Stream is one reader of topics that resumes where it was after each break: a tail. A liveProc is a Proc, and its events
// are claims.
type Stream struct {
	Name string
	// Starts are the topics followed, each with the seq at which the stream begins; -1: unknown, the first event tells.
	Starts map[string]int64
	// Connected are the moments at which connections were made, the first connection's first.
	Connected []Moment
	// Whole tells that it was kept open until nothing more could come: it must have had everything.
	Whole bool
}

// Proc is a proc of whatever kind. No name is used for two of them.
type Proc struct {
	Name, Topic string
	Created     Span
	Start       int64 // the first seq that it hands out; -1: unknown
	Destroyed   *Span // nil: it was not
	// Position is the first seq not acked at the end, after everything: the topic's head minus the lag. -1: unknown.
	Position int64
	// Whole tells that it was run until it had no lag.
	Whole bool
	// Disabled tells that it was disabled at times, by somebody or by its reclaims: time-outs that did not come are not
	// judged.
	Disabled bool
}

// Collection is what one run of GC told of one topic: from then on its first log is First.
type Collection struct {
	Span
	Topic string
	First int64
}

// Topic is what a topic holds at the end, after everything.
type Topic struct {
	First int64 // the first retained seq; the Head when it is empty
	Head  int64 // the seq of the next log
	Logs  []Log // all that are retained
}

// Interval is a time from one moment to another one.
type Interval struct{ From, To Moment }

// History is what was recorded. Its lists have no order.
type History struct {
	Began time.Time // the wall clock at moment 0; the database's clock is held to be within ClockSkew of it
	// ClockSkew is by how much the two clocks may differ.
	ClockSkew time.Duration

	Commits     []Commit
	Claims      []Claim
	Acks        []Ack
	Reclaims    []Reclaim
	Extends     []Extend
	Seeks       []Seek
	Reads       []Read
	Events      []Event
	Collections []Collection
	Streams     []Stream
	Procs       []Proc
	Topics      map[string]Topic

	// WakeUp is the longest that a log may take from its commit's answer to whoever waits for it; 0: as long as it likes.
	WakeUp time.Duration
	// Excused are the times of faults, until all has recovered: nothing is late in them.
	Excused []Interval
}

// Recorder takes down a history. It may be used by many goroutines at once.
type Recorder struct {
	mu      sync.Mutex
	history History
}

// NewRecorder starts the clock.
func NewRecorder() *Recorder {
	return &Recorder{history: History{Began: time.Now(), ClockSkew: 5 * time.Millisecond, Topics: map[string]Topic{}}}
}

// Now is the time.
func (r *Recorder) Now() Moment { return time.Since(r.history.Began) }

// Begin begins a span. It is to be called before the request is sent.
func (r *Recorder) Begin(client string) Span { return Span{Client: client, Begin: r.Now()} }

// End ends a span. It is to be called after the answer was read.
func (r *Recorder) End(s Span, o Outcome) Span {
	s.End, s.Outcome = r.Now(), o
	return s
}

func record[T any](r *Recorder, list *[]T, one T) {
	r.mu.Lock()
	defer r.mu.Unlock()
	*list = append(*list, one)
}

// Commit takes a commit down, once it has ended; so do the others.
func (r *Recorder) Commit(c Commit) { record(r, &r.history.Commits, c) }

// Claim takes a claim down.
func (r *Recorder) Claim(c Claim) { record(r, &r.history.Claims, c) }

// Ack takes an ack or ackCommit down.
func (r *Recorder) Ack(a Ack) { record(r, &r.history.Acks, a) }

// Reclaim takes a reclaim down.
func (r *Recorder) Reclaim(c Reclaim) { record(r, &r.history.Reclaims, c) }

// Extend takes an extension down.
func (r *Recorder) Extend(e Extend) { record(r, &r.history.Extends, e) }

// Seek takes a seek down.
func (r *Recorder) Seek(s Seek) { record(r, &r.history.Seeks, s) }

// Read takes a range down; those that were not answered tell nothing.
func (r *Recorder) Read(one Read) { record(r, &r.history.Reads, one) }

// Event takes an event of a tail down; one without a time has just been received.
func (r *Recorder) Event(e Event) {
	if e.At == 0 {
		e.At = r.Now()
	}
	record(r, &r.history.Events, e)
}

// Collection takes a run of GC down.
func (r *Recorder) Collection(c Collection) { record(r, &r.history.Collections, c) }

// Stream takes a tail down, at its end.
func (r *Recorder) Stream(s Stream) { record(r, &r.history.Streams, s) }

// Proc takes a proc down, at the end.
func (r *Recorder) Proc(p Proc) { record(r, &r.history.Procs, p) }

// Excuse takes down that a fault began at from, and that all had recovered at to.
func (r *Recorder) Excuse(from, to Moment) { record(r, &r.history.Excused, Interval{from, to}) }

// WakeUp sets the bound on wake-ups.
func (r *Recorder) WakeUp(bound time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.history.WakeUp = bound
}

// Topic takes down what a topic holds at the end.
func (r *Recorder) Topic(name string, t Topic) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.history.Topics[name] = t
}

// History is what was taken down so far.
func (r *Recorder) History() History {
	r.mu.Lock()
	defer r.mu.Unlock()
	h := r.history
	h.Excused = slices.Clone(h.Excused)
	h.ClockSkew += drift(h.Began, time.Now())
	return h
}

// drift is by how much the wall clock, which the database goes by, was set while the recorder's went on.
func drift(began, now time.Time) time.Duration {
	return (now.Round(0).Sub(began.Round(0)) - now.Sub(began)).Abs() // Round strips what does not go back
}
