package inspector_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/inspector"
)

// parts are all that the handler serves, with their methods.
var parts = map[string]string{
	"": "GET", "main.js": "GET", "inspector.css": "GET", "figures": "GET", "sessions": "GET", "session": "GET", "topics": "GET",
	"ends": "GET", "tail": "GET", "close": "POST", "publish": "POST", "slow": "POST", "drain": "POST",
}

func TestNobodyMayLookWithoutAnAuth(t *testing.T) {
	server := livetest.NewServer(t, live.Options{})
	refused := open(t, server, inspector.Options{})
	for name, method := range parts {
		w := refused.serve(method, name, "{}", nil)
		if w.Code != http.StatusForbidden || !strings.Contains(w.Body.String(), "Options.Auth") || !strings.Contains(w.Body.String(), "Loopback") {
			t.Errorf("%s: %d %s", name, w.Code, w.Body)
		}
	}
	if w := open(t, server, inspector.Options{Insecure: true}).serve("GET", "", "", nil); w.Code != http.StatusOK {
		t.Errorf("with Insecure: %d %s", w.Code, w.Body)
	}
}

func TestAuthDecidesAboutEveryRequest(t *testing.T) {
	opts := everything
	opts.Auth = func(r *http.Request) error {
		if r.Header.Get("Authorization") != "admin" {
			return errors.New("the secret is admin")
		}
		return nil
	}
	p := open(t, livetest.NewServer(t, live.Options{}), opts)
	for name, method := range parts {
		w := p.serve(method, name, "{}", nil)
		if w.Code != http.StatusForbidden || strings.Contains(w.Body.String(), "secret") {
			t.Errorf("%s: %d %s", name, w.Code, w.Body)
		}
	}
	w := p.serve("GET", "figures", "", func(r *http.Request) { r.Header.Set("Authorization", "admin") })
	if w.Code != http.StatusOK {
		t.Errorf("with the right header: %d %s", w.Code, w.Body)
	}
}

// The page of another site has the browser of a person send requests, which carry the person's cookies.
func TestRequestsOfOtherSitesDoNothing(t *testing.T) {
	server := livetest.NewServer(t, live.Options{})
	p := open(t, server, everything)
	for what, change := range map[string]func(*http.Request){
		"another site":          func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") },
		"a site of this domain": func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "same-site") },
		"an old browser": func(r *http.Request) {
			r.Header.Del("Sec-Fetch-Site")
			r.Header.Set("Origin", "https://evil.example")
		},
		"a sandbox":                    func(r *http.Request) { r.Header.Set("Origin", "null"); r.Header.Del("Sec-Fetch-Site") },
		"a form without an origin":     func(r *http.Request) { r.Header.Set("Content-Type", "application/x-www-form-urlencoded") },
		"a form that sends plain text": func(r *http.Request) { r.Header.Set("Content-Type", "text/plain") },
	} {
		w := p.serve("POST", "publish", `{"topic":"t","data":"1"}`, change)
		if w.Code != http.StatusForbidden && w.Code != http.StatusUnsupportedMediaType {
			t.Errorf("%s: %d %s", what, w.Code, w.Body)
		}
	}
	if n := server.Stats().Published; n != 0 {
		t.Errorf("%d publications were made", n)
	}
	p.do("publish", object{"topic": "t", "data": "1"})
	if n := server.Stats().Published; n != 1 {
		t.Errorf("of the page itself %d publications were made, want one", n)
	}
}

// Loopback lets in each request of the person's browser, also one that the page of another site makes.
func TestOtherSitesCannotEvenLook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		defer time.Sleep(time.Minute) // so that the tail has ended
		server := livetest.NewServer(t, live.Options{})
		p := open(t, server, everything)
		look := func(site string) int {
			return p.serve("GET", "tail?topic=t", "", func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", site) }).Code
		}
		for _, site := range []string{"cross-site", "same-site"} {
			if code := look(site); code != http.StatusForbidden {
				t.Errorf("%s: %d", site, code)
			}
		}
		if n := server.Stats().Topics; n != 0 {
			t.Errorf("the server listens to %d topics", n)
		}
		for _, site := range []string{"same-origin", "none"} {
			if code := look(site); code != http.StatusOK {
				t.Errorf("%s: %d", site, code)
			}
		}
		if n := server.Stats().Topics; n != 1 {
			t.Errorf("the server listens to %d topics, want one", n)
		}
	})
}

func TestNothingIsDoneThatIsNotAllowed(t *testing.T) {
	opts, sessions := named(live.Options{})
	h := livetest.Hosting{}.Start(t, opts)
	livetest.Dial(t, h.Endpoint)
	s := livetest.Receive(t, sessions)
	p := open(t, h.Server, inspector.Options{Insecure: true})
	for name, option := range map[string]string{"close": "Allow.Close", "publish": "Allow.Publish", "slow": "Allow.SlowReader", "drain": "Drain"} {
		text := p.expect(http.StatusForbidden, name, object{"id": s.ID(), "topic": "t", "data": "1", "code": 1000})
		if !strings.Contains(text, option) {
			t.Errorf("%s: the answer does not name %s: %s", name, option, text)
		}
	}
	if w := p.serve("GET", "tail?topic=t&payloads=1", "", nil); w.Code != http.StatusForbidden || !strings.Contains(w.Body.String(), "Allow.Payloads") {
		t.Errorf("payloads: %d %s", w.Code, w.Body)
	}
	if st := h.Stats(); s.IsClosed() || st.Published != 0 || st.Sessions != 1 {
		t.Errorf("closed: %v, %+v", s.IsClosed(), st)
	}
}

func TestEachPartHasItsMethod(t *testing.T) {
	p := open(t, livetest.NewServer(t, live.Options{}), everything)
	for name, method := range parts {
		other := map[string]string{"GET": "POST", "POST": "GET"}[method]
		w := p.serve(other, name, "{}", nil)
		if w.Code != http.StatusMethodNotAllowed || !strings.Contains(w.Header().Get("Allow"), method) {
			t.Errorf("%s %s: %d %s, Allow %q", other, name, w.Code, w.Body, w.Header().Get("Allow"))
		}
	}
	if w := p.serve("GET", "index.php", "", nil); w.Code != http.StatusNotFound || !strings.Contains(w.Body.String(), "ends in a slash") {
		t.Errorf("an unknown path: %d %s", w.Code, w.Body)
	}
}

func TestLargeAndBrokenRequestsAreRefused(t *testing.T) {
	p := open(t, livetest.NewServer(t, live.Options{}), everything)
	for body, want := range map[string]int{
		"":                                 http.StatusBadRequest,
		"{":                                http.StatusBadRequest,
		`{"topic":1}`:                      http.StatusBadRequest,
		`"` + strings.Repeat("x", 2<<20):   http.StatusRequestEntityTooLarge,
		`{"topic":"","data":"1"}`:          http.StatusBadRequest,
		`{"topic":"t","data":"no JSON"}`:   http.StatusBadRequest,
		`{"topic":"t","data":"[1,2,3]"}`:   http.StatusOK,
		`{"topic":"t","data":"","key":""}`: http.StatusOK,
	} {
		if w := p.serve("POST", "publish", body, nil); w.Code != want {
			t.Errorf("%.40s: %d %s, want %d", body, w.Code, w.Body, want)
		}
	}
}
