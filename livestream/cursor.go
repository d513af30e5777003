package livestream

import (
	"strconv"
	"strings"

	"pipeproc/api"
)

// A cursor is the id of every event of a tail: where it stands in each topic that it follows, after the event. Clients
// take it as opaque. It is "name~topicID.seq" for each topic, joined by commas; topicID is 0 for a topic that does not
// exist yet, and a trailing "!" says that the topic was deleted and the client told so.
type cursor map[string]position

// A position is where a tail stands in one topic.
type position struct {
	api.Place
	ended bool // the topic was deleted, and the client was told
}

func appendPlace(b []byte, topic string, p api.Place, ended bool) []byte {
	b = appendPlaceTopic(b, topic, p.TopicID)
	b = strconv.AppendInt(b, p.Seq, 10)
	if ended {
		b = append(b, '!')
	}
	return b
}

// appendPlaceTopic appends a place up to its seq.
func appendPlaceTopic(b []byte, topic string, topicID int64) []byte {
	b = append(b, topic...)
	b = append(b, '~')
	b = strconv.AppendInt(b, topicID, 10)
	return append(b, '.')
}

// parseCursor answers CodeInvalidRequest for what no tail sent; "" is the empty cursor.
func parseCursor(s string) (cursor, error) {
	c := cursor{}
	if s == "" {
		return c, nil
	}
	malformed := api.Errorf(api.CodeInvalidRequest, "%.64q is not the id of an event of a tail", s)
	for entry := range strings.SplitSeq(s, ",") {
		topic, place, ok := strings.Cut(entry, "~")
		place, ended := strings.CutSuffix(place, "!")
		id, seq, dot := strings.Cut(place, ".")
		topicID, ok1 := parseNumber(id)
		next, ok2 := parseNumber(seq)
		if !ok || !dot || !ok1 || !ok2 || api.CheckTopic(topic) != nil || topicID == 0 && (next != 0 || ended) {
			return nil, malformed
		}
		if _, twice := c[topic]; twice {
			return nil, malformed
		}
		c[topic] = position{api.Place{TopicID: topicID, Seq: next}, ended}
	}
	return c, nil
}

// parseNumber reads a number from 0 to 2^63-1 in the one form that we write.
func parseNumber(s string) (int64, bool) {
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil && n >= 0 && strconv.FormatInt(n, 10) == s
}
