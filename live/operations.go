package live

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

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
	op       string
	id       uint64 // 0: none
	topic    string
	hasTopic bool
	data     json.RawMessage
	since    string
	last     int
	limit    int
}

// maxID is the greatest whole number that JavaScript can count to.
const maxID = 1<<53 - 1

// parseOperation reads an operation. Its members' names are matched exactly, which
// encoding/json would not do for a struct. ok is false if a member is of the wrong
// kind; id is there if it could be had. isOp is false for a plain message.
func parseOperation(raw []byte) (op operation, isOp, ok bool) {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(raw, &members); err != nil {
		return op, true, false
	}
	if _, isOp = members["op"]; !isOp {
		return op, false, true
	}
	ok = true
	read := func(name string, into any) (there bool) {
		value, there := members[name]
		if there && (string(value) == "null" || json.Unmarshal(value, into) != nil) {
			ok = false
		}
		return there
	}
	if read("id", &op.id) && (op.id == 0 || op.id > maxID) {
		op.id, ok = 0, false
	}
	read("op", &op.op)
	op.hasTopic = read("topic", &op.topic)
	read("since", &op.since)
	read("last", &op.last)
	read("limit", &op.limit)
	op.data = members["data"]
	return op, true, ok && op.last >= 0
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
	for i, raw := range frames {
		if i > 0 {
			s.throttle() // each operation counts, and one was counted for the frame
		}
		s.awaitRoom()
		s.operate(raw)
	}
}

// awaitRoom waits until the client has taken half of what waits for it. Answers count
// for no bound, since the client asked for them; one that asks and does not read
// is not heard further.
func (s *Session) awaitRoom() {
	for s.ctx.Err() == nil {
		frames, bytes := s.conn.Queued()
		if frames <= s.server.opts.QueueSize/2 && bytes <= s.server.opts.QueueBytes/2 {
			return
		}
		sleep(s.ctx, roomGrain)
	}
}

// roomGrain is the time between two looks at a full queue: a tenth of what a phone
// takes to answer.
const roomGrain = 5 * time.Millisecond

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
	op, isOp, ok := parseOperation(raw)
	switch {
	case !isOp:
		s.receivePlain(raw)
		return
	case !ok:
		s.server.counters.malformed.Add(1)
		s.fail(op.id, errBadRequest)
		return
	case op.op == "pong":
		return // every frame proves that the client lives
	}
	s.call(callbackOf[op.op], func() {
		if s.IsClosed() {
			return
		}
		if err := s.carryOut(&op); err != nil {
			s.fail(op.id, s.clientError(err))
		}
	})
}

// callbackOf names what an operation calls, for the log.
var callbackOf = map[string]string{
	"subscribe": "OnSubscribe", "history": "OnSubscribe", "publish": "OnPublish", "request": "OnRequest",
}

func (s *Session) carryOut(op *operation) error {
	var do func(*operation) error
	switch op.op {
	case "subscribe":
		do = s.opSubscribe
	case "unsubscribe":
		do = s.opUnsubscribe
	case "publish":
		do = s.opPublish
	case "request":
		do = s.opRequest
	case "history":
		do = s.opHistory
	default:
		return errUnknownOp
	}
	if !op.hasTopic {
		return errBadRequest
	}
	return do(op)
}

func (s *Session) opUnsubscribe(op *operation) error {
	if err := s.server.Unsubscribe(s, op.topic); err != nil {
		return err
	}
	s.reply(op.id, "")
	return nil
}

func (s *Session) opSubscribe(op *operation) error {
	since, err := ParsePosition(op.since)
	if err != nil {
		return errBadRequest
	}
	if err := s.mayRead(op.topic); err != nil {
		return err
	}
	asked := op.since != ""
	o := subscribing{since: since, resume: asked, last: min(op.last, maxRecovered)}
	o.answer = func(out outcome) {
		var b []byte
		if at := out.at.String(); at != "" {
			b = fmt.Appendf(b, `,"at":"%s"`, at)
		}
		if asked {
			b = fmt.Appendf(b, `,"recovered":%t`, out.recovered)
		}
		if out.recovered || o.last > 0 {
			b = appendMessages(b, out.missed)
		}
		s.reply(op.id, string(b))
	}
	return s.server.subscribe(s.ctx, s, op.topic, o)
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
	if err := s.server.checkTopic(op.topic); err != nil {
		return err
	}
	ask := s.server.opts.OnPublish
	if ask == nil {
		return errForbidden
	}
	if err := forbidden(ask(s.ctx, s, op.topic, op.data)); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(s.ctx, brokerTimeout)
	defer cancel()
	at, err := s.server.publish(ctx, op.topic, op.data)
	if err != nil {
		return err
	}
	if at.Offset == 0 {
		s.reply(op.id, "")
	} else {
		s.reply(op.id, `,"at":"`+at.String()+`"`)
	}
	return nil
}

func (s *Session) opRequest(op *operation) error {
	ask := s.server.opts.OnRequest
	if ask == nil {
		return errForbidden
	}
	answer, err := ask(s.ctx, s, op.topic, op.data)
	if err != nil {
		return failedInApp{err}
	}
	if answer == nil {
		s.reply(op.id, "")
		return nil
	}
	data, err := json.Marshal(answer)
	if err == nil {
		err = CheckData(data)
	}
	if err != nil {
		return failedInApp{fmt.Errorf("live: OnRequest returned what is no JSON: %w", err)}
	}
	s.reply(op.id, `,"data":`+string(data))
	return nil
}

func (s *Session) opHistory(op *operation) error {
	if op.limit <= 0 {
		return errBadRequest
	}
	if err := s.mayRead(op.topic); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(s.ctx, brokerTimeout)
	defer cancel()
	publications, err := s.server.history(ctx, op.topic, op.limit)
	if err != nil {
		return err
	}
	s.reply(op.id, string(appendMessages(nil, publications)))
	return nil
}

// refusedByApp marks an error with which the application said no, failedInApp one
// with which it failed.
type (
	refusedByApp struct{ error }
	failedInApp  struct{ error }
)

func forbidden(err error) error {
	if err == nil {
		return nil
	}
	return refusedByApp{err}
}

// clientError returns what a client is told of an error.
func (s *Session) clientError(err error) *ClientError {
	var told *ClientError
	switch app := err.(type) {
	case refusedByApp:
		if errors.As(app.error, &told) {
			return told
		}
		return errForbidden
	case failedInApp:
		if errors.As(app.error, &told) {
			return told
		}
		if errors.Is(app.error, ErrUnavailable) {
			return errUnavailable
		}
		s.server.opts.Logger.Warn("live: request failed", "session", s.id, "err", app.error)
		return errFailed
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
	for _, passing := range []error{context.DeadlineExceeded, ErrUnavailable, ErrServerClosed} {
		if errors.Is(err, passing) {
			return errUnavailable
		}
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

// answer queues a frame that the client has asked for.
func (s *Session) answer(f *frame.Frame) {
	if s.compressed {
		f.Deflate()
	}
	f.Free = true
	var ready outbox.List
	s.conn.Add(f, &ready)
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
