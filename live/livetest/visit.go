package livetest

import (
	"context"
	"net"
	"net/http"

	"github.com/livetopic/livetopic/live"
)

// visit is what the server's side knows of a client's connection. The context of its handshake, and
// so that of its session, leads to it.
type visit struct {
	value    any // Session.Value
	hasValue bool
	plain    bool

	connected chan struct{} // closed when OnConnect has returned
	session   *live.Session // valid when connected is closed
	ended     chan struct{} // closed when OnClose has returned
	err       error         // that OnClose got; valid when ended is closed
}

func newVisit(d *dialing) *visit {
	return &visit{
		value: d.value, hasValue: d.hasValue, plain: d.plain,
		connected: make(chan struct{}), ended: make(chan struct{}),
	}
}

type visitKey struct{}

// withVisit is the ConnContext of the http.Server.
func withVisit(ctx context.Context, conn net.Conn) context.Context {
	return context.WithValue(ctx, visitKey{}, conn.(*line).visit)
}

// visitOf returns the visit of a connection. It is never nil.
func visitOf(ctx context.Context) *visit {
	if v, _ := ctx.Value(visitKey{}).(*visit); v != nil {
		return v
	}
	return newVisit(&dialing{})
}

// syncTopic is the topic of the messages with which Client.Sync asks. The application never sees it.
const syncTopic = "livetest.sync"

// watched returns options with which the callbacks tell the visit of a connection what happens.
func watched(o live.Options) live.Options {
	onAuth, onConnect, onMessage, onClose := o.OnAuth, o.OnConnect, o.OnMessage, o.OnClose
	o.OnAuth = func(ctx context.Context, r *http.Request) (any, error) {
		if v := visitOf(r.Context()); v.hasValue {
			return v.value, nil
		}
		if onAuth == nil {
			return nil, nil
		}
		return onAuth(ctx, r)
	}
	o.OnConnect = func(ctx context.Context, s *live.Session) error {
		v := visitOf(ctx)
		v.session = s
		defer close(v.connected) // also after a panic
		if onConnect == nil {
			return nil
		}
		return onConnect(ctx, s)
	}
	o.OnMessage = func(ctx context.Context, s *live.Session, topic string, data []byte) {
		switch {
		case topic == syncTopic && visitOf(ctx).plain:
			s.Send(live.Message{Topic: topic, Data: data}) // an error means that the session has ended
		case onMessage != nil:
			onMessage(ctx, s, topic, data)
		}
	}
	o.OnClose = func(s *live.Session, err error) {
		v := visitOf(s.Context())
		v.err = err
		defer close(v.ended) // also after a panic
		if onClose != nil {
			onClose(s, err)
		}
	}
	return o
}
