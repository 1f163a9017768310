package live

import (
	"bytes"
	"crypto/sha1"
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"
)

// The end of the handshake: the answer 101, and the connection for the session.

// Headers of the request, spelled as net/http keeps them. Another spelling costs an allocation
// each time.
const (
	headerKey        = "Sec-Websocket-Key"
	headerVersion    = "Sec-Websocket-Version"
	headerProtocol   = "Sec-Websocket-Protocol"
	headerExtensions = "Sec-Websocket-Extensions"
)

// acceptKey proves to the client that the server speaks WebSocket (RFC 6455, section
// 4.2.2).
func acceptKey(key string) string {
	text := append(make([]byte, 0, 60), strings.TrimSpace(key)...)
	sum := sha1.Sum(append(text, "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"...))
	var accept [28]byte
	base64.StdEncoding.Encode(accept[:], sum[:])
	return string(accept[:])
}

// offeredSubprotocol returns live.v1 as the client has written it, or "".
func offeredSubprotocol(h http.Header) string {
	for _, line := range h.Values(headerProtocol) {
		for offer := range strings.SplitSeq(line, ",") {
			if offer = strings.TrimSpace(offer); strings.EqualFold(offer, subprotocol) {
				return offer
			}
		}
	}
	return ""
}

// acceptDeflate returns the answer to the first offer of permessage-deflate that the server
// can take, or "" (RFC 7692, section 7.1). Neither side remembers earlier messages: a
// window of 32 KB for each client would be the largest part of a session.
func acceptDeflate(h http.Header) string {
	for _, line := range h.Values(headerExtensions) {
		for offer := range strings.SplitSeq(line, ",") {
			if answer := acceptOffer(offer); answer != "" {
				return answer
			}
		}
	}
	return ""
}

func acceptOffer(offer string) string {
	name, params, _ := strings.Cut(offer, ";")
	if strings.TrimSpace(name) != "permessage-deflate" {
		return ""
	}
	answer := "permessage-deflate; client_no_context_takeover; server_no_context_takeover"
	seen := make(map[string]bool)
	for param := range strings.SplitSeq(params, ";") {
		if strings.TrimSpace(param) == "" && len(seen) == 0 && strings.TrimSpace(params) == "" {
			continue // no parameters
		}
		key, value, hasValue := strings.Cut(param, "=")
		key, value = strings.TrimSpace(key), strings.Trim(strings.TrimSpace(value), `"`)
		if seen[key] {
			return ""
		}
		seen[key] = true
		switch {
		case key == "client_no_context_takeover" && !hasValue, key == "server_no_context_takeover" && !hasValue:
		case key == "client_max_window_bits" && (!hasValue || windowBits(value)):
			// A client with a smaller window can be read all the same.
		case key == "server_max_window_bits" && value == "15":
			answer += "; server_max_window_bits=15"
		default:
			return "" // unknown, wrong, or a smaller window than Go's compressor has
		}
	}
	return answer
}

func windowBits(value string) bool {
	switch value {
	case "8", "9", "10", "11", "12", "13", "14", "15":
		return true
	}
	return false
}

// headers are those of the answer that the handshake makes, in pairs.
type headers []string

// maxHeaders is the length of headers with everything that a handshake can agree on.
const maxHeaders = 10

// switchProtocols answers the handshake with 101, and takes the connection over. ahead is
// what net/http had read past the handshake.
//
// If a middleware wraps net/http's writer, the answer goes through the wrapper, which sees the
// 101 and may add headers (a cookie session does). This is done only if net/http's own writer
// is below, because then taking over the connection cannot fail. In all other cases the
// connection is taken over first and the answer is written to it: otherwise a client could get
// a 101 that is not meant. A middleware with a Hijack method but no Unwrap does not see the
// 101, and headers that it would add then are lost.
//
// The client may read nothing, while answers to earlier requests fill the socket. So the answer has
// a timeout. If the client does not take it, the error wraps errClientGone, and the connection is closed.
func switchProtocols(w http.ResponseWriter, own headers, timeout time.Duration) (conn net.Conn, ahead []byte, err error) {
	below := innermost(w)
	through := below != w && isNetHTTP(below)
	if through {
		http.NewResponseController(below).SetWriteDeadline(time.Now().Add(timeout)) // until Hijack clears it
		for i := 0; i < len(own); i += 2 {
			w.Header().Set(own[i], own[i+1])
		}
		w.WriteHeader(http.StatusSwitchingProtocols)
		if gin, ok := w.(interface{ WriteHeaderNow() }); ok { // its writer holds the head back until then
			gin.WriteHeaderNow()
		}
	}
	conn, brw, err := http.NewResponseController(w).Hijack()
	if err != nil && through {
		// A wrapper refused Hijack after the 101 was sent. net/http's own writer does not.
		conn, brw, err = below.(http.Hijacker).Hijack()
	}
	if err != nil {
		return nil, nil, err
	}
	if n := brw.Reader.Buffered(); n > 0 {
		peeked, _ := brw.Reader.Peek(n)
		ahead = bytes.Clone(peeked)
	}
	if through {
		return conn, ahead, nil
	}
	conn.SetWriteDeadline(time.Now().Add(timeout))
	if _, err := conn.Write(own.answer(w.Header())); err != nil {
		conn.Close()
		return nil, nil, fmt.Errorf("%w: %w", errClientGone, err)
	}
	conn.SetWriteDeadline(time.Time{})
	return conn, ahead, nil
}

// answer returns the head of the answer, with what middlewares have set.
func (own headers) answer(theirs http.Header) []byte {
	head := make([]byte, 0, 256)
	head = append(head, "HTTP/1.1 101 Switching Protocols\r\n"...)
	for i := 0; i < len(own); i += 2 {
		head = append(append(append(append(head, own[i]...), ": "...), own[i+1]...), "\r\n"...)
	}
	if len(theirs) > 0 {
		for i := 0; i < len(own); i += 2 {
			theirs.Del(own[i])
		}
		b := bytes.NewBuffer(head)
		theirs.Write(b)
		head = b.Bytes()
	}
	return append(head, "\r\n"...)
}

// hijackable reports whether w may be hijacked; false is certain.
func hijackable(w http.ResponseWriter) bool {
	for {
		if _, ok := w.(http.Hijacker); ok {
			return true
		}
		inner, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			return false
		}
		w = inner.Unwrap()
	}
}

func innermost(w http.ResponseWriter) http.ResponseWriter {
	for {
		inner, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			return w
		}
		w = inner.Unwrap()
	}
}

// isNetHTTP reports whether w is what net/http gives to handlers of HTTP/1.
func isNetHTTP(w http.ResponseWriter) bool {
	return fmt.Sprintf("%T", w) == "*http.response"
}
