package live

import (
	"context"
	"time"
)

// A Broker carries publications from whoever publishes to every server that has
// a subscriber. The one in memory, which a Server makes for itself, serves one
// process. Package brokertest has the suite that a Broker must pass.
//
// A broker that keeps history is a Recoverer too; one that can speak to all
// servers is a Bus.
type Broker interface {
	// Start is called once, by New, before anything else. What can fail fails in
	// the broker's own constructor.
	Start(s Sink)

	// Subscribe is called for the first local subscriber of a topic. When it has
	// returned, publications that are made at this server are delivered, and those
	// of other servers as soon as their brokers know.
	Subscribe(ctx context.Context, topic string) error

	// Unsubscribe is called when the last local subscriber has gone, and when a
	// Subscribe has failed; without a subscription it is no error. It must not wait
	// for a Deliver: the caller holds a lock that Deliver takes.
	Unsubscribe(topic string) error

	// Publish returns when the broker has the publication for good, with its
	// position on a topic that keeps history, else with the zero Position. It may
	// call Deliver before it returns. data is not changed after the call.
	Publish(ctx context.Context, topic string, data []byte, o PublishOptions) (Position, error)

	// Close ends the broker: what is published, subscribed or read after it returns an
	// error. It is called by Shutdown when all sessions have ended.
	Close(ctx context.Context) error
}

// Sink takes what a Broker delivers. It is implemented by the Server.
type Sink interface {
	// Deliver hands over a publication. On a topic with history calls come one after
	// another, in the topic's order; on others those for one publisher do. A topic
	// that has no subscriber here is dropped. It never blocks for long.
	Deliver(p *Publication)

	// Lost says that deliveries of a topic ("": of all topics) may be missing. The
	// server then compares positions, and fetches what it lacks.
	Lost(topic string, cause error)
}

// Rules are the server's for its topics. A broker may ask for them by asserting that
// its Sink has them; the Server's has.
type Rules interface {
	// TopicOptions returns what Options.Topics says of a topic.
	TopicOptions(topic string) TopicOptions
}

// Position is a place in a topic's history. The zero Position is that of a topic
// that keeps none.
type Position struct {
	// Epoch names the history. A history that was lost, or lost its newest publications,
	// goes on under another: its offsets may be given again, and whoever resumes from one
	// of before must be told of a gap. It is made of letters, digits, '-' and '_'.
	Epoch string

	// Offset grows with every publication, not always by one.
	Offset uint64
}

// Publication is one message of a topic. It is not changed once delivered.
type Publication struct {
	Topic string
	Data  []byte    // JSON, or empty
	Time  time.Time // when the broker took it
	Position

	// Prev is the offset before this one on the topic, as the broker knows it: a
	// server that has not seen it has lost something. 0: not known, or none; unless
	// Offset is the next number, a server then looks into the history.
	Prev uint64

	// Except is the ID of a session that does not get it; "" for none.
	Except string
}

// PublishOptions go with one publication to the Broker.
type PublishOptions struct {
	// Except is the ID of a session that does not get the publication.
	Except string

	// History and HistoryAge are the topic's TopicOptions, for brokers that have
	// no rule of their own for what to keep.
	History    int
	HistoryAge time.Duration
}

// Recoverer is a Broker that keeps history.
type Recoverer interface {
	// Keeps reports whether the topic keeps history.
	Keeps(topic string) bool

	// Last returns the topic's newest position, as the owner of the history knows
	// it, not a copy that lags. A topic without a publication has an epoch and an
	// offset too: a later publication's is greater.
	Last(ctx context.Context, topic string) (Position, error)

	// Read returns publications after one offset and up to another, both in the
	// current epoch, oldest first, limit at most. It may return fewer than there are,
	// to keep a page to some hundred kilobytes, but one at least if there is one: Upto
	// then says how far the page goes, and the caller reads on from there.
	Read(ctx context.Context, topic string, after, upto uint64, limit int) (Page, error)

	// Tail returns the newest publications, limit at most, oldest first, without a hole
	// between the first of them and Upto. If they are too large for memory, the page
	// holds only the oldest of them, at least 128 KB, and Upto is the offset of its last
	// one. The caller then reads on with Read. If the page reaches the topic's newest
	// publication and has fewer than limit, the history has no more.
	Tail(ctx context.Context, topic string, limit int) (Page, error)
}

// Page is a part of a topic's history.
type Page struct {
	Publications []*Publication

	// Epoch is that of the history that was read.
	Epoch string

	// Upto is the highest offset that this page covers. It is lower than what was
	// asked for if the page was cut, by limit or for its size, or if the copy of the
	// history that answered lags. An empty page that reaches far enough says that
	// there is nothing.
	Upto uint64

	// Complete says of a Read that nothing between after and the last of
	// Publications is missing: it was never there, or it is in the page. False
	// when it may have been dropped from the history.
	Complete bool
}

// Bus is a Broker that can speak to every server of the same application.
type Bus interface {
	// Broadcast sends b to the others and to this server.
	Broadcast(ctx context.Context, kind string, b []byte) error

	// OnBroadcast has f called for each broadcast of a kind: those of one sender in its
	// order, those of several perhaps at one time. It is called before Start, once for
	// a kind; the Server's is "live".
	OnBroadcast(kind string, f func(from string, b []byte))
}

// Subscription is something that goes on until Unsubscribe ends it.
type Subscription interface {
	Unsubscribe() error
}

// PubSub is the least that a messaging system does. FromPubSub makes a Broker of one.
//
// A subject is at most three times as long as a topic, 765 bytes with default options, and has
// letters and digits of any script, '-', '_', ':', '/', '=', '@', '~', '%' and single dots
// within, never at its ends. So none is a pattern for NATS, Redis, MQTT or AMQP, and a system
// that takes such names needs to check nothing. Both methods get the same subject for a topic.
type PubSub interface {
	Publish(subject string, data []byte) error
	Subscribe(subject string, handler func(data []byte)) (Subscription, error)
	Close() error
}
