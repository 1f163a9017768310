// Package jsonscan checks quickly that bytes are one JSON value (RFC 8259) in UTF-8. It
// also walks through members and elements of a valid value, and quotes strings.
//
// Every publication is checked once. encoding/json calls a function for each byte, and does not
// check UTF-8 at all. In a burst to few sessions its check would cost as much as the fan-out.
package jsonscan

import (
	"encoding/binary"
	"encoding/json"
	"math"
	"math/bits"
	"unicode/utf8"
)

// Valid reports whether b is one JSON value in UTF-8. White space may stand around
// it. It may nest 10,000 levels deep, as encoding/json allows.
func Valid(b []byte) bool {
	if end := Value(b, 0); end >= 0 && space(b, end) == len(b) {
		return true
	}
	// b is not valid, or nests deeper than maxDepth.
	return json.Valid(b) && utf8.Valid(b)
}

// TooDeep reports whether Valid refuses b only because it nests deeper than 10,000 levels. Members, Elements and Kind
// can read such a value.
func TooDeep(b []byte) bool {
	end := value(b, 0, math.MaxInt)
	return end >= 0 && space(b, end) == len(b) && !Valid(b)
}

// MaxDataDepth is how many levels data may nest. Many readers of JSON allow 10,000 levels, as encoding/json does, and a
// frame puts some levels around the data. No frame may be deeper than such a reader allows, because then each
// subscriber would fail on it.
const MaxDataDepth = 9_990

// ValidData is Valid for data that is to stand in a frame: it may nest MaxDataDepth levels deep.
func ValidData(b []byte) bool {
	if end := Value(b, 0); end >= 0 && space(b, end) == len(b) {
		return true
	}
	return json.Valid(b) && utf8.Valid(b) && depth(b) <= MaxDataDepth
}

// depth returns how many levels valid JSON nests.
func depth(b []byte) int {
	deepest, now := 0, 0
	for i := 0; i < len(b); {
		switch b[i] {
		case '"':
			i = skipString(b, i)
			continue
		case '{', '[':
			now++
			deepest = max(deepest, now)
		case '}', ']':
			now--
		}
		i++
	}
	return deepest
}

// maxDepth is how many levels Value can follow without allocating: as many as a word has bits.
const maxDepth = 64

// Value skips white space, and returns the index after the JSON value that begins
// there. It returns -1 if there is no value, or the value is not UTF-8 or nests
// deeper than 64 levels.
func Value(b []byte, i int) int { return value(b, i, maxDepth) }

// value is Value for another bound of depth, a multiple of maxDepth.
func value(b []byte, i, most int) int {
	depth := 0
	objects := uint64(0) // has a bit for each level, the lowest for the innermost level; 1: the level is an object
	var outer []uint64   // the words of the levels outside of those in objects
	for {
		i = space(b, i)
		if i == len(b) {
			return -1
		}
		opened := false
		switch c := b[i]; c {
		case '{', '[':
			if depth == most {
				return -1
			}
			if depth > 0 && depth%maxDepth == 0 {
				outer = append(outer, objects)
			}
			depth++
			objects <<= 1
			if c == '{' {
				objects |= 1
			}
			i = space(b, i+1)
			opened = i == len(b) || b[i] != c+2 // '{'+2 is '}', '['+2 is ']'
		case '"':
			i = str(b, i+1)
		case 't':
			i = literal(b, i, "true")
		case 'f':
			i = literal(b, i, "false")
		case 'n':
			i = literal(b, i, "null")
		default:
			i = number(b, i)
		}
		if i < 0 {
			return -1
		}
		if !opened {
			// Close the arrays and objects that end here, and go on after a comma.
			for comma := false; !comma; {
				if depth == 0 {
					return i
				}
				i = space(b, i)
				if i == len(b) {
					return -1
				}
				switch {
				case b[i] == ',':
					comma = true
				case b[i] == '}' && objects&1 == 1, b[i] == ']' && objects&1 == 0:
					depth--
					objects >>= 1
					if len(outer) > 0 && depth%maxDepth == 0 {
						objects = outer[len(outer)-1]
						outer = outer[:len(outer)-1]
					}
				default:
					return -1
				}
				i++
			}
		}
		if objects&1 == 1 {
			if i = key(b, i); i < 0 {
				return -1
			}
		}
	}
}

// key returns the index after an object's key and its colon, or -1.
func key(b []byte, i int) int {
	i = space(b, i)
	if i == len(b) || b[i] != '"' {
		return -1
	}
	if i = str(b, i+1); i < 0 {
		return -1
	}
	i = space(b, i)
	if i == len(b) || b[i] != ':' {
		return -1
	}
	return i + 1
}

// space returns the index after the white space at i.
func space(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\n' || b[i] == '\t' || b[i] == '\r') {
		i++
	}
	return i
}

// literal returns the index after the literal want at i, or -1.
func literal(b []byte, i int, want string) int {
	if len(b)-i < len(want) || string(b[i:i+len(want)]) != want {
		return -1
	}
	return i + len(want)
}

// plain checks eight bytes at a time. Each of these constants has one byte in all eight places.
const (
	ones        = 0x0101010101010101
	highBits    = 0x80 * ones
	quotes      = '"' * ones
	backslashes = '\\' * ones
	spaces      = ' ' * ones
)

// plain returns how many of the next eight bytes are plain ASCII: no quote, backslash or control
// character. In mask, the high bit of a byte is set if the byte is not plain. A borrow of the
// subtractions may also set the high bits of later bytes, so only the first set bit counts.
func plain(word uint64) int {
	quote, backslash := word^quotes, word^backslashes // a quote or backslash becomes a zero byte
	mask := (word | (word-spaces)&^word | (quote-ones)&^quote | (backslash-ones)&^backslash) & highBits
	return bits.TrailingZeros64(mask) / 8
}

// str returns the index after the string whose opening quote is before i, or -1.
func str(b []byte, i int) int {
	for {
		for i+8 <= len(b) {
			n := plain(binary.LittleEndian.Uint64(b[i:]))
			i += n
			if n < 8 {
				break
			}
		}
		if i >= len(b) {
			return -1
		}
		switch c := b[i]; {
		case c == '"':
			return i + 1
		case c == '\\':
			if i = escape(b, i+1); i < 0 {
				return -1
			}
		case c < ' ':
			return -1
		case c < utf8.RuneSelf:
			i++
		default:
			r, size := utf8.DecodeRune(b[i:])
			if r == utf8.RuneError && size == 1 {
				return -1
			}
			i += size
		}
	}
}

// escape returns the index after the escape whose backslash is before i, or -1.
func escape(b []byte, i int) int {
	if i >= len(b) {
		return -1
	}
	switch b[i] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return i + 1
	case 'u':
		if len(b)-i < 5 {
			return -1
		}
		for _, c := range b[i+1 : i+5] {
			if !isHex(c) {
				return -1
			}
		}
		return i + 5
	}
	return -1
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'f'
}

// number returns the index after the number at i, or -1.
func number(b []byte, i int) int {
	if b[i] == '-' {
		i++
	}
	if i < len(b) && b[i] == '0' {
		i++
	} else if i = digits(b, i); i < 0 {
		return -1
	}
	if i < len(b) && b[i] == '.' {
		if i = digits(b, i+1); i < 0 {
			return -1
		}
	}
	if i < len(b) && b[i]|0x20 == 'e' {
		i++
		if i < len(b) && (b[i] == '+' || b[i] == '-') {
			i++
		}
		return digits(b, i)
	}
	return i
}

// digits returns the index after one or more digits, or -1.
func digits(b []byte, i int) int {
	from := i
	for i < len(b) && '0' <= b[i] && b[i] <= '9' {
		i++
	}
	if i == from {
		return -1
	}
	return i
}
