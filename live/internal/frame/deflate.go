package frame

import (
	"bytes"
	"compress/flate"
	"sync"
)

// deflateFrom is the size from which compressing is tried. Shorter JSON shrinks by a hundred
// bytes at best. That is not worth the time, neither the server's nor the client's.
const deflateFrom = 512

// finDeflatedText is finText with RSV1, which says that the message is compressed
// (RFC 7692, section 6).
const finDeflatedText = finText | 0x40

// A flate.Writer has over half a megabyte of tables. So sessions have none of their own: there
// are only as many as goroutines that compress at the same time.
var deflaters = sync.Pool{New: func() any {
	w, err := flate.NewWriter(nil, flate.BestSpeed)
	if err != nil {
		panic(err) // the level is right
	}
	return w
}}

// Deflate makes the compressed form of a text frame, if it is long enough and
// shrinks. It must be called before the frame is shared.
//
// The compressed form does not refer to messages that were sent before. So it serves every
// session, whatever each session has agreed to remember (RFC 7692, section 7.1.1).
func (f *Frame) Deflate() {
	if len(f.bytes) < deflateFrom || f.bytes[0] != finText {
		return
	}
	var out bytes.Buffer
	w := deflaters.Get().(*flate.Writer)
	defer deflaters.Put(w)
	w.Reset(&out)
	payload := f.bytes[headerLenOf(f.bytes):]
	if _, err := w.Write(payload); err != nil {
		return
	}
	if err := w.Flush(); err != nil {
		return
	}
	// These four bytes end every flush. The sender leaves them out (RFC 7692, section 7.2.1).
	short := bytes.TrimSuffix(out.Bytes(), []byte{0, 0, 0xff, 0xff})
	if len(short) >= len(payload) {
		return
	}
	b := appendHeader(make([]byte, 0, headerLen(len(short))+len(short)), finDeflatedText, len(short))
	f.deflated = append(b, short...)
}

func headerLenOf(frame []byte) int {
	switch frame[1] {
	case 126:
		return 4
	case 127:
		return 10
	}
	return 2
}
