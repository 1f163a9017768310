package inspector

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"path"
	"time"
)

//go:embed page
var embedded embed.FS

// file is a file of the page.
type file struct {
	kind string // of its content
	body []byte
	etag string // a hash of body
}

// files are the files of the page by their names. "" is the page itself.
var files = func() map[string]*file {
	all := make(map[string]*file)
	entries, err := embedded.ReadDir("page")
	for _, e := range entries {
		var body []byte
		if body, err = embedded.ReadFile("page/" + e.Name()); err != nil {
			break
		}
		sum := sha256.Sum256(body)
		all[e.Name()] = &file{kinds[path.Ext(e.Name())], body, `"` + base64.RawURLEncoding.EncodeToString(sum[:12]) + `"`}
	}
	if err != nil {
		panic(err) // the files are compiled in: it cannot be
	}
	all[""] = all["index.html"]
	delete(all, "index.html")
	return all
}()

var kinds = map[string]string{
	".html": "text/html; charset=utf-8",
	".css":  "text/css; charset=utf-8",
	".js":   "text/javascript; charset=utf-8",
	".svg":  "image/svg+xml",
}

func (f *file) serve(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		fail(w, problemf(http.StatusMethodNotAllowed, "the method is GET"))
		return
	}
	h := w.Header()
	h.Set("Content-Type", f.kind)
	h.Set("Cache-Control", "no-cache") // the page is never older than its server
	h.Set("ETag", f.etag)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(f.body))
}

// secure sets the headers that protect the page. It loads from and asks only this handler's origin, and
// no other page may frame or read it. Its scripts cannot make HTML of a text that a client has sent.
func secure(h http.Header) {
	h.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "+
		"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "+
		"require-trusted-types-for 'script'; trusted-types 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(v)
}
