package live_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
)

// A Listen that fails returns nothing, not something that is nil.
func TestListenThatFails(t *testing.T) {
	srv, _ := serve(t, live.Options{})
	if sub, err := srv.Listen("", func(live.Message) {}); sub != nil || !errors.Is(err, live.ErrInvalidTopic) {
		t.Error(sub, err)
	}
	if sub, err := live.Listen(srv, "", func(int) {}); sub != nil || err == nil {
		t.Error(sub, err)
	}
	shut(t, srv)
	if sub, err := srv.Listen("t", func(live.Message) {}); sub != nil || err == nil {
		t.Error(sub, err)
	}
}

// A listener hears of what was lost, in its place.
func TestListenerIsToldOfGaps(t *testing.T) {
	b := new(renewed)
	h := livetest.Hosting{}.Start(t, livetest.Open(live.Options{Broker: b, Topics: func(string) live.TopicOptions { return live.TopicOptions{History: 100} }}))
	heard := make(chan string, 1000)
	sub, err := h.Listen("t", func(m live.Message) { heard <- string(m.Data) }, live.OnGap(func(topic string) { heard <- "gap in " + topic }))
	if err != nil {
		t.Fatal(err)
	}
	expect := func(want ...string) {
		t.Helper()
		for _, w := range want {
			if got := livetest.Receive(t, heard); got != w {
				t.Fatalf("heard %q, want %q", got, w)
			}
		}
	}
	publish := func(n int) {
		t.Helper()
		if err := h.Publish("t", fmt.Append(nil, n)); err != nil {
			t.Fatal(err)
		}
	}
	publish(1)
	expect("1")
	b.renew()
	publish(2)
	expect("gap in t", "2")
	sub.Unsubscribe()
	b.renew()
	publish(3)
	time.Sleep(50 * time.Millisecond)
	if len(heard) > 0 {
		t.Errorf("after Unsubscribe: %s", <-heard)
	}
}

// One that is too slow hears of what it missed before it hears what came after.
func TestSlowListenerIsToldOfItsGap(t *testing.T) {
	srv, _ := serve(t, live.Options{QueueSize: 10})
	heard, letGo := make(chan int, 1000), make(chan struct{})
	_, err := live.Listen(srv, "t", func(n int) {
		heard <- n
		<-letGo
	}, live.OnGap(func(string) { heard <- -1 }))
	if err != nil {
		t.Fatal(err)
	}
	srv.Publish("t", []byte("1"))
	livetest.Receive(t, heard)
	for i := 2; i <= 30; i++ {
		srv.Publish("t", fmt.Append(nil, i))
	}
	close(letGo)
	var got []int
	for len(got) == 0 || got[len(got)-1] < 30 {
		got = append(got, livetest.Receive(t, heard))
	}
	if want := []int{-1, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30}; !slices.Equal(got, want) {
		t.Errorf("heard %v, want %v", got, want)
	}
}

// hearTable listens to a keyed topic, and folds what it hears as the doc of Listen says. wait waits until
// the listener knows what it should.
func hearTable(t testing.TB, s *live.Server, hold <-chan struct{}) (wait func(want map[string]string), gaps *atomic.Int64) {
	t.Helper()
	var mu sync.Mutex
	keys := make(map[string]string)
	gaps = new(atomic.Int64)
	forget := func(string) {
		mu.Lock()
		defer mu.Unlock()
		gaps.Add(1)
		clear(keys)
	}
	_, err := s.Listen("k", func(m live.Message) {
		<-hold
		mu.Lock()
		defer mu.Unlock()
		if delete(keys, m.Key); !m.Removed {
			keys[m.Key] = string(m.Data)
		}
	}, live.OnGap(forget))
	if err != nil {
		t.Fatal(err)
	}
	return func(want map[string]string) {
		t.Helper()
		livetest.Eventually(t, "the listener has all keys", func() bool {
			mu.Lock()
			defer mu.Unlock()
			return maps.Equal(keys, want)
		})
	}, gaps
}

// A listener of a keyed topic drops what it cannot take, and is then given all keys: no later publication
// would show it the keys that it missed.
func TestSlowListenerGetsAllKeysAfterItsGap(t *testing.T) {
	t.Parallel()
	h := livetest.Hosting{}.Start(t, livetest.Open(live.Options{
		QueueSize: 10,
		Topics:    func(string) live.TopicOptions { return live.TopicOptions{Keyed: true} },
		Logger:    livetest.Quiet,
	}))
	hold := make(chan struct{})
	wait, gaps := hearTable(t, h.Server, hold)
	want := make(map[string]string)
	for i := range 30 {
		put(t, h, strconv.Itoa(i), "1")
		want[strconv.Itoa(i)] = "1"
	}
	for i := range 5 {
		remove(t, h, strconv.Itoa(i))
		delete(want, strconv.Itoa(i))
	}
	close(hold)
	wait(want)
	if n := gaps.Load(); n != 1 {
		t.Errorf("%d gaps", n)
	}
	put(t, h, "next", "1")
	want["next"] = "1"
	wait(want)
}

// The server begins its table anew, since it has missed more removals than the history remembers. A
// listener gets what clients get: a gap, and all keys.
func TestListenerGetsAllKeysOfATableThatBeginsAnew(t *testing.T) {
	t.Parallel()
	b := newLossyKeys()
	h := lossyKeysHost(t, b)
	open := make(chan struct{})
	close(open)
	wait, gaps := hearTable(t, h.Server, open)
	want := map[string]string{"known": "1", "lost": "1"}
	put(t, h, "known", "1")
	for i := range 300 {
		b.lost.Store(strconv.Itoa(i))
		put(t, h, strconv.Itoa(i), "1")
		remove(t, h, strconv.Itoa(i))
	}
	b.lost.Store("lost")
	put(t, h, "lost", "1")
	b.lost.Store("")
	wait(want)
	if gaps.Load() == 0 {
		t.Error("the table never began anew")
	}
}

// matching is a messaging system for which '>' and '*' are patterns.
type matching struct{ subs []matched }

type matched struct {
	subject string
	handler func([]byte)
}

func (m *matching) Publish(subject string, data []byte) error {
	for _, s := range m.subs {
		if s.subject == subject || s.subject == "chat.>" || s.subject == "chat.*" || s.subject == ">" {
			s.handler(data)
		}
	}
	return nil
}

func (m *matching) Subscribe(subject string, handler func([]byte)) (live.Subscription, error) {
	m.subs = append(m.subs, matched{subject, handler})
	return nothing{}, nil
}

func (m *matching) Close() error { return nil }

type nothing struct{}

func (nothing) Unsubscribe() error { return nil }

// A topic is a name also for a messaging system that knows patterns.
func TestTopicIsNoPattern(t *testing.T) {
	srv, _ := serve(t, live.Options{Broker: live.FromPubSub(&matching{})})
	heard := make(chan string, 10)
	for _, topic := range []string{"chat.>", "chat.*", ">", "chat.secret"} {
		if _, err := srv.Listen(topic, func(m live.Message) { heard <- topic }); err != nil {
			t.Fatal(err)
		}
	}
	for _, topic := range []string{"chat.secret", "chat.>", ">"} {
		if err := srv.Publish(topic, []byte("1")); err != nil {
			t.Fatal(err)
		}
		if got := livetest.Receive(t, heard); got != topic {
			t.Errorf("what was published to %q came to %q", topic, got)
		}
	}
	time.Sleep(20 * time.Millisecond)
	if len(heard) > 0 {
		t.Errorf("it came to %q too", <-heard)
	}
}

// ear keeps what a listener was called with.
type ear struct {
	mu   sync.Mutex
	data []string
}

func (e *ear) hear(m live.Message) { e.add(string(m.Data)) }

func (e *ear) add(data string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.data = append(e.data, data)
}

func (e *ear) all() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.data)
}

// wants waits for exactly these.
func (e *ear) wants(t testing.TB, want ...string) {
	t.Helper()
	livetest.Eventually(t, fmt.Sprintf("%d publications", len(want)), func() bool { return len(e.all()) >= len(want) })
	if got := e.all(); !slices.Equal(got, want) {
		t.Errorf("heard %.200v, want %.200v", got, want)
	}
}

func listen(t testing.TB, server *live.Server, topic string, fn func(live.Message)) live.Subscription {
	t.Helper()
	listening, err := server.Listen(topic, fn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listening.Unsubscribe() })
	return listening
}

// silenced waits until a topic has no listener and no subscriber.
func silenced(t testing.TB, server *live.Server) {
	t.Helper()
	livetest.Eventually(t, "the topics' end", func() bool { return server.Stats().Topics == 0 })
}

func TestListenHearsEveryPublicationInOrder(t *testing.T) {
	t.Parallel()
	for _, topic := range []string{"t", "chat"} {
		server := livetest.NewServer(t, livetest.Permissive())
		c := livetest.DialV1(t, livetest.Serve(t, server.Handler()))
		var one, other ear
		first := listen(t, server, topic, func(m live.Message) {
			if m.Topic != topic {
				t.Errorf("heard of topic %q", m.Topic)
			}
			one.hear(m)
		})
		second := listen(t, server, topic, other.hear)
		livetest.PublishNumbers(t, server, topic, 1, 100)
		livetest.PublishNumbers(t, server, "another", 1, 10)
		c.Must(`{"op":"publish","id":1,"topic":"` + topic + `","data":"from a client"}`)
		want := append(livetest.Numbers(1, 100), `"from a client"`)
		one.wants(t, want...)
		other.wants(t, want...)

		if err := first.Unsubscribe(); err != nil {
			t.Error(err)
		}
		if err := first.Unsubscribe(); err != nil { // again
			t.Error(err)
		}
		livetest.PublishNumbers(t, server, topic, 101, 101)
		other.wants(t, append(want, "101")...)
		one.wants(t, want...)
		second.Unsubscribe()
		silenced(t, server)
	}
}

// What a listener does with a message is its own affair.
func TestListenersDoNotShareTheirData(t *testing.T) {
	t.Parallel()
	server := livetest.NewServer(t, livetest.Permissive())
	c := livetest.DialV1(t, livetest.Serve(t, server.Handler()))
	c.Must(livetest.SubscribeTo(1, "chat"))
	var e ear
	spoiling := listen(t, server, "chat", func(m live.Message) {
		for i := range m.Data {
			m.Data[i] = 'x'
		}
	})
	hearing := listen(t, server, "chat", e.hear)
	livetest.PublishNumbers(t, server, "chat", 1, 50)
	e.wants(t, livetest.Numbers(1, 50)...)
	c.Hears("chat", livetest.Numbers(1, 50)...)
	if got := livetest.DataOf(c.Must(`{"op":"history","id":1,"topic":"chat","limit":50}`).Messages); !slices.Equal(got, livetest.Numbers(1, 50)) {
		t.Errorf("the history has %v", got)
	}
	spoiling.Unsubscribe()
	hearing.Unsubscribe()
}

// One that is slow holds up nobody, and loses the oldest.
func TestSlowListener(t *testing.T) {
	t.Parallel()
	const queue, published = 10, 100
	opts := livetest.Permissive()
	opts.QueueSize = queue
	logger, log := livetest.Logged()
	opts.Logger = logger
	server := livetest.NewServer(t, opts)
	var slow, quick ear
	entered, letGo := make(chan struct{}), make(chan struct{})
	first := listen(t, server, "t", func(m live.Message) {
		if string(m.Data) == "1" {
			close(entered)
			<-letGo
		}
		slow.hear(m)
	})
	second := listen(t, server, "t", quick.hear)
	livetest.PublishNumbers(t, server, "t", 1, 1)
	<-entered
	for n := 2; n <= published; n++ {
		livetest.PublishNumbers(t, server, "t", n, n) // returns although the listener does not
		quick.wants(t, livetest.Numbers(1, n)...)
	}
	close(letGo)
	slow.wants(t, append([]string{"1"}, livetest.Numbers(published-queue+1, published)...)...)
	livetest.Eventually(t, "the log", func() bool { return strings.Contains(log(), "too slow") })
	if text := log(); !strings.Contains(text, fmt.Sprintf("dropped=%d", published-queue-1)) || !strings.Contains(text, "topic=t") {
		t.Errorf("logged %s", text)
	}
	first.Unsubscribe()
	second.Unsubscribe()
}

// Code that watches a busy topic gets a few publications, and is not called too slow for the others.
func TestSampledListenerHearsAFewOfEachSecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, topics := range []func(string) live.TopicOptions{nil, livetest.Keeping("", live.TopicOptions{History: 5}), livetest.Keeping("", live.TopicOptions{Keyed: true})} {
			logger, log := livetest.Logged()
			server := livetest.NewServer(t, live.Options{QueueSize: 2, Logger: logger, Topics: topics})
			var sampled, one ear
			gap := live.OnGap(func(string) { t.Error("a gap") })
			for perSecond, heard := range map[int]*ear{10: &sampled, -1: &one} {
				listening, err := server.Listen("t", heard.hear, live.Sampled(perSecond), gap)
				if err != nil {
					t.Fatal(err)
				}
				defer listening.Unsubscribe()
			}
			publish := func(from, to int) {
				for n := from; n <= to; n++ {
					if err := server.Publish("t", fmt.Append(nil, n), live.Key("k")); err != nil {
						t.Fatal(err)
					}
				}
				synctest.Wait()
			}
			publish(1, 1000)
			sampled.wants(t, livetest.Numbers(1, 10)...)
			one.wants(t, "1")
			time.Sleep(time.Second)
			publish(1001, 1003)
			sampled.wants(t, append(livetest.Numbers(1, 10), "1001", "1002", "1003")...)
			one.wants(t, "1", "1001")
			if n := server.Stats().ListenerDropped; n != 0 || strings.Contains(log(), "too slow") {
				t.Errorf("%d publications count as dropped, and the log has %s", n, log())
			}
			if st, _ := server.TopicStats("t"); st.Published != 1003 {
				t.Errorf("the topic counts %d publications", st.Published)
			}
		}
	})
}

// A listener that is too slow for its sample is told of a gap, and is not flooded with the keys of the topic.
func TestSlowSampledListenerIsToldOfAGap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := livetest.NewServer(t, live.Options{QueueSize: 1, Logger: livetest.Quiet, Topics: livetest.Keeping("", live.TopicOptions{Keyed: true})})
		var heard ear
		goOn := make(chan struct{})
		listening, err := server.Listen("t", func(m live.Message) {
			heard.hear(m)
			<-goOn
		}, live.Sampled(2), live.OnGap(func(string) { heard.add("gap") }))
		if err != nil {
			t.Fatal(err)
		}
		defer listening.Unsubscribe()
		for n := range 6 { // 0 keeps fn busy, 1 is dropped, and 2 and 5 are beyond the sample
			if n == 3 {
				time.Sleep(time.Second)
			}
			if err := server.Publish("t", fmt.Append(nil, n), live.Key(fmt.Sprint(n))); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		close(goOn)
		synctest.Wait()
		heard.wants(t, "0", "gap", "3", "4")
		if n := server.Stats().ListenerDropped; n != 1 {
			t.Errorf("%d were dropped, want 1", n)
		}
	})
}

func TestListenerThatPanicsGoesOn(t *testing.T) {
	t.Parallel()
	opts := livetest.Permissive()
	logger, log := livetest.Logged()
	opts.Logger = logger
	server := livetest.NewServer(t, opts)
	var e ear
	listening := listen(t, server, "t", func(m live.Message) {
		if string(m.Data) == "2" {
			panic("boom of the listener")
		}
		e.hear(m)
	})
	livetest.PublishNumbers(t, server, "t", 1, 3)
	e.wants(t, "1", "3")
	if text := log(); !strings.Contains(text, "boom of the listener") {
		t.Errorf("logged %.300s", text)
	}
	if st := server.Stats(); st.Panics != 1 {
		t.Errorf("%d panics, want 1", st.Panics)
	}
	listening.Unsubscribe()
}

// Within a call everything may be done, its own end too.
func TestListenerThatActs(t *testing.T) {
	t.Parallel()
	server := livetest.NewServer(t, livetest.Permissive())
	var relayed, e ear
	listen(t, server, "out", relayed.hear)
	var listening live.Subscription
	ready := make(chan struct{})
	listening = listen(t, server, "in", func(m live.Message) {
		<-ready
		e.hear(m)
		server.Publish("out", m.Data)
		if string(m.Data) == "3" {
			listening.Unsubscribe()
		}
	})
	close(ready)
	livetest.PublishNumbers(t, server, "in", 1, 3)
	relayed.wants(t, "1", "2", "3")
	livetest.Eventually(t, "the listening's end", func() bool { return server.Stats().Topics == 1 })
	livetest.PublishNumbers(t, server, "in", 4, 10)
	server.Publish("out", []byte(`"end"`))
	relayed.wants(t, "1", "2", "3", `"end"`)
	e.wants(t, "1", "2", "3")
}

// After Unsubscribe what waits does not come any more: one call at most, which had begun.
func TestListeningThatEndsWhilePublishing(t *testing.T) {
	server := livetest.NewServer(t, livetest.Permissive())
	defer livetest.Hammer(server, "t")()
	livetest.Each(8, func(i int) {
		for range 200 {
			var mu sync.Mutex
			ended, late := false, 0
			listening, err := server.Listen("t", func(live.Message) {
				mu.Lock()
				defer mu.Unlock()
				if ended {
					late++
				}
			})
			if err != nil {
				t.Error(err)
				return
			}
			listening.Unsubscribe()
			mu.Lock()
			ended = true
			mu.Unlock()
			defer func() {
				mu.Lock()
				defer mu.Unlock()
				if late > 1 {
					t.Errorf("%d calls after the end", late)
				}
			}()
		}
	})
}

func TestListenOfTheSessionEndsWithIt(t *testing.T) {
	t.Parallel()
	var server *live.Server
	sessions := make(chan *live.Session, 1)
	told := make(chan bool, 1)
	var e ear
	opts := livetest.Permissive()
	opts.OnConnect = func(_ context.Context, s *live.Session) error {
		_, err := s.Listen("t", e.hear)
		sessions <- s
		return err
	}
	opts.OnClose = func(s *live.Session, _ error) {
		if n := server.Stats().Topics; n != 0 {
			t.Errorf("%d topics when OnClose runs", n)
		}
		told <- true
	}
	server = livetest.NewServer(t, opts)
	at := livetest.Serve(t, server.Handler())
	for round := range 20 {
		c := livetest.DialV1(t, at)
		s := <-sessions
		server.Publish("t", fmt.Appendf(nil, `%d`, round))
		e.wants(t, livetest.Numbers(0, round)...)
		c.Drop()
		livetest.Receive(t, told) // or the next session would listen while OnClose of this one counts
		silenced(t, server)
		server.Publish("t", []byte(`"late"`))
		if _, err := s.Listen("t", e.hear); err != live.ErrSessionClosed {
			t.Errorf("Listen of a closed session: %v", err)
		}
		silenced(t, server)
	}
	e.wants(t, livetest.Numbers(0, 19)...)
}

// Ending, and beginning to listen, at the same time leaves nothing behind.
func TestListenWhileTheSessionEnds(t *testing.T) {
	sessions := make(chan *live.Session, 1)
	opts := livetest.Permissive()
	opts.OnConnect = func(_ context.Context, s *live.Session) error { sessions <- s; return nil }
	server := livetest.NewServer(t, opts)
	at := livetest.Serve(t, server.Handler())
	for i := range 50 {
		c := livetest.DialV1(t, at)
		s := <-sessions
		var running sync.WaitGroup
		for k := range 4 {
			running.Go(func() {
				for {
					listening, err := s.Listen(fmt.Sprint("t", k), func(live.Message) {})
					if err == live.ErrSessionClosed {
						return
					}
					if err != nil {
						t.Error(err)
						return
					}
					if i%2 == 0 {
						listening.Unsubscribe()
					}
				}
			})
		}
		if i%3 == 0 {
			s.Close()
		} else {
			c.Drop()
		}
		running.Wait()
	}
	silenced(t, server)
}

func TestListenWhereThereIsNothing(t *testing.T) {
	t.Parallel()
	server := live.New(livetest.Permissive())
	for _, topic := range []string{"", strings.Repeat("x", 256), "\xff"} {
		if _, err := server.Listen(topic, func(live.Message) {}); !errors.Is(err, live.ErrInvalidTopic) {
			t.Errorf("topic %.10q: %v", topic, err)
		}
	}
	if err := server.Shutdown(context.Background()); err != nil {
		t.Fatal(err)
	}
	if _, err := server.Listen("t", func(live.Message) {}); err != live.ErrServerClosed {
		t.Errorf("after Shutdown: %v", err)
	}
	if err := live.Publish(server, "t", 1); !errors.Is(err, live.ErrServerClosed) {
		t.Errorf("Publish after Shutdown: %v", err)
	}
}

// Very many listeners end in about the time that they took to begin.
func TestManyListenersEndAsFastAsTheyBegan(t *testing.T) {
	const listeners = 100_000
	closed := make(chan struct{})
	opts, sessions := livetest.Connected(live.Options{OnClose: func(*live.Session, error) { close(closed) }})
	h := livetest.Hosting{}.Start(t, opts)
	p := h.Connect(t, livetest.Dialing{})
	s := livetest.Receive(t, sessions)
	begun := time.Now()
	var one live.Subscription
	for range listeners {
		var err error
		if one, err = s.Listen("t", func(live.Message) {}); err != nil {
			t.Fatal(err)
		}
	}
	toBegin := time.Since(begun)
	begun = time.Now()
	one.Unsubscribe()
	p.Reset()
	livetest.Receive(t, closed)
	if took := time.Since(begun); took > 3*toBegin+time.Second {
		t.Errorf("%d listeners ended in %v, and began in %v", listeners, took, toBegin)
	}
}
