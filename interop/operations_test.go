package interop

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/livetopic/livetopic/internal/livetest"

	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/broker"
)

// Whatever the application does when a session begins, hello comes first.
func TestHelloIsTheFirstFrame(t *testing.T) {
	var server *live.Server
	opts := livetest.Permissive()
	opts.PingInterval = 7 * time.Second
	opts.QueueSize = livetest.PatientQueue
	opts.OnConnect = func(_ context.Context, s *live.Session) error {
		server.Subscribe(s, "busy")
		return s.Send(live.Message{Topic: "me", Data: fmt.Appendf(nil, `%q`, s.ID())})
	}
	server = livetest.NewServer(t, opts)
	at := livetest.Serve(t, server.Handler())
	defer livetest.Hammer(server, "busy")()
	for range 20 {
		c := livetest.DialV1(t, at)
		if h := c.Hello; h.Version != 1 || h.Ping != 7000 || h.Session == "" {
			t.Errorf("hello is %s", h.Raw)
		}
		for f := c.Next(); f.Topic == "busy" || string(f.Data) != fmt.Sprintf(`%q`, c.Hello.Session); f = c.Next() {
			if f.Topic != "busy" {
				t.Fatalf("got %s, want the ID %s that the session has", f.Raw, c.Hello.Session)
			}
		}
		c.Drop()
	}
}

func TestServerThatDoesNotPingSaysSo(t *testing.T) {
	opts := livetest.Permissive()
	opts.PingInterval = -1
	c := livetest.DialV1(t, livetest.Serve(t, livetest.NewServer(t, opts).Handler()))
	livetest.Same(t, "hello", c.Hello.Raw, `{"op":"hello","version":1,"session":"`+c.Hello.Session+`","ping":0,"largest":4194304}`)
}

func TestEachOperationIsAnswered(t *testing.T) {
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
		{`{"op":"presence","id":21,"topic":"t"}`, `{"op":"error","id":21,"topic":"t","code":"unknown_op","message":"there is no such operation"}`},
	} {
		livetest.Same(t, test.send, c.Do(test.send).Raw, test.want)
	}
	if extra := c.Settled(); len(extra) != 0 {
		t.Errorf("then came %s", extra[0].Raw)
	}
}

func TestRequestWithoutAnAnswerHasNoData(t *testing.T) {
	opts := livetest.Permissive()
	opts.OnRequest = func(context.Context, *live.Session, string, []byte) (any, error) { return nil, nil }
	c := livetest.DialV1(t, livetest.Serve(t, livetest.NewServer(t, opts).Handler()))
	livetest.Same(t, "the answer", c.Do(`{"op":"request","id":6,"topic":"q"}`).Raw, `{"op":"reply","id":6}`)
}

func TestRequestIsGivenWhatTheClientSent(t *testing.T) {
	opts := livetest.Permissive()
	opts.OnRequest = func(_ context.Context, s *live.Session, topic string, data []byte) (any, error) {
		return map[string]any{"session": s.ID(), "topic": topic, "data": string(data), "nil": data == nil}, nil
	}
	c := livetest.DialV1(t, livetest.Serve(t, livetest.NewServer(t, opts).Handler()))
	livetest.Same(t, "the answer", c.Do(`{"op":"request","id":6,"topic":"rooms","data":{"a": 1}}`).Raw,
		`{"op":"reply","id":6,"data":{"session":"`+c.Hello.Session+`","topic":"rooms","data":"{\"a\": 1}","nil":false}}`)
	livetest.Same(t, "the answer", c.Do(`{"op":"request","id":7,"topic":"rooms"}`).Raw,
		`{"op":"reply","id":7,"data":{"session":"`+c.Hello.Session+`","topic":"rooms","data":"","nil":true}}`)
}

// operationsOnT is one of each that asks the application, without the bracket at
// its end.
var operationsOnT = map[string]string{
	"subscribe": `{"op":"subscribe","topic":"chat"`,
	"resume":    `{"op":"subscribe","topic":"chat","since":"abcdefgh.1"`,
	"history":   `{"op":"history","topic":"chat","limit":3`,
	"publish":   `{"op":"publish","topic":"chat","data":1`,
	"request":   `{"op":"request","topic":"chat"`,
}

func TestCallbackThatIsMissingRefuses(t *testing.T) {
	opts := livetest.Permissive()
	opts.OnSubscribe, opts.OnPublish, opts.OnRequest = nil, nil, nil
	server := livetest.NewServer(t, opts)
	c := livetest.DialV1(t, livetest.Serve(t, server.Handler()))
	for name, op := range operationsOnT {
		livetest.Refused(t, name, c.Do(op+`,"id":8}`), 8, "forbidden")
		livetest.Refused(t, name+" without an id", c.Do(op+`}`), 0, "forbidden")
	}
	if st := server.Stats(); st.Published != 0 || st.Topics != 0 {
		t.Errorf("%d published, %d topics; want none", st.Published, st.Topics)
	}
}

// What the application returns as *ClientError is told as it is. Of every other
// error the client learns nothing but that there was one.
func TestErrorOfACallback(t *testing.T) {
	const secret = "row 7 of table users"
	for _, test := range []struct {
		name string
		err  error
		code string // "" : forbidden, and internal for a request
	}{
		{"ClientError", &live.ClientError{Code: "too_late", Message: `the "auction" <is> over`}, "too_late"},
		{"wrapped ClientError", fmt.Errorf("%s: %w", secret, &live.ClientError{Code: "too_late", Message: `the "auction" <is> over`}), "too_late"},
		{"other", errors.New(secret), ""},
		{"other that wraps a sentinel of live", fmt.Errorf("%s: %w", secret, live.ErrNoHistory), ""},
		{"other that wraps invalid data", fmt.Errorf("%s: %w", secret, live.ErrInvalidData), ""},
		{"other that wraps a context's error", fmt.Errorf("%s: %w", secret, context.DeadlineExceeded), "unavailable"},
		{"other that wraps a cancelling", fmt.Errorf("%s: %w", secret, context.Canceled), "unavailable"},
	} {
		t.Run(test.name, func(t *testing.T) {
			opts := livetest.Permissive()
			opts.OnSubscribe = func(context.Context, *live.Session, string) error { return test.err }
			opts.OnPublish = func(context.Context, *live.Session, string, []byte) error { return test.err }
			opts.OnRequest = func(context.Context, *live.Session, string, []byte) (any, error) { return 1, test.err }
			server := livetest.NewServer(t, opts)
			c := livetest.DialV1(t, livetest.Serve(t, server.Handler()))
			for name, op := range operationsOnT {
				code := test.code
				if code == "" {
					code = "forbidden"
					if name == "request" {
						code = "internal"
					}
				}
				f := c.Do(op + `,"id":8}`)
				livetest.Refused(t, name, f, 8, code)
				if strings.Contains(f.Raw, secret) {
					t.Errorf("%s tells the client %s", name, f.Raw)
				}
				if code == "too_late" && f.Message != `the "auction" <is> over` {
					t.Errorf("%s tells the client %q", name, f.Message)
				}
			}
			if st := server.Stats(); st.Published != 0 || st.Topics != 0 {
				t.Errorf("%d published, %d topics; want none", st.Published, st.Topics)
			}
		})
	}
}

func TestRequestWhoseAnswerIsNoJSONIsInternal(t *testing.T) {
	for name, answer := range map[string]any{
		"channel": make(chan int), "NaN": math.NaN(), "broken": json.RawMessage(`{"a":`),
	} {
		opts := livetest.Permissive()
		opts.OnRequest = func(context.Context, *live.Session, string, []byte) (any, error) { return answer, nil }
		c := livetest.DialV1(t, livetest.Serve(t, livetest.NewServer(t, opts).Handler()))
		livetest.Refused(t, name, c.Do(`{"op":"request","id":6,"topic":"q"}`), 6, "internal")
	}
}

// broken is a broker that fails.
type broken struct {
	*live.MemoryBroker
	err atomic.Pointer[error]
}

func (*broken) InProcess() bool { return false }

func (b *broken) fail(err error) { b.err.Store(&err) }

func (b *broken) failing() error {
	if err := b.err.Load(); err != nil {
		return *err
	}
	return nil
}

func (b *broken) Subscribe(ctx context.Context, topic string) error {
	return errors.Join(b.failing(), b.MemoryBroker.Subscribe(ctx, topic))
}

func (b *broken) Publish(ctx context.Context, topic string, data []byte, o broker.PublishOptions) (live.Position, error) {
	if err := b.failing(); err != nil {
		return live.Position{}, err
	}
	return b.MemoryBroker.Publish(ctx, topic, data, o)
}

func (b *broken) Tail(ctx context.Context, topic string, limit int) (broker.Page, error) {
	if err := b.failing(); err != nil {
		return broker.Page{}, err
	}
	return b.MemoryBroker.Tail(ctx, topic, limit)
}

func TestBrokerThatFails(t *testing.T) {
	br := &broken{MemoryBroker: live.NewMemoryBroker(live.MemoryOptions{})}
	opts := livetest.Permissive()
	opts.Broker = br
	var server *live.Server
	opts.OnRequest = func(context.Context, *live.Session, string, []byte) (any, error) {
		return nil, server.Publish("chat", []byte("1"))
	}
	server = livetest.NewServer(t, opts)
	c := livetest.DialV1(t, livetest.Serve(t, server.Handler()))
	for _, test := range []struct {
		err  error
		code string
	}{
		{errors.New("the disk of host 10.0.0.7 is full"), "internal"},
		{context.DeadlineExceeded, "unavailable"},
		{fmt.Errorf("of 10.0.0.7: %w", live.ErrUnavailable), "unavailable"},
	} {
		br.fail(test.err)
		for _, name := range []string{"subscribe", "resume", "history", "publish"} {
			f := c.Do(operationsOnT[name] + `,"id":8}`)
			livetest.Refused(t, name, f, 8, test.code)
			if strings.Contains(f.Raw, "10.0.0.7") {
				t.Errorf("%s tells the client %s", name, f.Raw)
			}
		}
	}
	livetest.Refused(t, "request", c.Do(`{"op":"request","id":9,"topic":"chat"}`), 9, "unavailable")
	br.fail(nil) // and then all is well again
	c.Must(`{"op":"subscribe","id":1,"topic":"chat"}`)
	server.Publish("chat", []byte(`1`))
	c.Hears("chat", "1")
}

func TestTopicsThatAreNone(t *testing.T) {
	opts := livetest.Permissive()
	opts.MaxTopicLength = 10
	c := livetest.DialV1(t, livetest.Serve(t, livetest.NewServer(t, opts).Handler()))
	for _, op := range []string{"subscribe", "unsubscribe", "publish", "history"} {
		rest := `,"data":1,"limit":1}`
		livetest.Refused(t, op, c.Do(`{"op":"`+op+`","id":1,"topic":""`+rest), 1, "invalid_topic")
		livetest.Refused(t, op, c.Do(`{"op":"`+op+`","id":2,"topic":"01234567890"`+rest), 2, "invalid_topic")
		livetest.Refused(t, op, c.Do(`{"op":"`+op+`","id":3,"topic":"ééééé1"`+rest), 3, "invalid_topic")
		livetest.Refused(t, op, c.Do(`{"op":"`+op+`","id":4`+rest), 4, "bad_request") // a member is missing
		livetest.Refused(t, op, c.Do(`{"op":"`+op+`","id":5,"topic":7`+rest), 5, "bad_request")
		livetest.Refused(t, op, c.Do(`{"op":"`+op+`","id":6,"topic":["t"]`+rest), 6, "bad_request")
	}
	livetest.Refused(t, "history", c.Do(`{"op":"history","id":7,"topic":"t","limit":1}`), 7, "no_history")
	c.Must(`{"op":"subscribe","id":8,"topic":"0123456789"}`)
}

func TestSessionWithAsManyTopicsAsItMayHave(t *testing.T) {
	opts := livetest.Permissive()
	opts.MaxTopics = 2
	c := livetest.DialV1(t, livetest.Serve(t, livetest.NewServer(t, opts).Handler()))
	c.Must(livetest.SubscribeTo(1, "a"))
	c.Must(livetest.SubscribeTo(2, "b"))
	livetest.Refused(t, "a third topic", c.Do(livetest.SubscribeTo(3, "c")), 3, "too_many_topics")
	c.Must(livetest.SubscribeTo(4, "b")) // has it already
	c.Must(livetest.UnsubscribeFrom(5, "a"))
	c.Must(livetest.SubscribeTo(6, "c"))
}

// An id is a whole number from 1 to 2⁵³−1, and is answered with itself.
func TestIDs(t *testing.T) {
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

// A client that subscribes anew to all it had does so in one frame, and may have
// a poor line. The answers are its own doing and no reason to close it, be they many
// or large.
func TestResubscribingOverASlowLine(t *testing.T) {
	for _, test := range []struct {
		name         string
		topics, each int // publications that were missed of each topic
		size         int
	}{
		{"many topics", 1000, 0, 0},
		{"much was missed", 40, 10, 5 << 10}, // 2 MB, twice QueueBytes; of each topic more than a part
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var ended livetest.Ends
			opts := livetest.Permissive()
			opts.OnClose = ended.OnClose
			server := livetest.NewServer(t, opts)
			at := livetest.ServeSmall(t, server.Handler())
			first := livetest.DialV1(t, at)
			since := make([]string, test.topics)
			for i := range since {
				since[i] = first.Must(livetest.SubscribeTo(1, fmt.Sprint("chat", i))).At
				first.Must(livetest.UnsubscribeFrom(2, fmt.Sprint("chat", i)))
			}
			pad := strings.Repeat("x", test.size)
			for i := range test.topics {
				for n := range test.each {
					server.Publish(fmt.Sprint("chat", i), fmt.Appendf(nil, `"%d %s"`, n, pad))
				}
			}

			slow := livetest.Through(t, at)
			c := livetest.DialV1(t, slow.Endpoint)
			slow.Stall()
			c.Send(livetest.Array(test.topics, func(i int) string { return livetest.ResumeFrom(i+1, fmt.Sprint("chat", i), since[i]) }))
			slow.Resume() // the request passes
			left := test.topics * test.each
			had := map[string]int{}
			take := func(topic string, data []byte, at string) {
				if _, offset := livetest.OffsetOf(at); livetest.NumberOf(data) != had[topic] || offset != had[topic]+1 || len(data) < test.size {
					t.Fatalf("topic %s: %.20s at %s came after %d others", topic, data, at, had[topic])
				}
				had[topic]++
				left--
			}
			for answers, frames := 0, 0; answers < test.topics || left > 0; frames++ {
				switch f := c.Next(); {
				case f.IsPublication() && f.WasRecovered():
					take(f.Topic, f.Data, f.At)
				case f.ID != answers+1 || !f.WasRecovered() || f.Messages == nil:
					t.Fatalf("answer %d is %.200s", answers, f.Raw)
				default:
					for _, m := range f.Messages {
						take(fmt.Sprint("chat", answers), m.Data, m.At)
					}
					answers++
				}
				if frames < 20 {
					time.Sleep(5 * time.Millisecond) // reads slowly
				}
			}
			if extra := c.Settled(); len(extra) != 0 {
				t.Errorf("then came %.200s", extra[0].Raw)
			}
			for topic, n := range had {
				if n != test.each {
					t.Errorf("topic %s: %d publications, want %d", topic, n, test.each)
				}
			}
			if n := ended.Count(); n != 0 {
				t.Errorf("%d sessions ended", n)
			}
		})
	}
}

func TestWhatIsNoFrameOfTheProtocolEndsTheSession(t *testing.T) {
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

// An object without op is a plain message, whatever else it has.
func TestObjectWithoutOpGoesToOnMessage(t *testing.T) {
	opts := livetest.Permissive()
	opts.OnMessage = livetest.Echo
	c := livetest.DialV1(t, livetest.Serve(t, livetest.NewServer(t, opts).Handler()))
	for _, test := range []struct{ send, want string }{
		{`{"topic":"t","data":1}`, `{"topic":"t","data":1}`},
		{`{"topic":"t"}`, `{"topic":"t"}`},
		{`{"data":[1]}`, `{"data":[1]}`},
		{`{}`, `{}`},
		{`{"topic":"t","data":2,"more":{"x":1}}`, `{"topic":"t","data":2}`},
		{`{"topic":"t","data":3,"id":"mine"}`, `{"topic":"t","data":3}`},
		{`{"topic":"t","data":4,"since":7,"last":"x","limit":[]}`, `{"topic":"t","data":4}`},
		{`{"topic":"t","data":5,"Op":"subscribe","id":5}`, `{"topic":"t","data":5}`},
		{`[{"topic":"t","data":6}]`, `{"topic":"t","data":6}`},
	} {
		livetest.Same(t, test.send, c.Do(test.send).Raw, test.want)
	}
	c.Send(`[{"topic":"a"},{"op":"subscribe","id":1,"topic":"t"},{"topic":"b"}]`)
	for _, want := range []string{`{"topic":"a"}`, `{"op":"reply","id":1}`, `{"topic":"b"}`} {
		livetest.Same(t, "mixed", c.Next().Raw, want)
	}
}

func TestMembersThatAreNotKnownAreIgnored(t *testing.T) {
	c := livetest.DialV1(t, livetest.Serve(t, livetest.NewServer(t, livetest.Permissive()).Handler()))
	for _, test := range []struct{ send, want string }{
		{`{"op":"subscribe","id":1,"topic":"t","more":{"op":"unsubscribe"},"ref":[1]}`, `{"op":"reply","id":1}`},
		{`{"more":1,"id":2,"op":"request","topic":"t","DATA":"no","data":"yes","Data":"no"}`, `{"op":"reply","id":2,"data":"yes"}`},
		{`{"op":"request","id":3,"topic":"t","data":1,"ID":4,"OP":"nonsense"}`, `{"op":"reply","id":3,"data":1}`},
	} {
		livetest.Same(t, test.send, c.Do(test.send).Raw, test.want)
	}
}

// A plain client beside others hears the publications, and nothing else: no
// hello, no position, no gap, no reply.
func TestPlainClientNoticesNothingOfTheProtocol(t *testing.T) {
	var server *live.Server
	opts := livetest.Permissive()
	opts.OnMessage = livetest.Subscriber(&server).OnMessage
	opts.PingInterval, opts.PingTimeout = 200*time.Millisecond, livetest.Patience
	server = livetest.NewServer(t, opts)
	at := livetest.Serve(t, server.Handler())
	plain := livetest.Dial(t, at)
	plain.Subscribe("chat")
	plain.Send(`{"op":"subscribe","id":1,"topic":"t"}`) // a message on topic t, like any
	livetest.Check(t, "the plain client", plain.Read(), `{"topic":"t"}`)
	plain.Send(`[{"op":"subscribe","id":1,"topic":"t"}]`) // ignored
	plain.Send(`nonsense`)

	other := livetest.DialV1(t, at)
	other.Must(livetest.SubscribeTo(1, "chat"))
	for i := range 3 {
		other.Send(fmt.Sprintf(`{"op":"publish","topic":"chat","data":%d}`, i))
		if f := other.Hears("chat", fmt.Sprint(i))[0]; f.At == "" {
			t.Error("the other hears no position")
		}
		livetest.Check(t, "the plain client", plain.Read(), fmt.Sprintf(`{"topic":"chat","data":%d}`, i))
	}
	other.Mute()
	for pinged := 0; pinged < 3; { // the other is pinged in text, which takes a while
		switch text := other.Read(); text {
		case `{"op":"ping"}`:
			pinged++
		default:
			t.Fatalf("got %s", text)
		}
	}
	if st := server.Stats(); st.Malformed != 2 {
		t.Errorf("%d malformed, want 2", st.Malformed)
	}
	ctx, cancel := context.WithTimeout(context.Background(), livetest.Patience)
	defer cancel()
	go server.Shutdown(ctx)
	if got, code := plain.Rest(); len(got) != 0 || code != live.CloseRestart {
		t.Errorf("the plain client got %v and code %d, want none and 1012", got, code)
	}
}

func TestTokenOfTheHandshake(t *testing.T) {
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
	if got := refusal(t, at, http.Header{"Sec-WebSocket-Protocol": {"live.v1, live.token.b3RoZXI"}}); got != http.StatusUnauthorized {
		t.Errorf("a wrong token was answered with %d, want 401", got)
	}
}

// The server pings in text, which a page can see, and finds out who does not
// answer, though WebSocket's own pings are answered, as a browser's network thread
// does for a page that hangs.
func TestClientThatAnswersNoPingIsClosed(t *testing.T) {
	const interval, timeout, slack = 300 * time.Millisecond, 300 * time.Millisecond, 3 * time.Second
	var ended livetest.Ends
	opts := livetest.Permissive()
	opts.PingInterval, opts.PingTimeout, opts.OnClose = interval, timeout, ended.OnClose
	server := livetest.NewServer(t, opts)
	at := livetest.Serve(t, server.Handler())
	mute := livetest.Dialing{V1: true, Mute: true}
	alive := livetest.Connect(t, at, mute).Attend().Greeted()
	silent := livetest.Connect(t, at, mute).Attend().Greeted()
	if silent.Hello.Ping != 300 {
		t.Errorf("hello is %s, want 300 ms", silent.Hello.Raw)
	}
	start := time.Now()
	survived := make(chan struct{})
	go func() { // ends with the loop
		defer close(survived)
		for pinged := 0; pinged < 6; pinged++ {
			if got := alive.Read(); got != `{"op":"ping"}` {
				t.Errorf("got %s, want a ping", got)
				return
			}
			alive.Say(`{"op":"pong"}`)
		}
	}()
	got, code := silent.Rest()
	if took := time.Since(start); code != live.ClosePingTimeout || took > interval+timeout+slack {
		t.Errorf("closed with %d (%v) after %v, want 4101 within %v", code, silent.Err(), took, interval+timeout)
	}
	if len(got) == 0 {
		t.Error("it was not pinged before")
	}
	for _, text := range got {
		livetest.Check(t, "the silent client", text.Raw, `{"op":"ping"}`)
	}
	if err := ended.Only(t); err != live.ErrPingTimeout {
		t.Errorf("OnClose got %v, want ErrPingTimeout", err)
	}
	<-survived
	if st := server.Stats(); st.Sessions != 1 {
		t.Errorf("%d sessions, want 1: the one that answers", st.Sessions)
	}
}

// The client waits for pings to know that the server lives, so that it gets them
// also while it talks itself.
func TestClientThatTalksIsPingedToo(t *testing.T) {
	const interval = 200 * time.Millisecond
	opts := livetest.Permissive()
	opts.PingInterval, opts.PingTimeout = interval, livetest.Patience
	c := livetest.Connect(t, livetest.Serve(t, livetest.NewServer(t, opts).Handler()), livetest.Dialing{V1: true, Mute: true}).Attend().Greeted()
	stop := make(chan struct{})
	var talking sync.WaitGroup
	talking.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(interval / 20):
				c.Say(`{"op":"publish","topic":"t","data":1}`)
			}
		}
	})
	for last, pings := time.Now(), 0; pings < 5; pings++ {
		livetest.Check(t, "the client", c.Read(), `{"op":"ping"}`)
		if took := time.Since(last); took > interval+2*time.Second {
			t.Errorf("nothing for %v", took)
		}
		last = time.Now()
	}
	close(stop)
	talking.Wait()
}

func TestDrainComesBeforeTheRestart(t *testing.T) {
	server := live.New(livetest.Permissive())
	at := livetest.Serve(t, server.Handler())
	c := livetest.DialV1(t, at)
	c.Must(livetest.SubscribeTo(1, "t"))
	for i := range 50 {
		server.Publish("t", fmt.Appendf(nil, `%d`, i))
	}
	ctx, cancel := context.WithTimeout(context.Background(), livetest.Patience)
	defer cancel()
	done := make(chan error)
	go func() { done <- server.Shutdown(ctx) }()
	got, code := c.Rest()
	if err := <-done; err != nil {
		t.Errorf("Shutdown: %v", err)
	}
	if len(got) != 51 || code != live.CloseRestart {
		t.Fatalf("got %d frames and code %d, want 51 and 1012", len(got), code)
	}
	drain, err := livetest.ParseFrame(got[50].Raw)
	if err != nil || drain.Op != "drain" || drain.Within <= 0 {
		t.Errorf("the last frame is %s, want drain", got[50].Raw)
	}
	if want := fmt.Sprintf("within %d ms", drain.Within); !strings.Contains(fmt.Sprint(c.Err()), want) {
		t.Errorf("closed with %v, which does not say %q", c.Err(), want)
	}
}

func TestReplyComesBeforeTheFirstPublication(t *testing.T) {
	const clients, rounds = 8, 60
	for _, topic := range []string{"t", "chat"} {
		t.Run(topic, func(t *testing.T) {
			opts := livetest.Permissive()
			opts.QueueSize = livetest.PatientQueue
			server := livetest.NewServer(t, opts)
			at := livetest.Serve(t, server.Handler())
			defer livetest.Hammer(server, topic)()
			defer livetest.Hammer(server, topic)()
			livetest.Each(clients, func(i int) {
				c := livetest.DialV1(t, at)
				for round := range rounds {
					if f := c.Do(livetest.SubscribeTo(round+1, topic)); f.ID != round+1 || f.Op != "reply" {
						t.Errorf("client %d, round %d: %s came before the reply", i, round, f.Raw)
						return
					}
					for range round % 3 {
						if f := c.Next(); !f.IsPublication() {
							t.Errorf("client %d, round %d: got %s", i, round, f.Raw)
							return
						}
					}
					c.Send(livetest.UnsubscribeFrom(1000+round, topic))
					if f, _ := c.Answer(); f.ID != 1000+round {
						t.Errorf("client %d, round %d: got %s", i, round, f.Raw)
						return
					}
				}
			})
		})
	}
}

// After the reply to unsubscribe nothing of the topic comes.
func TestNothingFollowsTheReplyToUnsubscribe(t *testing.T) {
	opts := livetest.Permissive()
	opts.QueueSize = livetest.PatientQueue
	server := livetest.NewServer(t, opts)
	c := livetest.DialV1(t, livetest.Serve(t, server.Handler()))
	defer livetest.Hammer(server, "t")()
	for i := range 200 {
		c.Must(livetest.SubscribeTo(i+1, "t"))
		c.Send(livetest.UnsubscribeFrom(i+1, "t"))
		c.Answer()
	}
	if after := c.Settled(); len(after) != 0 {
		t.Errorf("%s came after the reply", after[0].Raw)
	}
}

func TestPanicInACallbackEndsItsSessionOnly(t *testing.T) {
	for name, op := range map[string]string{
		"OnSubscribe": operationsOnT["subscribe"],
		"OnPublish":   operationsOnT["publish"],
		"OnRequest":   operationsOnT["request"],
	} {
		t.Run(name, func(t *testing.T) {
			var ended livetest.Ends
			var calls atomic.Int32
			boom := func() { calls.Add(1); panic("boom of the application") }
			opts := livetest.Permissive()
			opts.OnClose = ended.OnClose
			logger, log := livetest.Logged()
			opts.Logger = logger
			opts.OnSubscribe = func(_ context.Context, _ *live.Session, topic string) error {
				if topic == "chat" {
					boom()
				}
				return nil
			}
			opts.OnPublish = func(context.Context, *live.Session, string, []byte) error { boom(); return nil }
			opts.OnRequest = func(context.Context, *live.Session, string, []byte) (any, error) { boom(); return nil, nil }
			server := livetest.NewServer(t, opts)
			at := livetest.Serve(t, server.Handler())
			other := livetest.DialV1(t, at)
			other.Must(livetest.SubscribeTo(1, "t"))
			c := livetest.DialV1(t, at)
			c.Send("[" + livetest.SubscribeTo(1, "t") + "," + op + `,"id":2},` + op + `,"id":3}]`)
			got, code := c.Rest()
			if code != live.ClosePanic || len(got) != 1 {
				t.Errorf("got %v and code %d (%v), want one reply and 1011", got, code, c.Err())
			}
			if strings.Contains(fmt.Sprint(c.Err()), "boom") {
				t.Errorf("the client is told %v", c.Err())
			}
			if err := ended.Only(t); !errors.Is(err, live.ErrPanic) || !strings.Contains(err.Error(), name) {
				t.Errorf("OnClose got %v, want ErrPanic in %s", err, name)
			}
			if n := calls.Load(); n != 1 {
				t.Errorf("the callback ran %d times, want once: the session was over", n)
			}
			if text := log(); !strings.Contains(text, "boom of the application") || !strings.Contains(text, "callback="+name) {
				t.Errorf("logged %.300s, want the panic in %s", text, name)
			}
			server.Publish("t", []byte(`"still here"`))
			other.Hears("t", `"still here"`)
		})
	}
}

func TestPublicationByAClientReachesEveryone(t *testing.T) {
	server := livetest.NewServer(t, livetest.Permissive())
	at := livetest.Serve(t, server.Handler())
	for _, topic := range []string{"t", "chat"} {
		all := make([]*livetest.Client, 5)
		for i := range all {
			all[i] = livetest.DialV1(t, at)
			all[i].Must(livetest.SubscribeTo(1, topic))
		}
		all[2].Send(`{"op":"publish","id":9,"topic":"` + topic + `","data":{"text":"hello"}}`)
		for i, c := range all {
			var heard, reply livetest.Frame
			for heard.Raw == "" || i == 2 && reply.Raw == "" {
				if f := c.Next(); f.IsPublication() {
					heard = f
				} else {
					reply = f
				}
			}
			if string(heard.Data) != `{"text":"hello"}` || heard.Topic != topic || (heard.At != "") != (topic == "chat") {
				t.Errorf("client %d heard %s", i, heard.Raw)
			}
			if i == 2 && (reply.Op != "reply" || reply.ID != 9 || reply.At != heard.At) {
				t.Errorf("the publisher heard %s and was answered by %s", heard.Raw, reply.Raw)
			}
		}
	}
}

func TestExceptLeavesOutOneSession(t *testing.T) {
	var server *live.Server
	opts := livetest.Permissive()
	opts.OnRequest = func(_ context.Context, s *live.Session, topic string, data []byte) (any, error) {
		return nil, server.Publish(topic, data, live.Except(s))
	}
	server = livetest.NewServer(t, opts)
	at := livetest.Serve(t, server.Handler())
	for _, topic := range []string{"t", "chat"} {
		a, b := livetest.DialV1(t, at), livetest.DialV1(t, at)
		a.Must(livetest.SubscribeTo(1, topic))
		b.Must(livetest.SubscribeTo(1, topic))
		a.Must(`{"op":"request","id":2,"topic":"` + topic + `","data":"not for a"}`)
		server.Publish(topic, []byte(`"for all"`), live.Except(nil))
		a.Hears(topic, `"for all"`)
		b.Hears(topic, `"not for a"`, `"for all"`)
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

// A client that asks and does not read is not heard further. What waits for it stays
// bounded.
func TestClientThatAsksAndDoesNotRead(t *testing.T) {
	const size, atOnce, most = 16 << 10, 50, 300 // most is 5 MB: several times QueueBytes, and what the sockets hold
	var asked atomic.Int64
	opts := livetest.Permissive()
	opts.InboundRate = -1
	pad := json.RawMessage(`"` + strings.Repeat("x", size) + `"`)
	opts.OnRequest = func(context.Context, *live.Session, string, []byte) (any, error) {
		asked.Add(1)
		return pad, nil
	}
	server := livetest.NewServer(t, opts)
	c := livetest.Connect(t, livetest.ServeSmall(t, server.Handler()), livetest.Dialing{V1: true, Buffer: livetest.SmallBuffer})
	c.Conn.SetWriteDeadline(time.Now().Add(2 * time.Second))
	request := livetest.Array(atOnce, func(i int) string { return fmt.Sprintf(`{"op":"request","id":%d,"topic":"q"}`, i+1) })
	for sent := 0; sent < 100_000 && c.Say(request) == nil; sent += atOnce {
	}
	for n := int64(-1); n != asked.Load() && n <= most; time.Sleep(200 * time.Millisecond) {
		n = asked.Load()
	}
	if n := asked.Load(); n > most {
		t.Errorf("%d requests were answered with %d bytes each, none of which was read", n, size)
	}
	if st := server.Stats(); st.Sessions != 1 {
		t.Errorf("%d sessions, want 1", st.Sessions)
	}
}
