package live

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
)

// Publish is Server.Publish with v encoded as JSON. A []byte or json.RawMessage is JSON already, and
// is published as it is. The error wraps ErrInvalidData if v cannot be encoded.
func Publish[T any](s *Server, topic string, v T, opts ...PublishOption) error {
	data, err := marshal(v)
	if err != nil {
		return err
	}
	return s.Publish(topic, data, opts...)
}

// marshal returns a value as JSON. A []byte or json.RawMessage stays as it is.
func marshal(v any) ([]byte, error) {
	switch v := v.(type) {
	case []byte:
		return v, nil
	case json.RawMessage:
		return v, nil
	}
	data, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalidData, err)
	}
	return data, nil
}

// Listen is Server.Listen with the data decoded from JSON; a []byte gets the JSON itself. A publication that cannot be decoded
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

// History is Server.History with the data decoded from JSON, as for Listen. If a publication cannot be
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
	if raw, ok := v.(*[]byte); ok {
		*raw = m.Data
		return nil
	}
	return json.Unmarshal(m.Data, v)
}
