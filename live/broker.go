package live

import (
	"time"

	"github.com/livetopic/livetopic/live/broker"
)

// Broker carries publications to every server that has a subscriber, and may keep the history of
// topics. The MemoryBroker, which a Server makes for itself, serves one process. Package
// natsbroker has a Broker for many processes. Package broker has what authors of other brokers
// need.
type Broker = broker.Broker

// Position is a place in a topic's history. A topic without history has only the zero Position.
type Position = broker.Position

// ParsePosition is the inverse of Position.String. It returns the zero Position for "", and an
// error for a text that is not a position.
func ParsePosition(s string) (Position, error) { return broker.ParsePosition(s) }

// brokerTimeout bounds one call to the broker.
const brokerTimeout = 5 * time.Second
