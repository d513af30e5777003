//go:build faults && linux

package planted

import (
	"cmp"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"go.uber.org/goleak"

	"pipeproc/api/fault"
	"pipeproc/e2e/check"
	"pipeproc/pgstore/pgtest"
)

func TestMain(m *testing.M) {
	code := pgtest.Main(m)
	if path, err := binary(); err == nil {
		_ = os.RemoveAll(filepath.Dir(path))
	}
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// bug is one that can be planted; "" is none.
type bug struct {
	name string
	want []check.Kind
	kill string // where the first server dies once
}

// bugs are all there are, and what the checker is to find of each: one of the kinds, at least.
var bugs = []bug{
	{"", nil, ""},
	{fault.SeqsBeforeCommit, []check.Kind{check.Late, check.Hole}, fault.PlantedHalfway + ":3"},
	{fault.AckAnyToken, []check.Kind{check.LostToken, check.Illegal}, ""},
	{fault.ForgottenProcs, []check.Kind{check.CollectedUnread}, ""},
	{fault.NoLook, []check.Kind{check.StreamLoss, check.WakeUpLate}, ""},
	{fault.EarlyAnswers, []check.Kind{check.Missing, check.TwoBodies}, fault.PlantedHalfway + ":3"},
	{fault.BlindRetry, []check.Kind{check.Doubled}, ""},
	{fault.SplitCommits, []check.Kind{check.Partial, check.Scattered}, ""},
	{fault.EarlyClock, []check.Kind{check.BackInTime}, ""},
	{fault.NoTimeouts, []check.Kind{check.LostToken}, ""},
	{fault.ForgottenKeys, []check.Kind{check.Doubled}, ""},
	{fault.TornAckCommits, []check.Kind{check.OutputLost}, fault.PlantedHalfway},
	{fault.SkippingTails, []check.Kind{check.StreamLoss}, ""},
	{fault.ShorterResends, []check.Kind{check.ClaimChanged}, ""},
}

// Without a bug the checker finds nothing; with each it finds what that bug breaks.
func TestPlantedBugs(t *testing.T) {
	t.Parallel()
	for _, test := range bugs {
		name := cmp.Or(test.name, "none")
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			history := workOut(t, test.name, test.kill)
			violations := check.Verify(history)
			t.Logf("%d commits, %d claims, %d acks, %d ranges, %d events; %v", len(history.Commits), len(history.Claims), len(history.Acks),
				len(history.Reads), len(history.Events), check.Kinds(violations))
			if test.want == nil && violations == nil {
				return
			}
			if !slices.ContainsFunc(check.Kinds(violations), func(k check.Kind) bool { return slices.Contains(test.want, k) }) {
				t.Errorf("none of %v was found", test.want)
			}
			for _, v := range violations {
				if !slices.Contains(test.want, v.Kind) && (t.Failed() || test.want == nil || v.Kind == check.Unsound) {
					t.Errorf("%v", v)
				}
			}
		})
	}
}

// No bug can be planted that is not found.
func TestAllBugsArePlanted(t *testing.T) {
	t.Parallel()
	file, err := parser.ParseFile(token.NewFileSet(), "../../api/fault/bugs.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(file, func(n ast.Node) bool {
		v, ok := n.(*ast.ValueSpec)
		if !ok || v.Names[0].Name == "PlantedHalfway" {
			return true
		}
		name, err := strconv.Unquote(v.Values[0].(*ast.BasicLit).Value)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(bugs, func(b bug) bool { return b.name == name }) {
			t.Errorf("%s is not planted", name)
		}
		return true
	})
}
