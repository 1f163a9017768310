package livetopic_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Every link of a page to a file of the project leads somewhere, and so does its heading.
func TestLinksLeadSomewhere(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)\s]+)\)`)
	links := 0
	for _, page := range pages(t) {
		for _, m := range link.FindAllStringSubmatch(withoutCode(read(t, page)), -1) {
			target := m[1]
			if strings.Contains(target, "://") || strings.HasPrefix(target, "mailto:") {
				continue
			}
			links++
			path, heading, _ := strings.Cut(target, "#")
			file := page
			if path != "" {
				file = filepath.Join(filepath.Dir(page), path)
			}
			if _, err := os.Stat(file); err != nil {
				t.Errorf("%s: the link %s leads nowhere", page, target)
				continue
			}
			if heading != "" && strings.HasSuffix(file, ".md") && !hasHeading(read(t, file), heading) {
				t.Errorf("%s: the link %s names no heading", page, target)
			}
		}
	}
	if links < 50 {
		t.Errorf("only %d links found", links)
	}
}

// Every page of docs is in the index, and every page that the index names is there.
func TestIndexOfTheDocsIsComplete(t *testing.T) {
	index := read(t, "docs/README.md")
	for _, page := range pages(t) {
		if name, ok := strings.CutPrefix(filepath.ToSlash(page), "docs/"); ok && name != "README.md" && !strings.Contains(index, "("+name+")") {
			t.Errorf("docs/README.md does not name %s", name)
		}
	}
}

// The figures of the comparison are those of the newest run of the benchmark.
func TestComparisonHasTheMeasuredFigures(t *testing.T) {
	page, results := read(t, "docs/comparison.md"), read(t, "bench/RESULTS.md")
	column := map[string]int{"burst": 0, "single": 1, "idle": 2, "connect": 3}
	measured := map[string][]string{}
	for _, section := range strings.Split(results, "\n## ")[1:] {
		name, _, _ := strings.Cut(section, ":")
		at, wanted := column[name]
		if !wanted {
			continue
		}
		for _, row := range rows(section) {
			if measured[row[0]] == nil {
				measured[row[0]] = make([]string, len(column))
			}
			if measured[row[0]][at] == "" && len(row) > 1 {
				measured[row[0]][at] = row[1]
			}
		}
	}
	_, table, _ := strings.Cut(page, "## What it costs")
	found := 0
	for _, row := range rows(table) {
		want, ok := measured[row[0]]
		if !ok {
			continue
		}
		found++
		if got := strings.Join(row[1:], " "); got != strings.Join(want, " ") {
			t.Errorf("%s: the page says %s, measured was %s", row[0], got, strings.Join(want, " "))
		}
	}
	if found < 7 {
		t.Errorf("%d servers found in the table", found)
	}
}

// rows returns the cells of the tables of a text.
func rows(text string) (rows [][]string) {
	for line := range strings.Lines(text) {
		if line, ok := strings.CutPrefix(strings.TrimSpace(line), "| "); ok {
			rows = append(rows, strings.Split(strings.TrimSuffix(line, " |"), " | "))
		}
	}
	return rows
}

// pages returns the pages in Markdown that people read.
func pages(t *testing.T) (pages []string) {
	t.Helper()
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "node_modules" || d.Name() == "testdata" || strings.HasPrefix(d.Name(), ".") && path != ".") {
			return filepath.SkipDir
		}
		if strings.HasSuffix(path, ".md") {
			pages = append(pages, path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return pages
}

func read(t *testing.T, file string) string {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func withoutCode(page string) string {
	page = regexp.MustCompile("(?s)```.*?```").ReplaceAllString(page, "")
	return regexp.MustCompile("`[^`\n]*`").ReplaceAllString(page, "")
}

// hasHeading reports whether a page has a heading with the anchor that GitHub gives it.
func hasHeading(page, anchor string) bool {
	for _, m := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(page, -1) {
		text := regexp.MustCompile(`[^\pL\pN _-]`).ReplaceAllString(strings.ToLower(m[1]), "")
		if strings.ReplaceAll(text, " ", "-") == anchor {
			return true
		}
	}
	return false
}
