package live_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"

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
