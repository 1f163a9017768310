package natsbroker

import (
	"context"
	"errors"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/broker"
)

// jetStreamOf returns an operator's connection to a server.
func jetStreamOf(t testing.TB, url string) jetstream.JetStream {
	t.Helper()
	nc, err := nats.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

func configOf(t testing.TB, js jetstream.JetStream, stream string) jetstream.StreamConfig {
	t.Helper()
	there, err := js.Stream(t.Context(), stream)
	if err != nil {
		t.Fatal(err)
	}
	return there.CachedInfo().Config
}

func messagesIn(t testing.TB, js jetstream.JetStream, stream string) uint64 {
	t.Helper()
	there, err := js.Stream(t.Context(), stream)
	if err != nil {
		t.Fatal(err)
	}
	return there.CachedInfo().State.Msgs
}

// Another program has a stream of the configured name. Nothing touches the stream, and each
// call says why it fails.
func TestStreamsOfOthersAreLeftAlone(t *testing.T) {
	for name, theirs := range map[string]jetstream.StreamConfig{
		"of another program":           {Subjects: []string{"orders.>"}},
		"of a program with our topic":  {Subjects: []string{"live.s.chat.>"}},
		"of a program with all topics": {Subjects: []string{"live.>"}},
		"that sends on elsewhere": {Subjects: []string{"live.s.chat.>"},
			RePublish: &jetstream.RePublish{Source: "live.s.>", Destination: "orders.d.>"}},
		"with more subjects than ours": {Subjects: []string{"live.s.chat.>", "orders.>"},
			RePublish: &jetstream.RePublish{Source: "live.s.>", Destination: "live.d.>"}},
		"of another prefix": {Subjects: []string{"other.s.chat.>"}, Metadata: map[string]string{ownerKey: "other"},
			RePublish: &jetstream.RePublish{Source: "other.s.>", Destination: "other.d.>"}},
		"of another prefix, from before": {Subjects: []string{"other.s.chat.>"},
			RePublish: &jetstream.RePublish{Source: "other.s.>", Destination: "other.d.>"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // it mostly waits for the next attempt
			s := startServer(t)
			js := jetStreamOf(t, s.ClientURL())
			theirs.Name = "CHAT"
			made, err := js.CreateStream(t.Context(), theirs)
			if err != nil {
				t.Fatal(err)
			}
			want := made.CachedInfo().Config

			o := Options{Servers: []string{s.ClientURL()}, Streams: chatStream(StreamConfig{MaxAge: time.Hour}), Logger: quiet()}
			if b, err := New(o); !errors.Is(err, ErrNotOurs) || !strings.Contains(err.Error(), "Name") {
				t.Errorf("New: %v", err)
				if err == nil {
					b.Close(context.Background())
				}
			}
			b := open(t, Options{Servers: []string{s.ClientURL()}})
			b.Start(devNull{})
			if err := b.EnsureStream(t.Context(), o.Streams[0]); !errors.Is(err, ErrNotOurs) {
				t.Errorf("EnsureStream: %v", err)
			}

			// As if NATS had been down when New was called.
			later := newStream(b, o.Streams[0])
			b.streams.set(later)
			for range 3 {
				before := time.Now()
				_, err = b.Publish(t.Context(), "chat.room", []byte("1"), broker.PublishOptions{})
				if took := time.Since(before); !errors.Is(err, ErrNotOurs) || took > time.Second {
					t.Errorf("Publish: after %v %v", took, err)
				}
			}
			if err := notReady(b); !errors.Is(err, ErrNotOurs) {
				t.Errorf("Ready says %v", err)
			}
			if _, err := b.Tail(t.Context(), "chat.room", 10); !errors.Is(err, ErrNotOurs) {
				t.Errorf("Tail: %v", err)
			}
			if _, err := b.Last(t.Context(), "chat.room"); !errors.Is(err, ErrNotOurs) {
				t.Errorf("Last: %v", err)
			}
			is := configOf(t, js, "CHAT")
			if !reflect.DeepEqual(is, want) || messagesIn(t, js, "CHAT") != 0 {
				t.Errorf("the stream was changed\nfrom %+v\nto   %+v", want, is)
			}

			// The owner deletes the stream, and everything works without a restart.
			if err := js.DeleteStream(t.Context(), "CHAT"); err != nil {
				t.Fatal(err)
			}
			waitFor(t, "a publication to be stored", func() bool {
				_, err := b.Publish(t.Context(), "chat.room", []byte("1"), broker.PublishOptions{})
				return err == nil
			})
		})
	}
}

// Streams that were made before there was a mark are ours, and get the mark.
func TestStreamsWithoutAMarkAreTakenOver(t *testing.T) {
	s := startServer(t)
	js := jetStreamOf(t, s.ClientURL())
	for _, theirs := range []jetstream.StreamConfig{
		{Name: "CHAT", Subjects: []string{"live.s.old.chat.>", "live.s.room.*"},
			RePublish: &jetstream.RePublish{Source: "live.s.>", Destination: "live.d.>"}},
		{Name: "LIVE", Subjects: []string{"live.h.>"},
			RePublish: &jetstream.RePublish{Source: "live.h.>", Destination: "live.d.>"}},
	} {
		if _, err := js.CreateStream(t.Context(), theirs); err != nil {
			t.Fatal(err)
		}
	}
	b := open(t, Options{Servers: []string{s.ClientURL()}, Streams: chatStream(StreamConfig{})})
	b.Start(rules{devNull{}, func(string) live.TopicOptions { return live.TopicOptions{History: 1} }})
	for _, topic := range []string{"chat.room", "another"} {
		if _, err := b.Publish(t.Context(), topic, []byte("1"), broker.PublishOptions{History: 1}); err != nil {
			t.Errorf("%s: %v", topic, err)
		}
	}
	for _, name := range []string{"CHAT", "LIVE"} {
		if is := configOf(t, js, name); is.Metadata[ownerKey] != "live" || !is.AllowDirect {
			t.Errorf("stream %s is %+v", name, is)
		}
	}
}

// Two applications have a stream of the same name on one NATS. The second application gets an
// error, and the stream of the first stays unchanged, however much both publish.
func TestTwoApplicationsWithOneName(t *testing.T) {
	s := startServer(t)
	js := jetStreamOf(t, s.ClientURL())
	a := open(t, Options{Servers: []string{s.ClientURL()}, Prefix: "a", Streams: chatStream(StreamConfig{})})
	a.Start(devNull{})
	before := configOf(t, js, "CHAT")
	if b, err := New(Options{Servers: []string{s.ClientURL()}, Prefix: "b", Streams: chatStream(StreamConfig{}), Logger: quiet()}); !errors.Is(err, ErrNotOurs) {
		t.Errorf("New of the second: %v", err)
		if err == nil {
			b.Close(context.Background())
		}
	}
	b := open(t, Options{Servers: []string{s.ClientURL()}, Prefix: "b", Streams: []StreamConfig{{Name: "CHAT2", Subjects: []string{"chat.>"}}}})
	b.Start(devNull{})
	for range 5 {
		for name, br := range map[string]*Broker{"a": a, "b": b} {
			if _, err := br.Publish(t.Context(), "chat.room", []byte("1"), broker.PublishOptions{}); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	if is := configOf(t, js, "CHAT"); !reflect.DeepEqual(is, before) {
		t.Errorf("the first one's stream became %+v", is)
	}
	// Two prefixes that differ only in case have default streams of the same name.
	history := rules{devNull{}, func(string) live.TopicOptions { return live.TopicOptions{History: 1} }}
	lower := open(t, Options{Servers: []string{s.ClientURL()}, Prefix: "room"})
	lower.Start(history)
	if _, err := lower.Publish(t.Context(), "x", []byte("1"), broker.PublishOptions{History: 1}); err != nil {
		t.Error(err)
	}
	book := &logBook{least: slog.LevelInfo}
	upper := open(t, Options{Servers: []string{s.ClientURL()}, Prefix: "ROOM", Logger: slog.New(book)})
	upper.Start(history)
	for range 3 {
		if _, err := upper.Publish(t.Context(), "x", []byte("1"), broker.PublishOptions{History: 1}); !errors.Is(err, ErrNotOurs) {
			t.Errorf("the default stream of another application: %v", err)
		}
	}
	if lines := book.find("WARN"); len(lines) != 1 {
		t.Errorf("warned %d times: %q", len(lines), lines)
	}
	if err := notReady(upper); !errors.Is(err, ErrNotOurs) {
		t.Errorf("Ready says %v", err)
	}
}

// During a rollout, instances with new options run beside instances with old options. The last
// instance that started decides, and publishing changes nothing.
func TestInstancesWithDifferentOptionsDoNotFight(t *testing.T) {
	s := startServer(t)
	js := jetStreamOf(t, s.ClientURL())
	// JetStream's advisories show the changes.
	nc := js.Conn()
	var mu sync.Mutex
	changes := 0
	if _, err := nc.Subscribe("$JS.EVENT.ADVISORY.STREAM.UPDATED.>", func(*nats.Msg) { mu.Lock(); changes++; mu.Unlock() }); err != nil {
		t.Fatal(err)
	}
	old := open(t, Options{Servers: []string{s.ClientURL()}, Streams: chatStream(StreamConfig{MaxAge: time.Hour})})
	old.Start(devNull{})
	recent := open(t, Options{Servers: []string{s.ClientURL()}, Streams: chatStream(StreamConfig{MaxAge: 2 * time.Hour})})
	recent.Start(devNull{})
	publish := func() {
		for range 5 {
			for _, b := range []*Broker{old, recent} {
				if _, err := b.Publish(t.Context(), "chat.room", []byte("1"), broker.PublishOptions{}); err != nil {
					t.Error(err)
				}
			}
		}
	}
	publish()
	for _, b := range []*Broker{old, recent} { // as after a publication without an answer
		for _, st := range *b.streams.list.Load() {
			st.triedAt = time.Time{}
			if err := st.remake(t.Context()); err != nil {
				t.Error(err)
			}
		}
	}
	publish()
	if is := configOf(t, js, "CHAT"); is.MaxAge != 2*time.Hour {
		t.Errorf("MaxAge is %v, and the last that started wants 2 hours", is.MaxAge)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	if changes > 1 {
		t.Errorf("the stream was changed %d times", changes)
	}
}

// An instance with other Subjects has changed the stream. A publication to a topic that it no
// longer covers fails at once.
func TestTopicThatItsStreamNoLongerTakes(t *testing.T) {
	s := startServer(t)
	js := jetStreamOf(t, s.ClientURL())
	b := open(t, Options{Servers: []string{s.ClientURL()}, Streams: chatStream(StreamConfig{})})
	b.Start(devNull{})
	alter(t, js, func(c *jetstream.StreamConfig) { c.Subjects = []string{"live.s.talk.>"} })
	before := time.Now()
	_, err := b.Publish(t.Context(), "chat.room", []byte("1"), broker.PublishOptions{})
	if took := time.Since(before); err == nil || !strings.Contains(err.Error(), "Subjects") || took > 2*time.Second {
		t.Errorf("after %v: %v", took, err)
	}
	if is := configOf(t, js, "CHAT"); !slices.Equal(is.Subjects, []string{"live.s.talk.>"}) {
		t.Errorf("the publication changed the subjects to %v", is.Subjects)
	}
}
