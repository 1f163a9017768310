//go:build !linux

package natsbroker

// bootID is unknown on this system. So after every end of the process that was not a stop, the
// streams count as damaged.
func bootID() string { return "" }
