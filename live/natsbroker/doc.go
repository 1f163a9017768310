// Package natsbroker is a live.Broker on NATS: a server embedded in the process, a
// cluster of such, or one that runs elsewhere.
//
//	broker, err := natsbroker.New(natsbroker.Options{StoreDir: "data"})
//	…
//	server := live.New(live.Options{Broker: broker})
//
// Topics that a stream covers, see StreamConfig, keep their history on JetStream, which
// survives a restart; so do those with TopicOptions.History. All others go from node to
// node and are kept nowhere.
//
// # What it uses of NATS
//
// Under Options.Prefix, "live" by default:
//
//	live.d.TOPIC  what nodes subscribe to, each to the topics that its sessions have
//	live.s.TOPIC  what the streams take in, and send on to live.d.TOPIC
//	live.h.TOPIC  the same for the default stream
//	live.b.KIND   what servers tell each other
//
// A topic's parts, between dots and colons, are the tokens of its subject; a colon leaves
// a mark, so that chat:1 is live.d.chat.:1 and chat.1 is live.d.chat.1. A message's
// payload is the publication's JSON. Other programs may publish and read there: what is
// no JSON is dropped. Whoever may use these subjects is trusted.
//
// A stream has the prefix in its metadata, as "livetopic-prefix". One that has another, or
// none and other subjects, is somebody else's and never changed: see ErrNotOurs.
package natsbroker
