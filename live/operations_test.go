package live_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/broker"
)

// withFalseTime runs f with false time: dial connects a client of live.v1 to a server of opts.
func withFalseTime(t *testing.T, opts live.Options, f func(t *testing.T, srv *live.Server, dial func() *livetest.Client)) {
	t.Helper()
	p := newPipes()
	opts.Logger = slog.New(slog.DiscardHandler)
	srv := live.New(opts)
	hs := &http.Server{Handler: srv.Handler()}
	go hs.Serve(p) // ends with hs
	defer hs.Close()
	defer shut(t, srv)
	f(t, srv, func() *livetest.Client {
		conn := p.dial()
		return livetest.Over(t, conn, livetest.Dialing{V1: true}).Attend().Greeted()
	})
}

// electing is a broker that acknowledges publications of the topic "slow" only when time has
// passed.
type electing struct {
	*live.MemoryBroker
	election time.Duration
	waiting  atomic.Int64 // publications that wait
	most     atomic.Int64 // of them at a time
}

func (*electing) InProcess() bool { return false }

func newElecting(election time.Duration) *electing {
	return &electing{MemoryBroker: live.NewMemoryBroker(live.MemoryOptions{}), election: election}
}

func (b *electing) Publish(ctx context.Context, topic string, data []byte, o broker.PublishOptions) (live.Position, error) {
	if topic == "slow" {
		b.most.Store(max(b.most.Load(), b.waiting.Add(1)))
		defer b.waiting.Add(-1)
		select {
		case <-time.After(b.election):
		case <-ctx.Done():
			return live.Position{}, ctx.Err()
		}
	}
	return b.MemoryBroker.Publish(ctx, topic, data, o)
}

// A cluster elects another leader within ten seconds. A publication waits for that, and nothing
// waits for the publication except its own client's later operations.
func TestClientsPublicationWaitsForAnElection(t *testing.T) {
	for _, election := range []time.Duration{4 * time.Second, 9 * time.Second, 10 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			b := newElecting(election)
			withFalseTime(t, livetest.Open(keeping(b, live.TopicOptions{History: 10})), func(t *testing.T, _ *live.Server, dial func() *livetest.Client) {
				c, other := dial(), dial()
				began := time.Now()
				c.Say(livetest.Operation("publish", 1, "slow", "data", 1), livetest.Operation("publish", 2, "quick", "data", 2))
				synctest.Wait()
				c.Say(`{"op":"ping"}`)
				if f := c.Next(); f.Op != "pong" || time.Since(began) > time.Second {
					t.Errorf("the answer to a ping is %s, after %v", &f, time.Since(began))
				}
				other.Say(livetest.Operation("publish", 1, "quick", "data", 3))
				if f, _ := other.Reply(1); f.Op != "reply" || time.Since(began) > time.Second {
					t.Errorf("another client's publication: %s, after %v", &f, time.Since(began))
				}
				if f, _ := c.Reply(1); f.Op != "reply" || time.Since(began) != election {
					t.Errorf("an election of %v: %s, after %v", election, &f, time.Since(began))
				}
				if f, _ := c.Reply(2); f.Op != "reply" {
					t.Errorf("the next publication: %s", &f)
				}
			})
		})
	}
}

func TestPublicationThatIsNotAcknowledgedFailsInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newElecting(time.Hour)
		withFalseTime(t, livetest.Open(keeping(b, live.TopicOptions{})), func(t *testing.T, _ *live.Server, dial func() *livetest.Client) {
			c := dial()
			began := time.Now()
			c.Say(livetest.Operation("publish", 1, "slow", "data", 1))
			f, _ := c.Reply(1)
			if took := time.Since(began); f.Op != "error" || f.Code != "unavailable" || took > 15*time.Second {
				t.Errorf("%s after %v", &f, took)
			}
		})
	})
}

// However many publications a client sends, the server waits for one of them, and for none when
// the client has left.
func TestOnePublicationOfAClientWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newElecting(time.Hour)
		withFalseTime(t, livetest.Open(keeping(b, live.TopicOptions{})), func(t *testing.T, srv *live.Server, dial func() *livetest.Client) {
			c := dial()
			for i := range 30 {
				c.Say(livetest.Operation("publish", i+1, "slow", "data", 1))
			}
			time.Sleep(3 * time.Second)
			if n := b.most.Load(); n != 1 {
				t.Errorf("%d publications wait", n)
			}
			c.Line.Close()
			time.Sleep(2 * time.Second)
			if n := b.waiting.Load(); n != 0 || srv.Stats().Sessions != 0 {
				t.Errorf("%d publications wait for a client that has left, %d sessions", n, srv.Stats().Sessions)
			}
		})
	})
}

func TestEachOperationIsAnswered(t *testing.T) {
	t.Parallel()
	server := livetest.NewServer(t, livetest.Permissive())
	c := livetest.DialV1(t, livetest.Serve(t, server.Handler()))
	for _, test := range []struct{ send, want string }{
		{`{"op":"subscribe","id":1,"topic":"t"}`, `{"op":"reply","id":1}`},
		{`{"op":"subscribe","id":2,"topic":"t"}`, `{"op":"reply","id":2}`}, // again
		{`{"op":"subscribe","id":3,"topic":"chat"}`, `{"op":"reply","id":3,"at":"E.0"}`},
		{`{"op":"unsubscribe","id":4,"topic":"t"}`, `{"op":"reply","id":4}`},
		{`{"op":"unsubscribe","id":5,"topic":"t"}`, `{"op":"reply","id":5}`}, // again
		{`{"op":"unsubscribe","id":6,"topic":"chat"}`, `{"op":"reply","id":6}`},
		{`{"op":"publish","id":7,"topic":"t","data":{"a":[1]}}`, `{"op":"reply","id":7}`},
		{`{"op":"publish","id":8,"topic":"chat:a","data":1}`, `{"op":"reply","id":8,"at":"E.1"}`},
		{`{"op":"publish","id":9,"topic":"chat:a","data":"two"}`, `{"op":"reply","id":9,"at":"E.2"}`},
		{`{"op":"publish","id":10,"topic":"chat:a"}`, `{"op":"reply","id":10,"at":"E.3"}`}, // without data
		{`{"op":"publish","id":11,"topic":"chat:a","data":null}`, `{"op":"reply","id":11,"at":"E.4"}`},
		{`{"op":"history","id":12,"topic":"chat:a","limit":10}`,
			`{"op":"reply","id":12,"messages":[{"data":1,"at":"E.1"},{"data":"two","at":"E.2"},{"at":"E.3"},{"data":null,"at":"E.4"}]}`},
		{`{"op":"history","id":13,"topic":"chat:a","limit":1}`, `{"op":"reply","id":13,"messages":[{"data":null,"at":"E.4"}]}`},
		{`{"op":"history","id":14,"topic":"chat:b","limit":1}`, `{"op":"reply","id":14,"messages":[]}`},
		{`{"op":"history","id":15,"topic":"chat:a","limit":9007199254740991}`,
			`{"op":"reply","id":15,"messages":[{"data":1,"at":"E.1"},{"data":"two","at":"E.2"},{"at":"E.3"},{"data":null,"at":"E.4"}]}`},
		{`{"op":"request","id":16,"topic":"q","data":{"x":"ü\n"}}`, `{"op":"reply","id":16,"data":{"x":"ü\n"}}`},
		{`{"op":"subscribe","id":17,"topic":"t","since":"` + `abcdefgh.7"}`, `{"op":"reply","id":17,"recovered":false}`},
		{`{"op":"subscribe","id":18,"topic":"u","last":5}`, `{"op":"reply","id":18,"messages":[]}`},
		{`{"op":"subscribe","id":19,"topic":"chat:a","last":2}`,
			`{"op":"reply","id":19,"at":"E.4","messages":[{"at":"E.3"},{"data":null,"at":"E.4"}]}`},
		{`{"op":"frobnicate","id":20}`, `{"op":"error","id":20,"code":"unknown_op","message":"there is no such operation"}`},
		{`{"op":"presence","id":21,"topic":"t"}`, `{"op":"error","id":21,"topic":"t","code":"no_presence","message":"the topic does not tell who is present"}`},
	} {
		livetest.Same(t, test.send, c.Do(test.send).Raw, test.want)
	}
	if extra := c.Settled(); len(extra) != 0 {
		t.Errorf("then came %s", extra[0].Raw)
	}
}

// An id is a whole number from 1 to 2⁵³−1, and is answered with itself.
func TestIDs(t *testing.T) {
	t.Parallel()
	c := livetest.DialV1(t, livetest.Serve(t, livetest.NewServer(t, livetest.Permissive()).Handler()))
	for _, id := range []string{"1", "2", "1", "4294967296", "9007199254740991"} {
		livetest.Same(t, "id "+id, c.Do(`{"op":"subscribe","topic":"t","id":`+id+`}`).Raw, `{"op":"reply","id":`+id+`}`)
		livetest.Refused(t, "id "+id, c.Do(`{"op":"nonsense","topic":"t","id":`+id+`}`), parseID(t, id), "unknown_op")
	}
	for _, id := range []string{"0", "-1", "1.5", "9007199254740992", "18446744073709551615", "18446744073709551616", "1e300", `"1"`, "true", "[1]", "{}"} {
		c.Send(`[{"op":"subscribe","topic":"t","id":` + id + `},{"op":"unsubscribe","id":77,"topic":"t"}]`)
		f := c.Next()
		if f.ID == 77 {
			t.Errorf("id %s was not answered", id)
			continue
		}
		livetest.Refused(t, "id "+id, f, 0, "bad_request")
		if f := c.Next(); f.ID != 77 {
			t.Errorf("after id %s came %s", id, f.Raw)
		}
	}
}

func parseID(t *testing.T, text string) (id int) {
	if err := json.Unmarshal([]byte(text), &id); err != nil {
		t.Fatal(err)
	}
	return id
}

func TestOperationWithoutAnIDIsAnsweredOnlyIfItFails(t *testing.T) {
	t.Parallel()
	server := livetest.NewServer(t, livetest.Permissive())
	c := livetest.DialV1(t, livetest.Serve(t, server.Handler()))
	c.Send(`{"op":"subscribe","topic":"t"}`)
	c.Send(`{"op":"publish","topic":"t","data":1}`)
	c.Send(`{"op":"request","topic":"t","data":1}`)
	c.Hears("t", "1")
	c.Send(`{"op":"unsubscribe","topic":"t"}`)
	c.Send(`{"op":"publish","topic":"t","data":2}`)
	c.Send(`{"op":"history","topic":"chat","limit":1}`)
	livetest.Refused(t, "an operation without id", c.Do(`{"op":"history","topic":"t","limit":1}`), 0, "no_history")
	if extra := c.Settled(); len(extra) != 0 {
		t.Errorf("then came %s", extra[0].Raw)
	}
}

func TestMembersOfTheWrongKind(t *testing.T) {
	t.Parallel()
	c := livetest.DialV1(t, livetest.Serve(t, livetest.NewServer(t, livetest.Permissive()).Handler()))
	for _, op := range []string{
		`{"op":7,"id":1}`,
		`{"op":true,"id":1,"topic":"t"}`,
		`{"op":["subscribe"],"id":1,"topic":"t"}`,
		`{"op":"subscribe","id":1,"topic":{"a":1}}`,
		`{"op":"subscribe","id":1,"topic":"chat","since":7}`,
		`{"op":"subscribe","id":1,"topic":"chat","since":"nonsense"}`,
		`{"op":"subscribe","id":1,"topic":"chat","since":"."}`,
		`{"op":"subscribe","id":1,"topic":"chat","since":".7"}`,
		`{"op":"subscribe","id":1,"topic":"chat","since":"epoch."}`,
		`{"op":"subscribe","id":1,"topic":"chat","since":"epoch.-1"}`,
		`{"op":"subscribe","id":1,"topic":"chat","since":"epoch.18446744073709551616"}`,
		`{"op":"subscribe","id":1,"topic":"chat","last":"5"}`,
		`{"op":"subscribe","id":1,"topic":"chat","last":-5}`,
		`{"op":"subscribe","id":1,"topic":"chat","last":1.5}`,
		`{"op":"history","id":1,"topic":"chat"}`,
		`{"op":"history","id":1,"topic":"chat","limit":0}`,
		`{"op":"history","id":1,"topic":"chat","limit":-1}`,
		`{"op":"history","id":1,"topic":"chat","limit":"10"}`,
	} {
		livetest.Refused(t, op, c.Do(op), 1, "bad_request")
	}
	if extra := c.Settled(); len(extra) != 0 {
		t.Errorf("then came %s", extra[0].Raw)
	}
}

func TestArrayIsCarriedOutInOrder(t *testing.T) {
	t.Parallel()
	c := livetest.DialV1(t, livetest.Serve(t, livetest.NewServer(t, livetest.Permissive()).Handler()))
	c.Send(` [ {"op":"subscribe","id":5,"topic":"t"} ,
		{"op":"publish","id":4,"topic":"t","data":1}, {"op":"nonsense","id":3},
		{"op":"subscribe","id":true},
		{"op":"unsubscribe","id":2,"topic":"t"}, {"op":"publish","id":1,"topic":"t","data":2} ] `)
	var ids []int
	for len(ids) < 6 {
		f, before := c.Answer()
		for _, p := range before {
			if string(p.Data) != "1" {
				t.Errorf("heard %s", p.Raw)
			}
		}
		ids = append(ids, f.ID)
	}
	if want := []int{5, 4, 3, 0, 2, 1}; !slices.Equal(ids, want) {
		t.Errorf("answers came in the order %v, want %v", ids, want)
	}
	c.Send(`[]`)
	if extra := c.Settled(); len(extra) != 0 {
		t.Errorf("an empty array was answered by %s", extra[0].Raw)
	}
}

func TestThousandOperationsInAFrame(t *testing.T) {
	server := livetest.NewServer(t, livetest.Permissive())
	c := livetest.DialV1(t, livetest.Serve(t, server.Handler()))
	topic := func(i int) string { return fmt.Sprintf("t%d", i) }
	c.Send(livetest.Array(1000, func(i int) string { return livetest.SubscribeTo(i+1, topic(i)) }))
	for i := range 1000 {
		if f := c.Next(); f.Op != "reply" || f.ID != i+1 {
			t.Fatalf("answer %d is %s", i, f.Raw)
		}
	}
	livetest.Eventually(t, "1000 subscriptions", func() bool { return server.Stats().Subscriptions == 1000 })
	c.Send(livetest.Array(1000, func(i int) string { return livetest.UnsubscribeFrom(i+1, topic(i)) }))
	for i := range 1000 {
		if f := c.Next(); f.Op != "reply" || f.ID != i+1 {
			t.Fatalf("answer %d is %s", i, f.Raw)
		}
	}
	c.Send(livetest.Array(1001, func(i int) string { return livetest.SubscribeTo(i+1, topic(i)) }))
	if got, code := c.Rest(); len(got) != 0 || code != live.CloseProtocol {
		t.Errorf("1001 operations were answered by %d frames and code %d, want none and 4002", len(got), code)
	}
}

func TestWhatIsNoFrameOfTheProtocolEndsTheSession(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		``, ` `, `hello`, `{`, `{"op":"pong"`, `{"op":"pong"}}`, `{"op":"pong"} {"op":"pong"}`, `{'op':'pong'}`, `{"op":"pong",}`,
		`7`, `"x"`, `null`, `true`,
		`[7]`, `[null]`, `["x"]`, `[[]]`, `[[{"op":"pong"}]]`, `[{"op":"pong"},7]`, `[{"op":"pong"}`, `[{"op":"pong"},]`,
	} {
		t.Run(text, func(t *testing.T) {
			t.Parallel()
			var ended livetest.Ends
			opts := livetest.Permissive()
			opts.OnClose = ended.OnClose
			opts.OnMessage = func(context.Context, *live.Session, string, []byte) { t.Error("OnMessage was called") }
			server := livetest.NewServer(t, opts)
			c := livetest.DialV1(t, livetest.Serve(t, server.Handler()))
			c.Send(text)
			if got, code := c.Rest(); len(got) != 0 || code != live.CloseProtocol {
				t.Errorf("got %v and code %d (%v), want none and 4002", got, code, c.Err())
			}
			if err := ended.Only(t); err == nil {
				t.Error("OnClose got nil")
			}
		})
	}
}

// Text must be UTF-8 (RFC 6455, section 8.1).
func TestFrameThatIsNotUTF8EndsTheSession(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"in a string":           "{\"op\":\"publish\",\"topic\":\"t\",\"data\":\"\xff\"}",
		"cut off":               "{\"op\":\"publish\",\"topic\":\"t\",\"data\":\"\xc3\"}",
		"a surrogate":           "{\"op\":\"publish\",\"topic\":\"t\",\"data\":\"\xed\xa0\x80\"}",
		"in a name":             "{\"op\":\"publish\",\"topic\":\"t\",\"\xff\":1}",
		"no JSON either":        "\xff",
		"in a plain message":    "{\"topic\":\"t\",\"data\":\"\xff\"}",
		"in one operation of 2": "[{\"op\":\"publish\",\"topic\":\"t\",\"data\":1},{\"op\":\"publish\",\"topic\":\"t\",\"data\":\"\xff\"}]",
	} {
		t.Run(name, func(t *testing.T) {
			var ended livetest.Ends
			opts := livetest.Permissive()
			opts.OnClose = ended.OnClose
			opts.OnMessage = func(context.Context, *live.Session, string, []byte) { t.Error("OnMessage was called") }
			server := livetest.NewServer(t, opts)
			c := livetest.DialV1(t, livetest.Serve(t, server.Handler()))
			c.Send(text)
			if got, code := c.Rest(); len(got) != 0 || code != 1007 {
				t.Errorf("got %v and code %d (%v), want none and 1007", got, code, c.Err())
			}
			if err := ended.Only(t); err == nil {
				t.Error("OnClose got nil")
			}
			if st := server.Stats(); st.Published != 0 {
				t.Errorf("%d published, want none", st.Published)
			}
		})
	}
}

func TestMembersThatAreNotKnownAreIgnored(t *testing.T) {
	t.Parallel()
	c := livetest.DialV1(t, livetest.Serve(t, livetest.NewServer(t, livetest.Permissive()).Handler()))
	for _, test := range []struct{ send, want string }{
		{`{"op":"subscribe","id":1,"topic":"t","more":{"op":"unsubscribe"},"ref":[1]}`, `{"op":"reply","id":1}`},
		{`{"more":1,"id":2,"op":"request","topic":"t","DATA":"no","data":"yes","Data":"no"}`, `{"op":"reply","id":2,"data":"yes"}`},
		{`{"op":"request","id":3,"topic":"t","data":1,"ID":4,"OP":"nonsense"}`, `{"op":"reply","id":3,"data":1}`},
	} {
		livetest.Same(t, test.send, c.Do(test.send).Raw, test.want)
	}
}

// narrow is a broker that takes short publications only.
type narrow struct{ *live.MemoryBroker }

func (narrow) InProcess() bool { return false }

func (b narrow) Publish(ctx context.Context, topic string, data []byte, o broker.PublishOptions) (live.Position, error) {
	if len(data) > 100 {
		return live.Position{}, fmt.Errorf("narrow: %w: it has %d bytes", live.ErrTooLarge, len(data))
	}
	return b.MemoryBroker.Publish(ctx, topic, data, o)
}

// What a client publishes may be too large for the broker alone. The client is told, and the
// log is not filled with it.
func TestPublicationTooLargeForTheBroker(t *testing.T) {
	logger, l := logging()
	h := livetest.Hosting{}.Start(t, live.Options{
		Broker:    narrow{live.NewMemoryBroker(live.MemoryOptions{})},
		Logger:    logger,
		OnPublish: func(_ context.Context, _ *live.Session, _ string, data []byte) ([]byte, error) { return data, nil },
	})
	p := h.Connect(t, livetest.Dialing{V1: true}).Attend()
	for id := 1; id <= 3; id++ {
		p.Say(livetest.Operation("publish", id, "t", "data", strings.Repeat("x", 200)))
		if f, _ := p.Reply(id); f.Op != "error" || f.Code != "too_big" || f.Topic != "t" {
			t.Errorf("a long publication: %s", &f)
		}
	}
	p.Say(livetest.Operation("publish", 4, "t", "data", "short"))
	if f, _ := p.Reply(4); f.Op != "reply" {
		t.Errorf("a short publication: %s", &f)
	}
	if err := h.Publish("t", []byte(`"`+strings.Repeat("x", 200)+`"`)); !errors.Is(err, live.ErrTooLarge) {
		t.Errorf("Publish: %v", err)
	}
	if n := l.with("level=WARN"); n > 0 {
		t.Errorf("warned %d times", n)
	}
}
