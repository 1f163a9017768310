//go:build !unix

package inbox

import (
	"net"
	"syscall"
	"testing"
)

const hasHandles = false

// withHandle returns pieces as a connection, which has no handle here.
func withHandle(_ testing.TB, pieces [][]byte) (net.Conn, syscall.RawConn) {
	return &script{pieces: pieces}, nil
}
