//go:build !(darwin || freebsd || linux)

package natsbroker

// freeBytes knows nothing on this system. On Windows NATS assumes a terabyte for every disk.
func freeBytes(string) (free int64, ok bool) { return 0, false }
