//go:build security && linux

package security

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The roles, each of which may do what those before it may. roleNone is what routes need that are open to everybody.
const (
	roleNone  = "none"
	roleRead  = "read"
	roleWrite = "write"
	roleAdmin = "admin"
)

var roles = []string{roleNone, roleRead, roleWrite, roleAdmin}

// may tells that who has one role may do what another takes.
func may(has, takes string) bool { return slices.Index(roles, has) >= slices.Index(roles, takes) }

// people are who may come: their Authorization, by their role. Two have none: nobody, who sends no key, and a stranger, whose key
// the server does not know.
type people struct {
	file  string // of the keys that the server knows, named as their role
	lines map[string]string
	says  map[string]string
}

const nobody, stranger = "nobody", "a stranger"

// newPeople makes the file of keys, of all roles.
func newPeople(t *testing.T) *people {
	t.Helper()
	p := &people{filepath.Join(t.TempDir(), "keys"), map[string]string{}, map[string]string{nobody: ""}}
	for _, role := range roles[1:] {
		var key string
		key, p.lines[role] = keygen(t, role, role)
		p.says[role] = "Bearer " + key
	}
	unknown, _ := keygen(t, "unknown", roleAdmin)
	p.says[stranger] = "Bearer " + unknown
	p.write(t, roles[1:]...)
	return p
}

// write writes the file, of the keys of these roles.
func (p *people) write(t *testing.T, of ...string) {
	t.Helper()
	var lines strings.Builder
	for _, role := range of {
		lines.WriteString(p.lines[role] + "\n")
	}
	if err := os.WriteFile(p.file, []byte(lines.String()), 0o600); err != nil {
		t.Fatal(err)
	}
}

// role is what a person may do.
func role(who string) string {
	if slices.Contains(roles, who) {
		return who
	}
	return roleNone
}

// launchGuarded is launch of a server with keys; its own calls are an admin's.
func launchGuarded(t *testing.T, flags ...string) (*server, *people) {
	t.Helper()
	p := newPeople(t)
	s := launch(t, append([]string{"--api-keys-file", p.file}, flags...)...)
	s.key = strings.TrimPrefix(p.says[roleAdmin], "Bearer ")
	return s, p
}
