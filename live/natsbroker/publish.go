package natsbroker

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/livetopic/livetopic/live"
)

// Publish implements live.Broker. A topic that a stream covers has the publication
// stored when it returns nil; the error wraps live.ErrUnavailable when it was not
// acknowledged within Options.PublishTimeout, and it may have been stored then.
// Others have it on its way.
func (b *Broker) Publish(ctx context.Context, topic string, data []byte, o live.PublishOptions) (live.Position, error) {
	if b.closed.Load() {
		return live.Position{}, live.ErrServerClosed
	}
	if err := ctx.Err(); err != nil {
		return live.Position{}, err
	}
	tokens, err := encode(topic)
	if err != nil {
		return live.Position{}, err
	}
	if st := b.streams.of(topic, tokens); st != nil {
		return st.publish(ctx, tokens, data, o)
	}
	if o.Except == "" {
		err = b.nc.Publish(b.deliverySubject(tokens), data)
	} else {
		m := nats.NewMsg(b.deliverySubject(tokens))
		m.Data = data
		setExcept(m, o.Except)
		err = b.nc.PublishMsg(m)
	}
	if err != nil {
		return live.Position{}, fmt.Errorf("natsbroker: %w", unavailable(err))
	}
	return live.Position{}, nil
}

// publish stores a publication. It is tried again with the same ID, by which JetStream
// knows it if only the acknowledgement was lost.
func (st *stream) publish(ctx context.Context, tokens string, data []byte, o live.PublishOptions) (live.Position, error) {
	caller := ctx
	ctx, cancel := context.WithTimeout(ctx, st.broker.opts.PublishTimeout)
	defer cancel()
	stop := context.AfterFunc(st.broker.ctx, cancel)
	defer stop()

	m := nats.NewMsg(st.subject(tokens))
	m.Data = data
	m.Header.Set(jetstream.MsgIDHeader, nuid.Next())
	m.Header.Set(jetstream.ExpectedStreamHeader, st.config.Name)
	setExcept(m, o.Except)
	var before seen
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, 250*time.Millisecond) {
		var ack *jetstream.PubAck
		var err error
		if !st.found.Load() { // nor compared with what it was
			err = st.remake(ctx)
		}
		if err == nil {
			if before.epoch == "" {
				before = st.newestSeen()
			}
			ack, err = st.attempt(ctx, m)
		}
		if err == nil {
			if ack.Duplicate {
				st.sendOn(m, tokens, ack.Sequence)
			}
			return st.acknowledged(ctx, before, ack.Sequence), nil
		}
		if gone(err) {
			if made := st.remake(ctx); made != nil {
				err = made
			}
		}
		if ctx.Err() == nil && !errors.Is(unavailable(err), live.ErrUnavailable) && !gone(err) {
			return live.Position{}, fmt.Errorf("natsbroker: stream %s: %w", st.config.Name, err)
		}
		if !sleep(ctx, wait) {
			switch {
			case st.broker.closed.Load():
				return live.Position{}, live.ErrServerClosed
			case caller.Err() != nil:
				return live.Position{}, caller.Err()
			}
			return live.Position{}, fmt.Errorf("natsbroker: stream %s does not acknowledge: %w: %w", st.config.Name, live.ErrUnavailable, err)
		}
	}
}

func (st *stream) attempt(ctx context.Context, m *nats.Msg) (*jetstream.PubAck, error) {
	ctx, cancel := context.WithTimeout(ctx, ackTimeout)
	defer cancel()
	return st.broker.js.PublishMsg(ctx, m, jetstream.WithRetryAttempts(0))
}

// sendOn does what the stream's leader may not have lived to do, when an earlier attempt
// had been stored: it sends the publication to the subscribers. They drop what they have,
// and look into the history for what came before it.
func (st *stream) sendOn(m *nats.Msg, tokens string, sequence uint64) {
	again := nats.NewMsg(st.broker.deliverySubject(tokens))
	again.Data = m.Data
	again.Header.Set(headerStream, st.config.Name)
	again.Header.Set(headerSequence, strconv.FormatUint(sequence, 10))
	if except := m.Header.Get(headerExcept); except != "" {
		again.Header.Set(headerExcept, except)
	}
	if err := st.broker.nc.PublishMsg(again); err != nil {
		st.broker.logger.Debug("natsbroker: not sent on again", "stream", st.config.Name, "err", err)
	}
}

// acknowledged returns the position of a publication. before was seen before it was published:
// a sequence that is not greater was given twice.
func (st *stream) acknowledged(ctx context.Context, before seen, sequence uint64) live.Position {
	if sequence <= before.sequence {
		st.givenTwice(before.epoch)
	}
	state, err := st.since(ctx, time.Time{})
	if err != nil {
		return live.Position{} // it is stored; where, the subscribers will learn
	}
	st.saw(sequence, time.Time{})
	return live.Position{Epoch: state.epoch, Offset: sequence}
}
