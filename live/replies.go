package live

import (
	"encoding/json"
	"fmt"
	"strconv"
	"unicode/utf8"

	"github.com/livetopic/livetopic/live/broker"
	"github.com/livetopic/livetopic/live/internal/frame"
	"github.com/livetopic/livetopic/live/internal/jsonscan"
)

// subscribeReply returns the answer to a subscribe. messages are the first publications that the
// client missed. asked says that the client gave a position, and list that the answer has messages
// even if there are none.
func (s *Session) subscribeReply(id uint64, at Position, asked, recovered bool, messages []byte, list bool) *frame.Frame {
	b := replyHead(id)
	if at := at.String(); at != "" {
		b = fmt.Appendf(b, `,"at":"%s"`, at)
	}
	if asked {
		b = fmt.Appendf(b, `,"recovered":%t`, recovered)
	}
	if list && messages == nil {
		messages = appendMessages(nil, nil)
	}
	return s.textFrame(b, messages, []byte{'}'})
}

// replyWithData answers a request with data. Long data goes out in pieces of its text, and pings and
// other topics go on between them.
func (s *Session) replyWithData(id uint64, data []byte) {
	if id == 0 {
		return
	}
	if len(data) <= min(maxUncut, s.server.opts.QueueBytes/4) {
		s.reply(id, `,"data":`+string(data))
		return
	}
	_, size := s.partLimits()
	for len(data) > 0 {
		piece := firstPiece(data, size)
		data = data[len(piece):]
		f := s.pieceFrame(id, piece)
		if len(data) == 0 {
			f = s.textFrame(append(jsonscan.AppendQuoted(append(replyHead(id), `,"text":`...), piece), '}'))
		}
		if s.awaitHalfFree() != nil || s.put(f) != nil {
			return
		}
	}
}

// firstPiece returns the first bytes of a JSON text, which end between two characters.
func firstPiece(data []byte, size int) []byte {
	n := min(size, len(data))
	for n < len(data) && !utf8.RuneStart(data[n]) {
		n--
	}
	return data[:n]
}

// pieceFrame is a piece of an answer that is not the last.
func (s *Session) pieceFrame(id uint64, piece []byte) *frame.Frame {
	head := fmt.Appendf(nil, `{"op":"part","id":%d,"text":`, id)
	return s.textFrame(append(jsonscan.AppendQuoted(head, piece), '}'))
}

// stateFrame is a frame of the answer to a subscription that begins with the topic's state.
func (s *Session) stateFrame(id uint64, at Position, asked bool, text []byte, whole, last bool) *frame.Frame {
	if !last {
		return s.pieceFrame(id, text)
	}
	b := fmt.Appendf(replyHead(id), `,"at":"%s"`, at)
	if asked {
		b = append(b, `,"recovered":false`...)
	}
	if whole {
		return s.textFrame(b, []byte(`,"state":`), text, []byte{'}'})
	}
	return s.textFrame(append(jsonscan.AppendQuoted(append(b, `,"text":`...), text), '}'))
}

// awaitHalfFree waits until half of the client's queue is free. Only then is the next large part made.
func (s *Session) awaitHalfFree() error {
	for {
		room := s.out.HalfFree()
		if room == nil {
			return s.ctx.Err()
		}
		if err := s.await(room); err != nil {
			return err
		}
	}
}

// replyWithHistory answers with a history, in as many replies as are needed.
func (s *Session) replyWithHistory(id uint64, h *historyReader) {
	for {
		if s.awaitHalfFree() != nil {
			return
		}
		_, size := s.partLimits()
		part, more, err := h.next(s.ctx, size)
		if err != nil {
			s.fail(id, h.topic, s.clientError(err))
			return
		}
		if id == 0 {
			return
		}
		b := appendMessages(replyHead(id), part)
		if more {
			b = append(b, `,"more":true`...)
		}
		if s.put(s.textFrame(append(b, '}'))) != nil {
			return
		}
		s.payForAnswer(len(b))
		if !more {
			return
		}
	}
}

// reply answers an operation. members are further members of the object, each with
// a comma before it.
func (s *Session) reply(id uint64, members string) {
	if id != 0 {
		s.put(s.textFrame(append(append(replyHead(id), members...), '}')))
	}
}

func replyHead(id uint64) []byte {
	return strconv.AppendUint([]byte(`{"op":"reply","id":`), id, 10)
}

func (s *Session) fail(id uint64, topic string, err *ClientError) {
	b := []byte(`{"op":"error"`)
	if id != 0 {
		b = fmt.Appendf(b, `,"id":%d`, id)
	}
	if topic != "" && s.server.checkTopic(topic) == nil { // any other may be megabytes
		name, _ := json.Marshal(topic)
		b = append(append(b, `,"topic":`...), name...)
	}
	code, _ := json.Marshal(err.Code)
	message, _ := json.Marshal(err.Message)
	s.put(s.textFrame(fmt.Appendf(b, `,"code":%s,"message":%s}`, code, message)))
}

// textFrame returns a frame for this session alone. Its payload is the given parts, joined.
func (s *Session) textFrame(parts ...[]byte) *frame.Frame {
	f := frame.Text(parts...)
	if s.compressed {
		f.Deflate()
	}
	return f
}

func appendMessages(b []byte, publications []*broker.Publication) []byte {
	b = append(b, `,"messages":[`...)
	for i, p := range publications {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, '{')
		if len(p.Data) > 0 {
			b = append(append(append(b, `"data":`...), p.Data...), ',')
		}
		b = fmt.Appendf(b, `"at":"%s"}`, p.Position)
	}
	return append(b, ']')
}

var (
	pingFrame = frame.Text([]byte(ping))
	pongFrame = frame.Text([]byte(`{"op":"pong"}`))
)

// ping is sent by either side to find out whether the other lives.
const ping = `{"op":"ping"}`

func helloFrame(s *Session) *frame.Frame {
	o := &s.server.opts
	id, _ := json.Marshal(s.id)
	return frame.Text(fmt.Appendf(nil, `{"op":"hello","version":1,"session":%s,"ping":%d,"largest":%d}`,
		id, max(o.PingInterval, 0).Milliseconds(), o.ReadLimit))
}

func drainFrame(within int64) *frame.Frame {
	return frame.Text(fmt.Appendf(nil, `{"op":"drain","within":%d}`, within))
}

// gapFrame returns a frame that says that publications of a topic were lost. at may be "".
func gapFrame(topic, at string) *frame.Frame {
	name, _ := json.Marshal(topic)
	b := fmt.Appendf(nil, `{"op":"gap","topic":%s`, name)
	if at != "" {
		b = fmt.Appendf(b, `,"at":"%s"`, at)
	}
	return frame.Text(append(b, '}'))
}
