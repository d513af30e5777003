package api

import (
	"context"
	"encoding/json"
)

// Limits of what one request may carry.
const (
	MaxBodySize     = 1 << 20  // bytes of one log's body, compacted
	MaxRequestSize  = 16 << 20 // bytes of one request
	MaxCommitLogs   = 10_000   // logs of one commit
	MaxDepth        = 128      // nesting of JSON
	MaxPageLogs     = 10_000   // the greatest limit of a page of logs
	DefaultPageLogs = 1_000    // logs of a page where no limit is given
	MaxPageBytes    = 8 << 20  // bytes of bodies at which a page, a claim or an event ends, with at least one log
	MaxListed       = 1_000    // the greatest limit of a list of topics or procs
	DefaultListed   = 100      // its default
)

// CheckTopic answers CodeInvalidTopicFormat unless name can be a topic's.
func CheckTopic(name string) error {
	if !isName(name, 128) {
		return Errorf(CodeInvalidTopicFormat, "topic %q: a topic's name is 1 to 128 of A-Z a-z 0-9 _ -", clip(name))
	}
	return nil
}

// CheckProc answers CodeInvalidProcFormat unless name can be a proc's.
func CheckProc(name string) error {
	if !isName(name, 128) {
		return Errorf(CodeInvalidProcFormat, "proc %q: a proc's name is 1 to 128 of A-Z a-z 0-9 _ -", clip(name))
	}
	return nil
}

// CheckNamespace answers CodeInvalidRequest unless name can be a namespace's.
func CheckNamespace(name string) error {
	if !isName(name, 48) {
		return Errorf(CodeInvalidRequest, "namespace %q: a namespace's name is 1 to 48 of A-Z a-z 0-9 _ -", clip(name))
	}
	return nil
}

// isName tells that name is 1 to longest characters of A-Z a-z 0-9 _ -.
func isName(name string, longest int) bool {
	for _, c := range []byte(name) {
		if (c < 'a' || 'z' < c) && (c < 'A' || 'Z' < c) && (c < '0' || '9' < c) && c != '_' && c != '-' {
			return false
		}
	}
	return 1 <= len(name) && len(name) <= longest
}

// Log is an entry of a topic.
type Log struct {
	ID   ID              `json:"id"`
	Body json.RawMessage `json:"body"` // compacted JSON, byte for byte as committed
}

// NewLog is a log to commit. Body is a JSON object or array, compacted.
type NewLog struct {
	Topic string          `json:"topic"`
	Body  json.RawMessage `json:"body"`
}

// IdempotencyKey makes a commit safe to repeat for 24 hours. It belongs to a namespace and an API key.
type IdempotencyKey struct {
	Key    string
	APIKey string   // "" where there are no API keys
	Hash   [32]byte // of the route and the logs: the same key with another hash is CodeKeyReused
}

// Committed is the answer to a commit.
type Committed struct {
	IDs       []ID // one for each log, in order
	Duplicate bool // the idempotency key was known: these are the ids of the first time, nothing was committed
}

// RangeQuery asks for a run of logs. Zero bounds are the ends of the topic.
type RangeQuery struct {
	Start, End Bound
	Exclusive  bool // leave out bounds given as full id or :seq
	Reverse    bool // from the last to the first: Start is the upper bound
	Limit      int  // logs of the page, 1 to MaxPageLogs
}

// Run is a run of logs, fixed once: the seqs from From to To-1 of the topic with that id, to be read in this order or, with
// Reverse, from the last one down. Logs committed later are not in it.
type Run struct {
	TopicID  int64
	From, To int64
	Reverse  bool
}

// Len is the number of logs in r.
func (r Run) Len() int64 { return max(0, r.To-r.From) }

// First is the run of the first n logs of r, in its order.
func (r Run) First(n int64) Run {
	if n < r.Len() {
		if r.Reverse {
			r.From = r.To - n
		} else {
			r.To = r.From + n
		}
	}
	return r
}

// After is what is left of r when the log seq was read.
func (r Run) After(seq int64) Run {
	if r.Reverse {
		r.To = seq
	} else {
		r.From = seq + 1
	}
	return r
}

// Page is a run of logs.
type Page struct {
	Logs []Log `json:"logs"`
	// Next, sent as start with all else unchanged, asks for the following page; absent when nothing follows. It is the
	// first id of the next page, or, with Exclusive, the last id of this one.
	Next *ID `json:"next,omitempty"`
}

// Topic is a topic as it stands. Length counts the logs retained, Committed all ever; FirstID and LastID are those of the
// retained logs, nil when there are none.
type Topic struct {
	Name      string `json:"name"`
	Length    int64  `json:"length"`
	Committed int64  `json:"committed"`
	FirstID   *ID    `json:"firstId"`
	LastID    *ID    `json:"lastId"`
	CreatedAt int64  `json:"createdAt"`
}

// TopicList is a page of topics, by name.
type TopicList struct {
	Topics []Topic `json:"topics"`
	Next   string  `json:"next,omitempty"` // sent as after, asks for the following page
}

// Logs is the role of the store that keeps the logs.
type Logs interface {
	// Commit adds logs, all or none, and answers after they are durable. Topics come into being. logs are 1 to
	// MaxCommitLogs, their topics and bodies valid. key may be nil. Errors: CodeKeyReused, CodeOverloaded, CodeUnavailable
	// (unknown whether committed).
	Commit(ctx context.Context, logs []NewLog, key *IdempotencyKey) (Committed, error)

	// Range answers one page, consistent at one instant. Errors: CodeInvalidTopic, CodeInvalidToneIDSearch, CodeCollected.
	Range(ctx context.Context, topic string, q RangeQuery) (Page, error)

	// Resolve fixes the run of logs that a range means now; q.Limit 0 is all of them, and it may exceed MaxPageLogs. Errors:
	// those of Range.
	Resolve(ctx context.Context, topic string, q RangeQuery) (Run, error)

	// ReadRun reads the first logs of a run that is not empty, in its order, until their bodies are size bytes or more; so
	// one at least. visit is called for each, and keeps nothing of the body when it returns. After an error what was visited
	// is void: CodeInvalidTopic once the topic was deleted, CodeCollected once GC took any log of the run.
	ReadRun(ctx context.Context, run Run, size int, visit func(id ID, body []byte)) error

	// Log answers the log that at names (BoundID or BoundSeq). Errors: CodeInvalidTopic, CodeLogNotFound, CodeCollected.
	Log(ctx context.Context, topic string, at Bound) (Log, error)
}

// Topics is the role of the store that keeps the topics.
type Topics interface {
	// Topic answers one topic; CodeInvalidTopic when it is unknown or only reserved.
	Topic(ctx context.Context, name string) (Topic, error)

	// Topics lists the topics after the given name, at most limit.
	Topics(ctx context.Context, after string, limit int) (TopicList, error)

	// DeleteTopic unlinks the name at once; the logs go in the background. Errors: CodeInvalidTopic; CodeTopicInUse while
	// procs exist, unless force, which destroys them: a systemProc loses the topic, and goes with its last one.
	DeleteTopic(ctx context.Context, name string, force bool) error
}

// Place is a position in a topic: the next log to read. ID names the topic itself, so that a later topic of the same
// name is told apart; 0 is a topic that does not exist yet.
type Place struct {
	TopicID int64
	Seq     int64
}

// Tailer is the role of the store that tails read from.
type Tailer interface {
	// Place resolves where to start: with earliest, at the first retained log; with at given, at the first log that the
	// bound names as the start of a range (same errors as Range, CodeInvalidTopic included); else at the head. For an
	// unknown topic without a bound it is the zero Place.
	Place(ctx context.Context, topic string, earliest bool, at Bound) (Place, error)

	// Heads answers, for each topic that exists now, its id, first retained seq and head. Unknown topics are absent.
	Heads(ctx context.Context, topics []string) (map[string]TopicHead, error)

	// ReadFrom answers logs of the topic with that id from seq on, at most limit logs and size bytes of bodies, at least one
	// if there is one. first is the first retained seq: when it is greater than seq, the logs between were collected, and the
	// answer starts at first. exists is false once the topic was deleted.
	ReadFrom(ctx context.Context, topicID, seq int64, limit, size int) (logs []Log, first int64, exists bool, err error)
}

// TopicHead is the moving part of a topic.
type TopicHead struct {
	ID    int64
	First int64
	Head  int64
}
