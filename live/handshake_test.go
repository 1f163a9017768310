package live_test

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
)

// upgrade returns a good handshake, changed.
func upgrade(t *testing.T, url string, change func(r *http.Request)) *http.Response {
	t.Helper()
	r, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Connection", "keep-alive, Upgrade")
	r.Header.Set("Upgrade", "websocket")
	r.Header.Set("Sec-WebSocket-Version", "13")
	r.Header.Set("Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA==")
	if change != nil {
		change(r)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return resp
}

func TestHandshake(t *testing.T) {
	header := func(key, value string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set(key, value) }
	}
	tests := []struct {
		name   string
		opts   live.Options
		change func(*http.Request)
		status int
		text   string
	}{
		{"good", live.Options{}, nil, 101, ""},
		{"method", live.Options{}, func(r *http.Request) { r.Method = "POST" }, 400, "method must be GET"},
		{"no upgrade", live.Options{}, func(r *http.Request) { r.Header.Del("Upgrade") }, 400, "websocket upgrade required"},
		{"no connection", live.Options{}, func(r *http.Request) { r.Header.Del("Connection") }, 400, "websocket upgrade required"},
		{"another upgrade", live.Options{}, header("Upgrade", "h2c"), 400, "websocket upgrade required"},
		{"version", live.Options{}, header("Sec-WebSocket-Version", "8"), 426, "version"},
		{"no version", live.Options{}, func(r *http.Request) { r.Header.Del("Sec-WebSocket-Version") }, 426, "version"},
		{"no key", live.Options{}, func(r *http.Request) { r.Header.Del("Sec-WebSocket-Key") }, 400, "Sec-WebSocket-Key"},
		{"short key", live.Options{}, header("Sec-WebSocket-Key", "AAAA"), 400, "Sec-WebSocket-Key"},
		{"key is no base64", live.Options{}, header("Sec-WebSocket-Key", strings.Repeat("*", 24)), 400, "Sec-WebSocket-Key"},
		{"two keys", live.Options{}, func(r *http.Request) {
			r.Header.Add("Sec-WebSocket-Key", "BAAAAAAAAAAAAAAAAAAAAA==")
		}, 400, "Sec-WebSocket-Key"},

		{"same origin", live.Options{}, func(r *http.Request) { r.Header.Set("Origin", "http://"+r.URL.Host) }, 101, ""},
		{"other origin", live.Options{}, header("Origin", "https://evil.example"), 403, `forbidden origin "https://evil.example"`},
		{"other port", live.Options{}, header("Origin", "http://127.0.0.1:1"), 403, "forbidden origin"},
		{"null origin", live.Options{}, header("Origin", "null"), 403, "forbidden origin"},
		{"listed origin", live.Options{Origins: []string{"https://a.example"}}, header("Origin", "https://A.example"), 101, ""},
		{"listed host", live.Options{Origins: []string{"a.example"}}, header("Origin", "https://a.example"), 101, ""},
		{"origin that ends like a listed one", live.Options{Origins: []string{"a.example"}}, header("Origin", "https://evil-a.example"), 403, "forbidden origin"},
		{"unlisted origin", live.Options{Origins: []string{"https://a.example"}}, header("Origin", "https://b.example"), 403, "forbidden origin"},
		{"no origin with a list", live.Options{Origins: []string{"https://a.example"}}, nil, 101, ""},
		{"same origin with a list", live.Options{Origins: []string{"https://a.example"}}, func(r *http.Request) { r.Header.Set("Origin", "http://"+r.URL.Host) }, 101, ""},
		{"two origins", live.Options{Origins: []string{"https://a.example", "https://b.example"}}, func(r *http.Request) {
			r.Header["Origin"] = []string{"https://a.example", "https://b.example"}
		}, 403, "forbidden origin"},
		{"what to do is said", live.Options{}, header("Origin", "https://evil.example"), 403, "list the origin in Options.Origins, or have the proxy pass on the Host header"},
		{"every origin", live.Options{Origins: []string{"*"}}, header("Origin", "https://b.example"), 101, ""},
		{"CheckOrigin goes before the list", live.Options{
			Origins:     []string{"https://b.example"},
			CheckOrigin: func(r *http.Request) bool { return r.Header.Get("Origin") == "https://c.example" },
		}, header("Origin", "https://b.example"), 403, "forbidden origin"},

		{"auth", live.Options{OnAuth: refuseWith(errors.New("secret reason"))}, nil, 401, "authentication failed"},
		{"auth names a status", live.Options{OnAuth: refuseWith(live.Refuse(402, "pay first"))}, nil, 402, "pay first"},
		{"auth names no error", live.Options{OnAuth: refuseWith(live.Refuse(200, "odd"))}, nil, 401, "odd"},
		{"auth is slow", live.Options{AuthTimeout: time.Millisecond, OnAuth: func(ctx context.Context, _ *http.Request) (any, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}}, nil, 503, "took too long"},
		{"auth panics", live.Options{OnAuth: func(context.Context, *http.Request) (any, error) { panic("boom") }}, nil, 500, "internal error"},
		{"auth runs after the origin check", live.Options{OnAuth: func(context.Context, *http.Request) (any, error) {
			t.Error("OnAuth was called for a forbidden origin")
			return nil, nil
		}}, header("Origin", "https://evil.example"), 403, "forbidden origin"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			srv, url := serve(t, tt.opts)
			resp := upgrade(t, url, tt.change)
			if resp.StatusCode != tt.status {
				t.Fatalf("status %s, want %d", resp.Status, tt.status)
			}
			if tt.status == 101 {
				livetest.Eventually(t, "accepted", func() bool { return srv.Stats().Accepted == 1 })
				return
			}
			st := srv.Stats()
			body, _ := io.ReadAll(resp.Body)
			if !strings.Contains(string(body), tt.text) || strings.Contains(string(body), "secret") {
				t.Errorf("body %q, want %q", body, tt.text)
			}
			if v, up := resp.Header.Get("Sec-WebSocket-Version"), resp.Header.Get("Upgrade"); (tt.status == 426) != (v == "13" && up == "websocket") {
				t.Errorf("Sec-WebSocket-Version: %q, Upgrade: %q", v, up)
			}
			if after := resp.Header.Get("Retry-After"); (tt.status == 503) != (after != "") {
				t.Errorf("Retry-After: %q", after)
			}
			if st.Accepted != 0 || st.Refused != 1 || st.Sessions != 0 {
				t.Errorf("%+v", st)
			}
		})
	}
}

func refuseWith(err error) func(context.Context, *http.Request) (any, error) {
	return func(context.Context, *http.Request) (any, error) { return nil, err }
}

func TestWriterThatCannotBeHijackedGets500(t *testing.T) {
	srv := live.New(live.Options{Logger: slog.New(slog.DiscardHandler)})
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	for key, value := range map[string]string{
		"Connection": "Upgrade", "Upgrade": "websocket",
		"Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
	} {
		r.Header.Set(key, value)
	}
	w := httptest.NewRecorder()
	srv.Handler().ServeHTTP(w, r)
	if w.Code != 500 || !strings.Contains(w.Body.String(), "Unwrap or Hijack") {
		t.Fatal(w.Code, w.Body)
	}
	if st := srv.Stats(); st.Refused != 1 || st.Accepted != 0 {
		t.Fatalf("%+v", st)
	}
}

func TestValueAndID(t *testing.T) {
	type user struct{ name string }
	opts, sessions := livetest.Connected(live.Options{
		OnAuth: func(_ context.Context, r *http.Request) (any, error) {
			return user{r.URL.Query().Get("user")}, nil
		},
	})
	_, url := serve(t, opts)
	ids := map[string]bool{}
	for range 10 {
		_, s := pair(t, url+"?user=ann", sessions)
		if s.Value() != (user{"ann"}) {
			t.Error(s.Value())
		}
		if len(s.ID()) != 32 || ids[s.ID()] {
			t.Errorf("ID %q", s.ID())
		}
		ids[s.ID()] = true
	}
	opts, sessions = livetest.Connected(live.Options{IDGenerator: func() string { return "mine" }})
	_, url = serve(t, opts)
	if _, s := pair(t, url, sessions); s.ID() != "mine" || s.Value() != nil {
		t.Error(s.ID(), s.Value())
	}
}

type account struct{ id string }

func (a account) UserID() string { return a.id }

func TestSessionLimits(t *testing.T) {
	opts, sessions := livetest.Connected(live.Options{
		MaxSessions: 4, MaxSessionsPerUser: 2,
		OnAuth: func(_ context.Context, r *http.Request) (any, error) {
			switch name := r.URL.Query().Get("user"); {
			case name == "nobody":
				return nil, errors.New("no")
			case strings.HasPrefix(name, "account"):
				return account{name}, nil
			default:
				return name, nil
			}
		},
	})
	srv, url := serve(t, opts)
	status := func(user string) int {
		return upgrade(t, url+"?user="+user, nil).StatusCode
	}
	for range 10 { // a refused client takes no place
		if got := status("nobody"); got != 401 {
			t.Fatal(got)
		}
	}
	_, first := pair(t, url+"?user=account1", sessions)
	pair(t, url+"?user=account1", sessions)
	if got := status("account1"); got != 429 {
		t.Fatalf("third of one user: %d", got)
	}
	pair(t, url+"?user=ann", sessions)
	pair(t, url+"?user=", sessions)
	if got := status("bob"); got != 503 {
		t.Fatalf("fifth of all: %d", got)
	}
	first.Close()
	livetest.Eventually(t, "a free place", func() bool { return srv.Stats().Sessions == 3 })
	pair(t, url+"?user=account1", sessions)
}

// A visitor for whom OnAuth returns a pointer that is nil is nobody.
func TestVisitorIsNobody(t *testing.T) {
	opts, sessions := livetest.Connected(live.Options{
		MaxSessionsPerUser: 1,
		OnAuth:             func(context.Context, *http.Request) (any, error) { return (*account)(nil), nil },
	})
	_, url := serve(t, opts)
	for range 3 {
		pair(t, url, sessions)
	}
}

// What reader and writer ask of a session is not for its users.
func TestMethodsOfASession(t *testing.T) {
	var got []string
	for m := range reflect.TypeFor[*live.Session]().Methods() {
		got = append(got, m.Name)
	}
	want := strings.Fields("ClearPresence Close CloseError Context Disconnect ExpireAt ID IsClosed IsSubscribed Listen Send SetPresence Stats Subscribe Subscriptions Unsubscribe UserID Value")
	if !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

func TestSessionLimitHoldsInACrowd(t *testing.T) {
	srv, url := serve(t, live.Options{MaxSessions: 5})
	var wg sync.WaitGroup
	for range 40 {
		wg.Go(func() { upgrade(t, url, nil) })
	}
	wg.Wait()
	if st := srv.Stats(); st.Sessions != 5 || st.Accepted != 5 || st.Refused != 35 {
		t.Fatalf("%+v", st)
	}
}

func TestTokenOfTheHandshake(t *testing.T) {
	t.Parallel()
	const token = "s3cret/ü+=~"
	coded := base64.RawURLEncoding.EncodeToString([]byte(token))
	for _, test := range []struct {
		name   string
		header http.Header
		offers []string
		want   string
	}{
		{"none", nil, nil, ""},
		{"header", http.Header{"Authorization": {"Bearer abc"}}, nil, "abc"},
		{"header, lower case", http.Header{"Authorization": {"bearer abc"}}, nil, "abc"},
		{"other scheme", http.Header{"Authorization": {"Basic abc"}}, nil, ""},
		{"subprotocol", nil, []string{"live.token." + coded}, token},
		{"both", http.Header{"Authorization": {"Bearer abc"}}, []string{"live.token." + coded}, "abc"},
		{"not base64", nil, []string{"live.token.!"}, ""},
		{"empty", nil, []string{"live.token."}, ""},
		{"the page's", nil, []string{"live.token.c2VjcmV0"}, "secret"},
	} {
		t.Run(test.name, func(t *testing.T) {
			opts := livetest.Permissive()
			opts.OnAuth = func(_ context.Context, r *http.Request) (any, error) {
				if got := live.Token(r); got != test.want {
					t.Errorf("Token is %q, want %q", got, test.want)
				}
				return live.Token(r), nil
			}
			opts.OnRequest = func(_ context.Context, s *live.Session, _ string, _ []byte) (any, error) { return s.Value(), nil }
			at := livetest.Serve(t, livetest.NewServer(t, opts).Handler())
			c, err := livetest.Try(t, at, livetest.Dialing{V1: true, Header: test.header, Offers: test.offers})
			if err != nil {
				t.Fatal(err)
			}
			if got := c.Response.Header.Values("Sec-WebSocket-Protocol"); !slices.Equal(got, []string{livetest.Subprotocol}) {
				t.Errorf("the server answered with subprotocols %v", got)
			}
			v := c.Attend().Greeted()
			var got string
			json.Unmarshal(v.Do(`{"op":"request","id":1,"topic":"who"}`).Data, &got)
			livetest.Check(t, "the value", got, test.want)
		})
	}
}

// A token alone, without live.v1, signs in a plain client.
func TestTokenOfAPlainClient(t *testing.T) {
	t.Parallel()
	opts := livetest.Permissive()
	opts.OnMessage = livetest.Echo
	opts.OnAuth = func(_ context.Context, r *http.Request) (any, error) {
		if live.Token(r) != "secret" {
			return nil, errors.New("no")
		}
		return nil, nil
	}
	at := livetest.Serve(t, livetest.NewServer(t, opts).Handler())
	c := livetest.Connect(t, at, livetest.Dialing{Offers: []string{"live.token.c2VjcmV0"}}).Attend()
	if got := c.Response.Header.Get("Sec-WebSocket-Protocol"); got != "" {
		t.Errorf("the server agreed to %q", got)
	}
	livetest.Check(t, "the client", c.Ask(`{"topic":"t"}`), `{"topic":"t"}`)
	if got := livetest.Refusal(t, at, http.Header{"Sec-WebSocket-Protocol": {"live.v1, live.token.b3RoZXI"}}); got != http.StatusUnauthorized {
		t.Errorf("a wrong token was answered with %d, want 401", got)
	}
}

// A client may be gone before it has been greeted. That is its own end only.
func TestClientThatResetsDuringTheHandshake(t *testing.T) {
	const clients = 300
	var ended livetest.Ends
	opts := livetest.Permissive()
	opts.OnClose = ended.OnClose
	server := livetest.NewServer(t, opts)
	at := livetest.Serve(t, server.Handler())
	witness := livetest.DialV1(t, at)
	witness.Must(livetest.SubscribeTo(1, "t"))
	stop := make(chan struct{})
	var looking sync.WaitGroup
	for range 4 { // the lock that admitting takes is seldom free
		looking.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					server.Stats()
				}
			}
		})
	}
	request := livetest.Dialing{V1: true}.Request(at)
	livetest.Each(8, func(int) {
		for range clients / 8 {
			conn, err := net.Dial("tcp", at.Addr())
			if err != nil {
				t.Error(err)
				return
			}
			tcp := conn.(interface{ SetLinger(int) error })
			tcp.SetLinger(0)
			conn.Write([]byte(request))
			conn.Close()
		}
	})
	close(stop)
	looking.Wait()
	livetest.Eventually(t, "the sessions' end", func() bool { return server.Stats().Sessions == 1 })
	server.Publish("t", []byte(`"still here"`))
	witness.Hears("t", `"still here"`)
}

// torn is a listener whose connections take the handshake's answer and then fail.
type torn struct{ net.Listener }

type tornConn struct {
	net.Conn
	writes *atomic.Int32
}

func (l torn) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return tornConn{conn, new(atomic.Int32)}, nil
}

func (c tornConn) Write(p []byte) (int, error) {
	if c.writes.Add(1) > 1 {
		return 0, errors.New("torn")
	}
	return c.Conn.Write(p)
}

// The same, made to happen each time.
func TestConnectionThatFailsAtHello(t *testing.T) {
	const clients = 400
	var ended livetest.Ends
	opts := livetest.Permissive()
	opts.OnClose = ended.OnClose
	server := livetest.NewServer(t, opts)
	s := httptest.NewUnstartedServer(server.Handler())
	s.Listener = torn{s.Listener}
	s.Start()
	t.Cleanup(s.Close)
	at := livetest.EndpointOf(s)
	stop := make(chan struct{})
	var looking sync.WaitGroup
	for range 4 {
		looking.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					server.Stats()
				}
			}
		})
	}
	livetest.Each(8, func(int) {
		for range clients / 8 {
			c, err := livetest.Try(t, at, livetest.Dialing{V1: true})
			if err != nil {
				t.Error(err)
				return
			}
			c.Attend().Rest()
		}
	})
	close(stop)
	looking.Wait()
	livetest.Eventually(t, "every OnClose", func() bool { return ended.Count() == clients })
	if st := server.Stats(); st.Sessions != 0 || st.WriteFailed != clients {
		t.Errorf("%d sessions, %d failed at writing; want 0, %d", st.Sessions, st.WriteFailed, clients)
	}
}

// A client need not wait for the 101: what it sends behind its request is read
// when the session has begun, however much of it net/http has already buffered.
func TestFramesSentTogetherWithTheHandshake(t *testing.T) {
	t.Parallel()
	livetest.OverEach(t, func(t *testing.T, serve livetest.Serving) {
		for _, sizes := range [][]int{{30}, {30, 31, 32}, {100, 5000, 100}, {70_000}} {
			server := livetest.NewServer(t, live.Options{OnMessage: livetest.Echo})
			at := serve(t, server.Handler())
			conn := livetest.DialTransport(t, at)
			text := livetest.Dialing{}.Request(at)
			for _, n := range sizes {
				text += string(livetest.Masked(livetest.TextFrame, livetest.Fill(n)))
			}
			if _, err := io.WriteString(conn, text); err != nil {
				t.Fatal(err)
			}
			r := bufio.NewReader(conn)
			resp, err := http.ReadResponse(r, nil)
			if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
				t.Fatalf("answered %v, %v", resp, err)
			}
			for _, n := range sizes {
				frame := string(livetest.Unmasked(livetest.TextFrame, livetest.Fill(n)))
				got := make([]byte, len(frame))
				if _, err := io.ReadFull(r, got); err != nil || string(got) != frame {
					t.Fatalf("%v: the echo of %d bytes is %.60q, %v", sizes, n, got, err)
				}
			}
		}
	})
}

// OnAuth can be tried without a connection.
func TestOnAuthIsAskedBeforeTheConnectionIs(t *testing.T) {
	for name, tt := range map[string]struct {
		err    error
		status int
	}{
		"refused": {live.Refuse(402, "pay first"), 402},
		"allowed": {nil, 500}, // a recorder cannot be hijacked
	} {
		srv := live.New(live.Options{
			Logger: slog.New(slog.DiscardHandler),
			OnAuth: func(context.Context, *http.Request) (any, error) { return nil, tt.err },
		})
		r := httptest.NewRequest("GET", "/live", nil)
		for k, v := range map[string]string{
			"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
		} {
			r.Header.Set(k, v)
		}
		w := httptest.NewRecorder()
		srv.Handler().ServeHTTP(w, r)
		if w.Code != tt.status {
			t.Errorf("%s: %d %s", name, w.Code, w.Body)
		}
		shut(t, srv)
	}
}

func TestCompressionIsOffByDefault(t *testing.T) {
	_, url := serve(t, live.Options{})
	resp := upgrade(t, url, func(r *http.Request) { r.Header.Set("Sec-WebSocket-Extensions", "permessage-deflate") })
	if got := resp.Header.Get("Sec-WebSocket-Extensions"); resp.StatusCode != 101 || got != "" {
		t.Fatal(resp.Status, got)
	}
}
