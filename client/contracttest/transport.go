package contracttest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"slices"
	"strconv"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"pipeproc/api"
)

// Transport checks every answer that base (nil: http.DefaultTransport) brings: that the document knows its status for
// that operation, and that its content type, headers and body, a problem's code included, are as documented. What is
// wrong is told to failf, a test's Errorf, and the answer is passed on unchanged.
//
// JSON is read whole before the caller sees it. Of all else, streams first of all, only the status, the headers and the
// content type are checked, and nothing is buffered.
func (c *Contract) Transport(base http.RoundTripper, failf func(format string, args ...any)) *Transport {
	if base == nil {
		base = http.DefaultTransport
	}
	return &Transport{contract: c, base: base, failf: failf}
}

// Transport is an http.RoundTripper; see Contract.Transport.
type Transport struct {
	contract *Contract
	base     http.RoundTripper
	failf    func(format string, args ...any)
}

// RoundTrip implements http.RoundTripper.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := t.base.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	if err := t.contract.check(req, resp); err != nil {
		t.failf("%s %s: %d is against the contract: %v", req.Method, req.URL.RequestURI(), resp.StatusCode, err)
	}
	return resp, nil
}

// CloseIdleConnections does so on the base, if it can.
func (t *Transport) CloseIdleConnections() {
	if base, ok := t.base.(interface{ CloseIdleConnections() }); ok {
		base.CloseIdleConnections()
	}
}

// check checks and records an answer. A body that it reads is put back.
func (c *Contract) check(req *http.Request, resp *http.Response) error {
	head := req.Method == http.MethodHead
	id, r, err := c.documented(req, resp.StatusCode)
	if err != nil {
		return err
	}
	if r.general {
		id = AnyOperation
	}
	if err := r.checkHeaders(resp.Header); err != nil {
		return err
	}
	answer := Answer{Operation: id, Status: resp.StatusCode}
	schema, media, err := r.media(resp.Header.Get("Content-Type"))
	if err != nil {
		return err
	}
	switch {
	case head:
		return nil // GET is what the document tells of
	case len(r.content) == 0:
		if resp.ContentLength > 0 {
			return fmt.Errorf("it has a body of %d bytes", resp.ContentLength)
		}
	case schema != nil:
		data, whole := readWhole(resp)
		if !whole {
			return nil
		}
		value, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
		if err != nil {
			return fmt.Errorf("its body is not JSON: %w", err)
		}
		if err := schema.Validate(value); err != nil {
			return fmt.Errorf("its body: %w", err)
		}
		if media == problemType {
			if answer.Code, err = r.checkProblem(value, resp.StatusCode); err != nil {
				return err
			}
		}
	}
	c.record(answer)
	return nil
}

// documented finds what the document says of a status for a request. Where no route or method matches, that is what any
// request may be answered with; 405 is for known routes and unknown methods alone, 404 not_found for unknown routes.
func (c *Contract) documented(req *http.Request, status int) (id string, r *response, err error) {
	method := req.Method
	if method == http.MethodHead {
		method = http.MethodGet
	}
	route, doubtful := c.match(req.URL.EscapedPath())
	if doubtful && status == http.StatusNotFound {
		route = nil
	}
	general := c.general[strconv.Itoa(status)]
	var op *operation
	if route != nil {
		op = route.operations[method]
	}
	switch {
	case op != nil:
		if r := op.responses[strconv.Itoa(status)]; r != nil {
			return op.id, r, nil
		}
		return "", nil, fmt.Errorf("operation %s does not answer this status", op.id)
	case general == nil:
		return "", nil, errors.New("no operation matches, and this is no general answer")
	case route == nil && status == http.StatusMethodNotAllowed:
		return "", nil, errors.New("there is no such route")
	case route != nil && status == http.StatusNotFound:
		return "", nil, errors.New("the route exists for another method")
	}
	return AnyOperation, general, nil
}

func (r *response) checkHeaders(given http.Header) error {
	for name, h := range r.headers {
		values := given.Values(name)
		if len(values) == 0 {
			if h.required {
				return fmt.Errorf("header %s is missing", name)
			}
			continue
		}
		for _, value := range values {
			var v any = value
			if h.number {
				v = json.Number(value)
				if _, err := strconv.ParseInt(value, 10, 64); err != nil {
					return fmt.Errorf("header %s: %q is not a whole number", name, value)
				}
			}
			if err := h.schema.Validate(v); err != nil {
				return fmt.Errorf("header %s: %w", name, err)
			}
		}
	}
	return nil
}

// media finds what is documented for a content type.
func (r *response) media(contentType string) (*jsonschema.Schema, string, error) {
	if len(r.content) == 0 {
		if contentType != "" {
			return nil, "", fmt.Errorf("it has content of type %q, where none is documented", contentType)
		}
		return nil, "", nil
	}
	media, _, err := mime.ParseMediaType(contentType)
	if err != nil {
		return nil, "", fmt.Errorf("content type %q: %w", contentType, err)
	}
	schema, ok := r.content[media]
	if !ok {
		return nil, "", fmt.Errorf("content type %q is not documented", contentType)
	}
	return schema, media, nil
}

// checkProblem checks what the schema cannot: that the members of a problem tell the same.
func (r *response) checkProblem(value any, status int) (api.Code, error) {
	p := members(value)
	code, _ := p["code"].(string)
	if want := "urn:pipeproc:problem:" + code; p["type"] != want {
		return "", fmt.Errorf("its type is %v, its code %s", p["type"], code)
	}
	if n, _ := p["status"].(json.Number); n.String() != strconv.Itoa(status) {
		return "", fmt.Errorf("its member status is %v", p["status"])
	}
	if !slices.Contains(r.codes, api.Code(code)) {
		return "", fmt.Errorf("code %s is not documented here", code)
	}
	return api.Code(code), nil
}

// readWhole reads the body and puts it back. whole is false when it broke off: the caller will see how.
func readWhole(resp *http.Response) (data []byte, whole bool) {
	data, err := io.ReadAll(resp.Body)
	var rest io.Reader = bytes.NewReader(data)
	if err != nil {
		rest = io.MultiReader(rest, broken{err})
	}
	resp.Body = &body{Reader: rest, Closer: resp.Body}
	return data, err == nil
}

type body struct {
	io.Reader
	io.Closer
}

// broken is the end of a body that broke off.
type broken struct{ err error }

func (b broken) Read([]byte) (int, error) { return 0, b.err }
