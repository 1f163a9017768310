//go:build race

package simcluster_test

// defaultSeeds is how many seeds are run in half a minute with the race detector.
const defaultSeeds = 1_000
