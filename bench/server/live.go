package server

import (
	"context"
	"net"
	"net/http"
	"time"

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

type liveServer struct{ live *live.Server }

func newLive(o Options) (Server, error) { return newLiveOn(o, nil), nil }

func newLiveOn(o Options, broker live.Broker) *liveServer {
	s := &liveServer{}
	options := live.Options{
		QueueSize: o.Queue,
		Broker:    broker,
		OnMessage: func(_ context.Context, session *live.Session, topic string, data []byte) {
			if string(data) == wire.SubscribeData {
				s.live.Subscribe(session, topic)
				return
			}
			s.live.Publish(topic, data)
		},
	}
	if o.Topic != "" {
		options.OnConnect = func(_ context.Context, session *live.Session) error {
			err := s.live.Subscribe(session, o.Topic)
			if err == nil && o.Greeting != nil {
				err = session.Send(live.Message{Topic: o.Topic, Data: o.Greeting})
			}
			return err
		}
	}
	if o.Auth > 0 {
		options.OnAuth = func(context.Context, *http.Request) (any, error) {
			time.Sleep(o.Auth)
			return nil, nil
		}
	}
	if o.History != nil {
		options.OnSubscribe = func(context.Context, *live.Session, string) error { return nil }
		options.Topics = func(topic string) live.TopicOptions {
			return live.TopicOptions{History: o.History[topic]}
		}
	}
	s.live = live.New(options)
	return s
}

func (s *liveServer) Serve(l net.Listener) error { return http.Serve(l, s.live.Handler()) }

func (s *liveServer) Publish(topic string, data []byte) error { return s.live.Publish(topic, data) }

func (s *liveServer) Subscriptions() int { return s.live.Stats().Subscriptions }
