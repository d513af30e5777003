package api

import (
	"strconv"
	"strings"
)

// ID names a log in its topic: the time of its commit (epoch ms) and its place in the topic, from 0. On the wire it is
// "{timestampMs}-{seq}".
type ID struct {
	TS  int64
	Seq int64
}

// Compare orders ids by timestamp, then by seq.
func (id ID) Compare(other ID) int {
	switch {
	case id.TS < other.TS, id.TS == other.TS && id.Seq < other.Seq:
		return -1
	case id == other:
		return 0
	}
	return 1
}

// Append appends the wire form to b.
func (id ID) Append(b []byte) []byte {
	b = strconv.AppendInt(b, id.TS, 10)
	b = append(b, '-')
	return strconv.AppendInt(b, id.Seq, 10)
}

func (id ID) String() string { return string(id.Append(make([]byte, 0, 24))) }

// MarshalText gives the wire form.
func (id ID) MarshalText() ([]byte, error) { return id.Append(make([]byte, 0, 24)), nil }

// UnmarshalText reads the wire form, alone.
func (id *ID) UnmarshalText(text []byte) (err error) {
	*id, err = ParseID(string(text))
	return err
}

// ParseID reads "{timestampMs}-{seq}"; anything else is CodeInvalidRangeOffset.
func ParseID(s string) (ID, error) {
	ts, seq, ok := strings.Cut(s, "-")
	if !ok {
		return ID{}, Errorf(CodeInvalidRangeOffset, "%q is not a log id ({timestampMs}-{seq})", clip(s))
	}
	t, err := parseNumber(ts)
	if err != nil {
		return ID{}, err
	}
	n, err := parseNumber(seq)
	if err != nil {
		return ID{}, err
	}
	return ID{TS: t, Seq: n}, nil
}

// parseNumber reads decimal digits, 0 to 2^63-1, without a sign.
func parseNumber(s string) (int64, error) {
	if s == "" || s[0] < '0' || s[0] > '9' { // strconv takes signs
		return 0, Errorf(CodeInvalidRangeOffset, "%q is not a number from 0 to 2^63-1", clip(s))
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 0, Errorf(CodeInvalidRangeOffset, "%q is not a number from 0 to 2^63-1", clip(s))
	}
	return n, nil
}

func itoa(n int64) string { return strconv.FormatInt(n, 10) }

// clip keeps what a caller sent short enough to be told back.
func clip(s string) string {
	const most = 64
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}

// Range is a run of logs handed out together. The zero Range is none: "" on the wire, else "first..last", also for one
// log.
type Range struct {
	First ID
	Last  ID
	set   bool
}

// NewRange is the run from first to last, both included.
func NewRange(first, last ID) Range { return Range{First: first, Last: last, set: true} }

// IsZero reports whether r is none.
func (r Range) IsZero() bool { return !r.set }

// Len is the number of logs in r.
func (r Range) Len() int {
	if !r.set {
		return 0
	}
	return int(r.Last.Seq-r.First.Seq) + 1
}

func (r Range) String() string {
	if !r.set {
		return ""
	}
	b := r.First.Append(make([]byte, 0, 48))
	return string(r.Last.Append(append(b, ".."...)))
}

// MarshalText gives the wire form.
func (r Range) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText reads the wire form.
func (r *Range) UnmarshalText(text []byte) (err error) {
	*r, err = ParseRange(string(text))
	return err
}

// ParseRange reads "first..last", or "" for none.
func ParseRange(s string) (Range, error) {
	if s == "" {
		return Range{}, nil
	}
	a, b, ok := strings.Cut(s, "..")
	if !ok {
		return Range{}, Errorf(CodeInvalidRangeOffset, "%q is not a range of logs", clip(s))
	}
	first, err := ParseID(a)
	if err != nil {
		return Range{}, err
	}
	last, err := ParseID(b)
	if err != nil {
		return Range{}, err
	}
	return NewRange(first, last), nil
}

// Acked is how an ack names what it acked: the id of one log, "first..last" of several.
func (r Range) Acked() string {
	if r.set && r.First == r.Last {
		return r.First.String()
	}
	return r.String()
}
