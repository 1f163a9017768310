package natsbroker

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/internal/clock"
)

// subscribed reports whether the broker's server has a subscription for a topic.
func subscribed(t *testing.T, b *Broker, topic string) bool {
	t.Helper()
	tokens, err := encode(topic)
	if err != nil {
		t.Fatal(err)
	}
	return b.server.srv.GlobalAccount().SubscriptionInterest(b.deliverySubject(tokens))
}

func TestInterestFollowsSubscribers(t *testing.T) {
	const linger = 300 * time.Millisecond
	b := open(t, Options{Linger: linger})
	s := serve(t, b, nil)
	if subscribed(t, b, "room:1") {
		t.Fatal("the topic is subscribed before anybody has")
	}
	listen := func() live.Subscription {
		t.Helper()
		sub, err := s.Listen("room:1", func(live.Message) {})
		if err != nil {
			t.Fatal(err)
		}
		return sub
	}
	first, second := listen(), listen()
	waitFor(t, "the subscription", func() bool { return subscribed(t, b, "room:1") })
	first.Unsubscribe()
	time.Sleep(2 * linger) // there is still a subscriber
	if !subscribed(t, b, "room:1") {
		t.Error("the topic is not subscribed any more, and has a subscriber")
	}
	second.Unsubscribe()
	for end := time.Now().Add(2 * linger); time.Now().Before(end); time.Sleep(linger / 10) {
		again := listen() // like a page that is loaded again
		if !subscribed(t, b, "room:1") {
			t.Fatal("a short absence has ended the subscription")
		}
		again.Unsubscribe()
	}
	waitFor(t, "the end of the subscription", func() bool { return !subscribed(t, b, "room:1") })
	if in := b.hub.find("live.d.room.:1"); in != nil {
		t.Error("the topic is remembered")
	}
}

// The system's clock may be set while a topic lingers. Then the topic is neither kept for ever
// nor dropped at once.
func TestLingeringIsTimedByAClockThatNobodySets(t *testing.T) {
	b := open(t, Options{Linger: time.Hour})
	s := serve(t, b, nil)
	sub, err := s.Listen("room:1", func(live.Message) {})
	if err != nil {
		t.Fatal(err)
	}
	sub.Unsubscribe()
	in := b.hub.find("live.d.room.:1")
	if idle := time.Duration(clock.Now() - in.wantedUntil.Load()); idle < 0 || idle > time.Minute {
		t.Errorf("the topic has had no subscriber for %v", idle)
	}
}

func TestTopicsHaveNoGoroutines(t *testing.T) {
	b := open(t, Options{Streams: suiteStreams()})
	s := serve(t, b, nil)
	before := runtime.NumGoroutine()
	const topics = 500
	for i := range topics {
		if _, err := s.Listen(fmt.Sprint([]string{"plain:", "short:"}[i%2], i), func(live.Message) {}); err != nil {
			t.Fatal(err)
		}
	}
	waitFor(t, "an end of what goes on at first", func() bool { return runtime.NumGoroutine() < before+50 })
}
