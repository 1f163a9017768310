package livetest

import (
	"bufio"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
)

// Programs wrap a ResponseWriter in these ways. They differ in the methods that the wrapper has.
type (
	plain   struct{ http.ResponseWriter }
	unwraps struct{ plain }
	hijacks struct{ plain }
	fails   struct{ plain }
	both    struct{ unwraps }
)

var errNoHijack = errors.New("no hijacking here")

func (w unwraps) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w hijacks) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return http.NewResponseController(w.ResponseWriter).Hijack()
}

func (fails) Hijack() (net.Conn, *bufio.ReadWriter, error) { return nil, nil, errNoHijack }

func (both) Hijack() (net.Conn, *bufio.ReadWriter, error) { return nil, nil, errNoHijack }

// WithUnwrap wraps a ResponseWriter. The wrapper has Unwrap.
func WithUnwrap(w http.ResponseWriter) http.ResponseWriter { return unwraps{plain{w}} }

// WithHijack wraps a ResponseWriter. The wrapper has Hijack, but not Unwrap.
func WithHijack(w http.ResponseWriter) http.ResponseWriter { return hijacks{plain{w}} }

// WithFailingHijack wraps a ResponseWriter. The wrapper has Hijack, which fails.
func WithFailingHijack(w http.ResponseWriter) http.ResponseWriter { return fails{plain{w}} }

// WithFailingHijackAndUnwrap wraps a ResponseWriter. The wrapper has Unwrap, and Hijack, which
// fails.
func WithFailingHijackAndUnwrap(w http.ResponseWriter) http.ResponseWriter {
	return both{unwraps{plain{w}}}
}

// WithNeither wraps a ResponseWriter. The wrapper has neither Hijack nor Unwrap.
func WithNeither(w http.ResponseWriter) http.ResponseWriter { return plain{w} }

// Wrapped returns a handler that wraps the ResponseWriter and then calls h.
func Wrapped(h http.Handler, wrap func(w http.ResponseWriter) http.ResponseWriter) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Wrapped", "yes")
		h.ServeHTTP(wrap(w), r)
	})
}

// UpgradeRequest returns a valid handshake of a WebSocket client.
func UpgradeRequest() *http.Request {
	r := httptest.NewRequest("GET", "/ws", nil)
	r.Header.Set("Connection", "Upgrade")
	r.Header.Set("Upgrade", "websocket")
	r.Header.Set("Sec-WebSocket-Version", "13")
	r.Header.Set("Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA==")
	return r
}
