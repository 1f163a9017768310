//go:build race

package presence

// defaultSeeds is how many seeds are run in a few seconds with the race detector. make test-sim runs more
// without it, since a table has no goroutine.
const defaultSeeds = 200
