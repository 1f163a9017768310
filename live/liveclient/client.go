package liveclient

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"sync"
	"time"
)

// Client is a client of a live server. It keeps one connection, and makes a new one when that is lost, until
// Close is called or the server ends the client. Its methods may be called from any goroutine, and from
// callbacks.
type Client struct {
	address *url.URL
	opts    Options // with defaults

	ctx    context.Context // ended by finish; waits and dials end with it
	cancel context.CancelFunc
	opened chan struct{} // closed when the first connection is open
	done   chan struct{} // closed when the client has ended

	// asking gets the result of a call of Options.Token that was still running when its attempt to connect ended; nil: there is none. Only
	// the goroutine of run uses it.
	asking chan tokenResult

	// mu guards the fields below, and those of conn, operation and Subscription that say so. It is never held
	// while a callback runs.
	mu      sync.Mutex
	status  Status
	conn    *conn // open: hello has come; nil: there is none
	lastID  uint64
	subs    map[string]*Subscription // by topic
	waiting []*operation             // for a connection, in order
	asked   map[uint64]*operation    // have been given to conn, and wait for their answers
	infos   map[string]*ownInfo      // what others see of this client, by topic
	hurry   chan struct{}            // holds one element when a wait for the next attempt should end
	lastErr error                    // of the newest attempt or connection
	closing bool                     // Close was called
	end     error                    // why the client has ended; nil: it has not
	quiet   chan struct{}            // closed when asked is empty; nil: nobody waits for that
	callers int                      // how many goroutines wait for an answer; see awaitsAnswer
	kicked  chan struct{}            // closed when callers grows; nil: the reader does not wait for that

	events  []func() // calls of OnStatus and OnError that are due
	telling bool     // a goroutine makes them
}

// State is the state of a Client.
type State int

const (
	// Connecting: an attempt to connect is under way.
	Connecting State = iota

	// Open: there is a connection, and all subscriptions have been sent.
	Open

	// Waiting: there is no connection. The next attempt comes after Status.RetryIn.
	Waiting

	// Closed: the client has ended for good.
	Closed
)

// String returns the name of the state in lower case.
func (s State) String() string {
	names := [...]string{"connecting", "open", "waiting", "closed"}
	if s < 0 || int(s) >= len(names) {
		return fmt.Sprintf("State(%d)", int(s))
	}
	return names[s]
}

// Status says how a Client is doing.
type Status struct {
	State State // now

	// Session is the server's ID of the newest connection. The application can leave this client out of
	// a publication by this ID. "": no connection was open yet.
	Session string

	// Attempt counts the attempts to connect since the newest stable connection; see Options.StableAfter.
	Attempt int

	// Err is why there is no connection. It is nil while the client is open, and before the first attempt has failed.
	// It may be a *CloseError or a *RefusedError.
	Err error

	// RetryIn is how long the client waits before its next attempt. It is 0 unless State is Waiting.
	RetryIn time.Duration
}

// Connect connects to a live server, and returns when the connection is open. The address is a ws, wss,
// http or https URL. It may have a query, and a user and password, which are sent as basic authorization unless
// there is a Token.
//
// Connect tries again until it succeeds or ctx ends. It fails at once if a further attempt would most likely fail as well:
//
//   - The address or a header is not valid.
//   - The server answers with a status below 500 that is not 101, 408, 425 or 429.
//   - It does not speak live.v1.
//   - It has no TLS though the address says so, or a certificate that is not trusted.
//   - It closes the connection with a final code.
//
// The error may be a *RefusedError, or wrap ErrNotLive.
//
// ctx does not end the client that Connect returns. Only its values are used later, in the context of Options.Token.
// Once it was connected, a client tries for ever to come back; Options.OnStatus tells how that goes.
func Connect(ctx context.Context, address string, opts Options) (*Client, error) {
	c, err := newClient(ctx, address, opts)
	if err != nil {
		return nil, err
	}
	go c.run() // ends when the client has ended
	select {
	case <-c.opened:
		return c, nil
	case <-c.done:
		if c.isOpened() {
			return c, nil // the server has ended it already, and Err says why
		}
		return nil, c.Err()
	case <-ctx.Done():
	}
	c.mu.Lock()
	last := c.lastErr
	c.mu.Unlock()
	c.Close()
	if last == nil {
		return nil, fmt.Errorf("liveclient: cannot connect to %s: %w", c.address.Host, ctx.Err())
	}
	return nil, fmt.Errorf("liveclient: cannot connect to %s: %w; the last attempt: %w", c.address.Host, ctx.Err(), last)
}

func newClient(ctx context.Context, address string, opts Options) (*Client, error) {
	u, err := parseAddress(address)
	if err != nil {
		return nil, err
	}
	c := &Client{
		address: u,
		opts:    opts.withDefaults(),
		opened:  make(chan struct{}),
		done:    make(chan struct{}),
		subs:    make(map[string]*Subscription),
		asked:   make(map[uint64]*operation),
		infos:   make(map[string]*ownInfo),
		hurry:   make(chan struct{}, 1),
	}
	c.ctx, c.cancel = context.WithCancel(context.WithoutCancel(ctx))
	return c, nil
}

func (c *Client) isOpened() bool {
	select {
	case <-c.opened:
		return true
	default:
		return false
	}
}

// Close ends the client. Operations that wait for a connection fail with ErrClosed. Operations that were sent get
// their answers first, for at most Options.CloseTimeout. Then the connection is closed with 1000. Messages that wait for
// callbacks are dropped. Close returns when the connection has ended. It does not wait for callbacks that are still running,
// so a callback may call it. The error is always nil. A second call waits for the first.
func (c *Client) Close() error {
	c.mu.Lock()
	if !c.closing && c.end == nil {
		c.closing = true
		for _, call := range c.waiting {
			call.fail(ErrClosed)
		}
		c.waiting = nil
		c.closeConn()
	}
	c.mu.Unlock()
	<-c.done
	return nil
}

// closeConn has the connection closed when all answers have come. If there is none, it ends the attempt to connect, or the wait for
// the next one; mu is held.
func (c *Client) closeConn() {
	if c.conn == nil {
		c.cancel()
		return
	}
	cn := c.conn
	wakeAll(&c.kicked)
	answered := make(chan struct{})
	if len(c.asked) == 0 {
		close(answered)
	} else {
		c.quiet = answered
	}
	go c.closeWhen(cn, answered) // ends with the connection, after two times CloseTimeout at most
}

func (c *Client) closeWhen(cn *conn, answered <-chan struct{}) {
	patience := time.NewTimer(c.opts.CloseTimeout)
	defer patience.Stop()
	select {
	case <-answered:
	case <-patience.C:
	case <-cn.dead:
	}
	c.mu.Lock()
	cn.closing = true
	cn.wakeWriter()
	c.mu.Unlock()
	patience.Reset(c.opts.CloseTimeout)
	select {
	case <-cn.dead:
	case <-patience.C:
		cn.kill(ErrClosed)
	}
}

// Done returns a channel that is closed when the client has ended.
func (c *Client) Done() <-chan struct{} { return c.done }

// Err returns why the client has ended: ErrClosed after Close, or a *CloseError if the server has ended it for good. It is nil
// while the client is in use, also while it has no connection.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.end
}

// Status returns how the client is doing now.
func (c *Client) Status() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.status
}

// Reconnect ends a wait for the next attempt to connect: the client dials at once. It does nothing if the client does not wait.
func (c *Client) Reconnect() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.status.State == Waiting {
		select {
		case c.hurry <- struct{}{}:
		default:
		}
	}
}

// become changes the status and tells OnStatus; mu is held.
func (c *Client) become(state State, err error, retryIn time.Duration) {
	c.status.State, c.status.Err, c.status.RetryIn = state, err, retryIn
	if tell := c.opts.OnStatus; tell != nil {
		now := c.status
		c.event(func() { tell(now) })
	}
}

// report tells OnError, or the log; mu is held.
func (c *Client) report(err error) {
	if tell := c.opts.OnError; tell != nil {
		c.event(func() { tell(err) })
		return
	}
	c.event(func() { c.opts.Logger.Warn("liveclient: an error that no call returns", "err", err) })
}

// maxEvents bounds the calls of OnStatus and OnError that wait. The oldest is dropped: the newest says
// how the client is doing.
const maxEvents = 1000

// event has f called after all earlier events; mu is held.
func (c *Client) event(f func()) {
	if len(c.events) >= maxEvents {
		c.events = c.events[1:]
	}
	c.events = append(c.events, f)
	if !c.telling {
		c.telling = true
		go c.tell() // ends when no event waits
	}
}

func (c *Client) tell() {
	for {
		c.mu.Lock()
		if len(c.events) == 0 {
			c.telling = false
			c.mu.Unlock()
			return
		}
		f := c.events[0]
		c.events[0] = nil
		c.events = c.events[1:]
		c.mu.Unlock()
		f()
	}
}

// isClosed returns the error of operations after the end; mu is held.
func (c *Client) isClosed() error {
	switch {
	case c.end == nil && !c.closing:
		return nil
	case c.end == nil || errors.Is(c.end, ErrClosed):
		return ErrClosed
	}
	return fmt.Errorf("%w: %w", ErrClosed, c.end)
}

// marshal returns a value as JSON. A []byte or json.RawMessage is JSON already, and nil is null.
func marshal(v any) (json.RawMessage, error) {
	switch raw := v.(type) {
	case []byte:
		return checkJSON(raw)
	case json.RawMessage:
		return checkJSON(raw)
	}
	data, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalidData, err)
	}
	return checkJSON(data) // a json.RawMessage in v may have text that is not UTF-8, and encoding/json nests to any depth
}
