package live

import (
	"time"

	"github.com/livetopic/livetopic/live/broker"
)

// Broker carries publications from whoever publishes to every server that has a
// subscriber, and may keep the history of topics. The one in memory, which a Server makes for
// itself, serves one process. Package natsbroker has one for many. Whoever writes another
// finds all about it in package broker.
type Broker = broker.Broker

// Position is a place in a topic's history. The zero Position is that of a topic
// that keeps none.
type Position = broker.Position

// ParsePosition is the inverse of Position.String. The error says that a text is no position.
func ParsePosition(s string) (Position, error) { return broker.ParsePosition(s) }

// brokerTimeout bounds one call to the broker.
const brokerTimeout = 5 * time.Second
