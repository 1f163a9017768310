package live

// isBetween reports whether p is no older than one position and no newer than another.
func isBetween(p, older, newer Position) bool {
	return p.Epoch == older.Epoch && p.Epoch == newer.Epoch && older.Offset <= p.Offset && p.Offset <= newer.Offset
}

// isBefore reports whether p lies before other in the same history.
func isBefore(p, other Position) bool {
	return p.Epoch == other.Epoch && p.Offset < other.Offset
}
