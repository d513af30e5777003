package httpapi

import (
	"errors"
	"io"
	"net/http"
	"time"

	"pipeproc/api"
)

// maxFields is how many header fields a request may have. Within net/http's limit on a header's bytes there may be thousands of
// them, which take many times as much memory, for as long as a request waits or a stream lasts.
const maxFields = 128

// bounded is next for requests that have neither more header fields than that, nor a body that does not come where none is
// wanted.
func (s *Server) bounded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fields := 0
		for _, values := range r.Header {
			fields += len(values)
		}
		if fields > maxFields {
			_ = http.NewResponseController(w).SetReadDeadline(time.Now()) // its body is not waited for
			w.Header().Set("Connection", "close")
			s.refuse(w, r, api.Errorf(api.CodeInvalidRequest, "a request has at most %d header fields", maxFields))
			return
		}
		if err := discard(w, r); err != nil {
			s.refuse(w, r, err)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// discard reads the body of a request that has no use for one. net/http would do that as well, but before it answers, and wait
// without end for what does not come.
func discard(w http.ResponseWriter, r *http.Request) error {
	if r.ContentLength == 0 {
		return nil
	}
	switch r.Method {
	case http.MethodPost, http.MethodPut, http.MethodPatch:
		return nil
	}
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(readTimeout))
	n, err := io.CopyN(io.Discard, r.Body, step)
	switch {
	case n == step:
		return api.Errorf(api.CodeTooLarge, "there is no use for a body here, and for one of %d bytes no patience", step)
	case !errors.Is(err, io.EOF):
		return brokenOff(w)
	}
	return nil
}
