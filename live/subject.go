package live

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// subjectOf is the name of a topic at a messaging system. Topics are chosen by clients, and for
// the system a '>' or '*' may be a pattern: who may subscribe to "chat.>" would hear the topics
// that OnSubscribe keeps from them. Two topics never have the same subject.
func subjectOf(topic string) string {
	plain := func(i int, r rune) bool {
		switch {
		case r == '.': // only between two parts
			return i > 0 && topic[i-1] != '.' && i < len(topic)-1
		case r == utf8.RuneError:
			return false
		}
		return unicode.IsLetter(r) || unicode.IsDigit(r) || strings.ContainsRune("-_:/=@~", r)
	}
	var b strings.Builder
	for i, r := range topic {
		size := utf8.RuneLen(r)
		if r == utf8.RuneError {
			_, size = utf8.DecodeRuneInString(topic[i:])
		}
		if plain(i, r) {
			b.WriteString(topic[i : i+size])
			continue
		}
		for _, c := range []byte(topic[i : i+size]) {
			const hex = "0123456789ABCDEF"
			b.Write([]byte{'%', hex[c>>4], hex[c&15]})
		}
	}
	return b.String()
}
