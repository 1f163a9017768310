package broker

import (
	"fmt"
	"strconv"
	"strings"
)

// Position is a place in a topic's history. The zero Position is that of a topic
// that keeps none.
type Position struct {
	// Epoch names the history. A history that was lost, or lost its newest publications,
	// goes on under another name: it may give its offsets again, and a client that
	// resumes from an offset of before must be told of a gap. It is made of letters,
	// digits, '-' and '_'.
	Epoch string

	// Offset grows with every publication, not always by one.
	Offset uint64
}

// String returns the position as it goes to clients, who must not look into it;
// "" for the zero Position.
func (p Position) String() string {
	if p == (Position{}) {
		return ""
	}
	return p.Epoch + "." + strconv.FormatUint(p.Offset, 10)
}

// maxOffsetDigits is the length of the largest offset. Zeros before an offset would let a client choose how
// much memory is held with the Epoch, which is a piece of the text.
const maxOffsetDigits = 20

// ParsePosition is the inverse of Position.String.
func ParsePosition(s string) (Position, error) {
	if s == "" {
		return Position{}, nil
	}
	i := strings.LastIndexByte(s, '.')
	if i < 1 || len(s)-(i+1) > maxOffsetDigits {
		return Position{}, fmt.Errorf("live: %q is not a position; pass one unchanged from a publication or a reply", s)
	}
	offset, err := strconv.ParseUint(s[i+1:], 10, 64)
	if err != nil {
		return Position{}, fmt.Errorf("live: %q is not a position; pass one unchanged from a publication or a reply", s)
	}
	return Position{Epoch: s[:i], Offset: offset}, nil
}
