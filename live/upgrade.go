package live

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"net/http"

	"github.com/livetopic/livetopic/live/internal/outbox"
)

// controlBuffer holds the longest control frame, 2 + 125 bytes, whole:
// coder/websocket then hands it over in one Write.
const controlBuffer = 128

// upgrader is the ResponseWriter that coder/websocket gets. It answers the
// handshake through the program's own, so that middlewares see the 101 and may
// add headers to it, as a cookie session does; and its Hijack returns our
// connection with small buffers instead of net/http's two of 4 KB.
type upgrader struct {
	http.ResponseWriter
	writers *outbox.Writers
	failed  func(error)
	conn    *outbox.Conn // after Hijack

	// Set when the connection was taken over before the answer.
	early net.Conn
	brw   *bufio.ReadWriter
}

// newUpgrader returns the writer for coder/websocket, which sends 101 before it
// takes the connection over. That is safe if net/http's own writer is known to
// be below. Else the connection is taken over first, and the answer written to
// it, so that a client never gets a 101 that is not meant. Middlewares then do not
// see the 101, and what they would have added to it, as a cookie session its
// cookie, is lost: the price of a wrapper with a Hijack method and no Unwrap.
func newUpgrader(w http.ResponseWriter, writers *outbox.Writers, failed func(error)) (*upgrader, error) {
	u := &upgrader{ResponseWriter: w, writers: writers, failed: failed}
	if isNetHTTP(innermost(w)) {
		return u, nil
	}
	var err error
	u.early, u.brw, err = http.NewResponseController(w).Hijack()
	return u, err
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

// Unwrap lets http.ResponseController look through.
func (u *upgrader) Unwrap() http.ResponseWriter { return u.ResponseWriter }

// WriteHeader sends the answer's head.
func (u *upgrader) WriteHeader(status int) {
	if u.early == nil {
		u.ResponseWriter.WriteHeader(status)
		return
	}
	var head bytes.Buffer
	fmt.Fprintf(&head, "HTTP/1.1 %d %s\r\n", status, http.StatusText(status))
	u.Header().Write(&head)
	head.WriteString("\r\n")
	u.early.Write(head.Bytes()) // an error shows when the session reads
}

// WriteHeaderNow is for gin, whose writer holds the head back until then.
func (u *upgrader) WriteHeaderNow() {
	if w, ok := u.ResponseWriter.(interface{ WriteHeaderNow() }); ok && u.early == nil {
		w.WriteHeaderNow()
	}
}

// Hijack takes the connection over.
func (u *upgrader) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, brw, err := u.takeOver()
	if err != nil {
		return nil, nil, err
	}
	var early []byte
	if n := brw.Reader.Buffered(); n > 0 {
		peeked, _ := brw.Reader.Peek(n)
		early = bytes.Clone(peeked)
	}
	u.conn = outbox.NewConn(u.writers, conn, early, u.failed)
	return u.conn, bufio.NewReadWriter(
		u.conn.Reader(),
		bufio.NewWriterSize(u.conn, controlBuffer),
	), nil
}

// abandon closes a connection that was taken over for a handshake that failed.
func (u *upgrader) abandon() {
	if u.early != nil {
		u.early.Close()
	}
}

func (u *upgrader) takeOver() (net.Conn, *bufio.ReadWriter, error) {
	if u.early != nil {
		return u.early, u.brw, nil
	}
	conn, brw, err := http.NewResponseController(u.ResponseWriter).Hijack()
	if err != nil {
		// A wrapper said no, after the 101. The one below does not.
		return innermost(u.ResponseWriter).(http.Hijacker).Hijack()
	}
	return conn, brw, nil
}
