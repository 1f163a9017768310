package livetest

import (
	"bufio"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
)

// The wrappers of a ResponseWriter that are found in programs, by what they let through.
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

// WithUnwrap wraps a ResponseWriter in one with Unwrap.
func WithUnwrap(w http.ResponseWriter) http.ResponseWriter { return unwraps{plain{w}} }

// WithHijack wraps a ResponseWriter in one with Hijack, and no Unwrap.
func WithHijack(w http.ResponseWriter) http.ResponseWriter { return hijacks{plain{w}} }

// WithFailingHijack wraps a ResponseWriter in one whose Hijack fails.
func WithFailingHijack(w http.ResponseWriter) http.ResponseWriter { return fails{plain{w}} }

// WithFailingHijackAndUnwrap wraps a ResponseWriter in one whose Hijack fails, and that has
// Unwrap.
func WithFailingHijackAndUnwrap(w http.ResponseWriter) http.ResponseWriter {
	return both{unwraps{plain{w}}}
}

// WithNeither wraps a ResponseWriter in one with neither.
func WithNeither(w http.ResponseWriter) http.ResponseWriter { return plain{w} }

// Wrapped returns a handler behind one that wraps its ResponseWriter.
func Wrapped(h http.Handler, wrap func(w http.ResponseWriter) http.ResponseWriter) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Wrapped", "yes")
		h.ServeHTTP(wrap(w), r)
	})
}

// UpgradeRequest returns a valid request of a WebSocket client.
func UpgradeRequest() *http.Request {
	r := httptest.NewRequest("GET", "/ws", nil)
	r.Header.Set("Connection", "Upgrade")
	r.Header.Set("Upgrade", "websocket")
	r.Header.Set("Sec-WebSocket-Version", "13")
	r.Header.Set("Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA==")
	return r
}
