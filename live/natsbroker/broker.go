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

	"github.com/livetopic/livetopic/live"
)

// Broker is a live.Broker, a live.Recoverer and a live.Bus on NATS. It is made with
// New, given to one live.Server, and closed by that server's Shutdown.
//
// A publication of a topic that no stream covers goes to the nodes that are subscribed,
// and is at most once. One of a topic that a stream covers is stored first, and
// sent on by the stream with its sequence and the one before it, by which a server
// notices what it lacks.
type Broker struct {
	opts       Options
	logger     *slog.Logger
	name       string // in broadcasts: this broker and no other
	nc         *nats.Conn
	js         jetstream.JetStream
	api        string    // prefix of JetStream's subjects
	server     *embedded // nil: NATS is elsewhere
	streams    streamTable
	mender     *mender // nil: the streams are not this server's
	logLimit   logLimit
	denials    denials
	maxSubject atomic.Int64 // subject that NATS takes, in bytes; 0: any

	sink  live.Sink
	rules live.Rules // the server's; nil: it has told none

	hub hub // topics that are subscribed
	bus bus

	scans scans
	cache readCache

	ctx          context.Context // of what goes on in the background
	cancel       context.CancelFunc
	tasks        sync.WaitGroup
	closed       atomic.Bool
	status       chan nats.Status
	errorHandler nats.ErrHandler // the application's own, of Options.Conn
}

var (
	_ live.Broker    = (*Broker)(nil)
	_ live.Recoverer = (*Broker)(nil)
	_ live.Bus       = (*Broker)(nil)
)

// flushTimeout is how long Close waits for the NATS server to have taken what was
// published last.
const flushTimeout = 2 * time.Second

// New starts a NATS server in this process, or connects to the one of Options, and has
// the streams made. With a server that is alone, all is ready when New returns. With
// others to wait for, New does not: publications to streams fail with
// live.ErrUnavailable until Ready would return nil.
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
	b.OnBroadcast(broadcastEpoch, b.epochEnded)
	if b.countsMessages() {
		b.tasks.Go(b.countMessages) // ends with Close
	}
	if err := b.ensureAtStart(); err != nil {
		b.Close(context.Background())
		return nil, err
	}
	if b.server == nil {
		b.tasks.Go(b.measureLines) // ends when it knows, or with Close
	}
	return b, nil
}

// connect gets a connection, and the server behind it if it is to be embedded.
func (b *Broker) connect() error {
	o := b.opts
	options := []nats.Option{
		nats.Name("livetopic"),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(100 * time.Millisecond), // as long as a server needs to start anew
		nats.ReconnectBufSize(-1),                  // what cannot be sent is an error, not late
		nats.RetryOnFailedConnect(true),
		nats.IgnoreAuthErrorAbort(), // credentials may be put right while this runs
	}
	var err error
	switch {
	case o.Conn != nil:
		if err := checkConn(o.Conn); err != nil {
			return err
		}
		b.nc = o.Conn
		b.errorHandler = o.Conn.ErrorHandler()
		o.Conn.SetErrorHandler(b.connectionError)
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
func (b *Broker) Start(s live.Sink) {
	b.sink = s
	b.rules, _ = s.(live.Rules)
	b.hub.start()
	b.bus.start()
	b.tasks.Go(b.watchConnection) // ends with Close
	if b.mender != nil {
		b.tasks.Go(b.mender.watch) // likewise
	}
}

// Subscribe implements live.Broker.
func (b *Broker) Subscribe(ctx context.Context, topic string) error {
	if b.closed.Load() {
		return live.ErrServerClosed
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	tokens, err := encode(topic)
	if err != nil {
		return err
	}
	subject := b.deliverySubject(tokens)
	if err := b.mayUse(subject); err != nil {
		return err
	}
	return b.hub.subscribe(topic, subject, b.streams.of(topic, tokens))
}

// Unsubscribe implements live.Broker.
func (b *Broker) Unsubscribe(topic string) error {
	tokens, err := encode(topic)
	if err != nil {
		return nil // nobody could subscribe to it
	}
	b.hub.unsubscribe(b.deliverySubject(tokens))
	return nil
}

// The subjects under the prefix: deliveries, which is all that nodes subscribe to;
// what streams take in; the same of the default stream; broadcasts.
func (b *Broker) deliverySubject(tokens string) string { return b.opts.Prefix + ".d." + tokens }
func (b *Broker) storedSubject(tokens string) string   { return b.opts.Prefix + ".s." + tokens }
func (b *Broker) defaultSubject(tokens string) string  { return b.opts.Prefix + ".h." + tokens }
func (b *Broker) busSubject(tokens string) string      { return b.opts.Prefix + ".b." + tokens }

// NATSConn returns the connection, for what this package does not do. Subjects under
// Options.Prefix are the broker's.
func (b *Broker) NATSConn() *nats.Conn { return b.nc }

// JetStream returns JetStream on the same connection.
func (b *Broker) JetStream() jetstream.JetStream { return b.js }

// Ready waits until there is a connection, every stream of Options is there, and
// nothing is known to keep NATS from storing publications: see ErrFull and ErrNotOurs.
// Options.Default counts once a topic needs it. The error is that of ctx, with
// what was last in the way and what to do about it.
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
			return live.ErrServerClosed
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// health says what is in the way now.
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
	return b.streams.missing()
}

// Close implements live.Broker. An embedded server is shut down; Options.Conn is left
// open.
func (b *Broker) Close(ctx context.Context) error {
	if b.closed.Swap(true) {
		return nil
	}
	if b.countsMessages() && b.nc.IsConnected() {
		b.countOnce(ctx)
	}
	b.cancel()
	b.nc.RemoveStatusListener(b.status)
	b.tasks.Wait()
	b.hub.stop()
	b.bus.stop()
	if b.nc.IsConnected() { // what was published without a stream is on its way still
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
