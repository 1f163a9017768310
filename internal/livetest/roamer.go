package livetest

import (
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"
)

// Scope is a part of a test. It can end before the test.
type Scope struct {
	testing.TB
	cleanups []func()
}

func (s *Scope) Cleanup(f func()) { s.cleanups = append(s.cleanups, f) }

// End runs what Cleanup was given.
func (s *Scope) End() {
	for _, f := range s.cleanups {
		f()
	}
}

// Ledger counts the publications of one topic that a client has got. The data of publications are
// the numbers from 1 on, and so are the positions in a history.
type Ledger struct {
	Since     string
	Seen      int  // the newest number
	Answering bool // missed publications may still come
	Gaps      int
}

// Heard takes a frame with the next publication of a topic. Publications that the client had
// missed come before new publications.
func (a *Ledger) Heard(n int, f Frame) error {
	if f.WasRecovered() && !a.Answering {
		return fmt.Errorf("after %d came %s", a.Seen, f.Raw)
	}
	a.Answering = f.WasRecovered()
	return a.Publication(n, f.At)
}

// Lost takes a gap that came after the reply. The gap is right if the history has dropped all
// publications up to the gap's position. newest is the highest number that may have been
// published.
func (a *Ledger) Lost(f Frame, newest, history int) error {
	_, offset := OffsetOf(f.At)
	if offset <= a.Seen || newest < offset+history {
		return fmt.Errorf("%s came after %d; %d are published, of which the history has %d", f.Raw, a.Seen, newest, history)
	}
	a.Seen, a.Since = offset, f.At
	a.Gaps++
	return nil
}

// Publication takes the next publication of a topic.
func (a *Ledger) Publication(n int, at string) error {
	if n != a.Seen+1 {
		return fmt.Errorf("%d came after %d", n, a.Seen)
	}
	if _, offset := OffsetOf(at); offset != n {
		return fmt.Errorf("%d has the position %s", n, at)
	}
	a.Seen, a.Since = n, at
	return nil
}

// Subscribed takes the reply to a subscribe.
func (a *Ledger) Subscribed(f Frame) error {
	_, now := OffsetOf(f.At)
	a.Answering = f.WasRecovered()
	switch {
	case a.Since == "":
		a.Seen = now
	case f.WasRecovered():
		for _, m := range f.Messages {
			if err := a.Publication(NumberOf(m.Data), m.At); err != nil {
				return fmt.Errorf("resumed since %s: %w", a.Since, err)
			}
		}
	case f.Recovered == nil:
		return fmt.Errorf("resumed since %s: %s", a.Since, f.Raw)
	default:
		if now <= a.Seen {
			return fmt.Errorf("a gap after %d, where nothing was missed: %s", a.Seen, f.Raw)
		}
		a.Gaps++
		a.Seen = now
	}
	if now != a.Seen {
		return fmt.Errorf("the reply is at %s, its last message at %d", f.At, a.Seen)
	}
	a.Since = f.At
	return nil
}

// Roamer is a client whose connection is cut again and again.
type Roamer struct {
	T        testing.TB
	At       Endpoint
	Topics   []string
	Ledgers  map[string]*Ledger
	Up, Down time.Duration // up to three times as long each
	Slow     int           // bytes that its connection carries in a second; 0: as many as can
	Calm     chan struct{} // closed when no line is cut any more
	Done     func(*Roamer) bool
	Take     func(*Roamer, Frame) error // a publication, or a gap
	Answered func(*Roamer, *Ledger, Frame) error
	Dials    atomic.Int64
}

// Roam connects again and again, until the client has got all publications. It may take long for
// that only while its connections are cut.
func (r *Roamer) Roam() {
	var deadline time.Time
	for !r.Done(r) {
		select {
		case <-r.Calm:
			if deadline.IsZero() {
				deadline = time.Now().Add(3 * Patience)
			}
		default:
		}
		if err := r.visit(); err != nil {
			r.T.Error(err)
			return
		}
		if !deadline.IsZero() && time.Now().After(deadline) {
			r.T.Errorf("after %d dials: %+v", r.Dials.Load(), r.Ledgers)
			return
		}
		if !r.Done(r) {
			time.Sleep(r.between(r.Down))
		}
	}
}

func (r *Roamer) between(d time.Duration) time.Duration { return d + rand.N(2*d) }

// visit is one connection, from its beginning until it is cut. It returns an error if the server
// did something wrong.
func (r *Roamer) visit() error {
	s := &Scope{TB: r.T}
	defer s.End()
	l := Through(s, r.At)
	l.Slow(r.Slow)
	cut := time.AfterFunc(r.between(r.Up), func() {
		select {
		case <-r.Calm:
		default:
			r.cut(l)
		}
	})
	defer cut.Stop()
	c, err := Try(s, l.Endpoint, Dialing{V1: true})
	if err != nil {
		return nil // cut
	}
	defer c.Drop()
	r.Dials.Add(1)
	ops := make([]string, len(r.Topics))
	for i, topic := range r.Topics {
		ops[i] = SubscribeTo(i+1, topic)
		if a := r.Ledgers[topic]; a.Since != "" {
			ops[i] = ResumeFrom(i+1, topic, a.Since)
		}
	}
	if c.Say(InOneFrame(ops...)) != nil {
		return nil
	}
	for !r.Done(r) {
		c.Conn.SetReadDeadline(time.Now().Add(Patience))
		f, err := c.ReadFrame()
		switch {
		case f.CloseCode() != 0:
			return fmt.Errorf("closed: %s", f)
		case err != nil && f.Raw != "":
			return err
		case err != nil:
			return nil
		}
		switch f.Op {
		case "hello":
		case "ping":
			c.Say(`{"op":"pong"}`)
		case "reply":
			topic := r.Topics[f.ID-1]
			err = r.Answered(r, r.Ledgers[topic], f)
		case "", "gap":
			err = r.Take(r, f)
		default:
			err = fmt.Errorf("got %s", f.Raw)
		}
		if err != nil {
			return fmt.Errorf("topic %s, %w", f.Topic, err)
		}
	}
	return nil
}

// cut ends a connection in one of the ways in which connections end, perhaps in the middle of a
// frame.
func (r *Roamer) cut(l *Relay) {
	switch rand.IntN(4) {
	case 0:
		l.HangUp()
	case 1:
		l.Reset()
	case 2:
		l.CutDown(rand.IntN(100), l.HangUp)
	case 3:
		l.CutDown(rand.IntN(100), l.Reset)
	}
}
