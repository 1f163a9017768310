package broker

import "context"

// Recoverer is a Broker that keeps history.
type Recoverer interface {
	// Keeps reports whether the topic keeps history.
	Keeps(topic string) bool

	// Last returns the topic's newest position, as the owner of the history knows
	// it, not as a copy that lags. A topic without a publication has an epoch and an
	// offset too: the offsets of later publications are greater.
	Last(ctx context.Context, topic string) (Position, error)

	// Read returns publications after one offset and up to another, both in the
	// current epoch, oldest first, limit at most. It may return fewer than there are,
	// to keep a page to some hundred kilobytes, but one at least if there is one: Upto
	// then says how far the page goes, and the caller reads on from there.
	//
	// Of a keyed topic it returns the newest publication of each key that has one within the
	// offsets, and the removals that are kept. A value that a newer one has replaced is not
	// missing.
	Read(ctx context.Context, topic string, after, upto uint64, limit int) (Page, error)

	// Tail returns the newest publications, limit at most, oldest first, without a hole
	// between the first of them and Upto. If they are too large for memory, the page
	// holds only the oldest of them, at least MinTailBytes, and Upto is the offset of its
	// last one. The caller then reads on with Read. If the page reaches the topic's
	// newest publication and has fewer than limit, the history has no more. Of a keyed topic it
	// returns the newest publication of each key, without removals.
	Tail(ctx context.Context, topic string, limit int) (Page, error)
}

// MinTailBytes is the least size of its data, in bytes, at which a broker may cut the page of a
// Tail. A smaller page that does not reach the newest publication is one of a copy that lags.
const MinTailBytes = 128 << 10

// Page is a part of a topic's history.
type Page struct {
	// Publications has what was read, oldest first.
	Publications []*Publication

	// Epoch is that of the history that was read.
	Epoch string

	// Upto is the highest offset that this page covers. It is lower than what was
	// asked for if the page was cut, by limit or for its size, or if the copy of the
	// history that answered lags. An empty page that reaches far enough says that
	// there is nothing.
	Upto uint64

	// Complete says of a Read that nothing between after and the last of
	// Publications is missing: it was never there, or it is in the page. It is false
	// when something may have been dropped from the history.
	Complete bool
}
