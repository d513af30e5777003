package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"pipeproc/api"
)

// collect handles POST /v1/gc.
func (s *Server) collect(w http.ResponseWriter, r *http.Request) error {
	if err := decodeNothing(w, r); err != nil {
		return err
	}
	run, err := s.Collector.Collect(r.Context(), s.MinPruneTime)
	return respondUnless(err, w, http.StatusOK, struct {
		Topics []api.Collected `json:"topics"`
	}{listed(run.Topics)})
}

// lastCollect handles GET /v1/gc; before the first run there are no topics, and finishedAt is null.
func (s *Server) lastCollect(w http.ResponseWriter, r *http.Request) error {
	run, err := s.Collector.LastCollect(r.Context())
	return respondUnless(err, w, http.StatusOK, struct {
		Topics     []api.Collected `json:"topics"`
		FinishedAt *int64          `json:"finishedAt"`
	}{listed(run.Topics), run.FinishedAt})
}

// status is the answer of operations that have nothing else to tell.
type status struct {
	Status string `json:"status"`
}

// shutdown handles POST /v1/shutdown: the answer is out before the server begins to stop.
func (s *Server) shutdown(w http.ResponseWriter, r *http.Request) error {
	if err := decodeNothing(w, r); err != nil {
		return err
	}
	err := respond(w, http.StatusAccepted, status{"shutting down"})
	_ = http.NewResponseController(w).Flush()
	s.Shutdown()
	return err
}

// healthz handles GET /healthz: the process answers.
func (s *Server) healthz(w http.ResponseWriter, _ *http.Request) error {
	return respond(w, http.StatusOK, status{"ok"})
}

// readyTimeout is how long readiness may take to find out.
const readyTimeout = 5 * time.Second

// readyz handles GET /readyz: the store answers, and the server's loops turn.
func (s *Server) readyz(w http.ResponseWriter, r *http.Request) error {
	ctx, cancel := context.WithTimeout(r.Context(), readyTimeout)
	defer cancel()
	if err := s.Health.Ready(ctx); err != nil {
		why := api.Errorf(api.CodeUnavailable, "the server is not ready")
		if told, ok := errors.AsType[*api.Error](err); ok && told.Code == api.CodeUnavailable {
			why.Message += ": " + told.Message
		}
		return fmt.Errorf("%w: %w", why, err)
	}
	return respond(w, http.StatusOK, status{"ready"})
}

// openAPI handles GET /openapi.yaml.
func (s *Server) openAPI(w http.ResponseWriter, _ *http.Request) error {
	return send(w, http.StatusOK, typeYAML, s.OpenAPI)
}
