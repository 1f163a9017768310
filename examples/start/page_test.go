// Package start holds the programs of the getting-started page, one folder for each step.
package start

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// What a step of docs/getting-started.md shows is in the program of that step: a whole file as it is,
// and a part of a file as a part of it.
func TestPageShowsThePrograms(t *testing.T) {
	raw, err := os.ReadFile("../../docs/getting-started.md")
	if err != nil {
		t.Fatal(err)
	}
	proxies, err := os.ReadFile("../../docs/proxies.md")
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile("(?s)```(go|html|js|nginx)\n(.*?)```")
	heading := regexp.MustCompile(`(?m)^## (\d)\. `)
	steps := heading.FindAllStringSubmatchIndex(string(raw), -1)
	if len(steps) != 5 {
		t.Fatalf("%d steps", len(steps))
	}
	for i, at := range steps {
		end := len(raw)
		if i+1 < len(steps) {
			end = steps[i+1][0]
		}
		files := map[string]string{"proxies.md": string(proxies)}
		names, _ := filepath.Glob(fmt.Sprintf("step%d/*", i+1))
		for _, name := range names {
			content, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			files[name] = string(content)
		}
		blocks := block.FindAllStringSubmatch(string(raw[at[0]:end]), -1)
		if len(blocks) < 2 {
			t.Errorf("step %d shows %d blocks", i+1, len(blocks))
		}
		for _, b := range blocks {
			code, isFile := b[2], strings.Contains(b[2], "package main\n") || strings.HasPrefix(b[2], "<!doctype")
			found := false
			for _, content := range files {
				if isFile {
					found = found || content == code
				} else {
					found = found || strings.Contains(content, strings.TrimSpace(code))
				}
			}
			if !found {
				t.Errorf("step %d: not in its program:\n%s", i+1, code)
			}
		}
	}
}
