package live

import (
	"context"
	"errors"

	"github.com/livetopic/livetopic/live/broker"
)

// guarded is a Recoverer whose panics are errors: it is asked in goroutines that serve many
// sessions, and a broker of somebody's own must not end the process.
type guarded struct {
	broker.Recoverer
	server *Server
}

var errBrokerPanicked = errors.New("live: the broker panicked")

func (g guarded) Last(ctx context.Context, topic string) (at Position, err error) {
	defer g.catch("Last", topic, &err)
	return g.Recoverer.Last(ctx, topic)
}

func (g guarded) Read(ctx context.Context, topic string, after, upto uint64, limit int) (p broker.Page, err error) {
	defer g.catch("Read", topic, &err)
	return g.Recoverer.Read(ctx, topic, after, upto, limit)
}

func (g guarded) Tail(ctx context.Context, topic string, limit int) (p broker.Page, err error) {
	defer g.catch("Tail", topic, &err)
	return g.Recoverer.Tail(ctx, topic, limit)
}

func (g guarded) catch(method, topic string, err *error) {
	if p := recover(); p != nil {
		g.server.panicked("Recoverer."+method, p, "topic", topic)
		*err = errBrokerPanicked
	}
}
