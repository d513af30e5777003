package httpapi

import (
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"pipeproc/api"
)

// note tells of an answered request, in one line: at debug where all went well, or the client went away; at info what the
// client did wrong; at warn what the server could not do now; at error what is wrong with the server. The query is left
// out, which may hold a ticket.
func (s *Server) note(r *http.Request, rec *recorder, took time.Duration) {
	level := slog.LevelDebug
	switch {
	case rec.code == "":
	case rec.status >= http.StatusInternalServerError && rec.code == api.CodeInternal:
		level = slog.LevelError
	case rec.status >= http.StatusInternalServerError:
		level = slog.LevelWarn
	default:
		level = slog.LevelInfo
	}
	if !s.Logger.Enabled(r.Context(), level) {
		return
	}
	attrs := append(make([]slog.Attr, 0, 12), callerAttrs(r)...)
	attrs = append(attrs, slog.String("method", clip(r.Method)), slog.String("path", clipped(toldPath(r), maxPath)),
		slog.String("route", r.Pattern), slog.Int("status", rec.status), slog.Duration("took", took))
	if rec.code != "" {
		attrs = append(attrs, slog.String("code", string(rec.code)))
	}
	if rec.err != nil {
		attrs = append(attrs, slog.Any("error", rec.err))
	}
	s.Logger.LogAttrs(r.Context(), level, "request", attrs...)
}

// maxPath is how much of a path the log tells: more than any route's with its names.
const maxPath = 512

// toldPath is the path of r as it is told in logs, traces and problems: without the ticket that a client has put there which
// escapes the question mark (no route's path has a "="), and escaped where a terminal may take it for more than a text.
func toldPath(r *http.Request) string {
	path, _, found := strings.Cut(r.URL.Path, "ticket=")
	if strings.ContainsFunc(path, func(c rune) bool { return c < ' ' || c > '~' }) {
		path = (&url.URL{Path: path}).EscapedPath()
	}
	if found {
		path += "…"
	}
	return path
}

// callerAttrs tell who called, in a line of the log.
func callerAttrs(r *http.Request) []slog.Attr {
	c := api.CallerOf(r.Context())
	attrs := append(make([]slog.Attr, 0, 4), slog.String("request", c.RequestID))
	if c.Address.IsValid() {
		attrs = append(attrs, slog.String("address", c.Address.String()))
	} else {
		attrs = append(attrs, slog.String("address", "unix"))
	}
	if c.Key != "" {
		attrs = append(attrs, slog.String("key", c.Key))
	}
	if trace := traceID(r.Context()); trace != "" {
		attrs = append(attrs, slog.String("trace", trace))
	}
	return attrs
}

// audited is h, of whose success the log tells for good: what was done, to what, by whom. The name of what it was done to
// is the one in the path.
func (s *Server) audited(action string, h handler) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		if err := h(w, r); err != nil {
			return err
		}
		s.audit(r, action)
		return nil
	}
}

// audit tells the log what the caller of r did.
func (s *Server) audit(r *http.Request, action string) {
	attrs := append(make([]slog.Attr, 0, 8), slog.String("action", action))
	for _, name := range []string{"topic", "proc", "name"} {
		if value := r.PathValue(name); value != "" {
			attrs = append(attrs, slog.String("target", value))
		}
	}
	s.Logger.LogAttrs(r.Context(), slog.LevelInfo, "audit", append(attrs, callerAttrs(r)...)...)
}
