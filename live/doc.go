// Package live pushes updates to browsers: sessions subscribe to topics over
// WebSocket, anything in the program publishes to a topic, and every session
// that is subscribed has it at once.
//
//	server := live.New(live.Options{
//		OnMessage: func(ctx context.Context, s *live.Session, topic string, data []byte) {
//			// the client sent {"topic":…,"data":…}
//		},
//		OnConnect: func(ctx context.Context, s *live.Session) error {
//			return server.Subscribe(s, "news")
//		},
//	})
//	http.Handle("GET /live", server.Handler())
//	…
//	server.Publish("news", []byte(`{"text":"hello"}`))
//
// # A session's life
//
// A client's handshake is checked, its origin first; OnAuth decides who it is;
// the connection is switched to WebSocket, OnConnect is called, and then
// OnMessage for each of its messages. However it ends, the session is first out
// of every topic, and then OnClose is called, once.
//
// The application ends a session with Close; with Disconnect, whose close code tells the
// client whether to come back; at a time, with ExpireAt; and all those of one user, on
// every server, with DisconnectUser.
//
// # What is promised
//
// For one topic all sessions see publications in one order, and those of one
// goroutine in the order it made them. After Subscribe has returned every
// publication that is made reaches the session; after Unsubscribe has returned
// none that is made does.
//
// Loss is never silent on a topic that keeps history (Options.Topics): a client
// that comes back with the position it has gets exactly what it missed, once and
// in order, or is told that there is a gap. On other topics delivery is at most
// once: what is published while a client is away it does not get.
//
// A slow client hurts only itself. What waits for it is bounded in messages and
// in bytes. One message larger than the bound is taken when nothing else waits. On a
// topic with history a client that falls behind reads on in the history at its own pace;
// on others its session is closed with ErrQueueFull, or publications are dropped, as
// TopicOptions.Overflow says.
//
// A dead client is found within PingInterval + PingTimeout. A slow one is not taken for
// dead: the server reads while callbacks run, and while a client takes what it is sent
// that is a sign of life.
//
// # What is on the wire
//
// One JSON object a text frame, {"topic":…,"data":…}, both ways. What a client
// sends that is no such object is ignored and counted in Stats. A client that offers
// the subprotocol live.v1, as live.js does, may subscribe, publish and ask for itself,
// as far as OnSubscribe, OnPublish and OnRequest let it. docs/protocol.md describes
// it for whoever writes another client.
package live
