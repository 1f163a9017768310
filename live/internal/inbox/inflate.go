package inbox

import (
	"compress/flate"
	"io"
	"sync"
)

// deflateTail ends a compressed message: the four bytes that its sender left out (RFC
// 7692, section 7.2.2), and an empty last block, so that the end can be told from a
// message that was cut.
var deflateTail = []byte("\x00\x00\xff\xff\x01\x00\x00\xff\xff")

// inflater decompresses messages. Its window is 32 KB, so there are as many as goroutines
// that decompress at one time, and not one for each session.
type inflater struct {
	flate io.ReadCloser
	src   source
}

// source is a message with its tail.
type source struct {
	data []byte
	tail []byte
}

func (s *source) ReadByte() (byte, error) {
	if len(s.data) == 0 {
		if len(s.tail) == 0 {
			return 0, io.EOF
		}
		s.data, s.tail = s.tail, nil
	}
	c := s.data[0]
	s.data = s.data[1:]
	return c, nil
}

func (s *source) Read(p []byte) (int, error) {
	if len(s.data) == 0 {
		if len(s.tail) == 0 {
			return 0, io.EOF
		}
		s.data, s.tail = s.tail, nil
	}
	n := copy(p, s.data)
	s.data = s.data[n:]
	return n, nil
}

var inflaters = sync.Pool{New: func() any {
	in := new(inflater)
	in.flate = flate.NewReader(&in.src)
	return in
}}

// Inflate decompresses a message that is Compressed. The error is a *ProtocolError: the
// message is not deflate, was cut, or is larger than limit.
func (m *Message) Inflate(limit int) error {
	in := inflaters.Get().(*inflater)
	defer inflaters.Put(in)
	in.src = source{m.Data, deflateTail}
	defer func() { in.src = source{} }()
	in.flate.(flate.Resetter).Reset(&in.src, nil)
	out, err := in.all(limit)
	if err != nil {
		return err
	}
	m.Data, m.Compressed = out, false
	return nil
}

const (
	// inflateStep is the first size of the output: small messages take no more.
	inflateStep = 1 << 10

	// maxLastBlocks is how many last blocks a message may have besides its end. Senders
	// have none or one; each costs a copy of the window.
	maxLastBlocks = 8
)

func (in *inflater) all(limit int) ([]byte, error) {
	out := make([]byte, 0, min(inflateStep, limit)+1)
	for lastBlocks := 0; ; {
		if len(out) == cap(out) {
			grown := make([]byte, len(out), min(2*len(out), limit)+1)
			copy(grown, out)
			out = grown
		}
		n, err := in.flate.Read(out[len(out):cap(out)])
		out = out[:len(out)+n]
		switch {
		case len(out) > limit:
			return nil, &ProtocolError{codeTooBig, "a message that is larger than ReadLimit"}
		case err == nil:
		case err != io.EOF:
			return nil, &ProtocolError{codeInvalid, "a message that is not deflate"}
		case len(in.src.data) == 0 && len(in.src.tail) == 0:
			return out, nil
		case lastBlocks == maxLastBlocks:
			return nil, &ProtocolError{codeInvalid, "a message that is not deflate"}
		default: // a last block in the middle, which is allowed (section 7.2.3.4)
			lastBlocks++
			in.flate.(flate.Resetter).Reset(&in.src, out[max(len(out)-32<<10, 0):])
		}
	}
}
