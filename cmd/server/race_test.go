//go:build race

package main

// raceFactor is what the race detector makes of a heap.
const raceFactor = 1.5
