package liveclient_test

import (
	"context"
	"crypto/sha1"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live/liveclient"
)

// peer is one connection of a server that the test plays.
type peer struct {
	t   testing.TB
	ws  *websocket.Conn
	ctx context.Context
	n   int // of the connection, from 1
}

const hello = `{"op":"hello","version":1,"session":"s1","ping":25000,"largest":100000}`

// play serves connections by a function, which is called after the handshake of each.
func play(t testing.TB, serve func(p *peer)) livetest.Endpoint {
	var n atomic.Int32
	return livetest.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"live.v1"}})
		if err != nil {
			return
		}
		defer ws.CloseNow()
		ws.SetReadLimit(1 << 20)
		serve(&peer{t, ws, r.Context(), int(n.Add(1))})
	}))
}

func (p *peer) say(texts ...string) {
	for _, text := range texts {
		p.ws.Write(p.ctx, websocket.MessageText, []byte(text))
	}
}

// op is an operation of the client.
type op struct {
	Op    string `json:"op"`
	ID    int    `json:"id"`
	Topic string `json:"topic"`
	Since string `json:"since"`
	UID   string `json:"uid"`
}

// hear returns the next operations of the client, or nil when the connection has ended.
func (p *peer) hear() []op {
	_, text, err := p.ws.Read(p.ctx)
	if err != nil {
		return nil
	}
	var all []op
	if json.Unmarshal(text, &all) != nil {
		all = make([]op, 1)
		if err := json.Unmarshal(text, &all[0]); err != nil {
			p.t.Errorf("the client sent %.200s", text)
		}
	}
	return all
}

// obey answers every operation, until the connection ends.
func (p *peer) obey() {
	for ops := p.hear(); ops != nil; ops = p.hear() {
		for _, op := range ops {
			switch op.Op {
			case "ping":
				p.say(`{"op":"pong"}`)
			case "pong":
			default:
				p.say(fmt.Sprintf(`{"op":"reply","id":%d}`, op.ID))
			}
		}
	}
}

// Frames that are not of live.v1 are reported, and change nothing.
func TestBadFramesAreReportedAndIgnored(t *testing.T) {
	t.Parallel()
	bad := []string{
		`{`, `[]`, `"text"`, `null`, `5`, "{\"topic\":\"a\xff\"}", `{"topic":5,"data":1}`, `{"data":1}`, `{"op":5}`, `{"topic":null}`,
		`{"topic":"a","data":1,"at":{}}`, `{"topic":"a","data":1,"recovered":"yes"}`, `{"op":"hello","ping":"x"}`,
		`{"op":"presence","topic":"a","members":{}}`, `{"op":"presence","topic":"a","members":[{"sessions":[]}]}`,
		`{"op":"presence","topic":"a","left":[1]}`, `{"op":"presence","topic":"a","count":-1}`, `{"op":"drain","within":"soon"}`,
		`{"op":"reply","id":-1}`, `{"op":"reply","id":1.5}`, `{"op":"reply","id":99999999999999999999}`, `{"op":"error","code":7}`,
		`{"op":"reply","id":999,"messages":[1]}`, `{"op":"reply","id":999,"messages":{"a":1}}`,
	}
	at := play(t, func(p *peer) {
		p.say(hello)
		p.say(bad...)
		p.say(`{"op":"reply","id":12345}`, `{"op":"part","id":12345,"text":"x"}`, `{"op":"dance","topic":5e9}`, `{"op":"pong"}`,
			`{"op":"gap","topic":"never heard of"}`, `{"op":"presence","topic":"never heard of","members":[]}`, `{"topic":"never heard of"}`,
			`{"op":"ping"}`)
		p.obey()
	})
	var reported atomic.Int32
	c := connect(t, at, liveclient.Options{OnError: func(err error) {
		if !errors.Is(err, liveclient.ErrBadFrame) {
			t.Errorf("OnError: %v", err)
		}
		reported.Add(1)
	}})
	if _, err := c.Request(deadline(t), "a", 1); err != nil {
		t.Error(err)
	}
	livetest.Eventually(t, "all errors", func() bool { return int(reported.Load()) == len(bad)+1 }) // one more: the topic of "dance"
	if st := c.Status(); st.State != liveclient.Open || st.Session != "s1" {
		t.Errorf("%+v", st)
	}
}

// An answer that is broken fails its operation, and only that.
func TestBadAnswersFailTheirOperation(t *testing.T) {
	t.Parallel()
	for _, answer := range []string{
		`{"op":"reply","id":%d,"text":"{"}`,
		`{"op":"reply","id":%d,"at":5}`,
		`{"op":"reply","id":%d,"messages":["x"]}`,
		`{"op":"error","id":%d,"code":5}`,
	} {
		at := play(t, func(p *peer) {
			p.say(hello)
			if ops := p.hear(); ops != nil {
				p.say(fmt.Sprintf(answer, ops[0].ID))
			}
			p.obey()
		})
		c := connect(t, at, liveclient.Options{OnError: func(error) {}})
		if _, err := c.Request(deadline(t), "a", 1); !errors.Is(err, liveclient.ErrBadFrame) || !liveclient.Sent(err) {
			t.Errorf("%s: %v", answer, err)
		}
		if _, err := c.Request(deadline(t), "a", 1); err != nil {
			t.Errorf("%s: the next: %v", answer, err)
		}
		c.Close()
	}
}

// A broken answer to a subscribe ends the subscription.
func TestBadAnswerToASubscribe(t *testing.T) {
	t.Parallel()
	for _, answer := range []string{`{"op":"reply","id":%d,"at":5}`, `{"op":"reply","id":%d,"text":"{"}`, `{"op":"error","id":%d,"code":5}`} {
		at := play(t, func(p *peer) {
			p.say(hello)
			if ops := p.hear(); ops != nil {
				p.say(fmt.Sprintf(answer, ops[0].ID))
			}
			p.obey()
		})
		c := connect(t, at, liveclient.Options{OnError: func(error) {}})
		s, err := c.Subscribe("a", nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Wait(deadline(t)); !errors.Is(err, liveclient.ErrBadFrame) {
			t.Errorf("%s: %v", answer, err)
		}
		c.Close()
	}
}

// A connection that ends in the middle of a frame has ended. It has not brought a bad frame, wherever the end is, with TLS or without.
func TestConnectionThatEndsInAFrame(t *testing.T) {
	t.Parallel()
	frame := "\x81\x7e\x07\x6c" + `{"topic":"a","data":"` + strings.Repeat("x", 1877) + `"}` // 1,900 bytes
	for _, length := range []int{1, 4, 4 + 512, 1000} {
		for _, secure := range []bool{false, true} {
			serve := func(w http.ResponseWriter, r *http.Request) {
				conn, _, err := http.NewResponseController(w).Hijack()
				if err != nil {
					t.Error(err)
					return
				}
				defer conn.Close()
				fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
					"Sec-WebSocket-Accept: %s\r\nSec-WebSocket-Protocol: live.v1\r\n\r\n\x81%c%s%s", acceptKey(r), len(hello), hello, frame[:length])
				if conn, ok := conn.(*tls.Conn); ok {
					conn.CloseWrite()         // the end of the TCP connection comes later, or never
					io.Copy(io.Discard, conn) // ends when the client closes its side
				}
			}
			server := httptest.NewUnstartedServer(http.HandlerFunc(serve))
			o := liveclient.Options{MinBackoff: time.Hour, MaxBackoff: time.Hour}
			if secure {
				server.StartTLS()
				o.TLS = server.Client().Transport.(*http.Transport).TLSClientConfig
			} else {
				server.Start()
			}
			t.Cleanup(server.Close)
			var seen statuses
			o.OnStatus = seen.note
			c := connect(t, livetest.Endpoint{URL: server.URL}, o) // an error fails the test
			seen.first(t, liveclient.Waiting)
			c.Close()
		}
	}
}

// acceptKey returns the answer to the key of a handshake (RFC 6455, section 4.2.2).
func acceptKey(r *http.Request) string {
	sum := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// A server may end the client while everything waits for answers.
func TestFinalCodeWhileAnswersAreDue(t *testing.T) {
	t.Parallel()
	at := play(t, func(p *peer) {
		p.say(hello)
		p.hear()
		p.hear()
		p.ws.Close(4001, "signed out")
	})
	c := connect(t, at, liveclient.Options{})
	s, err := c.Subscribe("a", nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Publish(deadline(t), "a", 1); !errors.Is(err, liveclient.ErrClosed) || !liveclient.Sent(err) {
		t.Errorf("Publish: %v", err)
	}
	var closed *liveclient.CloseError
	if err := s.Wait(deadline(t)); !errors.As(err, &closed) || closed.Code != 4001 {
		t.Errorf("Wait: %v", err)
	}
	livetest.Receive(t, c.Done())
}

// Operations that wait for space on a connection that is lost wait for the next one.
func TestOperationsThatWaitForSpaceMoveOn(t *testing.T) {
	t.Parallel()
	lose := make(chan struct{})
	at := play(t, func(p *peer) {
		p.say(hello)
		if p.n == 1 {
			<-lose // and reads nothing
			return
		}
		p.obey()
	})
	dial := func(_ context.Context, _, addr string) (net.Conn, error) {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			conn.(*net.TCPConn).SetWriteBuffer(livetest.SmallBuffer)
		}
		return conn, err
	}
	c := connect(t, at, liveclient.Options{MaxUnsent: 1000, Dial: dial})
	const n = 20 // more than the sockets take
	done := make(chan error, n)
	for range n {
		go func() { // ends with the answer
			_, err := c.Publish(deadline(t), "a", strings.Repeat("x", 90_000))
			done <- err
		}()
	}
	livetest.Eventually(t, "bytes that wait", func() bool { return liveclient.Unsent(c) > 0 })
	close(lose)
	for range n {
		if err := livetest.Receive(t, done); err != nil {
			t.Error(err)
		}
	}
}

// A frame, or an answer in parts, that is larger than ReadLimit allows is not taken.
func TestOversizedFramesAndAnswers(t *testing.T) {
	t.Parallel()
	at := play(t, func(p *peer) {
		p.say(hello)
		if p.n == 1 {
			p.say(`{"topic":"a","data":"` + strings.Repeat("x", 20_000) + `"}`)
			p.hear()
			return
		}
		if ops := p.hear(); ops != nil {
			for range 100 {
				p.say(fmt.Sprintf(`{"op":"part","id":%d,"text":"%s"}`, ops[0].ID, strings.Repeat("1", 5_000)))
			}
			p.say(fmt.Sprintf(`{"op":"reply","id":%d,"text":"1"}`, ops[0].ID))
		}
		p.obey()
	})
	var seen statuses
	c := connect(t, at, liveclient.Options{ReadLimit: 10_000, OnStatus: seen.note, OnError: func(error) {}})
	if err := seen.first(t, liveclient.Waiting).Err; !errors.Is(err, liveclient.ErrTooBig) {
		t.Errorf("the connection was lost with %v", err)
	}
	livetest.Eventually(t, "the next connection", func() bool { return len(seen.of(liveclient.Open)) == 2 })
	if _, err := c.Request(deadline(t), "a", 1); !errors.Is(err, liveclient.ErrTooBig) {
		t.Errorf("the answer: %v", err)
	}
	if _, err := c.Request(deadline(t), "a", 1); err != nil {
		t.Errorf("the next: %v", err)
	}
}

// A server that never says hello, or something else first, is given up.
func TestServersThatDoNotSayHello(t *testing.T) {
	t.Parallel()
	for name, serve := range map[string]func(p *peer){
		"nothing":   func(p *peer) { p.hear() },
		"a message": func(p *peer) { p.say(`{"topic":"a","data":1}`); p.hear() },
		"a ping":    func(p *peer) { p.say(`{"op":"ping"}`); p.hear() },
		"garbage":   func(p *peer) { p.say(`{`); p.hear() },
		"an end":    func(p *peer) {},
	} {
		at := play(t, serve)
		ctx, cancel := context.WithTimeout(background, livetest.Patience)
		var seen statuses
		ended := make(chan error, 1)
		go func() { // ends with ctx
			_, err := liveclient.Connect(ctx, at.URL, quick(t, at, liveclient.Options{OnStatus: seen.note, ConnectTimeout: 50 * time.Millisecond}))
			ended <- err
		}()
		livetest.Eventually(t, name, func() bool { return len(seen.of(liveclient.Waiting)) > 1 })
		cancel()
		if err := livetest.Receive(t, ended); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A server that answers nothing makes calls end with their contexts, and Close end in time.
func TestServerThatNeverAnswers(t *testing.T) {
	t.Parallel()
	at := play(t, func(p *peer) {
		p.say(hello)
		<-p.ctx.Done() // it does not even read
	})
	ctx, cancel := context.WithTimeout(background, livetest.Patience)
	defer cancel()
	c, err := liveclient.Connect(ctx, at.URL, quick(t, at, liveclient.Options{MaxUnsent: 1000, CloseTimeout: 20 * time.Millisecond}))
	if err != nil {
		t.Fatal(err)
	}
	livetest.Each(5, func(int) {
		for range 3 {
			ctx, cancel := context.WithTimeout(background, 20*time.Millisecond)
			_, err := c.Publish(ctx, "a", strings.Repeat("x", 90_000))
			cancel()
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
		}
	})
	begun := time.Now()
	c.Close()
	if took := time.Since(begun); took > 10*time.Second {
		t.Errorf("Close took %v", took)
	}
}

// A flood of pings makes no pile of pongs.
func TestFloodOfPings(t *testing.T) {
	t.Parallel()
	sent := make(chan struct{})
	at := play(t, func(p *peer) {
		p.say(hello)
		for range 5_000 {
			p.say(`{"op":"ping"}`)
		}
		close(sent)
		p.obey()
	})
	c := connect(t, at, liveclient.Options{})
	livetest.Receive(t, sent)
	if n := liveclient.Unsent(c); n > 1000 {
		t.Errorf("%d bytes wait", n)
	}
	if _, err := c.Request(deadline(t), "a", 1); err != nil {
		t.Error(err)
	}
}

// A publication that was sent on a connection without an answer is sent on the next with the same uid, before newer ones.
func TestPublicationIsSentAgainWithItsName(t *testing.T) {
	t.Parallel()
	uids := make(chan string, 10)
	at := play(t, func(p *peer) {
		p.say(hello)
		for ops := p.hear(); ops != nil; ops = p.hear() {
			for _, op := range ops {
				if op.Op == "publish" {
					uids <- fmt.Sprint(p.n, " ", op.Topic, " ", op.UID)
				}
				if p.n == 1 {
					return
				}
				p.say(fmt.Sprintf(`{"op":"reply","id":%d,"at":"e.1"}`, op.ID))
			}
		}
	})
	c := connect(t, at, liveclient.Options{MinBackoff: time.Hour, MaxBackoff: time.Hour})
	answered := make(chan error, 2)
	publish := func(topic, uid string) {
		_, err := c.Publish(deadline(t), topic, 1, liveclient.ID(uid))
		answered <- err
	}
	go publish("first", "name") // ends with its answer
	livetest.Eventually(t, "the loss", func() bool { return c.Status().State == liveclient.Waiting })
	go publish("newer", "other") // the same
	livetest.Eventually(t, "both", func() bool { return liveclient.CountWaiting(c) == 2 })
	c.Reconnect()
	for range 2 {
		if err := livetest.Receive(t, answered); err != nil {
			t.Error(err)
		}
	}
	for _, want := range []string{"1 first name", "2 first name", "2 newer other"} {
		if got := livetest.Receive(t, uids); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	c.Publish(deadline(t), "second", 1)
	c.Publish(deadline(t), "second", 1)
	one, two := livetest.Receive(t, uids), livetest.Receive(t, uids)
	if one == two || len(one) < len("2 second ")+20 {
		t.Errorf("made-up names: %q and %q", one, two)
	}
}

// The window of a drain frame counts for a connection that ends without saying more.
func TestDrainNamesAWindow(t *testing.T) {
	t.Parallel()
	at := play(t, func(p *peer) {
		p.say(hello)
		if p.n == 1 {
			p.say(`{"op":"drain","within":30000}`)
			p.ws.Close(1012, "")
			return
		}
		p.obey()
	})
	var seen statuses
	o := quick(t, at, liveclient.Options{OnStatus: seen.note})
	liveclient.SetRandom(&o, func() float64 { return 0.5 })
	c, err := liveclient.Connect(deadline(t), at.URL, o)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if wait := seen.first(t, liveclient.Waiting).RetryIn; wait != 15*time.Second {
		t.Errorf("waits %v, want 15s", wait)
	}
	c.Reconnect()
	livetest.Eventually(t, "the next connection", func() bool { return len(seen.of(liveclient.Open)) == 2 })
}

// What a gap frame does depends on what the subscription is.
func TestGapFrames(t *testing.T) {
	t.Parallel()
	at := play(t, func(p *peer) {
		p.say(hello)
		for ops := p.hear(); ops != nil; ops = p.hear() {
			for _, op := range ops {
				state := ""
				switch op.Topic {
				case "keyed":
					state = `,"keyed":true,"messages":[{"key":"k","data":1}]`
				case "state":
					state = `,"state":"since ` + op.Since + `"`
				}
				if op.Op == "request" {
					p.say(`{"op":"gap","topic":"plain","at":"e.9"}`, `{"topic":"plain","data":1,"at":"e.10"}`,
						`{"op":"gap","topic":"keyed","at":"e.9"}`, `{"topic":"keyed","key":"l","data":2,"at":"e.10"}`,
						`{"op":"gap","topic":"state","at":"e.9"}`, `{"topic":"state","data":"too early","at":"e.10"}`, `{"op":"gap","topic":"state"}`)
				}
				p.say(fmt.Sprintf(`{"op":"reply","id":%d,"at":"e.1"%s}`, op.ID, state))
			}
		}
	})
	c := connect(t, at, liveclient.Options{})
	_, plain := subscribe(t, c, "plain")
	s, keyed := subscribe(t, c, "keyed")
	states := new(heard)
	_, rows := subscribe(t, c, "state", liveclient.OnState(func(state json.RawMessage, at string) { states.note(string(state) + at) }))
	states.expect(t, `"since "e.1`) // a later state takes the place of one that waits
	if _, err := c.Request(deadline(t), "any", 1); err != nil {
		t.Fatal(err)
	}
	plain.expect(t, "gap lost", "1")
	keyed.expect(t, "k=1", "k removed", "l=2")
	expectKeys(t, s, map[string]string{"l": "2"})
	states.expect(t, `"since "e.1`, `"since "e.1`)
	if all := rows.all(); len(all) > 0 {
		t.Errorf("heard %s", brief(all))
	}
}

// A state of who is present may come in parts, with differences between them.
func TestPresenceInParts(t *testing.T) {
	t.Parallel()
	at := play(t, func(p *peer) {
		p.say(hello)
		if ops := p.hear(); ops != nil {
			p.say(`{"op":"presence","topic":"r","joined":[{"id":"of an older subscription","sessions":[]}]}`,
				fmt.Sprintf(`{"op":"reply","id":%d}`, ops[0].ID),
				`{"op":"presence","topic":"r","members":[{"id":"old","sessions":[null]}],"more":true}`, // never complete
				`{"op":"presence","topic":"r","members":[{"id":"anna","sessions":[null]}],"more":true}`,
				`{"op":"presence","topic":"r","joined":[{"id":"carl","sessions":[null]}]}`,
				`{"op":"presence","topic":"r","members":[{"id":"bert","sessions":[null]},{"id":"carl","sessions":[1]}],"continued":true}`)
		}
		p.hear()
		p.say(`{"op":"presence","topic":"r","joined":[{"id":"dora","sessions":[null]}],"changed":[{"id":"anna","sessions":[2,null]}],"left":["bert","nobody"]}`)
		p.hear()
		p.say(`{"op":"presence","topic":"r","members":[{"id":"anna","sessions":[null,2]},{"id":"dora","sessions":[null]}]}`) // the same in another order, but for carl
		p.hear()
		p.say(`{"op":"presence","topic":"r","count":7}`)
		p.obey()
	})
	c := connect(t, at, liveclient.Options{})
	got := new(heard)
	s, _ := subscribe(t, c, "r", append(watching(got), liveclient.OnPresence(func(p liveclient.Presence) {
		got.note(fmt.Sprint(p.Count, " of ", len(p.Members)))
		c.Send(background, "next", nil)
	}))...)
	got.expect(t, "3 of 3", "-bert[]", "~anna[]anna[2 ]", "+dora[]", "3 of 3", "-carl[1]", "2 of 2", "7 of 0")
	if p := s.Presence(); p.Count != 7 || p.Members != nil {
		t.Errorf("%+v", p)
	}
}

// Null members are as if they were not there.
func TestNullMembers(t *testing.T) {
	t.Parallel()
	at := play(t, func(p *peer) {
		p.say(`{"op":"hello","session":null,"ping":null,"largest":null,"id":null}`)
		if ops := p.hear(); ops != nil {
			p.say(fmt.Sprintf(`{"op":"reply","id":%d,"at":null,"recovered":null,"messages":null,"state":null,"keyed":null,"text":null}`, ops[0].ID),
				`{"topic":"a","data":null,"at":null,"key":null,"op":null,"removed":null}`)
		}
		p.obey()
	})
	c := connect(t, at, liveclient.Options{})
	_, got := subscribe(t, c, "a")
	got.expect(t, "null")
}

// A server that breaks the handshake does not speak live.v1, and would break the next one too.
func TestServersThatBreakTheHandshake(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]string{
		"no WebSocket":        "Connection: close\r\n",
		"wrong key":           "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n",
		"no subprotocol":      "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: KEY\r\n",
		"the token's":         "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: KEY\r\nSec-WebSocket-Protocol: live.token.YQ\r\n",
		"another subprotocol": "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: KEY\r\nSec-WebSocket-Protocol: chat\r\n",
	} {
		at := livetest.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			answer := strings.ReplaceAll(answer, "KEY", acceptKey(r))
			fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\n%s\r\n", answer)
		}))
		c, err := liveclient.Connect(deadline(t), at.URL, liveclient.Options{
			Token: liveclient.StaticToken("a"), TokenInSubprotocol: true, Logger: livetest.Quiet,
		})
		if err == nil {
			c.Close()
		}
		if !errors.Is(err, liveclient.ErrNotLive) || errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// An answer that becomes too large has failed at once, though its parts may have no end.
func TestEndlessAnswerFails(t *testing.T) {
	t.Parallel()
	unsubscribed := make(chan string, 1)
	at := play(t, func(p *peer) {
		p.say(hello)
		for ops := p.hear(); ops != nil; ops = p.hear() {
			if ops[0].Op == "unsubscribe" {
				unsubscribed <- ops[0].Topic
				continue
			}
			for range 10 {
				p.say(fmt.Sprintf(`{"op":"part","id":%d,"text":"%s"}`, ops[0].ID, strings.Repeat("1", 5_000)))
			}
		}
	})
	c := connect(t, at, liveclient.Options{ReadLimit: 10_000, CloseTimeout: time.Millisecond, OnError: func(error) {}})
	if _, err := c.Request(deadline(t), "a", 1); !errors.Is(err, liveclient.ErrTooBig) || !liveclient.Sent(err) {
		t.Errorf("Request: %v", err)
	}
	s, err := c.Subscribe("b", nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Wait(deadline(t)); !errors.Is(err, liveclient.ErrTooBig) {
		t.Errorf("Wait: %v", err)
	}
	if topic := livetest.Receive(t, unsubscribed); topic != "b" { // the server has it
		t.Errorf("%q was unsubscribed", topic)
	}
}

// A subscription that is being renewed is one that the server has, also while the server cannot decide.
func TestUnsubscribeWhileARenewalWaits(t *testing.T) {
	t.Parallel()
	unsubscribed := make(chan string, 1)
	at := play(t, func(p *peer) {
		p.say(hello)
		subscribes := 0
		for ops := p.hear(); ops != nil; ops = p.hear() {
			switch ops[0].Op {
			case "subscribe":
				if subscribes++; subscribes > 1 {
					p.say(fmt.Sprintf(`{"op":"error","id":%d,"code":"unavailable","message":"later"}`, ops[0].ID))
					continue
				}
				p.say(fmt.Sprintf(`{"op":"reply","id":%d,"state":1,"at":"e.1"}`, ops[0].ID), `{"op":"gap","topic":"a"}`)
			case "unsubscribe":
				unsubscribed <- ops[0].Topic
			}
		}
	})
	told := make(chan error, 10)
	c := connect(t, at, liveclient.Options{OnError: func(err error) { told <- err }})
	s, err := c.Subscribe("a", nil, liveclient.OnState(func(json.RawMessage, string) {}))
	if err != nil {
		t.Fatal(err)
	}
	if err := livetest.Receive(t, told); liveclient.Code(err) != liveclient.CodeUnavailable {
		t.Errorf("OnError: %v", err)
	}
	s.Unsubscribe()
	if topic := livetest.Receive(t, unsubscribed); topic != "a" {
		t.Errorf("%q was unsubscribed", topic)
	}
}
