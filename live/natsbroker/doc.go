// Package natsbroker is a live.Broker on NATS. The NATS server is embedded in the process, or
// is a member of a cluster of embedded servers, or runs elsewhere.
//
//	broker, err := natsbroker.New(natsbroker.Options{StoreDir: "data"})
//	…
//	server := live.New(live.Options{Broker: broker})
//
// A stream keeps the history of the topics that it covers: see StreamConfig. The default stream
// keeps the history of the other topics that have TopicOptions.History. A history on disk
// survives a restart. A publication of any other topic goes from node to node and is kept
// nowhere.
//
// # The subjects in NATS
//
// The subjects begin with Options.Prefix, which is "live" by default:
//
//	live.d.TOPIC  deliveries; a node subscribes to the topics that its sessions have
//	live.s.TOPIC  what the streams of Options store, and republish on live.d.TOPIC
//	live.h.TOPIC  what the default stream stores, and republishes on live.d.TOPIC
//	live.b.KIND   broadcasts between the servers
//
// A keyed topic has live.e, live.k and live.kh in place of live.d, live.s and live.h. The last token of
// its subjects is "=k" and the key.
//
// Dots and colons divide a topic into parts, and each part is a token of the subject. A colon
// leaves a mark in the subject: chat:1 is live.d.chat.:1, and chat.1 is live.d.chat.1. The
// payload of a message is the JSON of the publication. Other programs may publish and read on
// these subjects. A message that is not JSON is dropped. Every program that may use these
// subjects is trusted.
//
// The metadata of a stream holds the prefix, as "livetopic-prefix". A stream with another
// prefix belongs to another application. So does a stream without a prefix, unless all its
// subjects are under ours. Such a stream is never changed: see ErrNotOurs.
package natsbroker
