// Package livetest has what the tests of all modules share: a WebSocket client that speaks live.v1
// and plain messages, its connections, servers to connect to, and comparisons. Users have
// live/livetest, which knows less of the protocol and is for tests of handlers.
//
//	dial.go     Dial, DialV1, Connect, Try: ways to connect
//	client.go   Client: it sends and reads
//	frame.go    Frame: a frame of the server, and frames made by hand
//	line.go     Line: a connection that is read at a pace, or not at all
//	relay.go    Relay: a TCP relay with faults
//	roamer.go   Roamer: a client whose connection is cut again and again
//	server.go   servers under test
//	address.go  addresses of this machine that nobody else takes
//	wrappers.go wrappers of a ResponseWriter
//	compare.go  comparisons
//	page.go     pages of the documentation, and their snippets
//	logpage.go  LogPage: the page that lists what is logged
//	wait.go     waiting
package livetest
