package live

import "context"

// SubscribeContext is Subscribe with a context, as clients' own operations have one.
func SubscribeContext(s *Server, ctx context.Context, sess *Session, topic string, opts ...SubscribeOption) error {
	var o subscribing
	for _, opt := range opts {
		opt(&o)
	}
	return s.subscribe(ctx, sess, topic, o)
}
