package jsonscan

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"
)

// members is what encoding/json makes of an object: the oracle.
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
