//go:build !linux

package main

import "os"

// datasync flushes a file: only Linux has a call for its data alone here.
func datasync(f *os.File) error { return f.Sync() }
