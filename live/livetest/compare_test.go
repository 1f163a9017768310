package livetest

import (
	"slices"
	"testing"
)

func TestDifferencesAreNamed(t *testing.T) {
	for _, c := range []struct {
		got, want string
		diff      []string
	}{
		{`{"a":1,"b":[true,null]}`, `{"b":[true,null],"a":1.0}`, nil},
		{`100`, `1e2`, nil},
		{`9007199254740993`, `9007199254740992`, []string{"got 9007199254740993, want 9007199254740992"}},
		{`"1"`, `1`, []string{`got "1", want 1`}},
		{`null`, `{}`, []string{"got null, want {}"}},
		{`[]`, `{}`, []string{"got [], want {}"}},
		{`{"a":{"b":1}}`, `{"a":{"b":2}}`, []string{".a.b: got 1, want 2"}},
		{`{"a":1}`, `{"b":1}`, []string{".b: is missing, want 1", ".a: got 1, want no such member"}},
		{`[1,2]`, `[1,3,4]`, []string{"[1]: got 2, want 3", "got 2 elements, want 3"}},
		{`{"id":[5],"at":1}`, `{"id":"` + anythingText + `","at":1}`, nil},
		{`{}`, `{"id":"` + anythingText + `"}`, []string{".id: is missing, want livetest.Any"}},
		{`{`, `1`, []string{"it is not JSON: unexpected EOF"}},
	} {
		if got := differences([]byte(c.got), []byte(c.want)); !slices.Equal(got, c.diff) {
			t.Errorf("%s and %s differ in %q, want %q", c.got, c.want, got, c.diff)
		}
	}
}
