package livetest_test

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/livetopic/livetopic/internal/livetest"
)

const somePage = "# Page\n\n```go\na := 1\n```\n\n## One\n\n```sh\nls\n```\n\n```go\nb(\n\t\"```\")\n```\n\n## Two\n\n```js\nc;\n```\n"

func TestSnippetsAreThoseOfTheSection(t *testing.T) {
	for _, c := range []struct{ got, want []string }{
		{livetest.Snippets(t, somePage, 2, "go"), []string{"a := 1\n", "b(\n\t\"```\")\n"}},
		{livetest.Snippets(t, livetest.Section(t, somePage, "One"), 1, "go"), []string{"b(\n\t\"```\")\n"}},
		{livetest.Snippets(t, livetest.Section(t, somePage, "Two"), 1, "go", "js"), []string{"c;\n"}},
		{livetest.Snippets(t, somePage, 0, "html"), nil},
	} {
		if !reflect.DeepEqual(c.got, c.want) {
			t.Errorf("the snippets are %q, want %q", c.got, c.want)
		}
	}
}

// noted notes what a test fails with.
type noted struct {
	testing.TB
	failures []string
}

func (n *noted) Errorf(format string, args ...any) {
	n.failures = append(n.failures, fmt.Sprintf(format, args...))
}

func TestSnippetsInNoFileFail(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("func f() {\n\t\tb(\n1)\n}"), 0o600); err != nil {
		t.Fatal(err)
	}
	n := &noted{TB: t}
	livetest.InFiles(n, []string{"b( 1)", "package livetest", "b(2)"}, file, "doc.go")
	if len(n.failures) != 1 || !strings.HasSuffix(n.failures[0], "\nb(2)") {
		t.Errorf("the failures are %q", n.failures)
	}
}
