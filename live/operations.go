package live

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strconv"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/livetopic/livetopic/live/broker"
	"github.com/livetopic/livetopic/live/internal/frame"
	"github.com/livetopic/livetopic/live/internal/jsonscan"
)

// This file carries out the operations of the subprotocol live.v1, which docs/protocol.md describes.

// subprotocol is what a client offers to use operations.
const subprotocol = "live.v1"

// wire says which of the two protocols a client speaks.
type wire uint8

const (
	wirePlain wire = iota
	wireV1
	wires // how many there are
)

// maxOperations bounds the operations of one frame. No page has more topics than that, and other
// work of the session need not wait long.
const maxOperations = 1000

// operation is one operation of a client. It depends on op which of the members count.
type operation struct {
	op       string
	id       uint64 // 0: none
	topic    string
	hasTopic bool
	data     json.RawMessage
	since    string
	uid      string
	info     json.RawMessage // null or absent: nil
	unseen   bool
	last     int
	limit    int
}

// publishTimeout is how long a client's publication may take. A cluster elects another leader
// in four to nine seconds, and a broker tries for ten (natsbroker.Options.PublishTimeout). The
// broker should be the first to give up, because it knows why. While a client waits, its later
// operations wait too. Other sessions do not wait, and this session's pings are answered: only
// the goroutine that carries out its operations waits, and it ends with the session.
const publishTimeout = 12 * time.Second

// maxID is the greatest whole number that JavaScript can count to.
const maxID = 1<<53 - 1

// parseOperation reads an operation from a valid object. Members' names are matched exactly. A
// member that is null counts as absent; only data may be null. ok is false if a member is of the
// wrong kind; op.id is set even then, if it is valid. isOp is false for a plain message.
func parseOperation(raw []byte) (op operation, isOp, ok bool) {
	var kind, id, topic, since, last, limit, uid, unseen []byte
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
		case "uid":
			uid = value
		case "info":
			if present(value) {
				op.info = value
			}
		case "unseen":
			unseen = value
		}
		return true
	})
	if !present(kind) {
		return op, false, true
	}
	ok = true
	readText := func(value []byte, into *string) {
		if present(value) && (hasHalfPair(value) || !readString(value, into)) {
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
	readText(uid, &op.uid)
	ok = ok && len(op.uid) <= maxUID
	readNumber(last, &op.last)
	readNumber(limit, &op.limit)
	if present(unseen) {
		op.unseen = string(unseen) == "true"
		ok = ok && (op.unseen || string(unseen) == "false")
	}
	return op, true, ok
}

// hasHalfPair reports whether a valid JSON value has an escape \ud800 to \udfff that is not
// one of a pair (RFC 8259, section 8.2). Such a string has no UTF-8. Two different topics would
// both become U+FFFD.
func hasHalfPair(s []byte) bool {
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' {
			continue
		}
		i++
		if s[i] != 'u' {
			continue
		}
		first := escaped(s[i+1:])
		i += 4
		if !utf16.IsSurrogate(first) {
			continue
		}
		if s[i+1] != '\\' || s[i+2] != 'u' || utf16.DecodeRune(first, escaped(s[i+3:])) == utf8.RuneError {
			return true
		}
		i += 6
	}
	return false
}

// escaped returns the code unit that the four hexadecimal digits after \u stand for.
func escaped(digits []byte) rune {
	n, _ := strconv.ParseUint(string(digits[:4]), 16, 16)
	return rune(n)
}

// maxDigits is one more than a whole number up to maxID can have.
const maxDigits = 17

// receiveV1 carries out the operations of one frame of a live.v1 client. The operations are
// counted before the first of them is parsed.
func (s *Session) receiveV1(raw []byte) {
	valid := jsonscan.Valid(raw)
	switch {
	case valid || jsonscan.TooDeep(raw):
	case !utf8.Valid(raw):
		s.end(notUTF8)
		return
	default:
		s.refuseFrame(errNotJSON)
		return
	}
	switch jsonscan.Kind(raw) {
	case '{':
		s.operate(raw, valid)
	case '[':
		if err := checkOperations(raw); err != nil {
			s.refuseFrame(err)
			return
		}
		first := true
		jsonscan.Elements(raw, func(one []byte) bool {
			if !first {
				s.throttle() // each operation counts; the first was counted with the frame
			}
			first = false
			s.operate(one, valid || jsonscan.Valid(one))
			return s.ctx.Err() == nil
		})
	default:
		s.refuseFrame(errNotObject)
	}
}

// refuseFrame ends the session of a client that sent an invalid frame.
func (s *Session) refuseFrame(err error) {
	s.server.counters.malformed.Add(1)
	s.end(closing{code: CloseProtocol, reason: "not a frame of live.v1", err: fmt.Errorf("live: the client broke the protocol: %w (close code %d)", err, CloseProtocol), why: closedForProtocol})
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

// operate carries out one operation, or takes one plain message. valid is false if it nests deeper than the readers of
// JSON allow to which it could be given: it is refused, and the session goes on.
func (s *Session) operate(raw []byte, valid bool) {
	op, isOp, ok := parseOperation(raw)
	switch {
	case !isOp:
		s.receivePlain(raw) // checks it again
		return
	case !ok || !valid:
		s.server.counters.malformed.Add(1)
		s.fail(op.id, op.topic, errBadRequest)
		return
	case op.op == "pong":
		return // every frame proves that the client lives
	case op.op == "ping": // a longer one than the reader knows
		s.out.Answer(pongFrame)
		return
	}
	known, isKnown := operations[op.op]
	switch {
	case !isKnown:
		s.fail(op.id, op.topic, errUnknownOp)
		return
	case !op.hasTopic:
		s.fail(op.id, op.topic, errBadRequest)
		return
	}
	op.data, op.info = bytes.Clone(op.data), bytes.Clone(op.info) // the application may keep them
	var reply answer
	var err error
	s.call(known.callback, func() {
		if !s.IsClosed() {
			reply, err = known.do(s, &op)
		}
	})
	// The answer may have to wait for the client, and must not hold up callbacks meanwhile.
	switch {
	case err != nil:
		s.fail(op.id, op.topic, s.clientError(err))
	case reply != nil:
		reply()
	}
}

// answer sends the answer to an operation, and waits while the queue is full. nil: the answer was
// queued already.
type answer func()

// operations has what the server does for each operation, and which callback of Options it
// may call, for the log.
var operations = map[string]struct {
	callback string
	do       func(*Session, *operation) (answer, error)
}{
	"subscribe":   {"OnSubscribe", (*Session).opSubscribe},
	"unsubscribe": {"OnUnsubscribe", (*Session).opUnsubscribe},
	"publish":     {"OnPublish", (*Session).opPublish},
	"request":     {"OnRequest", (*Session).opRequest},
	"history":     {"OnSubscribe", (*Session).opHistory},
	"present":     {"OnPresence", (*Session).opPresent},
	"absent":      {"", (*Session).opAbsent},
	"presence":    {"OnSubscribe", (*Session).opPresence},
}

func (s *Session) opUnsubscribe(op *operation) (answer, error) {
	if err := s.server.checkTopic(op.topic); err != nil {
		return nil, err
	}
	if told := s.server.opts.OnUnsubscribe; s.server.topics.unsubscribe(s, op.topic) && told != nil {
		told(s, op.topic)
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
	var info []byte
	if op.info != nil {
		if info, err = s.mayBePresent(op); err != nil {
			return nil, err
		}
		if err := s.server.presence.mayArrive(s, op.topic, info); err != nil {
			return nil, err // now, because after the reply there may be no error
		}
	}
	asked, keyed := op.since != "", s.server.topics.options(op.topic).Keyed
	o := subscribing{since: since, resume: asked, last: min(op.last, maxNewest), pays: true,
		unseen: op.unseen, hasInfo: op.info != nil, info: info}
	if op.id != 0 {
		o.reply = func(at Position, recovered bool, messages []byte) *frame.Frame {
			return s.subscribeReply(op.id, at, asked, recovered, keyed, messages, asked && recovered || o.last > 0)
		}
		o.stateReply = func(at Position, text []byte, whole, last bool) *frame.Frame {
			return s.stateFrame(op.id, at, asked, text, whole, last)
		}
	}
	c, err := s.server.subscribe(s.ctx, s, op.topic, o)
	if err != nil {
		return nil, err
	}
	if o.hasInfo { // if it was subscribed before, it has another info still
		s.showInfo(op.topic, info)
	}
	if c == nil {
		return nil, nil
	}
	return func() { // answers come in order
		switch {
		case s.await(c.replied) != nil || c.answered.Load():
		case c.failed != nil:
			s.fail(op.id, op.topic, s.clientError(c.failed))
		case c.begun: // pieces of a state are of no use
			s.fail(op.id, op.topic, errUnavailable)
		default:
			s.reply(op.id, "") // the application has ended the subscription meanwhile
		}
	}, nil
}

// showInfo sets the info that a client has sent with its subscribe. The client has its answer already, so
// an error is only logged. There may be one, although mayArrive has checked the info: the application may
// have set other infos meanwhile.
func (s *Session) showInfo(topic string, info []byte) {
	if err := s.setPresence(topic, info); err != nil && !errors.Is(err, ErrSessionClosed) {
		s.server.logOfClient(slog.LevelWarn, "live: session is not shown as present", "topic", topic, "session", s.id, "err", err)
	}
}

// mayRead asks the application whether the client may subscribe to a topic, or read its history.
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
	asked := &publishContext{Context: s.ctx}
	data, err := ask(asked, s, op.topic, op.data)
	if err != nil {
		return nil, refusedByApp{err}
	}
	if err := broker.CheckData(data); err != nil {
		if broker.CheckData(op.data) != nil { // the client's data nests too deeply, and the application has passed it on
			return nil, errBadRequest
		}
		return nil, failedInApp{fmt.Errorf("live: OnPublish returned data that cannot be published: %w", err)}
	}
	rules, id := s.server.topics.options(op.topic), ""
	if op.uid != "" {
		id = s.publicationID(op.uid)
	}
	if !s.server.publishRates.allow(op.topic, id, rules) { // after OnPublish: only who may publish uses the rate up
		s.server.counters.rateLimited.Add(1)
		s.server.logOfClient(slog.LevelInfo, "live: publication refused: PublishRate reached", "session", s.id, "user", s.user, "topic", op.topic)
		return nil, errRateLimited
	}
	var opts []PublishOption
	if rules.ClientKey != nil {
		opts = append(opts, Key(rules.ClientKey(s, data)))
	}
	if id != "" {
		opts = append(opts, ID(id))
	}
	if p := asked.traceParent.Load(); p != nil {
		opts = append(opts, func(o *publishing) { o.TraceParent = *p })
	}
	ctx, cancel := context.WithTimeout(s.ctx, publishTimeout)
	defer cancel()
	at, err := s.server.publish(ctx, op.topic, data, opts...)
	if err != nil {
		return nil, err
	}
	members := ""
	if at.Offset != 0 {
		members = `,"at":"` + at.String() + `"`
	}
	return func() { s.reply(op.id, members) }, nil
}

// maxUID bounds the uid of a client's publication: a UUID in any writing.
const maxUID = 64

// publicationID returns the ID of a publication to which the client has given a uid. It is the
// same in another session of the same user, and different for each user: a client cannot keep
// another user's publication from being made.
func (s *Session) publicationID(uid string) string {
	sum := sha256.Sum256([]byte(s.user + "\x00" + uid))
	return hex.EncodeToString(sum[:])
}

func (s *Session) opRequest(op *operation) (answer, error) {
	ask := s.server.opts.OnRequest
	if ask == nil {
		s.server.logOnce("live: a client sent a request; Options.OnRequest is nil, so all are refused")
		return nil, errForbidden
	}
	result, err := s.timed(ask, op)
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

// timed calls OnRequest and counts how long it takes, also if it panics.
func (s *Session) timed(ask func(context.Context, *Session, string, []byte) (any, error), op *operation) (any, error) {
	began := time.Now()
	defer func() { s.server.counters.requestTime.Add(time.Since(began)) }()
	return ask(s.ctx, s, op.topic, op.data)
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
