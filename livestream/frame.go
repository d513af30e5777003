package livestream

import (
	"bytes"
	"encoding/json"
	"slices"
	"strconv"

	"pipeproc/api"
)

// heartbeatText is the comment that keeps an idle stream open through proxies.
const heartbeatText = "heartbeat"

var heartbeatFrame = []byte(": " + heartbeatText + "\n\n")

func appendRetry(b []byte, ms int64) []byte {
	b = append(b, "retry: "...)
	b = strconv.AppendInt(b, ms, 10)
	return append(b, '\n')
}

// The lines of a tail's event come in this order: event, data, id. A client that takes what it has for an event when the
// connection breaks off within one then keeps the id before, and gets the log again.

// appendEvent appends an event up to its id line.
func appendEvent(b []byte, event string, data []byte) []byte {
	b = append(b, "event: "...)
	b = append(b, event...)
	b = append(b, "\ndata: "...)
	b = append(b, data...)
	return append(b, '\n')
}

// appendLogEvent appends the event of one log up to its id line. Topics need no escaping, and compacted JSON has no line
// breaks, so the body goes out as it is.
func appendLogEvent(b []byte, topic string, l api.Log) []byte {
	b = append(b, `event: log`+"\n"+`data: {"topic":"`...)
	b = append(b, topic...)
	b = append(b, `","id":"`...)
	b = l.ID.Append(b)
	b = append(b, `","body":`...)
	b = append(b, l.Body...)
	return append(b, "}\n"...)
}

// A frame is the event of one log, encoded once for all readers of its topic.
type frame struct {
	bytes []byte // with the id for those who follow this topic alone
	event int    // the bytes before the id line
	id    api.ID
}

func newFrame(topic string, topicID int64, l api.Log) frame {
	b := make([]byte, 0, len(l.Body)+2*len(topic)+128)
	b = appendLogEvent(b, topic, l)
	n := len(b)
	b = append(b, "id: "...)
	b = appendPlace(b, topic, api.Place{TopicID: topicID, Seq: l.ID.Seq + 1}, false)
	b = append(b, "\n\n"...)
	return frame{bytes: b, event: n, id: l.ID}
}

// gapData is the data of a gap event: logs that the client asked for are not there any more. Requested and ResumedAt
// are log ids, or ":seq" where the log's time is not known; Requested is nil where nothing was delivered before.
type gapData struct {
	Topic     string  `json:"topic"`
	Requested *string `json:"requested"`
	ResumedAt string  `json:"resumedAt"`
	Reason    string  `json:"reason"`
}

// Reasons of a gap.
const (
	gapCollected = "collected" // GC took the logs
	gapRecreated = "recreated" // the topic, or the liveProc, was made anew
)

// topicEnd is the data of the end event of a topic on a tail.
type topicEnd struct {
	Topic  string `json:"topic"`
	Reason string `json:"reason"`
}

// liveProcEnd is the data of the end event of a liveProc's stream.
type liveProcEnd struct {
	Reason api.EndReason `json:"reason"`
}

// encode is for data made of names, ids and numbers: it cannot go wrong. Nothing is escaped that need not be.
func encode(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic(err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

// appendClaimed appends {proc, claim, logs}, the bodies byte for byte.
func appendClaimed(b []byte, c *api.Claimed) []byte {
	b = slices.Grow(b, 512+sizeOf(c.Logs))
	b = append(b, `{"proc":"`...)
	b = append(b, c.Proc...)
	b = append(b, `","claim":`...)
	b = append(b, encode(c.Claim)...)
	b = append(b, `,"logs":[`...)
	for i, l := range c.Logs {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"id":"`...)
		b = l.ID.Append(b)
		b = append(b, `","body":`...)
		b = append(b, l.Body...)
		b = append(b, '}')
	}
	return append(b, "]}"...)
}

// sizeOf is what logs take, in memory or in an event: a little more than their bodies.
func sizeOf(logs []api.Log) (n int) {
	for i := range logs {
		n += len(logs[i].Body) + 64
	}
	return n
}

func seqForm(seq int64) string { return ":" + strconv.FormatInt(seq, 10) }
