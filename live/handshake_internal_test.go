package live

import (
	"net/http"
	"net/http/httptest"
	"testing"
)

func TestCheckingAHandshakeAllocatesNothing(t *testing.T) {
	r := httptest.NewRequest("GET", "/", nil)
	for key, value := range map[string]string{
		"Connection": "keep-alive, Upgrade", "Upgrade": "websocket",
		"Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
	} {
		r.Header.Set(key, value)
	}
	allocs := testing.AllocsPerRun(100, func() {
		if err := checkRequest(r); err != nil {
			t.Fatal(err)
		}
	})
	if allocs > 0 {
		t.Errorf("%v allocations", allocs)
	}
}

// A handshake has an answer of at most maxHeaders, or its headers would be allocated.
func TestHeadersOfEveryAgreementFit(t *testing.T) {
	r := httptest.NewRequest("GET", "/", nil)
	r.Header = http.Header{headerKey: {"dGhlIHNhbXBsZSBub25jZQ=="}, headerProtocol: {subprotocol}, headerExtensions: {"permessage-deflate"}}
	sess := &Session{server: New(Options{Compression: true})}
	if own := sess.agree(r, nil); len(own) != maxHeaders {
		t.Errorf("%d strings, want %d: %q", len(own), maxHeaders, own)
	}
}
