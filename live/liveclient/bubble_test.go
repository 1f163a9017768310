package liveclient_test

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/liveclient"
	"github.com/livetopic/livetopic/live/livetest"
)

// inBubble runs a test in a bubble of testing/synctest, where hours pass at once.
func inBubble(t *testing.T, test func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, test)
}

var quiet = slog.New(slog.DiscardHandler)

// bubble is a server with connections in memory.
type bubble struct {
	*livetest.Server
}

func newBubble(t *testing.T, opts live.Options) bubble { return bubble{livetest.New(t, opts)} }

// connect connects a client, which is closed when the test ends.
func (b bubble) connect(t *testing.T, o liveclient.Options) *liveclient.Client {
	t.Helper()
	if o.Dial == nil {
		o.Dial = b.dial
	}
	if o.OnError == nil {
		o.OnError = func(err error) { t.Errorf("OnError: %v", err) }
	}
	o.Logger = quiet
	c, err := liveclient.Connect(context.Background(), b.URL+"/live", o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func (b bubble) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	return b.Client().Transport.(*http.Transport).DialContext(ctx, network, addr)
}

func (b bubble) publish(t *testing.T, topic, data string) {
	t.Helper()
	if err := b.Live.Publish(topic, []byte(data)); err != nil {
		t.Fatal(err)
	}
}

// faultyConn is a connection of a client that reads slowly or nothing, or writes slowly.
type faultyConn struct {
	net.Conn
	closed chan struct{}
	once   sync.Once

	mu       sync.Mutex // guards the fields below
	silent   bool
	pause    time.Duration // before each read of at most 100 bytes; 0: none
	writing  time.Duration // how long each write takes
	deadline time.Time     // of writes
}

func (f *faultyConn) Read(b []byte) (int, error) {
	n, err := f.Conn.Read(b[:min(len(b), 100)])
	f.mu.Lock()
	silent, pause := f.silent, f.pause
	f.mu.Unlock()
	if silent && err == nil {
		<-f.closed
		return 0, net.ErrClosed
	}
	time.Sleep(pause)
	return n, err
}

func (f *faultyConn) Write(b []byte) (int, error) {
	f.mu.Lock()
	writing, left := f.writing, time.Until(f.deadline)
	f.mu.Unlock()
	if writing == 0 {
		return f.Conn.Write(b)
	}
	select {
	case <-time.After(writing):
		return f.Conn.Write(b)
	case <-time.After(left):
		return 0, os.ErrDeadlineExceeded
	case <-f.closed:
		return 0, net.ErrClosed
	}
}

func (f *faultyConn) SetWriteDeadline(t time.Time) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.deadline = t
	return f.Conn.SetWriteDeadline(t)
}

func (f *faultyConn) writeSlowly(each time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.writing = each
}

func (f *faultyConn) Close() error {
	f.once.Do(func() { close(f.closed) })
	return f.Conn.Close()
}

func (f *faultyConn) set(silent bool, pause time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.silent, f.pause = silent, pause
}

// faulty returns a function for Options.Dial, and a channel that gets its connections.
func (b bubble) faulty() (func(context.Context, string, string) (net.Conn, error), chan *faultyConn) {
	conns := make(chan *faultyConn, 100)
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := b.dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		f := &faultyConn{Conn: conn, closed: make(chan struct{})}
		conns <- f
		return f, nil
	}, conns
}
