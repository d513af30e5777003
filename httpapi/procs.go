package httpapi

import (
	"context"
	"net/http"
	"time"

	"pipeproc/api"
)

// listProcs handles GET /v1/procs.
func (s *Server) listProcs(w http.ResponseWriter, r *http.Request) error {
	q, err := procQuery(r)
	if err != nil {
		return err
	}
	procs, err := s.Procs.Procs(r.Context(), q)
	procs.Procs = listed(procs.Procs)
	return respondUnless(err, w, http.StatusOK, procs)
}

func procQuery(r *http.Request) (pq api.ProcQuery, err error) {
	q := r.URL.Query()
	if pq.Topic = q.Get("topic"); q.Has("topic") {
		if err := api.CheckTopic(pq.Topic); err != nil {
			return pq, err
		}
	}
	kind, err := oneOf(q, "kind", string(api.KindProc), string(api.KindSystem), string(api.KindLive))
	if err != nil {
		return pq, err
	}
	pq.Kind = api.ProcKind(kind)
	pq.After, pq.Limit, err = list(q, api.CheckProc)
	return pq, err
}

// proc handles GET /v1/procs/{proc}.
func (s *Server) proc(w http.ResponseWriter, r *http.Request) error {
	proc, err := s.Procs.Proc(r.Context(), r.PathValue("proc"))
	return respondUnless(err, w, http.StatusOK, proc)
}

// createProc handles PUT /v1/procs/{proc}.
func (s *Server) createProc(w http.ResponseWriter, r *http.Request) error {
	var options api.ProcOptions
	if err := decode(w, r, &options); err != nil {
		return err
	}
	if err := api.CheckTopic(options.Topic); err != nil { // which other requests may leave out
		return err
	}
	proc, created, err := s.Procs.CreateProc(r.Context(), r.PathValue("proc"), options)
	return respondUnless(err, w, statusCreated(created), proc)
}

// patchProc handles PATCH /v1/procs/{proc}.
func (s *Server) patchProc(w http.ResponseWriter, r *http.Request) error {
	var patch api.ProcPatch
	if err := decodeOptional(w, r, &patch); err != nil {
		return err
	}
	proc, err := s.Procs.PatchProc(r.Context(), r.PathValue("proc"), patch)
	return respondUnless(err, w, http.StatusOK, proc)
}

// destroyProc handles DELETE /v1/procs/{proc}.
func (s *Server) destroyProc(w http.ResponseWriter, r *http.Request) error {
	proc, err := s.Procs.DestroyProc(r.Context(), r.PathValue("proc"))
	return respondUnless(err, w, http.StatusOK, proc)
}

// disableProc handles POST /v1/procs/{proc}/disable.
func (s *Server) disableProc(w http.ResponseWriter, r *http.Request) error {
	if err := decodeNothing(w, r); err != nil {
		return err
	}
	proc, err := s.Procs.DisableProc(r.Context(), r.PathValue("proc"))
	return respondUnless(err, w, http.StatusOK, proc)
}

// resumeProc handles POST /v1/procs/{proc}/resume.
func (s *Server) resumeProc(w http.ResponseWriter, r *http.Request) error {
	if err := decodeNothing(w, r); err != nil {
		return err
	}
	proc, err := s.Procs.ResumeProc(r.Context(), r.PathValue("proc"))
	return respondUnless(err, w, http.StatusOK, proc)
}

// seekRequest moves a proc.
type seekRequest struct {
	Offset string `json:"offset" empty:"invalid_range_offset"`
}

// seek handles POST /v1/procs/{proc}/seek.
func (s *Server) seek(w http.ResponseWriter, r *http.Request) error {
	var req seekRequest
	if err := decode(w, r, &req); err != nil {
		return err
	}
	if req.Offset == "" {
		return api.Errorf(api.CodeInvalidRequest, `member "offset" is missing`)
	}
	offset, err := api.ParseOffset(req.Offset)
	if err != nil {
		return err
	}
	proc, err := s.Procs.Seek(r.Context(), r.PathValue("proc"), offset)
	return respondUnless(err, w, http.StatusOK, proc)
}

// wait handles POST /v1/wait.
func (s *Server) wait(w http.ResponseWriter, r *http.Request) error {
	var req api.WaitRequest
	if err := decodeOptional(w, r, &req); err != nil {
		return err
	}
	if req.Timeout == nil {
		req.Timeout = new(int64(api.DefaultWaitTimeout))
	}
	ctx, cancel := context.WithTimeout(r.Context(), time.Duration(*req.Timeout)*time.Millisecond+storeTimeout)
	defer cancel()
	waited, err := s.Procs.Wait(ctx, req)
	waited.Procs = listed(waited.Procs)
	return respondUnless(err, w, http.StatusOK, waited)
}

func statusCreated(created bool) int {
	if created {
		return http.StatusCreated
	}
	return http.StatusOK
}
