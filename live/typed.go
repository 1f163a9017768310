package live

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
)

// Publish is Server.Publish with v encoded as JSON. The error wraps ErrInvalidData if v cannot
// be encoded.
func Publish[T any](s *Server, topic string, v T, opts ...PublishOption) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrInvalidData, err)
	}
	return s.Publish(topic, data, opts...)
}

// Listen is Server.Listen with the data decoded from JSON. A publication that cannot be decoded
// is logged as an error, and fn is not called for it.
func Listen[T any](s *Server, topic string, fn func(T), opts ...ListenOption) (Subscription, error) {
	return s.Listen(topic, func(m Message) {
		var v T
		if err := decodeData(m, &v); err != nil {
			s.logOfClient(slog.LevelError, "live: publication does not decode", "topic", topic, "err", err)
			return
		}
		fn(v)
	}, opts...)
}

// History is Server.History with the data decoded from JSON. If a publication cannot be
// decoded, History returns an error and no values.
func History[T any](ctx context.Context, s *Server, topic string, limit int) ([]T, error) {
	messages, err := s.History(ctx, topic, limit)
	if err != nil {
		return nil, err
	}
	values := make([]T, len(messages))
	for i, m := range messages {
		if err := decodeData(m, &values[i]); err != nil {
			return nil, fmt.Errorf("live: history of %q: %w", topic, err)
		}
	}
	return values, nil
}

// decodeData decodes a message's data; without data v stays as it is.
func decodeData(m Message, v any) error {
	if len(m.Data) == 0 {
		return nil
	}
	return json.Unmarshal(m.Data, v)
}
