package fault_test

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
)

// points are the values of the constants in points.go and bugs.go.
func points(t *testing.T) []string {
	t.Helper()
	var names []string
	for _, of := range []string{"points.go", "bugs.go"} {
		file, err := parser.ParseFile(token.NewFileSet(), of, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if v, ok := n.(*ast.ValueSpec); ok {
				for _, value := range v.Values {
					name, err := strconv.Unquote(value.(*ast.BasicLit).Value)
					if err != nil {
						t.Fatal(err)
					}
					names = append(names, name)
				}
			}
			return true
		})
	}
	return names
}

// A release holds neither the points nor what turns them on; a program with faults holds all of them, each in use.
func TestReleasesHoldNoFaults(t *testing.T) {
	t.Parallel()
	names := append(points(t), "PIPEPROC_FAULT_KILL", "PIPEPROC_FAULT_PLANTED")
	for _, test := range []struct {
		tags  string
		holds bool
	}{{"", false}, {"faults", true}} {
		program := filepath.Join(t.TempDir(), "server")
		if out, err := exec.CommandContext(t.Context(), "go", "build", "-tags", test.tags, "-o", program, "pipeproc/cmd/server").
			CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		text, err := os.ReadFile(program)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			if bytes.Contains(text, []byte(name)) != test.holds {
				t.Errorf("tags %q: holds %s: %v, want %v", test.tags, name, !test.holds, test.holds)
			}
		}
	}
}
