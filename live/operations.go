package live

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/livetopic/livetopic/live/broker"
	"github.com/livetopic/livetopic/live/internal/frame"
	"github.com/livetopic/livetopic/live/internal/jsonscan"
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

// publishTimeout is how long a client's publication may take. A cluster elects another leader
// in four to nine seconds, and a broker tries for ten (natsbroker.Options.PublishTimeout): it
// should be the broker that gives up, because it knows why. While a client waits, its later
// operations wait too. Other sessions do not, and pings of this one are answered: only the one
// goroutine that carries out its operations waits, and it ends with the session.
const publishTimeout = 12 * time.Second

// maxID is the greatest whole number that JavaScript can count to.
const maxID = 1<<53 - 1

// parseOperation reads an operation from a valid object. Its members' names are matched
// exactly, and one that is null is as if it were not there; data may be null. ok is
// false if a member is of the wrong kind; id is there if it could be had. isOp is false
// for a plain message.
func parseOperation(raw []byte) (op operation, isOp, ok bool) {
	var kind, id, topic, since, last, limit []byte
	jsonscan.Members(raw, func(name, value []byte) bool {
		switch string(name) {
		case "op":
			kind = value
		case "id":
			id = value
		case "topic":
			topic = value
		case "data":
			op.data = value
		case "since":
			since = value
		case "last":
			last = value
		case "limit":
			limit = value
		}
		return true
	})
	if !present(kind) {
		return op, false, true
	}
	ok = true
	readText := func(value []byte, into *string) {
		if present(value) && !readString(value, into) {
			ok = false
		}
	}
	readNumber := func(value []byte, into *int) {
		if !present(value) {
			return
		}
		n, err := strconv.ParseUint(string(value[:min(len(value), maxDigits)]), 10, 64)
		if err != nil || n > maxID {
			ok = false
			return
		}
		*into = int(min(n, math.MaxInt32))
	}
	if present(id) {
		n, err := strconv.ParseUint(string(id[:min(len(id), maxDigits)]), 10, 64)
		if err != nil || n == 0 || n > maxID {
			ok = false
		} else {
			op.id = n
		}
	}
	readText(kind, &op.op)
	op.hasTopic = present(topic)
	readText(topic, &op.topic)
	readText(since, &op.since)
	readNumber(last, &op.last)
	readNumber(limit, &op.limit)
	return op, true, ok
}

// maxDigits is one more than a whole number up to maxID can have.
const maxDigits = 17

var (
	errBadRequest  = &ClientError{"bad_request", "a member is missing or of the wrong kind"}
	errUnknownOp   = &ClientError{"unknown_op", "there is no such operation"}
	errForbidden   = &ClientError{"forbidden", "not allowed"}
	errUnavailable = &ClientError{"unavailable", "try again later"}
	errFailed      = &ClientError{"internal", "internal error"}
)

// receiveV1 carries out what one frame of a live.v1 client asks for. What it may hold is
// counted before any of it is read.
func (s *Session) receiveV1(raw []byte) {
	if !jsonscan.Valid(raw) {
		if !utf8.Valid(raw) {
			s.end(notUTF8)
			return
		}
		s.refuseFrame(errNotJSON)
		return
	}
	switch jsonscan.Kind(raw) {
	case '{':
		s.operate(raw)
	case '[':
		if err := checkOperations(raw); err != nil {
			s.refuseFrame(err)
			return
		}
		first := true
		jsonscan.Elements(raw, func(one []byte) bool {
			if !first {
				s.throttle() // each operation counts, and one was counted for the frame
			}
			first = false
			s.operate(one)
			return s.ctx.Err() == nil
		})
	default:
		s.refuseFrame(errNotObject)
	}
}

// refuseFrame ends the session of a client that does not speak live.v1.
func (s *Session) refuseFrame(err error) {
	s.server.counters.malformed.Add(1)
	s.end(closing{code: CloseProtocol, reason: "not a frame of live.v1", err: fmt.Errorf("live: the client broke the protocol: %w (close code %d)", err, CloseProtocol)})
}

var errManyOperations = fmt.Errorf("more than %d operations in a frame", maxOperations)

// checkOperations checks that a valid array has objects only, and not too many.
func checkOperations(raw []byte) error {
	n, objects := 0, true
	jsonscan.Elements(raw, func(one []byte) bool {
		n++
		objects = one[0] == '{'
		return objects && n <= maxOperations
	})
	switch {
	case !objects:
		return errNotObject
	case n > maxOperations:
		return errManyOperations
	}
	return nil
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
		s.fail(op.id, op.topic, errBadRequest)
		return
	case op.op == "pong":
		return // every frame proves that the client lives
	case op.op == "ping": // a longer one than the reader knows
		s.out.Answer(pongFrame)
		return
	}
	op.data = bytes.Clone(op.data) // the application may keep it
	var reply answer
	var err error
	s.call(callbackOf[op.op], func() {
		if !s.IsClosed() {
			reply, err = s.carryOut(&op)
		}
	})
	// What waits for the client does so outside the callback.
	switch {
	case err != nil:
		s.fail(op.id, op.topic, s.clientError(err))
	case reply != nil:
		reply()
	}
}

// answer sends what an operation is answered with, and waits while the queue is full.
// nil: it has been sent.
type answer func()

// callbackOf names what an operation calls, for the log.
var callbackOf = map[string]string{
	"subscribe": "OnSubscribe", "history": "OnSubscribe", "publish": "OnPublish", "request": "OnRequest",
}

func (s *Session) carryOut(op *operation) (answer, error) {
	var do func(*operation) (answer, error)
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
		return nil, errUnknownOp
	}
	if !op.hasTopic {
		return nil, errBadRequest
	}
	return do(op)
}

func (s *Session) opUnsubscribe(op *operation) (answer, error) {
	if err := s.server.Unsubscribe(s, op.topic); err != nil {
		return nil, err
	}
	return func() { s.reply(op.id, "") }, nil
}

func (s *Session) opSubscribe(op *operation) (answer, error) {
	since, err := ParsePosition(op.since)
	if err != nil {
		return nil, errBadRequest
	}
	if err := s.mayRead(op.topic); err != nil {
		return nil, err
	}
	asked := op.since != ""
	o := subscribing{since: since, resume: asked, last: min(op.last, maxNewest), pays: true}
	if op.id != 0 {
		o.reply = func(at Position, recovered bool, messages []byte) *frame.Frame {
			return s.subscribeReply(op.id, at, asked, recovered, messages, asked && recovered || o.last > 0)
		}
	}
	c, err := s.server.subscribe(s.ctx, s, op.topic, o)
	if err != nil || c == nil {
		return nil, err
	}
	return func() { // answers come in order
		if s.await(c.replied) == nil && !c.answered.Load() {
			s.reply(op.id, "") // the application has ended the subscription meanwhile
		}
	}, nil
}

// subscribeReply is the answer to a subscription, with the first of what was missed.
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

// mayRead asks the application whether the client may have a topic.
func (s *Session) mayRead(topic string) error {
	if err := s.server.checkTopic(topic); err != nil {
		return err
	}
	ask := s.server.opts.OnSubscribe
	if ask == nil {
		s.server.logOnce("live: a client asked to subscribe to a topic, or for its history; Options.OnSubscribe is nil, so all are refused")
		return errForbidden
	}
	return forbidden(ask(s.ctx, s, topic))
}

func (s *Session) opPublish(op *operation) (answer, error) {
	if err := s.server.checkTopic(op.topic); err != nil {
		return nil, err
	}
	ask := s.server.opts.OnPublish
	if ask == nil {
		s.server.logOnce("live: a client asked to publish; Options.OnPublish is nil, so all are refused")
		return nil, errForbidden
	}
	if err := forbidden(ask(s.ctx, s, op.topic, op.data)); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(s.ctx, publishTimeout)
	defer cancel()
	at, err := s.server.publish(ctx, op.topic, op.data)
	if err != nil {
		return nil, err
	}
	members := ""
	if at.Offset != 0 {
		members = `,"at":"` + at.String() + `"`
	}
	return func() { s.reply(op.id, members) }, nil
}

func (s *Session) opRequest(op *operation) (answer, error) {
	ask := s.server.opts.OnRequest
	if ask == nil {
		s.server.logOnce("live: a client sent a request; Options.OnRequest is nil, so all are refused")
		return nil, errForbidden
	}
	result, err := ask(s.ctx, s, op.topic, op.data)
	if err != nil {
		return nil, failedInApp{err}
	}
	if result == nil {
		return func() { s.reply(op.id, "") }, nil
	}
	data, err := json.Marshal(result)
	if err == nil {
		err = broker.CheckData(data)
	}
	if err != nil {
		return nil, failedInApp{fmt.Errorf("live: OnRequest returned a value that is not valid JSON: %w", err)}
	}
	return func() { s.replyWithData(op.id, data) }, nil
}

// replyWithData answers with data, in pieces of its text if it is long: pings and other
// topics go on between them.
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
		n := min(size, len(data))
		for n < len(data) && !utf8.RuneStart(data[n]) {
			n--
		}
		head := fmt.Appendf(nil, `{"op":"part","id":%d,"text":`, id)
		if n == len(data) {
			head = append(replyHead(id), `,"text":`...)
		}
		f := s.textFrame(append(jsonscan.AppendQuoted(head, data[:n]), '}'))
		if s.awaitRoom() != nil || s.put(f) != nil {
			return
		}
		data = data[n:]
	}
}

// awaitRoom waits until the client has taken half of what waits for it: what is large is
// made then, and not before.
func (s *Session) awaitRoom() error {
	for {
		room := s.out.Roomy()
		if room == nil {
			return s.ctx.Err()
		}
		if err := s.await(room); err != nil {
			return err
		}
	}
}

func (s *Session) opHistory(op *operation) (answer, error) {
	if op.limit <= 0 {
		return nil, errBadRequest
	}
	if err := s.mayRead(op.topic); err != nil {
		return nil, err
	}
	limit := op.limit
	if op.id == 0 { // nobody would have the answer, so nothing is read for it
		limit = 0
	}
	h, err := s.server.openHistory(s.ctx, s, op.topic, limit)
	if err != nil || op.id == 0 {
		return nil, err
	}
	return func() { s.replyWithHistory(op.id, h) }, nil
}

// replyWithHistory answers with a history, in as many replies as it takes.
func (s *Session) replyWithHistory(id uint64, h *historyReader) {
	for {
		if s.awaitRoom() != nil {
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
		switch {
		case errors.As(app.error, &told):
			return told
		case isPassing(app.error):
			return errUnavailable
		}
		return errForbidden
	case failedInApp:
		switch {
		case errors.As(app.error, &told):
			return told
		case isPassing(app.error):
			return errUnavailable
		}
		s.server.logOfClient(slog.LevelWarn, "live: request failed", "session", s.id, "err", app.error)
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
	case errors.Is(err, ErrTooLarge):
		return &ClientError{"too_big", "the publication is too large"}
	case errors.Is(err, ErrSessionClosed), s.ctx.Err() != nil:
		return errUnavailable // nobody will read it
	}
	s.server.logOfClient(slog.LevelWarn, "live: operation failed", "session", s.id, "err", err)
	if isPassing(err) {
		return errUnavailable
	}
	return errFailed
}

// isPassing reports whether the same may succeed a little later: who could not decide in time
// has not said no.
func isPassing(err error) bool {
	for _, passing := range []error{ErrUnavailable, ErrServerClosed, context.DeadlineExceeded, context.Canceled} {
		if errors.Is(err, passing) {
			return true
		}
	}
	return false
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

// textFrame is a frame for this session alone, whose payload is the given parts, joined.
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

// Frames that the server sends of itself.

var (
	pingFrame = frame.Text([]byte(ping))
	pongFrame = frame.Text([]byte(`{"op":"pong"}`))
)

// ping is what either side sends to hear whether the other lives.
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

// gapFrame tells that publications of a topic were lost; at may be "".
func gapFrame(topic, at string) *frame.Frame {
	name, _ := json.Marshal(topic)
	b := fmt.Appendf(nil, `{"op":"gap","topic":%s`, name)
	if at != "" {
		b = fmt.Appendf(b, `,"at":"%s"`, at)
	}
	return frame.Text(append(b, '}'))
}
