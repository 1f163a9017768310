package live

// isBetween reports whether p is in the same history as both positions, and lies between them. p may
// also be equal to one of them.
func isBetween(p, older, newer Position) bool {
	return p.Epoch == older.Epoch && p.Epoch == newer.Epoch && older.Offset <= p.Offset && p.Offset <= newer.Offset
}

// isBefore reports whether p is older than other, in the same history.
func isBefore(p, other Position) bool {
	return p.Epoch == other.Epoch && p.Offset < other.Offset
}
