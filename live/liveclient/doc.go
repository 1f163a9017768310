// Package liveclient is a Go client of the protocol live.v1, which docs/protocol.md describes: for programs, bots, tests and
// load. It does what live.js does in a browser.
//
//	client, err := liveclient.Connect(ctx, "wss://example.com/live", liveclient.Options{
//		Token: func(ctx context.Context) (string, error) { return freshToken(ctx) },
//	})
//	if err != nil {
//		return err
//	}
//	defer client.Close()
//	_, err = client.Subscribe("news", func(m liveclient.Message) { fmt.Printf("%s\n", m.Data) })
//	at, err := client.Publish(ctx, "news", map[string]string{"text": "hello"})
//
// # Connections
//
// A client reconnects by itself until Close is called or the server ends it with a final close code. It waits a random time
// before each attempt, within a window that grows with each failure, or that a restarting server names. Each connection renews
// all subscriptions in one frame.
//
// If a topic keeps history, its messages are delivered once and in order across connections, or OnGap is called. A publication
// that has no answer yet is sent again, and is there once.
//
// # Slow callbacks
//
// The connection is read in a goroutine of its own, and each Subscription has a queue for its callbacks; see Options.QueueSize.
// So pings are answered whatever a callback does. When a queue is full, the client stops reading until half of it is free, so that
// the server sends no faster than the callbacks take. It waits two seconds at most, and not while an operation waits for its answer. Then it
// reads on, and drops what comes for this Subscription. When the callbacks have had all that waited, the client fetches what it has
// dropped from the topic's history. So nothing is lost, and a callback of any speed gets each message once and in order. On a topic without
// history there is a gap. On a keyed topic the queue keeps the newest value of each key instead, however many keys there are.
//
// Callbacks may call any method of the client and of its subscriptions. A panic in a callback ends the program, as in any goroutine.
package liveclient
