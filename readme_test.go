package livetopic_test

import (
	"testing"

	"github.com/livetopic/livetopic/internal/livetest"
)

// Every Go snippet of the README stands in a program or a test, where it is compiled.
func TestSnippetsOfTheReadmeCompile(t *testing.T) {
	livetest.InFiles(t, livetest.Snippets(t, livetest.ReadFile(t, "README.md"), 2, "go"),
		"examples/news/main.go", "examples/newsmizu/main.go", "examples/chat/readme_test.go", "live/pages_test.go")
}
