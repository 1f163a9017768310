package natsbroker

import (
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/nats-io/nats-server/v2/server"
)

func TestSubjectsOfTopics(t *testing.T) {
	for _, c := range []struct{ topic, subject string }{
		{"chat", "chat"},
		{"chat.room.1", "chat.room.1"},
		{"chat:room:1", "chat.:room.:1"},
		{"chat:room.1", "chat.:room.1"},
		{"a b*>", "a=20b=2A=3E"},
		{"a::b", "a.:=_.:b"},
		{"..", "=_.=_.=_"},
		{":", "=_.:=_"},
		{"=", "=3D"},
		{"=_", "=3D_"},
		{"世界", "世界"},
		{"a\x7f\r\n\x00", "a=7F=0D=0A=00"},
		{"$SYS.x", "$SYS.x"}, // it is under a prefix
	} {
		got, err := encode(c.topic)
		if err != nil || got != c.subject {
			t.Errorf("%q is written %q, %v; want %q", c.topic, got, err, c.subject)
		}
	}
	for _, topic := range []string{"", "\xff", strings.Repeat("x", maxTopic+1)} {
		if got, err := encode(topic); err == nil {
			t.Errorf("%.20q is written %q; want an error", topic, got)
		}
	}
}

// decode is the inverse of encode. It follows the description of encode only.
func decode(subject string) (topic string, ok bool) {
	var b strings.Builder
	for i, token := range strings.Split(subject, ".") {
		if i > 0 {
			rest, colon := strings.CutPrefix(token, ":")
			if colon {
				b.WriteByte(':')
			} else {
				b.WriteByte('.')
			}
			token = rest
		}
		if token == "=_" {
			continue
		}
		for len(token) > 0 {
			if token[0] != '=' {
				b.WriteByte(token[0])
				token = token[1:]
				continue
			}
			if len(token) < 3 {
				return "", false
			}
			hi, lo := strings.IndexByte("0123456789ABCDEF", token[1]), strings.IndexByte("0123456789ABCDEF", token[2])
			if hi < 0 || lo < 0 {
				return "", false
			}
			b.WriteByte(byte(hi<<4 | lo))
			token = token[3:]
		}
	}
	return b.String(), true
}

// The NATS server sees that two topics have two subjects, that a subject has no wildcard, and
// that it stays under the prefix.
func FuzzEncode(f *testing.F) {
	for _, seed := range []string{"chat.room.1", "chat:room:1", "a::b", "*", ">", "a.>", "..", "=_", "é\u2028", "\x00\x7f"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, topic string) {
		subject, err := encode(topic)
		if err != nil {
			if topic != "" && utf8.ValidString(topic) && len(topic) <= maxTopic {
				t.Fatalf("%q: %v", topic, err)
			}
			return
		}
		whole := "live.d." + subject
		if !server.IsValidLiteralSubject(whole) {
			t.Fatalf("%q is written %q, which is no plain subject", topic, subject)
		}
		if back, ok := decode(subject); !ok || back != topic {
			t.Fatalf("%q is written %q, which is %q", topic, subject, back)
		}
		if !matches("live.d.>", whole) {
			t.Fatalf("%q is written %q, outside of the prefix", topic, subject)
		}
		if len(whole) > 4096-100 {
			t.Fatalf("%q makes a subject of %d bytes, longer than a line of NATS", topic, len(whole))
		}
	})
}

func TestPatternsCoverBothSpellings(t *testing.T) {
	for _, c := range []struct {
		pattern  string
		covers   []string
		excludes []string
	}{
		{"chat.>", []string{"chat.a", "chat:a", "chat.a.b", "chat:a:b", "chat:a.b"}, []string{"chat", "chats.a", "x.chat.a"}},
		{"chat:>", []string{"chat.a", "chat:a"}, []string{"chat"}},
		{"chat.room.*", []string{"chat.room.1", "chat:room:1", "chat:room.1", "chat.room:1"}, []string{"chat.room", "chat.rooms.1", "chat.room.1.2"}},
		{"chat.*.x", []string{"chat.a.x", "chat:a:x", "chat:a.x"}, []string{"chat.a.y", "chat.x"}},
		{"*:x", []string{"a.x", "a:x"}, []string{"x", "a.b.x"}},
		{">", []string{"a", "a.b", ":", "*"}, nil},
		{"a b", []string{"a b"}, []string{"a", "a=20b"}},
		{"plain", []string{"plain"}, []string{"plain.x"}},
		{"a:b.c", []string{"a:b.c", "a.b.c", "a:b:c"}, []string{"a.b:c"}},
	} {
		patterns, err := encodePattern(c.pattern)
		if err != nil {
			t.Fatal(err)
		}
		covered := func(topic string) bool {
			tokens, err := encode(topic)
			if err != nil {
				t.Fatal(err)
			}
			return slices.ContainsFunc(patterns, func(p string) bool { return matches(p, tokens) })
		}
		for _, topic := range c.covers {
			if !covered(topic) {
				t.Errorf("%q does not cover %q", c.pattern, topic)
			}
		}
		for _, topic := range c.excludes {
			if covered(topic) {
				t.Errorf("%q covers %q", c.pattern, topic)
			}
		}
	}
	for _, pattern := range []string{"", ".", "a.", ".a", "a..b", "a.>.b", "a*", "a>", "\xff", ":a"} {
		if got, err := encodePattern(pattern); err == nil {
			t.Errorf("%q is taken for a pattern: %q", pattern, got)
		}
	}
}

// matches agrees with the NATS server.
func FuzzMatches(f *testing.F) {
	for _, seed := range [][2]string{{"a.*", "a.b"}, {"a.>", "a.b.c"}, {">", "a"}, {"*.b", "a.b"}, {"a.b", "a.b"}, {"a.>", "a"}} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, pattern, topic string) {
		tokens, err := encode(topic)
		if err != nil {
			return
		}
		patterns, err := encodePattern(pattern)
		if err != nil {
			return
		}
		for _, p := range patterns {
			if !server.IsValidSubject(p) {
				t.Fatalf("%q is written %q, which is no subject", pattern, p)
			}
			if got, want := matches(p, tokens), server.SubjectsCollide(p, tokens); got != want {
				t.Fatalf("%q covers %q: %v, the server says %v", p, tokens, got, want)
			}
		}
	})
}

func TestPatternsThatOverlap(t *testing.T) {
	for _, c := range []struct {
		a, b     string
		inStream bool // they overlap within one stream
		overlap  bool // they overlap in two streams
	}{
		{"chat.>", "chat.room", true, true},
		{"chat.>", "chat:room", true, true},
		{"chat.>", "chat", false, false},
		{"chat.*", "*.room", true, true},
		{"chat.*", "chat.room.1", false, false},
		{"*.a", "*.b", false, false},
		{"chat.room", "chat:room", false, true},
		{"chat.room", "chat.room", false, true},
		{"a.>", "b.>", false, false},
	} {
		for _, pair := range [][2]string{{c.a, c.b}, {c.b, c.a}} {
			if _, ok := overlappingInStream(pair[0], []string{"x.y.z", pair[1]}); ok != c.inStream {
				t.Errorf("%q in one stream: %t", pair, ok)
			}
			if _, ok := overlapping(pair[0], []string{"x.y.z", pair[1]}); ok != c.overlap {
				t.Errorf("%q in two streams: %t", pair, ok)
			}
		}
	}
}

// subjectsCollide agrees with the NATS server.
func FuzzSubjectsCollide(f *testing.F) {
	for _, seed := range [][2]string{{"a.*", "*.b"}, {"a.>", "a"}, {">", "a.>"}, {"a.*", "a.>"}, {"a.b", "a:b"}, {"*.a.>", "b.*"}} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		as, err := encodePattern(a)
		if err != nil {
			return
		}
		bs, err := encodePattern(b)
		if err != nil {
			return
		}
		for _, a := range as {
			for _, b := range bs {
				if got, want := subjectsCollide(a, b), server.SubjectsCollide(a, b); got != want {
					t.Fatalf("%q and %q collide: %v, the server says %v", a, b, got, want)
				}
			}
		}
	})
}
