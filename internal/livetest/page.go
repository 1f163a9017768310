package livetest

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// ReadFile returns the text of a file, such as a page of the documentation.
func ReadFile(t testing.TB, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// Section returns what stands on a page between the line "## heading" and the next such line.
func Section(t testing.TB, page, heading string) string {
	t.Helper()
	_, section, found := strings.Cut(page, "\n## "+heading+"\n")
	if !found {
		t.Fatalf("the page has no section %q", heading)
	}
	section, _, _ = strings.Cut(section, "\n## ")
	return section
}

var codeBlock = regexp.MustCompile("(?sm)^```(\\w+)\n(.*?)^```$")

// Snippets returns the code blocks of a page that are in one of the languages. There must be at least n.
func Snippets(t testing.TB, page string, n int, languages ...string) (all []string) {
	t.Helper()
	for _, block := range codeBlock.FindAllStringSubmatch(page, -1) {
		if slices.Contains(languages, block[1]) {
			all = append(all, block[2])
		}
	}
	if len(all) < n {
		t.Fatalf("the page has %d snippets of %v, want %d or more", len(all), languages, n)
	}
	return all
}

// InFiles checks that each snippet also stands in one of the files, where it is compiled or run. White
// space makes no difference.
func InFiles(t testing.TB, snippets []string, files ...string) {
	t.Helper()
	plain := func(code string) string { return strings.Join(strings.Fields(code), " ") }
	var sources []string
	for _, file := range files {
		sources = append(sources, plain(ReadFile(t, file)))
	}
	for _, snippet := range snippets {
		if !slices.ContainsFunc(sources, func(source string) bool { return strings.Contains(source, plain(snippet)) }) {
			t.Errorf("not in %v:\n%s", files, snippet)
		}
	}
}
