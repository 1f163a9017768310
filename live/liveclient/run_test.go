package liveclient_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/liveclient"
)

// statuses collects what OnStatus is told.
type statuses struct {
	mu  sync.Mutex
	all []liveclient.Status
}

func (s *statuses) note(now liveclient.Status) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, now)
}

// of returns those with a state.
func (s *statuses) of(state liveclient.State) (some []liveclient.Status) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, status := range s.all {
		if status.State == state {
			some = append(some, status)
		}
	}
	return some
}

func (s *statuses) first(t testing.TB, state liveclient.State) liveclient.Status {
	t.Helper()
	livetest.Eventually(t, "the state "+state.String(), func() bool { return len(s.of(state)) > 0 })
	return s.of(state)[0]
}

// Whatever byte the connection is cut at, each message comes once and in order.
func TestNothingIsLostOrDoubledByCuts(t *testing.T) {
	t.Parallel()
	h := host(t, with(live.TopicOptions{History: 10_000}))
	relay := newRoad(t, h.Endpoint)
	relay.cutAfter(-1, 2000)
	c := connect(t, relay.Endpoint, liveclient.Options{MaxBackoff: time.Millisecond, MinBackoff: time.Millisecond})
	_, got := subscribe(t, c, "a")
	stop := make(chan struct{})
	var cutting sync.WaitGroup
	cutting.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
				relay.cutAfter(-1, 700+37*i%900) // about a handshake, and some frames or parts of them
			}
		}
	})
	const n = 2000
	for i := 1; i <= n; i++ {
		publish(t, h, "a", fmt.Sprint(i))
		if i%10 == 0 {
			time.Sleep(time.Millisecond)
		}
	}
	close(stop)
	cutting.Wait()
	relay.cutAfter(-1, -1)
	got.expect(t, numbers(1, n)...)
	if cuts := h.Stats().Accepted; cuts < 5 {
		t.Errorf("only %d connections", cuts)
	}
}

// Each byte of a handshake, of the first frames and of those that follow may be the last one of its connection.
func TestEachByteMayBeTheLast(t *testing.T) {
	t.Parallel()
	h := host(t, with(live.TopicOptions{History: 10}))
	relay := newRoad(t, h.Endpoint)
	publish(t, h, "a", "1")
	for n := 1; n < 500; n += 3 {
		relay.cutAfter(-1, n)
		c := connect(t, relay.Endpoint, liveclient.Options{MinBackoff: time.Millisecond, MaxBackoff: time.Millisecond})
		_, got := subscribe(t, c, "a", liveclient.Last(1))
		got.expect(t, "1")
		c.Close()
		relay.cutAfter(-1, -1)
	}
}

// Whatever byte the connection is cut at, each publication is stored once, in order.
func TestPublicationsAreStoredOnceThroughCuts(t *testing.T) {
	t.Parallel()
	h := host(t, with(live.TopicOptions{History: 10_000}))
	relay := newRoad(t, h.Endpoint)
	c := connect(t, relay.Endpoint, liveclient.Options{MaxBackoff: time.Millisecond, MinBackoff: time.Millisecond})
	stop := make(chan struct{})
	var cutting sync.WaitGroup
	cutting.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
				if i%2 == 0 {
					relay.cutAfter(300+31*i%400, -1)
				} else {
					relay.cutAfter(-1, 300+31*i%400)
				}
			}
		}
	})
	n := 0
	ats := make(map[string]int)
	for ; n < 300 || h.Stats().Accepted < 5; n++ {
		if n >= 300 { // so fast that there were few cuts
			time.Sleep(time.Millisecond)
		}
		at, err := c.Publish(deadline(t), "a", n+1)
		if err != nil || at == "" || ats[at] != 0 {
			t.Fatalf("publication %d: at %q, where %d is; %v", n+1, at, ats[at], err)
		}
		ats[at] = n + 1
	}
	close(stop)
	cutting.Wait()
	stored, err := h.History(background, "a", 1000)
	if err != nil || len(stored) != n {
		t.Fatalf("%d publications are stored, want %d; %v", len(stored), n, err)
	}
	for i, m := range stored {
		if string(m.Data) != fmt.Sprint(i+1) {
			t.Fatalf("publication %d is %s", i+1, m.Data)
		}
	}
}

func TestRestartBringsTheClientBackWithinTheWindow(t *testing.T) {
	t.Parallel()
	first := livetest.Hosting{}.Start(t, livetest.Permissive())
	second := livetest.Hosting{}.Start(t, livetest.Permissive())
	relay := newRoad(t, first.Endpoint)
	var seen statuses
	c := connect(t, relay.Endpoint, liveclient.Options{OnStatus: seen.note, MinBackoff: time.Hour, MaxBackoff: time.Hour})
	_, got := subscribe(t, c, "plain")
	relay.leadTo(second.Endpoint)
	if err := first.Shutdown(deadline(t)); err != nil {
		t.Fatal(err)
	}
	waiting := seen.first(t, liveclient.Waiting)
	var closed *liveclient.CloseError
	if !errors.As(waiting.Err, &closed) || closed.Code != live.CloseRestart {
		t.Errorf("the connection has ended with %v", waiting.Err)
	}
	if waiting.RetryIn > time.Second {
		t.Errorf("the client waits %v, and was told one second at most", waiting.RetryIn)
	}
	livetest.Eventually(t, "the client at the other server", func() bool { return second.Stats().Subscriptions == 1 })
	publish(t, second, "plain", "1")
	got.expect(t, "gap no_history", "1")
}

func TestFinalCodesEndTheClient(t *testing.T) {
	t.Parallel()
	for _, end := range []struct {
		code   int
		reason string
	}{{live.CloseRevoked, "signed out"}, {live.CloseReplaced, ""}, {live.CloseNormal, "bye"}, {4099, ""}} {
		opts, sessions := livetest.Connected(livetest.Permissive())
		h := host(t, opts)
		c := connect(t, h.Endpoint, liveclient.Options{})
		s, _ := subscribe(t, c, "a")
		livetest.Receive(t, sessions).Disconnect(end.code, end.reason)
		livetest.Receive(t, c.Done())
		var closed *liveclient.CloseError
		if !errors.As(c.Err(), &closed) || closed.Code != end.code || closed.Reason != end.reason {
			t.Errorf("%d: ended with %v", end.code, c.Err())
		}
		for name, err := range map[string]error{
			"Subscription.Err": s.Err(),
			"Wait":             s.Wait(deadline(t)), // it was accepted once
			"Publish":          second(c.Publish(background, "a", 1)),
			"Subscribe":        second(c.Subscribe("b", nil)),
		} {
			if ok := errors.Is(err, liveclient.ErrClosed) && errors.As(err, &closed); ok == (name == "Wait") {
				t.Errorf("%d: %s: %v", end.code, name, err)
			}
		}
		if c.Status().State != liveclient.Closed {
			t.Errorf("%d: the client is %v", end.code, c.Status().State)
		}
		c.Close()
	}
}

// After an expired sign-in the client asks for a token again, and comes back within a second.
func TestExpiredSignInFetchesANewToken(t *testing.T) {
	t.Parallel()
	for _, inSubprotocol := range []bool{false, true} {
		var issued atomic.Int32
		opts, sessions := livetest.Connected(livetest.Permissive())
		opts.OnAuth = func(_ context.Context, r *http.Request) (any, error) {
			token := live.Token(r)
			if token != fmt.Sprint("token ", issued.Load()) {
				return nil, errors.New("wrong token")
			}
			if inSubprotocol == (r.Header.Get("Authorization") != "") {
				t.Errorf("in subprotocol %v: Authorization is %q", inSubprotocol, r.Header.Get("Authorization"))
			}
			return token, nil
		}
		h := host(t, opts)
		var seen statuses
		c := connect(t, h.Endpoint, liveclient.Options{
			Token:              func(context.Context) (string, error) { return fmt.Sprint("token ", issued.Add(1)), nil },
			TokenInSubprotocol: inSubprotocol,
			OnStatus:           seen.note,
			MinBackoff:         time.Hour, MaxBackoff: time.Hour,
		})
		livetest.Receive(t, sessions).Disconnect(live.CloseSignInExpired, "expired")
		if s := livetest.Receive(t, sessions); s.Value() != "token 2" {
			t.Errorf("came back with %v", s.Value())
		}
		if wait := seen.first(t, liveclient.Waiting).RetryIn; wait > time.Second {
			t.Errorf("waited %v", wait)
		}
		c.Close()
	}
}

// Token may call any method of the client, and need not heed its context.
func TestTokenMayCloseTheClient(t *testing.T) {
	t.Parallel()
	h := host(t, livetest.Permissive())
	relay := newRoad(t, h.Endpoint)
	clients := make(chan *liveclient.Client, 1)
	var asked atomic.Int32
	closed := make(chan struct{})
	c := connect(t, relay.Endpoint, liveclient.Options{Token: func(context.Context) (string, error) {
		if asked.Add(1) == 2 {
			(<-clients).Close()
			close(closed)
		}
		return "", nil
	}})
	clients <- c
	relay.cut()
	livetest.Receive(t, closed)
}

// A Token that fails is asked again.
func TestTokenThatFailsIsAskedAgain(t *testing.T) {
	t.Parallel()
	h := host(t, livetest.Permissive())
	var asked atomic.Int32
	var seen statuses
	wrong := errors.New("no token now")
	connect(t, h.Endpoint, liveclient.Options{OnStatus: seen.note, Token: func(context.Context) (string, error) {
		if asked.Add(1) < 3 {
			return "", wrong
		}
		return "token", nil
	}})
	if err := seen.first(t, liveclient.Waiting).Err; !errors.Is(err, wrong) || asked.Load() != 3 {
		t.Errorf("%v; asked %d times", err, asked.Load())
	}
}

// A Token that does not end with its context is not called again while it runs. A result that came between two attempts is not used.
func TestTokenThatComesTooLate(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		b := newBubble(t, livetest.Permissive())
		for _, test := range []struct {
			late  time.Duration // after the end of the first attempt
			calls int32
		}{
			{101 * time.Second, 1},
			{time.Microsecond, 2}, // then the first result is an error of a context that has ended
		} {
			var calls atomic.Int32
			begun := time.Now()
			ctx, cancel := context.WithTimeout(background, time.Hour)
			c, err := liveclient.Connect(ctx, b.URL+"/live", liveclient.Options{
				Token: func(ctx context.Context) (string, error) {
					if calls.Add(1) > 1 {
						return "token", nil
					}
					<-ctx.Done()
					time.Sleep(test.late)
					if test.calls > 1 {
						return "", ctx.Err()
					}
					return "token", nil
				},
				ConnectTimeout: 10 * time.Second, MinBackoff: time.Second, MaxBackoff: time.Second, Dial: b.dial, Logger: quiet,
			})
			cancel()
			if err != nil {
				t.Error(err)
				continue
			}
			c.Close()
			if n, took := calls.Load(), time.Since(begun); n != test.calls || took > test.late+15*time.Second {
				t.Errorf("%v too late: connected after %d calls and %v", test.late, n, took)
			}
		}
	})
}

// A refusal that lasts fails Connect at once, with the status.
func TestConnectFailsAtOnceWhereWaitingDoesNotHelp(t *testing.T) {
	t.Parallel()
	secure := livetest.Hosting{Secure: true}.Start(t, livetest.Permissive())
	plainOnly := livetest.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		livetest.NewServer(t, live.Options{}).Handler().ServeHTTP(w, stripped(r))
	}))
	status := func(code int) livetest.Endpoint {
		return livetest.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", "/elsewhere?token=secret")
			http.Error(w, "because", code)
		}))
	}
	https := func(url string) string { return "wss" + strings.TrimPrefix(url, "ws") }
	for name, tt := range map[string]struct {
		address string
		tls     *tls.Config
		text    string
	}{
		"401":            {status(401).URL, nil, "refused the connection with 401"},
		"403":            {status(403).URL, nil, "refused the connection with 403"},
		"404":            {status(404).URL, nil, "refused the connection with 404"},
		"302":            {status(302).URL, nil, "refused the connection with 302"},
		"200":            {status(200).URL, nil, "refused the connection with 200"},
		"no TLS":         {https(status(200).URL), nil, "has no TLS; use ws instead of wss"},
		"not trusted":    {secure.URL, &tls.Config{}, "certificate"},
		"TLS without s":  {"ws" + strings.TrimPrefix(secure.URL, "wss"), nil, "HTTP request to an HTTPS server"},
		"plain only":     {plainOnly.URL, nil, "does not speak live.v1"},
		"bad scheme":     {"ftp://example.com", nil, `scheme "ftp"`},
		"no host":        {"ws:///live", nil, "no host"},
		"no URL":         {"ws://a b:secret@%zz", nil, "not a URL"},
		"relative":       {"/live", nil, "scheme"},
		"no URL at all ": {"", nil, "scheme"},
	} {
		c, err := liveclient.Connect(background, tt.address, liveclient.Options{TLS: tt.tls, Logger: livetest.Quiet})
		if err == nil {
			c.Close()
			t.Errorf("%s: connected", name)
		} else if !strings.Contains(err.Error(), tt.text) || strings.Contains(err.Error(), "secret@") {
			t.Errorf("%s: %v", name, err)
		}
		var refused *liveclient.RefusedError
		if len(name) == 3 && (!errors.As(err, &refused) || fmt.Sprint(refused.Status) != name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A header that net/http refuses is refused in every attempt. The error names it, and not its value.
func TestConnectFailsAtOnceWithAnInvalidHeader(t *testing.T) {
	t.Parallel()
	server := livetest.Serve(t, livetest.NewServer(t, livetest.Permissive()).Handler())
	for name, tt := range map[string]struct {
		opts liveclient.Options
		text string
	}{
		"token with a line break":  {liveclient.Options{Token: liveclient.StaticToken("secret\n")}, "value of Authorization has a line break"},
		"cookie with a line break": {liveclient.Options{Header: http.Header{"Cookie": {"session=secret\r\nX: y"}}}, "value of Cookie has a line break"},
		"name with a blank":        {liveclient.Options{Header: http.Header{"X Key": {"secret"}}}, `"X Key" is not a name`},
		"no name":                  {liveclient.Options{Header: http.Header{"": {"secret"}}}, `"" is not a name`},
	} {
		tt.opts.Logger = livetest.Quiet
		ctx, cancel := context.WithTimeout(background, 10*time.Second)
		c, err := liveclient.Connect(ctx, server.URL, tt.opts)
		cancel()
		if err == nil {
			c.Close()
			t.Errorf("%s: connected", name)
		} else if !strings.Contains(err.Error(), tt.text) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", name, err)
		}
	}
	c, err := liveclient.Connect(background, server.URL, liveclient.Options{
		Token:  liveclient.StaticToken("a.b_c-d~"),
		Header: http.Header{"X-Key_1": {"with a blank, a\ttab, and ümlaut"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}

// stripped returns a handshake without its subprotocols.
func stripped(r *http.Request) *http.Request {
	r = r.Clone(r.Context())
	r.Header.Del("Sec-WebSocket-Protocol")
	return r
}

// Connect waits for a server that is not there yet.
func TestConnectWaitsForTheServer(t *testing.T) {
	t.Parallel()
	h := host(t, livetest.Permissive())
	var tries atomic.Int32
	busy := livetest.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if tries.Add(1) < 4 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		h.Handler().ServeHTTP(w, r)
	}))
	var seen statuses
	c := connect(t, busy, liveclient.Options{OnStatus: seen.note})
	if tries.Load() != 4 || c.Status().State != liveclient.Open {
		t.Errorf("%d tries, %v", tries.Load(), c.Status())
	}
	for i, waiting := range seen.of(liveclient.Waiting) {
		var refused *liveclient.RefusedError
		if !errors.As(waiting.Err, &refused) || refused.Status != 503 || waiting.Attempt != i+1 {
			t.Errorf("wait %d: %+v", i, waiting)
		}
	}
}

func TestConnectEndsWithItsContext(t *testing.T) {
	noneLeft(t)
	for name, answer := range map[string]http.HandlerFunc{
		"unavailable": func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(503) },
		"no answer":   func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
	} {
		at := livetest.Serve(t, answer)
		ctx, cancel := context.WithTimeout(background, 50*time.Millisecond)
		_, err := liveclient.Connect(ctx, at.URL, quick(t, at, liveclient.Options{}))
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) || name == "unavailable" && !strings.Contains(err.Error(), "503") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// However a program subscribes and unsubscribes, and wherever connections are cut, the server has in the end the subscriptions that the
// client has. There is so little space that most changes have to wait for it.
func TestSubscriptionsAgreeAfterCuts(t *testing.T) {
	t.Parallel()
	opts := with(live.TopicOptions{History: 10})
	opts.InboundRate = 100_000
	h := host(t, opts)
	relay := newRoad(t, h.Endpoint)
	c := connect(t, relay.Endpoint, liveclient.Options{MaxUnsent: 100, OnError: func(error) {}})
	const topics = 8
	var changing, cutting sync.WaitGroup
	for i := range topics {
		changing.Go(func() { // ends after its rounds
			for round := range 200 {
				s, err := c.Subscribe(fmt.Sprint("topic ", i), nil)
				if err != nil {
					t.Error(err)
					return
				}
				if round%20 == i {
					s.Wait(deadline(t))
				}
				if round < 199 || i%2 == 0 {
					s.Unsubscribe()
				}
			}
		})
	}
	ended := make(chan struct{})
	cutting.Go(func() { // ends with the changes
		for {
			select {
			case <-ended:
				return
			case <-time.After(5 * time.Millisecond):
				relay.cut()
			}
		}
	})
	changing.Wait()
	close(ended)
	cutting.Wait()
	livetest.Eventually(t, "the same subscriptions", func() bool {
		for i := range topics {
			if h.Subscribers(fmt.Sprint("topic ", i)) != i%2 {
				return false
			}
		}
		return h.Stats().Sessions == 1
	})
}

// A server that names a time after which clients should come back is not asked earlier.
func TestRetryAfterIsObeyed(t *testing.T) {
	t.Parallel()
	at := livetest.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Retry-After", "3600")
		w.WriteHeader(503)
	}))
	var seen statuses
	ctx, cancel := context.WithCancel(background)
	go liveclient.Connect(ctx, at.URL, quick(t, at, liveclient.Options{OnStatus: seen.note})) // ends with ctx
	defer cancel()
	if wait := seen.first(t, liveclient.Waiting).RetryIn; wait < time.Minute || wait > 2*time.Minute {
		t.Errorf("waits %v, want a minute, and some more", wait)
	}
}

// A server may serve several sites, which it tells apart by the Host header.
func TestHostHeaderIsSent(t *testing.T) {
	t.Parallel()
	got := make(chan string, 10)
	opts := livetest.Permissive()
	opts.OnAuth = func(_ context.Context, r *http.Request) (any, error) {
		got <- r.Host
		return nil, nil
	}
	connect(t, host(t, opts).Endpoint, liveclient.Options{Header: http.Header{"Host": {"live.example.com"}}})
	if host := livetest.Receive(t, got); host != "live.example.com" {
		t.Errorf("the host is %q", host)
	}
}

func TestSignInByHeaderCookieAndJar(t *testing.T) {
	t.Parallel()
	got := make(chan *http.Request, 10)
	opts := livetest.Permissive()
	opts.OnAuth = func(_ context.Context, r *http.Request) (any, error) {
		got <- r
		return nil, nil
	}
	h := livetest.Hosting{Secure: true}.Start(t, opts)
	jar, _ := cookiejar.New(nil)
	at, _ := url.Parse(h.HTTP())
	jar.SetCookies(at, []*http.Cookie{{Name: "session", Value: "from the jar"}})
	address := strings.Replace(h.URL, "wss://", "wss://ana:pass@", 1) + "/live?room=1"
	c, err := liveclient.Connect(deadline(t), address, quick(t, h.Endpoint, liveclient.Options{
		Header: http.Header{"X-Bot": {"yes"}, "Cookie": {"theme=dark"}}, Jar: jar, Compression: true,
	}))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	r := livetest.Receive(t, got)
	user, password, _ := r.BasicAuth()
	session, _ := r.Cookie("session")
	theme, _ := r.Cookie("theme")
	if r.Header.Get("X-Bot") != "yes" || user != "ana" || password != "pass" || r.URL.Query().Get("room") != "1" {
		t.Errorf("%s %v", r.URL, r.Header)
	}
	if session == nil || session.Value != "from the jar" || theme == nil {
		t.Errorf("cookies %v", r.Cookies())
	}
}

// Compressed messages come whole in both directions.
func TestCompression(t *testing.T) {
	t.Parallel()
	opts := livetest.Permissive()
	opts.Compression = true
	h := host(t, opts)
	c := connect(t, h.Endpoint, liveclient.Options{Compression: true})
	_, got := subscribe(t, c, "chat")
	want := `"` + strings.Repeat("compress me ", 1000) + `"`
	if _, err := c.Publish(background, "chat", []byte(want)); err != nil {
		t.Fatal(err)
	}
	got.expect(t, want)
}

// What was not written when the connection broke waits for the next one; a request that was written does not.
func TestWhatACallDoesWhenTheConnectionBreaks(t *testing.T) {
	t.Parallel()
	entered, release := make(chan struct{}, 10), make(chan struct{})
	opts := livetest.Permissive()
	opts.OnRequest = func(ctx context.Context, _ *live.Session, _ string, _ []byte) (any, error) {
		entered <- struct{}{}
		select {
		case <-release:
		case <-ctx.Done():
		}
		return 1, nil
	}
	h := host(t, opts)
	relay := newRoad(t, h.Endpoint)
	c := connect(t, relay.Endpoint, liveclient.Options{MaxWaiting: 2})
	broken := make(chan error, 1)
	go func() { // ends with the connection
		_, err := c.Request(deadline(t), "a", 1)
		broken <- err
	}()
	livetest.Receive(t, entered)
	relay.block()
	if err := livetest.Receive(t, broken); !errors.Is(err, liveclient.ErrDisconnected) || !liveclient.Sent(err) {
		t.Errorf("a request that was sent: %v", err)
	}
	close(release)
	_, err := c.Publish(background, "a", 1, liveclient.OnlyConnected())
	if !errors.Is(err, liveclient.ErrOffline) || liveclient.Sent(err) {
		t.Errorf("OnlyConnected: %v", err)
	}
	answers := make(chan error, 2)
	for range 2 {
		go func() { // ends with the answer
			_, err := c.Request(deadline(t), "a", 1)
			answers <- err
		}()
	}
	livetest.Eventually(t, "two that wait", func() bool { return liveclient.CountWaiting(c) == 2 })
	_, err = c.Publish(background, "a", 1)
	if !errors.Is(err, liveclient.ErrTooManyWaiting) || liveclient.Sent(err) {
		t.Errorf("one more: %v", err)
	}
	relay.unblock()
	for range 2 {
		if err := livetest.Receive(t, answers); err != nil {
			t.Errorf("a request that has waited: %v", err)
		}
	}
}

// A publication may be why the server closes the connection with 1008, so it is not sent again.
func TestPublicationIsNotSentAgainAfterItsConnectionWasRefused(t *testing.T) {
	t.Parallel()
	var asked atomic.Int32
	opts := livetest.Permissive()
	opts.OnPublish = func(_ context.Context, s *live.Session, _ string, data []byte) ([]byte, error) {
		asked.Add(1)
		s.Disconnect(live.CloseRefused, "what is that")
		<-s.Context().Done()
		return data, nil
	}
	h := host(t, opts)
	c := connect(t, h.Endpoint, liveclient.Options{})
	_, err := c.Publish(deadline(t), "chat", 1)
	if !errors.Is(err, liveclient.ErrDisconnected) || !liveclient.Sent(err) {
		t.Errorf("Publish: %v", err)
	}
	livetest.Eventually(t, "the next connection", func() bool { return h.Stats().Accepted == 2 })
	if _, err := c.Request(deadline(t), "any", 1); err != nil {
		t.Error(err)
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("OnPublish was called %d times", n)
	}
}

func TestReconnectEndsTheWait(t *testing.T) {
	t.Parallel()
	h := host(t, livetest.Permissive())
	relay := newRoad(t, h.Endpoint)
	c := connect(t, relay.Endpoint, liveclient.Options{MinBackoff: time.Hour, MaxBackoff: time.Hour})
	c.Reconnect() // does nothing while it is open
	_, got := subscribe(t, c, "chat")
	relay.cut()
	livetest.Eventually(t, "the wait", func() bool { return c.Status().State == liveclient.Waiting })
	publish(t, h, "chat", "1")
	c.Reconnect()
	got.expect(t, "1")
}

// The waiting times double, and are random from zero on.
func TestBackoffGrows(t *testing.T) {
	t.Parallel()
	at := livetest.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(500) }))
	ctx, cancel := context.WithCancel(background)
	defer cancel()
	var seen statuses
	o := quick(t, at, liveclient.Options{OnStatus: seen.note, MinBackoff: time.Millisecond, MaxBackoff: 6 * time.Millisecond})
	liveclient.SetRandom(&o, func() float64 { return 0.5 })
	go liveclient.Connect(ctx, at.URL, o) // ends with ctx
	livetest.Eventually(t, "five attempts", func() bool { return len(seen.of(liveclient.Waiting)) >= 5 })
	var waits []time.Duration
	for _, status := range seen.of(liveclient.Waiting)[:5] {
		waits = append(waits, status.RetryIn)
	}
	if want := []time.Duration{500_000, 1_000_000, 2_000_000, 3_000_000, 3_000_000}; !slices.Equal(waits, want) {
		t.Errorf("waited %v, want %v", waits, want)
	}
}
