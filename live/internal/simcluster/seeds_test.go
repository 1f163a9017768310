//go:build !race

package simcluster_test

// defaultSeeds is how many seeds are run in some ten seconds. make soak runs more.
const defaultSeeds = 3000
