package live_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/livetopic/livetopic/internal/livetest"
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
	t.Parallel()
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
	const n = 60
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
	// This client hangs up when it cannot answer a ping after its own close frame. The server may
	// notice when it reads, or when it writes.
	err = livetest.Receive(t, ends)
	if hungUp := errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE); err != nil && (serverCloses || !hungUp) {
		t.Error(err)
	}
}
