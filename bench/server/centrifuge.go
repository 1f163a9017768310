package server

import (
	"context"
	"net"

	"github.com/centrifugal/centrifuge"

	"github.com/livetopic/livetopic/bench/wire"
)

var centrifugeKind = Kind{
	Name:    "centrifuge",
	Module:  "github.com/centrifugal/centrifuge",
	About:   "JSON protocol, memory broker, no history; clients subscribe and publish themselves; all limits and delays at their defaults",
	Role:    Peer,
	Dialect: wire.Centrifuge,
	New:     newCentrifuge,
}

type centrifugeServer struct {
	node    *centrifuge.Node
	options Options
}

func newCentrifuge(o Options) (Server, error) {
	node, err := centrifuge.New(centrifuge.Config{})
	if err != nil {
		return nil, err
	}
	node.OnConnecting(func(context.Context, centrifuge.ConnectEvent) (centrifuge.ConnectReply, error) {
		reply := centrifuge.ConnectReply{Credentials: &centrifuge.Credentials{}}
		if o.Topic != "" {
			reply.Subscriptions = map[string]centrifuge.SubscribeOptions{o.Topic: {}}
		}
		return reply, nil
	})
	node.OnConnect(func(client *centrifuge.Client) {
		client.OnSubscribe(func(_ centrifuge.SubscribeEvent, reply centrifuge.SubscribeCallback) {
			reply(centrifuge.SubscribeReply{}, nil)
		})
		client.OnPublish(func(_ centrifuge.PublishEvent, reply centrifuge.PublishCallback) {
			reply(centrifuge.PublishReply{}, nil)
		})
		if o.Greeting != nil {
			client.WritePublication(o.Topic, &centrifuge.Publication{Data: o.Greeting}, centrifuge.StreamPosition{})
		}
	})
	if err := node.Run(); err != nil {
		return nil, err
	}
	return &centrifugeServer{node, o}, nil
}

func (s *centrifugeServer) Serve(l net.Listener) error {
	return s.options.serve(l, centrifuge.NewWebsocketHandler(s.node, centrifuge.WebsocketConfig{}).ServeHTTP)
}

func (s *centrifugeServer) Publish(topic string, data []byte) error {
	_, err := s.node.Publish(topic, data)
	return err
}

func (s *centrifugeServer) Subscriptions() int { return s.node.Hub().NumSubscriptions() }
