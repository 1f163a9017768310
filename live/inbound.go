package live

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/livetopic/livetopic/live/internal/clock"
	"github.com/livetopic/livetopic/live/internal/inbox"
)

// This file is the way in. One goroutine of a session reads frames. It never runs the application's
// code, so it sees pings, close frames and the end of the connection at once. Messages wait in the
// session's inbox for another goroutine, which exists only while there are messages. When the
// inbox is full, or the client is over InboundRate, the reader pauses, and TCP makes the client
// wait. That time does not count as silence of the client.

// inbound holds the messages that a session has read and not yet handled.
type inbound struct {
	mu      sync.Mutex // guards the fields below, except those of the reader; no other lock is taken under it
	first   *inbox.Message
	last    *inbox.Message
	waiting int           // how many messages wait
	bytes   int           // of the messages that wait
	inWork  int           // bytes of the message that is being handled; 0: there is none
	coming  int           // bytes of a large message that is being read, at its last read; 0: there is none
	working bool          // a goroutine handles messages, or calls OnConnect
	ended   bool          // no message is handled any more
	space   chan struct{} // closed when a message was handled; nil: the reader does not wait
	idle    chan struct{} // closed when all messages were handled; nil: nobody waits for it

	received  limiter // counts the client's messages, reads and operations
	answered  limiter // counts the history that the client asked for
	uncounted int32   // received bytes that make no whole unit yet; only the reader uses it
	prepaid   int32   // counted bytes that pay for later reads; only the reader uses it
	leftAt    int64   // when the client was seen to have left while it was over its rate, on the clock; 0: it was not. Only the reader uses it
}

// leaveGrace is how long callbacks may go on with messages that a client sent before it
// left. Then their context ends. A page may publish and close at once, so this must not be
// 0. It also bounds how long a callback runs for a client that has gone.
const leaveGrace = 500 * time.Millisecond

// reading is a Session with the methods that its reader needs (inbox.Handler). Users of Session do
// not see them.
type reading Session

func (r *reading) Ping(payload []byte) { r.out.Pong(payload) }
func (r *reading) Admit(size int)      { (*Session)(r).admit(size) }

func (r *reading) Charge(reads, frames, bytes int) {
	if bytes > 0 {
		r.server.counters.bytesReceived.Add(uint64(bytes))
	}
	(*Session)(r).charge(frames+r.inbound.unpaidReads(reads, frames, bytes), bytes)
}

// read is the goroutine that reads. It ends with the connection.
func (s *Session) read() {
	for {
		m, err := s.in.Next()
		if err != nil {
			s.readEnded(err)
			return
		}
		if s.isPing(m) {
			s.server.counters.received.Add(1)
			s.out.Answer(pongFrame)
			m.Release()
			continue
		}
		s.take(m)
	}
}

// take puts a message into the inbox, and then waits until there is space for another.
func (s *Session) take(m *inbox.Message) {
	in := &s.inbound
	in.mu.Lock()
	if in.ended {
		in.mu.Unlock()
		return
	}
	if in.last == nil {
		in.first = m
	} else {
		in.last.Next = m
	}
	in.last = m
	in.waiting++
	in.bytes += sizeOf(m)
	in.coming = 0 // else boundUsers could count the message twice
	start := !in.working
	in.working = true
	in.mu.Unlock()
	if start {
		s.server.workers.run(s)
	}
	s.admit(0)
}

// admit waits until there is space in the inbox for one more message, which
// has grown to size bytes so far. A message of any size is admitted if the inbox is empty and
// no message is being handled. The message that is being handled counts only against a large
// message (size > 0). So the reader goes on to see pings while a callback takes its time.
func (s *Session) admit(size int) {
	in := &s.inbound
	paused := false
	for {
		in.mu.Lock()
		in.coming = size
		full := !in.ended && in.full(size, &s.server.opts)
		if full && in.space == nil {
			in.space = make(chan struct{})
		}
		space := in.space
		in.mu.Unlock()
		if !full {
			break
		}
		if !paused {
			paused = true
			s.in.Pause()
		}
		s.awaitSpace(space)
	}
	if paused {
		s.in.Resume()
	}
}

// awaitSpace waits until a message was handled. Meanwhile the connection is not read. So the kernel
// is asked whether the client has left.
func (s *Session) awaitSpace(space <-chan struct{}) {
	patience := time.NewTimer(leaveGrace)
	defer patience.Stop()
	select {
	case <-space:
	case <-patience.C:
		if s.out.HasLeft() {
			s.end(closing{err: errLeft, why: closedLost})
		}
	}
}

var errLeft = errors.New("live: connection lost while messages of the client waited")

// full reports whether admit has to wait; mu is held.
func (in *inbound) full(size int, o *Options) bool {
	if in.waiting > 0 && (in.waiting >= o.InboxSize || in.bytes > o.InboxBytes) {
		return true
	}
	held := in.bytes + in.inWork
	return size > 0 && held > 0 && held+size > o.InboxBytes
}

// maxPrepaid bounds how many later reads are paid for: eight. A large piece takes several reads,
// and the last read may bring little.
const maxPrepaid = 8 * inboundUnit

// unpaidReads returns how many units the reads themselves count for. A client may send a byte at a
// time, and a read costs about as much as a frame. So each read counts for one unit. A frame that it
// brings pays for it, and so does a kilobyte. So nothing changes for a client whose reads bring that
// much, or that causes less than 1,000 reads in a second (the default InboundRate).
func (in *inbound) unpaidReads(reads, frames, bytes int) int {
	prepaid := int(in.prepaid) + (frames-reads)*inboundUnit + bytes
	unpaid := max(0, (inboundUnit-1-prepaid)/inboundUnit)
	in.prepaid = int32(min(prepaid+unpaid*inboundUnit, maxPrepaid))
	return unpaid
}

// charge counts frames and bytes that were read, and waits while the client is over its rate.
func (s *Session) charge(frames, bytes int) {
	bytes += int(s.inbound.uncounted)
	units := frames + bytes/inboundUnit
	s.inbound.uncounted = int32(bytes % inboundUnit) // else a client that sends a little at a time would pay nothing
	if wait := s.owes(&s.inbound.received, units); wait > 0 {
		s.in.Pause()
		s.sleepUnread(wait)
		s.in.Resume()
	}
}

// sleepUnread waits because a client is over its rate. Meanwhile the connection is not read. So the kernel
// is asked whether the client has left. The messages of a client that has left are read for leaveGrace
// more, at its rate. Then the session ends. Otherwise the session could last for an hour: so long takes
// a message of 4 MiB at one unit a second. checkUnread finds a client that has vanished.
func (s *Session) sleepUnread(wait time.Duration) {
	for wait > 0 && s.ctx.Err() == nil {
		step := min(wait, leaveGrace)
		sleep(s.ctx, step)
		wait -= step
		if !s.out.HasLeft() {
			continue
		}
		in, now := &s.inbound, clock.Now()
		if in.leftAt == 0 {
			in.leftAt = now
		}
		if now-in.leftAt >= int64(leaveGrace) {
			s.end(closing{err: errLeft, why: closedLost})
		}
	}
}

// owes counts units for a client, and returns how long it has to wait.
func (s *Session) owes(l *limiter, units int) time.Duration {
	if s.server.inbound.every == 0 {
		return 0
	}
	s.inbound.mu.Lock()
	defer s.inbound.mu.Unlock()
	if wait := l.take(units, s.server.inbound, clock.Now()); wait > 0 {
		return max(wait, throttleGrain)
	}
	return 0
}

// throttleGrain is the shortest wait of a client that is over its rate. The limiter credits the
// extra time, so the average rate stays the same. Shorter waits would cost more than the
// messages.
const throttleGrain = 50 * time.Millisecond

// throttle counts an operation, and waits while the client is over InboundRate.
func (s *Session) throttle() {
	if wait := s.owes(&s.inbound.received, 1); wait > 0 {
		sleep(s.ctx, wait)
	}
}

// payForAnswer counts the bytes of a history that the client asked for and was sent.
func (s *Session) payForAnswer(bytes int) {
	if s.compressed {
		s.pay(bytes, deflatedUnit)
	} else {
		s.pay(bytes, answerUnit)
	}
}

// pay counts one unit, and one more for every bytesPerUnit bytes. It waits while the client is over
// its rate of answers.
func (s *Session) pay(bytes, bytesPerUnit int) {
	if wait := s.owes(&s.inbound.answered, 1+bytes/bytesPerUnit); wait > 0 {
		sleep(s.ctx, wait)
	}
}

// work calls OnConnect if the session has just begun. Then it handles the messages in order, until
// there are none.
func (s *Session) work() {
	defer s.server.running.Done() // also if a callback ends its goroutine
	if s.connecting {
		s.connecting = false
		s.callLocked("OnConnect", s.connect)
	}
	for m := s.nextMessage(); m != nil; m = s.nextMessage() {
		s.receive(m)
		m.Release()
	}
}

// sizeOf returns the bytes that a message counts for in the inbox. An empty message counts too.
func sizeOf(m *inbox.Message) int { return len(m.Data) + 1 }

// nextMessage returns the next message to handle. It returns nil if there is none. The goroutine
// then ends.
func (s *Session) nextMessage() *inbox.Message {
	in := &s.inbound
	in.mu.Lock()
	defer in.mu.Unlock()
	in.inWork = 0
	wakeAll(&in.space)
	m := in.first
	if m == nil {
		in.working = false
		wakeAll(&in.idle)
		return nil
	}
	in.first = m.Next
	if in.first == nil {
		in.last = nil
	}
	m.Next = nil
	in.waiting--
	in.bytes -= sizeOf(m)
	in.inWork = sizeOf(m)
	return m
}

// wakeAll closes a channel, if there is one, and so wakes all goroutines that wait for that.
func wakeAll(ch *chan struct{}) {
	if *ch != nil {
		close(*ch)
		*ch = nil
	}
}

// endInbound drops the messages that were not handled yet.
func (s *Session) endInbound() {
	in := &s.inbound
	in.mu.Lock()
	defer in.mu.Unlock()
	in.ended = true
	in.first, in.last = nil, nil
	wakeAll(&in.space)
	wakeAll(&in.idle)
}

// awaitWork waits until all messages of the client were handled, for leaveGrace at most.
func (s *Session) awaitWork() {
	in := &s.inbound
	in.mu.Lock()
	if !in.working || in.ended {
		in.mu.Unlock()
		return
	}
	if in.idle == nil {
		in.idle = make(chan struct{})
	}
	idle := in.idle
	in.mu.Unlock()
	t := time.NewTimer(leaveGrace)
	defer t.Stop()
	select {
	case <-idle:
	case <-t.C:
	}
}

// receive handles one message.
func (s *Session) receive(m *inbox.Message) {
	if s.IsClosed() {
		return
	}
	s.server.counters.received.Add(1)
	wait, err := s.inflate(m)
	if err != nil {
		s.end(s.closingFor(err))
		return
	}
	if wait > 0 {
		sleep(s.ctx, wait)
	}
	switch {
	case s.wire == wireV1:
		s.receiveV1(m.Data)
	case !s.receivePlain(m.Data) && !m.Binary && !utf8.Valid(m.Data):
		s.end(notUTF8)
	}
}

// notUTF8 ends a session whose client sent a text that is not UTF-8 (RFC 6455, section 8.1).
var notUTF8 = closing{code: 1007, reason: "not UTF-8", err: fmt.Errorf("live: the client broke the protocol: text that is %w (close code 1007)", errNotUTF8), why: closedForProtocol}

// inflate decompresses a message that the client has compressed. It returns how long the client then has
// to wait.
func (s *Session) inflate(m *inbox.Message) (wait time.Duration, err error) {
	if !m.Compressed {
		return 0, nil
	}
	before := len(m.Data) // these bytes were counted when they were read
	cost, err := m.Inflate(s.server.opts.ReadLimit)
	if err != nil {
		return 0, err
	}
	return s.owes(&s.inbound.received, (cost-before)/inboundUnit), nil
}

// longestPing bounds the messages in which the reader looks for a ping, in bytes. A ping with spaces
// around it fits, and so does a ping that compression has made longer.
const longestPing = 32

// isPing reports whether a message is a ping of live.v1. The reader answers it, so that a
// client can tell a slow application from a dead connection.
func (s *Session) isPing(m *inbox.Message) bool {
	if s.wire != wireV1 || len(m.Data) > longestPing {
		return false
	}
	if m.Compressed {
		wait, err := s.inflate(m)
		if err != nil {
			return false // receive gets the same error in its turn, and ends the session
		}
		s.in.Pause()
		s.sleepUnread(wait)
		s.in.Resume()
	}
	return string(bytes.TrimSpace(m.Data)) == ping
}

// receivePlain gives a message to the application. ok is false if it is not a valid message.
func (s *Session) receivePlain(raw []byte) (ok bool) {
	m, err := decodeMessage(raw, s.server.opts.MaxTopicLength)
	if err != nil {
		s.ignore(err)
		return false
	}
	onMessage := s.server.opts.OnMessage
	if onMessage == nil {
		return true
	}
	s.call("OnMessage", func() {
		if !s.IsClosed() { // nothing comes after OnClose
			onMessage(s.ctx, s, m.Topic, m.Data)
		}
	})
	return true
}

// ignore counts and logs an invalid message.
func (s *Session) ignore(err error) {
	s.server.counters.malformed.Add(1)
	s.server.logOfClient(slog.LevelDebug, "live: message ignored", "session", s.id, "err", err)
}

// connectionBroke reports whether reading ended without a close frame and without a protocol
// error. Then no close frame is sent.
func connectionBroke(err error) bool {
	switch err.(type) {
	case *inbox.CloseError, *inbox.ProtocolError:
		return false
	}
	return true
}

// readEnded ends the session after reading has failed.
func (s *Session) readEnded(err error) {
	if _, broken := err.(*inbox.ProtocolError); !broken {
		s.awaitWork()
	}
	s.end(s.closingFor(err))
	if frames, _ := s.out.Queued(); frames > 0 || !connectionBroke(err) {
		shut := s.out.Shut()
		s.in.Drain()
		<-shut // a peer that sends nothing more may still read
	}
	s.out.Kill()
	s.server.readEnded(s)
	s.server.running.Done()
}
