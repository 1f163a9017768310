package notes

import (
	"testing"

	"github.com/livetopic/livetopic/internal/livetest"
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
	section := livetest.Section(t, livetest.ReadFile(t, "../../docs/html.md"), "templ")
	livetest.InFiles(t, livetest.Snippets(t, section, 1, "templ"), "note.templ")
	livetest.InFiles(t, livetest.Snippets(t, section, 1, "go"), "notes.go")
}
