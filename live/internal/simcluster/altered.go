package simcluster

import (
	"context"
	"slices"

	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/broker"
)

// All has the methods of every interface that a broker can implement. The broker of a Sim's node has
// them.
type All interface {
	live.Broker
	broker.Recoverer
	broker.Bus
}

// Altered is a broker of which a test alters some calls. The functions that are nil alter nothing. A
// test sets them before it uses the broker.
type Altered struct {
	All
	Sink broker.Sink // the argument of Start

	OnStart       func()                                        // called before Start
	OnSubscribe   func(topic string) string                     // returns the topic to which All is subscribed instead
	OnUnsubscribe func(topic string) error                      // called instead of Unsubscribe
	OnLast        func(at live.Position) live.Position          // returns the result of Last instead
	OnRead        ReadFunc                                      // called instead of Read
	OnPage        func(p *broker.Page)                          // changes the result of Read
	OnTail        func(p *broker.Page)                          // changes the result of Tail
	OnDeliver     func(sink broker.Sink, p *broker.Publication) // called instead of Deliver, with a copy of the publication
	OnHear        func(f func([]byte)) func([]byte)             // returns the function that OnBroadcast gets instead
	OnPublish     func(topic string, data []byte, o broker.PublishOptions) (live.Position, error)
}

// ReadFunc is Read without a context.
type ReadFunc func(topic string, after, upto uint64, limit int) (broker.Page, error)

// Start implements broker.Broker.
func (a *Altered) Start(s broker.Sink) {
	if a.OnStart != nil {
		a.OnStart()
	}
	a.Sink = s
	a.All.Start(alteredSink{s, a})
}

// Subscribe implements broker.Broker.
func (a *Altered) Subscribe(ctx context.Context, topic string) error {
	if a.OnSubscribe != nil {
		topic = a.OnSubscribe(topic)
	}
	return a.All.Subscribe(ctx, topic)
}

// Unsubscribe implements broker.Broker.
func (a *Altered) Unsubscribe(topic string) error {
	if a.OnUnsubscribe != nil {
		return a.OnUnsubscribe(topic)
	}
	return a.All.Unsubscribe(topic)
}

// Publish implements broker.Broker.
func (a *Altered) Publish(ctx context.Context, topic string, data []byte, o broker.PublishOptions) (live.Position, error) {
	if a.OnPublish != nil {
		return a.OnPublish(topic, data, o)
	}
	return a.All.Publish(ctx, topic, data, o)
}

// Last implements broker.Recoverer.
func (a *Altered) Last(ctx context.Context, topic string) (live.Position, error) {
	at, err := a.All.Last(ctx, topic)
	if a.OnLast != nil && err == nil {
		at = a.OnLast(at)
	}
	return at, err
}

// Read implements broker.Recoverer.
func (a *Altered) Read(ctx context.Context, topic string, after, upto uint64, limit int) (broker.Page, error) {
	if a.OnRead != nil {
		return a.OnRead(topic, after, upto, limit)
	}
	page, err := a.All.Read(ctx, topic, after, upto, limit)
	if a.OnPage != nil {
		page.Publications = slices.Clone(page.Publications)
		a.OnPage(&page)
	}
	return page, err
}

// Tail implements broker.Recoverer.
func (a *Altered) Tail(ctx context.Context, topic string, limit int) (broker.Page, error) {
	page, err := a.All.Tail(ctx, topic, limit)
	if a.OnTail != nil {
		a.OnTail(&page)
	}
	return page, err
}

// OnBroadcast implements broker.Bus.
func (a *Altered) OnBroadcast(f func(data []byte)) {
	if a.OnHear != nil {
		f = a.OnHear(f)
	}
	a.All.OnBroadcast(f)
}

// alteredSink is the Sink that the broker inside an Altered gets.
type alteredSink struct {
	broker.Sink
	altered *Altered
}

func (s alteredSink) Deliver(p *broker.Publication) {
	if s.altered.OnDeliver == nil {
		s.Sink.Deliver(p)
		return
	}
	c := *p
	s.altered.OnDeliver(s.Sink, &c)
}
