package interop

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/livetopic/livetopic/internal/livetest"

	"github.com/livetopic/livetopic/live"
)

// opaque is a listener whose connections are only a net.Conn, as those are that
// limit how many there are, speak the PROXY protocol, or count bytes.
type opaque struct{ net.Listener }

type opaqueConn struct{ net.Conn }

func (l opaque) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return opaqueConn{conn}, nil
}

func serveOpaque(t testing.TB, h http.Handler) livetest.Endpoint {
	s := httptest.NewUnstartedServer(h)
	s.Listener = opaque{s.Listener}
	s.Start()
	t.Cleanup(s.Close)
	return livetest.EndpointOf(s)
}

func TestListenerThatWrapsItsConnections(t *testing.T) {
	server := livetest.NewSubscriberServer(t)
	worksThrough(t, server, serveOpaque(t, server.Handler()))
}

func TestServerClosesBehindAListenerThatWrapsItsConnections(t *testing.T) {
	const queued = 200
	server := livetest.NewServer(t, live.Options{OnMessage: func(_ context.Context, s *live.Session, _ string, _ []byte) {
		for i := range queued {
			s.Send(live.Message{Topic: "n", Data: fmt.Appendf(nil, `%d`, i)})
		}
		s.Close()
	}})
	c := livetest.Dial(t, serveOpaque(t, server.Handler()))
	c.Send(`{"topic":"go"}`)
	if got, code := c.Rest(); len(got) != queued || code != live.CloseNormal {
		t.Errorf("got %d messages and code %d (%v), want %d and 1000", len(got), code, c.Err(), queued)
	}
}

// The client is still writing when the server has had enough. Closing the
// connection then would reset it, and the client lose the reason.
func TestReadLimitBehindAListenerThatWrapsItsConnections(t *testing.T) {
	for _, l := range libraries {
		t.Run(l.name, func(t *testing.T) {
			server := livetest.NewServer(t, live.Options{ReadLimit: 1000})
			c := l.connect(t, serveOpaque(t, server.Handler()), nil)
			c.Say(livetest.Fill(1 << 20)) // may fail in the middle
			if _, code := c.Rest(); code != live.CloseTooBig {
				t.Errorf("close code %d (%v), want 1009", code, c.Err())
			}
		})
	}
}
