package websession_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"testing"

	"github.com/livetopic/livetopic/live/websession"
)

var sprintf = fmt.Sprintf

// serve serves a handler until the test ends.
func serve(t *testing.T, h http.Handler) string {
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}

// However a handler begins its answer, the cookie goes with it.
func TestTheCookieGoesWithTheHead(t *testing.T) {
	for name, answer := range map[string]func(w http.ResponseWriter){
		"nothing":     func(http.ResponseWriter) {},
		"Write":       func(w http.ResponseWriter) { w.Write([]byte("x")) },
		"WriteHeader": func(w http.ResponseWriter) { w.WriteHeader(http.StatusAccepted) },
		"Flush":       func(w http.ResponseWriter) { w.(http.Flusher).Flush() },
		"controller":  func(w http.ResponseWriter) { http.NewResponseController(w).Flush() },
		"ReadFrom":    func(w http.ResponseWriter) { io.Copy(w, strings.NewReader("x")) },
		"103 first": func(w http.ResponseWriter) {
			w.Header().Set("Link", "</live.js>; rel=modulepreload")
			w.WriteHeader(http.StatusEarlyHints)
			w.WriteHeader(http.StatusOK)
		},
		"Hijack": func(w http.ResponseWriter) {
			conn, _, err := w.(http.Hijacker).Hijack()
			if err != nil {
				panic(err)
			}
			defer conn.Close()
			fmt.Fprint(conn, "HTTP/1.1 200 OK\r\nConnection: close\r\n")
			w.Header().Write(conn)
			fmt.Fprint(conn, "\r\n")
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := websession.New(nil, websession.Options{})
			early := 0
			url := serve(t, m.Middleware(m.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				s := websession.FromRequest(r)
				s.Set("a", 1)
				answer(w)
				if err := s.Set("after", 1); err != nil && name != "nothing" {
					t.Error(err)
				}
			}))))
			req, _ := http.NewRequest("GET", url, nil)
			req = req.WithContext(httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
				Got1xxResponse: func(_ int, header textproto.MIMEHeader) error {
					early += len(header["Set-Cookie"])
					return nil
				},
			}))
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			cookies := resp.Cookies()
			if len(cookies) != 1 || early != 0 || !cookies[0].HttpOnly || cookies[0].SameSite != http.SameSiteLaxMode || cookies[0].Secure {
				t.Fatalf("cookies %v, and %d too early", cookies, early)
			}
			eventually(t, "all is in the store", func() bool {
				found, err := m.Find(t.Context(), func(v map[string]any) bool { return v["a"] == 1 && v["after"] == 1 })
				return err == nil && len(found) == 1 && found[0].ID() == cookies[0].Value
			})
		})
	}
}

func TestOverTLSTheCookieIsSecure(t *testing.T) {
	m := websession.New(nil, websession.Options{})
	server := httptest.NewTLSServer(m.Middleware(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		websession.FromRequest(r).Set("a", 1)
	})))
	defer server.Close()
	resp, err := server.Client().Get(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if cookies := resp.Cookies(); len(cookies) != 1 || !cookies[0].Secure {
		t.Errorf("cookies %v", cookies)
	}
}

// A handler that panics saves nothing, and what it has destroyed is gone.
func TestAPanicSavesNothing(t *testing.T) {
	n, b := start(t, setting{}), newBrowser(t)
	n.handle("/panic", func(_ http.ResponseWriter, r *http.Request, s *websession.Session) {
		s.Set("a", "changed")
		panic(http.ErrAbortHandler)
	})
	b.get(n.url + "/set?a=1")
	if resp, err := b.client.Get(n.url + "/panic"); err == nil {
		resp.Body.Close()
		t.Error("answered")
	}
	if got := b.get(n.url + "/get?key=a"); got != "1" {
		t.Errorf("a is %s", got)
	}
}
