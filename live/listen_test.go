package live_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
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
