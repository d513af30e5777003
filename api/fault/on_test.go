//go:build faults

package fault_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"pipeproc/api/fault"
)

// asVictim makes the test binary a process that passes points until it is told to end.
const asVictim = "FAULT_TEST_VICTIM"

func TestMain(m *testing.M) {
	if os.Getenv(asVictim) == "" {
		os.Exit(m.Run())
	}
	for range 1_000 {
		fault.Point(fault.BatchSent)
		fault.Point(fault.JobAnswered)
		time.Sleep(time.Millisecond)
	}
	if fault.Planted("a") && fault.Planted("b") && !fault.Planted("") && !fault.Planted("c") {
		os.Exit(7)
	}
}

// A process that is asked to die at a point leaves the point's name and is killed there; else it goes on.
func TestProcessesDieAtPoints(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		kill, mark string
		least      time.Duration // that it lives
	}{
		{fault.BatchSent, fault.BatchSent, 0},
		{fault.JobAnswered + ":100", fault.JobAnswered, 99 * time.Millisecond},
		{fault.JobAnswered + ":2@300ms", fault.JobAnswered, 300 * time.Millisecond},
		{fault.JobAnswered + ":1001", "", 0},
		{fault.LiveClaimed, "", 0},
		{"", "", 0},
	} {
		t.Run(test.kill, func(t *testing.T) {
			t.Parallel()
			mark := filepath.Join(t.TempDir(), "mark")
			cmd := exec.CommandContext(t.Context(), os.Args[0])
			cmd.Env = append(os.Environ(), asVictim+"=1", "PIPEPROC_FAULT_KILL="+test.kill, "PIPEPROC_FAULT_MARK="+mark,
				"PIPEPROC_FAULT_PLANTED=a,b")
			begun := time.Now()
			err := cmd.Run()
			if lived := time.Since(begun); lived < test.least {
				t.Errorf("it lived for %v, want %v", lived, test.least)
			}
			var exit *exec.ExitError
			if !errors.As(err, &exit) {
				t.Fatal(err)
			}
			killed := exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL
			text, err := os.ReadFile(mark)
			switch {
			case test.mark == "" && (killed || exit.ExitCode() != 7 || !errors.Is(err, os.ErrNotExist)):
				t.Errorf("it ended with %v, and left %q", exit, text)
			case test.mark != "" && (!killed || strings.TrimSpace(string(text)) != test.mark):
				t.Errorf("it ended with %v, and left %q, %v", exit, text, err)
			}
		})
	}
}
