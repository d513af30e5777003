package httpapi

import (
	"context"
	"net/http"
	"net/url"
	"strings"

	"pipeproc/api"
)

// access is h for those alone who may: whoever holds a key of the role, or, where the server has no keys, everybody. Pages
// of other origins may have nothing done in either case.
func (s *Server) access(role Role, h handler) handler {
	if role == RoleNone {
		return h
	}
	return func(w http.ResponseWriter, r *http.Request) error {
		if err := s.checkOrigin(r, role); err != nil {
			return err
		}
		if s.Keys == nil {
			return h(w, r)
		}
		k, err := s.holder(w, r)
		if err != nil {
			return err
		}
		return s.allowed(w, r, k, role, h)
	}
}

// accessStream is access for the routes of streams, which a ticket opens as well.
func (s *Server) accessStream(role Role, h handler) handler {
	withKey := s.access(role, whileKeyLives(h))
	return func(w http.ResponseWriter, r *http.Request) error {
		ticket, rest, given, err := takeTicket(r.URL.RawQuery)
		switch {
		case err != nil:
			return err
		case !given:
			return withKey(w, r)
		}
		if err := s.checkOrigin(r, RoleWrite); err != nil {
			return err // also of a stream that but reads: the page could not read it, but would use the ticket up
		}
		if len(r.Header["Authorization"]) > 0 {
			return api.Errorf(api.CodeInvalidRequest, "a ticket and a key are both given; one of them is to go")
		}
		done, k, err := s.tickets.open(r, ticket, s.Keys)
		if err != nil {
			return s.unauthorized(w, err)
		}
		defer done()
		r = r.Clone(r.Context())
		r.URL.RawQuery = rest // nobody behind this knows of the ticket
		if k == nil {
			return h(w, r)
		}
		return s.allowed(w, r, k, role, whileKeyLives(h))
	}
}

// takeTicket takes the ticket out of a query.
func takeTicket(query string) (ticket, rest string, given bool, err error) {
	if !strings.Contains(query, "ticket") && !strings.Contains(query, "%") { // as it mostly is
		return "", query, false, nil
	}
	values, err := url.ParseQuery(query)
	if err != nil || !values.Has("ticket") {
		return "", query, false, nil // what is wrong with the query is said by who checks it
	}
	if len(values["ticket"]) > 1 {
		return "", "", false, api.Errorf(api.CodeInvalidRequest, "query parameter %q is given twice", "ticket")
	}
	ticket = values.Get("ticket")
	values.Del("ticket")
	return ticket, values.Encode(), true, nil
}

// holder is the key that r was sent with.
func (s *Server) holder(w http.ResponseWriter, r *http.Request) (*key, error) {
	sent := r.Header["Authorization"]
	if len(sent) == 0 {
		return nil, s.unauthorized(w, api.Errorf(api.CodeUnauthorized, "send an API key: Authorization: Bearer KEY"))
	}
	scheme, token, _ := strings.Cut(sent[0], " ")
	if len(sent) > 1 || !strings.EqualFold(scheme, "Bearer") {
		return nil, s.unauthorized(w, api.Errorf(api.CodeUnauthorized, "Authorization is to be given once, as: Bearer KEY"))
	}
	k := s.Keys.find(strings.Trim(token, " "))
	if k == nil {
		return nil, s.unauthorized(w, api.Errorf(api.CodeUnauthorized, "this API key is not known here"))
	}
	return k, nil
}

// unauthorized is err, beside which the answer tells how to be let in.
func (s *Server) unauthorized(w http.ResponseWriter, err error) error {
	w.Header().Set("WWW-Authenticate", "Bearer")
	return err
}

// allowed is h for the holder of k, if its role is enough.
func (s *Server) allowed(w http.ResponseWriter, r *http.Request, k *key, role Role, h handler) error {
	caller := api.CallerOf(r.Context())
	caller.Key = k.name
	if k.role < role {
		return forbidden(k, role)
	}
	return h(w, r.WithContext(context.WithValue(r.Context(), holderKey{}, k)))
}

func forbidden(k *key, role Role) error {
	return api.Errorf(api.CodeForbidden, "this takes a key of the role %s; the role of %q is %s", role, k.name, k.role)
}

type holderKey struct{}

// holderOf is the key that let r in; nil: none was needed.
func holderOf(r *http.Request) *key {
	k, _ := r.Context().Value(holderKey{}).(*key)
	return k
}

// errKeyRemoved ends what a key had begun.
var errKeyRemoved = api.Errorf(api.CodeUnauthorized, "the API key was removed")

// whileKeyLives is h, a handler that may take long, whose context ends when the key is removed that let the request in.
func whileKeyLives(h handler) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		k := holderOf(r)
		if k == nil {
			return h(w, r)
		}
		ctx, cancel := context.WithCancelCause(r.Context())
		defer cancel(nil)
		defer context.AfterFunc(k.lives, func() { cancel(errKeyRemoved) })()
		err := h(w, r.WithContext(ctx))
		if err != nil && context.Cause(ctx) == errKeyRemoved { //nolint:errorlint // this very one
			w.Header().Set("WWW-Authenticate", "Bearer")
			return errKeyRemoved
		}
		return err
	}
}
