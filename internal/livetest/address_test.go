package livetest

import (
	"net"
	"testing"
)

func TestFreeAddressIsTheTestsUntilItEnds(t *testing.T) {
	var addr string
	t.Run("during the test", func(t *testing.T) {
		addr = FreeAddress(t)
		l, err := net.Listen("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		l.Close() // the test will listen again
		if other, err := net.ListenPacket("udp", addr); err == nil {
			other.Close()
			t.Error("another test can take the address")
		}
	})
	after, err := net.ListenPacket("udp", addr)
	if err != nil {
		t.Fatalf("the address is not given back: %v", err)
	}
	after.Close()
}
