//go:build !race

package presence

// defaultSeeds is how many seeds are run in some ten seconds.
const defaultSeeds = 2000
