// Package presence knows who is present in which topic, on every server of an application. It is a
// state machine: it has no goroutine, no socket and no clock. The caller tells it what happens and
// what time it is, and sends the messages that it returns to all servers.
//
// Each session that is present in a topic is an entry. The server that has the session owns the
// entry. Only the owner adds, changes and removes the entry, so servers cannot disagree about it. A
// server that was restarted is another owner: it has another incarnation.
//
// The owner collects changes in batches, called deltas, and numbers the deltas. Every two seconds the
// owner sends a beat, with the number of its newest delta and the number of its entries. A server
// that misses a delta asks for it again. A server that does not know the owner asks for all of its
// entries. They come in chunks. The entries of an owner that is silent for DeadAfter are removed.
//
// Entries with the same member ID in a topic are one member. A member is shown until its last entry
// has ended and the grace is over. So a user who loads a page again neither leaves nor joins.
package presence
