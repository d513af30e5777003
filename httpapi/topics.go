package httpapi

import (
	"bytes"
	"net/http"

	"pipeproc/api"
)

// listTopics handles GET /v1/topics.
func (s *Server) listTopics(w http.ResponseWriter, r *http.Request) error {
	after, limit, err := list(r.URL.Query(), api.CheckTopic)
	if err != nil {
		return err
	}
	topics, err := s.Topics.Topics(r.Context(), after, limit)
	topics.Topics = listed(topics.Topics)
	return respondUnless(err, w, http.StatusOK, topics)
}

// topic handles GET /v1/topics/{topic}.
func (s *Server) topic(w http.ResponseWriter, r *http.Request) error {
	topic, err := s.Topics.Topic(r.Context(), r.PathValue("topic"))
	return respondUnless(err, w, http.StatusOK, topic)
}

// deleteTopic handles DELETE /v1/topics/{topic}.
func (s *Server) deleteTopic(w http.ResponseWriter, r *http.Request) error {
	force, err := flag(r.URL.Query(), "force")
	if err != nil {
		return err
	}
	if err := s.Topics.DeleteTopic(r.Context(), r.PathValue("topic"), force); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// rangeLogs handles GET /v1/topics/{topic}/logs: a page, all logs as lines, or a tail, as the Accept header asks for.
func (s *Server) rangeLogs(w http.ResponseWriter, r *http.Request) error {
	w.Header().Add("Vary", "Accept")
	query := r.URL.Query()
	form := accepted(r)
	for name := range query {
		if name != "start" && (form == asEvents) != (name == "lastEventId") {
			return api.Errorf(api.CodeInvalidRequest, "parameter %q does not go with %s, which the Accept header asks for", name, form)
		}
	}
	switch form {
	case asEvents:
		return s.Streams.Tail(w, r)
	case asLines:
		return s.sendLines(w, r, query)
	}
	return inTime(s.sendPage)(w, r)
}

// sendPage answers a page of a range.
func (s *Server) sendPage(w http.ResponseWriter, r *http.Request) error {
	q, err := rangeQuery(r.URL.Query(), api.DefaultPageLogs, api.MaxPageLogs)
	if err != nil {
		return err
	}
	page, err := s.Logs.Range(r.Context(), r.PathValue("topic"), q)
	if err != nil {
		return err
	}
	if err := hold(w, sizeOf(page.Logs)); err != nil {
		return err
	}
	var b bytes.Buffer
	b.WriteString(`{"logs":`)
	encodeLogs(&b, page.Logs)
	if page.Next != nil {
		b.WriteString(`,"next":"` + page.Next.String() + `"`)
	}
	b.WriteString("}\n")
	return send(w, http.StatusOK, typeJSON, b.Bytes())
}

// log handles GET /v1/topics/{topic}/logs/{id}.
func (s *Server) log(w http.ResponseWriter, r *http.Request) error {
	at, err := givenBound(r.PathValue("id"))
	if err != nil {
		return err
	}
	if at.Form == api.BoundTime {
		return api.Errorf(api.CodeInvalidRangeOffset, "one log is named by its id ({timestampMs}-{seq}) or :seq")
	}
	log, err := s.Logs.Log(r.Context(), r.PathValue("topic"), at)
	return respondUnless(err, w, http.StatusOK, log)
}
