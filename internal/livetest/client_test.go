package livetest

import (
	"bufio"
	"errors"
	"net"
	"testing"
)

func TestBytesAfterTheCloseFrameAreAnError(t *testing.T) {
	here, there := net.Pipe()
	c := newClient(t, here)
	c.In = bufio.NewReader(c.Conn)
	c.Attend()
	go func() { // ends with the client's answer
		defer there.Close()
		there.Write([]byte{0x88, 2, 0x03, 0xe9})
		there.Read(make([]byte, 100))
		there.Write([]byte{0x88, 2, 0x03, 0xe9})
	}()
	if _, code := c.Rest(); code != 0 {
		t.Errorf("the code is %d, want none", code)
	}
	var more *TrailingError
	if !errors.As(c.Err(), &more) || more.Bytes != 4 || more.Close.Code != 1001 {
		t.Errorf("the end is %v", c.Err())
	}
	if errors.As(c.Err(), new(*CloseError)) {
		t.Error("the end is taken for a close frame")
	}
}
