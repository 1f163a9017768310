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
package client

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Version is the version of the client. Its package.json has the same version.
const Version = "0.1.0"

//go:embed live.js
var source []byte

// Source returns live.js, for programs that bundle it or serve it in another way. The caller owns the bytes.
func Source() []byte { return bytes.Clone(source) }

// Handler serves live.js at any path, to GET and HEAD.
//
// With Cache-Control: no-cache, browsers ask each time and mostly get a 304. So a page never runs an older client than
// its server has. The price is one short request for each load of a page. To save that request, mount the handler at a
// path that contains [Version], and set Cache-Control in a handler around it.
func Handler() http.Handler { return http.HandlerFunc(serve) }

func serve(w http.ResponseWriter, r *http.Request) {
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

	form := plain()
	if acceptsGzip(r.Header.Values("Accept-Encoding")) {
		form = gzipped()
		h.Set("Content-Encoding", "gzip")
	}
	h.Set("ETag", form.etag)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(form.body))
}

// A representation is live.js in one content coding. Its ETag is a hash of exactly these bytes, so that a cache never
// confuses the plain form with the gzipped one.
type representation struct {
	body []byte
	etag string
}

var plain = sync.OnceValue(func() representation { return represent(source) })

var gzipped = sync.OnceValue(func() representation {
	var b bytes.Buffer
	// Neither call can fail: the level is valid, and a bytes.Buffer takes everything.
	zw, _ := gzip.NewWriterLevel(&b, gzip.BestCompression)
	_, _ = zw.Write(source)
	_ = zw.Close()
	return represent(b.Bytes())
})

func represent(body []byte) representation {
	sum := sha256.Sum256(body)
	return representation{body: body, etag: `"` + base64.RawURLEncoding.EncodeToString(sum[:12]) + `"`}
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
