//go:build race

package inbox

const withRace = true
