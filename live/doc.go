// Package live pushes updates to browsers. Sessions subscribe to topics over WebSocket. Any
// code in the program publishes to a topic, and every session that is subscribed gets the
// publication at once.
//
//	server := live.New(live.Options{
//		OnSubscribe: func(ctx context.Context, s *live.Session, topic string) error {
//			return nil // or an error: this session may not have this topic
//		},
//		Topics: func(topic string) live.TopicOptions {
//			return live.TopicOptions{History: 100} // a client that comes back gets what it missed
//		},
//	})
//	http.Handle("GET /live", server.Handler())
//	…
//	server.Publish("news", []byte(`{"text":"hello"}`))
//
// # A session's life
//
// The server checks a client's handshake and its origin. OnAuth decides who the client is.
// Then the connection switches to WebSocket, OnConnect is called once, and OnMessage is called
// for each message of the client. However the session ends, it first leaves every topic. After
// that OnClose is called once.
//
// The application can end sessions in four ways:
//
//   - Close ends a session, and tells its client to stay away.
//   - Disconnect ends a session with a close code, which tells the client whether to come back.
//   - ExpireAt ends a session at a given time.
//   - DisconnectUser ends all sessions of one user, on every server.
//
// # What is promised
//
// All sessions see the publications of a topic in the same order. Publications that one
// goroutine makes keep the order in which it made them. Every publication that this server
// makes after Subscribe has returned reaches the session. Publications made after Unsubscribe
// has returned do not reach it.
//
// On a topic that keeps history (Options.Topics) loss is never silent. A client that comes back
// with its last position gets exactly what it missed, once and in order, or is told that there
// is a gap. On other topics delivery is at most once: a client does not get what is published
// while it is away.
//
// A slow client hurts only itself. The messages that wait for it are bounded in number and in
// bytes. One message larger than the bound in bytes is accepted when nothing else waits. On a
// topic with history a client that falls behind reads on in the history at its own pace. On
// other topics its session is closed with ErrQueueFull, or publications are dropped, as
// TopicOptions.Overflow says.
//
// A dead client is found within PingInterval + PingTimeout. A slow client is not taken for dead:
// the server reads its frames while callbacks run, and a client that takes what it is sent
// counts as alive.
//
// # Who is present
//
// A topic whose TopicOptions.Presence is not PresenceOff has members: the users who are
// subscribed to it, on any server. Server.Presence returns them, ListenPresence tells who joins and
// leaves, and clients see them if the topic is PresenceVisible. A user who comes back within
// PresenceGrace has not left. A server that is killed is noticed within ten seconds.
//
// # What is on the wire
//
// Each text frame holds one JSON object, {"topic":…,"data":…}, in both directions. The server
// ignores other messages, and counts them in Stats. A client that offers the
// subprotocol live.v1, as live.js does, can also subscribe, publish and send requests, as far
// as OnSubscribe, OnPublish and OnRequest allow it. Authors of other clients find this protocol
// in docs/protocol.md.
package live
