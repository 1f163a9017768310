package live

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/livetopic/livetopic/live/internal/frame"
	"github.com/livetopic/livetopic/live/internal/jsonscan"
	"github.com/livetopic/livetopic/live/internal/outbox"
)

// The operations of the subprotocol live.v1, which docs/protocol.md describes.

// subprotocol is what a client offers to use operations.
const subprotocol = "live.v1"

// wire is how a client is spoken to.
type wire uint8

const (
	wirePlain wire = iota
	wireV1
	wires // how many there are
)

// maxOperations bounds the operations of one frame: more topics than that no page
// has, and it bounds how long other work of the session waits.
const maxOperations = 1000

// operation is what a client asks for. Which members count depends on op.
type operation struct {
	Op    *string         `json:"op"`
	ID    uint64          `json:"id"`
	Topic string          `json:"topic"`
	Data  json.RawMessage `json:"data"`
	Since string          `json:"since"`
	Last  int             `json:"last"`
	Limit int             `json:"limit"`
}

var (
	errBadRequest  = &ClientError{"bad_request", "a member is missing or of the wrong kind"}
	errUnknownOp   = &ClientError{"unknown_op", "there is no such operation"}
	errForbidden   = &ClientError{"forbidden", "not allowed"}
	errUnavailable = &ClientError{"unavailable", "try again later"}
	errFailed      = &ClientError{"internal", "internal error"}
)

// receiveV1 carries out what one frame of a live.v1 client asks for.
func (s *Session) receiveV1(raw []byte) {
	frames, ok := splitOperations(raw)
	if !ok {
		s.server.counters.malformed.Add(1)
		s.end(closing{code: CloseProtocol, reason: "not a frame of live.v1", err: errNotObject})
		return
	}
	for _, raw := range frames {
		s.operate(raw)
	}
}

// splitOperations returns the objects of a frame: one, or those of an array.
func splitOperations(raw []byte) ([]json.RawMessage, bool) {
	if !jsonscan.Valid(raw) {
		return nil, false
	}
	raw = bytes.TrimSpace(raw)
	if raw[0] == '{' {
		return []json.RawMessage{raw}, true
	}
	var all []json.RawMessage
	if raw[0] != '[' || json.Unmarshal(raw, &all) != nil || len(all) > maxOperations {
		return nil, false
	}
	for _, one := range all {
		if one[0] != '{' {
			return nil, false
		}
	}
	return all, true
}

// operate carries out one operation, or takes one plain message.
func (s *Session) operate(raw []byte) {
	var op operation
	if err := json.Unmarshal(raw, &op); err != nil {
		var id struct {
			ID uint64 `json:"id"`
		}
		_ = json.Unmarshal(raw, &id) // what can be had of it
		s.server.counters.malformed.Add(1)
		s.fail(id.ID, errBadRequest)
		return
	}
	if op.Op == nil {
		s.receivePlain(raw)
		return
	}
	if *op.Op == "pong" {
		return // every frame proves that the client lives
	}
	s.call(*op.Op, func() {
		if s.IsClosed() {
			return
		}
		if err := s.carryOut(&op); err != nil {
			s.fail(op.ID, s.clientError(err))
		}
	})
}

func (s *Session) carryOut(op *operation) error {
	switch *op.Op {
	case "subscribe":
		return s.opSubscribe(op)
	case "unsubscribe":
		if err := s.server.Unsubscribe(s, op.Topic); err != nil {
			return err
		}
		s.reply(op.ID, "")
	case "publish":
		return s.opPublish(op)
	case "request":
		return s.opRequest(op)
	case "history":
		return s.opHistory(op)
	default:
		return errUnknownOp
	}
	return nil
}

func (s *Session) opSubscribe(op *operation) error {
	since, err := ParsePosition(op.Since)
	if err != nil || op.Last < 0 {
		return errBadRequest
	}
	if err := s.mayRead(op.Topic); err != nil {
		return err
	}
	asked := op.Since != ""
	o := subscribing{since: since, resume: asked, last: min(op.Last, maxRecovered)}
	o.answer = func(out outcome) {
		var b []byte
		if at := out.at.String(); at != "" {
			b = fmt.Appendf(b, `,"at":"%s"`, at)
		}
		if asked {
			b = fmt.Appendf(b, `,"recovered":%t`, out.recovered)
		}
		if asked && out.recovered || o.last > 0 && !asked {
			b = appendMessages(b, out.missed)
		}
		s.reply(op.ID, string(b))
	}
	return s.server.subscribe(s.ctx, s, op.Topic, o)
}

// mayRead asks the application whether the client may have a topic.
func (s *Session) mayRead(topic string) error {
	if err := s.server.checkTopic(topic); err != nil {
		return err
	}
	ask := s.server.opts.OnSubscribe
	if ask == nil {
		return errForbidden
	}
	return forbidden(ask(s.ctx, s, topic))
}

func (s *Session) opPublish(op *operation) error {
	if err := s.server.checkTopic(op.Topic); err != nil {
		return err
	}
	ask := s.server.opts.OnPublish
	if ask == nil {
		return errForbidden
	}
	if err := forbidden(ask(s.ctx, s, op.Topic, op.Data)); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(s.ctx, brokerTimeout)
	defer cancel()
	at, err := s.server.publish(ctx, op.Topic, op.Data)
	if err != nil {
		return err
	}
	if at.Offset == 0 {
		s.reply(op.ID, "")
	} else {
		s.reply(op.ID, `,"at":"`+at.String()+`"`)
	}
	return nil
}

func (s *Session) opRequest(op *operation) error {
	ask := s.server.opts.OnRequest
	if ask == nil {
		return errForbidden
	}
	answer, err := ask(s.ctx, s, op.Topic, op.Data)
	if err != nil {
		return err
	}
	if answer == nil {
		s.reply(op.ID, "")
		return nil
	}
	data, err := json.Marshal(answer)
	if err == nil {
		err = checkData(data)
	}
	if err != nil {
		return fmt.Errorf("live: OnRequest returned what is no JSON: %w", err)
	}
	s.reply(op.ID, `,"data":`+string(data))
	return nil
}

func (s *Session) opHistory(op *operation) error {
	if op.Limit <= 0 {
		return errBadRequest
	}
	if err := s.mayRead(op.Topic); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(s.ctx, brokerTimeout)
	defer cancel()
	publications, err := s.server.history(ctx, op.Topic, op.Limit)
	if err != nil {
		return err
	}
	s.reply(op.ID, string(appendMessages(nil, publications)))
	return nil
}

// refusedByApp marks an error with which the application said no.
type refusedByApp struct{ error }

func forbidden(err error) error {
	if err == nil {
		return nil
	}
	return refusedByApp{err}
}

// clientError returns what a client is told of an error.
func (s *Session) clientError(err error) *ClientError {
	var told *ClientError
	if r, ok := err.(refusedByApp); ok {
		if errors.As(r.error, &told) {
			return told
		}
		return errForbidden
	}
	switch {
	case errors.As(err, &told):
		return told
	case errors.Is(err, ErrInvalidTopic):
		return &ClientError{"invalid_topic", "the topic is empty or too long"}
	case errors.Is(err, ErrTooManyTopics):
		return &ClientError{"too_many_topics", "too many topics"}
	case errors.Is(err, ErrNoHistory):
		return &ClientError{"no_history", "the topic keeps no history"}
	case errors.Is(err, ErrInvalidData):
		return errBadRequest
	case errors.Is(err, ErrSessionClosed), errors.Is(err, context.Canceled):
		return errUnavailable // nobody will read it
	}
	s.server.opts.Logger.Warn("live: operation failed", "session", s.id, "err", err)
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrServerClosed) {
		return errUnavailable
	}
	return errFailed
}

// reply answers an operation. members are further members of the object, each with
// a comma before it.
func (s *Session) reply(id uint64, members string) {
	if id != 0 {
		s.answer(frame.Text([]byte(`{"op":"reply","id":`+strconv.FormatUint(id, 10)+members), []byte("}")))
	}
}

func (s *Session) fail(id uint64, err *ClientError) {
	b := []byte(`{"op":"error"`)
	if id != 0 {
		b = fmt.Appendf(b, `,"id":%d`, id)
	}
	code, _ := json.Marshal(err.Code)
	message, _ := json.Marshal(err.Message)
	s.answer(frame.Text(fmt.Appendf(b, `,"code":%s,"message":%s}`, code, message)))
}

func (s *Session) answer(f *frame.Frame) {
	if s.compressed {
		f.Deflate()
	}
	var ready outbox.List
	if s.conn.Add(f, &ready) == outbox.ErrFull {
		s.queueFull()
	}
	s.server.writers.Write(&ready)
}

func appendMessages(b []byte, publications []*Publication) []byte {
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

// Frames that the server sends of itself.

var pingFrame = frame.Text([]byte(`{"op":"ping"}`))

func helloFrame(s *Session) *frame.Frame {
	ping := max(s.server.opts.PingInterval, 0).Milliseconds()
	id, _ := json.Marshal(s.id)
	return frame.Text(fmt.Appendf(nil, `{"op":"hello","version":1,"session":%s,"ping":%d}`, id, ping))
}

func drainFrame(within int64) *frame.Frame {
	return frame.Text(fmt.Appendf(nil, `{"op":"drain","within":%d}`, within))
}

// gapFrame tells that publications of a topic were lost; at may be "".
func gapFrame(topic, at string) *frame.Frame {
	name, _ := json.Marshal(topic)
	b := fmt.Appendf(nil, `{"op":"gap","topic":%s`, name)
	if at != "" {
		b = fmt.Appendf(b, `,"at":"%s"`, at)
	}
	return frame.Text(append(b, '}'))
}
