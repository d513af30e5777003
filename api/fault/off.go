//go:build !faults

package fault

// Enabled reports whether the program was built with faults.
const Enabled = false

// Point does nothing.
func Point(string) {}

// Planted answers false.
func Planted(string) bool { return false }
