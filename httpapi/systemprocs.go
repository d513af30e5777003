package httpapi

import (
	"net/http"

	"pipeproc/api"
)

// listSystemProcs handles GET /v1/system-procs.
func (s *Server) listSystemProcs(w http.ResponseWriter, r *http.Request) error {
	after, limit, err := list(r.URL.Query(), api.CheckProc)
	if err != nil {
		return err
	}
	all, err := s.SystemProcs.SystemProcs(r.Context(), after, limit)
	all.SystemProcs = listed(all.SystemProcs)
	for i := range all.SystemProcs {
		all.SystemProcs[i].Procs = listed(all.SystemProcs[i].Procs)
	}
	return respondUnless(err, w, http.StatusOK, all)
}

// createSystemProc handles POST /v1/system-procs.
func (s *Server) createSystemProc(w http.ResponseWriter, r *http.Request) error {
	var spec api.SystemProcSpec
	if err := decode(w, r, &spec); err != nil {
		return err
	}
	if err := s.checkProcessor(spec.Processor); err != nil {
		return err
	}
	made, created, err := s.SystemProcs.CreateSystemProc(r.Context(), spec)
	made.Procs = listed(made.Procs)
	return respondUnless(err, w, statusCreated(created), made)
}

// checkProcessor refuses a processor, unless there is none, that cannot run here.
func (s *Server) checkProcessor(p *api.Processor) error {
	if p == nil || s.CheckProcessor == nil {
		return nil
	}
	return s.CheckProcessor(p)
}

// systemProc handles GET /v1/system-procs/{name}.
func (s *Server) systemProc(w http.ResponseWriter, r *http.Request) error {
	sp, err := s.SystemProcs.SystemProc(r.Context(), r.PathValue("name"))
	return respondSystemProc(err, w, sp)
}

// patchSystemProc handles PATCH /v1/system-procs/{name}.
func (s *Server) patchSystemProc(w http.ResponseWriter, r *http.Request) error {
	var patch api.SystemProcPatch
	if err := decodeOptional(w, r, &patch); err != nil {
		return err
	}
	if err := checkPatch(r.PathValue("name"), patch); err != nil {
		return err
	}
	if err := s.checkProcessor(patch.Processor); err != nil {
		return err
	}
	sp, err := s.SystemProcs.PatchSystemProc(r.Context(), r.PathValue("name"), patch)
	return respondSystemProc(err, w, sp)
}

// checkPatch refuses what no systemProc of that name could be patched with: it tries patch on the one that allows the
// most.
func checkPatch(name string, patch api.SystemProcPatch) error {
	widest := api.SystemProcSpec{
		Name:           name,
		From:           api.Names{List: []string{"any"}, Single: true},
		Processor:      &api.Processor{URL: "http://any"},
		ReclaimTimeout: new(int64(-1)),
	}
	if patch.From != nil {
		widest.From = *patch.From
	}
	return patch.Apply(&widest)
}

// rotateSecret handles POST /v1/system-procs/{name}/rotate-secret.
func (s *Server) rotateSecret(w http.ResponseWriter, r *http.Request) error {
	var req api.SecretRotation
	if err := decodeOptional(w, r, &req); err != nil {
		return err
	}
	rotated, err := s.SystemProcs.RotateSecret(r.Context(), r.PathValue("name"), req)
	return respondUnless(err, w, http.StatusOK, rotated)
}

// destroySystemProc handles DELETE /v1/system-procs/{name}.
func (s *Server) destroySystemProc(w http.ResponseWriter, r *http.Request) error {
	sp, err := s.SystemProcs.DestroySystemProc(r.Context(), r.PathValue("name"))
	return respondSystemProc(err, w, sp)
}

func respondSystemProc(err error, w http.ResponseWriter, sp api.SystemProc) error {
	sp.Procs = listed(sp.Procs)
	return respondUnless(err, w, http.StatusOK, sp)
}
