// Package client serves live.js, the JavaScript client of live topics. The file is embedded in the server's binary.
//
//	mux.Handle("GET /live.js", client.Handler())
//
// A page then needs no build step and no package:
//
//	<script type="module">
//	  import { connect } from "/live.js";
//	  const live = connect("/live");
//	  live.subscribe("news", (data) => console.log(data));
//	</script>
//
// [Files] also serves element.js, the element <live-topic>, and the hooks for React, Vue and Svelte.
package client

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"net/http"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Version is the version of the client. Its package.json has the same version.
const Version = "0.1.0"

//go:embed live.js element.js stores.js views.js react.js vue.js svelte.js
var embedded embed.FS

// files has every embedded file by its name.
var files = sync.OnceValue(func() map[string]*file {
	entries, _ := embedded.ReadDir(".") // the folder is always there
	all := make(map[string]*file, len(entries))
	for _, entry := range entries {
		source, _ := embedded.ReadFile(entry.Name()) // it was just listed
		all[entry.Name()] = newFile(source)
	}
	return all
})

// Source returns live.js, for programs that bundle it or serve it in another way. The caller owns the bytes.
func Source() []byte { return bytes.Clone(files()["live.js"].source) }

// Handler serves live.js at any path, to GET and HEAD.
//
// With Cache-Control: no-cache, browsers ask each time and mostly get a 304. So a page never runs an older client than
// its server has. The price is one short request for each load of a page. To save that request, mount the handler at a
// path that contains [Version], and set Cache-Control in a handler around it.
func Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { files()["live.js"].ServeHTTP(w, r) })
}

// Files serves each file of the client under its name, which is the last element of the path, in the same way as
// [Handler] serves live.js. Other names are 404. One pattern is enough for all files:
//
//	mux.Handle("GET /livetopic/", client.Files())
//
// The files are live.js; element.js, which defines <live-topic>; and react.js, vue.js and svelte.js, with stores.js and
// views.js, which these three need. All import one another from the same folder. So a page has one live.js only if it
// imports that from the folder too, as "/livetopic/live.js". A page without a bundler also needs an import map that says
// where "react" or "vue" is.
func Files() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, name := path.Split(r.URL.Path)
		if f := files()[name]; f != nil {
			f.ServeHTTP(w, r)
		} else {
			http.NotFound(w, r)
		}
	})
}

// A file is a JavaScript module in two content codings.
type file struct {
	source  []byte
	plain   func() representation
	gzipped func() representation
}

func newFile(source []byte) *file {
	return &file{
		source:  source,
		plain:   sync.OnceValue(func() representation { return represent(source) }),
		gzipped: sync.OnceValue(func() representation { return represent(zip(source)) }),
	}
}

func (f *file) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, http.StatusText(http.StatusMethodNotAllowed), http.StatusMethodNotAllowed)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/javascript; charset=utf-8")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Add("Vary", "Accept-Encoding")
	if h.Get("Cache-Control") == "" {
		h.Set("Cache-Control", "no-cache")
	}

	form := f.plain()
	if acceptsGzip(r.Header.Values("Accept-Encoding")) {
		form = f.gzipped()
		h.Set("Content-Encoding", "gzip")
	}
	h.Set("ETag", form.etag)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(form.body))
}

// A representation is a file in one content coding. Its ETag is a hash of exactly these bytes, so that a cache never
// confuses the plain form with the gzipped one.
type representation struct {
	body []byte
	etag string
}

func represent(body []byte) representation {
	sum := sha256.Sum256(body)
	return representation{body: body, etag: `"` + base64.RawURLEncoding.EncodeToString(sum[:12]) + `"`}
}

func zip(source []byte) []byte {
	var b bytes.Buffer
	// Neither call can fail: the level is valid, and a bytes.Buffer takes everything.
	zw, _ := gzip.NewWriterLevel(&b, gzip.BestCompression)
	_, _ = zw.Write(source)
	_ = zw.Close()
	return b.Bytes()
}

// acceptsGzip reads Accept-Encoding (RFC 9110, section 12.5.3). If gzip is named, its weight decides, otherwise the
// weight of "*". A weight of 0 means no.
func acceptsGzip(header []string) bool {
	byName, byStar := -1.0, -1.0
	for coding := range strings.SplitSeq(strings.Join(header, ","), ",") {
		name, params, _ := strings.Cut(coding, ";")
		switch name = strings.ToLower(strings.TrimSpace(name)); {
		case slices.Contains([]string{"gzip", "x-gzip"}, name):
			byName = weight(params)
		case name == "*":
			byStar = weight(params)
		}
	}
	if byName >= 0 {
		return byName > 0
	}
	return byStar > 0
}

// weight returns the q in a coding's parameters. It returns 1 if there is none, and 0 if it is not a number.
func weight(params string) float64 {
	key, value, found := strings.Cut(strings.TrimSpace(params), "=")
	if !found || !strings.EqualFold(strings.TrimSpace(key), "q") {
		return 1
	}
	q, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
	if err != nil {
		return 0
	}
	return q
}
