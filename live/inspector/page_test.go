package inspector_test

import (
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/inspector"
)

// links finds what a file of the page loads.
var links = regexp.MustCompile(`(?:src|href)="([^"]*)"|from "([^"]*)"|url\(([^)]*)\)|@import`)

func TestPageWorksUnderAnyPath(t *testing.T) {
	h := inspector.New(livetest.NewServer(t, live.Options{}), everything)
	mux := http.NewServeMux()
	mux.Handle("/inspect/", h)
	mux.Handle("/admin/{tenant}/live/", h)
	mux.Handle("/stripped/", http.StripPrefix("/stripped", h))
	load := func(path string) string {
		t.Helper()
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		if w.Code != http.StatusOK {
			t.Fatalf("%s: %d %s", path, w.Code, w.Body)
		}
		return w.Body.String()
	}
	for _, at := range []string{"/inspect/", "/admin/acme/live/", "/stripped/"} {
		waiting, loaded := []string{""}, map[string]bool{"": true}
		for len(waiting) > 0 {
			text := load(at + waiting[0])
			waiting = waiting[1:]
			for _, found := range links.FindAllStringSubmatch(text, -1) {
				name := strings.TrimPrefix(found[1]+found[2]+found[3], "./")
				if strings.HasPrefix(name, "#") || loaded[name] {
					continue
				}
				if strings.ContainsAny(name, ":/") || name == "" {
					t.Errorf("%q is no file of the page", found[0])
					continue
				}
				loaded[name] = true
				waiting = append(waiting, name)
			}
		}
		all, err := os.ReadDir("page")
		if err != nil {
			t.Fatal(err)
		}
		if len(loaded) != len(all) {
			t.Errorf("at %s the page loads %v, and has %d files", at, loaded, len(all))
		}
		load(at + "figures")
	}
}

func TestPageMayLoadNothingFromElsewhere(t *testing.T) {
	p := open(t, livetest.NewServer(t, live.Options{}), everything)
	for _, name := range []string{"", "main.js", "figures", "unknown"} {
		h := p.serve("GET", name, "", nil).Header()
		csp := h.Get("Content-Security-Policy")
		for _, rule := range []string{"default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "form-action 'none'", "base-uri 'none'", "require-trusted-types-for 'script'"} {
			if !strings.Contains(csp, rule) {
				t.Errorf("%s: the policy %q has no %s", name, csp, rule)
			}
		}
		if strings.Contains(csp, "unsafe") || strings.Contains(csp, "http") {
			t.Errorf("%s: the policy is %q", name, csp)
		}
		if h.Get("X-Content-Type-Options") != "nosniff" || h.Get("Referrer-Policy") != "no-referrer" || h.Get("Cache-Control") == "" {
			t.Errorf("%s: %v", name, h)
		}
	}
}

func TestPageIsLoadedAgainOnlyIfItHasChanged(t *testing.T) {
	p := open(t, livetest.NewServer(t, live.Options{}), everything)
	etag := p.serve("GET", "", "", nil).Header().Get("ETag")
	w := p.serve("GET", "", "", func(r *http.Request) { r.Header.Set("If-None-Match", etag) })
	if etag == "" || w.Code != http.StatusNotModified {
		t.Errorf("with the ETag %s: %d", etag, w.Code)
	}
}
