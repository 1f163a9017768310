package live

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"sync/atomic"
	"unicode/utf8"

	"github.com/livetopic/livetopic/live/broker"
)

// maxPublicationID bounds the ID of a publication in bytes: two UUIDs in hexadecimal fit in it.
const maxPublicationID = 128

// ID names the publication. On a topic that keeps history a second publication with the same ID
// is not made if it comes within two minutes, and Publish returns as if it were. So a program that
// does not know whether a Publish succeeded can repeat it. "" names nothing. Publish refuses an ID
// of more than 128 bytes. On other topics only this server, if it has the broker in memory,
// recognizes an ID. A NATS server that starts anew knows the IDs of the publications that it still
// has: of a keyed topic, those of the newest values.
func ID(id string) PublishOption {
	return func(p *publishing) { p.ID = id }
}

// Key says of which thing the publication is the newest value: a cursor, a player, a row. If the
// topic drops publications for clients that read too slowly, it drops older ones of the same key
// only. On a keyed topic (TopicOptions.Keyed) each publication must have a key. "" is no key. Publish
// refuses a key of more than 128 bytes, and one that is not UTF-8.
func Key(key string) PublishOption {
	return func(p *publishing) { p.Key = key }
}

// maxKey bounds a key in bytes: the name of a user or a UUID, with a prefix.
const maxKey = 128

// Remove removes a key of a keyed topic, at every server and at every client. A key that is not
// there is no error. The error wraps ErrNoKey if key is empty or the topic is not keyed, and else is
// one of those of Publish.
func (s *Server) Remove(topic, key string, opts ...PublishOption) error {
	remove := func(p *publishing) { p.Key, p.Remove = key, true }
	_, err := s.publish(context.Background(), topic, nil, append(slices.Clone(opts), remove)...)
	return err
}

// checkKey returns why a publication may not have its key; nil: it may.
func checkKey(o *broker.PublishOptions) error {
	switch {
	case len(o.Key) > maxKey:
		return fmt.Errorf("the key has %d bytes, and may have %d", len(o.Key), maxKey)
	case !utf8.ValidString(o.Key):
		return fmt.Errorf("the key %q is not UTF-8", o.Key)
	case o.Keyed && o.Key == "":
		return ErrNoKey
	case o.Remove && !o.Keyed:
		return fmt.Errorf("%w: only a keyed topic has keys to remove; see TopicOptions.Keyed", ErrNoKey)
	}
	return nil
}

// traceParent is the only form that W3C Trace Context, version 00, allows (section 3.2).
var traceParent = regexp.MustCompile(`^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$`)

// validTraceParent returns a traceparent, or "" if it is none: a trace must not keep a publication
// from being made.
func validTraceParent(p string) string {
	if p != "" && traceParent.MatchString(p) {
		return p
	}
	return ""
}

// SetTraceParent sets the trace of the publication that OnPublish is asked about. It is for OnPublish, and
// for packages that wrap it. ctx is the context that OnPublish was given, or one made from it.
// traceParent has the form that Options.TraceParent returns. That function is then not called for this
// publication. With any other context, or with "", SetTraceParent changes nothing.
func SetTraceParent(ctx context.Context, traceParent string) {
	if c, ok := ctx.Value(publishContextKey{}).(*publishContext); ok {
		c.traceParent.Store(&traceParent)
	}
}

// publishContext is the context of one call of OnPublish.
type publishContext struct {
	context.Context
	traceParent atomic.Pointer[string] // atomic, since OnPublish may hand the context to other goroutines; nil: not set
}

type publishContextKey struct{}

// Value also returns the publishContext itself, for SetTraceParent.
func (c *publishContext) Value(key any) any {
	if key == (publishContextKey{}) {
		return c
	}
	return c.Context.Value(key)
}

// PublishContext is Publish with a context, and returns the publication's position; zero on a
// topic without history. The broker gets the context, with its deadline. If ctx ends first, the
// error is that of ctx, and the publication may or may not be made.
func (s *Server) PublishContext(ctx context.Context, topic string, data []byte, opts ...PublishOption) (Position, error) {
	if err := ctx.Err(); err != nil {
		return Position{}, fmt.Errorf("live: publish to %q: %w", topic, err)
	}
	return s.publish(ctx, topic, data, opts...)
}

// Position returns the newest position of a topic, for a page that is rendered from a database:
// take the position, then read the database, and have the page subscribe since the position. It
// then misses nothing. What is published between the two it gets twice, in the page and as a
// publication.
//
// It takes five seconds at most. The error wraps ErrInvalidTopic, or ErrNoHistory if the topic
// keeps none, or is the broker's.
func (s *Server) Position(ctx context.Context, topic string) (Position, error) {
	if err := s.checkKept(topic); err != nil {
		return Position{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, brokerTimeout)
	defer cancel()
	at, err := s.topics.last(ctx, nil, topic)
	if err != nil {
		return Position{}, fmt.Errorf("live: position of %q: %w", topic, err)
	}
	return at, nil
}
