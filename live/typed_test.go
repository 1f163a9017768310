package live_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
)

// order is what an application publishes.
type order struct {
	ID    int      `json:"id"`
	Items []string `json:"items,omitempty"`
}

func TestTypedPublishAndListen(t *testing.T) {
	t.Parallel()
	opts := livetest.Permissive()
	logger, log := livetest.Logged()
	opts.Logger = logger
	server := livetest.NewServer(t, opts)
	c := livetest.DialV1(t, livetest.Serve(t, server.Handler()))
	c.Must(livetest.SubscribeTo(1, "chat:orders"))
	var e ear
	listening, err := live.Listen(server, "chat:orders", func(o order) { e.add(fmt.Sprintf("%+v", o)) })
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range []order{{1, nil}, {2, []string{"a", "<b>"}}} {
		if err := live.Publish(server, "chat:orders", o); err != nil {
			t.Fatal(err)
		}
	}
	for i, want := range []string{`{"id":1}`, `{"id":2,"items":["a","<b>"]}`} {
		var got, wanted any
		json.Unmarshal(c.Next().Data, &got)
		json.Unmarshal([]byte(want), &wanted)
		if fmt.Sprint(got) != fmt.Sprint(wanted) {
			t.Errorf("publication %d is %v, want %v", i, got, wanted)
		}
	}
	server.Publish("chat:orders", []byte(`"no order"`))
	server.Publish("chat:orders", nil)
	server.Publish("chat:orders", []byte(`{"id":4,"more":true}`))
	e.wants(t, "{ID:1 Items:[]}", "{ID:2 Items:[a <b>]}", "{ID:0 Items:[]}", "{ID:4 Items:[]}")
	if text := log(); strings.Count(text, "does not decode") != 1 || !strings.Contains(text, "level=ERROR") || strings.Contains(text, "no order") {
		t.Errorf("logged %s, want one error without the data", text)
	}
	listening.Unsubscribe()

	if err := live.Publish(server, "t", make(chan int)); !errors.Is(err, live.ErrInvalidData) {
		t.Errorf("a channel: %v", err)
	}
	if err := live.Publish(server, "", 1); !errors.Is(err, live.ErrInvalidTopic) {
		t.Errorf("no topic: %v", err)
	}
	if _, err := live.Listen(server, "", func(int) {}); !errors.Is(err, live.ErrInvalidTopic) {
		t.Errorf("no topic: %v", err)
	}
}

func TestReplayHistory(t *testing.T) {
	t.Parallel()
	server := livetest.NewServer(t, livetest.Permissive())
	ctx := context.Background()
	if all, err := live.History[order](ctx, server, "chat:orders", 10); err != nil || len(all) != 0 {
		t.Errorf("of a new topic: %v, %v", all, err)
	}
	for i := range 150 {
		live.Publish(server, "chat:orders", order{ID: i})
	}
	for limit, first := range map[int]int{3: 147, 100: 50, 1000: 50} { // 100 are kept
		all, err := live.History[order](ctx, server, "chat:orders", limit)
		if err != nil || len(all) != 150-first || all[0].ID != first || all[len(all)-1].ID != 149 {
			t.Errorf("of %d: %d from %v on, %v", limit, len(all), all[:min(1, len(all))], err)
		}
	}
	if all, err := live.History[order](ctx, server, "chat:orders", 0); err != nil || len(all) != 0 {
		t.Errorf("of 0: %v, %v", all, err)
	}
	server.Publish("chat:orders", []byte(`"no order"`))
	if all, err := live.History[order](ctx, server, "chat:orders", 10); err == nil || all != nil {
		t.Errorf("of what does not decode: %v, %v", all, err)
	}
	if _, err := live.History[order](ctx, server, "t", 10); !errors.Is(err, live.ErrNoHistory) {
		t.Errorf("of a topic without: %v", err)
	}
	if _, err := server.History(ctx, "", 10); !errors.Is(err, live.ErrInvalidTopic) {
		t.Errorf("of no topic: %v", err)
	}
}

// Bytes are JSON already: they are published as they are, and come so.
func TestTypedPublishOfJSON(t *testing.T) {
	t.Parallel()
	server := livetest.NewServer(t, live.Options{Topics: func(string) live.TopicOptions { return live.TopicOptions{History: 10} }})
	heard := make(chan string, 2)
	sub, err := live.Listen(server, "t", func(b []byte) { heard <- string(b) })
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Unsubscribe()
	if err := errors.Join(live.Publish(server, "t", []byte(`{"a": 1}`)), live.Publish(server, "t", json.RawMessage(`[ 2 ]`))); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`{"a": 1}`, `[ 2 ]`} {
		if got := livetest.Receive(t, heard); got != want {
			t.Errorf("%s came as %s", want, got)
		}
	}
	if all, err := live.History[json.RawMessage](t.Context(), server, "t", 5); err != nil || len(all) != 2 || string(all[0]) != `{"a": 1}` {
		t.Errorf("%s, %v", all, err)
	}
	if err := live.Publish(server, "t", []byte("{")); !errors.Is(err, live.ErrInvalidData) {
		t.Error(err)
	}
}
