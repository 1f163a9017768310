package client_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/livetopic/livetopic/client"
	"github.com/livetopic/livetopic/internal/livetest"
)

// get makes one request to the handler. header is a list of names and values, in turn.
func get(method string, header ...string) *http.Response {
	r := httptest.NewRequest(method, "/any/where.js", nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	client.Handler().ServeHTTP(w, r)
	return w.Result()
}

func body(t *testing.T, resp *http.Response) []byte {
	t.Helper()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func file(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func wantHeader(t *testing.T, resp *http.Response, name, want string) {
	t.Helper()
	if got := resp.Header.Get(name); got != want {
		t.Errorf("%s = %q, want %q", name, got, want)
	}
}

func TestServesTheModule(t *testing.T) {
	resp := get("GET")
	if resp.StatusCode != 200 {
		t.Fatalf("status %d", resp.StatusCode)
	}
	if !bytes.Equal(body(t, resp), file(t, "live.js")) {
		t.Error("the body is not live.js")
	}
	wantHeader(t, resp, "Content-Type", "text/javascript; charset=utf-8")
	wantHeader(t, resp, "Cache-Control", "no-cache")
	wantHeader(t, resp, "X-Content-Type-Options", "nosniff")
	wantHeader(t, resp, "Vary", "Accept-Encoding")
	wantHeader(t, resp, "Content-Encoding", "")
}

func TestServesGzipToWhoAcceptsIt(t *testing.T) {
	resp := get("GET", "Accept-Encoding", "gzip, deflate, br")
	wantHeader(t, resp, "Content-Encoding", "gzip")
	wantHeader(t, resp, "Content-Type", "text/javascript; charset=utf-8")
	wantHeader(t, resp, "Vary", "Accept-Encoding")

	zr, err := gzip.NewReader(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	unpacked, err := io.ReadAll(zr)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(unpacked, file(t, "live.js")) {
		t.Error("the unpacked body is not live.js")
	}
}

func TestReadsAcceptEncoding(t *testing.T) {
	for _, c := range []struct {
		accept string
		gzip   bool
	}{
		{"", false},
		{"identity", false},
		{"br", false},
		{"gzip", true},
		{"GZIP", true},
		{"x-gzip", true},
		{"br;q=1.0, gzip;q=0.8, *;q=0.1", true},
		{"br , gzip ; q=0.001", true},
		{"gzip;q=0", false},
		{"gzip;q=0.000, *", false},
		{"gzip; Q=0", false},
		{"*", true},
		{"*;q=0", false},
		{"*;q=0, gzip", true},
		{"gzip;q=often", false},
		{"gzipped", false},
		{";,;=,", false},
	} {
		resp := get("GET", "Accept-Encoding", c.accept)
		if got := resp.Header.Get("Content-Encoding") == "gzip"; got != c.gzip {
			t.Errorf("Accept-Encoding %q: gzip is %v, want %v", c.accept, got, c.gzip)
		}
	}
	if resp := get("GET", "Accept-Encoding", "br", "Accept-Encoding", "gzip"); resp.Header.Get("Content-Encoding") != "gzip" {
		t.Error("a second Accept-Encoding line is not read")
	}
}

func TestEachFormHasItsOwnStrongTag(t *testing.T) {
	plain := get("GET").Header.Get("ETag")
	packed := get("GET", "Accept-Encoding", "gzip").Header.Get("ETag")
	for _, tag := range []string{plain, packed} {
		if len(tag) < 10 || !strings.HasPrefix(tag, `"`) || !strings.HasSuffix(tag, `"`) {
			t.Errorf("%s is no strong tag", tag)
		}
	}
	if plain == packed {
		t.Error("both forms have the same tag")
	}
}

func TestAnswers304ToWhoHasItAlready(t *testing.T) {
	for _, accept := range []string{"identity", "gzip"} {
		tag := get("GET", "Accept-Encoding", accept).Header.Get("ETag")
		for _, c := range []struct {
			match  string
			status int
		}{
			{tag, 304},
			{"W/" + tag, 304},
			{`"other", ` + tag, 304},
			{"*", 304},
			{`"other"`, 200},
			{"", 200},
		} {
			resp := get("GET", "Accept-Encoding", accept, "If-None-Match", c.match)
			if resp.StatusCode != c.status {
				t.Errorf("If-None-Match %s with %s: status %d, want %d", c.match, accept, resp.StatusCode, c.status)
			}
			wantHeader(t, resp, "ETag", tag)
			wantHeader(t, resp, "Vary", "Accept-Encoding")
			wantHeader(t, resp, "Cache-Control", "no-cache")
			if c.status == 304 && len(body(t, resp)) != 0 {
				t.Error("a 304 has a body")
			}
		}
	}
}

func TestOneFormsTagDoesNotMatchTheOther(t *testing.T) {
	plain := get("GET").Header.Get("ETag")
	if resp := get("GET", "Accept-Encoding", "gzip", "If-None-Match", plain); resp.StatusCode != 200 {
		t.Errorf("status %d, want 200", resp.StatusCode)
	}
}

func TestHeadSaysWhatGetWould(t *testing.T) {
	for _, accept := range []string{"identity", "gzip"} {
		head, full := get("HEAD", "Accept-Encoding", accept), get("GET", "Accept-Encoding", accept)
		if head.StatusCode != 200 || len(body(t, head)) != 0 {
			t.Errorf("%s: status %d, or a body", accept, head.StatusCode)
		}
		for name := range full.Header {
			wantHeader(t, head, name, full.Header.Get(name))
		}
	}
}

func TestRefusesOtherMethods(t *testing.T) {
	for _, method := range []string{"POST", "PUT", "DELETE", "PATCH", "OPTIONS"} {
		resp := get(method)
		if resp.StatusCode != http.StatusMethodNotAllowed {
			t.Errorf("%s: status %d, want 405", method, resp.StatusCode)
		}
		wantHeader(t, resp, "Allow", "GET, HEAD")
	}
}

func TestKeepsAnOuterCachePolicy(t *testing.T) {
	w := httptest.NewRecorder()
	w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	client.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/live-"+client.Version+".js", nil))
	wantHeader(t, w.Result(), "Cache-Control", "public, max-age=31536000, immutable")
}

func TestServesEachFileUnderItsName(t *testing.T) {
	get := func(method, path string) *http.Response {
		w := httptest.NewRecorder()
		client.Files().ServeHTTP(w, httptest.NewRequest(method, path, nil))
		return w.Result()
	}
	sources, err := filepath.Glob("*.js")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range sources {
		resp := get("GET", "/assets/"+name)
		if name == "eslint.config.js" {
			if resp.StatusCode != http.StatusNotFound {
				t.Errorf("%s: status %d, want 404", name, resp.StatusCode)
			}
			continue
		}
		if resp.StatusCode != 200 || !bytes.Equal(body(t, resp), file(t, name)) {
			t.Errorf("%s: status %d, or another body", name, resp.StatusCode)
		}
		wantHeader(t, resp, "Content-Type", "text/javascript; charset=utf-8")
	}
	for _, path := range []string{"/", "/live", "/live.d.ts", "/package.json", "/client.go", "/live.js/", "/live.js/.."} {
		if resp := get("GET", path); resp.StatusCode != http.StatusNotFound {
			t.Errorf("%s: status %d, want 404", path, resp.StatusCode)
		}
	}
	if resp := get("POST", "/element.js"); resp.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST: status %d, want 405", resp.StatusCode)
	}
}

// A page gets all modules that a module imports, from the same folder.
func TestServesWhatItsFilesImport(t *testing.T) {
	sources, err := filepath.Glob("*.js")
	if err != nil {
		t.Fatal(err)
	}
	imports := 0
	for _, name := range sources {
		for _, found := range regexp.MustCompile(`(?m)^import .* from "\./(.*)";$`).FindAllSubmatch(file(t, name), -1) {
			w := httptest.NewRecorder()
			client.Files().ServeHTTP(w, httptest.NewRequest("GET", "/assets/"+string(found[1]), nil))
			if w.Code != 200 {
				t.Errorf("%s imports %s, which is not served", name, found[1])
			}
			imports++
		}
	}
	if imports < 7 {
		t.Errorf("%d imports found", imports)
	}
}

func TestLicenceIsTheRepositorys(t *testing.T) {
	if !bytes.Equal(file(t, "LICENSE"), file(t, "../LICENSE")) {
		t.Error("the package has another licence than the repository")
	}
}

// Many clients ask at the same time over real connections, where net/http frames the bodies.
func TestServesManyOverHTTP(t *testing.T) {
	srv := httptest.NewServer(client.Handler())
	defer srv.Close()
	want := file(t, "live.js")

	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			resp, err := http.Get(srv.URL + "/live.js") // net/http asks for gzip and unpacks it
			if err != nil {
				t.Error(err)
				return
			}
			defer func() { _ = resp.Body.Close() }()
			got, err := io.ReadAll(resp.Body)
			if err != nil || !resp.Uncompressed || !bytes.Equal(got, want) {
				t.Errorf("read %d bytes, unpacked %v: %v", len(got), resp.Uncompressed, err)
			}
		})
	}
	wg.Wait()
}

func TestSourceIsACopy(t *testing.T) {
	client.Source()[0] = '!'
	if !bytes.Equal(client.Source(), file(t, "live.js")) {
		t.Error("a caller could change what is served")
	}
}

func TestVersionIsThePackages(t *testing.T) {
	var pkg struct{ Version string }
	if err := json.Unmarshal(file(t, "package.json"), &pkg); err != nil {
		t.Fatal(err)
	}
	if pkg.Version != client.Version {
		t.Errorf("package.json says %s, the constant %s", pkg.Version, client.Version)
	}
}

// Each Go snippet of docs/javascript.md stands in an example, where it is compiled.
func TestSnippetsOfTheJavaScriptPageCompile(t *testing.T) {
	livetest.InFiles(t, livetest.Snippets(t, livetest.ReadFile(t, "../docs/javascript.md"), 1, "go"), "example_test.go")
}
