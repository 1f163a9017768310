package liveclient

import (
	"context"
	"crypto/tls"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"time"
)

// Options says how a client connects and what it bounds. The zero value is ready for use. A negative number counts as 0, unless the
// comment of its field says otherwise.
type Options struct {
	// Token returns the token with which the client signs in. It is called for each attempt to
	// connect, so that it can return a new one; see StaticToken for one that stays the same. If it is still running when its
	// context ends, the next attempt waits for it. "": there is no
	// token. An error of Token fails the attempt. nil: no token is sent.
	Token func(ctx context.Context) (string, error)

	// TokenInSubprotocol sends the token as browsers must: in the subprotocol "live.token.…".
	// Otherwise it is the bearer token of the Authorization header. live.Token reads both.
	TokenInSubprotocol bool

	// Header is sent with each handshake. Origin, Cookie and Host may be among its headers.
	Header http.Header

	// Jar has the cookies of handshakes, and gets those of the answers. nil: no cookies.
	Jar http.CookieJar

	// TLS is used for wss addresses. nil: the defaults of crypto/tls.
	TLS *tls.Config

	// Dial opens the TCP connection. nil: that of net.Dialer.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)

	// Proxy returns the proxy for a handshake. nil: http.ProxyFromEnvironment.
	Proxy func(*http.Request) (*url.URL, error)

	// Compression offers to compress messages. It saves bytes and costs CPU time at both ends.
	Compression bool

	// MinBackoff and MaxBackoff bound the waiting times between attempts to connect. The n-th retry
	// (from 0) comes after a random time between 0 and the lesser of MaxBackoff and MinBackoff·2ⁿ. The
	// time is random from the first retry on, because clients that lose a server together must not
	// come back together. A server that restarts may name another time. 0: 500 ms, and 20 s.
	MinBackoff, MaxBackoff time.Duration

	// StableAfter is how long a connection must have been open, so that the waiting times begin anew
	// after it. A server that accepts connections and dies at once must not be dialled more and more.
	// 0: 5 s.
	StableAfter time.Duration

	// ConnectTimeout bounds one attempt to connect, from the call of Token to the server's first
	// frame. 0: 10 s. An attempt that takes longer seldom succeeds.
	ConnectTimeout time.Duration

	// CallTimeout is how long an operation waits for its answer, or for the next part of it, if its
	// context has no deadline. The time that it waits for a connection counts too. 0: 15 s: a server
	// gives up a publication after 12 s. Negative: there is no bound.
	CallTimeout time.Duration

	// CloseTimeout is how long Close waits for answers, and then for the server's close frame. 0: 5 s.
	CloseTimeout time.Duration

	// MaxWaiting is how many operations wait while there is no connection. Publications that wait to
	// be sent again count too. 0: 1,000. A reconnect then sends about a megabyte at most, if an
	// operation has a kilobyte. Negative: none wait.
	MaxWaiting int

	// MaxUnsent is how many bytes may wait to be written to the connection. An operation that would
	// exceed it waits until there is space, or its context ends. Subscribe and Unsubscribe do not wait: the
	// client tells the server when there is space, and only what has become of the topic by then. A new
	// connection renews all subscriptions at once, whatever their size. 0: 1 MiB.
	MaxUnsent int

	// QueueSize and QueueBytes bound what waits for the callbacks of one Subscription, in messages and
	// in bytes. A single larger message is taken if nothing else waits. The package's comment says what
	// happens at the bound. 0: 1,024 messages, and 4 MiB.
	QueueSize, QueueBytes int

	// ReadLimit is how many bytes a frame of the server may have, after decompression. A larger one ends the
	// connection. An answer in parts may have four times as many. 0: 32 MiB, since a publication may have some.
	ReadLimit int

	// OnStatus is called for each change of the client's Status, one call after another. nil: nobody
	// is told.
	OnStatus func(Status)

	// OnError is called for each error that no call returns: a subscription that the server has refused
	// or cannot make now, a frame that is not valid, a value that does not decode. Its calls and those of
	// OnStatus come one after another. nil: the errors are logged as warnings.
	OnError func(error)

	// Logger gets what OnError would get, and a line for each lost connection. nil: slog.Default().
	Logger *slog.Logger

	random func() float64 // from 0 to 1; tests replace it
}

// StaticToken returns a function for Options.Token that always returns the same token.
func StaticToken(token string) func(context.Context) (string, error) {
	return func(context.Context) (string, error) { return token, nil }
}

func orDefault[T int | time.Duration](value *T, otherwise T) {
	if *value <= 0 {
		*value = otherwise
	}
}

func (o Options) withDefaults() Options {
	orDefault(&o.MinBackoff, 500*time.Millisecond)
	orDefault(&o.MaxBackoff, 20*time.Second)
	orDefault(&o.StableAfter, 5*time.Second)
	orDefault(&o.ConnectTimeout, 10*time.Second)
	if o.CallTimeout == 0 {
		o.CallTimeout = 15 * time.Second
	}
	orDefault(&o.CloseTimeout, 5*time.Second)
	if o.MaxWaiting == 0 {
		o.MaxWaiting = 1000
	}
	orDefault(&o.MaxUnsent, 1<<20)
	orDefault(&o.QueueSize, 1024)
	orDefault(&o.QueueBytes, 4<<20)
	orDefault(&o.ReadLimit, 32<<20)
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.random == nil {
		o.random = rand.Float64
	}
	if o.Dial == nil {
		o.Dial = new(net.Dialer).DialContext
	}
	if o.Proxy == nil {
		o.Proxy = http.ProxyFromEnvironment
	}
	o.Header = o.Header.Clone()
	return o
}
