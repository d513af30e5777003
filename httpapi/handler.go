package httpapi

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"

	"pipeproc/api"
)

// A handler decodes, makes one call, and responds; whatever is wrong it returns.
type handler func(w http.ResponseWriter, r *http.Request) error

// handle is the one adapter from handlers to net/http.
func (s *Server) handle(h handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if err := h(w, r); err != nil {
			s.refuse(w, r, err)
		}
	}
}

// checked is h behind what every route has in common: good names in the path, and no query parameters but its own.
func checked(h handler, query []string) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		if err := checkPath(r); err != nil {
			return err
		}
		if err := checkQuery(r.URL.RawQuery, query); err != nil {
			return err
		}
		return h(w, r)
	}
}

// storeTimeout is how long the store may take to answer what but reads. What writes it ends itself.
const storeTimeout = 30 * time.Second

// inTime is h, whose context ends when the store has taken too long.
func inTime(h handler) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		ctx, cancel := context.WithTimeout(r.Context(), storeTimeout)
		defer cancel()
		return h(w, r.WithContext(ctx))
	}
}

// checkPath checks the names in the path, and unescapes its values: chi matches the path as it was sent when that
// differs from the usual way of writing it.
func checkPath(r *http.Request) error {
	params := &chi.RouteContext(r.Context()).URLParams
	for i, key := range params.Keys {
		value := params.Values[i]
		if r.URL.RawPath != "" {
			var err error
			if value, err = url.PathUnescape(value); err != nil {
				return api.Errorf(api.CodeInvalidRequest, "the path is malformed")
			}
			params.Values[i] = value
			r.SetPathValue(key, value)
		}
		if err := checkName(key, value); err != nil {
			return err
		}
	}
	return nil
}

// checkName checks the name that a parameter of the path gives, by what the routes call it.
func checkName(key, value string) error {
	switch key {
	case "topic":
		return api.CheckTopic(value)
	case "proc", "name":
		return api.CheckProc(value)
	}
	return nil
}

// repeatable ends the name, in the routes, of a query parameter that may be given several times.
const repeatable = "…"

// checkQuery refuses parameters that are unknown or repeated.
func checkQuery(raw string, allowed []string) error {
	if raw == "" {
		return nil
	}
	values, err := url.ParseQuery(raw)
	if err != nil {
		return api.Errorf(api.CodeInvalidRequest, "the query is malformed")
	}
	for name, given := range values {
		many := slices.Contains(allowed, name+repeatable)
		known := many || slices.Contains(allowed, name) && !strings.HasSuffix(name, repeatable)
		switch {
		case !known:
			return api.Errorf(api.CodeInvalidRequest, "unknown query parameter %q", clip(name))
		case !many && len(given) > 1:
			return api.Errorf(api.CodeInvalidRequest, "query parameter %q is given twice", clip(name))
		}
	}
	return nil
}

// clip keeps what a caller sent short enough to be told back.
func clip(s string) string { return clipped(s, 64) }

func clipped(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}

// headAsGet routes HEAD as GET; net/http leaves the body out.
func headAsGet(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodHead {
			chi.RouteContext(r.Context()).RouteMethod = http.MethodGet
		}
		next.ServeHTTP(w, r)
	})
}

// methods are those that Allow may name, in its order.
var methods = []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch,
	http.MethodDelete}

// notFound answers whatever no route matches: with CodeMethodNotAllowed, and the methods in Allow, where another method
// would have matched.
func (s *Server) notFound(w http.ResponseWriter, r *http.Request) error {
	path := r.URL.Path
	if r.URL.RawPath != "" {
		path = r.URL.RawPath
	}
	var allow []string
	for _, method := range methods {
		routed := method
		if method == http.MethodHead {
			routed = http.MethodGet
		}
		if s.router.Match(chi.NewRouteContext(), routed, path) {
			allow = append(allow, method)
		}
	}
	if allow == nil {
		return api.Errorf(api.CodeNotFound, "there is nothing at %q", clip(toldPath(r)))
	}
	w.Header().Set("Allow", strings.Join(allow, ", "))
	return api.Errorf(api.CodeMethodNotAllowed, "%s is not allowed here; %s", clip(r.Method), strings.Join(allow, ", "))
}
