package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"time"

	"pipeproc/api"
)

// kinds gives each code its status and title. A code that is not here is CodeInternal's.
var kinds = map[api.Code]struct {
	status int
	title  string
}{
	api.CodeInvalidRequest:      {http.StatusBadRequest, "The request is malformed"},
	api.CodeInvalidTopicFormat:  {http.StatusBadRequest, "Not a topic's name"},
	api.CodeInvalidProcFormat:   {http.StatusBadRequest, "Not a proc's name"},
	api.CodeInvalidLogFormat:    {http.StatusBadRequest, "Not a log's body"},
	api.CodeInvalidRangeOffset:  {http.StatusBadRequest, "Not a place in a topic"},
	api.CodeNoValidProcessor:    {http.StatusBadRequest, "No valid processor"},
	api.CodeUnauthorized:        {http.StatusUnauthorized, "A key is needed"},
	api.CodeForbidden:           {http.StatusForbidden, "This is not allowed"},
	api.CodeNotFound:            {http.StatusNotFound, "No such route"},
	api.CodeInvalidTopic:        {http.StatusNotFound, "No such topic"},
	api.CodeInvalidProc:         {http.StatusNotFound, "No such proc"},
	api.CodeInvalidSystemProc:   {http.StatusNotFound, "No such systemProc"},
	api.CodeLogNotFound:         {http.StatusNotFound, "No such log"},
	api.CodeMethodNotAllowed:    {http.StatusMethodNotAllowed, "The route has no such method"},
	api.CodeAlreadyClaimed:      {http.StatusConflict, "The proc has a live claim"},
	api.CodeClaimLost:           {http.StatusConflict, "The claim was lost"},
	api.CodeInvalidAck:          {http.StatusConflict, "Nothing to ack"},
	api.CodeNothingToReclaim:    {http.StatusConflict, "Nothing to reclaim"},
	api.CodeProcIsDisabled:      {http.StatusConflict, "The proc is disabled"},
	api.CodeProcAlreadyDisabled: {http.StatusConflict, "The proc is disabled already"},
	api.CodeProcAlreadyActive:   {http.StatusConflict, "The proc is active already"},
	api.CodeProcNameNotUnique:   {http.StatusConflict, "The proc's name is taken"},
	api.CodeProcOptionsDiffer:   {http.StatusConflict, "It exists with other options"},
	api.CodeProcIsManaged:       {http.StatusConflict, "The proc is managed by the server"},
	api.CodeTopicInUse:          {http.StatusConflict, "The topic has procs"},
	api.CodeCollected:           {http.StatusGone, "The logs were collected"},
	api.CodeTooLarge:            {http.StatusRequestEntityTooLarge, "Too large"},
	api.CodeUnsupportedMedia:    {http.StatusUnsupportedMediaType, "The body is not JSON"},
	api.CodeInvalidToneIDSearch: {http.StatusRequestedRangeNotSatisfiable, "At or beyond the head"},
	api.CodeKeyReused:           {http.StatusUnprocessableEntity, "The idempotency key was used for another request"},
	api.CodeRateLimited:         {http.StatusTooManyRequests, "Too many requests"},
	api.CodeInternal:            {http.StatusInternalServerError, "Internal error"},
	api.CodeOverloaded:          {http.StatusServiceUnavailable, "The server is overloaded"},
	api.CodeUnavailable:         {http.StatusServiceUnavailable, "The server is unavailable"},
}

// statusGone is counted for a request whose client went away before its answer; it is never sent.
const statusGone = 499

// problem is an RFC 9457 problem. The extensions are absent when empty.
type problem struct {
	Type      string          `json:"type"`
	Title     string          `json:"title"`
	Status    int             `json:"status"`
	Detail    string          `json:"detail"`
	Code      api.Code        `json:"code"`
	RequestID string          `json:"requestId,omitempty"`
	ExpiresAt json.RawMessage `json:"expiresAt,omitempty"` // of CodeAlreadyClaimed; maybe null
	FirstID   json.RawMessage `json:"firstId,omitempty"`   // of CodeCollected; maybe null
}

// problemOf tells what the wire says of err: nothing of the cause when the server itself is at fault.
func problemOf(err error) (problem, *api.Error) {
	var e *api.Error
	if !errors.As(err, &e) || e.Code == api.CodeInternal || kinds[e.Code].status == 0 {
		e = api.Errorf(api.CodeInternal, "something went wrong on the server; its log tells what")
	}
	kind := kinds[e.Code]
	p := problem{Type: "urn:pipeproc:problem:" + string(e.Code), Title: kind.title, Status: kind.status,
		Detail: e.Message, Code: e.Code}
	switch e.Code {
	case api.CodeAlreadyClaimed:
		p.ExpiresAt, _ = json.Marshal(e.ExpiresAt)
	case api.CodeCollected:
		p.FirstID, _ = json.Marshal(e.FirstID)
	}
	return p, e
}

// refuse answers a request with err: as a problem, if there is still somebody to tell. Else it cuts the connection: an
// answer that is missing or half there must not look like a whole one.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request, err error) {
	rec := w.(*recorder)
	if r.Context().Err() != nil && errors.Is(err, context.Canceled) {
		if cause := context.Cause(r.Context()); api.CodeOf(cause) != api.CodeInternal {
			err = cause // it is the server that goes away, and says so
		}
	}
	if rec.status != 0 || r.Context().Err() != nil && errors.Is(err, context.Canceled) {
		rec.err = err
		cut(w)
	}
	p, e := problemOf(err)
	p.RequestID = api.CallerOf(r.Context()).RequestID
	rec.refused(p, err)
	s.metrics.problem(p.Code)
	switch e.Code {
	case api.CodeOverloaded, api.CodeUnavailable, api.CodeRateLimited:
		seconds := (e.RetryAfter + time.Second - 1) / time.Second
		w.Header().Set("Retry-After", strconv.FormatInt(int64(max(1, seconds)), 10))
	}
	if e.Quota != nil {
		tellQuota(w.Header(), e.Quota)
	}
	s.bodies.give(rec.held) // what came of its body is of no more use
	rec.held = 0
	drain(w, r)
	if gone := respondAs(w, p.Status, typeProblem, p); gone != nil {
		rec.err = errors.Join(err, gone)
		cut(w)
	}
}

// refused remembers why the request was refused, for the log.
func (w *recorder) refused(p problem, err error) { w.code, w.err = p.Code, err }

// breakOff cuts an answer off that was begun and, because of err, cannot go on. Where it is the client that went away, it
// leaves that to refuse.
func (s *Server) breakOff(w http.ResponseWriter, r *http.Request, err error) error {
	if r.Context().Err() != nil {
		if err = context.Cause(r.Context()); api.CodeOf(err) == api.CodeInternal {
			return err
		}
	}
	p, _ := problemOf(err)
	rec := w.(*recorder)
	rec.refused(p, err)
	s.metrics.problem(p.Code)
	if r.Context().Err() == nil { // what there was is the client's
		_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(pieceTimeout))
		_ = http.NewResponseController(w).Flush()
	}
	rec.status = p.Status
	panic(http.ErrAbortHandler)
}

// cut ends the connection; what is told of the request is that its client is gone.
func cut(w http.ResponseWriter) {
	rec := w.(*recorder)
	rec.status, rec.code = statusGone, ""
	panic(http.ErrAbortHandler)
}
