//go:build !race

package simcluster_test

// defaultSeeds is how many seeds are run in half a minute.
const defaultSeeds = 10_000
