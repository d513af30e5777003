// Package contracttest holds a server to its OpenAPI document: every answer that passes through is checked against it,
// and what was never answered can be listed.
//
// It is for tests. A Contract is compiled once and shared; each test takes a Transport of its own.
package contracttest

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"pipeproc/api"
)

// AnyOperation is the operation of answers that any request may get, whatever its route: those that the document lists as
// x-general-responses.
const AnyOperation = "any"

// An Answer is one way in which an operation answers.
type Answer struct {
	Operation string   // the operationId, or AnyOperation
	Status    int      // the HTTP status
	Code      api.Code // of a problem; "" for all else
}

func (a Answer) String() string {
	if a.Code == "" {
		return fmt.Sprintf("%s %d", a.Operation, a.Status)
	}
	return fmt.Sprintf("%s %d %s", a.Operation, a.Status, a.Code)
}

// A Contract is a compiled document, and the record of what was answered. It may be used by several goroutines.
type Contract struct {
	routes  []route
	general map[string]*response // by status

	mu       sync.Mutex
	produced map[Answer]int
}

// route is a path of the document.
type route struct {
	segments   []string              // "" stands for a parameter
	operations map[string]*operation // by method
}

type operation struct {
	id        string
	responses map[string]*response // by status
}

// response is a documented response, its schemas compiled.
type response struct {
	headers map[string]header             // by name
	content map[string]*jsonschema.Schema // by media type; the schema is nil for what is no JSON
	codes   []api.Code                    // of a problem
	general bool                          // any operation may answer so
}

type header struct {
	required bool
	number   bool
	schema   *jsonschema.Schema
}

// New compiles the OpenAPI document doc, in YAML or JSON. An invalid document is an error.
func New(doc []byte) (*Contract, error) {
	loader := openapi3.NewLoader()
	spec, err := loader.LoadFromData(doc)
	if err != nil {
		return nil, err
	}
	if err := spec.Validate(loader.Context); err != nil {
		return nil, err
	}
	text, err := json.Marshal(spec)
	if err != nil {
		return nil, err
	}
	tree, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	c := compiler{root: tree, schemas: jsonschema.NewCompiler(), responses: map[string]*response{}}
	c.schemas.DefaultDraft(jsonschema.Draft2020)
	if err := c.schemas.AddResource(documentURL, tree); err != nil {
		return nil, err
	}
	return c.contract()
}

// documentURL names the document to the compiler of schemas; nothing is fetched from there.
const documentURL = "urn:openapi"

// compiler walks the document as plain JSON: only there every schema has a place, which the schemas are compiled by, so
// that their references resolve within the document.
type compiler struct {
	root      any
	schemas   *jsonschema.Compiler
	responses map[string]*response // by place
}

func (c *compiler) contract() (*Contract, error) {
	contract := &Contract{general: map[string]*response{}, produced: map[Answer]int{}}
	general, at := c.find("", "x-general-responses")
	for status := range members(general) {
		r, err := c.response(at, status)
		if err != nil {
			return nil, err
		}
		r.general = true
		contract.general[status] = r
	}
	paths, pathsAt := c.find("", "paths")
	for path := range members(paths) {
		item, itemAt := c.find(pathsAt, path)
		r := route{operations: map[string]*operation{}}
		for segment := range strings.SplitSeq(path, "/") {
			if strings.HasPrefix(segment, "{") {
				segment = ""
			}
			r.segments = append(r.segments, segment)
		}
		for key, value := range members(item) {
			id, _ := members(value)["operationId"].(string)
			if id == "" {
				continue // not an operation: parameters, a summary
			}
			op := &operation{id: id, responses: map[string]*response{}}
			_, opAt := c.find(itemAt, key)
			responses, at := c.find(opAt, "responses")
			for status := range members(responses) {
				var err error
				if op.responses[status], err = c.response(at, status); err != nil {
					return nil, err
				}
			}
			r.operations[strings.ToUpper(key)] = op
		}
		contract.routes = append(contract.routes, r)
	}
	// Fixed segments go before parameters.
	slices.SortFunc(contract.routes, func(a, b route) int { return slices.Compare(b.segments, a.segments) })
	return contract, nil
}

// response compiles a response once, also when several operations refer to it.
func (c *compiler) response(parent, name string) (*response, error) {
	_, at := c.find(parent, name)
	if r := c.responses[at]; r != nil {
		return r, nil
	}
	r := &response{headers: map[string]header{}, content: map[string]*jsonschema.Schema{}}
	headers, headersAt := c.find(at, "headers")
	for name := range members(headers) {
		value, headerAt := c.find(headersAt, name)
		required, _ := members(value)["required"].(bool)
		h := header{required: required, number: members(members(value)["schema"])["type"] == "integer"}
		var err error
		if h.schema, err = c.schemas.Compile(documentURL + "#" + headerAt + "/schema"); err != nil {
			return nil, err
		}
		r.headers[name] = h
	}
	content, contentAt := c.find(at, "content")
	for media, value := range members(content) {
		r.content[media] = nil
		if !isJSON(media) || members(value)["schema"] == nil {
			continue
		}
		schema, err := c.schemas.Compile(documentURL + "#" + contentAt + "/" + escape(media) + "/schema")
		if err != nil {
			return nil, err
		}
		r.content[media] = schema
	}
	problem, _ := c.find(contentAt, problemType)
	parts, _ := members(members(problem)["schema"])["allOf"].([]any)
	for _, part := range parts {
		codes, _ := members(members(members(part)["properties"])["code"])["enum"].([]any)
		for _, code := range codes {
			r.codes = append(r.codes, api.Code(fmt.Sprint(code)))
		}
	}
	c.responses[at] = r
	return r, nil
}

// find is the value of a member and its place, a JSON pointer; a reference is followed.
func (c *compiler) find(parent, name string) (value any, at string) {
	at = parent + "/" + escape(name)
	for {
		value = c.root
		for token := range strings.SplitSeq(strings.TrimPrefix(at, "/"), "/") {
			value = members(value)[unescape(token)]
		}
		ref, ok := members(value)["$ref"].(string)
		if !ok {
			return value, at
		}
		at = strings.TrimPrefix(ref, "#")
	}
}

// members are those of an object; none of anything else.
func members(v any) map[string]any {
	m, _ := v.(map[string]any)
	return m
}

var (
	escape   = strings.NewReplacer("~", "~0", "/", "~1").Replace
	unescape = strings.NewReplacer("~1", "/", "~0", "~").Replace
)

const problemType = "application/problem+json"

func isJSON(media string) bool {
	return media == "application/json" || strings.HasSuffix(media, "+json")
}

// match finds the route of an escaped path; nil when there is none. A route that matches only with an empty parameter is
// doubtful: routers differ over it, so the server may take it or not.
func (c *Contract) match(path string) (found *route, doubtful bool) {
	segments := strings.Split(path, "/")
	for i := range c.routes {
		if r := &c.routes[i]; r.match(segments) {
			return r, slices.Contains(segments[1:], "")
		}
	}
	return nil, false
}

func (r *route) match(segments []string) bool {
	return slices.EqualFunc(r.segments, segments, func(want, got string) bool { return want == "" || want == got })
}

func (c *Contract) record(a Answer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.produced[a]++
}

// Produced lists the answers that passed, documented ones alone, with their number.
func (c *Contract) Produced() map[Answer]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	produced := make(map[Answer]int, len(c.produced))
	for a, n := range c.produced {
		produced[a] = n
	}
	return produced
}

// Missing lists the documented answers that never passed: each status of each operation, of problems each code. What any
// operation may answer is wanted once, from whichever.
func (c *Contract) Missing() []Answer {
	produced := c.Produced()
	missing := map[Answer]bool{}
	want := func(id, status string, r *response) {
		n, _ := strconv.Atoi(status)
		codes := r.codes
		if codes == nil {
			codes = []api.Code{""}
		}
		for _, code := range codes {
			a := Answer{Operation: id, Status: n, Code: code}
			if r.general {
				a.Operation = AnyOperation
			}
			if produced[a] == 0 {
				missing[a] = true
			}
		}
	}
	for status, r := range c.general {
		want(AnyOperation, status, r)
	}
	for _, route := range c.routes {
		for _, op := range route.operations {
			for status, r := range op.responses {
				want(op.id, status, r)
			}
		}
	}
	list := make([]Answer, 0, len(missing))
	for a := range missing {
		list = append(list, a)
	}
	slices.SortFunc(list, func(a, b Answer) int {
		return cmp.Or(cmp.Compare(a.Operation, b.Operation), cmp.Compare(a.Status, b.Status), cmp.Compare(a.Code, b.Code))
	})
	return list
}
