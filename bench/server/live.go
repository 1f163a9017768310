package server

import (
	"context"
	"net"
	"net/http"
	"sync/atomic"

	"github.com/livetopic/livetopic/bench/wire"
	"github.com/livetopic/livetopic/live"
)

var liveKind = Kind{
	Name:    "livetopic",
	About:   "this library, default options",
	Role:    Subject,
	Dialect: wire.Plain,
	New:     newLive,
}

type liveServer struct {
	live  *live.Server
	count atomic.Int64
}

func newLive(o Options) (Server, error) { return newLiveOn(o, nil), nil }

func newLiveOn(o Options, broker live.Broker) *liveServer {
	s := &liveServer{}
	s.live = live.New(live.Options{
		QueueSize: o.Queue,
		Broker:    broker,
		OnMessage: func(_ context.Context, session *live.Session, topic string, data []byte) {
			if string(data) != wire.SubscribeData {
				s.live.Publish(topic, data)
				return
			}
			if s.live.Subscribe(session, topic) == nil {
				s.count.Add(1)
			}
		},
	})
	return s
}

func (s *liveServer) Serve(l net.Listener) error { return http.Serve(l, s.live.Handler()) }

func (s *liveServer) Publish(topic string, data []byte) error { return s.live.Publish(topic, data) }

func (s *liveServer) Subscriptions() int { return int(s.count.Load()) }
