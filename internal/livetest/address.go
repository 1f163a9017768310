package livetest

import (
	"fmt"
	"math/rand/v2"
	"net"
	"testing"
)

// The ports that FreeAddress chooses from. Systems give connections, and listeners without a port,
// higher ports: Linux from 32768 on, others from 49152 on.
const (
	firstPort = 20_000
	lastPort  = 29_999
)

// FreeAddress returns an address of this machine on which nobody listens before the test does. It
// stays the test's until the test ends, also while nothing listens on it: the UDP port of the same
// number is held meanwhile, and a test that chooses an address takes none whose UDP port is held.
// That is true across processes. client/test/ports.mjs does the same.
func FreeAddress(t testing.TB) string {
	t.Helper()
	for range 10 * (lastPort - firstPort) {
		addr := fmt.Sprint("127.0.0.1:", firstPort+rand.IntN(lastPort-firstPort+1))
		held, err := net.ListenPacket("udp", addr)
		if err != nil {
			continue
		}
		if l, err := net.Listen("tcp", addr); err == nil {
			l.Close()
			t.Cleanup(func() { held.Close() })
			return addr
		}
		held.Close()
	}
	t.Fatal("no port is free")
	return ""
}

// FreePort returns the port of a free address.
func FreePort(t testing.TB) int {
	t.Helper()
	addr, err := net.ResolveTCPAddr("tcp", FreeAddress(t))
	if err != nil {
		t.Fatal(err)
	}
	return addr.Port
}

// FreeAddresses returns n free addresses.
func FreeAddresses(t testing.TB, n int) []string {
	t.Helper()
	all := make([]string, n)
	for i := range all {
		all[i] = FreeAddress(t)
	}
	return all
}
