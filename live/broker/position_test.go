package broker

import (
	"strings"
	"testing"
)

func FuzzParsePosition(f *testing.F) {
	for _, s := range []string{"", "a.1", "a.b.18446744073709551615", "a.", ".1", "a.-1", "a.01", "1", "a.18446744073709551616"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ParsePosition(s)
		if err != nil {
			if p != (Position{}) {
				t.Fatalf("%q: %v with %v", s, err, p)
			}
			return
		}
		again, err := ParsePosition(p.String())
		if err != nil || again != p {
			t.Fatalf("%q is %v, again %v, %v", s, p, again, err)
		}
	})
}

func TestPositionAsText(t *testing.T) {
	for _, p := range []Position{{}, {Epoch: "a"}, {Epoch: "a-b_c", Offset: 1}, {Epoch: "x.y", Offset: 1<<64 - 1}} {
		if got, err := ParsePosition(p.String()); err != nil || got != p {
			t.Errorf("%v: %v, %v", p, got, err)
		}
	}
	for _, s := range []string{"a", "a.", ".1", "a.x", "a.-1", "a.18446744073709551616", "a." + strings.Repeat("0", 20) + "1"} {
		if p, err := ParsePosition(s); err == nil {
			t.Errorf("%q is %v", s, p)
		}
	}
}
