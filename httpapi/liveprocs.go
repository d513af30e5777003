package httpapi

import (
	"net/http"

	"pipeproc/api"
)

// createLiveProc handles POST /v1/live-procs: the answer is the proc and the path of its stream.
func (s *Server) createLiveProc(w http.ResponseWriter, r *http.Request) error {
	var spec api.LiveProcSpec
	if err := decode(w, r, &spec); err != nil {
		return err
	}
	proc, err := s.LiveProcs.CreateLiveProc(r.Context(), spec)
	return respondUnless(err, w, http.StatusCreated, struct {
		api.Proc
		Changes string `json:"changes"`
	}{proc, "/v1/live-procs/" + proc.Name + "/changes"})
}

// cancelLiveProc handles POST /v1/live-procs/{name}/cancel.
func (s *Server) cancelLiveProc(w http.ResponseWriter, r *http.Request) error {
	if err := decodeNothing(w, r); err != nil {
		return err
	}
	proc, err := s.LiveProcs.CancelLiveProc(r.Context(), r.PathValue("name"))
	return respondUnless(err, w, http.StatusOK, proc)
}

// destroyLiveProc handles DELETE /v1/live-procs/{name}.
func (s *Server) destroyLiveProc(w http.ResponseWriter, r *http.Request) error {
	proc, err := s.LiveProcs.DestroyLiveProc(r.Context(), r.PathValue("name"))
	return respondUnless(err, w, http.StatusOK, proc)
}
