package natsbroker

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/broker"
	"github.com/livetopic/livetopic/live/internal/clock"
)

// turnstile counts the requests of a broker to JetStream.
type turnstile struct {
	lookups  atomic.Int64 // requests for single messages, which the leader answers
	batches  atomic.Int64
	messages atomic.Int64 // the most messages that all batches together asked for
	most     atomic.Int64 // the most messages that one batch asked for
	asked    func()       // called before each batch; may be nil
}

// count puts a turnstile between a broker and an archive's stream.
func (a *archive) count() *turnstile {
	a.Helper()
	ts := &turnstile{}
	nc := a.broker.NATSConn()
	sub, err := nc.Subscribe("$COUNT.API.>", func(m *nats.Msg) {
		method := strings.TrimPrefix(m.Subject, "$COUNT.API.")
		if strings.HasPrefix(method, "DIRECT.GET.") {
			var ask getRequest
			if err := json.Unmarshal(m.Data, &ask); err != nil {
				a.Error(err)
			}
			ts.batches.Add(1)
			ts.messages.Add(int64(ask.Batch))
			ts.most.Store(max(ts.most.Load(), int64(ask.Batch)))
			if ts.asked != nil {
				ts.asked()
			}
		} else {
			ts.lookups.Add(1)
		}
		nc.PublishRequest("$JS.API."+method, m.Reply, m.Data)
	})
	if err != nil {
		a.Fatal(err)
	}
	a.Cleanup(func() { sub.Unsubscribe() })
	a.broker.api = "$COUNT.API."
	return ts
}

func (ts *turnstile) reset() {
	for _, n := range []*atomic.Int64{&ts.lookups, &ts.batches, &ts.messages, &ts.most} {
		n.Store(0)
	}
}

// stored returns the offsets of the messages of topic i in an archive.
func (a *archive) stored(i int) (offsets []uint64) {
	for at := i + 1; at <= a.topics*a.messages; at += a.topics {
		offsets = append(offsets, uint64(at))
	}
	return offsets
}

// A topic without a session is read once for all clients that ask at the same time or soon
// after. Later one small request tells whether the cache is still valid.
func TestColdTopicIsReadOnce(t *testing.T) {
	t.Parallel()
	a := openArchive(t, 250, 30)
	ts := a.count()
	topic, all := a.topic(3), a.stored(3)
	last := all[29]
	ask := map[string]func() (broker.Page, error){
		"tail": func() (broker.Page, error) { return a.broker.Tail(t.Context(), topic, 20) },
		"read": func() (broker.Page, error) { return a.broker.Read(t.Context(), topic, 1, last, 64) },
	}
	want := map[string][]uint64{"tail": all[10:], "read": all}
	for _, name := range []string{"tail", "read"} {
		var asking sync.WaitGroup
		for range 20 {
			asking.Go(func() {
				page, err := ask[name]()
				if err != nil || !slices.Equal(offsetsOf(page), want[name]) || page.Upto != last || !page.Complete {
					t.Errorf("%s: %d up to %d, complete %v, %v", name, offsetsOf(page), page.Upto, page.Complete, err)
				}
			})
		}
		asking.Wait()
		if n := ts.messages.Load(); n == 0 || n > 150 {
			t.Errorf("%s by 20 at the same time: %d messages were asked for", name, n)
		}
		ts.reset()
		for range 10 {
			ask[name]()
		}
		if ts.batches.Load() != 0 || ts.lookups.Load() > 12 {
			t.Errorf("%s ten times more: %d batches, %d lookups", name, ts.batches.Load(), ts.lookups.Load())
		}
		ts.reset()
	}
	if page, err := a.broker.Tail(t.Context(), topic, 30); err != nil || !slices.Equal(offsetsOf(page), all) || ts.batches.Load() != 0 {
		t.Errorf("what a read has brought is no tail: %d, %v, %d batches", offsetsOf(page), err, ts.batches.Load())
	}

	at, err := a.PublishAt(topic)
	if err != nil {
		t.Fatal(err)
	}
	page, err := a.broker.Tail(t.Context(), topic, 20)
	if want := append(all[11:], at); err != nil || !slices.Equal(offsetsOf(page), want) {
		t.Errorf("after a publication the newest are %d, %v, want %d", offsetsOf(page), err, want)
	}
	stream, err := a.broker.JetStream().Stream(t.Context(), "ROOMS")
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Purge(t.Context()); err != nil {
		t.Fatal(err)
	}
	page, err = a.broker.Tail(t.Context(), topic, 20)
	if err != nil || len(page.Publications) > 0 {
		t.Errorf("of a stream that was emptied the newest are %d, %v", offsetsOf(page), err)
	}
}

// PublishAt publishes to a topic, and returns the offset.
func (a *archive) PublishAt(topic string) (uint64, error) {
	at, err := a.broker.Publish(a.Context(), topic, []byte("1"), broker.PublishOptions{})
	return at.Offset, err
}

// A client whose position is too old or invented is told so at once, before the stream is read.
func TestPositionThatIsTooOldCostsOneMessage(t *testing.T) {
	t.Parallel()
	full := StreamConfig{Name: "ROOMS", Subjects: []string{"room.>"}, MaxMsgsPerTopic: 20}
	short := StreamConfig{Name: "ROOMS", Subjects: []string{"room.>"}, MaxMsgs: 5_000}
	for name, config := range map[string]StreamConfig{"the topic is full": full, "the stream is full": short} {
		t.Run(name, func(t *testing.T) {
			a := openArchive(t, 250, 30, config)
			ts := a.count()
			topic, all := a.topic(7), a.stored(7)
			last := all[29]
			for _, after := range []uint64{1, 2, all[0], all[0] + 1, all[8]} {
				ts.reset()
				page, err := a.broker.Read(t.Context(), topic, after, last, 64)
				if err != nil || page.Complete || !slices.Equal(offsetsOf(page), all[10:11]) {
					t.Fatalf("after %d: %d, complete %v, %v", after, offsetsOf(page), page.Complete, err)
				}
				if n := ts.messages.Load(); n > 1 {
					t.Errorf("after %d: %d messages were asked for", after, n)
				}
				l := &library{T: t, Broker: a.broker}
				rest, complete := l.readOn(topic, page.Upto, last, 64, mb)
				if !complete || !slices.Equal(rest, all[11:]) {
					t.Errorf("what follows the oldest: %d, complete %v", rest, complete)
				}
			}
			for _, after := range []int{10, 15, 28} { // a page is complete if nothing after its start was dropped
				page, err := a.broker.Read(t.Context(), topic, all[after], last, 64)
				if err != nil || !page.Complete || !slices.Equal(offsetsOf(page), all[after+1:]) {
					t.Errorf("after %d: %d, complete %v, %v", all[after], offsetsOf(page), page.Complete, err)
				}
			}
		})
	}
}

// For clients that share a topic or invent positions, the topic is read once. A thousand
// requests over the sockets read no more than that.
func TestForgedPositionsCostNoMoreThanOne(t *testing.T) {
	t.Parallel()
	a := openArchive(t, 250, 30)
	forged := a.position(1)
	ts := a.count()
	var asking sync.WaitGroup
	for range 30 {
		c, err := a.dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		asking.Go(func() {
			defer c.ws.CloseNow()
			for i := range 3 {
				f, err := c.ask(t.Context(), map[string]any{"op": "subscribe", "topic": a.topic(i), "since": forged})
				if err != nil || f.Op != "reply" || f.Recovered == nil || !*f.Recovered || len(f.Messages) == 0 {
					t.Errorf("%s %s, %d messages, %v", f.Op, f.Code, len(f.Messages), err)
				}
			}
		})
	}
	asking.Wait()
	if n := ts.messages.Load(); n > 3*150 {
		t.Errorf("for three topics %d messages were asked for", n)
	}
}

// While publications come, a slice has few messages if these lie far apart, and many if they do
// not.
func TestScansAreSliced(t *testing.T) {
	t.Parallel()
	const topics = 250 // more than scanSpan messages
	a := openArchive(t, topics, 40)
	a.broker.scans.span = 16 * topics
	ts := a.count()
	a.broker.scans.publishedAt.Store(clock.Now() + int64(time.Hour)) // publications seem to come all the time
	for i := range 4 {
		all := a.stored(i)
		page, err := a.broker.Read(t.Context(), a.topic(i), all[0], all[39], 100)
		if err != nil || !page.Complete || !slices.Equal(offsetsOf(page), all[1:]) {
			t.Fatalf("%d, complete %v, %v", offsetsOf(page), page.Complete, err)
		}
		if n := ts.most.Load(); n > 16+1 {
			t.Errorf("%d messages were asked for at once", n)
		}
	}
	a.broker.scans.publishedAt.Store(0) // now no publications come
	ts.reset()
	all := a.stored(5)
	if page, err := a.broker.Read(t.Context(), a.topic(5), all[0], all[39], 100); err != nil || !slices.Equal(offsetsOf(page), all[1:]) {
		t.Errorf("%d, %v", offsetsOf(page), err)
	}
	if n := ts.batches.Load(); n > 3 { // one for the oldest message, and the rest
		t.Errorf("in calm times %d batches", n)
	}
}

// Messages that are dropped while the stream is read in slices are reported as missing.
func TestHistoryThatIsTrimmedBetweenSlices(t *testing.T) {
	for _, slice := range []int64{2, 3, 4} {
		t.Run(fmt.Sprint("before slice ", slice), func(t *testing.T) {
			t.Parallel()
			const topics = 150
			a := openArchive(t, topics, 60)
			a.broker.scans.span = 32 * topics
			stream, err := a.broker.JetStream().Stream(t.Context(), "ROOMS")
			if err != nil {
				t.Fatal(err)
			}
			topic, all := a.topic(3), a.stored(3)
			a.broker.scans.publishedAt.Store(clock.Now() + int64(time.Hour)) // so the slices are small
			ts := a.count()
			ts.asked = func() {
				if ts.batches.Load() == slice {
					if err := stream.Purge(t.Context(), jetstream.WithPurgeSequence(all[50])); err != nil {
						t.Error(err)
					}
				}
			}
			var got []uint64
			after, gap := all[0], false
			for after < all[59] {
				page, err := a.broker.Read(t.Context(), topic, after, all[59], 64)
				if err != nil {
					t.Fatal(err)
				}
				offsets := offsetsOf(page)
				if i := slices.Index(all, after); page.Complete && len(offsets) > 0 && offsets[0] != all[i+1] {
					t.Errorf("a page after %d that says it is complete begins with %d", after, offsets[0])
				}
				for i := range offsets[min(1, len(offsets)):] {
					if offsets[i+1] != offsets[i]+topics {
						t.Errorf("a page has a hole: %d", offsets)
					}
				}
				gap = gap || !page.Complete
				got = append(got, offsets...)
				after = page.Upto
			}
			if !gap || !slices.Equal(got[len(got)-10:], all[50:]) {
				t.Errorf("told of a gap: %v; read were %d", gap, got)
			}
		})
	}
}

// Whatever is published, dropped and read in whatever order, the cache gives the same answer as
// the stream.
func TestCacheHasWhatTheStreamHas(t *testing.T) {
	t.Parallel()
	r := seedFor(t, 0)
	a := openArchive(t, 400, 20, StreamConfig{Name: "ROOMS", Subjects: []string{"room.>"}, MaxMsgsPerTopic: 25})
	const topics = 3
	kept := make([][]uint64, topics) // the offsets of each topic, including dropped messages
	for i := range kept {
		kept[i] = a.stored(i)
	}
	for range 300 {
		i := r.IntN(topics)
		topic, all := a.topic(i), kept[i]
		there := all[max(len(all)-25, 0):]
		last := all[len(all)-1]
		switch r.IntN(5) {
		case 0:
			at, err := a.PublishAt(topic)
			if err != nil {
				t.Fatal(err)
			}
			kept[i] = append(all, at)
		case 1, 2:
			limit := 1 + r.IntN(30)
			page, err := a.broker.Tail(t.Context(), topic, limit)
			if want := there[max(len(there)-limit, 0):]; err != nil || !slices.Equal(offsetsOf(page), want) || page.Upto != last {
				t.Fatalf("Tail(%d) of %s is %d up to %d, %v; want %d", limit, topic, offsetsOf(page), page.Upto, err, want)
			}
		default:
			after, limit := 1+r.Uint64N(last), 1+r.IntN(30)
			upto := after + r.Uint64N(last-after+1)
			page, err := a.broker.Read(t.Context(), topic, after, upto, limit)
			if err != nil {
				t.Fatal(err)
			}
			from, _ := slices.BinarySearch(there, after+1)
			to, _ := slices.BinarySearch(there, page.Upto+1)
			if want := there[from:max(from, to)]; !slices.Equal(offsetsOf(page), want) || page.Upto > upto || page.Upto <= after && after < upto {
				t.Fatalf("Read(%d, %d, %d) of %s is %d up to %d; want %d", after, upto, limit, topic, offsetsOf(page), page.Upto, want)
			}
			from, _ = slices.BinarySearch(all, after+1)
			lost := from < len(all)-25 && len(page.Publications) > 0 // then some messages after it were dropped
			if page.Complete && lost {
				t.Fatalf("Read(%d, %d, %d) of %s is %d, and said to be complete; there are %d", after, upto, limit, topic, offsetsOf(page), there)
			}
		}
	}
}

// The cache has a bound for all topics and a bound for one topic, and drops everything in the
// end.
func TestCacheIsBounded(t *testing.T) {
	var s readCache
	put := func(i, size int) {
		t.Helper()
		topic, err := s.take(t.Context(), cacheKey{tokens: fmt.Sprint(i)})
		if err != nil {
			t.Fatal(err)
		}
		var all []*broker.Publication
		for n := range 10 {
			all = append(all, &broker.Publication{Data: make([]byte, size/10), Position: live.Position{Epoch: "e", Offset: uint64(n + 1)}})
		}
		topic.add(part{epoch: "e", readAt: clock.Now(), newestMessage: message{Sequence: 10}, high: 10, fromOldest: true, publications: all})
		s.leave(topic)
		if s.bytes > cacheBytes || len(s.topics) != s.idle.Len() {
			t.Fatalf("%d bytes, %d topics, of which %d are in order", s.bytes, len(s.topics), s.idle.Len())
		}
	}
	for i := range 200 {
		put(i, 400<<10)
	}
	if n := len(s.topics); n < 70 || n > 82 || s.topics[cacheKey{tokens: "199"}] == nil {
		t.Errorf("%d topics are left", n)
	}
	put(0, 2<<20)
	if p := s.topics[cacheKey{tokens: "0"}]; p == nil || p.bytes > cacheTopicBytes || p.fromOldest || p.low == 0 || len(p.publications) == 0 {
		t.Error("of a large topic nothing is kept, or too much, or as if it were all")
	}
	s.dropOld()
	if s.bytes == 0 {
		t.Error("what was just read is forgotten")
	}
	for _, topic := range s.topics {
		topic.idleSince -= int64(cacheTime + time.Second)
	}
	s.dropOld()
	if s.bytes != 0 || len(s.topics) != 0 {
		t.Errorf("%d bytes of %d topics are left", s.bytes, len(s.topics))
	}
}
