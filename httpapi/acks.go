package httpapi

import (
	"bytes"
	"encoding/json"
	"net/http"

	"pipeproc/api"
)

// ackRequest ends a claim.
type ackRequest struct {
	Token     string `json:"token" empty:"invalid_request"` // absent: the live claim, whosever it is
	ClaimNext bool   `json:"claimNext"`
	Count     *int   `json:"count"`
}

func (q *ackRequest) request(l newLogs) (api.AckRequest, error) {
	req := api.AckRequest{Token: q.Token, ClaimNext: q.ClaimNext, Count: q.Count, Logs: l.logs, One: l.one}
	return req, req.Validate()
}

// ackCommitRequest ends a claim and commits logs with it.
type ackCommitRequest struct {
	ackRequest
	Logs json.RawMessage `json:"logs"` // {topic, body}, or a list of them
}

// ack handles POST /v1/procs/{proc}/ack.
func (s *Server) ack(w http.ResponseWriter, r *http.Request) error {
	var q ackRequest
	if err := decodeOptional(w, r, &q); err != nil {
		return err
	}
	req, err := q.request(newLogs{})
	if err != nil {
		return err
	}
	return s.end(w, r, req)
}

// ackCommit handles POST /v1/procs/{proc}/ack-commit.
func (s *Server) ackCommit(w http.ResponseWriter, r *http.Request) error {
	var q ackCommitRequest
	if err := decode(w, r, &q); err != nil {
		return err
	}
	if q.Logs == nil {
		return api.Errorf(api.CodeInvalidRequest, `member "logs" is missing`)
	}
	l, err := readLogs(q.Logs)
	if err != nil {
		return err
	}
	req, err := q.request(l)
	if err != nil {
		return err
	}
	return s.end(w, r, req)
}

// end acks a claim. A repeat is answered as the first ack was, whatever it carries: the form of the answer is the
// store's to tell.
func (s *Server) end(w http.ResponseWriter, r *http.Request, req api.AckRequest) error {
	acked, err := s.Procs.Ack(r.Context(), r.PathValue("proc"), req)
	if err != nil {
		return err
	}
	body, err := encodeAcked(acked)
	if err != nil {
		return err
	}
	return send(w, http.StatusOK, typeJSON, body)
}

func encodeAcked(acked api.Acked) ([]byte, error) {
	var b bytes.Buffer
	b.WriteString(`{"ackedLogId":"` + acked.Acked + `"`)
	var ids any
	switch {
	case acked.One:
		b.WriteString(`,"id":`)
		ids = acked.IDs[0]
	case acked.IDs != nil:
		b.WriteString(`,"ids":`)
		ids = acked.IDs
	}
	if ids != nil {
		if err := encode(&b, ids); err != nil {
			return nil, err
		}
	}
	switch {
	case acked.NextAsked && acked.Next == nil:
		b.WriteString(`,"next":null`)
	case acked.NextAsked:
		b.WriteString(`,"next":{`)
		if err := encodeClaim(&b, acked.Next); err != nil {
			return nil, err
		}
		b.WriteByte('}')
	}
	b.WriteString("}\n")
	return b.Bytes(), nil
}

// tokenRequest names a claim.
type tokenRequest struct {
	Token string `json:"token" empty:"invalid_request"`
}

// reclaim handles POST /v1/procs/{proc}/reclaim.
func (s *Server) reclaim(w http.ResponseWriter, r *http.Request) error {
	var req tokenRequest
	if err := decodeOptional(w, r, &req); err != nil {
		return err
	}
	last, err := s.Procs.Reclaim(r.Context(), r.PathValue("proc"), req.Token)
	return respondUnless(err, w, http.StatusOK, struct {
		LastClaimedRange api.Range `json:"lastClaimedRange"`
	}{last})
}

// extend handles POST /v1/procs/{proc}/extend.
func (s *Server) extend(w http.ResponseWriter, r *http.Request) error {
	var req tokenRequest
	if err := decode(w, r, &req); err != nil {
		return err
	}
	if req.Token == "" {
		return api.Errorf(api.CodeInvalidRequest, `member "token" is missing`)
	}
	claim, err := s.Procs.Extend(r.Context(), r.PathValue("proc"), req.Token)
	return respondUnless(err, w, http.StatusOK, struct {
		Claim api.Claim `json:"claim"`
	}{claim})
}
