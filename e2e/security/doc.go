// Package security attacks a real server, a process of the built binary on a real PostgreSQL, and holds after each attack that
// it was answered as it should be, that no data changed, that memory and goroutines stayed bounded and went back to rest, and
// that somebody who behaves well was answered all the while.
//
//	make test-security
package security
