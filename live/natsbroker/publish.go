package natsbroker

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/livetopic/livetopic/live/broker"
)

// Publish implements live.Broker. If a stream covers the topic, the publication is stored when
// Publish returns nil. If no acknowledgement comes within Options.PublishTimeout, the error
// wraps live.ErrUnavailable, and the publication may have been stored. Without a stream the
// publication is on its way when Publish returns nil.
//
// An error that wraps ErrFull, ErrNotOurs, live.ErrTooLarge or live.ErrInvalidTopic comes at
// once, and says that the publication was not stored.
func (b *Broker) Publish(ctx context.Context, topic string, data []byte, o broker.PublishOptions) (broker.Position, error) {
	if b.closed.Load() {
		return broker.Position{}, broker.ErrServerClosed
	}
	if err := ctx.Err(); err != nil {
		return broker.Position{}, err
	}
	tokens, err := encode(topic)
	if err != nil {
		return broker.Position{}, err
	}
	if st := b.streams.of(topic, tokens); st != nil {
		if err := st.prepareKey(ctx, topic, tokens, &o); err != nil {
			return broker.Position{}, err
		}
		at, err := st.publish(ctx, tokens, data, o)
		st.noteKey(tokens, &o, err)
		return at, err
	}
	subject := b.deliverySubject(tokens)
	if err := b.mayPublish(subject); err != nil {
		return broker.Position{}, err
	}
	if o.Except == "" && o.TraceParent == "" {
		err = b.nc.Publish(subject, data)
	} else {
		m := nats.NewMsg(subject)
		m.Data = data
		setExcept(m, o.Except)
		setTrace(m, o.TraceParent)
		err = b.nc.PublishMsg(m)
	}
	if err != nil {
		return broker.Position{}, fmt.Errorf("natsbroker: %w", unavailable(err))
	}
	return broker.Position{}, nil
}

// mayPublish returns why a publication to a subject would not be sent; nil: it would be.
func (b *Broker) mayPublish(subject string) error {
	if err := b.notConnected(); err != nil {
		return fmt.Errorf("natsbroker: %w", err)
	}
	if err := b.denials.publishError(subject); err != nil {
		return err
	}
	return b.mayUse(subject)
}

// messageID returns the ID by which JetStream recognizes a publication that it has already: all
// attempts to publish it have the same. JetStream knows IDs of whole streams, so the topic is
// part of the ID. Hashed it may stand in a header, whatever it was made of.
func messageID(tokens, id string) string {
	if id == "" {
		return nuid.Next()
	}
	sum := sha256.Sum256([]byte(tokens + " " + id))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// publish stores a publication. If only the acknowledgement of an attempt was lost, JetStream
// recognizes the next attempt by its ID.
func (st *stream) publish(ctx context.Context, tokens string, data []byte, o broker.PublishOptions) (broker.Position, error) {
	b := st.broker
	m := nats.NewMsg(st.publishSubject(tokens, o.Key))
	m.Data = data
	m.Header.Set(jetstream.MsgIDHeader, messageID(tokens, o.ID))
	m.Header.Set(jetstream.ExpectedStreamHeader, st.config.Name)
	setExcept(m, o.Except)
	setTrace(m, o.TraceParent)
	st.setKey(m, &o)
	if err := st.mayPublish(m); err != nil {
		return broker.Position{}, fmt.Errorf("natsbroker: stream %s: %w", st.config.Name, err)
	}

	caller := ctx
	ctx, cancel := context.WithTimeout(ctx, b.opts.PublishTimeout)
	defer cancel()
	stop := context.AfterFunc(b.mender.context(b), cancel)
	defer stop()

	unanswered := false // an attempt without an answer may have been stored
	var before seen
	b.scans.publishing()
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, 250*time.Millisecond) {
		var ack *jetstream.PubAck
		err := st.prepare(ctx, data)
		sent := err == nil
		if sent {
			if before.epoch == "" {
				before = st.newestSeen()
			}
			ack, err = st.attempt(ctx, m)
		}
		if err == nil {
			st.stored()
			if ack.Duplicate {
				st.sendOn(m, ack.Sequence)
			}
			if ack.Duplicate && o.ID != "" {
				before.sequence = 0 // the publication may be older than the call
			}
			return st.acknowledged(ctx, before, ack.Sequence), nil
		}
		if gone(err) {
			err = st.explainGone(ctx, m.Subject, err)
		} else if errors.Is(err, context.DeadlineExceeded) {
			unanswered = unanswered || sent && b.mender.refuses() == nil
			b.mender.checkStore()
			if broken := b.mender.current(); broken != nil && st.config.Replicas == 1 {
				return broker.Position{}, st.notStored(broken, unanswered) // no other node can answer
			}
		}
		err = unavailable(err)
		if errors.Is(err, ErrFull) || errors.Is(err, errNotAccepted) {
			st.refused(err)
			return broker.Position{}, st.notStored(err, unanswered)
		}
		if denied := b.denials.publishError(m.Subject); denied != nil {
			err = denied
		}
		if ctx.Err() == nil && endsPublish(err) {
			// NATS does not answer a publication that it does not permit, so a denial explains
			// why there was no answer.
			return broker.Position{}, st.notStored(err, unanswered && !errors.Is(err, errDenied))
		}
		if !sleep(ctx, wait) {
			switch broken := b.mender.refuses(); {
			case b.closed.Load():
				return broker.Position{}, broker.ErrServerClosed
			case caller.Err() != nil:
				return broker.Position{}, caller.Err()
			case broken != nil:
				return broker.Position{}, st.notStored(broken, unanswered)
			}
			return broker.Position{}, fmt.Errorf("natsbroker: stream %s does not acknowledge: %w: %w", st.config.Name, broker.ErrUnavailable, err)
		}
	}
}

// mayPublish returns why the stream would not take a message; nil: it would.
func (st *stream) mayPublish(m *nats.Msg) error {
	b := st.broker
	if err := b.mender.refuses(); err != nil {
		return err
	}
	if err := b.denials.publishError(m.Subject); err != nil {
		return err
	}
	return b.mayUse(m.Subject)
}

// prepare makes sure that a publication can be sent. The stream must first be known to be ours:
// a stream of another program may store the same subject. After an error nothing was sent.
func (st *stream) prepare(ctx context.Context, data []byte) error {
	if err := st.broker.notConnected(); err != nil {
		return err
	}
	if !st.found.Load() || st.foreign() != nil { // if it was not found, it is not yet compared either
		if err := st.remake(ctx); err != nil {
			return err
		}
	}
	return st.fits(ctx, data)
}

// attempt publishes once.
func (st *stream) attempt(ctx context.Context, m *nats.Msg) (*jetstream.PubAck, error) {
	ctx, cancel := context.WithTimeout(ctx, ackTimeout)
	defer cancel()
	return st.broker.js.PublishMsg(ctx, m, jetstream.WithRetryAttempts(0))
}

// explainGone returns why no stream answers a publication, and makes a stream that is missing.
func (st *stream) explainGone(ctx context.Context, subject string, err error) error {
	if err := st.remake(ctx); err != nil {
		if deserted := st.broker.mender.deserted(); deserted != nil {
			return deserted
		}
		return err
	}
	if takes, failed := st.takes(ctx, subject); failed == nil && !takes {
		err = fmt.Errorf("%w: it does not store %s, so another instance of the application has changed its Subjects: call EnsureStream, or restart this instance", errChanged, subject)
		if st.broker.logLimit.due("changed " + st.config.Name) {
			st.broker.logger.Warn("natsbroker: stream was changed", "stream", st.config.Name, "err", err)
		}
		return err
	}
	return err
}

// errChanged is wrapped by the error for a stream that another instance has changed.
var errChanged = errors.New("natsbroker: another instance has changed the stream")

// sendOn sends a publication to the subscribers when an earlier attempt was stored: the leader
// may have died before it republished it. Subscribers that have the publication drop it. The
// others read what came before it from the history.
func (st *stream) sendOn(m *nats.Msg, sequence uint64) {
	again := nats.NewMsg(st.deliverySubject("") + strings.TrimPrefix(m.Subject, st.broker.opts.Prefix+"."+st.head+"."))
	again.Data = m.Data
	again.Header.Set(headerStream, st.config.Name)
	again.Header.Set(headerSequence, strconv.FormatUint(sequence, 10))
	for _, header := range []string{headerExcept, headerTrace, headerMarker} {
		if value := m.Header.Get(header); value != "" {
			again.Header.Set(header, value)
		}
	}
	if err := st.broker.nc.PublishMsg(again); err != nil {
		st.broker.logger.Debug("natsbroker: a publication was not sent to the subscribers again", "stream", st.config.Name, "err", err)
	}
}

// acknowledged returns the position of a publication. before was taken before the publication
// was sent, so a sequence that is not greater was given twice.
func (st *stream) acknowledged(ctx context.Context, before seen, sequence uint64) broker.Position {
	if sequence <= before.sequence {
		st.givenTwice(before.epoch)
	}
	state, err := st.stateSince(ctx, time.Time{})
	if err != nil {
		return broker.Position{} // it is stored, and the subscribers will learn its position
	}
	st.saw(sequence, time.Time{})
	return broker.Position{Epoch: state.epoch, Offset: sequence}
}
