package notes

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/livetopic/livetopic/live"
)

func TestAComponentOfTemplIsPublishedAsHTML(t *testing.T) {
	server := live.New(live.Options{
		Topics: func(string) live.TopicOptions { return live.TopicOptions{Keyed: true} },
	})
	defer server.Shutdown(t.Context())
	if err := Publish(t.Context(), server, 7, "<b>milk</b>"); err != nil {
		t.Fatal(err)
	}
	kept, err := live.History[string](t.Context(), server, "notes", 1)
	if err != nil || len(kept) != 1 || kept[0] != `<li data-key="7">&lt;b&gt;milk&lt;/b&gt;</li>` {
		t.Errorf("kept %q, error %v", kept, err)
	}
}

// The section on templ of docs/html.md is the code of this package.
func TestSnippetsOfTheHTMLPageAreThisCode(t *testing.T) {
	page, err := os.ReadFile("../../docs/html.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(page), "\n## templ\n")
	blocks := regexp.MustCompile("(?s)```(templ|go)\n(.*?)```").FindAllStringSubmatch(section, -1)
	if !found || len(blocks) != 2 {
		t.Fatalf("%d snippets found", len(blocks))
	}
	squeeze := func(code string) string { return strings.Join(strings.Fields(code), " ") }
	for i, file := range []string{"note.templ", "notes.go"} {
		source, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(squeeze(string(source)), squeeze(blocks[i][2])) {
			t.Errorf("%s has no\n%s", file, blocks[i][2])
		}
	}
}
