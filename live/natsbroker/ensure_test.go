package natsbroker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/broker"
)

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

// A stream of another application stores one of our subjects. NATS does not name the stream,
// but our error does.
func TestOverlapNamesTheOtherStream(t *testing.T) {
	s := startServer(t)
	js := jetStreamOf(t, s.ClientURL())
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "AUDIT", Subjects: []string{"live.>"}}); err != nil {
		t.Fatal(err)
	}
	b, err := New(Options{Servers: []string{s.ClientURL()}, Streams: chatStream(StreamConfig{}), Logger: quiet()})
	if err == nil {
		b.Close(context.Background())
	}
	if err == nil || !strings.Contains(err.Error(), "AUDIT") || !strings.Contains(err.Error(), "live.s.chat.>") {
		t.Errorf("New: %v", err)
	}
}

// The default stream shrinks until it fits into a small NATS. If the application has chosen its
// size, it does not shrink, and Ready says why.
func TestSmallNATS(t *testing.T) {
	topics := rules{devNull{}, func(string) live.TopicOptions { return live.TopicOptions{History: 10} }}
	s := runServer(t, limited(512<<20))
	b := open(t, Options{Servers: []string{s.ClientURL()}})
	b.Start(topics)
	for range 2 { // the second broker finds a stream that is smaller than it should be
		if _, err := b.Publish(t.Context(), "room", []byte("1"), broker.PublishOptions{History: 10}); err != nil {
			t.Fatalf("to the default stream: %v", err)
		}
		if err := notReady(b); err != nil {
			t.Error(err)
		}
		b = open(t, Options{Servers: []string{s.ClientURL()}})
		b.Start(topics)
	}

	small := runServer(t, limited(1<<20))
	b = open(t, Options{Servers: []string{small.ClientURL()}, Default: StreamConfig{MaxBytes: 1 << 30}})
	b.Start(topics)
	before := time.Now()
	_, err := b.Publish(t.Context(), "room", []byte("1"), broker.PublishOptions{History: 10})
	if took := time.Since(before); !errors.Is(err, ErrFull) || took > 3*time.Second {
		t.Errorf("after %v: %v", took, err)
	}
	if err := notReady(b); !errors.Is(err, ErrFull) || !strings.Contains(err.Error(), "MaxBytes") {
		t.Errorf("Ready says %v", err)
	}

	b, err = New(Options{Servers: []string{small.ClientURL()}, Streams: chatStream(StreamConfig{MaxBytes: 1 << 30}), Logger: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close(context.Background()) })
	if err := notReady(b); !errors.Is(err, ErrFull) || !strings.Contains(err.Error(), "MaxBytes") {
		t.Errorf("Ready says %v", err)
	}
}

// EnsureStream changes a stream while publications are stored in it. They are not taken for
// lost, so the epoch stays.
func TestEnsureStreamWhilePublishing(t *testing.T) {
	b := open(t, Options{StoreDir: t.TempDir(), Streams: chatStream(StreamConfig{})})
	b.Start(devNull{})
	first, err := b.Publish(t.Context(), "chat.a", []byte("0"), broker.PublishOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var publishing sync.WaitGroup
	ctx, stop := context.WithCancel(t.Context())
	for range 8 {
		publishing.Go(func() { // ends with stop
			for ctx.Err() == nil {
				b.Publish(ctx, "chat.a", []byte("0"), broker.PublishOptions{})
			}
		})
	}
	defer publishing.Wait()
	defer stop()
	for i := range 50 {
		if err := b.EnsureStream(t.Context(), chatStream(StreamConfig{MaxMsgs: int64(100_000 + i)})[0]); err != nil {
			t.Fatal(err)
		}
		if now, err := b.Last(t.Context(), "chat.a"); err != nil || now.Epoch != first.Epoch {
			t.Fatalf("after %d calls the position is %v, %v, and was %v", i+1, now, err, first)
		}
	}
}

// EnsureStream is called for a topic that has a subscriber. The deliveries have the position
// that the stream gives them, also after the stream has another epoch.
func TestEnsureStreamReachesSubscribedTopics(t *testing.T) {
	b := open(t, Options{StoreDir: t.TempDir()})
	sink := make(deliveries, 10)
	b.Start(sink)
	if err := b.Subscribe(t.Context(), "chat.a"); err != nil {
		t.Fatal(err)
	}
	for i := range 4 {
		if err := b.EnsureStream(t.Context(), chatStream(StreamConfig{MaxMsgs: int64(100 + i)})[0]); err != nil {
			t.Fatal(err)
		}
		if i%2 == 1 { // a sequence was given twice, so the epoch ends
			st := (*b.streams.list.Load())[0]
			st.givenTwice(st.newestSeen().epoch)
			if _, err := b.Last(t.Context(), "chat.a"); err != nil {
				t.Fatal(err)
			}
		}
		want, err := b.Publish(t.Context(), "chat.a", []byte("1"), broker.PublishOptions{})
		if err != nil {
			t.Fatal(err)
		}
		select {
		case p := <-sink:
			if p.Position != want {
				t.Errorf("after %d calls: published at %v, delivered at %v", i+1, want, p.Position)
			}
		case <-time.After(patience):
			t.Fatal("nothing is delivered")
		}
	}
}

// deliveries is a sink.
type deliveries chan *broker.Publication

func (d deliveries) Deliver(p *broker.Publication) { d <- p }
func (d deliveries) Lost(string, error)            {}

// EnsureStream makes a stream of plain topics a stream of keyed ones, and back. What it kept before is no
// longer there for the topics.
func TestEnsureStreamMakesAStreamKeyed(t *testing.T) {
	for _, turns := range [][]bool{{false, true}, {true, false}} {
		t.Run(fmt.Sprint(turns), func(t *testing.T) {
			var isKeyed atomic.Bool
			b := open(t, Options{StoreDir: t.TempDir()})
			h := livetest.Hosting{}.Start(t, livetest.Open(live.Options{
				Broker: b,
				Topics: func(string) live.TopicOptions { return live.TopicOptions{Keyed: isKeyed.Load(), History: 100} },
				Logger: livetest.Quiet,
			}))
			var before string
			for _, turn := range turns {
				isKeyed.Store(turn)
				if err := b.EnsureStream(t.Context(), StreamConfig{Name: "TURNS", Subjects: []string{"k"}, Keyed: turn, MaxAge: time.Hour}); err != nil {
					t.Fatal(err)
				}
				c := livetest.DialV1(t, h.Endpoint)
				op := livetest.SubscribeTo(1, "k")
				if before != "" {
					op = livetest.ResumeFrom(1, "k", before)
				}
				c.Send(op)
				if f, _ := c.Reply(1); f.Op != "reply" || f.Keyed != turn || len(f.Messages) > 0 {
					t.Errorf("keyed %t: the reply is %s", turn, f.Raw)
				}
				for i := range 4 {
					var opts []live.PublishOption
					if turn {
						opts = append(opts, live.Key(fmt.Sprint(i%2)))
					}
					if err := h.Publish("k", fmt.Append(nil, i), opts...); err != nil {
						t.Fatal(err)
					}
				}
				for i := range 4 {
					f := c.Next()
					if string(f.Data) != fmt.Sprint(i) {
						t.Errorf("keyed %t: came %s", turn, f.Raw)
					}
					before = f.At
				}
				want := 4
				if turn {
					want = 2
				}
				messages, err := h.History(t.Context(), "k", 100)
				if err != nil || len(messages) != want {
					t.Errorf("keyed %t: the history is %v, %v", turn, messages, err)
				}
				c.Drop()
				livetest.Eventually(t, "the topic has no subscriber", func() bool { return h.Stats().Topics == 0 })
			}
		})
	}
}

// A stream that was keyed still marks where the last publication of a topic was too old. Such a marker is
// no publication.
func TestStreamThatWasKeyedDeliversNoMarkers(t *testing.T) {
	b := open(t, Options{StoreDir: t.TempDir()})
	s := serve(t, b, func(string) live.TopicOptions { return live.TopicOptions{History: 100} })
	config := StreamConfig{Name: "TURNS", Subjects: []string{"k"}, Keyed: true, MaxAge: time.Second}
	for _, isKeyed := range []bool{true, false} {
		config.Keyed = isKeyed
		if err := b.EnsureStream(t.Context(), config); err != nil {
			t.Fatal(err)
		}
	}
	heard := make(chan string, 10)
	if _, err := s.Listen("k", func(m live.Message) { heard <- string(m.Data) }, live.OnGap(func(string) { heard <- "gap" })); err != nil {
		t.Fatal(err)
	}
	if err := s.Publish("k", []byte("1")); err != nil {
		t.Fatal(err)
	}
	livetest.Eventually(t, "the publication is too old", func() bool {
		messages, err := s.History(t.Context(), "k", 10)
		return err == nil && len(messages) == 0
	})
	if err := s.Publish("k", []byte("2")); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"1", "2"} {
		if got := livetest.Receive(t, heard); got != want {
			t.Errorf("heard %q, want %q", got, want)
		}
	}
}

// A stream that becomes keyed while the program runs, or gets another MaxAge, ends keys as one that was made
// so.
func TestKeysEndInAStreamThatWasChanged(t *testing.T) {
	t.Parallel()
	for what, before := range map[string]StreamConfig{
		"plain":          {MaxAge: time.Second},
		"plain, no age":  {},
		"keyed, no age":  {Keyed: true},
		"keyed, an hour": {Keyed: true, MaxAge: time.Hour},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			b := open(t, Options{StoreDir: t.TempDir()})
			s := serve(t, b, keyed(100, 0))
			before.Name, before.Subjects = "TURNS", []string{"k"}
			after := StreamConfig{Name: "TURNS", Subjects: []string{"k"}, Keyed: true, MaxAge: time.Second}
			for _, c := range []StreamConfig{before, after} {
				if err := b.EnsureStream(t.Context(), c); err != nil {
					t.Fatal(err)
				}
			}
			removed := make(chan string, 10)
			if _, err := s.Listen("k", func(m live.Message) {
				if m.Removed {
					removed <- m.Key
				}
			}); err != nil {
				t.Fatal(err)
			}
			mustPut(t, s, "k", "a", "1")
			if key := livetest.Receive(t, removed); key != "a" {
				t.Errorf("%q is removed", key)
			}
		})
	}
}
