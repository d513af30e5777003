// Package chaos runs three servers on one PostgreSQL under load, breaks them in every way that it knows, and holds what
// their clients saw against what they were promised.
//
//	go test ./e2e/chaos                                    a smoke test of a few seconds
//	go test ./e2e/chaos -duration 8m -seed 7               what make test-chaos runs
//	go test ./e2e/chaos -duration 1h -soak soak.csv        what make soak runs
//
// The faults come from a schedule that the seed fixes: which fault, on whom, in which order, how long after the start.
// The same seed gives the same schedule. What the operating system makes of it is not replayed: which request meets a
// fault, and which two of them meet each other, is another one each time. A failure prints the seed, and keeps the
// servers' logs.
package chaos
