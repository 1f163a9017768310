package interop

import (
	"crypto/tls"
	"encoding/binary"
	"net"
	"strings"
)

// rawHandshake is a client's request.
const rawHandshake = "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
	"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"

// dialTransport opens the TCP connection, with TLS where the endpoint has it.
func dialTransport(e endpoint) (net.Conn, error) {
	_, addr, _ := strings.Cut(e.url, "://")
	if e.tls == nil {
		return net.Dial("tcp", addr)
	}
	return tls.Dial("tcp", addr, e.tls)
}

// frameHead returns the first bytes of a final text frame (RFC 6455, section
// 5.2), up to where the mask or the payload begins.
func frameHead(length int, maskBit byte) []byte {
	const finText = 0x81
	switch {
	case length < 126:
		return []byte{finText, maskBit | byte(length)}
	case length < 1<<16:
		return binary.BigEndian.AppendUint16([]byte{finText, maskBit | 126}, uint16(length))
	default:
		return binary.BigEndian.AppendUint64([]byte{finText, maskBit | 127}, uint64(length))
	}
}

// unmaskedFrame returns text as a server sends it.
func unmaskedFrame(text string) string { return string(frameHead(len(text), 0)) + text }

// maskedFrame returns text as a client sends it.
func maskedFrame(text string) string {
	mask := [4]byte{0x12, 0x34, 0x56, 0x78}
	frame := append(frameHead(len(text), 0x80), mask[:]...)
	for i := range len(text) {
		frame = append(frame, text[i]^mask[i%4])
	}
	return string(frame)
}
