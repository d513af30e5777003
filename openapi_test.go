package pipeproc_test

import (
	"context"
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/google/go-cmp/cmp"

	"pipeproc"
	"pipeproc/api"
)

func load(t *testing.T) *openapi3.T {
	t.Helper()
	doc, err := openapi3.NewLoader().LoadFromData(pipeproc.OpenAPI)
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

// The document is valid, its examples included.
func TestDocumentIsValid(t *testing.T) {
	doc := load(t)
	if err := doc.Validate(context.Background()); err != nil {
		t.Fatal(err)
	}
	if doc.OpenAPI != "3.1.0" {
		t.Errorf("the document is OpenAPI %s", doc.OpenAPI)
	}
}

// Every operation has what a generator of clients needs.
func TestOperationsAreNamed(t *testing.T) {
	seen := map[string]string{}
	tags := map[string]bool{}
	doc := load(t)
	for _, tag := range doc.Tags {
		tags[tag.Name] = true
	}
	for path, item := range doc.Paths.Map() {
		for method, op := range item.Operations() {
			name := method + " " + path
			if op.OperationID == "" || op.Summary == "" || len(op.Tags) == 0 {
				t.Errorf("%s needs an operationId, a summary and a tag", name)
			}
			if other := seen[op.OperationID]; other != "" {
				t.Errorf("%s and %s are both %s", name, other, op.OperationID)
			}
			seen[op.OperationID] = name
			for _, tag := range op.Tags {
				if !tags[tag] {
					t.Errorf("%s: tag %q is not described", name, tag)
				}
			}
			for status := range op.Responses.Map() {
				if _, err := strconv.Atoi(status); err != nil {
					t.Errorf("%s: %q is no status", name, status)
				}
			}
		}
	}
}

// The codes of the document are those of package api.
func TestCodesAreThoseOfTheAPI(t *testing.T) {
	want := codes(t)
	doc := load(t)
	if diff := cmp.Diff(want, sorted(doc.Components.Schemas["Code"].Value.Enum)); diff != "" {
		t.Errorf("schema Code (-api +document):\n%s", diff)
	}
	used := map[string]bool{}
	for _, r := range responses(doc) {
		for _, code := range problemCodes(r) {
			used[code] = true
		}
	}
	if diff := cmp.Diff(want, slices.Sorted(maps.Keys(used))); diff != "" {
		t.Errorf("codes of the responses (-api +document):\n%s", diff)
	}
}

// Every refusal is a problem that names its codes, and every answer that is not a stream or a text says that it is not
// to be stored.
func TestRefusalsNameTheirCodes(t *testing.T) {
	for name, r := range responses(load(t)) {
		status := name[strings.LastIndexByte(name, ' ')+1:]
		problem := r.Content.Get("application/problem+json") != nil
		if _, err := strconv.Atoi(status); err == nil && problem != (status >= "400") {
			t.Errorf("%s: refusals alone are problems", name)
		}
		if problem && len(problemCodes(r)) == 0 {
			t.Errorf("%s names no codes", name)
		}
		if r.Content == nil || r.Content.Get("application/json") != nil || problem {
			if r.Headers["Cache-Control"] == nil {
				t.Errorf("%s does not tell Cache-Control", name)
			}
		}
	}
}

// The document's objects have exactly the members of the Go types that are the wire types.
func TestSchemasFollowTheTypes(t *testing.T) {
	doc := load(t)
	for name, v := range map[string]any{
		"Topic":           api.Topic{},
		"Log":             api.Log{},
		"Page":            api.Page{},
		"CommitLog":       api.NewLog{},
		"Claim":           api.Claim{},
		"Claimed":         api.Claimed{},
		"ProcMembers":     api.Proc{},
		"ProcOptions":     api.ProcOptions{},
		"ProcPatch":       api.ProcPatch{},
		"SystemProc":      api.SystemProc{},
		"SystemProcSpec":  api.SystemProcSpec{},
		"SystemProcPatch": api.SystemProcPatch{},
		"SystemProcMade":  api.SystemProcMade{},
		"SecretRotation":  api.SecretRotation{},
		"RotatedSecret":   api.RotatedSecret{},
		"CollectedTopic":  api.Collected{},
		"NamedProcOptions": struct {
			Name string `json:"name"`
		}{},
	} {
		schema := doc.Components.Schemas[name]
		if schema == nil {
			t.Errorf("there is no schema %s", name)
			continue
		}
		if diff := cmp.Diff(members(v), slices.Sorted(maps.Keys(schema.Value.Properties))); diff != "" {
			t.Errorf("%s (-type +document):\n%s", name, diff)
		}
	}
}

// members are the names of v's members on the wire.
func members(v any) []string {
	var names []string
	for _, f := range reflect.VisibleFields(reflect.TypeOf(v)) {
		if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name != "" && name != "-" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// responses are all responses of the document: "METHOD path status" and "component name".
func responses(doc *openapi3.T) map[string]*openapi3.Response {
	all := map[string]*openapi3.Response{}
	for name, r := range doc.Components.Responses {
		all["component "+name] = r.Value
	}
	for path, item := range doc.Paths.Map() {
		for method, op := range item.Operations() {
			for status, r := range op.Responses.Map() {
				all[method+" "+path+" "+status] = r.Value
			}
		}
	}
	return all
}

// problemCodes are the codes that a refusal names.
func problemCodes(r *openapi3.Response) []string {
	media := r.Content.Get("application/problem+json")
	if media == nil {
		return nil
	}
	var names []string
	for _, part := range media.Schema.Value.AllOf {
		if code := part.Value.Properties["code"]; part.Ref == "" && code != nil {
			names = append(names, sorted(code.Value.Enum)...)
		}
	}
	return names
}

func sorted(enum []any) []string {
	var names []string
	for _, v := range enum {
		names = append(names, v.(string))
	}
	slices.Sort(names)
	return names
}

// codes are the codes of package api, read from its source: constants cannot be listed otherwise.
func codes(t *testing.T) []string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "api/errors.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		if typ, ok := spec.Type.(*ast.Ident); ok && typ.Name == "Code" {
			for _, v := range spec.Values {
				var code string
				if err := json.Unmarshal([]byte(v.(*ast.BasicLit).Value), &code); err != nil {
					t.Fatal(err)
				}
				names = append(names, code)
			}
		}
		return true
	})
	slices.Sort(names)
	return names
}
