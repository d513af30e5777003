package httpapi

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"

	"pipeproc/api"
)

// newLogs are the logs of a commit, in the form they were given: one, or a list.
type newLogs struct {
	logs []api.NewLog
	one  bool
}

// readLogs reads {topic, body} or a list of them, and checks each.
func readLogs(data []byte) (l newLogs, err error) {
	switch first(data) {
	case '[':
		err = api.DecodeJSON(data, &l.logs)
	case '{':
		l.logs, l.one = make([]api.NewLog, 1), true
		err = api.DecodeJSON(data, &l.logs[0])
	default:
		var neither struct{}
		if err = api.DecodeJSON(data, &neither); err == nil {
			err = api.Errorf(api.CodeInvalidRequest, "null is given where {topic, body} or a list of them is expected")
		}
	}
	switch {
	case err != nil:
		return l, err
	case len(l.logs) == 0:
		return l, api.Errorf(api.CodeInvalidRequest, "the list of logs is empty")
	case len(l.logs) > api.MaxCommitLogs:
		return l, api.Errorf(api.CodeTooLarge, "a commit has at most %d logs, this one has %d", api.MaxCommitLogs, len(l.logs))
	}
	for i := range l.logs {
		if err := checkLog(&l.logs[i]); err != nil {
			return l, l.at(i, err)
		}
	}
	return l, nil
}

func checkLog(log *api.NewLog) (err error) {
	if err = api.CheckTopic(log.Topic); err != nil {
		return err
	}
	log.Body, err = api.DecodedLogBody(log.Body)
	return err
}

// at tells which log of a list is wrong.
func (l newLogs) at(i int, err error) error {
	var e *api.Error
	if l.one || !errors.As(err, &e) {
		return err
	}
	told := *e
	told.Message = fmt.Sprintf("log %d: %s", i, e.Message)
	return &told
}

// commit handles POST /v1/commit.
func (s *Server) commit(w http.ResponseWriter, r *http.Request) error {
	data, err := readBody(w, r)
	if err != nil {
		return err
	}
	l, err := readLogs(data)
	if err != nil {
		return err
	}
	return s.add(w, r, l)
}

// commitBody handles POST /v1/topics/{topic}/logs: the request's body is the log's, also when it is an array.
func (s *Server) commitBody(w http.ResponseWriter, r *http.Request) error {
	data, err := readBody(w, r)
	if err != nil {
		return err
	}
	body, err := api.LogBody(data)
	if err != nil {
		return err
	}
	return s.add(w, r, newLogs{logs: []api.NewLog{{Topic: r.PathValue("topic"), Body: body}}, one: true})
}

// add commits l and answers with its ids.
func (s *Server) add(w http.ResponseWriter, r *http.Request, l newLogs) error {
	key, err := idempotencyKey(r, l)
	if err != nil {
		return err
	}
	done, err := s.Logs.Commit(r.Context(), l.logs, key)
	if err != nil {
		return err
	}
	status := http.StatusCreated
	if done.Duplicate {
		status = http.StatusOK
	}
	if topic := r.PathValue("topic"); topic != "" {
		w.Header().Set("Location", "/v1/topics/"+topic+"/logs/"+done.IDs[0].String())
	}
	var b bytes.Buffer
	encodeCommitted(&b, l.one, done)
	return send(w, status, typeJSON, b.Bytes())
}

// encodeCommitted writes the answer to a commit, of one log or of a list, and a line's end. encoding/json would take longer
// for it than all else that is done for each log.
func encodeCommitted(b *bytes.Buffer, one bool, done api.Committed) {
	b.Grow(64 + 48*len(done.IDs))
	if one {
		b.WriteString(`{"id":`)
		encodeID(b, done.IDs[0])
	} else {
		b.WriteString(`{"ids":[`)
		for i, id := range done.IDs {
			if i > 0 {
				b.WriteByte(',')
			}
			encodeID(b, id)
		}
		b.WriteByte(']')
	}
	if done.Duplicate {
		b.WriteString(`,"duplicate":true`)
	}
	b.WriteString("}\n")
}

// idempotencyKey reads the header of that name; nil when there is none. The hash tells requests apart that would not
// have the same answer: by route, form, topics and bodies.
func idempotencyKey(r *http.Request, l newLogs) (*api.IdempotencyKey, error) {
	given := r.Header["Idempotency-Key"]
	if len(given) == 0 {
		return nil, nil
	}
	if len(given) > 1 || !validKey(given[0]) {
		return nil, api.Errorf(api.CodeInvalidRequest, "Idempotency-Key is 1 to 255 visible ASCII characters, given once")
	}
	h := sha256.New()
	part := func(b []byte) {
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(b))))
		h.Write(b)
	}
	form := "list"
	if l.one {
		form = "one"
	}
	part([]byte(r.Pattern))
	part([]byte(form))
	for _, log := range l.logs {
		part([]byte(log.Topic))
		part(log.Body)
	}
	return &api.IdempotencyKey{Key: given[0], APIKey: api.CallerOf(r.Context()).Key, Hash: [32]byte(h.Sum(nil))}, nil
}

func validKey(key string) bool {
	for _, c := range []byte(key) {
		if c <= ' ' || c > '~' {
			return false
		}
	}
	return 1 <= len(key) && len(key) <= 255
}
