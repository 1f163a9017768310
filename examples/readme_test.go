// Package examples has the test of the examples' README files. Each example is a program of its own.
package examples

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A newcomer finds every example in the list, and in each folder a page on it.
func TestEveryExampleHasAReadme(t *testing.T) {
	list := read(t, "README.md")
	programs, err := filepath.Glob("*/main.go")
	if err != nil || len(programs) < 10 {
		t.Fatalf("%d programs, %v", len(programs), err)
	}
	for _, program := range programs {
		name := filepath.Dir(program)
		page := read(t, filepath.Join(name, "README.md"))
		if n := strings.Count(page, "\n"); n < 10 || n > 25 {
			t.Errorf("%s: README.md has %d lines", name, n)
		}
		for _, part := range []string{"# " + name + "\n", "\ngo run ./examples/" + name, "**Try:**", "**Read:**"} {
			if !strings.Contains(page, part) {
				t.Errorf("%s: README.md has no %q", name, part)
			}
		}
		if !strings.Contains(list, "\n| ["+name+"]("+name+") |") {
			t.Errorf("%s is not in the list", name)
		}
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
