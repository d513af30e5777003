package embedded

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// processAttr gives a child a session of its own, out of reach of the terminal's Ctrl-C, the account without
// supplementary groups, and the signal that the kernel sends it when the calling thread ends; 0 for none.
func processAttr(a *account, atParentsDeath syscall.Signal) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setsid: true, Credential: a.credential(), Pdeathsig: atParentsDeath}
}

// isPostmaster tells whether a process is the postmaster of a data folder. Its arguments are readable for everybody;
// its working folder not always (for root in a container without CAP_SYS_PTRACE, it is not).
func isPostmaster(pid int, data string) bool {
	proc := "/proc/" + strconv.Itoa(pid)
	b, err := os.ReadFile(proc + "/cmdline")
	if err != nil || len(b) == 0 { // gone, or not yet reaped
		return false
	}
	args := strings.Split(strings.TrimSuffix(string(b), "\x00"), "\x00")
	if name := filepath.Base(args[0]); name != "postgres" && name != "postmaster" {
		return false
	}
	if i := slices.Index(args, "-D"); i >= 0 && i+1 < len(args) && args[i+1] == data {
		return true
	}
	cwd, err := os.Stat(proc + "/cwd")
	if err != nil {
		return false
	}
	dir, err := os.Stat(data)
	return err == nil && os.SameFile(cwd, dir)
}

const hasDeathSignal = true
