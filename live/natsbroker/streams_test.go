package natsbroker

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/broker"
)

func TestOptionsThatMakeNoSense(t *testing.T) {
	chat := StreamConfig{Name: "CHAT", Subjects: []string{"chat.>"}}
	with := func(change func(c *StreamConfig)) []StreamConfig {
		c := chat
		change(&c)
		return []StreamConfig{c}
	}
	for want, o := range map[string]Options{
		"both Servers and Conn":   {Servers: []string{"nats://127.0.0.1:1"}, Conn: &nats.Conn{}},
		"Options.Cluster":         {Servers: []string{"nats://127.0.0.1:1"}, Cluster: &Cluster{Listen: "127.0.0.1:0"}},
		"Options.StoreDir":        {Servers: []string{"nats://127.0.0.1:1"}, StoreDir: "x"},
		"Options.Connect":         {Connect: []nats.Option{nats.Name("x")}},
		`prefix "a.b"`:            {Prefix: "a.b"},
		`prefix ">"`:              {Prefix: ">"},
		"Options.Default":         {Default: chat},
		"two streams":             {Streams: []StreamConfig{chat, chat}},
		`"CH.AT" cannot be`:       {Streams: with(func(c *StreamConfig) { c.Name = "CH.AT" })},
		`"" cannot be the name`:   {Streams: with(func(c *StreamConfig) { c.Name = "" })},
		"covers no topic":         {Streams: with(func(c *StreamConfig) { c.Subjects = nil })},
		"an empty part":           {Streams: with(func(c *StreamConfig) { c.Subjects = []string{"a..b"} })},
		"a negative bound":        {Streams: with(func(c *StreamConfig) { c.MaxMsgs = -1 })},
		"MaxAge is under 100 ms":  {Streams: with(func(c *StreamConfig) { c.MaxAge = time.Millisecond })},
		"name of Options.Default": {Streams: with(func(c *StreamConfig) { c.Name = "LIVE" })},
	} {
		wantRefused(t, o, want)
	}
}

// wantRefused checks that New refuses options, with an error that has a text.
func wantRefused(t *testing.T, o Options, want string) {
	t.Helper()
	o.Logger = quiet()
	b, err := New(o)
	if err == nil {
		b.Close(context.Background())
	}
	if err == nil || !strings.HasPrefix(err.Error(), "natsbroker: ") || !strings.Contains(err.Error(), want) {
		t.Errorf("the error is %v; want one with %q", err, want)
	}
}

func TestEnsureStreamChangesWhatIsThere(t *testing.T) {
	b := open(t, Options{Streams: []StreamConfig{{Name: "CHAT", Subjects: []string{"chat.>"}, MaxMsgs: 100}}})
	b.Start(devNull{})
	ctx := t.Context()
	if _, err := b.Publish(ctx, "chat:1", []byte("1"), broker.PublishOptions{}); err != nil {
		t.Fatal(err)
	}
	there, err := b.JetStream().Stream(ctx, "CHAT")
	if err != nil {
		t.Fatal(err)
	}
	operators := there.CachedInfo().Config
	operators.Description = "what an operator has written"
	if _, err := b.JetStream().UpdateStream(ctx, operators); err != nil {
		t.Fatal(err)
	}

	err = b.EnsureStream(ctx, StreamConfig{Name: "CHAT", Subjects: []string{"chat.>", "talk:>"}, MaxAge: time.Hour, MaxMsgsPerTopic: 7})
	if err != nil {
		t.Fatal(err)
	}
	there, err = b.JetStream().Stream(ctx, "CHAT")
	if err != nil {
		t.Fatal(err)
	}
	is := there.CachedInfo().Config
	if is.MaxMsgs != -1 || is.MaxAge != time.Hour || is.MaxMsgsPerSubject != 7 || is.Description != operators.Description {
		t.Errorf("the stream is %+v", is)
	}
	if got := fmt.Sprint(is.Subjects); got != "[live.s.chat.> live.s.talk.>]" {
		t.Errorf("its subjects are %s", got)
	}
	page, err := b.Tail(ctx, "chat:1", 10)
	if err != nil || len(page.Publications) != 1 {
		t.Errorf("after the change there are %d publications, %v", len(page.Publications), err)
	}
	if !b.Keeps("talk.x") || b.Keeps("other") {
		t.Error("Keeps does not say what the stream covers")
	}
}

func TestStreamsMayNotOverlap(t *testing.T) {
	b := open(t, Options{Streams: []StreamConfig{{Name: "CHAT", Subjects: []string{"chat.>"}}}})
	err := b.EnsureStream(t.Context(), StreamConfig{Name: "ROOMS", Subjects: []string{"chat:room:*"}})
	if err == nil || !strings.Contains(err.Error(), "overlap") {
		t.Errorf("a second stream for the same topics: %v", err)
	}
	if err := b.EnsureStream(t.Context(), StreamConfig{Name: "LIVE", Subjects: []string{"x"}}); err == nil {
		t.Error("a stream may take the default one's name")
	}
}

// server is a live server over a broker, closed with the test.
func serve(t *testing.T, b *Broker, topics func(string) live.TopicOptions) *live.Server {
	t.Helper()
	s := live.New(live.Options{Broker: b, Topics: topics, Logger: quiet()})
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		s.Shutdown(ctx)
	})
	return s
}

// A program that has only TopicOptions moves to NATS by one option, and what it has said
// is there when it is started anew.
func TestTopicsWithHistoryNeedNoStream(t *testing.T) {
	dir := t.TempDir()
	topics := func(topic string) live.TopicOptions {
		if strings.HasPrefix(topic, "room:") {
			return live.TopicOptions{History: 10}
		}
		return live.TopicOptions{}
	}
	for run := range 3 {
		b, err := New(Options{StoreDir: dir, Logger: quiet()})
		if err != nil {
			t.Fatal(err)
		}
		s := live.New(live.Options{Broker: b, Topics: topics, Logger: quiet()})
		if err := live.Publish(s, "room:a", run); err != nil {
			t.Fatal(err)
		}
		got, err := live.History[int](t.Context(), s, "room:a", 10)
		if err != nil {
			t.Fatal(err)
		}
		if want := []int{0, 1, 2}[:run+1]; fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("run %d: the history is %v, want %v", run, got, want)
		}
		if _, err := s.History(t.Context(), "other", 10); err == nil {
			t.Error("a topic without history has one")
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		if err := s.Shutdown(ctx); err != nil {
			t.Fatal(err)
		}
		cancel()
	}
}

// What a topic has published may all have grown too old, and the stream be full of
// others: a subscriber that has seen it all has missed nothing.
func TestTopicThatIsQuietForLongHasNoGap(t *testing.T) {
	b := open(t, Options{Streams: []StreamConfig{{Name: "S", Subjects: []string{"s.>"}, MaxAge: 500 * time.Millisecond}}})
	b.Start(devNull{})
	ctx := t.Context()
	publish := func(topic string) live.Position {
		t.Helper()
		at, err := b.Publish(ctx, topic, []byte("1"), broker.PublishOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return at
	}
	if err := b.Subscribe(ctx, "s.quiet"); err != nil {
		t.Fatal(err)
	}
	at := publish("s.quiet")
	check := func() live.Position {
		t.Helper()
		last, err := b.Last(ctx, "s.quiet")
		if err != nil {
			t.Fatal(err)
		}
		page, err := b.Read(ctx, "s.quiet", at.Offset, last.Offset, 10)
		if err != nil {
			t.Fatal(err)
		}
		if !page.Complete || page.Upto < last.Offset || len(page.Publications) > 0 {
			t.Fatalf("from %d to %d: %d publications, complete %v, up to %d", at.Offset, last.Offset, len(page.Publications), page.Complete, page.Upto)
		}
		return last
	}
	for deadline := time.Now().Add(2 * time.Second); time.Now().Before(deadline); {
		publish("s.busy")
		at = check() // as the server does now and then
		time.Sleep(20 * time.Millisecond)
	}
	page, err := b.Tail(ctx, "s.quiet", 10)
	if err != nil || len(page.Publications) > 0 {
		t.Fatalf("%d publications are there still, %v", len(page.Publications), err)
	}
	// One that has not looked for longer than publications are kept cannot know.
	for deadline := time.Now().Add(1200 * time.Millisecond); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		publish("s.busy")
	}
	last, err := b.Last(ctx, "s.other") // the stream's newest
	if err != nil {
		t.Fatal(err)
	}
	if page, err := b.Read(ctx, "s.other", 1, last.Offset, 10); err != nil || page.Complete {
		t.Errorf("what was dropped unseen is taken for complete: %+v, %v", page, err)
	}
}
