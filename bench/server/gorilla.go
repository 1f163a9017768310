package server

import (
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	"github.com/livetopic/livetopic/bench/wire"
)

var gorillaKind = Kind{
	Name:    "gorilla",
	Module:  "github.com/gorilla/websocket",
	About:   "a hub as in its chat example, with topics, and one PreparedMessage a publication",
	Role:    Peer,
	Dialect: wire.Plain,
	New:     newGorilla,
}

// The times of the library's chat example.
const (
	gorillaWriteWait  = 10 * time.Second
	gorillaPongWait   = 60 * time.Second
	gorillaPingPeriod = gorillaPongWait * 9 / 10
)

type gorillaServer struct {
	*hub[*gorillaClient]
	upgrader websocket.Upgrader
}

// gorillaClient has a goroutine that reads and one that writes, which ends with
// done or on an error of the connection.
type gorillaClient struct {
	conn *websocket.Conn
	send chan *websocket.PreparedMessage
	done chan struct{}
	once sync.Once
}

func newGorilla(o Options) (Server, error) {
	return &gorillaServer{
		hub:      newHub[*gorillaClient](o),
		upgrader: websocket.Upgrader{ReadBufferSize: 1024, WriteBufferSize: 1024},
	}, nil
}

func (s *gorillaServer) Serve(l net.Listener) error {
	return s.options.serve(l, func(w http.ResponseWriter, r *http.Request) {
		conn, err := s.upgrader.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		c := &gorillaClient{
			conn: conn,
			send: make(chan *websocket.PreparedMessage, s.options.Queue),
			done: make(chan struct{}),
		}
		go c.write()
		s.welcome(c, func(message []byte) {
			if p, err := websocket.NewPreparedMessage(websocket.TextMessage, message); err == nil {
				c.send <- p
			}
		})
		go s.read(c)
	})
}

func (s *gorillaServer) Publish(topic string, data []byte) error {
	message, err := envelope(topic, data)
	if err != nil {
		return err
	}
	prepared, err := websocket.NewPreparedMessage(websocket.TextMessage, message)
	if err != nil {
		return err
	}
	s.each(topic, func(c *gorillaClient) {
		select {
		case c.send <- prepared:
		default:
			c.close()
		}
	})
	return nil
}

func (s *gorillaServer) read(c *gorillaClient) {
	defer s.leave(c)
	defer c.close()
	c.conn.SetReadDeadline(time.Now().Add(gorillaPongWait))
	c.conn.SetPongHandler(func(string) error {
		return c.conn.SetReadDeadline(time.Now().Add(gorillaPongWait))
	})
	for {
		_, message, err := c.conn.ReadMessage()
		if err != nil {
			return
		}
		receive(message, func(topic string) { s.subscribe(c, topic) }, s.Publish)
	}
}

func (c *gorillaClient) write() {
	ticker := time.NewTicker(gorillaPingPeriod)
	defer ticker.Stop()
	defer c.close()
	for {
		select {
		case message := <-c.send:
			c.conn.SetWriteDeadline(time.Now().Add(gorillaWriteWait))
			if c.conn.WritePreparedMessage(message) != nil {
				return
			}
		case <-ticker.C:
			c.conn.SetWriteDeadline(time.Now().Add(gorillaWriteWait))
			if c.conn.WriteMessage(websocket.PingMessage, nil) != nil {
				return
			}
		case <-c.done:
			return
		}
	}
}

func (c *gorillaClient) close() {
	c.once.Do(func() {
		close(c.done)
		c.conn.Close()
	})
}
