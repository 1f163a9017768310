package livetest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Any stands for any value where a method compares JSON, also within a value:
// map[string]any{"text": "hi", "id": livetest.Any}.
var Any = anything{}

type anything struct{}

// anythingText is what Any is as JSON. Nobody else has such a text.
const anythingText = "livetest.Any, which stands for any value"

func (anything) MarshalJSON() ([]byte, error) { return json.Marshal(anythingText) }

// wanted returns a value that a test wants, as a person reads it.
func wanted(v json.RawMessage) string {
	return shorten(strings.ReplaceAll(string(v), `"`+anythingText+`"`, "livetest.Any"))
}

// differences returns how two JSON values differ, a line for each difference. The order of the members
// of an object does not count, and numbers are compared by their value.
func differences(got, want json.RawMessage) []string {
	g, err := decoded(got)
	if err != nil {
		return []string{"it is not JSON: " + err.Error()}
	}
	w, err := decoded(want)
	if err != nil {
		return []string{"what is wanted is not JSON: " + err.Error()}
	}
	return diff(nil, "", g, w)
}

func decoded(text json.RawMessage) (v any, err error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	err = d.Decode(&v)
	return v, err
}

// diff appends the differences of two values, which are at a path within the whole.
func diff(to []string, path string, got, want any) []string {
	switch w := want.(type) {
	case string:
		if w == anythingText {
			return to
		}
	case json.Number:
		if g, ok := got.(json.Number); ok && sameNumber(g, w) {
			return to
		}
	case map[string]any:
		if g, ok := got.(map[string]any); ok {
			return diffObjects(to, path, g, w)
		}
	case []any:
		if g, ok := got.([]any); ok {
			return diffArrays(to, path, g, w)
		}
	}
	if isScalar(got) && isScalar(want) && got == want {
		return to
	}
	return append(to, fmt.Sprintf("%sgot %s, want %s", at(path), text(got), text(want)))
}

func diffObjects(to []string, path string, got, want map[string]any) []string {
	for _, name := range slices.Sorted(maps.Keys(want)) {
		member := path + "." + name
		if g, ok := got[name]; ok {
			to = diff(to, member, g, want[name])
		} else {
			to = append(to, fmt.Sprintf("%sis missing, want %s", at(member), text(want[name])))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(got)) {
		if _, ok := want[name]; !ok {
			to = append(to, fmt.Sprintf("%sgot %s, want no such member", at(path+"."+name), text(got[name])))
		}
	}
	return to
}

func diffArrays(to []string, path string, got, want []any) []string {
	for i := range min(len(got), len(want)) {
		to = diff(to, fmt.Sprintf("%s[%d]", path, i), got[i], want[i])
	}
	if len(got) != len(want) {
		to = append(to, fmt.Sprintf("%sgot %d elements, want %d", at(path), len(got), len(want)))
	}
	return to
}

func at(path string) string {
	if path == "" {
		return ""
	}
	return path + ": "
}

// isScalar reports whether == compares a value.
func isScalar(v any) bool {
	switch v.(type) {
	case map[string]any, []any:
		return false
	}
	return true
}

// sameNumber reports whether two numbers have the same value, as 1 and 1.0 have. Whole numbers are
// compared digit by digit, because a float64 does not tell large ones apart.
func sameNumber(a, b json.Number) bool {
	if a == b || !strings.ContainsAny(string(a+b), ".eE") {
		return a == b
	}
	x, errX := a.Float64()
	y, errY := b.Float64()
	return errX == nil && errY == nil && x == y
}

// text returns a value as a person reads it.
func text(v any) string {
	if v == anythingText {
		return "livetest.Any"
	}
	b, _ := json.Marshal(v) // it was JSON
	return shorten(string(b))
}
