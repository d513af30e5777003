//go:build faults

package fault

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// Enabled reports whether the program was built with faults.
const Enabled = true

// What the environment asks for.
var (
	begun    = time.Now()
	toKill   = parseKill(os.Getenv("PIPEPROC_FAULT_KILL"))
	markFile = os.Getenv("PIPEPROC_FAULT_MARK")
	planted  = parsePlanted(os.Getenv("PIPEPROC_FAULT_PLANTED"))
)

// kill tells when the process dies: at the passing of the point with this number, counted from an age on.
type kill struct {
	point  string
	number int64
	age    time.Duration
	passed *atomic.Int64
}

func parseKill(text string) kill {
	k := kill{number: 1, passed: new(atomic.Int64)}
	rest, age, aged := strings.Cut(text, "@")
	point, number, numbered := strings.Cut(rest, ":")
	k.point = point
	var err error
	if numbered {
		if k.number, err = strconv.ParseInt(number, 10, 64); err == nil && k.number < 1 {
			err = strconv.ErrRange
		}
	}
	if aged && err == nil {
		k.age, err = time.ParseDuration(age)
	}
	if err != nil {
		panic("PIPEPROC_FAULT_KILL=" + text + " is not of the form point:number@age: " + err.Error())
	}
	return k
}

func parsePlanted(text string) map[string]bool {
	names := map[string]bool{}
	for name := range strings.SplitSeq(text, ",") {
		names[name] = name != ""
	}
	return names
}

// Point kills the process by SIGKILL if it was asked to die at this passing of the point.
func Point(name string) {
	if name == toKill.point && time.Since(begun) >= toKill.age && toKill.passed.Add(1) == toKill.number {
		die(name)
	}
}

// die leaves the point's name in the mark file, if there is one, and does not return.
func die(name string) {
	if markFile != "" {
		mark, err := os.OpenFile(markFile, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600) //nolint:gosec // whoever runs a server to be broken names the file
		if err == nil {
			_, err = fmt.Fprintln(mark, name)
		}
		if err != nil {
			panic(err) // the kill would count for nothing
		}
	}
	if err := syscall.Kill(os.Getpid(), syscall.SIGKILL); err != nil {
		panic(err)
	}
	select {} // until the signal is here
}

// Planted reports whether the bug of that name is in force.
func Planted(name string) bool { return planted[name] }
