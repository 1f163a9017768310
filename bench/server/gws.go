package server

import (
	"net"
	"net/http"

	"github.com/lxzan/gws"

	"github.com/livetopic/livetopic/bench/wire"
)

var gwsKind = Kind{
	Name:    "gws",
	Module:  "github.com/lxzan/gws",
	About:   "one Broadcaster a publication, to the connections of an index by topic; its queues have no bound",
	Role:    Peer,
	Dialect: wire.Plain,
	New:     newGWS,
}

type gwsServer struct {
	*hub[*gws.Conn]
	gws.BuiltinEventHandler
}

func newGWS(o Options) (Server, error) {
	return &gwsServer{hub: newHub[*gws.Conn](o)}, nil
}

func (s *gwsServer) Serve(l net.Listener) error {
	upgrader := gws.NewUpgrader(s, &gws.ServerOption{})
	return s.options.serve(l, func(w http.ResponseWriter, r *http.Request) {
		conn, err := upgrader.Upgrade(w, r)
		if err != nil {
			return
		}
		go conn.ReadLoop() // so that net/http lets go of the request, as gws advises
	})
}

func (s *gwsServer) Publish(topic string, data []byte) error {
	message, err := envelope(topic, data)
	if err != nil {
		return err
	}
	b := gws.NewBroadcaster(gws.OpcodeText, message)
	defer b.Close()
	s.each(topic, func(c *gws.Conn) { b.Broadcast(c) })
	return nil
}

// OnOpen implements gws.Event.
func (s *gwsServer) OnOpen(c *gws.Conn) {
	s.welcome(c, func(message []byte) { c.WriteMessage(gws.OpcodeText, message) })
}

// OnMessage implements gws.Event.
func (s *gwsServer) OnMessage(c *gws.Conn, message *gws.Message) {
	defer message.Close()
	receive(message.Bytes(), func(topic string) { s.subscribe(c, topic) }, s.Publish)
}

// OnPing implements gws.Event.
func (s *gwsServer) OnPing(c *gws.Conn, payload []byte) { c.WritePong(payload) }

// OnClose implements gws.Event.
func (s *gwsServer) OnClose(c *gws.Conn, _ error) { s.leave(c) }
