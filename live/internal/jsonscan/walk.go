package jsonscan

import (
	"bytes"
	"encoding/binary"
	"slices"
	"unicode/utf16"
	"unicode/utf8"
)

// Members calls f for each member of an object, with its name and its value, until f returns
// false. The name is valid only during the call. b must be a valid object, and may have white space
// around it. Members allocates memory only for names with an escape: once, and again if a later such
// name is longer.
func Members(b []byte, f func(name, value []byte) bool) {
	var decoded []byte // the last name that had an escape
	for i := space(b, space(b, 0)+1); b[i] != '}'; {
		nameEnd := skipString(b, i)
		name := b[i+1 : nameEnd-1]
		if bytes.IndexByte(name, '\\') >= 0 {
			decoded = appendDecoded(decoded[:0], name)
			name = decoded
		}
		from := space(b, space(b, nameEnd)+1)
		end := skip(b, from)
		if !f(name, b[from:end]) {
			return
		}
		if i = space(b, end); b[i] == ',' {
			i = space(b, i+1)
		}
	}
}

// Elements calls f for each element of an array, until f returns false. b must be a
// valid array, and may have white space around it.
func Elements(b []byte, f func(value []byte) bool) {
	for i := space(b, space(b, 0)+1); b[i] != ']'; {
		end := skip(b, i)
		if !f(b[i:end]) {
			return
		}
		if i = space(b, end); b[i] == ',' {
			i = space(b, i+1)
		}
	}
}

// Kind returns the first byte of a value. The byte tells the type of the value. Kind returns 0 if
// there is no value.
func Kind(b []byte) byte {
	if i := space(b, 0); i < len(b) {
		return b[i]
	}
	return 0
}

// skip returns the index after the value that begins at i, in valid JSON. It can follow any number
// of levels, in constant memory.
func skip(b []byte, i int) int {
	for depth := 0; ; {
		switch b[i] {
		case '"':
			i = skipString(b, i)
		case '{', '[':
			depth++
			i++
		case '}', ']':
			depth--
			i++
		case ',', ':', ' ', '\n', '\t', '\r':
			i++
		default: // a number or a literal
			for i < len(b) && !endsScalar(b[i]) {
				i++
			}
		}
		if depth == 0 {
			return i
		}
	}
}

// endsScalar reports whether c cannot be part of a number or a literal, and so ends it.
func endsScalar(c byte) bool {
	switch c {
	case ',', ']', '}', ' ', '\n', '\t', '\r':
		return true
	}
	return false
}

// skipString returns the index after the string whose opening quote is at i.
func skipString(b []byte, i int) int {
	for i++; ; {
		if i+8 <= len(b) {
			n := plain(binary.LittleEndian.Uint64(b[i:]))
			i += n
			if n == 8 {
				continue
			}
		}
		switch b[i] {
		case '"':
			return i + 1
		case '\\':
			i++
		}
		i++
	}
}

// appendDecoded decodes the inside of a valid string, without its quotes, and appends the text.
func appendDecoded(b, inner []byte) []byte {
	b = slices.Grow(b, len(inner)) // the text is never longer than the string
	for {
		n := bytes.IndexByte(inner, '\\')
		if n < 0 {
			return append(b, inner...)
		}
		b = append(b, inner[:n]...)
		c := inner[n+1]
		inner = inner[n+2:]
		switch c {
		case 'b':
			b = append(b, '\b')
		case 'f':
			b = append(b, '\f')
		case 'n':
			b = append(b, '\n')
		case 'r':
			b = append(b, '\r')
		case 't':
			b = append(b, '\t')
		case 'u':
			r := hexValue(inner)
			inner = inner[4:]
			if utf16.IsSurrogate(r) { // half of a character; without the other half it becomes U+FFFD
				half := r
				r = utf8.RuneError
				if len(inner) >= 6 && inner[0] == '\\' && inner[1] == 'u' {
					if r = utf16.DecodeRune(half, hexValue(inner[2:])); r != utf8.RuneError {
						inner = inner[6:]
					}
				}
			}
			b = utf8.AppendRune(b, r)
		default: // a quote, a backslash or a slash
			b = append(b, c)
		}
	}
}

// hexValue returns the value of the four hexadecimal digits at the beginning of b.
func hexValue(b []byte) (r rune) {
	for _, c := range b[:4] {
		digit := c - '0'
		if digit > 9 {
			digit = c&^0x20 - 'A' + 10
		}
		r = r<<4 | rune(digit)
	}
	return r
}

// AppendQuoted appends text to b as a JSON string. text must be UTF-8. AppendQuoted escapes only the
// characters that must be escaped: quotes, backslashes and control characters.
func AppendQuoted(b, text []byte) []byte {
	b = append(b, '"')
	from := 0
	for i, c := range text {
		if c >= ' ' && c != '"' && c != '\\' {
			continue
		}
		b = append(b, text[from:i]...)
		from = i + 1
		switch c {
		case '"', '\\':
			b = append(b, '\\', c)
		case '\n':
			b = append(b, '\\', 'n')
		case '\t':
			b = append(b, '\\', 't')
		default:
			const hex = "0123456789abcdef"
			b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		}
	}
	return append(append(b, text[from:]...), '"')
}
