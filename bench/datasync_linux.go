package main

import (
	"os"
	"syscall"
)

// datasync flushes a file's data, as PostgreSQL does by default.
func datasync(f *os.File) error { return syscall.Fdatasync(int(f.Fd())) }
