package server

import (
	"context"
	"net"
	"net/http"

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

type centrifugeServer struct{ node *centrifuge.Node }

func newCentrifuge(Options) (Server, error) {
	node, err := centrifuge.New(centrifuge.Config{})
	if err != nil {
		return nil, err
	}
	node.OnConnecting(func(context.Context, centrifuge.ConnectEvent) (centrifuge.ConnectReply, error) {
		return centrifuge.ConnectReply{Credentials: &centrifuge.Credentials{}}, nil
	})
	node.OnConnect(func(client *centrifuge.Client) {
		client.OnSubscribe(func(_ centrifuge.SubscribeEvent, reply centrifuge.SubscribeCallback) {
			reply(centrifuge.SubscribeReply{}, nil)
		})
		client.OnPublish(func(_ centrifuge.PublishEvent, reply centrifuge.PublishCallback) {
			reply(centrifuge.PublishReply{}, nil)
		})
	})
	if err := node.Run(); err != nil {
		return nil, err
	}
	return &centrifugeServer{node}, nil
}

func (s *centrifugeServer) Serve(l net.Listener) error {
	ws := centrifuge.NewWebsocketHandler(s.node, centrifuge.WebsocketConfig{})
	return http.Serve(l, ws)
}

func (s *centrifugeServer) Publish(topic string, data []byte) error {
	_, err := s.node.Publish(topic, data)
	return err
}

func (s *centrifugeServer) Subscriptions() int { return s.node.Hub().NumSubscriptions() }
