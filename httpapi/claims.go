package httpapi

import (
	"bytes"
	"net/http"

	"pipeproc/api"
)

// claim handles POST /v1/procs/{proc}/claim.
func (s *Server) claim(w http.ResponseWriter, r *http.Request) error {
	var req api.ClaimRequest
	if err := decodeOptional(w, r, &req); err != nil {
		return err
	}
	claimed, err := s.Procs.Claim(r.Context(), r.PathValue("proc"), req)
	if err != nil {
		return err
	}
	return s.deliver(w, r, claimed)
}

// claimAny handles POST /v1/claims.
func (s *Server) claimAny(w http.ResponseWriter, r *http.Request) error {
	var req api.ClaimAnyRequest
	if err := decode(w, r, &req); err != nil {
		return err
	}
	claimed, err := s.Procs.ClaimAny(r.Context(), req)
	if err != nil {
		return err
	}
	return s.deliver(w, r, claimed)
}

// deliver hands a claim out. One that cannot be written to the client is undone, so that it does not count and others
// need not wait for its time-out.
func (s *Server) deliver(w http.ResponseWriter, r *http.Request, claimed *api.Claimed) error {
	if claimed == nil {
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	err := r.Context().Err()
	if err == nil {
		err = hold(w, sizeOf(claimed.Logs))
	}
	if err == nil {
		err = sendClaimed(w, claimed)
	}
	if err == nil {
		return nil
	}
	ctx, cancel := detached(r)
	defer cancel()
	if undo := s.Procs.UndoClaim(ctx, claimed.Proc, claimed.Claim.Token); undo != nil {
		s.Logger.Warn("a claim that was not delivered stays until its time-out",
			"request", api.CallerOf(r.Context()).RequestID, "proc", claimed.Proc, "error", undo)
	}
	return err
}

func sendClaimed(w http.ResponseWriter, claimed *api.Claimed) error {
	var b bytes.Buffer
	b.WriteString(`{"proc":"` + claimed.Proc + `","topic":"` + claimed.Topic + `",`)
	if err := encodeClaim(&b, claimed); err != nil {
		return err
	}
	b.WriteString("}\n")
	return sendFlushed(w, http.StatusOK, typeJSON, b.Bytes())
}

// encodeClaim writes the members claim and logs.
func encodeClaim(b *bytes.Buffer, claimed *api.Claimed) error {
	b.WriteString(`"claim":`)
	if err := encode(b, claimed.Claim); err != nil {
		return err
	}
	b.WriteString(`,"logs":`)
	encodeLogs(b, claimed.Logs)
	return nil
}
