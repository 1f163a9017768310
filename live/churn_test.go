package live_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"runtime"
	"testing"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
)

// visitor is a client that comes, does this and that, and vanishes.
type visitor struct {
	*livetest.Client
	tcp  *net.TCPConn
	rand *rand.Rand
	read chan struct{} // closed when nothing more can be read
}

// vanishings are the ways in which clients leave.
var vanishings = []struct {
	name string
	way  func(v *visitor) error
}{
	{"close frame", func(v *visitor) error {
		v.Close(1000, "bye")
		<-v.read
		v.Drop()
		return nil
	}},
	{"close frame, without waiting for the answer", func(v *visitor) error {
		v.Close(1001, "")
		return v.Line.Close()
	}},
	{"reset", func(v *visitor) error {
		if err := v.tcp.SetLinger(0); err != nil {
			return err
		}
		return v.tcp.Close()
	}},
	{"half close", func(v *visitor) error {
		err := v.tcp.CloseWrite()
		<-v.read
		v.Drop()
		return err
	}},
	{"just closing", func(v *visitor) error { return v.tcp.Close() }},
	{"in the middle of a frame", func(v *visitor) error {
		_, err := v.Conn.Write([]byte{0x81, 0xfe, 0x10})
		v.tcp.Close()
		return err
	}},
	{"a frame that breaks the protocol", func(v *visitor) error {
		_, err := v.Conn.Write([]byte{0x81, 0x01, 'x'}) // not masked
		<-v.read
		v.Drop()
		return err
	}},
	{"closed by the server", func(v *visitor) error {
		err := v.Say(`{"topic":"close me"}`)
		<-v.read
		v.Drop()
		return err
	}},
}

func visit(t testing.TB, at livetest.Endpoint, number uint64) (*visitor, error) {
	v := &visitor{rand: rand.New(rand.NewPCG(1, number)), read: make(chan struct{})}
	var err error
	if v.Client, err = livetest.Try(t, at, livetest.Dialing{}); err != nil {
		return nil, err
	}
	v.tcp = v.Line.Conn.(*net.TCPConn)
	v.Attend()
	go func() { // ends with the connection
		defer close(v.read)
		v.Rest()
	}()
	return v, nil
}

// act subscribes, unsubscribes and publishes at random.
func (v *visitor) act() error {
	for range 3 + v.rand.IntN(5) {
		action := []string{"subscribe", "subscribe", "unsubscribe", "publish"}[v.rand.IntN(4)]
		text := fmt.Sprintf(`{"topic":%q,"data":"topic:%d"}`, action, v.rand.IntN(40))
		if err := v.Say(text); err != nil {
			return err
		}
	}
	return nil
}

func TestClientsThatComeAndGoLeaveNothingBehind(t *testing.T) {
	t.Run("plain", func(t *testing.T) { testChurn(t, livetest.Serve, 1000) })
	t.Run("TLS", func(t *testing.T) { testChurn(t, livetest.ServeTLS, 250) })
}

func testChurn(t *testing.T, serve livetest.Serving, visitors int) {
	var ended livetest.Ends
	var server *live.Server
	server = livetest.NewServer(t, live.Options{
		OnMessage: func(ctx context.Context, s *live.Session, topic string, data []byte) {
			switch name := string(data); topic {
			case "subscribe":
				server.Subscribe(s, name)
			case "unsubscribe":
				server.Unsubscribe(s, name)
			case "publish":
				server.Publish(name, data)
			case "close me":
				s.Close()
			}
		},
		OnClose: func(s *live.Session, err error) {
			if server.Subscribe(s, "too late") != live.ErrSessionClosed {
				t.Error("a closed session could be subscribed")
			}
			ended.OnClose(s, err)
		},
	})
	at := serve(t, server.Handler())
	baseline := runtime.NumGoroutine()

	// All are there at once before the first leaves. Some dial at a time, so
	// that no handshake waits long.
	all := make([]*visitor, visitors)
	dialing := make(chan struct{}, 32)
	livetest.Each(visitors, func(i int) {
		dialing <- struct{}{}
		v, err := visit(t, at, uint64(i))
		<-dialing
		if err != nil {
			t.Errorf("visitor %d: %v", i, err)
			return
		}
		all[i] = v
		if err := v.act(); err != nil {
			t.Errorf("visitor %d: %v", i, err)
		}
	})
	if t.Failed() {
		t.FailNow()
	}
	livetest.Eventually(t, "all sessions", func() bool { return server.Stats().Sessions == visitors })

	livetest.Each(visitors, func(i int) {
		// Half of them leave while they are still doing something.
		if i%2 == 0 {
			if err := all[i].act(); err != nil {
				t.Errorf("visitor %d: %v", i, err)
			}
		}
		w := vanishings[i/2%len(vanishings)]
		if err := w.way(all[i]); err != nil {
			t.Errorf("visitor %d, %s: %v", i, w.name, err)
		}
	})

	livetest.Eventually(t, "every session's end", func() bool {
		st := server.Stats()
		return st.Sessions == 0 && st.Topics == 0 && st.Subscriptions == 0
	})
	livetest.Eventually(t, "every OnClose", func() bool { return ended.Count() == visitors })
	livetest.Eventually(t, "the goroutines' end", func() bool { return runtime.NumGoroutine() <= baseline })
	ended.Once(t)
	if st := server.Stats(); st.Accepted != uint64(visitors) || st.Refused != 0 || st.Panics != 0 {
		t.Errorf("accepted %d, refused %d, panics %d; want %d, 0, 0", st.Accepted, st.Refused, st.Panics, visitors)
	}
}
