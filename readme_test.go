package livetopic_test

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// Every Go snippet of the README stands in a program or a test, where it is compiled.
func TestSnippetsOfTheReadmeCompile(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	var source []byte
	for _, file := range []string{"examples/news/main.go", "examples/newsmizu/main.go", "examples/chat/readme_test.go", "live/pages_test.go"} {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		source = append(source, raw...)
	}
	plain := func(code string) string {
		return regexp.MustCompile(`\s+`).ReplaceAllString(strings.TrimSpace(code), " ")
	}
	blocks := regexp.MustCompile("(?s)```go\n(.*?)```").FindAllStringSubmatch(string(readme), -1)
	if len(blocks) < 2 {
		t.Fatalf("%d snippets found", len(blocks))
	}
	for _, block := range blocks {
		if !strings.Contains(plain(string(source)), plain(block[1])) {
			t.Errorf("not in a program:\n%s", block[1])
		}
	}
}
