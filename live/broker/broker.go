package broker

import (
	"context"
	"time"
)

// A Broker carries publications from whoever publishes to every server that has
// a subscriber. It may implement Recoverer, Bus and InProcess as well. A type that wraps
// a Broker should embed it as its own type, so that these are there too.
type Broker interface {
	// Start is called once, by live.New, before anything else. What can fail fails in
	// the broker's own constructor.
	Start(s Sink)

	// Subscribe is called for the first local subscriber of a topic. After it has
	// returned, publications made at this server are delivered. Those of other servers
	// follow as soon as their brokers know of the subscription.
	Subscribe(ctx context.Context, topic string) error

	// Unsubscribe is called when the last local subscriber has gone, and when a
	// Subscribe has failed. Without a subscription it is no error. It must not wait
	// for a Deliver: the caller holds a lock that Deliver takes.
	Unsubscribe(topic string) error

	// Publish returns when the broker has the publication for good, with its
	// position on a topic that keeps history, else with the zero Position. It may
	// call Deliver before it returns. data is not changed after the call.
	Publish(ctx context.Context, topic string, data []byte, o PublishOptions) (Position, error)

	// Close ends the broker. Calls that come after it return an error. Server.Shutdown
	// calls it when all sessions have ended.
	Close(ctx context.Context) error
}

// Sink takes what a Broker delivers. The Server implements it, and Rules too.
type Sink interface {
	// Deliver hands over a publication. On a topic with history the calls come one after
	// another, in the topic's order. On other topics the calls for one publisher do.
	// A publication of a topic without a subscriber here is dropped. Deliver never blocks
	// for long.
	Deliver(p *Publication)

	// Lost says that deliveries of a topic may be missing; "" stands for all topics. The
	// server then compares positions, and fetches what it lacks.
	Lost(topic string, cause error)
}

// Rules says what the application wants of its topics. A broker may ask whether its Sink
// implements it.
type Rules interface {
	// History returns how many publications a topic keeps, and for how long, as
	// live.TopicOptions says it. 0 publications: the topic keeps none. Age 0: no bound.
	History(topic string) (size int, age time.Duration)

	// Keyed reports whether a topic keeps the newest publication of each key.
	Keyed(topic string) bool
}

// Publication is one message of a topic. It is not changed once delivered.
type Publication struct {
	Topic string    // to which it was published
	Data  []byte    // JSON, or empty
	Time  time.Time // when the broker took it
	Position

	// Prev is the offset of the publication before this one on the topic. 0: the broker
	// does not know it, or there is none. A server that has not seen the publication
	// at Prev has lost something. If Prev is 0, and Offset is not the next number, the
	// server looks into the history. On a keyed topic Prev is the offset of the publication
	// before this one that has the same key.
	Prev uint64

	// Key names the thing of which Data is the newest value. "": the publication has no key.
	Key string

	// Removed says that the key has no value any more. Data is empty.
	Removed bool

	// Except is the ID of a session that does not get it; "" for none.
	Except string

	// TraceParent is the trace in which it was published, as W3C Trace Context has it; "": none. A
	// broker that cannot carry it leaves it out.
	TraceParent string
}

// PublishOptions go with one publication to the Broker.
type PublishOptions struct {
	// Except is the ID of a session that does not get the publication.
	Except string

	// ID names the publication; "": it has no name. On a topic with history a broker makes a second
	// publication with the same ID within two minutes only once: for the second, Publish
	// returns the position of the first.
	ID string

	// TraceParent is that of the publication.
	TraceParent string

	// Key and Remove are the Key and Removed of the publication.
	Key    string
	Remove bool

	// History and HistoryAge are the topic's, for brokers that have no rule of their own
	// for what to keep.
	History    int
	HistoryAge time.Duration

	// Keyed says that the topic keeps the newest publication of each key, and of History keys
	// at most. Publish then returns an error that wraps ErrTooManyKeys for one key more.
	// The removal of a key is kept for a while too, so that a Read tells of it.
	Keyed bool
}

// InProcess is implemented by a Broker whose histories are all in the memory of this process.
type InProcess interface {
	// InProcess reports that three things hold. Reads return at once, and have the newest
	// publication. Deliveries are never lost. And Publish has delivered when it returns,
	// and uses data no longer unless the topic keeps history. The server then does
	// without the copies, checks and queues that other brokers need.
	InProcess() bool
}

// Bus is implemented by a Broker that can speak to every server of the application.
type Bus interface {
	// Broadcast sends b to every server, this one included. Delivery is at most once.
	Broadcast(ctx context.Context, b []byte) error

	// OnBroadcast has f called for each broadcast. Those of one sender come in its order;
	// those of several may come at the same time. live.New calls it once, before Start.
	OnBroadcast(f func(b []byte))
}
