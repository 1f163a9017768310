package server

import (
	"net"
	"net/http"

	"github.com/olahol/melody"

	"github.com/livetopic/livetopic/bench/wire"
)

var melodyKind = Kind{
	Name:    "melody",
	Module:  "github.com/olahol/melody",
	About:   "Write to the sessions of an index by topic, since its BroadcastFilter would ask every session of the server",
	Role:    Peer,
	Dialect: wire.Plain,
	New:     newMelody,
}

type melodyServer struct {
	*hub[*melody.Session]
	melody *melody.Melody
}

func newMelody(o Options) (Server, error) {
	s := &melodyServer{hub: newHub[*melody.Session](o), melody: melody.New()}
	s.melody.Config.MessageBufferSize = o.Queue
	s.melody.Config.MaxMessageSize = 64 << 10 // 512 bytes by default: less than some payloads
	s.melody.HandleMessage(func(session *melody.Session, message []byte) {
		receive(message, func(topic string) { s.subscribe(session, topic) }, s.Publish)
	})
	s.melody.HandleConnect(func(session *melody.Session) {
		s.welcome(session, func(message []byte) { session.Write(message) })
	})
	s.melody.HandleDisconnect(s.leave)
	return s, nil
}

func (s *melodyServer) Serve(l net.Listener) error {
	return s.options.serve(l, func(w http.ResponseWriter, r *http.Request) { s.melody.HandleRequest(w, r) })
}

func (s *melodyServer) Publish(topic string, data []byte) error {
	message, err := envelope(topic, data)
	if err != nil {
		return err
	}
	s.each(topic, func(session *melody.Session) { session.Write(message) })
	return nil
}
