package live

import (
	"net/http"
	"testing"
)

func TestAcceptKeyIsThatOfTheRFC(t *testing.T) { // section 1.3
	if got := acceptKey(" dGhlIHNhbXBsZSBub25jZQ== "); got != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" {
		t.Error(got)
	}
}

func TestSubprotocolIsAnsweredAsItWasOffered(t *testing.T) {
	for offered, want := range map[string]string{
		"": "", "live.v1": "live.v1", "chat, live.v1": "live.v1", "live.token.x,LIVE.v1": "LIVE.v1", "live.v10": "", "xlive.v1": "",
	} {
		if got := offeredSubprotocol(http.Header{"Sec-Websocket-Protocol": {"first", offered}}); got != want {
			t.Errorf("%q is answered with %q, want %q", offered, got, want)
		}
	}
}

// An offer with a parameter that the server does not know, or cannot keep, is declined; the
// next is looked at (RFC 7692, section 7.1).
func TestOffersOfDeflate(t *testing.T) {
	const plain = "permessage-deflate; client_no_context_takeover; server_no_context_takeover"
	for offer, want := range map[string]string{
		"":                         "",
		"x-webkit-deflate-frame":   "",
		"permessage-deflate":       plain,
		" permessage-deflate ; ":   plain,
		"x; y, permessage-deflate": plain,
		"permessage-deflate; client_max_window_bits":                                             plain,
		"permessage-deflate; client_max_window_bits=8":                                           plain,
		`permessage-deflate; client_max_window_bits="12"`:                                        plain,
		"permessage-deflate; client_max_window_bits=7":                                           "",
		"permessage-deflate; client_max_window_bits=16":                                          "",
		"permessage-deflate; client_max_window_bits=08":                                          "",
		"permessage-deflate; client_max_window_bits; client_max_window_bits":                     "",
		"permessage-deflate; server_no_context_takeover; client_no_context_takeover":             plain,
		"permessage-deflate; server_no_context_takeover=1":                                       "",
		"permessage-deflate; server_max_window_bits=15":                                          plain + "; server_max_window_bits=15",
		"permessage-deflate; server_max_window_bits=10":                                          "",
		"permessage-deflate; server_max_window_bits":                                             "",
		"permessage-deflate; server_max_window_bits=10, permessage-deflate":                      plain,
		"permessage-deflate; unknown":                                                            "",
		"permessage-deflate; client_max_window_bits; server_max_window_bits=15; unknown=1, junk": "",
	} {
		if got := acceptDeflate(http.Header{"Sec-Websocket-Extensions": {offer}}); got != want {
			t.Errorf("%q is answered with %q, want %q", offer, got, want)
		}
	}
}

// What middlewares have set goes into the answer, once and besides what must be there.
func TestAnswerHasTheMiddlewaresHeaders(t *testing.T) {
	own := headers{"Upgrade", "websocket", "Connection", "Upgrade"}
	got := string(own.answer(http.Header{"Set-Cookie": {"a=b", "c=d"}, "Upgrade": {"h2c"}}))
	want := "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSet-Cookie: a=b\r\nSet-Cookie: c=d\r\n\r\n"
	if got != want {
		t.Errorf("%q", got)
	}
}
