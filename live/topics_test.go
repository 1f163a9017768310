package live_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
)

func TestAllSessionsSeePublicationsInOneOrder(t *testing.T) {
	const clients, publishers, each = 8, 4, 300
	opts, sessions := livetest.Connected(live.Options{QueueSize: publishers * each})
	srv, url := serve(t, opts)
	var conns []*livetest.Client
	for range clients {
		c, s := pair(t, url, sessions)
		if err := srv.Subscribe(s, "t"); err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
	}

	var wg sync.WaitGroup
	for p := range publishers {
		wg.Go(func() {
			for i := range each {
				if err := srv.Publish("t", fmt.Appendf(nil, "[%d,%d]", p, i)); err != nil {
					t.Error(err)
				}
			}
		})
	}

	var first []string
	for n, c := range conns {
		var seen []string
		last := map[int]int{}
		for range publishers * each {
			var at [2]int
			m := c.Next()
			if err := json.Unmarshal(m.Data, &at); err != nil {
				t.Fatal(err)
			}
			if at[1] != last[at[0]] {
				t.Fatalf("client %d: publisher %d: got %d, want %d", n, at[0], at[1], last[at[0]])
			}
			last[at[0]]++
			seen = append(seen, string(m.Data))
		}
		if first == nil {
			first = seen
		} else if strings.Join(seen, " ") != strings.Join(first, " ") {
			t.Fatalf("client %d saw another order than client 0", n)
		}
	}
	wg.Wait()
}

// Publications of others go on all the time, so that the edges are in their
// midst.
func TestSubscriptionBeginsAndEndsWhenTheCallReturns(t *testing.T) {
	opts, sessions := livetest.Connected(live.Options{QueueSize: 100_000})
	srv, url := serve(t, opts)
	c, s := pair(t, url, sessions)

	stop := make(chan struct{})
	var wg sync.WaitGroup
	defer wg.Wait()
	defer close(stop)
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				srv.Publish("t", []byte(`"noise"`))
			}
		}
	})

	nextMark := func() string {
		for {
			if m := c.Next(); string(m.Data) != `"noise"` {
				return string(m.Data)
			}
		}
	}
	for i := range 200 {
		if err := srv.Subscribe(s, "t"); err != nil {
			t.Fatal(err)
		}
		srv.Publish("t", fmt.Appendf(nil, `"in %d"`, i))
		if err := srv.Unsubscribe(s, "t"); err != nil {
			t.Fatal(err)
		}
		srv.Publish("t", fmt.Appendf(nil, `"out %d"`, i))
		if err := s.Send(live.Message{Topic: "fence", Data: fmt.Appendf(nil, `"fence %d"`, i)}); err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{fmt.Sprintf(`"in %d"`, i), fmt.Sprintf(`"fence %d"`, i)} {
			if got := nextMark(); got != want {
				t.Fatalf("got %s, want %s", got, want)
			}
		}
	}
}

func TestOtherTopicsAreNotHeard(t *testing.T) {
	opts, sessions := livetest.Connected(live.Options{})
	srv, url := serve(t, opts)
	c, s := pair(t, url, sessions)
	srv.Subscribe(s, "chat:1")
	srv.Publish("chat:10", []byte(`1`))
	srv.Publish("chat", []byte(`2`))
	srv.Publish("chat:1", []byte(`3`))
	c.Hears("chat:1", "3")
}

func TestSubscribingTwiceIsOnce(t *testing.T) {
	opts, sessions := livetest.Connected(live.Options{})
	srv, url := serve(t, opts)
	c, s := pair(t, url, sessions)
	srv.Subscribe(s, "t")
	srv.Subscribe(s, "t")
	srv.Publish("t", []byte(`1`))
	srv.Publish("t", []byte(`2`))
	c.Hears("t", "1")
	c.Hears("t", "2")
	if st := srv.Stats(); st.Topics != 1 || st.Subscriptions != 1 {
		t.Fatalf("%+v", st)
	}
	srv.Unsubscribe(s, "t")
	srv.Unsubscribe(s, "t")
	if st := srv.Stats(); st.Topics != 0 || st.Subscriptions != 0 {
		t.Fatalf("%+v", st)
	}
}

// The index is compared with a plain map of sets through random operations, by
// sessions with few topics and with many.
func TestIndexAgreesWithPlainSets(t *testing.T) {
	opts, sessions := livetest.Connected(live.Options{QueueSize: 100_000})
	srv, url := serve(t, opts)
	const clients, topics = 5, 30
	rng := rand.New(rand.NewPCG(1, 2))
	var conns []*livetest.Client
	var all []*live.Session
	model := make([]map[int]bool, clients)
	for i := range clients {
		c, s := pair(t, url, sessions)
		conns, all, model[i] = append(conns, c), append(all, s), map[int]bool{}
	}
	want := make([][]string, clients)
	for i := range 3000 {
		n, topic := rng.IntN(clients), rng.IntN(topics)
		name := fmt.Sprint("t", topic)
		switch rng.IntN(3) {
		case 0:
			srv.Subscribe(all[n], name)
			model[n][topic] = true
		case 1:
			srv.Unsubscribe(all[n], name)
			delete(model[n], topic)
		case 2:
			srv.Publish(name, fmt.Append(nil, i))
			for n := range clients {
				if model[n][topic] {
					want[n] = append(want[n], fmt.Sprint(i))
				}
			}
		}
	}
	subscriptions := 0
	for n, c := range conns {
		subscriptions += len(model[n])
		for _, w := range want[n] {
			if m := c.Next(); string(m.Data) != w {
				t.Fatalf("client %d: got %s, want %s", n, m.Data, w)
			}
		}
	}
	if got := srv.Stats().Subscriptions; got != subscriptions {
		t.Fatalf("%d subscriptions, want %d", got, subscriptions)
	}
}

func TestTopicsAreChecked(t *testing.T) {
	opts, sessions := livetest.Connected(live.Options{MaxTopicLength: 10, MaxTopics: 12})
	srv, url := serve(t, opts)
	_, s := pair(t, url, sessions)
	for _, topic := range []string{"", "12345678901", "a\xffb"} {
		for name, err := range map[string]error{
			"Publish":     srv.Publish(topic, []byte(`1`)),
			"Subscribe":   srv.Subscribe(s, topic),
			"Unsubscribe": srv.Unsubscribe(s, topic),
		} {
			if !errors.Is(err, live.ErrInvalidTopic) {
				t.Errorf("%s(%q): %v", name, topic, err)
			}
		}
	}
	for i := range 12 {
		if err := srv.Subscribe(s, fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := srv.Subscribe(s, "more"); !errors.Is(err, live.ErrTooManyTopics) {
		t.Fatal(err)
	}
	if err := srv.Subscribe(s, "3"); err != nil {
		t.Fatal("a topic it has already:", err)
	}
	if err := srv.Subscribe(nil, "t"); err == nil {
		t.Fatal("nil session accepted")
	}
}

func TestDataIsCheckedInPublish(t *testing.T) {
	opts, sessions := livetest.Connected(live.Options{})
	srv, url := serve(t, opts)
	c, s := pair(t, url, sessions)
	srv.Subscribe(s, "t")
	for _, data := range []string{"{", "tru", `{"a":1}}`, "1 2", `"` + "\xff" + `"`, "\x00", `"` + "\n" + `"`, strings.Repeat("[", 100_000)} {
		if err := srv.Publish("t", []byte(data)); !errors.Is(err, live.ErrInvalidData) {
			t.Errorf("Publish(%.20q): %v", data, err)
		}
		if err := s.Send(live.Message{Topic: "t", Data: []byte(data)}); !errors.Is(err, live.ErrInvalidData) {
			t.Errorf("Send(%.20q): %v", data, err)
		}
	}
	good := []string{`null`, `0`, `"é\u0000<b>"`, " [1,\n2] ", `{"a":{"b":[]}}`}
	for _, data := range good {
		if err := srv.Publish("t", []byte(data)); err != nil {
			t.Errorf("Publish(%q): %v", data, err)
		}
	}
	for _, data := range good {
		c.Hears("t", strings.TrimSpace(data))
	}
}

func TestPublisherMayReuseItsData(t *testing.T) {
	opts, sessions := livetest.Connected(live.Options{})
	srv, url := serve(t, opts)
	c, s := pair(t, url, sessions)
	srv.Subscribe(s, "t")
	data := []byte(`111`)
	for i := range 50 {
		copy(data, fmt.Sprint(100+i))
		srv.Publish("t", data)
	}
	for i := range 50 {
		c.Hears("t", fmt.Sprint(100+i))
	}
}

func TestEmptyDataAndTopicAreLeftOut(t *testing.T) {
	opts, sessions := livetest.Connected(live.Options{})
	srv, url := serve(t, opts)
	c, s := pair(t, url, sessions)
	srv.Subscribe(s, "t")
	srv.Publish("t", nil)
	s.Send(live.Message{Topic: "u"})
	s.Send(live.Message{Data: []byte(`1`)})
	s.Send(live.Message{})
	for _, want := range []string{`{"topic":"t"}`, `{"topic":"u"}`, `{"data":1}`, `{}`} {
		livetest.Check(t, "the client", c.Read(), want)
	}
}

// unsubscribeFails is a broker whose Unsubscribe returns an error.
type unsubscribeFails struct{ *live.MemoryBroker }

func (b unsubscribeFails) Unsubscribe(topic string) error {
	return errors.Join(b.MemoryBroker.Unsubscribe(topic), errors.New("no answer"))
}

// logCalls is a slog.Handler: it calls the function for each line.
type logCalls func(slog.Record)

func (f logCalls) Enabled(context.Context, slog.Level) bool         { return true }
func (f logCalls) Handle(_ context.Context, line slog.Record) error { f(line); return nil }
func (f logCalls) WithAttrs([]slog.Attr) slog.Handler               { return f }
func (f logCalls) WithGroup(string) slog.Handler                    { return f }

func TestHandlerOfALogMayPublishToTheTopicThatTheBrokerDidNotUnsubscribe(t *testing.T) {
	var server *live.Server
	published := make(chan error, 1)
	server = livetest.NewServer(t, live.Options{
		Broker: unsubscribeFails{live.NewMemoryBroker(live.MemoryOptions{})},
		Logger: slog.New(logCalls(func(line slog.Record) {
			if line.Message == "live: broker did not unsubscribe" {
				published <- server.Publish("t", []byte(`1`))
			}
		})),
	})
	listening, err := server.Listen("t", func(live.Message) {})
	if err != nil {
		t.Fatal(err)
	}
	go listening.Unsubscribe() // ends when the handler of the log has returned
	if err := livetest.Receive(t, published); err != nil {
		t.Error(err)
	}
}
