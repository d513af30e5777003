package livestream

import (
	"strconv"
	"strings"

	"pipeproc/api"
)

// An eventID is the id of every event on a liveProc's stream: "{liveProc}:{connection}:{last log id}".
type eventID struct {
	liveProc   string
	connection int64
	last       string // the id of the last log delivered, "" when there was none
}

// parseEventID answers CodeInvalidRequest for what no stream sent.
func parseEventID(s string) (eventID, error) {
	malformed := api.Errorf(api.CodeInvalidRequest, "%.64q is not the id of an event of a liveProc's stream", s)
	parts := strings.Split(s, ":")
	if len(parts) != 3 || api.CheckProc(parts[0]) != nil {
		return eventID{}, malformed
	}
	n, err := strconv.ParseInt(parts[1], 10, 64)
	if err != nil || n < 1 || strconv.FormatInt(n, 10) != parts[1] {
		return eventID{}, malformed
	}
	if parts[2] != "" {
		if _, err := api.ParseID(parts[2]); err != nil {
			return eventID{}, malformed
		}
	}
	return eventID{parts[0], n, parts[2]}, nil
}

func (e eventID) String() string {
	return e.liveProc + ":" + strconv.FormatInt(e.connection, 10) + ":" + e.last
}
