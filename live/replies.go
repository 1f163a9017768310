package live

import (
	"encoding/json"
	"fmt"
	"iter"
	"strconv"
	"unicode/utf8"

	"github.com/livetopic/livetopic/live/broker"
	"github.com/livetopic/livetopic/live/internal/frame"
	"github.com/livetopic/livetopic/live/internal/jsonscan"
)

// subscribeReply returns the answer to a subscribe. messages are the first publications that the
// client missed. asked says that the client gave a position, and list that the answer has messages
// even if there are none.
func (s *Session) subscribeReply(id uint64, at Position, asked, recovered, keyed bool, messages []byte, list bool) *frame.Frame {
	b := replyHead(id)
	if at := at.String(); at != "" {
		b = fmt.Appendf(b, `,"at":"%s"`, at)
	}
	if asked {
		b = fmt.Appendf(b, `,"recovered":%t`, recovered)
	}
	if keyed {
		b = append(b, `,"keyed":true`...)
	}
	if list && messages == nil {
		messages = appendMessages(nil, nil, false)
	}
	return s.textFrame(b, messages, []byte{'}'})
}

// replyWithData answers a request with data. Long data goes out in pieces of its text, and pings and
// other topics go on between them.
func (s *Session) replyWithData(id uint64, data []byte) {
	if id == 0 {
		return
	}
	if s.fitsInOneFrame(data) {
		s.reply(id, `,"data":`+string(data))
		return
	}
	for piece, last := range s.pieces(data) {
		head := partHead(id)
		if last {
			head = replyHead(id)
		}
		if s.awaitHalfFree() != nil || s.put(s.pieceFrame(head, piece)) != nil {
			return
		}
	}
}

// fitsInOneFrame reports whether an answer is so short that it is not cut.
func (s *Session) fitsInOneFrame(data []byte) bool {
	return len(data) <= min(maxUncut, s.server.opts.QueueBytes/4)
}

// pieces yields the pieces of a JSON text, and whether a piece is the last. Each ends between two
// characters.
func (s *Session) pieces(text []byte) iter.Seq2[[]byte, bool] {
	_, size := s.partLimits()
	return func(yield func([]byte, bool) bool) {
		for rest := text; len(rest) > 0; {
			n := min(size, len(rest))
			for n < len(rest) && !utf8.RuneStart(rest[n]) {
				n--
			}
			piece := rest[:n]
			rest = rest[n:]
			if !yield(piece, len(rest) == 0) {
				return
			}
		}
	}
}

// pieceFrame returns a frame with a piece of a long answer. head is the beginning of its object.
func (s *Session) pieceFrame(head, piece []byte) *frame.Frame {
	return s.textFrame(append(jsonscan.AppendQuoted(append(head, `,"text":`...), piece), '}'))
}

// partHead is the beginning of a frame with a piece that is not the last.
func partHead(id uint64) []byte { return fmt.Appendf(nil, `{"op":"part","id":%d`, id) }

// stateFrame is a frame of the answer to a subscription that begins with the topic's state.
func (s *Session) stateFrame(id uint64, at Position, asked bool, text []byte, whole, last bool) *frame.Frame {
	if !last {
		return s.pieceFrame(partHead(id), text)
	}
	b := fmt.Appendf(replyHead(id), `,"at":"%s"`, at)
	if asked {
		b = append(b, `,"recovered":false`...)
	}
	if whole {
		return s.textFrame(b, []byte(`,"state":`), text, []byte{'}'})
	}
	return s.pieceFrame(b, text)
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
		b := appendMessages(replyHead(id), part, true)
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
	if err.Code == errFailed.Code || err.Code == errUnavailable.Code {
		s.server.counters.opsFailed.Add(1)
	} else {
		s.server.counters.opsRefused.Add(1)
	}
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

// appendMessages appends the member "messages" of a reply. positions says whether each message has its
// position.
func appendMessages(b []byte, publications []*broker.Publication, positions bool) []byte {
	b = append(b, `,"messages":[`...)
	for i, p := range publications {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendMessage(b, p, positions)
	}
	return append(b, ']')
}

func appendMessage(b []byte, p *broker.Publication, position bool) []byte {
	start := len(b)
	if p.Key != "" {
		b = jsonscan.AppendQuoted(append(b, `,"key":`...), []byte(p.Key))
	}
	if len(p.Data) > 0 {
		b = append(append(b, `,"data":`...), p.Data...)
	}
	if p.Removed {
		b = append(b, `,"removed":true`...)
	}
	if position {
		b = fmt.Appendf(b, `,"at":"%s"`, p.Position)
	}
	if len(b) == start {
		return append(b, "{}"...)
	}
	b[start] = '{' // in the place of the first comma
	return append(b, '}')
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
