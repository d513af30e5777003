package httpapi

import (
	"context"
	"fmt"
	"net/http"
	"runtime/debug"
	"time"

	"github.com/go-chi/chi/v5"

	"pipeproc/api"
)

// An exchange is a request on its way: who calls, where it was routed to, and how it was answered. It is the context that
// tells the first two. Every request costs one, so it is one allocation.
type exchange struct {
	context.Context
	caller   api.Caller
	route    *chi.Context
	recorder recorder
}

func (x *exchange) Value(key any) any {
	switch key {
	case api.CallerKey{}:
		return &x.caller
	case chi.RouteCtxKey:
		return x.route
	}
	return x.Context.Value(key)
}

// recorder is the ResponseWriter that handlers see: it remembers how the request was answered.
type recorder struct {
	http.ResponseWriter
	status int      // 0 until an answer was begun
	code   api.Code // of the problem that it was refused with
	err    error    // why it was refused, or broke off: for the log alone
	bodies *room    // shared by all requests
	held   int64    // what this one has of it

	id, length [1]string // of the headers X-Request-Id and Content-Length
}

// WriteHeader begins the answer, which no cache may keep.
func (w *recorder) WriteHeader(status int) {
	if w.status == 0 && status >= http.StatusOK {
		w.status = status
		w.Header()["Cache-Control"] = noStore
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *recorder) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	return w.ResponseWriter.Write(b)
}

// Unwrap is for http.ResponseController.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// FlushError is for http.ResponseController, Flush for whoever looks for an http.Flusher.
func (w *recorder) FlushError() error {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// Flush is FlushError for those who cannot be told of errors.
func (w *recorder) Flush() { _ = w.FlushError() }

// observe counts requests and logs them. Its labels are bounded: the pattern of the route, known methods, statuses.
func (s *Server) observe(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begun := time.Now()
		rec := w.(*recorder)
		if s.Tracer != nil {
			var end func(*recorder)
			r, end = s.span(r)
			defer end(rec)
		}
		defer func() {
			if rec.status == 0 {
				rec.status = http.StatusOK
			}
			took := time.Since(begun)
			s.bodies.give(rec.held)
			s.metrics.count(r, rec.status, took)
			s.note(r, rec, took)
		}()
		next.ServeHTTP(w, r)
	})
}

// survive makes a panic a refused request. An answer that was begun is cut off, so that nobody takes it for whole.
func (s *Server) survive(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			v := recover()
			if v == nil {
				return
			}
			if v == http.ErrAbortHandler {
				panic(v)
			}
			s.Logger.Error("panic", "request", api.CallerOf(r.Context()).RequestID, "method", r.Method, "path", toldPath(r),
				"panic", fmt.Sprint(v), "stack", string(debug.Stack()))
			err := fmt.Errorf("panic: %v", v)
			if rec := w.(*recorder); rec.status != 0 {
				rec.status, rec.code, rec.err = http.StatusInternalServerError, api.CodeInternal, err
				panic(http.ErrAbortHandler)
			}
			s.refuse(w, r, err)
		}()
		next.ServeHTTP(w, r)
	})
}
