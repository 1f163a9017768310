package main

import (
	"bufio"
	"context"
	"html/template"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
)

func call(t *testing.T, method, url string, form url.Values, header ...string) (status int, body string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultTransport.RoundTrip(r) // follows no redirect
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(raw)
}

func TestThePageAndTheTopicHaveTheSameNotes(t *testing.T) {
	b := newBoard("/htmx.js")
	site := httptest.NewServer(b.routes())
	defer site.Close()
	defer b.live.Shutdown(t.Context())

	if status, _ := call(t, "POST", site.URL+"/notes", url.Values{"text": {"milk"}}); status != http.StatusSeeOther {
		t.Errorf("without htmx: status %d", status)
	}
	if status, _ := call(t, "POST", site.URL+"/notes", url.Values{"text": {"<b>bread</b>"}}, "HX-Request", "true"); status != http.StatusNoContent {
		t.Errorf("with htmx: status %d", status)
	}
	if status, _ := call(t, "POST", site.URL+"/notes", url.Values{"text": {"evil"}}, "Sec-Fetch-Site", "cross-site"); status != http.StatusForbidden {
		t.Errorf("from another site: status %d", status)
	}
	call(t, "POST", site.URL+"/notes/1/done", nil)

	_, page := call(t, "GET", site.URL+"/", nil)
	notes, err := live.History[string](t.Context(), b.live, "notes", 10)
	if err != nil || len(notes) != 1 {
		t.Fatalf("notes %q, error %v", notes, err)
	}
	if !strings.Contains(page, notes[0]) || !strings.Contains(notes[0], "&lt;b&gt;bread&lt;/b&gt;") || strings.Contains(page, "milk") {
		t.Errorf("the topic has %q, the page\n%s", notes, page)
	}
	if !strings.Contains(page, `<script src="/htmx.js">`) {
		t.Error("the page does not load htmx")
	}
	if status, _ := call(t, "GET", site.URL+"/livetopic/element.js", nil); status != http.StatusOK {
		t.Errorf("element.js: status %d", status)
	}
}

// A browser that sends its form slowly does not stop the others.
func TestSlowFormStopsNobody(t *testing.T) {
	b := newBoard("")
	site := httptest.NewServer(b.routes())
	defer site.Close()
	defer b.live.Shutdown(t.Context())
	slow, err := net.Dial("tcp", site.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Close()
	// The server asks for the rest of the form when a handler reads it, and then waits for it.
	io.WriteString(slow, "POST /notes HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n")
	answers := bufio.NewReader(slow)
	if line, err := answers.ReadString('\n'); !strings.Contains(line, "100 Continue") {
		t.Fatalf("the server answers %q, %v", line, err)
	}
	call(t, "POST", site.URL+"/notes", url.Values{"text": {"milk"}})
	if _, page := call(t, "GET", site.URL+"/", nil); !strings.Contains(page, "milk") {
		t.Errorf("the page is\n%s", page)
	}
}

// What the page lets nobody type is refused too.
func TestEmptyAndLongNotesAreRefused(t *testing.T) {
	b := newBoard("")
	site := httptest.NewServer(b.routes())
	defer site.Close()
	defer b.live.Shutdown(t.Context())
	for _, text := range []string{"", strings.Repeat("x", maxText+1)} {
		if status, _ := call(t, "POST", site.URL+"/notes", url.Values{"text": {text}}); status != http.StatusBadRequest {
			t.Errorf("%d bytes: status %d", len(text), status)
		}
	}
	if status, _ := call(t, "POST", site.URL+"/notes", url.Values{"text": {strings.Repeat("x", maxText)}}); status != http.StatusSeeOther {
		t.Errorf("%d bytes: status %d", maxText, status)
	}
	if len(b.notes) != 1 {
		t.Errorf("there are %d notes", len(b.notes))
	}
}

// Every Go and HTML snippet of docs/html.md stands in this program, in a test, or in a page that is run in browsers.
func TestSnippetsOfTheHTMLPageAreRun(t *testing.T) {
	page := livetest.ReadFile(t, "../../docs/html.md")
	page = strings.Replace(page, livetest.Section(t, page, "templ"), "", 1) // interop has that
	livetest.InFiles(t, livetest.Snippets(t, page, 9, "go", "html"), "main.go", "main_test.go", "../../client/test/browser/element.test.mjs")
}

// A page that renders the lines of a log, and gets each line after that.
func TestAPageKnowsThePositionOfItsLines(t *testing.T) {
	server := live.New(live.Options{
		Topics: func(string) live.TopicOptions { return live.TopicOptions{History: 10} },
	})
	defer server.Shutdown(t.Context())
	if err := live.Publish(server, "log", "<p>first</p>"); err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest("GET", "/", nil)
	at, err := server.Position(r.Context(), "log") // before the lines are read
	if err != nil {
		t.Fatal(err)
	}
	log := template.Must(template.New("").Parse(`
<live-topic topic="log" html since="{{.At}}" limit="200">{{range .Lines}}{{template "line" .}}{{end}}</live-topic>
{{define "line"}}<p>{{.}}</p>{{end}}`))
	var page strings.Builder
	if err := log.Execute(&page, map[string]any{"At": at, "Lines": []string{"first"}}); err != nil {
		t.Fatal(err)
	}
	if want := `since="` + at.String() + `" limit="200"><p>first</p></live-topic>`; at.String() == "" || !strings.Contains(page.String(), want) {
		t.Errorf("the page is %s, want %s", page.String(), want)
	}
}
