package live_test

import (
	"bytes"
	"context"
	"io/fs"
	"log"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
)

// Every Go snippet of docs/deploy.md is also in this file, where it is compiled.
func TestSnippetsOfTheDeployPageCompile(t *testing.T) {
	livetest.InFiles(t, livetest.Snippets(t, livetest.ReadFile(t, "../docs/deploy.md"), 3, "go"), "deploy_page_test.go")
}

// Every example, page and comment that makes an http.Server bounds the time that a request's header may
// take. http.ListenAndServe and its like make a server without a bound. A program of tests or measurements
// is no example.
func TestEveryExampleSetsReadHeaderTimeout(t *testing.T) {
	makes := regexp.MustCompile(`http\.Server\{[^}]*\}`)
	unbounded := regexp.MustCompile(`http\.(ListenAndServe|ListenAndServeTLS|Serve|ServeTLS)\(`)
	found := 0
	err := filepath.WalkDir("..", func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		switch {
		case entry.IsDir() && slices.Contains([]string{"node_modules", "testdata", "bench", "interop", "livetest", ".git"}, entry.Name()):
			return fs.SkipDir
		case !strings.HasSuffix(path, ".md") && !strings.HasSuffix(path, ".go"),
			strings.HasSuffix(path, "_test.go") && !strings.HasSuffix(path, "example_test.go"):
			return nil
		}
		text, err := os.ReadFile(path)
		for _, made := range makes.FindAll(text, -1) {
			found++
			if !bytes.Contains(made, []byte("ReadHeaderTimeout:")) {
				t.Errorf("%s has no ReadHeaderTimeout: %s", path, made)
			}
		}
		if call := unbounded.Find(text); call != nil {
			t.Errorf("%s has %s), which has no ReadHeaderTimeout", path, call)
		}
		return err
	})
	if err != nil || found < 12 {
		t.Errorf("%d servers were found: %v", found, err)
	}
}

var _ = func(server *live.Server, mux *http.ServeMux) {
	mux.Handle("GET /ready", server.ReadyHandler())
	web := &http.Server{Addr: ":8080", Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	if err := server.Run(context.Background(), web.ListenAndServe, web.Shutdown); err != nil {
		log.Fatal(err)
	}
}

var _ = func(server *live.Server, mux *http.ServeMux) {
	web := &http.Server{Addr: ":443", Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	serve := func() error { return web.ListenAndServeTLS("cert.pem", "key.pem") }
	if err := server.Run(context.Background(), serve, web.Shutdown); err != nil {
		log.Fatal(err)
	}
}

var _ = func(server *live.Server, app interface{ Listen(string) error }) {
	if err := server.Run(context.Background(), func() error { return app.Listen(":8080") }); err != nil {
		log.Fatal(err)
	}
}
