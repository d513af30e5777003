package check

import (
	"cmp"
	"fmt"
	"slices"
)

// Kind names a broken promise.
type Kind string

// The kinds. What a value is, NewLog tells.
const (
	// Commits and topics.
	Missing       Kind = "missing"        // a log that was acked or seen is not in its topic
	Hole          Kind = "hole"           // a seq without a log
	TwoBodies     Kind = "two-bodies"     // an id that was seen with different bodies, or a seq with different ids
	BackInTime    Kind = "back-in-time"   // a timestamp that decreases along seq
	TooEarly      Kind = "too-early"      // a timestamp from before the request: not the clock read after the locks
	TooLate       Kind = "too-late"       // a timestamp from after its log was there
	Late          Kind = "late"           // a log that turned up after a later one had been seen
	Partial       Kind = "partial"        // a commit of which only a part is there, or was
	Scattered     Kind = "scattered"      // a commit whose logs have several timestamps, or are not one run of a topic
	FromFailed    Kind = "from-failed"    // a log of a request that failed
	Foreign       Kind = "foreign"        // a log that nobody committed to this topic
	Doubled       Kind = "doubled"        // a log that is there more often than it was committed
	RepeatDiffers Kind = "repeat-differs" // a repeat that was answered by other ids
	Disorder      Kind = "disorder"       // a commit that began after another one had ended has the smaller seq

	// Procs.
	TwoClaims    Kind = "two-claims"    // two live claims of one proc
	ClaimChanged Kind = "claim-changed" // a token under which other logs were sent, or a claim that is no run of the topic
	CallChanged  Kind = "call-changed"  // calls for the same logs under several ids, or for several logs under one
	LostToken    Kind = "lost-token"    // an ack, a reclaim or an extension by the token of a claim that had ended
	AckedTwice   Kind = "acked-twice"   // logs that were handed out after they had been acked, or acked twice
	AckUndone    Kind = "ack-undone"    // an ack that a proc's position does not show
	Skipped      Kind = "skipped"       // logs that a proc passed over
	Illegal      Kind = "illegal"       // no order of a proc's requests explains what they were answered
	Undecided    Kind = "undecided"     // it could not be found out in time whether there is one
	OutputLost   Kind = "output-lost"   // an ack without its output
	OutputTwice  Kind = "output-twice"  // outputs of the same logs, more than once
	OutputMixed  Kind = "output-mixed"  // outputs in another order than the logs that they come from

	// GC and streams.
	CollectedUnread Kind = "collected-unread" // a log that GC took before a proc had acked it
	StreamLoss      Kind = "stream-loss"      // a log that a stream passed over
	StreamTwice     Kind = "stream-twice"     // a log that a stream sent again
	StreamMixed     Kind = "stream-mixed"     // logs of a topic in another order than theirs
	StreamGap       Kind = "stream-gap"       // a gap where GC took nothing
	WakeUpLate      Kind = "wake-up-late"     // a log that came later than the bound

	// Unsound is a mistake of the test: the history contradicts itself.
	Unsound Kind = "unsound"
)

// Violation is one broken promise with its evidence.
type Violation struct {
	Kind Kind
	Text string // who did or saw what, with ids and moments
}

func (v Violation) String() string { return string(v.Kind) + ": " + v.Text }

// told is how many violations of a kind are told in full.
const told = 20

// Verify tells what the history violates: nil when nothing. Of each kind 20 are told, and how many more there are.
func Verify(h History) []Violation {
	r := &report{counts: map[Kind]int{}}
	x := newIndex(&h, r)
	x.checkTopics()
	x.checkCommits()
	x.checkOrder()
	x.checkVisible()
	x.checkClaims()
	x.checkCalls()
	x.checkAcks()
	x.checkOutputs()
	x.checkCollections()
	x.checkStreams()
	x.checkWakeUps()
	x.checkProcs()
	return r.all()
}

// Kinds are the kinds among violations, sorted, each once.
func Kinds(violations []Violation) []Kind {
	kinds := make([]Kind, len(violations))
	for i, v := range violations {
		kinds[i] = v.Kind
	}
	slices.Sort(kinds)
	return slices.Compact(kinds)
}

// report gathers violations.
type report struct {
	violations []Violation
	counts     map[Kind]int
}

func (r *report) addf(k Kind, format string, args ...any) {
	r.counts[k]++
	if r.counts[k] <= told {
		r.violations = append(r.violations, Violation{k, fmt.Sprintf(format, args...)})
	}
}

func (r *report) all() []Violation {
	for k, n := range r.counts {
		if n > told {
			r.violations = append(r.violations, Violation{k, fmt.Sprintf("and %d more", n-told)})
		}
	}
	slices.SortStableFunc(r.violations, func(a, b Violation) int {
		return cmp.Compare(a.Kind, b.Kind)
	})
	return r.violations
}

func (s Span) String() string {
	return fmt.Sprintf("%s %s [%s, %s]", s.Client, s.Outcome, at(s.Begin), at(s.End))
}

// at writes a moment.
func at(m Moment) string {
	if m == Never {
		return "never"
	}
	return fmt.Sprintf("%.6fs", m.Seconds())
}
