package livestream

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"

	"pipeproc/api"
)

// queryOf reads the query of r strictly: malformed escapes and parameters not named here are refused, and all but
// "topic" may be given once.
func queryOf(r *http.Request, names ...string) (url.Values, error) {
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, api.Errorf(api.CodeInvalidRequest, "the query is malformed")
	}
	for name, values := range q {
		if !slices.Contains(names, name) {
			return nil, api.Errorf(api.CodeInvalidRequest, "unknown query parameter %.64q", name)
		}
		if len(values) > 1 && name != "topic" {
			return nil, api.Errorf(api.CodeInvalidRequest, "query parameter %q is given twice", name)
		}
	}
	return q, nil
}

// number reads a whole number of the query; nil when it is absent.
func number(q url.Values, name string) (*int64, error) {
	if !q.Has(name) {
		return nil, nil
	}
	n, err := strconv.ParseInt(q.Get(name), 10, 64)
	if err != nil || strconv.FormatInt(n, 10) != q.Get(name) {
		return nil, api.Errorf(api.CodeInvalidRequest, "query parameter %q is not a whole number", name)
	}
	return &n, nil
}

// lastEventID is where the client was when its stream broke off: the header, which an EventSource sends when it comes
// back, or the query, for its first request. "" when it tells neither.
func lastEventID(r *http.Request, q url.Values) string {
	if id := r.Header.Get("Last-Event-ID"); id != "" {
		return id
	}
	return q.Get("lastEventId")
}
