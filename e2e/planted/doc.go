// Package planted proves that the checker finds bugs: it plants them, one by one, in the real server, and holds what the
// clients of two such servers saw against what they were promised.
//
//	go test -tags faults ./e2e/planted
package planted
