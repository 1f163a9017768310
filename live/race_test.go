//go:build race

package live_test

const withRace = true
