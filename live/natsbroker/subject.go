package natsbroker

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/livetopic/livetopic/live/broker"
)

// How a topic is written as a NATS subject. Dots and colons divide the topic into parts, and
// each part becomes a token. A colon leaves a mark at the start of the token after it, so
// "chat:1" and "chat.1" are two subjects that both match "chat.>". A character that a token
// cannot hold is written as "=" and two hexadecimal digits. An empty part is written as "=_".
//
//	chat.room.1  →  chat.room.1
//	chat:room:1  →  chat.:room.:1
//	a::b c       →  a.:=_.:b=20c
//
// Two topics never have the same subject, and no subject has a wildcard: see the fuzz test.

// The key of a keyed topic's publication is the last token of its subject. It begins with "=k", with which
// no token of a topic begins.
//
//	cursors, key ann  →  cursors.=kann

const keyMark = "=k"

// encodeKey returns the token of a key.
func encodeKey(key string) string {
	b := append(make([]byte, 0, len(keyMark)+len(key)+8), keyMark...)
	for i := 0; i < len(key); i++ {
		if key[i] == '.' {
			b = append(b, "=2E"...)
		} else {
			b = appendEscaped(b, key[i])
		}
	}
	return string(b)
}

// keyOf returns the key in the last token of a subject; false: there is none.
func keyOf(subject string) (key string, ok bool) {
	token, ok := strings.CutPrefix(subject[strings.LastIndexByte(subject, '.')+1:], keyMark)
	if !ok || strings.IndexByte(token, '=') < 0 {
		return token, ok
	}
	var b []byte
	for i := 0; i < len(token); i++ {
		c := token[i]
		if c == '=' {
			if i+2 >= len(token) {
				return "", false
			}
			n, err := strconv.ParseUint(token[i+1:i+3], 16, 8)
			if err != nil {
				return "", false
			}
			c, i = byte(n), i+2
		}
		b = append(b, c)
	}
	return string(b), utf8.Valid(b)
}

// maxTopic is the longest topic in bytes. Its subject is at most three times as long, and a
// NATS server refuses protocol lines over 4,096 bytes.
const maxTopic = 1024

// encode returns the topic as the tokens of a subject, without a prefix. The error wraps
// live.ErrInvalidTopic.
func encode(topic string) (string, error) {
	switch {
	case topic == "":
		return "", fmt.Errorf("natsbroker: %w: it is empty", broker.ErrInvalidTopic)
	case len(topic) > maxTopic:
		return "", fmt.Errorf("natsbroker: %w: %.32q… is longer than %d bytes", broker.ErrInvalidTopic, topic, maxTopic)
	case !utf8.ValidString(topic):
		return "", fmt.Errorf("natsbroker: %w: %q is not UTF-8", broker.ErrInvalidTopic, topic)
	}
	b := make([]byte, 0, len(topic)+8)
	empty := true // the present part has no character yet
	for i := 0; i < len(topic); i++ {
		c := topic[i]
		if c != '.' && c != ':' {
			b = appendEscaped(b, c)
			empty = false
			continue
		}
		if empty {
			b = append(b, "=_"...)
		}
		b = append(b, '.')
		if c == ':' {
			b = append(b, ':')
		}
		empty = true
	}
	if empty {
		b = append(b, "=_"...)
	}
	return string(b), nil
}

func appendEscaped(b []byte, c byte) []byte {
	// 0x7F is legal in a subject, but JetStream cannot find a subject that has it, nor apply
	// MaxMsgsPerSubject to it.
	if c <= ' ' || c == 0x7f || c == '*' || c == '>' || c == '=' {
		const hex = "0123456789ABCDEF"
		return append(b, '=', hex[c>>4], hex[c&15])
	}
	return append(b, c)
}

// encodePattern returns the subjects that a pattern of topics covers: with the separators as
// they are written, with dots only, and with colons only.
func encodePattern(pattern string) ([]string, error) {
	if pattern == "" || len(pattern) > maxTopic || !utf8.ValidString(pattern) {
		return nil, fmt.Errorf("natsbroker: %.32q is not a pattern of topics", pattern)
	}
	var parts []string
	var seps []byte // the separator before each part
	sep, rest := byte('.'), pattern
	for {
		i := strings.IndexAny(rest, ".:")
		part := rest
		if i >= 0 {
			part = rest[:i]
		}
		switch {
		case part == "":
			return nil, fmt.Errorf("natsbroker: pattern %q has an empty part", pattern)
		case part == ">" && i >= 0:
			return nil, fmt.Errorf(`natsbroker: pattern %q has ">" before its end`, pattern)
		case part != ">" && part != "*" && strings.ContainsAny(part, "*>"):
			return nil, fmt.Errorf("natsbroker: pattern %q has a wildcard inside a part", pattern)
		}
		parts, seps = append(parts, part), append(seps, sep)
		if i < 0 {
			break
		}
		sep, rest = rest[i], rest[i+1:]
	}
	write := func(separator func(i int) byte) string {
		var b []byte
		for i, part := range parts {
			if i > 0 {
				b = append(b, '.')
			}
			if part == "*" || part == ">" {
				b = append(b, part...) // a wildcard matches with either separator before it
				continue
			}
			if i > 0 && separator(i) == ':' {
				b = append(b, ':')
			}
			for j := 0; j < len(part); j++ {
				b = appendEscaped(b, part[j])
			}
		}
		return string(b)
	}
	subjects := []string{
		write(func(i int) byte { return seps[i] }),
		write(func(int) byte { return '.' }),
		write(func(int) byte { return ':' }),
	}
	slices.Sort(subjects)
	return slices.Compact(subjects), nil
}

// matches reports whether a NATS pattern covers a subject.
func matches(pattern, subject string) bool {
	for {
		p, moreP := cutToken(&pattern)
		s, moreS := cutToken(&subject)
		switch {
		case p == ">":
			return true
		case p != "*" && p != s || moreP != moreS:
			// "a.>" does not cover "a". "a.*" covers neither "a" nor "a.b.c".
			return false
		case !moreP:
			return true
		}
	}
}

// cutToken removes the first token of s, and reports whether more follow.
func cutToken(s *string) (token string, more bool) {
	token, rest, more := strings.Cut(*s, ".")
	*s = rest
	return token, more
}

// overlapping returns the first of the other patterns that covers a topic which the pattern covers
// too. An invalid pattern covers none.
func overlapping(pattern string, others []string) (other string, ok bool) {
	return overlap(pattern, others, subjectsCollide)
}

// overlappingInStream is overlapping within one stream. Two patterns of a stream may share a whole
// subject, since the stream stores it only once. So "chat.room" and "chat:room" do not overlap.
func overlappingInStream(pattern string, others []string) (other string, ok bool) {
	return overlap(pattern, others, func(a, b string) bool { return a != b && subjectsCollide(a, b) })
}

func overlap(pattern string, others []string, collide func(a, b string) bool) (other string, ok bool) {
	subjects, _ := encodePattern(pattern)
	for _, other := range others {
		theirs, _ := encodePattern(other)
		for _, a := range subjects {
			if slices.ContainsFunc(theirs, func(b string) bool { return collide(a, b) }) {
				return other, true
			}
		}
	}
	return "", false
}

// subjectsCollide reports whether two NATS patterns cover a common subject.
func subjectsCollide(a, b string) bool {
	for {
		p, moreP := cutToken(&a)
		q, moreQ := cutToken(&b)
		switch {
		case p == ">" || q == ">":
			return true
		case p != "*" && q != "*" && p != q || moreP != moreQ:
			// "a.>" does not collide with "a". "a.*" collides with nothing of another length.
			return false
		case !moreP:
			return true
		}
	}
}
