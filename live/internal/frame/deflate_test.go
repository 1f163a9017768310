package frame

import (
	"bytes"
	"compress/flate"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
)

func inflate(t *testing.T, b []byte) string {
	t.Helper()
	// The four bytes that end every flush, and an empty last block.
	tail := "\x00\x00\xff\xff\x01\x00\x00\xff\xff"
	out, err := io.ReadAll(flate.NewReader(io.MultiReader(bytes.NewReader(b), strings.NewReader(tail))))
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func TestDeflatedFrameInflatesToTheSame(t *testing.T) {
	for _, n := range []int{600, 65_000, 70_000, 1 << 20} {
		text := strings.Repeat(`{"user":"ann","text":"hello"},`, n/30)
		f := Text([]byte(text))
		plain := bytes.Clone(f.Bytes())
		f.Deflate()
		if !bytes.Equal(f.Bytes(), plain) {
			t.Fatal("the plain form changed")
		}
		first, payload := parse(t, f.Compact())
		if first != 0xc1 || len(payload) >= n/2 || inflate(t, payload) != text {
			t.Errorf("%d bytes: first byte %#x, %d bytes", n, first, len(payload))
		}
	}
}

func TestFrameThatDoesNotShrinkStaysPlain(t *testing.T) {
	noise := make([]byte, 10_000)
	for i := range noise {
		noise[i] = byte(rand.Uint32())
	}
	for name, f := range map[string]*Frame{
		"short": Text([]byte(strings.Repeat("x", 400))),
		"noise": Text(noise),
		"close": Close(1000, strings.Repeat("x", 123)),
	} {
		f.Deflate()
		if !bytes.Equal(f.Compact(), f.Bytes()) {
			t.Errorf("%s became another", name)
		}
	}
}
