package live_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/livetopic/livetopic/internal/livetest"

	"github.com/coder/websocket"

	"github.com/livetopic/livetopic/live"
)

// serveWith starts a server whose connections have small buffers, so that writes
// are partial, with TLS or without.
func serveWith(t *testing.T, opts live.Options, secure bool) (*live.Server, *httptest.Server) {
	t.Helper()
	opts.Logger = slog.New(slog.DiscardHandler)
	srv := live.New(opts)
	hs := httptest.NewUnstartedServer(srv.Handler())
	hs.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	hs.Config.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		if tc, ok := c.(*tls.Conn); ok {
			c = tc.NetConn()
		}
		c.(*net.TCPConn).SetWriteBuffer(16 << 10)
		return ctx
	}
	if secure {
		hs.StartTLS()
	} else {
		hs.Start()
	}
	t.Cleanup(func() { shut(t, srv); hs.Close() })
	return srv, hs
}

// Publications, control frames in both directions, messages of the client and at
// last the close of one side share a line without a byte out of place.
func TestEverythingSharesTheLine(t *testing.T) {
	modes := map[string]websocket.CompressionMode{
		"none": websocket.CompressionDisabled, "no takeover": websocket.CompressionNoContextTakeover, "takeover": websocket.CompressionContextTakeover,
	}
	for _, secure := range []bool{false, true} {
		for _, compress := range []bool{false, true} {
			for offer, mode := range modes {
				for _, serverCloses := range []bool{false, true} {
					name := fmt.Sprintf("tls=%v/compression=%v/client=%s/serverCloses=%v", secure, compress, offer, serverCloses)
					t.Run(name, func(t *testing.T) { shareTheLine(t, secure, compress, mode, serverCloses) })
				}
			}
		}
	}
}

func shareTheLine(t *testing.T, secure, compress bool, mode websocket.CompressionMode, serverCloses bool) {
	const n = 150
	var heard atomic.Int64
	ends := make(chan error, 1)
	opts, sessions := livetest.Connected(live.Options{
		Compression: compress, QueueSize: 2 * n, QueueBytes: 1 << 30,
		PingInterval: 4 * time.Millisecond, PingTimeout: livetest.Patience,
		OnMessage: func(context.Context, *live.Session, string, []byte) { heard.Add(1) },
		OnClose:   func(_ *live.Session, err error) { ends <- err },
	})
	srv, hs := serveWith(t, opts, secure)
	ctx, cancel := context.WithTimeout(context.Background(), livetest.Patience)
	defer cancel()
	ws, _, err := websocket.Dial(ctx, hs.URL, &websocket.DialOptions{HTTPClient: hs.Client(), CompressionMode: mode, CompressionThreshold: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer ws.CloseNow()
	ws.SetReadLimit(-1)
	s := livetest.Receive(t, sessions)
	srv.Subscribe(s, "t")

	var wg sync.WaitGroup
	data := func(i int) string {
		return fmt.Sprintf(`"%d %s"`, i, strings.Repeat("lorem ipsum ", []int{1, 10, 60, 2000, 9000}[i%5]))
	}
	wg.Go(func() {
		for i := range n {
			if err := srv.Publish("t", []byte(data(i))); err != nil {
				t.Error(err)
			}
		}
	})
	wg.Go(func() {
		for i := range n {
			if err := ws.Write(ctx, websocket.MessageText, []byte(`{"topic":"up","data":`+data(i%3)+`}`)); err != nil {
				t.Error(err)
			}
			if i%5 == 0 {
				if err := ws.Ping(ctx); err != nil {
					t.Error("ping:", err)
					return
				}
			}
		}
	})
	hears := func(data string) {
		_, got, err := ws.Read(ctx)
		if want := `{"topic":"t","data":` + data + `}`; err != nil || string(got) != want {
			t.Errorf("got %.300s, %v; want %.300s", got, err, want)
		}
	}
	read := 0
	for ; read < n/2; read++ {
		hears(data(read))
	}
	reader := make(chan struct{})
	go func() {
		defer close(reader)
		for ; read < n; read++ {
			hears(data(read))
		}
	}()
	livetest.Receive(t, reader)
	closed := make(chan int, 1)
	go func() { // pongs still have to be read
		_, _, err := ws.Read(ctx)
		closed <- int(websocket.CloseStatus(err))
	}()
	wg.Wait()
	livetest.Eventually(t, "the client's messages", func() bool { return heard.Load() == n })
	if serverCloses {
		s.Close()
		if code := livetest.Receive(t, closed); code != live.CloseNormal {
			t.Error("closed with", code)
		}
	} else {
		ws.Close(websocket.StatusGoingAway, "")
	}
	// This client hangs up when it cannot answer a ping after its own close frame.
	if err := livetest.Receive(t, ends); err != nil && (serverCloses || !errors.Is(err, syscall.ECONNRESET)) {
		t.Error(err)
	}
}

// A compressed message that would be larger than ReadLimit ends there.
func TestDeflateBombIsBounded(t *testing.T) {
	_, hs := serveWith(t, live.Options{
		Compression: true, ReadLimit: 100_000,
		OnMessage: func(context.Context, *live.Session, string, []byte) { t.Error("it came through") },
	}, false)
	c := livetest.Connect(t, livetest.EndpointOf(hs), livetest.Dialing{Deflate: true})
	if !strings.HasPrefix(c.Response.Header.Get("Sec-WebSocket-Extensions"), "permessage-deflate") {
		t.Fatal("compression was not agreed")
	}
	c.Write(deflated(`{"topic":"t","data":"` + strings.Repeat("x", 5<<20) + `"}`))
	if code, _, _ := c.Closed(); code != live.CloseTooBig {
		t.Error("closed with", code)
	}
}

func TestCompressionIsOffByDefault(t *testing.T) {
	_, url := serve(t, live.Options{})
	resp := upgrade(t, url, func(r *http.Request) { r.Header.Set("Sec-WebSocket-Extensions", "permessage-deflate") })
	if got := resp.Header.Get("Sec-WebSocket-Extensions"); resp.StatusCode != 101 || got != "" {
		t.Fatal(resp.Status, got)
	}
}

// Sessions with and without compression get the same; those with it, in fewer
// bytes.
func TestCompressedPublicationIsShared(t *testing.T) {
	opts, sessions := livetest.Connected(live.Options{Compression: true})
	srv, url := serve(t, opts)
	data := `"` + strings.Repeat("lorem ipsum ", 5000) + `"`
	plain, s1 := pair(t, url, sessions)
	srv.Subscribe(s1, "t")
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"+
		"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n")
	s2 := livetest.Receive(t, sessions)
	srv.Subscribe(s2, "t")
	srv.Publish("t", []byte(data))
	s2.Close()
	plain.Hears("t", data)
	conn.SetReadDeadline(time.Now().Add(livetest.Patience))
	buf := make([]byte, 1<<20)
	total := 0
	for !strings.HasSuffix(string(buf[:total]), "\x03\xe8closed by the server") {
		n, err := conn.Read(buf[total:])
		if err != nil {
			t.Fatal(err)
		}
		total += n
	}
	if !strings.Contains(string(buf[:total]), "\xc1") || total > len(data)/10 {
		t.Errorf("%d bytes for %d", total, len(data))
	}
}

// What the outbox rests on: coder/websocket hands over each of its control frames
// whole, in one Write. Were it to split one, the outbox would refuse it, and
// the longest pong and the longest close echo would not come back.
func TestLongestControlFramesComeBack(t *testing.T) {
	_, url := serve(t, live.Options{})
	c := dial(t, url)
	conn, br := c.Conn, c.In
	conn.SetDeadline(time.Now().Add(livetest.Patience))
	masked := func(first byte, payload string) string {
		return string([]byte{first, 0x80 | byte(len(payload)), 0, 0, 0, 0}) + payload
	}
	expect := func(want string) {
		t.Helper()
		got := make([]byte, len(want))
		if _, err := io.ReadFull(br, got); err != nil || string(got) != want {
			t.Fatalf("got % .20x…, %v; want % .20x…", got, err, want)
		}
	}
	long := strings.Repeat("p", 125)
	// A ping between the parts of a message is coder/websocket's to answer.
	fmt.Fprint(conn, masked(0x01, `{"topic"`), masked(0x89, long), masked(0x80, `:"t"}`))
	expect("\x8a\x7d" + long)
	fmt.Fprint(conn, masked(0x89, long))
	expect("\x8a\x7d" + long)
	fmt.Fprint(conn, masked(0x88, "\x03\xe8"+long[:123]))
	expect("\x88\x7d\x03\xe8" + long[:123])
}
