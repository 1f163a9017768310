package live_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/broker"
)

// alone is a broker without a server.
type alone struct {
	*testing.T
	*live.MemoryBroker
}

type deaf struct{}

func (deaf) Deliver(*broker.Publication) {}
func (deaf) Lost(string, error)          {}

func newAlone(t *testing.T, o live.MemoryOptions) alone {
	b := live.NewMemoryBroker(o)
	b.Start(deaf{})
	return alone{t, b}
}

func (b alone) publish(topic string, n, size int) (last live.Position) {
	b.Helper()
	for range n {
		at, err := b.Publish(b.Context(), topic, []byte(strings.Repeat("x", size)), broker.PublishOptions{History: 1 << 20})
		if err != nil {
			b.Fatal(err)
		}
		last = at
	}
	return last
}

func (b alone) page(topic string, after uint64) broker.Page {
	b.Helper()
	p, err := b.Read(b.Context(), topic, after, 1<<60, 1<<20)
	if err != nil {
		b.Fatal(err)
	}
	return p
}

// Topics that nobody publishes to take nothing from those that have a history.
func TestEmptyTopicsDriveNothingOut(t *testing.T) {
	b := newAlone(t, live.MemoryOptions{MaxTopics: 100})
	for i := range 100 {
		b.publish(fmt.Sprint("room ", i), 3, 10)
	}
	before := runtime.MemStats{}
	runtime.GC()
	runtime.ReadMemStats(&before)
	for i := range 100_000 {
		topic := fmt.Sprint("junk ", i)
		b.Subscribe(b.Context(), topic)
		b.Last(b.Context(), topic)
		b.Read(b.Context(), topic, 0, 100, 10)
		b.Tail(b.Context(), topic, 10)
		b.Unsubscribe(topic)
	}
	var after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int(after.HeapAlloc) - int(before.HeapAlloc); grown > 1<<20 {
		t.Errorf("100,000 topics that nobody published to left %d bytes", grown)
	}
	for i := range 100 {
		if p := b.page(fmt.Sprint("room ", i), 0); len(p.Publications) != 3 || !p.Complete {
			t.Fatalf("room %d has %d publications", i, len(p.Publications))
		}
	}
}

// Whatever makes room, a client that comes back gets all that it missed, or it is told.
func TestWhatMadeRoomIsToldAsAGap(t *testing.T) {
	const topics = 60
	r := rand.New(rand.NewPCG(1, 2))
	b := newAlone(t, live.MemoryOptions{MaxTopics: 20, MaxBytes: 100_000})
	published := make(map[string][]uint64) // offsets
	for range 20_000 {
		topic := fmt.Sprint(r.IntN(topics))
		switch r.IntN(10) {
		case 0:
			b.Subscribe(b.Context(), topic)
		case 1:
			b.Unsubscribe(topic)
		case 2, 3:
			all := published[topic]
			if len(all) == 0 {
				break
			}
			i := r.IntN(len(all))
			p := b.page(topic, all[i])
			if !p.Complete {
				break
			}
			var got []uint64
			for _, q := range p.Publications {
				got = append(got, q.Offset)
			}
			if !slices.Equal(got, all[i+1:]) {
				t.Fatalf("after %d of %v came %v, as if that were all", all[i], all, got)
			}
		default:
			at := b.publish(topic, 1, r.IntN(3000))
			if all := published[topic]; len(all) > 0 && at.Offset <= all[len(all)-1] {
				t.Fatalf("number %d after %d", at.Offset, all[len(all)-1])
			}
			published[topic] = append(published[topic], at.Offset)
		}
	}
}

func TestHistoriesAreBoundedInBytes(t *testing.T) {
	const most = 1 << 20
	b := newAlone(t, live.MemoryOptions{MaxBytes: most})
	held := func() (bytes, topics int) {
		for i := range 50 {
			p, _ := b.Tail(b.Context(), fmt.Sprint(i), 1<<20)
			for _, q := range p.Publications {
				bytes += len(q.Data)
			}
			if len(p.Publications) > 0 {
				topics++
			}
		}
		return bytes, topics
	}
	for i := range 50 {
		b.Subscribe(b.Context(), fmt.Sprint(i)) // also where somebody listens
		b.publish(fmt.Sprint(i), 100, 1000)
		if bytes, _ := held(); bytes > most {
			t.Fatalf("%d bytes are kept", bytes)
		}
	}
	if _, topics := held(); topics < 5 {
		t.Errorf("only %d topics have a history", topics)
	}
	b.publish("0", 5000, 1000)
	if bytes, topics := held(); bytes > most || topics < 2 {
		t.Errorf("%d bytes of %d topics: one takes more than half", bytes, topics)
	}
	b.publish("0", 1, 3*most)
	if p, _ := b.Tail(b.Context(), "0", 10); len(p.Publications) != 1 {
		t.Errorf("of a large publication %d are kept", len(p.Publications))
	}
}

// A full history takes in one more without moving all that it has.
func BenchmarkPublishToAFullHistory(b *testing.B) {
	for _, size := range []int{100, 100_000} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			m := live.NewMemoryBroker(live.MemoryOptions{})
			m.Start(deaf{})
			publish := func() {
				m.Publish(context.Background(), "t", []byte("1"), broker.PublishOptions{History: size})
			}
			for range size {
				publish()
			}
			b.ResetTimer()
			for b.Loop() {
				publish()
			}
		})
	}
}

func TestSecondServerOfOneMemoryBroker(t *testing.T) {
	b := live.NewMemoryBroker(live.MemoryOptions{})
	shut(t, live.New(live.Options{Broker: b}))
	defer func() {
		if said := fmt.Sprint(recover()); !strings.Contains(said, "serves one Server") {
			t.Errorf("New: %s", said)
		}
	}()
	live.New(live.Options{Broker: b})
}

// Whoever reads a history may change what it got.
func TestHistoryIsACopy(t *testing.T) {
	srv, _ := serve(t, live.Options{Topics: func(string) live.TopicOptions { return live.TopicOptions{History: 10} }})
	if err := srv.Publish("t", []byte(`"good"`)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		messages, err := srv.History(t.Context(), "t", 10)
		if err != nil || len(messages) != 1 || string(messages[0].Data) != `"good"` {
			t.Fatal(messages, err)
		}
		copy(messages[0].Data, "broken")
	}
}

// The memory of a process is bounded. A topic that was dropped begins anew, and
// whoever comes back to it is told.
func TestMemoryBrokerThatForgetsTellsAGap(t *testing.T) {
	t.Parallel()
	const kept = 10
	br := live.NewMemoryBroker(live.MemoryOptions{MaxTopics: kept})
	server := livetest.NewHistoryServer(t, live.TopicOptions{History: 100}, br)
	c := livetest.DialV1(t, livetest.Serve(t, server.Handler()))
	since := make(map[string]string)
	for i := range 5 * kept {
		topic := fmt.Sprint("t", i)
		since[topic] = c.Must(livetest.SubscribeTo(1, topic)).At
		c.Must(livetest.UnsubscribeFrom(2, topic))
		livetest.PublishNumbers(t, server, topic, 1, 3)
	}
	recovered := 0
	for i := 5*kept - 1; i >= 0; i-- {
		topic := fmt.Sprint("t", i)
		f := c.Must(livetest.ResumeFrom(3, topic, since[topic]))
		if f.WasRecovered() {
			recovered++
			if got := livetest.DataOf(f.Messages); !slices.Equal(got, livetest.Numbers(1, 3)) {
				t.Errorf("topic %s recovered with %v", topic, got)
			}
		} else if f.At == since[topic] {
			t.Errorf("topic %s: a gap, at the position %s", topic, f.At)
		}
		c.Must(livetest.UnsubscribeFrom(4, topic))
	}
	if recovered == 0 || recovered > kept {
		t.Errorf("%d topics were kept, want some and %d at most", recovered, kept)
	}
}

// Topics with a subscriber keep their history however many others there are, and
// take no room from those.
func TestMemoryBrokerKeepsTopicsThatHaveSubscribers(t *testing.T) {
	t.Parallel()
	const kept, subscribed = 10, 20
	br := live.NewMemoryBroker(live.MemoryOptions{MaxTopics: kept})
	server := livetest.NewHistoryServer(t, live.TopicOptions{History: 100}, br)
	at := livetest.Serve(t, server.Handler())
	stays, c := livetest.DialV1(t, at), livetest.DialV1(t, at)
	since := make([]string, subscribed)
	for i := range since {
		since[i] = stays.Must(livetest.SubscribeTo(1, fmt.Sprint("s", i))).At
	}
	for i := range 100 {
		server.Publish(fmt.Sprint("quiet", i), []byte(`1`))
	}
	for i, at := range since {
		topic := fmt.Sprint("s", i)
		server.Publish(topic, []byte(`1`))
		stays.Hears(topic, "1")
		f := c.Must(livetest.ResumeFrom(2, topic, at))
		if got := livetest.DataOf(f.Messages); !f.WasRecovered() || !slices.Equal(got, []string{"1"}) {
			t.Errorf("topic %s, which had a subscriber all the time: %s", topic, f.Raw)
		}
	}
	for i := 99; i > 99-kept/2; i-- {
		if f := c.Must(fmt.Sprintf(`{"op":"history","id":3,"topic":"quiet%d","limit":1}`, i)); len(f.Messages) != 1 {
			t.Errorf("quiet%d has lost its history; %d quiet ones may have one", i, kept)
		}
	}
}

// Publishers, subscribers and a bound that is far too small: what a subscriber does
// not hear it is told of, and all comes to rest.
func TestMemoryBrokerThatForgetsUnderLoad(t *testing.T) {
	const topics, clients, rounds = 40, 8, 60
	br := live.NewMemoryBroker(live.MemoryOptions{MaxTopics: 4})
	server := livetest.NewHistoryServer(t, live.TopicOptions{History: 100}, br)
	at := livetest.Serve(t, server.Handler())
	var numbers [topics]struct {
		sync.Mutex
		n int
	}
	stop := make(chan struct{})
	var publishing sync.WaitGroup
	for p := range 3 {
		publishing.Go(func() {
			r := rand.New(rand.NewPCG(3, uint64(p)))
			for {
				select {
				case <-stop:
					return
				default:
				}
				i := r.IntN(topics)
				numbers[i].Lock() // one publisher of a topic at a time: the numbers are in order
				numbers[i].n++
				server.Publish(fmt.Sprint("t", i), fmt.Appendf(nil, `%d`, numbers[i].n))
				numbers[i].Unlock()
				time.Sleep(100 * time.Microsecond)
			}
		})
	}
	livetest.Each(clients, func(i int) {
		r := rand.New(rand.NewPCG(4, uint64(i)))
		since := make(map[int]string)
		seen := make(map[int]int)
		c := livetest.DialV1(t, at)
		for range rounds {
			k := r.IntN(topics)
			topic := fmt.Sprint("t", k)
			op := livetest.SubscribeTo(1, topic)
			if since[k] != "" {
				op = livetest.ResumeFrom(1, topic, since[k])
			}
			known := since[k] != ""
			take := func(data, at string) {
				n, _ := strconv.Atoi(data)
				if known && n != seen[k]+1 {
					t.Errorf("client %d, %s: %d came after %d, without a gap", i, topic, n, seen[k])
				}
				known, seen[k], since[k] = true, n, at
			}
			f := c.Must(op)
			if known && !f.WasRecovered() || !known {
				known, since[k] = false, f.At
			}
			for _, m := range f.Messages {
				take(string(m.Data), m.At)
			}
			pause := time.Now().Add(time.Duration(r.IntN(20)) * time.Millisecond)
			for time.Now().Before(pause) && c.Waiting() == 0 {
				time.Sleep(time.Millisecond)
			}
			c.Send(livetest.UnsubscribeFrom(2, topic))
			_, before := c.Answer()
			for _, m := range before {
				if m.Op == "gap" {
					known, since[k] = false, m.At
					continue
				}
				take(string(m.Data), m.At)
			}
			if !known {
				delete(seen, k)
				delete(since, k)
			}
		}
	})
	close(stop)
	publishing.Wait()
	livetest.Eventually(t, "the topics' end", func() bool { return server.Stats().Topics == 0 })
}

// A history that was dropped while the topic had a subscriber, who then left, goes on with greater
// numbers: a client that comes back is told of the gap.
func TestNumbersGoOnAfterTheHistoryAndItsSubscriberAreGone(t *testing.T) {
	b := newAlone(t, live.MemoryOptions{MaxBytes: 8 << 10})
	b.publish("a", 4, 100)
	b.Subscribe(b.Context(), "a")
	at := b.publish("a", 4, 100)
	b.publish("b", 1, 16<<10) // drops the history of a
	if p := b.page("a", at.Offset-4); len(p.Publications) != 0 {
		t.Fatalf("%d publications of a are left", len(p.Publications))
	}
	b.Unsubscribe("a")
	next := b.publish("a", 9, 100)
	if next.Epoch == at.Epoch && next.Offset < at.Offset+9 {
		t.Errorf("the numbers ended at %d, and nine publications later at %d", at.Offset, next.Offset)
	}
	if p := b.page("a", at.Offset-4); p.Epoch == at.Epoch && p.Complete {
		t.Errorf("four of what followed %d are lost, and the page is complete: %d publications", at.Offset-4, len(p.Publications))
	}
}

// A table that takes nearly all the bytes that it may have. A value may take the place of an older value
// of its key, and old removals make space for new keys.
func TestFullTableCanBeRenewed(t *testing.T) {
	t.Parallel()
	server := livetest.NewHistoryServer(t, live.TopicOptions{Keyed: true}, live.NewMemoryBroker(live.MemoryOptions{MaxBytes: 20_000}))
	put := func(key string, size int) error {
		return server.Publish("k", []byte(livetest.Padded(1, size)), live.Key(key))
	}
	if err := put("large", 9_000); err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{9_000, 9_100, 8_900} {
		if err := put("large", size); err != nil {
			t.Errorf("a value of %d bytes cannot be renewed: %v", size, err)
		}
	}
	if err := put("large", 11_000); !errors.Is(err, live.ErrTooManyKeys) {
		t.Errorf("a value that is too large: %v", err)
	}
	if err := server.Remove("k", "large"); err != nil {
		t.Fatal(err)
	}
	for i := range 100 {
		key := strconv.Itoa(i)
		if err := put(key, 500); err != nil {
			t.Fatalf("key %d has no space beside removals: %v", i, err)
		}
		if err := server.Remove("k", key); err != nil {
			t.Fatal(err)
		}
	}
}

// A topic's rules may change while the server runs. What it kept by the old rules is dropped, and its
// bytes do not count any more.
func TestTopicThatBecomesKeyedDropsWhatItKept(t *testing.T) {
	t.Parallel()
	b := live.NewMemoryBroker(live.MemoryOptions{MaxBytes: 20_000})
	var keyed atomic.Bool
	opts := livetest.Open(live.Options{
		Broker: b,
		Topics: func(string) live.TopicOptions { return live.TopicOptions{History: 10, Keyed: keyed.Load()} },
	})
	server := livetest.NewServer(t, opts)
	large := func(i int) []byte { return []byte(livetest.Padded(i, 800)) }
	for round := range 10 {
		keyed.Store(round%2 == 1)
		for i := range 8 {
			var opts []live.PublishOption
			if keyed.Load() {
				opts = append(opts, live.Key(strconv.Itoa(i)))
			}
			if err := server.Publish("turning", large(i), opts...); err != nil {
				t.Fatalf("round %d: %v", round, err)
			}
		}
		messages, err := server.History(t.Context(), "turning", 100)
		if err != nil || len(messages) != 8 || (messages[0].Key != "") != keyed.Load() {
			t.Fatalf("round %d: the history has %d messages, %v", round, len(messages), err)
		}
		if got := live.BytesOf(b); got < 8*800 || got > 8*1_300 {
			t.Errorf("round %d: the histories count as %d bytes", round, got)
		}
	}
}
