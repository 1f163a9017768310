package livetest

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"unicode/utf8"
)

// These are first bytes of frames: the opcode, with FIN where the name does not say otherwise.
const (
	BeginFrame  = 0x01 // a text that goes on, without FIN
	MoreFrame   = 0x00 // a continuation, without FIN
	LastFrame   = 0x80 // the last continuation
	TextFrame   = 0x81
	BinaryFrame = 0x82
	CloseFrame  = 0x88
	PingFrame   = 0x89
	PongFrame   = 0x8a
)

// Masked returns a client's frame.
func Masked[T string | []byte](first byte, payload T) []byte {
	b := head(first, 0x80, len(payload))
	key := [4]byte{0x5a, 0xc3, 0x96, 0x0f}
	b = append(b, key[:]...)
	from := len(b)
	b = append(b, payload...)
	for i := range b[from:] {
		b[from+i] ^= key[i%4]
	}
	return b
}

// Unmasked returns a server's frame.
func Unmasked(first byte, payload string) []byte {
	return append(head(first, 0, len(payload)), payload...)
}

// head returns the first bytes of a frame, up to the mask or the payload (RFC 6455, section 5.2).
func head(first, maskBit byte, n int) []byte {
	switch {
	case n <= 125:
		return []byte{first, maskBit | byte(n)}
	case n <= 0xffff:
		return binary.BigEndian.AppendUint16([]byte{first, maskBit | 126}, uint16(n))
	default:
		return binary.BigEndian.AppendUint64([]byte{first, maskBit | 127}, uint64(n))
	}
}

// Closing returns a client's close frame.
func Closing(code int, reason string) []byte {
	return Masked(CloseFrame, string(binary.BigEndian.AppendUint16(nil, uint16(code)))+reason)
}

// ReadRaw reads the next frame from a server, as it comes.
func ReadRaw(r io.Reader) (first byte, payload []byte, err error) {
	var b [10]byte
	if _, err := io.ReadFull(r, b[:2]); err != nil {
		return 0, nil, err
	}
	if b[1]&0x80 != 0 {
		return 0, nil, errors.New("the server has masked a frame")
	}
	n := uint64(b[1])
	switch n {
	case 126:
		_, err = io.ReadFull(r, b[2:4])
		n = uint64(binary.BigEndian.Uint16(b[2:]))
	case 127:
		_, err = io.ReadFull(r, b[2:10])
		n = binary.BigEndian.Uint64(b[2:])
	}
	if err != nil {
		return 0, nil, err
	}
	payload = make([]byte, n)
	_, err = io.ReadFull(r, payload)
	return b[0], payload, err
}

// Frame is a frame from the server. If it is a text frame, its fields have the members of the JSON
// object.
type Frame struct {
	First byte   `json:"-"`
	Raw   string `json:"-"` // the payload, as it came

	Op        string          `json:"op"`
	ID        int             `json:"id"`
	Topic     string          `json:"topic"`
	Key       string          `json:"key"`
	Data      json.RawMessage `json:"data"`
	Removed   bool            `json:"removed"`
	Keyed     bool            `json:"keyed"`
	State     json.RawMessage `json:"state"`
	At        string          `json:"at"`
	Recovered *bool           `json:"recovered"`
	Messages  []Past          `json:"messages"` // nil: there is no such member
	Text      *string         `json:"text"`
	More      bool            `json:"more"`
	Code      string          `json:"code"`
	Message   string          `json:"message"`
	Version   int             `json:"version"`
	Session   string          `json:"session"`
	Ping      int             `json:"ping"`
	Within    int             `json:"within"`
	Largest   int             `json:"largest"`

	// Of presence.
	Members   []Member `json:"members"` // nil: there is no such member
	Continued bool     `json:"continued"`
	Joined    []Member `json:"joined"`
	Changed   []Member `json:"changed"`
	Left      []string `json:"left"`
	Count     *int     `json:"count"`
	Member    string   `json:"member"`

	err error // why a text frame is none of the protocol
}

// Member is who is present in a topic.
type Member struct {
	ID       string            `json:"id"`
	Sessions []json.RawMessage `json:"sessions"`
}

// Past is a publication in a reply.
type Past struct {
	Key     string          `json:"key"`
	Data    json.RawMessage `json:"data"`
	Removed bool            `json:"removed"`
	At      string          `json:"at"`
}

func (f Frame) String() string { return fmt.Sprintf("%#x %.200q", f.First, f.Raw) }

// IsPublication reports whether a text frame is a publication, or a message of the server.
func (f Frame) IsPublication() bool { return f.Op == "" }

// WasRecovered reports whether a frame is marked as recovered.
func (f Frame) WasRecovered() bool { return f.Recovered != nil && *f.Recovered }

// CloseCode returns the code of a close frame, or 1005 if it has none. It returns 0 for other
// frames.
func (f Frame) CloseCode() int {
	switch {
	case f.First != CloseFrame:
		return 0
	case len(f.Raw) < 2:
		return 1005
	}
	return int(binary.BigEndian.Uint16([]byte(f.Raw)))
}

// ParseFrame reads a text frame. It returns an error if docs/protocol.md does not know a member,
// or does not allow it in this frame.
func ParseFrame(text string) (Frame, error) {
	f := Frame{First: TextFrame, Raw: text}
	if !utf8.ValidString(text) {
		return f, errors.New("it is no UTF-8")
	}
	d := json.NewDecoder(strings.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&f); err != nil {
		return f, err
	}
	if d.InputOffset() != int64(len(text)) {
		return f, errors.New("more follows the object")
	}
	return f, f.misuse()
}

// misuse returns an error if a member of the frame is not allowed in it.
func (f Frame) misuse() error {
	switch {
	case f.IsPublication() && f.Recovered != nil && !*f.Recovered:
		return errors.New(`a publication has "recovered":false`)
	case f.IsPublication() && f.Recovered != nil && f.At == "" && f.Key == "":
		return errors.New("a recovered publication has no position")
	case f.Removed && (f.Key == "" || f.Data != nil):
		return errors.New("a removal has a key, and no data")
	case f.Keyed && f.Op != "reply":
		return errors.New("keyed is for a reply")
	case f.More && (f.Op != "reply" || f.Messages == nil) && f.Members == nil:
		return errors.New("more is for a reply with messages, and for members")
	case f.Members != nil && (f.Op != "reply" && f.Op != "presence" || f.Count != nil):
		return errors.New("members are for a reply and for presence, without a count")
	case f.Joined != nil && len(f.Joined) == 0, f.Changed != nil && len(f.Changed) == 0, f.Left != nil && len(f.Left) == 0:
		return errors.New("a difference has an empty list")
	case f.Joined != nil || f.Changed != nil || f.Left != nil || f.Continued:
		if f.Op != "presence" || f.Members == nil == f.Continued {
			return errors.New("a difference and continued members are for presence")
		}
	case f.Op == "presence" && f.Members == nil && f.Count == nil:
		return errors.New("presence has members, a count or a difference")
	case f.Text != nil && f.Op != "part" && f.Op != "reply":
		return errors.New("text is for a part and a reply")
	case f.State != nil && (f.Op != "reply" || f.At == "" || f.Messages != nil):
		return errors.New("a state is for a reply with a position, and without messages")
	case f.Text != nil && (f.Data != nil || f.State != nil), f.Op == "part" && (f.Text == nil || f.ID == 0):
		return errors.New("a part has an id and text, and no data")
	}
	return nil
}

// A large answer comes in parts "of some tens of kilobytes". These are the sizes in bytes that
// tests demand of the server.
const (
	// MostOfPart bounds a frame with several publications, and a piece of text.
	MostOfPart = 40 << 10

	// MostInOne bounds the data of an answer that comes in one piece.
	MostInOne = 80 << 10

	// LeastOfPart is the least size of a part that is not the last. A smaller answer comes in one
	// frame.
	LeastOfPart = 8 << 10
)

// checkSize checks that an answer, or a part of an answer, is not too large for a frame.
func (f Frame) checkSize(t testing.TB) {
	t.Helper()
	size, most := len(f.Raw), MostOfPart
	switch {
	case f.Op != "reply" && f.Op != "part", len(f.Messages) == 1:
		return // a single publication may be of any size
	case f.Text != nil:
		size = len(*f.Text)
	case f.Messages == nil:
		most = MostInOne
	}
	if size > most {
		t.Errorf("%d bytes in one frame, want %d at most: %.100s", size, most, f.Raw)
	}
}

// CheckMore is for a part that is not the last. It checks that the part is large enough. A server may end a
// part after a quarter of its publications, and these may be shorter than the others.
func (f Frame) CheckMore(t testing.TB) {
	t.Helper()
	size := len(f.Raw)
	if f.Text != nil {
		size = len(*f.Text)
	}
	if size < LeastOfPart/2 {
		t.Errorf("more follows after %d bytes: %.100s", size, f.Raw)
	}
}

// AnswerParts joins the parts of an answer to a request or to a history.
type AnswerParts struct {
	id       int // of the answer that has begun; 0: none has
	texts    []string
	messages []Past
}

// Add takes the next frame, and reports whether the answer is complete. It puts the content of all
// parts into the last frame.
func (p *AnswerParts) Add(t testing.TB, f *Frame) bool {
	t.Helper()
	more := f.Op == "part" || f.More
	switch {
	case p.id == 0 && !more && f.Text == nil:
		return true // it is no part of anything
	case p.id != 0 && f.ID != p.id:
		t.Fatalf("between the parts of answer %d came %.200s", p.id, f.Raw)
	}
	if more {
		f.CheckMore(t)
	}
	p.id = f.ID
	if f.Text != nil {
		p.texts = append(p.texts, *f.Text)
	}
	p.messages = append(p.messages, f.Messages...)
	if !more {
		p.join(t, f)
	}
	return !more
}

// join puts the content of all parts into the last frame.
func (p *AnswerParts) join(t testing.TB, f *Frame) {
	t.Helper()
	switch {
	case f.Op == "error":
	case len(p.texts) > 0 && f.Text != nil && f.Messages == nil:
		whole := strings.Join(p.texts, "")
		if !json.Valid([]byte(whole)) {
			t.Fatalf("the texts of answer %d are no JSON: %.200s", f.ID, whole)
		}
		f.Text = nil
		if f.At != "" { // of a subscription
			f.State = json.RawMessage(whole)
		} else {
			f.Data = json.RawMessage(whole)
		}
	case len(p.texts) == 0 && f.Messages != nil:
		f.Messages = p.messages
	default:
		t.Fatalf("answer %d ends with %.200s", f.ID, f.Raw)
	}
}
