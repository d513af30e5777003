package httpapi

import (
	"context"
	"encoding/hex"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/google/go-cmp/cmp"

	"pipeproc/api"
)

// documentedRoles are the roles of openapi.yaml, route by route; RoleNone where no key is ever needed.
func documentedRoles(t *testing.T) map[string]Role {
	t.Helper()
	text, err := os.ReadFile("../openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	doc, err := openapi3.NewLoader().LoadFromData(text)
	if err != nil {
		t.Fatal(err)
	}
	roles := map[string]Role{}
	for path, item := range doc.Paths.Map() {
		for method, op := range item.Operations() {
			route := method + " " + path
			if op.Security == nil {
				t.Errorf("%s does not tell its role", route)
				continue
			}
			roles[route] = RoleNone
			for _, way := range *op.Security {
				if scopes, ok := way["bearer"]; ok {
					if len(scopes) != 1 {
						t.Fatalf("%s takes the roles %v", route, scopes)
					}
					if roles[route], err = ParseRole(scopes[0]); err != nil {
						t.Fatalf("%s: %v", route, err)
					}
				}
			}
		}
	}
	return roles
}

// toldRoles are the roles as they are told to users.
func toldRoles(route string) Role {
	method, path, _ := strings.Cut(route, " ")
	switch {
	case path == "/healthz", path == "/readyz", path == "/openapi.yaml":
		return RoleNone
	case strings.HasPrefix(path, "/v1/system-procs"), route == "DELETE /v1/topics/{topic}", route == "POST /v1/gc",
		route == "POST /v1/shutdown":
		return RoleAdmin
	case route == "POST /v1/wait", route == "POST /v1/stream-tickets":
		return RoleRead
	case method != "GET", strings.HasSuffix(path, "/live"), strings.HasSuffix(path, "/changes"):
		return RoleWrite
	}
	return RoleRead
}

type person struct {
	key  string
	role Role
	code api.Code // of the refusal of every route that needs a key; "" where the role decides
}

// guarded is a surface with a key of every role, and who may come.
func guarded(t *testing.T, c Config) (*Server, map[string]person) {
	t.Helper()
	people := map[string]person{"nobody": {code: api.CodeUnauthorized},
		"a stranger": {key: "Bearer pipeproc_" + strings.Repeat("A", 43), code: api.CodeUnauthorized}}
	var file strings.Builder
	for _, role := range []Role{RoleRead, RoleWrite, RoleAdmin} {
		key, line, err := NewKey("the-"+role.String(), role)
		if err != nil {
			t.Fatal(err)
		}
		file.WriteString(line + "\n")
		people[role.String()] = person{key: "Bearer " + key, role: role}
	}
	c.Keys = NewKeys()
	if _, _, err := c.Keys.Load([]byte(file.String())); err != nil {
		t.Fatal(err)
	}
	return New(c), people
}

// Every route × every role, no key and a wrong key. What is let in is then refused for a query that no route has.
func TestRoles(t *testing.T) {
	s, people := guarded(t, Config{Shutdown: func() { t.Error("shut down") }})
	documented := documentedRoles(t)
	routes := s.Routes()
	if diff := cmp.Diff(len(routes), len(documented)); diff != "" {
		t.Errorf("routes (-server +openapi.yaml):\n%s", diff)
	}
	for _, route := range routes {
		role, ok := documented[route]
		if !ok || role != toldRoles(route) {
			t.Errorf("%s takes the role %s; in openapi.yaml %s, %v", route, toldRoles(route), role, ok)
		}
		method, pattern, _ := strings.Cut(route, " ")
		for name, p := range people {
			want := p.code
			switch {
			case role == RoleNone:
				want = api.CodeInvalidRequest
			case want == "" && p.role < role:
				want = api.CodeForbidden
			case want == "":
				want = api.CodeInvalidRequest
			}
			methods := []string{method}
			if method == "GET" {
				methods = append(methods, "HEAD")
			}
			for _, method := range methods {
				var headers []string
				if p.key != "" {
					headers = append(headers, "Authorization: "+p.key)
				}
				a := do(t, s, request(method, fill.Replace(pattern)+"?nope=1", "", headers...))
				if got := a.code(t); got != want || a.status != kinds[want].status {
					t.Errorf("%s %s by %s: %d %s, want %s", method, pattern, name, a.status, got, want)
				}
				if asked := a.header.Get("WWW-Authenticate"); (asked == "Bearer") != (a.status == 401) {
					t.Errorf("%s %s by %s: WWW-Authenticate %q", method, pattern, name, asked)
				}
			}
		}
	}
}

func TestMalformedAuthorization(t *testing.T) {
	s, people := guarded(t, Config{Topics: topics{list: func(string, int) (api.TopicList, error) { return api.TopicList{}, nil }}})
	good := people["read"].key
	_, key, _ := strings.Cut(good, " ")
	for _, bad := range [][]string{{key}, {"Basic " + key}, {"Bearer"}, {"Bearer "}, {"Bearer " + key + "x"}, {"Bearer " + key[1:]},
		{good, good}, {"Bearer\t" + key}, {"Bearer " + strings.ToUpper(key)}} {
		var headers []string
		for _, b := range bad {
			headers = append(headers, "Authorization: "+b)
		}
		call(t, s, "GET", "/v1/topics", "", headers...).wantsProblem(t, 401, api.CodeUnauthorized)
	}
	for _, ok := range []string{good, "bearer " + key, "BEARER  " + key} {
		if a := call(t, s, "GET", "/v1/topics", "", "Authorization: "+ok); a.status != 200 {
			t.Errorf("%d: %s", a.status, a.body)
		}
	}
}

// A key that is removed is refused at once, and what waits with it ends.
func TestRemovedKey(t *testing.T) {
	waiting := make(chan struct{})
	s, people := guarded(t, Config{Procs: procs{claim: func(ctx context.Context, _ string, _ api.ClaimRequest) (*api.Claimed, error) {
		close(waiting)
		<-ctx.Done()
		return nil, ctx.Err()
	}}})
	ended := make(chan answered, 1)
	go func() {
		ended <- call(t, s, "POST", "/v1/procs/p/claim", `{"topic":"t","wait":60000}`, "Authorization: "+people["write"].key)
	}()
	<-waiting
	kept := (*s.Keys.all.Load())[0]
	added, removed, err := s.Keys.Load([]byte("# the writer is gone\n\n" + lineOf(kept) + "\nthe-admin read sha256:" + strings.Repeat("0", 64)))
	if err != nil || !slices.Equal(added, []string{"the-admin"}) || !slices.Equal(removed, []string{"the-write", "the-admin"}) {
		t.Errorf("added %v, removed %v, %v", added, removed, err)
	}
	a := <-ended
	a.wantsProblem(t, 401, api.CodeUnauthorized)
	if (*s.Keys.all.Load())[0] != kept {
		t.Error("a key that stayed was replaced")
	}
	call(t, s, "POST", "/v1/procs/p/claim", `{}`, "Authorization: "+people["write"].key).wantsProblem(t, 401, api.CodeUnauthorized)
}

func lineOf(k *key) string {
	return k.name + " " + k.role.String() + " " + hashPrefix + hex.EncodeToString(k.hash[:])
}

func TestKeysFileThatIsBroken(t *testing.T) {
	_, good, err := NewKey("a", RoleRead)
	if err != nil {
		t.Fatal(err)
	}
	_, other, err := NewKey("a", RoleRead)
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"a", "a read", good + " more", "a root" + good[6:], strings.Replace(good, "sha256:", "md5:", 1), good[:len(good)-1],
		good + "0", "a.b" + good[1:], good + "\n" + other, good + "\n" + strings.Replace(good, "a", "b", 1), "pipeproc_secretsecret"} {
		keys := NewKeys()
		if _, _, err := keys.Load([]byte(good)); err != nil {
			t.Fatal(err)
		}
		_, _, err := keys.Load([]byte(bad))
		if err == nil || strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "root") {
			t.Errorf("%q: %v", bad, err)
		}
		if len(*keys.all.Load()) != 1 {
			t.Errorf("%q changed the keys", bad)
		}
	}
}

// The idempotency key of one API key is not that of another.
func TestIdempotencyKeyBelongsToTheAPIKey(t *testing.T) {
	var of []string
	s, people := guarded(t, Config{Logs: logs{commit: func(_ []api.NewLog, k *api.IdempotencyKey) (api.Committed, error) {
		of = append(of, k.APIKey)
		return api.Committed{IDs: make([]api.ID, 1)}, nil
	}}})
	for _, who := range []string{"write", "admin"} {
		call(t, s, "POST", "/v1/topics/t/logs", "{}", "Authorization: "+people[who].key, "Idempotency-Key: k")
	}
	if diff := cmp.Diff([]string{"the-write", "the-admin"}, of); diff != "" {
		t.Errorf("API keys (-want +got):\n%s", diff)
	}
}
