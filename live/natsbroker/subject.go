package natsbroker

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/livetopic/livetopic/live/broker"
)

// How a topic is written as a NATS subject: its parts, between dots and colons, become
// the tokens. A colon leaves a mark at the head of the token after it, so that
// "chat:1" and "chat.1" are two subjects that both match "chat.>". What a token
// cannot hold is written "=" and two hexadecimal digits, and an empty part "=_".
//
//	chat.room.1  →  chat.room.1
//	chat:room:1  →  chat.:room.:1
//	a::b c       →  a.:=_.:b=20c
//
// No subject is that of two topics, and none has a wildcard: see the fuzz test.

// maxTopic bounds a topic in bytes: written out it is three times as long at most, and
// a NATS server refuses lines over 4,096 bytes.
const maxTopic = 1024

// encode returns the topic as tokens.
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
	empty := true // the part so far
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
	// 0x7F is legal in a subject, but JetStream cannot bound or find what has it.
	if c <= ' ' || c == 0x7f || c == '*' || c == '>' || c == '=' {
		const hex = "0123456789ABCDEF"
		return append(b, '=', hex[c>>4], hex[c&15])
	}
	return append(b, c)
}

// encodePattern returns the subjects of topics that a pattern covers: those that are
// separated as it is written, by dots, and by colons.
func encodePattern(pattern string) ([]string, error) {
	if pattern == "" || len(pattern) > maxTopic || !utf8.ValidString(pattern) {
		return nil, fmt.Errorf("natsbroker: %.32q is no pattern of topics", pattern)
	}
	var parts []string
	var seps []byte // the one before each part
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
			return nil, fmt.Errorf("natsbroker: pattern %q has a wildcard that is not a part of its own", pattern)
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
				b = append(b, part...) // whatever the separator before it
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

// matches reports whether a pattern of NATS covers a subject.
func matches(pattern, subject string) bool {
	for {
		p, moreP := cutToken(&pattern)
		s, moreS := cutToken(&subject)
		switch {
		case p == ">":
			return true
		case p != "*" && p != s || moreP != moreS:
			// "a.>" does not cover "a"; "a.*" covers neither "a" nor "a.b.c".
			return false
		case !moreP:
			return true
		}
	}
}

// cutToken takes the first token off, and reports whether there are more.
func cutToken(s *string) (token string, more bool) {
	token, rest, more := strings.Cut(*s, ".")
	*s = rest
	return token, more
}
