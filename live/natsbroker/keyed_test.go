package natsbroker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/broker"
)

func keyed(history int, age time.Duration) func(string) live.TopicOptions {
	return func(string) live.TopicOptions {
		return live.TopicOptions{Keyed: true, History: history, HistoryAge: age}
	}
}

// valuesOf returns what the history has of a keyed topic.
func valuesOf(t testing.TB, s *live.Server, topic string) map[string]string {
	t.Helper()
	messages, err := s.History(t.Context(), topic, 1000)
	if err != nil {
		t.Fatal(err)
	}
	values := make(map[string]string)
	for _, m := range messages {
		values[m.Key] = string(m.Data)
	}
	return values
}

func mustPut(t testing.TB, s *live.Server, topic, key, data string) {
	t.Helper()
	if err := s.Publish(topic, []byte(data), live.Key(key)); err != nil {
		t.Fatal(err)
	}
}

func TestKeyedTopicKeepsTheNewestOfEachKey(t *testing.T) {
	for what, o := range map[string]Options{
		"default stream": {},
		"own stream":     {Streams: []StreamConfig{{Name: "KEYED", Subjects: []string{"cursors.>"}, Keyed: true}}},
	} {
		t.Run(what, func(t *testing.T) {
			b := open(t, o)
			s := serve(t, b, keyed(0, 0))
			const topic = "cursors.room:1"
			mustPut(t, s, topic, "a", "1")
			mustPut(t, s, topic, "b.c d", "2")
			mustPut(t, s, topic, "a", "3")
			mustPut(t, s, "cursors.room", "a", "0")
			mustPut(t, s, topic, "gone", "4")
			if err := s.Remove(topic, "gone"); err != nil {
				t.Fatal(err)
			}
			want := map[string]string{"a": "3", "b.c d": "2"}
			if got := valuesOf(t, s, topic); !maps.Equal(got, want) {
				t.Errorf("the history has %v, want %v", got, want)
			}
		})
	}
}

// A client follows a keyed topic at one node, is away while others publish, and comes back to
// another node.
func TestKeyedTopicIsTheSameAtAllNodes(t *testing.T) {
	t.Parallel()
	nodes := openCluster(t, 3)
	var hosts []*livetest.Host
	for _, b := range nodes {
		hosts = append(hosts, livetest.Hosting{}.Start(t, livetest.Open(live.Options{
			Broker: b, Topics: keyed(0, 0), Logger: livetest.Quiet,
		})))
	}
	want := make(map[string]string)
	put := func(i int) {
		key := strconv.Itoa(i % 40)
		if i%7 == 0 {
			delete(want, key)
			if err := hosts[i%3].Remove("k", key); err != nil {
				t.Fatal(err)
			}
			return
		}
		want[key] = strconv.Itoa(i)
		mustPut(t, hosts[i%3].Server, "k", key, want[key])
	}
	for i := range 100 {
		put(i)
	}
	var f folded
	at := f.follow(t, hosts[0], "", want)
	for i := 100; i < 180; i++ {
		put(i)
	}
	f.follow(t, hosts[1], at, want)
	var fresh folded
	fresh.follow(t, hosts[2], "", want)
}

// folded is what a client knows of a keyed topic.
type folded map[string]string

// follow subscribes a client, and reads until it knows what it should.
func (f *folded) follow(t testing.TB, h *livetest.Host, since string, want map[string]string) (at string) {
	t.Helper()
	c := livetest.DialV1(t, h.Endpoint)
	defer c.Drop()
	op := livetest.SubscribeTo(1, "k")
	if since != "" {
		op = livetest.ResumeFrom(1, "k", since)
	}
	c.Send(op)
	for at == "" || !maps.Equal(*f, want) {
		m := c.Next()
		if m.Op == "reply" && !m.WasRecovered() || m.Op == "gap" {
			*f, at = folded{}, ""
		}
		for _, one := range m.Messages {
			f.set(one.Key, string(one.Data), one.Removed)
		}
		if m.IsPublication() {
			f.set(m.Key, string(m.Data), m.Removed)
		}
		if m.At != "" {
			at = m.At
		}
	}
	return at
}

func (f *folded) set(key, data string, removed bool) {
	if removed {
		delete(*f, key)
		return
	}
	(*f)[key] = data
}

func TestKeyedTopicHasSoManyKeys(t *testing.T) {
	s := serve(t, open(t, Options{}), keyed(2, 0))
	mustPut(t, s, "k", "a", "1")
	mustPut(t, s, "k", "b", "1")
	if err := s.Publish("k", []byte("1"), live.Key("c")); !errors.Is(err, live.ErrTooManyKeys) {
		t.Errorf("the third key: %v", err)
	}
	mustPut(t, s, "k", "a", "2")
	if err := s.Remove("k", "b"); err != nil {
		t.Fatal(err)
	}
	mustPut(t, s, "k", "c", "1")
	if got := valuesOf(t, s, "k"); !maps.Equal(got, map[string]string{"a": "2", "c": "1"}) {
		t.Errorf("the history has %v", got)
	}
}

// Another instance removes keys that this instance has published. They count as new ones when they come
// back, whether this instance has a subscriber of the topic or not.
func TestKeysThatAnotherInstanceRemovedAreCountedAgain(t *testing.T) {
	for _, listens := range []bool{true, false} {
		t.Run(fmt.Sprint("listens ", listens), func(t *testing.T) {
			servers := []string{startServer(t).ClientURL()}
			first, second := open(t, Options{Servers: servers}), open(t, Options{Servers: servers})
			s, other := serve(t, first, keyed(2, 0)), serve(t, second, keyed(2, 0))
			heard := make(chan live.Message, 10)
			if listens {
				if _, err := s.Listen("k", func(m live.Message) { heard <- m }); err != nil {
					t.Fatal(err)
				}
			}
			mustPut(t, s, "k", "a", "1")
			mustPut(t, s, "k", "b", "1")
			if err := other.Remove("k", "a"); err != nil {
				t.Fatal(err)
			}
			mustPut(t, other, "k", "c", "1")
			if listens {
				for m := livetest.Receive(t, heard); !m.Removed; m = livetest.Receive(t, heard) {
				}
			} else {
				first.streams.keyed.stream.known.forget(keyKnown)
			}
			if err := s.Publish("k", []byte("2"), live.Key("a")); !errors.Is(err, live.ErrTooManyKeys) {
				t.Errorf("the third key: %v", err)
			}
			mustPut(t, s, "k", "b", "2")
			if got := valuesOf(t, s, "k"); !maps.Equal(got, map[string]string{"b": "2", "c": "1"}) {
				t.Errorf("the history has %v", got)
			}
		})
	}
}

// forget lets the known keys get older.
func (k *knownKeys) forget(by time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for subject := range k.until {
		k.until[subject] -= int64(by)
	}
}

// A key whose publication was refused does not count as one that the topic has.
func TestKeyThatWasRefusedIsNotKnown(t *testing.T) {
	b := open(t, Options{Streams: []StreamConfig{{Name: "K", Subjects: []string{"k"}, Keyed: true, MaxBytes: 20_000}}})
	s := serve(t, b, keyed(2, 0))
	large := strconv.Quote(strings.Repeat("x", 15_000))
	mustPut(t, s, "k", "a", large)
	if err := s.Publish("k", []byte(large), live.Key("b")); !errors.Is(err, ErrFull) {
		t.Fatalf("a key without space: %v", err)
	}
	mustPut(t, s, "k", "c", "1")
	if err := s.Publish("k", []byte("1"), live.Key("b")); !errors.Is(err, live.ErrTooManyKeys) {
		t.Errorf("the third key: %v", err)
	}
}

// A key that has ended at its age counts as a new one when it comes back.
func TestKeysThatHaveEndedAreCountedAgain(t *testing.T) {
	s := serve(t, open(t, Options{}), keyed(2, time.Second))
	mustPut(t, s, "k", "a", "1")
	mustPut(t, s, "k", "b", "1")
	livetest.Eventually(t, "the keys have ended", func() bool { return len(valuesOf(t, s, "k")) == 0 })
	mustPut(t, s, "k", "c", "1")
	mustPut(t, s, "k", "d", "1")
	if err := s.Publish("k", []byte("1"), live.Key("a")); !errors.Is(err, live.ErrTooManyKeys) {
		t.Errorf("the third key: %v", err)
	}
}

// A full stream refuses a new key, and drops no other for it: clients would not be told. Keys that are
// there can be renewed and removed, and a removal makes space.
func TestFullKeyedStreamRefusesNewKeys(t *testing.T) {
	b := open(t, Options{Streams: []StreamConfig{{Name: "K", Subjects: []string{"k"}, Keyed: true, MaxBytes: 20_000}}})
	s := serve(t, b, keyed(0, 0))
	data := strconv.Quote(strings.Repeat("x", 1000))
	n := 0
	var err error
	for ; err == nil && n < 40; n++ {
		err = s.Publish("k", []byte(data), live.Key(strconv.Itoa(n)))
	}
	if !errors.Is(err, ErrFull) {
		t.Errorf("after %d keys of 1 KB in 20 KB: %v", n, err)
	}
	n-- // the last was refused
	mustPut(t, s, "k", "0", data)
	if got := valuesOf(t, s, "k"); len(got) != n {
		t.Errorf("%d of %d keys are kept", len(got), n)
	}
	for _, key := range []string{"0", "1"} {
		if err := s.Remove("k", key); err != nil {
			t.Fatal(err)
		}
	}
	mustPut(t, s, "k", "new", data)
}

// NATS ends a value that is too old, and clients are told that its key is removed.
func TestKeyThatIsNotRenewedIsRemoved(t *testing.T) {
	s := serve(t, open(t, Options{}), keyed(0, time.Second))
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
	if got := valuesOf(t, s, "k"); len(got) > 0 {
		t.Errorf("the history has %v", got)
	}
}

func TestKeysAreOneTokenOfASubject(t *testing.T) {
	for _, key := range []string{"a", "a.b", "*", ">", "=", "=2E", "ä ö", "\x00\x7f", strings.Repeat(".", 128)} {
		token := encodeKey(key)
		if strings.ContainsAny(token, ".*> \x00\x7f") {
			t.Errorf("%q is written as %q", key, token)
		}
		if got, ok := keyOf("live.k.topic." + token); got != key || !ok {
			t.Errorf("%q is read as %q, %t", key, got, ok)
		}
	}
	for _, subject := range []string{"live.s.chat", "live.k.a.=k=", "live.k.a.=k=Z0", "live.k.a.=k=FF", ""} {
		if key, ok := keyOf(subject); ok {
			t.Errorf("%q has the key %q", subject, key)
		}
	}
}

func TestPublicationOfAKeyedTopicNeedsAKey(t *testing.T) {
	b := open(t, Options{})
	serve(t, b, keyed(0, 0))
	_, err := b.Publish(context.Background(), "k", []byte("1"), broker.PublishOptions{History: 10, Keyed: true})
	if err == nil || !strings.Contains(err.Error(), "has no key") {
		t.Errorf("the error is %v", err)
	}
}

// A topic has as many keys as it may have. The copy of its stream that answers lags, and has none of them.
// Another key is refused all the same.
func TestCopyThatLagsLetsNoKeyIn(t *testing.T) {
	b := open(t, Options{PublishTimeout: time.Second})
	s := serve(t, b, keyed(3, 0))
	for _, key := range []string{"a", "b", "c"} {
		mustPut(t, s, "k", key, "1")
	}
	var lags atomic.Bool
	nc := b.NATSConn()
	sub, err := nc.Subscribe("$LAG.API.>", func(m *nats.Msg) {
		method := strings.TrimPrefix(m.Subject, "$LAG.API.")
		if lags.Load() && strings.HasPrefix(method, "DIRECT.GET.") {
			end := nats.NewMsg(m.Reply)
			end.Header.Set("Status", "404")
			nc.PublishMsg(end)
			return
		}
		nc.PublishRequest("$JS.API."+method, m.Reply, m.Data)
	})
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Unsubscribe()
	b.api = "$LAG.API."
	for _, lag := range []struct {
		lags bool
		want error
	}{{true, broker.ErrUnavailable}, {false, broker.ErrTooManyKeys}} {
		lags.Store(lag.lags)
		if err := s.Publish("k", []byte("1"), live.Key("d")); !errors.Is(err, lag.want) {
			t.Errorf("while the copy lags: %t, a fourth key is answered with %v", lag.lags, err)
		}
	}
	if got := valuesOf(t, s, "k"); len(got) != 3 {
		t.Errorf("the history has %v", got)
	}
}

func TestKeyedStreamKeepsOneOfEachKey(t *testing.T) {
	_, err := New(Options{Streams: []StreamConfig{{Name: "K", Subjects: []string{"k"}, Keyed: true, MaxMsgsPerTopic: 5}}})
	if err == nil || !strings.Contains(err.Error(), "MaxMsgsPerTopic must be 0") {
		t.Errorf("the error is %v", err)
	}
}

// A table is read from copies of the stream. One that lags has values that the next page replaces or removes.
func TestOnlyTheNewestOfEachKeyIsAValue(t *testing.T) {
	var all []*broker.Publication
	add := func(key, data string) {
		all = append(all, &broker.Publication{Key: key, Data: []byte(data), Removed: data == ""})
	}
	add("a", "1")
	add("b", "2")
	add("c", "3")
	add("gone", "4")
	add("b", "5")
	add("gone", "")
	add("c", "")
	add("c", "6")
	var got []string
	for _, p := range newestOfEach(all) {
		got = append(got, p.Key+string(p.Data))
	}
	if want := []string{"a1", "b5", "c6"}; !slices.Equal(got, want) {
		t.Errorf("the values are %q, want %q", got, want)
	}
}
