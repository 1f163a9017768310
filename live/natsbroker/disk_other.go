//go:build !(darwin || freebsd || linux)

package natsbroker

// freeBytes knows nothing here. On Windows NATS takes every disk to have a terabyte.
func freeBytes(string) (free int64, ok bool) { return 0, false }
