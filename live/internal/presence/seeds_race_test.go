//go:build race

package presence

// defaultSeeds is how many seeds are run in some ten seconds with the race detector. make test-sim runs more
// without it.
const defaultSeeds = 700
