//go:build !unix

package inbox

import (
	"net"
	"syscall"
	"testing"
)

const hasHandles = false

// withHandle returns a connection with the pieces. It has no handle on this system.
func withHandle(_ testing.TB, pieces [][]byte) (net.Conn, syscall.RawConn) {
	return &script{pieces: pieces}, nil
}
