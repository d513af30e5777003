//go:build !linux

package embedded

import (
	"os/exec"
	"strconv"
	"strings"
	"syscall"
)

// processAttr gives a child a session of its own, out of reach of the terminal's Ctrl-C, and the account without
// supplementary groups. There is no parent-death signal here: a PostgreSQL left behind is found at the next start.
func processAttr(a *account, _ syscall.Signal) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setsid: true, Credential: a.credential()}
}

// isPostmaster tells whether a process is the postmaster of a data folder.
func isPostmaster(pid int, data string) bool {
	out, err := exec.Command("ps", "-ww", "-o", "command=", "-p", strconv.Itoa(pid)).Output()
	return err == nil && strings.Contains(string(out), "postgres") && strings.Contains(string(out), "-D "+data)
}

const hasDeathSignal = false
