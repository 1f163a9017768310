package live_test

import (
	"context"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
)

// vanish makes the kernel drop all that comes for a client before TCP sees it, as if the cable were cut. So nothing is
// acknowledged. A relay cannot do that, because its own kernel acknowledges.
func vanish(t *testing.T, c *livetest.Client) {
	t.Helper()
	raw, err := c.Line.Conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) {
		dropped := syscall.SockFilter{Code: syscall.BPF_RET | syscall.BPF_K} // accepts 0 bytes of each packet
		program := syscall.SockFprog{Len: 1, Filter: &dropped}
		if _, _, errno := syscall.Syscall6(syscall.SYS_SETSOCKOPT, fd, syscall.SOL_SOCKET, syscall.SO_ATTACH_FILTER,
			uintptr(unsafe.Pointer(&program)), unsafe.Sizeof(program), 0); errno != 0 {
			t.Error(errno)
		}
	})
}

// A client that vanishes is found by pings also while the server does not read from it, because the client is over its
// rate or has filled its inbox. At this rate the server would read for an hour what the client has sent. A client that
// lives and sends the same stays, though the server reads none of its pongs.
func TestPeerThatVanishesUnreadIsFound(t *testing.T) {
	t.Parallel()
	const interval, timeout = 200 * time.Millisecond, 800 * time.Millisecond
	const much = 4 << 20 // bytes
	small := string(livetest.Masked(livetest.TextFrame, `{"topic":"t"}`))
	large := string(livetest.Masked(livetest.TextFrame, strings.Repeat("x", much)))
	for _, test := range []struct {
		name string
		sent string
		v1   bool
		opts live.Options
	}{
		{"small messages", strings.Repeat(small, much/len(small)), false, live.Options{InboundRate: 1}},
		{"a large message", large, false, live.Options{InboundRate: 1}},
		{"a large message of live.v1", large, true, live.Options{InboundRate: 1}},
		{"a callback that blocks", strings.Repeat(small, much/len(small)), false,
			live.Options{InboundRate: -1, OnMessage: func(ctx context.Context, _ *live.Session, _ string, _ []byte) { <-ctx.Done() }}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			livetest.OverBoth(t, func(t *testing.T, secure bool) {
				var ended livetest.Ends
				opts := test.opts
				opts.PingInterval, opts.PingTimeout, opts.OnClose = interval, timeout, ended.OnClose
				h := livetest.Hosting{Secure: secure}.Start(t, opts)
				dial := func() *livetest.Client {
					const early = 32 << 10 // so much that from the beginning the server does not read all
					c := h.Connect(t, livetest.Dialing{V1: test.v1, Early: test.sent[:early]})
					go c.Write([]byte(test.sent[early:])) // ends with the connection
					return c
				}
				dial()
				vanish(t, dial())
				if err := ended.Only(t); err != live.ErrPingTimeout {
					t.Errorf("OnClose got %v, want ErrPingTimeout", err)
				}
				time.Sleep(interval + timeout) // for the one that lives
				if st := h.Stats(); st.Sessions != 1 || st.PingTimeouts != 1 {
					t.Errorf("%d sessions, %d ping timeouts; want 1, 1", st.Sessions, st.PingTimeouts)
				}
			})
		})
	}
}
