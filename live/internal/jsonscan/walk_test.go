package jsonscan

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// members reads an object with encoding/json. It is the oracle.
func members(t *testing.T, b []byte) map[string]string {
	t.Helper()
	var m map[string]json.RawMessage
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatalf("%s: %v", b, err)
	}
	all := make(map[string]string)
	for name, value := range m {
		all[name] = string(value)
	}
	return all
}

func walked(b []byte) map[string]string {
	all := make(map[string]string)
	Members(b, func(name, value []byte) bool {
		all[string(name)] = string(value)
		return true
	})
	return all
}

var walks = []string{
	`{}`, ` { } `, `{"a":1}`, `{"a":1,"b":[1,{"c":"}"}],"d":"\"]}"}`,
	` { "a" : -1.5e3 , "b" : null , "c" : true } `,
	`{"\u006fp":"x","\"":2,"a\\":3}`, `{"a":1,"a":2}`, `{"é€":"\ud83d\ude00"}`,
	`{"a":{"b":{"c":[[[]]]}}}`, `{"long name of a member":"a value that is longer than eight bytes"}`,
	`{"deep":` + strings.Repeat("[", 500) + strings.Repeat("]", 500) + `,"after":1}`,
}

func TestMembersAreThoseOfEncodingJSON(t *testing.T) {
	for _, text := range walks {
		got, want := walked([]byte(text)), members(t, []byte(text))
		if len(got) != len(want) {
			t.Errorf("%.60s: %d members, want %d", text, len(got), len(want))
		}
		for name, value := range want {
			if got[name] != value {
				t.Errorf("%.60s: %q is %.60s, want %.60s", text, name, got[name], value)
			}
		}
	}
}

func TestWalksEndWhenToldTo(t *testing.T) {
	n := 0
	Members([]byte(`{"a":1,"b":2,"c":3}`), func(_, _ []byte) bool { n++; return n < 2 })
	Elements([]byte(`[1,2,3]`), func([]byte) bool { n++; return n < 4 })
	if n != 4 {
		t.Errorf("%d calls, want 4", n)
	}
}

func TestElements(t *testing.T) {
	for text, want := range map[string][]string{
		`[]`: nil, ` [ ] `: nil, `[1]`: {"1"}, `[ {"a":"]"} , [2,3],"x" ]`: {`{"a":"]"}`, `[2,3]`, `"x"`},
	} {
		var got []string
		Elements([]byte(text), func(v []byte) bool { got = append(got, string(v)); return true })
		if !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
}

func TestWalkingAllocatesNothing(t *testing.T) {
	b := []byte(`{"op":"subscribe","id":1,"topic":"a topic's name","more":[1,2,{"x":null}]}`)
	if n := testing.AllocsPerRun(100, func() { Members(b, func(_, _ []byte) bool { return true }) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

// Names with escapes are decoded without encoding/json. That would take half a microsecond and two
// allocations for each name. With the race detector, the first name takes two allocations in
// slices.Grow.
func TestNamesWithEscapesAllocateLittle(t *testing.T) {
	for _, name := range []string{`\\`, `\u006fp`, `\ud83d\ude00`, `topic\/` + strings.Repeat("x", 1000)} {
		b := []byte("{" + strings.Repeat(`"`+name+`":0,`, 1000) + `"":0}`)
		n := 0
		allocs := testing.AllocsPerRun(10, func() {
			Members(b, func(_, _ []byte) bool { n++; return true })
		})
		if allocs > 2 || n != 11*1001 {
			t.Errorf("%.20s: %v allocations for 1000 names", name, allocs)
		}
	}
	var growing strings.Builder
	for i := range 1000 {
		growing.WriteString(`"\\` + strings.Repeat("x", i) + `":0,`)
	}
	b := []byte("{" + growing.String() + `"":0}`)
	if allocs := testing.AllocsPerRun(10, func() { Members(b, func(_, _ []byte) bool { return true }) }); allocs > 50 {
		t.Errorf("%v allocations for names that are longer and longer", allocs)
	}
}

// Each escape, and each pair of escapes, is decoded as encoding/json decodes it.
func TestEscapesInNames(t *testing.T) {
	var names []string
	for c := range 1 << 16 {
		names = append(names, fmt.Sprintf(`\u%04x`, c))
	}
	parts := []string{"", "a", "é", `\"`, `\\`, `\/`, `\b`, `\f`, `\n`, `\r`, `\t`, `\u0041`, `\u00E9`, `\u00e9`, `\u20ac`, `\uABCD`,
		`\ud800`, `\uD83D`, `\udbff`, `\udc00`, `\uDE00`, `\udfff`, `\\ud83d`, `u0041`}
	for _, one := range parts {
		for _, two := range parts {
			for _, three := range parts {
				names = append(names, one+two+three)
			}
		}
	}
	for _, name := range names {
		var want, got string
		if err := json.Unmarshal([]byte(`"`+name+`"`), &want); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		Members([]byte(`{"`+name+`":0}`), func(name, _ []byte) bool { got = string(name); return true })
		if got != want {
			t.Fatalf("%s is %q, want %q", name, got, want)
		}
	}
}

func FuzzWalk(f *testing.F) {
	for _, text := range walks {
		f.Add([]byte(text))
	}
	f.Add([]byte(`[1,{"a":[]},"x"]`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if !Valid(b) {
			return
		}
		switch Kind(b) {
		case '{':
			want := members(t, b)
			got := walked(b)
			if len(got) != len(want) {
				t.Fatalf("%d members, want %d", len(got), len(want))
			}
			for name, value := range want {
				if !bytes.Equal([]byte(got[name]), []byte(value)) {
					t.Fatalf("%q is %s, want %s", name, got[name], value)
				}
			}
		case '[':
			var want []json.RawMessage
			if err := json.Unmarshal(b, &want); err != nil {
				t.Fatal(err)
			}
			n := 0
			Elements(b, func(v []byte) bool {
				if !bytes.Equal(v, want[n]) {
					t.Fatalf("element %d is %s, want %s", n, v, want[n])
				}
				n++
				return true
			})
			if n != len(want) {
				t.Fatalf("%d elements, want %d", n, len(want))
			}
		}
	})
}

func FuzzAppendQuoted(f *testing.F) {
	f.Add("")
	f.Add(`{"a":"b\\"}` + "\n\t\x01é\u2028")
	f.Fuzz(func(t *testing.T, text string) {
		text = strings.ToValidUTF8(text, "?")
		b := AppendQuoted(nil, []byte(text))
		var back string
		if err := json.Unmarshal(b, &back); err != nil || back != text {
			t.Errorf("%q became %s, which is %q (%v)", text, b, back, err)
		}
	})
}
