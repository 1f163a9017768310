package natsbroker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/livetopic/livetopic/live/broker"
)

// Broker is a live.Broker, a broker.Recoverer and a broker.Bus on NATS. New makes it, one
// live.Server uses it, and the Shutdown of that server closes it.
//
// A publication of a topic without a stream goes to the nodes that are subscribed, and arrives
// at most once. A publication of a topic with a stream is stored first. Then the stream
// republishes it with its sequence and the previous sequence of the topic, and a server can see
// from these what it has missed.
//
// The order of locks in this package, outermost first:
//
//	cachedTopic.turn  held while the history of a topic is read
//	stream.making     held while a stream is made or changed
//	stream.asking     held while the leader is asked for the state of a stream
//	stream.comparing  held while a stream is compared; Sink.Lost is called under it
//	the locks of package live
//	denials.mu
//	hub.mu
//	interest.mu
//
// Neither of making and asking is taken under the other. fullness.mu comes before logLimit.mu.
// notes.mu comes before noteFile.mu. No lock is taken under any other lock of this package:
// stream.mu, streamTable.mu, noteFile.mu, lane.mu, bus.mu, readCache.mu, embedded.mu, and
// scans.slots. Only the first four and scans.slots are held while NATS answers.
type Broker struct {
	opts       Options
	logger     *slog.Logger
	name       string // tells this broker from all others in broadcasts
	nc         *nats.Conn
	js         jetstream.JetStream
	api        string    // the prefix of JetStream's subjects
	server     *embedded // nil: NATS runs elsewhere
	streams    streamTable
	mender     *mender // nil: this server keeps no streams on a disk
	logLimit   logLimit
	denials    denials
	maxSubject atomic.Int64 // the longest subject that NATS takes, in bytes; 0: no limit is known

	started chan struct{} // closed by Start; before that, sink is not set
	sink    broker.Sink
	rules   broker.Rules // the rules of the live server; nil: it has none

	hub hub // the topics that are subscribed
	bus bus

	scans scans
	cache readCache

	compareNow chan struct{} // has space for one request to compare the streams

	ctx      context.Context // ends with Close; for all goroutines
	cancel   context.CancelFunc
	tasks    sync.WaitGroup
	complete atomic.Bool // New has set all fields that connectionError uses
	closed   atomic.Bool
	status   chan nats.Status
	// watchedServer is the server of the connection that watchConnection has handled last; "" or
	// nil: the connection was down then.
	watchedServer atomic.Pointer[string]
	errorHandler  nats.ErrHandler // the application's own handler, of Options.Conn or Options.Connect
}

var (
	_ broker.Broker    = (*Broker)(nil)
	_ broker.Recoverer = (*Broker)(nil)
	_ broker.Bus       = (*Broker)(nil)
)

// flushTimeout is how long Close waits until the NATS server has taken the last publications.
const flushTimeout = 2 * time.Second

// New starts a NATS server in this process, or connects to the NATS of Options, and makes the
// streams. An embedded server that is alone is ready when New returns. In all other cases New
// does not wait for the other nodes: until Ready returns nil, publications to streams fail with
// live.ErrUnavailable.
//
// The error says what is wrong with the options, or why the server did not start.
func New(o Options) (*Broker, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	b := &Broker{
		opts:   o,
		logger: o.Logger,
		name:   nuid.Next(),

		started:    make(chan struct{}),
		compareNow: make(chan struct{}, 1),
	}
	b.ctx, b.cancel = context.WithCancel(context.Background())
	if err := b.connect(); err != nil {
		b.cancel()
		return nil, err
	}
	b.scans.init(b.server != nil)
	b.hub.init(b, runtime.GOMAXPROCS(0))
	b.bus.init(b)
	b.streams.init(b)
	b.mender = newMender(b)
	b.complete.Store(true)
	if o.Conn != nil {
		b.errorHandler = o.Conn.ErrorHandler()
		o.Conn.SetErrorHandler(b.connectionError)
	}
	b.onBroadcast(broadcastEpoch, b.epochEnded)
	b.onBroadcast(broadcastCompare, b.askedToCompare)
	if b.countsMessages() {
		b.tasks.Go(b.countMessages) // ends with Close
	}
	if b.server == nil || b.opts.Cluster != nil {
		b.tasks.Go(b.compareRegularly) // ends with Close
	}
	if err := b.ensureAtStart(); err != nil {
		b.Close(context.Background())
		return nil, err
	}
	if b.server == nil {
		b.tasks.Go(b.measureLines) // ends with the result, or with Close
	}
	return b, nil
}

// connect makes the connection, and starts the embedded server if there is to be one.
func (b *Broker) connect() error {
	o := b.opts
	options := []nats.Option{
		nats.Name("livetopic"),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(100 * time.Millisecond), // about the time in which a server restarts
		nats.ReconnectBufSize(-1),                  // a publication that cannot be sent now fails; it is not sent later
		nats.RetryOnFailedConnect(true),
		nats.IgnoreAuthErrorAbort(), // an operator may correct the credentials while this runs
	}
	var err error
	switch {
	case o.Conn != nil:
		if err := checkConn(o.Conn); err != nil {
			return err
		}
		b.nc = o.Conn
	case len(o.Servers) > 0:
		options = append(append(options, o.Connect...), b.checkConnect)
		b.nc, err = nats.Connect(strings.Join(o.Servers, ","), options...)
		if errors.Is(err, errConnect) {
			return err
		}
		if err != nil {
			return fmt.Errorf("natsbroker: %w", err)
		}
	default:
		if b.server, err = startEmbedded(o); err != nil {
			return err
		}
		options = append(options, nats.ErrorHandler(b.connectionError))
		b.nc, err = nats.Connect("", append(options, b.server.connectOptions()...)...)
		if err != nil {
			return errors.Join(fmt.Errorf("natsbroker: %w", err), b.server.stop(context.Background()))
		}
	}
	b.api = "$JS.API."
	if o.Domain != "" {
		b.api = "$JS." + o.Domain + ".API."
		b.js, err = jetstream.NewWithDomain(b.nc, o.Domain)
	} else {
		b.js, err = jetstream.New(b.nc)
	}
	if err != nil {
		return fmt.Errorf("natsbroker: %w", err)
	}
	b.status = b.nc.StatusChanged(nats.CONNECTED, nats.RECONNECTING, nats.CLOSED)
	return nil
}

// Start implements live.Broker.
func (b *Broker) Start(s broker.Sink) {
	b.sink = s
	b.rules, _ = s.(broker.Rules)
	close(b.started)
	b.hub.start()
	b.bus.start()
	b.tasks.Go(b.watchConnection) // ends with Close
	if b.mender != nil {
		b.tasks.Go(b.mender.watch) // ends with Close
	}
}

// Subscribe implements live.Broker.
func (b *Broker) Subscribe(ctx context.Context, topic string) error {
	if b.closed.Load() {
		return broker.ErrServerClosed
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	tokens, err := encode(topic)
	if err != nil {
		return err
	}
	subject := b.subscribeSubject(topic, tokens)
	if err := b.mayUse(subject); err != nil {
		return err
	}
	return b.hub.subscribe(topic, subject)
}

// Unsubscribe implements live.Broker.
func (b *Broker) Unsubscribe(topic string) error {
	tokens, err := encode(topic)
	if err != nil {
		return nil // no topic of this name can be subscribed
	}
	b.hub.unsubscribe(b.subscribeSubject(topic, tokens))
	return nil
}

// subscribeSubject returns the subject on which a topic is delivered. Of a keyed topic it lacks the
// last token.
func (b *Broker) subscribeSubject(topic, tokens string) string {
	if b.rules != nil && b.rules.Keyed(topic) {
		return b.keyedSubject(tokens)
	}
	return b.deliverySubject(tokens)
}

// The second token of the subjects that streams store, after Options.Prefix: those of the streams of
// Options, and those of the default streams.
const (
	headStored       = "s"
	headDefault      = "h"
	headKeyed        = "k"
	headKeyedDefault = "kh"
)

// Nodes subscribe to deliveries only: under "d", and under "e" to those of keyed topics, whose last token
// is the key.
func (b *Broker) deliverySubject(tokens string) string { return b.opts.Prefix + ".d." + tokens }
func (b *Broker) keyedSubject(tokens string) string    { return b.opts.Prefix + ".e." + tokens }
func (b *Broker) busSubject(tokens string) string      { return b.opts.Prefix + ".b." + tokens }

// isKeyed reports whether a subject is that of a keyed topic's deliveries.
func (b *Broker) isKeyed(subject string) bool { return strings.HasPrefix(subject, b.keyedSubject("")) }

// NATSConn returns the connection, for everything that this package does not do. The subjects
// under Options.Prefix belong to the broker.
func (b *Broker) NATSConn() *nats.Conn { return b.nc }

// JetStream returns JetStream on the broker's connection.
func (b *Broker) JetStream() jetstream.JetStream { return b.js }

// Ready waits until NATS is connected, every stream of Options exists, and no known problem
// keeps NATS from storing publications: see ErrFull and ErrNotOurs. Options.Default counts
// after a topic has needed it. When ctx ends first, the error is that of ctx, joined with the
// last problem and its remedy.
func (b *Broker) Ready(ctx context.Context) error {
	for {
		err := b.health()
		if err == nil {
			return nil
		}
		b.streams.lookAgain(ctx)
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-b.ctx.Done():
			return broker.ErrServerClosed
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// health returns the present problem; nil: there is none.
func (b *Broker) health() error {
	if err := b.notConnected(); err != nil {
		return fmt.Errorf("natsbroker: %w", err)
	}
	if err := b.mender.current(); err != nil {
		return err
	}
	if err := b.denials.current(b); err != nil {
		return err
	}
	if b.server != nil {
		if err := b.server.twin(); err != nil {
			return err
		}
	}
	return b.streams.missing()
}

// closeGrace is how long Close waits after its ctx has ended, so that an ordinary Close leaves
// nothing running.
const closeGrace = 100 * time.Millisecond

// Close implements live.Broker. It shuts down an embedded server, and leaves Options.Conn open.
// If ctx ends first, Close returns an error, and the rest goes on in the background.
func (b *Broker) Close(ctx context.Context) error {
	if b.closed.Swap(true) {
		return nil
	}
	if b.nc.IsConnected() {
		b.compareAtEnd(ctx)
	}
	b.cancel()
	ended := make(chan error, 1)
	go func() { ended <- b.end(ctx) }() // ends with the goroutines of this broker
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	select {
	case err := <-ended:
		return err
	case <-time.After(closeGrace):
		return fmt.Errorf("natsbroker: the broker is still closing: %w", ctx.Err())
	}
}

// end waits for all goroutines, and then closes what they use. The embedded server comes last:
// the mender may be about to replace it by another.
func (b *Broker) end(ctx context.Context) error {
	b.nc.RemoveStatusListener(b.status)
	b.tasks.Wait()
	b.hub.stop()
	b.bus.stop()
	if b.nc.IsConnected() { // publications without a stream may still be in the connection's buffer
		flushing, cancel := context.WithTimeout(ctx, flushTimeout)
		b.nc.FlushWithContext(flushing)
		cancel()
	}
	if b.opts.Conn != nil {
		b.nc.SetErrorHandler(b.errorHandler)
		return nil
	}
	b.nc.Close()
	if b.server == nil {
		return nil
	}
	return b.server.stop(ctx)
}
