package liveclient

import (
	"context"
	"encoding/json"
	"fmt"
)

// Subscribe is Client.Subscribe with the data decoded from JSON. Data that does not decode is an error for Options.OnError, and fn is
// not called for it. For a key that was removed, data is the zero value.
func Subscribe[T any](c *Client, topic string, fn func(data T, m Message), opts ...SubscribeOption) (*Subscription, error) {
	return c.Subscribe(topic, decoding(c, fn), opts...)
}

// Listen is Client.Listen with the data decoded from JSON, as for Subscribe.
func Listen[T any](c *Client, topic string, fn func(data T, m Message), opts ...SubscribeOption) (*Subscription, error) {
	return c.Listen(topic, decoding(c, fn), opts...)
}

func decoding[T any](c *Client, fn func(T, Message)) func(Message) {
	if fn == nil {
		return nil
	}
	return func(m Message) {
		var v T
		if err := decode(m.Data, &v); err != nil {
			c.mu.Lock()
			c.report(fmt.Errorf("liveclient: a message of %q at %q does not decode: %w", m.Topic, m.At, err))
			c.mu.Unlock()
			return
		}
		fn(v, m)
	}
}

// Request is Client.Request with the answer decoded from JSON. If there is no answer, it is the zero value.
func Request[T any](ctx context.Context, c *Client, topic string, data any, opts ...CallOption) (T, error) {
	var v T
	raw, err := c.Request(ctx, topic, data, opts...)
	if err == nil {
		if err = decode(raw, &v); err != nil {
			err = fmt.Errorf("liveclient: the answer to a request to %q does not decode: %w", topic, err)
		}
	}
	return v, err
}

// History is Client.History with the data decoded from JSON. If a publication does not decode, History returns an
// error and no values.
func History[T any](ctx context.Context, c *Client, topic string, limit int, opts ...CallOption) ([]T, error) {
	messages, err := c.History(ctx, topic, limit, opts...)
	if err != nil {
		return nil, err
	}
	values := make([]T, len(messages))
	for i, m := range messages {
		if err := decode(m.Data, &values[i]); err != nil {
			return nil, fmt.Errorf("liveclient: a message of %q at %q does not decode: %w", topic, m.At, err)
		}
	}
	return values, nil
}

// decode decodes JSON; without data v stays as it is.
func decode(data json.RawMessage, v any) error {
	if len(data) == 0 {
		return nil
	}
	if raw, ok := v.(*[]byte); ok {
		*raw = data
		return nil
	}
	return json.Unmarshal(data, v)
}
