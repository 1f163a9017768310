package live

import (
	"math/rand/v2"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestSubjectOfATopic(t *testing.T) {
	for topic, want := range map[string]string{
		"news":               "news",
		"chat:general":       "chat:general",
		"a.b.c":              "a.b.c",
		"users/42/inbox":     "users/42/inbox",
		"größe.日本語":          "größe.日本語",
		"chat.>":             "chat.%3E",
		"chat.*":             "chat.%2A",
		">":                  "%3E",
		"chat.#":             "chat.%23",
		"+/x":                "%2B/x",
		"news?[ab]":          "news%3F%5Bab%5D",
		"a b\tc":             "a%20b%09c",
		"a\u00a0b":           "a%C2%A0b",
		"x\r\nPUB y":         "x%0D%0APUB%20y",
		"\x00":               "%00",
		".a":                 "%2Ea",
		"a.":                 "a%2E",
		"a..b":               "a.%2Eb",
		"a...b":              "a.%2E%2Eb",
		".":                  "%2E",
		"100%":               "100%25",
		"%3E":                "%253E",
		"$JS.API.>":          "%24JS.API.%3E",
		"a\\b{c}|d\"e'f`g,h": "a%5Cb%7Bc%7D%7Cd%22e%27f%60g%2Ch",
	} {
		if got := subjectOf(topic); got != want {
			t.Errorf("the subject of %q is %q, want %q", topic, got, want)
		}
	}
}

// Whatever the topic: its subject is no pattern, has no empty part, and is that of no other.
func FuzzSubjectOf(f *testing.F) {
	for _, topic := range []string{"a.b", "..", "%2E", ">", "é*", "\xff"} {
		f.Add(topic)
	}
	unescape := func(s string) string {
		var b []byte
		for i := 0; i < len(s); i++ {
			if s[i] != '%' {
				b = append(b, s[i])
				continue
			}
			b = append(b, byte(strings.IndexByte("0123456789ABCDEF", s[i+1])<<4|strings.IndexByte("0123456789ABCDEF", s[i+2])))
			i += 2
		}
		return string(b)
	}
	f.Fuzz(func(t *testing.T, topic string) {
		subject := subjectOf(topic)
		if unescape(subject) != topic {
			t.Errorf("%q became %q, which is %q again", topic, subject, unescape(subject))
		}
		if !utf8.ValidString(subject) || strings.ContainsAny(subject, "><*#+?[]{}\\ \t\r\n\x00$") {
			t.Errorf("%q became %q", topic, subject)
		}
		if topic != "" && (strings.Contains(subject, "..") || subject[0] == '.' || subject[len(subject)-1] == '.') {
			t.Errorf("%q became %q, which has an empty part", topic, subject)
		}
	})
}

func TestSubjectsDiffer(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	of := make(map[string]string)
	for range 100_000 {
		b := make([]byte, 1+r.IntN(4))
		for i := range b {
			b[i] = "a.%2E>*"[r.IntN(7)]
		}
		topic := string(b)
		subject := subjectOf(topic)
		if other, known := of[subject]; known && other != topic {
			t.Fatalf("%q and %q are both %q", topic, other, subject)
		}
		of[subject] = topic
	}
}
