package jsonscan

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"
)

var samples = []string{
	``, ` `, `null`, `true`, `false`, `nul`, `truex`, `0`, `-0`, `01`, `-`, `1.`, `.5`, `1.5`, `1e5`, `1E+5`, `1e-`, `1e`, `+1`, `1 2`, `0x1`,
	`""`, `"`, `"a`, `"\"`, `"\\"`, `"\u12e4"`, `"\u12g4"`, `"\u12`, `"\x"`, `"\ud800"`, "\"\n\"", "\"\x1f\"", "\"\x7f\"", "\"é😀\u2028\"",
	"\"\xff\"", "\"\xc3\"", "\"\xed\xa0\x80\"", "\xef\xbb\xbf1", "\"12345678\xff\"", `"1234567"`, `"12345678"`, `"1234567\n89"`,
	`[]`, `[ ]`, `[1]`, `[1,]`, `[,1]`, `[1 2]`, `[`, `]`, `[[],{}]`, `[}`, `{]`, `[1}`, `{"a":1]`,
	`{}`, `{ }`, `{"a"}`, `{"a":}`, `{"a":1}`, `{"a":1,}`, `{,}`, `{a:1}`, `{"a" : [1, {"b":null}] , "c":"d"}`, `{"a":1}}`, `{"a":1"b":2}`, `{1:2}`,
	" \t\r\n[1]\v", "\x00", `[1]` + "\x00",
	strings.Repeat("[", 64) + strings.Repeat("]", 64),
	strings.Repeat("[", 65) + strings.Repeat("]", 65),
	strings.Repeat(`{"a":`, 200) + "1" + strings.Repeat("}", 200),
	strings.Repeat("[", 9999) + strings.Repeat("]", 9999),
	strings.Repeat("[", 10001) + strings.Repeat("]", 10001),
	`"` + strings.Repeat("x", 1000) + `"`,
}

func check(t *testing.T, b []byte) {
	t.Helper()
	want := json.Valid(b) && utf8.Valid(b)
	if got := Valid(b); got != want {
		t.Fatalf("%.80q: %v, want %v", b, got, want)
	}
	// Everything that the scanner accepts is valid.
	if end := Value(b, 0); end >= 0 && !(json.Valid(b[:end]) && utf8.Valid(b[:end])) {
		t.Fatalf("%.80q: a value of %d bytes", b, end)
	}
}

func TestAgreesWithEncodingJSON(t *testing.T) {
	for _, s := range samples {
		check(t, []byte(s))
		for _, around := range []string{"[%s]", `{"key":%s}`, " %s ", `[1,%s,"x"]`, `%s,`} {
			check(t, fmt.Appendf(nil, around, s))
		}
	}
}

// Each byte is tested in a string, at each place of a word.
func TestEveryByteAtEveryPlace(t *testing.T) {
	for c := range 256 {
		for at := range 20 {
			b := []byte(`"` + strings.Repeat("x", 20) + `"`)
			b[1+at] = byte(c)
			check(t, b)
		}
	}
}

func TestUsualDataNeedsNoSecondLook(t *testing.T) {
	for _, s := range samples {
		b := []byte(s)
		if !json.Valid(b) || !utf8.Valid(b) || strings.Count(s, "[")+strings.Count(s, "{") > maxDepth {
			continue
		}
		if end := Value(b, 0); end < 0 || space(b, end) != len(b) {
			t.Errorf("%.80q is left to encoding/json", s)
		}
	}
}

func FuzzValid(f *testing.F) {
	for _, s := range samples {
		f.Add([]byte(s))
	}
	f.Fuzz(check)
}

func BenchmarkValid(b *testing.B) {
	for _, size := range []int{128, 512} {
		data := []byte(`{"n":12345,"text":"` + strings.Repeat("x", size-21) + `"}`)
		b.Run(fmt.Sprint("scan/", size), func(b *testing.B) {
			for b.Loop() {
				Valid(data)
			}
		})
		b.Run(fmt.Sprint("encoding_json/", size), func(b *testing.B) {
			for b.Loop() {
				_ = json.Valid(data) && utf8.Valid(data)
			}
		})
	}
}

// What nests too deeply is told from what is no JSON: the innermost value decides.
func TestTooDeepIsNotInvalid(t *testing.T) {
	for _, brackets := range [][2]string{{"[", "]"}, {`{"[{":`, "}"}, {`[1, {"b":`, "\n}, true]"}} {
		nested := func(inner string, times int) []byte {
			return []byte(strings.Repeat(brackets[0], times) + inner + strings.Repeat(brackets[1], times))
		}
		for _, inner := range samples {
			if len(inner) > 1000 {
				continue // it nests too deeply itself
			}
			once := nested(inner, 1)
			valid := json.Valid(once) && utf8.Valid(once)
			if deep := nested(inner, 10_001); Valid(deep) || TooDeep(deep) != valid {
				t.Errorf("%s around %.60q: too deep is %v, want %v", brackets[0], inner, TooDeep(deep), valid)
			}
			if shallow := nested(inner, 100); TooDeep(shallow) {
				t.Errorf("%.60q a hundred times in %s is too deep", inner, brackets[0])
			}
		}
		for _, broken := range []string{string(nested("1", 20_000)) + "]", "[" + string(nested("1", 20_000)), strings.Repeat("[{", 10_001) + strings.Repeat("]}", 10_001)} {
			if TooDeep([]byte(broken)) {
				t.Errorf("%.20s… is not JSON", broken)
			}
		}
	}
}

func TestDataMayNestLessDeepThanAFrame(t *testing.T) {
	nested := func(opens, closes string, depth int) []byte {
		return []byte(strings.Repeat(opens, depth) + "1" + strings.Repeat(closes, depth))
	}
	for _, brackets := range [][2]string{{"[", "]"}, {`{"[{":`, "}"}, {"[1, ", "\n]"}} {
		if !ValidData(nested(brackets[0], brackets[1], MaxDataDepth)) {
			t.Errorf("%s is refused at %d levels", brackets[0], MaxDataDepth)
		}
		if deeper := nested(brackets[0], brackets[1], MaxDataDepth+1); ValidData(deeper) || !Valid(deeper) {
			t.Errorf("%s is allowed at %d levels", brackets[0], MaxDataDepth+1)
		}
	}
	for _, shallow := range []string{`"` + strings.Repeat("[", 20_000) + `"`, strings.Repeat("[", 100) + `"\"["` + strings.Repeat("]", 100), "1", `[[],[]]`} {
		if !ValidData([]byte(shallow)) {
			t.Errorf("%.20s… is refused", shallow)
		}
	}
	for _, invalid := range []string{"", "[", strings.Repeat("[", 100), strings.Repeat("[", 100) + "\"\xff\"" + strings.Repeat("]", 100)} {
		if ValidData([]byte(invalid)) {
			t.Errorf("%.20s… is allowed", invalid)
		}
	}
}
