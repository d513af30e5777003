package httpapi

import "net/http"

// changes handles GET /v1/live-procs/{name}/changes.
func (s *Server) changes(w http.ResponseWriter, r *http.Request) error {
	return s.Streams.Changes(w, r)
}

// live handles GET /v1/topics/{topic}/live.
func (s *Server) live(w http.ResponseWriter, r *http.Request) error {
	return s.Streams.Live(w, r)
}

// tail handles GET /v1/tail.
func (s *Server) tail(w http.ResponseWriter, r *http.Request) error {
	return s.Streams.Tail(w, r)
}
