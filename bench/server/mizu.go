package server

import (
	"context"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/go-mizu/mizu/live"

	"github.com/livetopic/livetopic/bench/wire"
)

var mizuKind = Kind{
	Name:    "mizu",
	Module:  "github.com/go-mizu/mizu",
	About:   "package live, default options; it has no OnConnect, so that in connect and storm the client asks for its subscription",
	Role:    Peer,
	NoHook:  true,
	Dialect: wire.Plain,
	New:     newMizu,
}

type mizuServer struct {
	live  *live.Server
	count atomic.Int64
}

func newMizu(o Options) (Server, error) {
	s := &mizuServer{}
	s.live = live.New(live.Options{
		QueueSize: o.Queue,
		OnAuth: func(context.Context, *http.Request) (any, error) {
			time.Sleep(o.Auth)
			return nil, nil
		},
		OnMessage: func(_ context.Context, session *live.Session, topic string, data []byte) {
			if string(data) == wire.SubscribeData {
				s.live.Subscribe(session, topic)
				s.count.Add(1)
				if o.Greeting != nil {
					session.Send(live.Message{Topic: topic, Data: o.Greeting})
				}
				return
			}
			s.live.Publish(topic, data)
		},
	})
	return s, nil
}

func (s *mizuServer) Serve(l net.Listener) error { return http.Serve(l, s.live.Handler()) }

func (s *mizuServer) Publish(topic string, data []byte) error {
	s.live.Publish(topic, data)
	return nil
}

func (s *mizuServer) Subscriptions() int { return int(s.count.Load()) }
