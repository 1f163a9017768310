// Package livetest is what the tests of all modules share: a WebSocket client that speaks
// live.v1 and plain messages, the lines that it is on, servers to connect to, and
// comparisons.
//
//	dial.go     Dial, DialV1, Connect, Try: ways to connect
//	client.go   Client: what it sends, and what it hears
//	frame.go    Frame: what came, and frames made by hand
//	line.go     Line: a connection that is read at a pace, or not at all
//	relay.go    Relay: a TCP relay with faults
//	roamer.go   Roamer: a client whose line is cut again and again
//	server.go   servers under test
//	wrappers.go wrappers of a ResponseWriter
//	compare.go  comparisons
//	wait.go     waiting
package livetest
