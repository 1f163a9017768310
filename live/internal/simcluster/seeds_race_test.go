//go:build race

package simcluster_test

// defaultSeeds is how many seeds are run in some seconds with the race detector. make test-sim runs more without it.
const defaultSeeds = 150
