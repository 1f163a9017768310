package server

import (
	"context"
	"net"
	"net/http"
	"time"

	"github.com/coder/websocket"

	"github.com/livetopic/livetopic/bench/wire"
)

var coderKind = Kind{
	Name:    "coder",
	Module:  "github.com/coder/websocket",
	About:   "a plain hub: a channel and a writing goroutine a session",
	Role:    Peer,
	Dialect: wire.Plain,
	New:     newCoder,
}

// coderWriteTimeout is that of the library's chat example.
const coderWriteTimeout = 5 * time.Second

type coderServer struct{ *hub[*coderClient] }

// coderClient reads in its handler's goroutine and writes in another, which ends
// with ctx.
type coderClient struct {
	conn  *websocket.Conn
	send  chan []byte
	close context.CancelFunc
}

func newCoder(o Options) (Server, error) {
	return &coderServer{newHub[*coderClient](o)}, nil
}

func (s *coderServer) Serve(l net.Listener) error {
	return s.options.serve(l, func(w http.ResponseWriter, r *http.Request) {
		conn, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		defer conn.CloseNow()
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		c := &coderClient{conn: conn, send: make(chan []byte, s.options.Queue), close: cancel}
		defer s.leave(c)
		go c.write(ctx)
		s.welcome(c, func(message []byte) { c.send <- message })
		s.read(ctx, c)
	})
}

func (s *coderServer) Publish(topic string, data []byte) error {
	message, err := envelope(topic, data)
	if err != nil {
		return err
	}
	s.each(topic, func(c *coderClient) {
		select {
		case c.send <- message:
		default:
			c.close()
		}
	})
	return nil
}

func (s *coderServer) read(ctx context.Context, c *coderClient) {
	for {
		_, message, err := c.conn.Read(ctx)
		if err != nil {
			return
		}
		receive(message, func(topic string) { s.subscribe(c, topic) }, s.Publish)
	}
}

func (c *coderClient) write(ctx context.Context) {
	defer c.close()
	for {
		select {
		case message := <-c.send:
			if c.writeOne(ctx, message) != nil {
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

func (c *coderClient) writeOne(ctx context.Context, message []byte) error {
	ctx, cancel := context.WithTimeout(ctx, coderWriteTimeout)
	defer cancel()
	return c.conn.Write(ctx, websocket.MessageText, message)
}
