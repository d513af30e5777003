package httpapi

import (
	"net/http"
	"sync/atomic"
	"time"

	"pipeproc/api"
)

// bodiesRoom is what the bodies of all requests that are under way, and the answers of many logs, may take in memory, in
// bytes: however many clients send, and however slowly, or read their answers.
const bodiesRoom = 512 << 20

// mostRequests is how many requests may be under way at a time. Over HTTP/1 there are as many connections; one of HTTP/2 has
// hundreds of requests, each of which may wait.
const mostRequests = 1 << 16

// A room is so many bytes, or whatever else, that requests share.
type room struct {
	most int64
	held atomic.Int64
}

// take answers false, and takes nothing, where there are not n bytes left.
func (m *room) take(n int64) bool {
	if m.held.Add(n) <= m.most {
		return true
	}
	m.held.Add(-n)
	return false
}

func (m *room) give(n int64) {
	if n != 0 {
		m.held.Add(-n)
	}
}

// limitRequests counts a request in while it is under way, unless it asks whether the server is to be replaced.
func (s *Server) limitRequests(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if spared(r) {
			next.ServeHTTP(w, r)
			return
		}
		if !s.requests.take(1) {
			e := api.Errorf(api.CodeOverloaded, "the server has as many requests under way as it takes")
			e.RetryAfter = time.Second
			w.Header().Set("Connection", "close") // its body is not waited for
			s.refuse(w, r, e)
			return
		}
		defer s.requests.give(1)
		next.ServeHTTP(w, r)
	})
}

// spared are the requests by which others tell whether the server is to be replaced: no limit refuses them.
func spared(r *http.Request) bool { return r.URL.Path == "/healthz" || r.URL.Path == "/readyz" }

// hold takes n bytes of the room for the request that w answers, until it is answered. CodeOverloaded where there are not
// as many.
func hold(w http.ResponseWriter, n int) error {
	rec := w.(*recorder)
	if !rec.bodies.take(int64(n)) {
		return noRoom("the requests under way take all the memory that there is for them")
	}
	rec.held += int64(n)
	return nil
}

func noRoom(detail string) error {
	e := api.Errorf(api.CodeOverloaded, "%s", detail)
	e.RetryAfter = time.Second
	return e
}

// sizeOf is about what an answer of these logs takes: the logs, and their text.
func sizeOf(logs []api.Log) (n int) {
	for i := range logs {
		n += 2*len(logs[i].Body) + 128
	}
	return n
}
