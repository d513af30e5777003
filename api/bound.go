package api

import "strings"

// A Bound is a place in a topic as a caller names it: a full id, a timestamp, or a sequence number.
type Bound struct {
	Form BoundForm
	ID   ID // Form BoundID: both; BoundTime: TS; BoundSeq: Seq
}

// BoundForm tells which form a Bound was given in.
type BoundForm int

// The forms of a bound.
const (
	BoundNone BoundForm = iota // not given
	BoundID                    // "ts-seq"
	BoundTime                  // "ts"
	BoundSeq                   // ":seq"
)

// ParseBound reads a bound of a range; "" is BoundNone. Anything else than the three forms, and numbers over 2^63-1, are
// CodeInvalidRangeOffset.
func ParseBound(s string) (Bound, error) {
	switch {
	case s == "":
		return Bound{}, nil
	case s[0] == ':':
		n, err := parseNumber(s[1:])
		return Bound{Form: BoundSeq, ID: ID{Seq: n}}, err
	case strings.Contains(s, "-"):
		id, err := ParseID(s)
		return Bound{Form: BoundID, ID: id}, err
	}
	ts, err := parseNumber(s)
	return Bound{Form: BoundTime, ID: ID{TS: ts}}, err
}

// TopicState is what is known of a topic at one instant, as far as places in it are concerned.
type TopicState struct {
	First  int64 // the first retained seq
	Head   int64 // the next seq
	LastTS int64 // the timestamp of log Head-1; 0 while Head is 0
	// FirstID is the id of the log First; nil when nothing is retained.
	FirstID *ID
}

// Search finds, in one topic, the first retained seq whose log has a timestamp of at least ts; the head when there is
// none.
type Search func(ts int64) (int64, error)

// atOrAfter is the first retained seq whose log is not before id, as (ts, seq); id need not exist.
func (t TopicState) atOrAfter(id ID, search Search) (int64, error) {
	from, err := search(id.TS)
	if err != nil {
		return 0, err
	}
	if id.Seq <= from {
		return from, nil
	}
	to := t.Head
	if id.TS < 1<<63-1 {
		if to, err = search(id.TS + 1); err != nil {
			return 0, err
		}
	}
	return min(id.Seq, to), nil
}

// check answers bounds that name a log which GC took, or a sequence number that was never given.
func (t TopicState) check(b Bound) error {
	switch b.Form {
	case BoundSeq:
		if b.ID.Seq >= t.Head {
			return Errorf(CodeInvalidToneIDSearch, "sequence number %d is at or beyond the head (%d)", b.ID.Seq, t.Head)
		}
		if b.ID.Seq < t.First {
			return t.Collected()
		}
	case BoundID:
		if t.First > 0 && t.before(b.ID) {
			return t.Collected()
		}
	}
	return nil
}

// before reports whether id lies before the first retained log, or, where nothing is retained, not after the last log
// there was.
func (t TopicState) before(id ID) bool {
	if t.FirstID != nil {
		return id.Compare(*t.FirstID) < 0
	}
	return id.Compare(ID{TS: t.LastTS, Seq: t.Head - 1}) <= 0
}

// Collected is the answer to whoever asks for logs that GC took.
func (t TopicState) Collected() *Error {
	e := Errorf(CodeCollected, "the logs asked for were collected")
	e.FirstID = t.FirstID
	return e
}

// Resolve turns the two bounds of a range into the half-open run of seqs [from, to), empty when from >= to. low and high
// are the lower and the upper bound, whichever of start and end the caller gave them as. With exclusive, bounds given as
// full id or :seq are left out.
func (t TopicState) Resolve(low, high Bound, exclusive bool, search Search) (from, to int64, err error) {
	if err := t.check(low); err != nil {
		return 0, 0, err
	}
	if err := t.check(high); err != nil {
		return 0, 0, err
	}
	from, to = t.First, t.Head
	switch low.Form {
	case BoundSeq:
		from = low.ID.Seq
		if exclusive {
			from++
		}
	case BoundTime:
		from, err = search(low.ID.TS)
	case BoundID:
		from, err = t.atOrAfter(after(low.ID, exclusive), search)
	}
	if err != nil {
		return 0, 0, err
	}
	switch high.Form {
	case BoundSeq:
		to = high.ID.Seq
		if !exclusive {
			to++
		}
	case BoundTime:
		if high.ID.TS < 1<<63-1 {
			to, err = search(high.ID.TS + 1)
		}
	case BoundID:
		to, err = t.atOrAfter(after(high.ID, !exclusive), search)
	}
	return from, to, err
}

// after is the id that follows id, when it is wanted.
func after(id ID, wanted bool) ID {
	switch {
	case !wanted:
		return id
	case id.Seq < 1<<63-1:
		return ID{TS: id.TS, Seq: id.Seq + 1}
	case id.TS < 1<<63-1:
		return ID{TS: id.TS + 1}
	}
	return id
}

// An Offset is where a proc starts, as its creator names it.
type Offset struct {
	Latest bool  // "$>": with the logs committed from now on
	At     Bound // BoundNone (and not Latest): with the first retained log
}

// ParseOffset reads ">" (or "earliest", or ""), "$>" (or "latest"), and the forms of a bound. Anything else is
// CodeInvalidRangeOffset.
func ParseOffset(s string) (Offset, error) {
	switch s {
	case "", ">", "earliest":
		return Offset{}, nil
	case "$>", "latest":
		return Offset{Latest: true}, nil
	}
	at, err := ParseBound(s)
	return Offset{At: at}, err
}

// String is the canonical form of the offset: aliases are resolved.
func (o Offset) String() string {
	switch {
	case o.Latest:
		return "$>"
	case o.At.Form == BoundSeq:
		return ":" + itoa(o.At.ID.Seq)
	case o.At.Form == BoundTime:
		return itoa(o.At.ID.TS)
	case o.At.Form == BoundID:
		return o.At.ID.String()
	}
	return ">"
}

// Start resolves o to the first seq that the proc is to be handed, at the database's time now.
//
// ":n" is seq n+1, also beyond the head; a full id the first log greater than it; a timestamp the first log at or after
// it, the head if there is none, and CodeInvalidRangeOffset if it lies in the future. A start that GC took is
// CodeCollected.
func (t TopicState) Start(o Offset, now int64, search Search) (int64, error) {
	switch {
	case o.Latest:
		return t.Head, nil
	case o.At.Form == BoundSeq:
		if o.At.ID.Seq == 1<<63-1 {
			return 0, Errorf(CodeInvalidRangeOffset, "no sequence number follows %d", o.At.ID.Seq)
		}
		if o.At.ID.Seq+1 < t.First {
			return 0, t.Collected()
		}
		return o.At.ID.Seq + 1, nil
	case o.At.Form == BoundTime:
		if o.At.ID.TS > now {
			return 0, Errorf(CodeInvalidRangeOffset, "the timestamp %d lies in the future (now is %d)", o.At.ID.TS, now)
		}
		return search(o.At.ID.TS)
	case o.At.Form == BoundID:
		// The log just before the first retained one may be named, though it is gone: what follows it is there.
		if t.First > 0 && t.before(o.At.ID) && o.At.ID.Seq != t.First-1 {
			return 0, t.Collected()
		}
		return t.atOrAfter(after(o.At.ID, true), search)
	}
	return t.First, nil
}
