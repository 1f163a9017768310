package live

import (
	"context"
	"fmt"
	"slices"

	"github.com/livetopic/livetopic/live/broker"
)

// History returns the newest publications of a topic, limit of them at most and
// 1,000 in any case, oldest first. What was published before the call, at whatever
// server, is among them. It takes five seconds at most. The error wraps ErrNoHistory
// if the topic keeps none.
func (s *Server) History(ctx context.Context, topic string, limit int) ([]Message, error) {
	ctx, cancel := context.WithTimeout(ctx, brokerTimeout)
	defer cancel()
	h, err := s.openHistory(ctx, nil, topic, limit)
	if err != nil {
		return nil, err
	}
	messages := make([]Message, 0, len(h.ahead))
	for more := true; more; {
		var part []*broker.Publication
		if part, more, err = h.next(ctx, maxHistoryStep); err != nil {
			return nil, err
		}
		for _, p := range part {
			messages = append(messages, messageOf(p))
		}
	}
	return messages, nil
}

// maxNewest bounds how many of the newest publications a client may ask for: a screen
// of a chat twenty times over.
const maxNewest = 1000

// maxHistoryStep is what History takes from its reader at a time: all that was read.
const maxHistoryStep = 1 << 30

// historyReader reads the newest publications of a topic, part by part.
type historyReader struct {
	topics *topics
	asker  *Session // nil: the application
	topic  string
	ahead  []*broker.Publication // were read, and were not returned yet
	at     Position              // everything up to here was returned, or is in ahead
	upto   uint64                // where the history ended at the beginning
	left   int                   // how many more may be returned
	limit  int                   // how many to ask the broker for next
}

// checkKept returns nil for a valid topic that keeps history. Else the error wraps ErrInvalidTopic or
// ErrNoHistory.
func (s *Server) checkKept(topic string) error {
	if err := s.checkTopic(topic); err != nil {
		return err
	}
	if s.topics.recover == nil || !s.topics.recover.Keeps(topic) {
		return fmt.Errorf("%w: %q", ErrNoHistory, topic)
	}
	return nil
}

// openHistory finds the newest publications of a topic, limit at most. Everything that was published
// before the call is among them. asker is the session whose client asks; nil: the application
// does.
func (s *Server) openHistory(ctx context.Context, asker *Session, topic string, limit int) (*historyReader, error) {
	if err := s.checkKept(topic); err != nil {
		return nil, err
	}
	h := &historyReader{topics: s.topics, asker: asker, topic: topic, left: max(min(limit, maxNewest), 0), limit: firstPage}
	if h.left == 0 {
		return h, nil
	}
	ctx, cancel := context.WithTimeout(ctx, brokerTimeout)
	defer cancel()
	page, last, err := s.topics.history(ctx, asker, topic, h.left)
	if err != nil {
		return nil, fmt.Errorf("live: history of %q: %w", topic, err)
	}
	h.ahead, h.at, h.upto = page.Publications, Position{Epoch: page.Epoch, Offset: page.Upto}, last.Offset
	return h, nil
}

// next returns the next part, of about so many bytes, and whether there are more.
func (h *historyReader) next(ctx context.Context, bytes int) (part []*broker.Publication, more bool, err error) {
	for len(h.ahead) == 0 && h.left > 0 && h.at.Offset < h.upto {
		if err := h.read(ctx); err != nil {
			return nil, false, fmt.Errorf("live: history of %q: %w", h.topic, err)
		}
	}
	part, _ = limitPart(h.ahead[:min(len(h.ahead), h.left)], maxPage, bytes)
	h.ahead = h.ahead[len(part):]
	h.left -= len(part)
	return part, h.left > 0 && (len(h.ahead) > 0 || h.at.Offset < h.upto), nil
}

// read asks the broker for what follows.
func (h *historyReader) read(ctx context.Context) error {
	for failures := 0; ; failures++ {
		page, err := h.topics.readPage(ctx, h.asker, h.topic, h.at.Offset, h.upto, h.limit)
		switch {
		case err != nil:
			return err
		case page.Epoch == h.at.Epoch && page.Upto > h.at.Offset:
			h.ahead, h.at.Offset = page.Publications, min(page.Upto, h.upto)
			if len(h.ahead) > 0 {
				h.limit = nextLimit(h.ahead)
			}
			return nil
		case page.Epoch == h.at.Epoch && !page.Complete:
			h.at.Offset = h.upto // dropped meanwhile
			return nil
		case failures == maxLagging:
			return fmt.Errorf("%w: the history that answers is behind", ErrUnavailable)
		}
		sleep(ctx, lagBackoff(failures))
	}
}

// maxLagging is how many times a copy of the history that is behind is asked again. That takes two
// seconds.
const maxLagging = 25

// history returns the newest publications of a topic, n at most. They come from the ring if the
// topic has subscribers here and the broker says that the ring is up to date. Else they come from
// the broker, whose page may end before last. Everything that any server published before the
// call is among them.
func (ts *topics) history(ctx context.Context, asker *Session, name string, n int) (page broker.Page, last Position, err error) {
	if ts.inProcess {
		page, err := ts.recover.Tail(ctx, name, n)
		return page, Position{Epoch: page.Epoch, Offset: page.Upto}, err
	}
	for {
		ts.payForQuestion(asker, lookupUnits)
		before := ts.standing(name)
		last, err := ts.last(ctx, asker, name)
		if err != nil {
			return broker.Page{}, Position{}, err
		}
		if newest, ok := ts.recent(name, n, before, last); ok {
			return broker.Page{Epoch: last.Epoch, Upto: last.Offset, Publications: newest}, last, nil
		}
		ts.payForQuestion(asker, questionUnits)
		page, err := ts.read(ctx, asker, func() (broker.Page, error) { return ts.recover.Tail(ctx, name, n) })
		if err != nil {
			return broker.Page{}, Position{}, err
		}
		if page.Epoch == last.Epoch && (page.Upto >= last.Offset || cutForSize(page)) {
			return page, last, nil
		}
		sleep(ctx, lagBackoff(1)) // the copy that answered lags
		if err := ctx.Err(); err != nil {
			return broker.Page{}, Position{}, err
		}
	}
}

// standing returns the position of a topic's feed; zero: it has none.
func (ts *topics) standing(name string) Position {
	t := ts.find(name)
	if t == nil {
		return Position{}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.feed == nil || !t.feed.started {
		return Position{}
	}
	return t.feed.at
}

// recent returns the newest n publications from the ring, or all if there are fewer. ok is false
// if the ring does not hold them. It is false too if last does not lie between before and the
// feed's position, because then the ring may lack a publication.
func (ts *topics) recent(name string, n int, before, last Position) (newest []*broker.Publication, ok bool) {
	t := ts.find(name)
	if t == nil {
		return nil, false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	feed := t.feed
	if feed == nil || feed.keys != nil || !feed.started || !feed.reaches(n) || !isBetween(last, before, feed.at) {
		return nil, false
	}
	return slices.Clone(feed.ring[feed.indexOfLast(n):]), true
}
