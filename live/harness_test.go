package live_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/livetopic/livetopic/live"
)

// patience is how long a test waits for what must happen. It says nothing of how
// fast that should be.
const patience = 20 * time.Second

// serve starts a server of opts on loopback, and returns its URL. Both are ended
// with the test.
func serve(t *testing.T, opts live.Options) (*live.Server, string) {
	t.Helper()
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	srv := live.New(opts)
	hs := httptest.NewServer(srv.Handler())
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer cancel()
		srv.Shutdown(ctx)
		hs.Close()
	})
	return srv, hs.URL
}

// connected returns options whose OnConnect hands every session to the channel.
func connected(opts live.Options) (live.Options, chan *live.Session) {
	sessions := make(chan *live.Session, 10_000)
	opts.OnConnect = func(_ context.Context, s *live.Session) error {
		sessions <- s
		return nil
	}
	return opts, sessions
}

// client is a connection to a server, as coder/websocket's own client makes it.
type client struct {
	t  *testing.T
	ws *websocket.Conn
}

func dial(t *testing.T, url string) *client {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	ws, _, err := websocket.Dial(ctx, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	ws.SetReadLimit(-1)
	t.Cleanup(func() { ws.CloseNow() })
	return &client{t, ws}
}

// pair returns a client and its session.
func pair(t *testing.T, url string, sessions chan *live.Session) (*client, *live.Session) {
	t.Helper()
	c := dial(t, url)
	return c, receive(t, sessions)
}

func (c *client) send(topic string, data any) {
	c.t.Helper()
	raw, err := json.Marshal(map[string]any{"topic": topic, "data": data})
	if err != nil {
		c.t.Fatal(err)
	}
	c.sendRaw(websocket.MessageText, string(raw))
}

func (c *client) sendRaw(typ websocket.MessageType, raw string) {
	c.t.Helper()
	if err := c.ws.Write(context.Background(), typ, []byte(raw)); err != nil {
		c.t.Fatal(err)
	}
}

// next returns the next message.
func (c *client) next() live.Message {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, raw, err := c.ws.Read(ctx)
	if err != nil {
		c.t.Fatalf("read: %v", err)
	}
	var m live.Message
	if err := json.Unmarshal(raw, &m); err != nil {
		c.t.Fatalf("%q: %v", raw, err)
	}
	return m
}

func (c *client) expect(topic, data string) {
	c.t.Helper()
	if m := c.next(); m.Topic != topic || string(m.Data) != data {
		c.t.Fatalf("got %s %s, want %s %s", m.Topic, m.Data, topic, data)
	}
}

// closed reads to the end and returns code and reason of the server's close frame,
// and what came before it. It may be called from any goroutine.
func (c *client) closed() (code int, reason string, before []live.Message) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		_, raw, err := c.ws.Read(ctx)
		if err != nil {
			ce, ok := closeError(err)
			if !ok {
				c.t.Errorf("closed without a close frame: %v", err)
			}
			return int(ce.Code), ce.Reason, before
		}
		var m live.Message
		if err := json.Unmarshal(raw, &m); err != nil {
			c.t.Errorf("%q: %v", raw, err)
		}
		before = append(before, m)
	}
}

// rawDial makes the handshake by hand and returns the bare connection, whose
// client answers nothing by itself.
func rawDial(t testing.TB, url string) (net.Conn, *bufio.Reader) {
	t.Helper()
	addr := strings.TrimPrefix(url, "http://")
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn, handshake(t, conn, addr)
}

func handshake(t testing.TB, conn net.Conn, host string) *bufio.Reader {
	t.Helper()
	fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n", host)
	br := bufio.NewReader(conn)
	resp, err := http.ReadResponse(br, nil)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("handshake: %s", resp.Status)
	}
	return br
}

// receive waits for a value.
func receive[T any](t *testing.T, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(patience):
		t.Fatal("nothing came")
		panic("unreachable")
	}
}

// eventually waits for a condition.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
	}
}

// noGoroutinesLeft checks, at the end of the test, that as many goroutines run as
// do now.
func noGoroutinesLeft(t *testing.T) {
	before := runtime.NumGoroutine()
	t.Cleanup(func() {
		http.DefaultClient.CloseIdleConnections()
		for deadline := time.Now().Add(patience); runtime.NumGoroutine() > before; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				buf := make([]byte, 1<<20)
				t.Fatalf("%d goroutines, %d at the start:\n%s", runtime.NumGoroutine(), before, buf[:runtime.Stack(buf, true)])
			}
		}
	})
}

func closeError(err error) (websocket.CloseError, bool) {
	code := websocket.CloseStatus(err)
	if code == -1 {
		return websocket.CloseError{}, false
	}
	_, reason, _ := strings.Cut(err.Error(), "reason = ")
	return websocket.CloseError{Code: code, Reason: strings.Trim(reason, `"`)}, true
}
