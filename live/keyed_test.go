package live_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/broker"
)

// keyTable is what a client knows of a keyed topic.
type keyTable struct {
	at   string
	keys map[string]string
	gaps int
	came map[string]int // how many values of each key came as publications
}

// take folds a frame of the topic into the table, as docs/protocol.md says.
func (tb *keyTable) take(f livetest.Frame) {
	if tb.came == nil {
		tb.came = make(map[string]int)
	}
	switch {
	case f.Op == "reply":
		if !f.WasRecovered() || tb.keys == nil {
			tb.at, tb.keys = "", make(map[string]string)
		}
		for _, m := range f.Messages {
			tb.set(m.Key, m.Data, m.Removed, m.At)
		}
	case f.Op == "gap":
		tb.gaps++
		tb.at = ""
		tb.keys = make(map[string]string)
	case f.IsPublication():
		if !f.Removed {
			tb.came[f.Key]++
		}
		tb.set(f.Key, f.Data, f.Removed, "")
	}
	if f.At != "" {
		tb.at = f.At
	}
}

func (tb *keyTable) set(key string, data json.RawMessage, removed bool, at string) {
	if removed {
		delete(tb.keys, key)
	} else {
		tb.keys[key] = string(data)
	}
	if at != "" {
		tb.at = at
	}
}

// subscribe subscribes a client whose table this is, from its position if it has one.
func (tb *keyTable) subscribe(t testing.TB, c *livetest.Client) livetest.Frame {
	t.Helper()
	op := livetest.SubscribeTo(1, "k")
	if tb.at != "" {
		op = livetest.ResumeFrom(1, "k", tb.at)
	}
	c.Send(op)
	f, before := c.Reply(1)
	if len(before) > 0 || f.Op != "reply" || !f.Keyed {
		t.Fatalf("before the reply %v came %v", f, before)
	}
	tb.take(f)
	return f
}

// follow reads until the table is what it should be.
func (tb *keyTable) follow(t testing.TB, c *livetest.Client, want map[string]string) {
	t.Helper()
	for !maps.Equal(tb.keys, want) {
		f, ok := c.TryNext()
		if !ok {
			t.Fatalf("the client's %d keys are not the %d of the topic: %v", len(tb.keys), len(want), c.Err())
		}
		tb.take(f)
	}
}

func keyedHost(t testing.TB, o live.TopicOptions, buffer int) *livetest.Host {
	o.Keyed = true
	return livetest.Hosting{Buffer: buffer}.Start(t, livetest.Open(live.Options{
		Topics: func(string) live.TopicOptions { return o },
		Logger: livetest.Quiet,
	}))
}

func put(t testing.TB, h *livetest.Host, key, data string) {
	t.Helper()
	if err := h.Publish("k", []byte(data), live.Key(key)); err != nil {
		t.Fatal(err)
	}
}

func TestSubscriberGetsEveryKeyAndThenChanges(t *testing.T) {
	t.Parallel()
	h := keyedHost(t, live.TopicOptions{}, 0)
	put(t, h, "a", "1")
	put(t, h, "b", "1")
	put(t, h, "__proto__", `"x"`)
	put(t, h, "a", "2")
	c := livetest.DialV1(t, h.Endpoint)
	var tb keyTable
	tb.subscribe(t, c)
	tb.follow(t, c, map[string]string{"a": "2", "b": "1", "__proto__": `"x"`})
	if err := h.Remove("k", "b"); err != nil {
		t.Fatal(err)
	}
	put(t, h, "a", "3")
	tb.follow(t, c, map[string]string{"a": "3", "__proto__": `"x"`})
	if at, err := h.Position(t.Context(), "k"); err != nil || at.String() != tb.at {
		t.Errorf("the client is at %s, the topic at %v, %v", tb.at, at, err)
	}
}

func TestKeysThatChangedMeanwhileAreSent(t *testing.T) {
	t.Parallel()
	h := keyedHost(t, live.TopicOptions{}, 0)
	for _, key := range []string{"a", "b", "c", "d"} {
		put(t, h, key, "1")
	}
	var tb keyTable
	c := livetest.DialV1(t, h.Endpoint)
	tb.subscribe(t, c)
	c.Drop()
	put(t, h, "b", "2")
	put(t, h, "b", "3")
	if err := h.Remove("k", "c"); err != nil {
		t.Fatal(err)
	}
	again := livetest.DialV1(t, h.Endpoint)
	f := tb.subscribe(t, again)
	if !f.WasRecovered() || len(f.Messages) != 2 {
		t.Errorf("the reply is %s", f.Raw)
	}
	tb.follow(t, again, map[string]string{"a": "1", "b": "3", "d": "1"})
}

// A small topic remembers 256 removals. A client that has missed more begins anew.
func TestClientThatMissedTooManyRemovalsBeginsAnew(t *testing.T) {
	t.Parallel()
	h := keyedHost(t, live.TopicOptions{}, 0)
	put(t, h, "stays", "1")
	put(t, h, "goes", "1")
	var tb keyTable
	tb.subscribe(t, livetest.DialV1(t, h.Endpoint))
	if err := h.Remove("k", "goes"); err != nil {
		t.Fatal(err)
	}
	for i := range 300 {
		put(t, h, strconv.Itoa(i), "1")
		if err := h.Remove("k", strconv.Itoa(i)); err != nil {
			t.Fatal(err)
		}
	}
	c := livetest.DialV1(t, h.Endpoint)
	if f := tb.subscribe(t, c); f.WasRecovered() {
		t.Errorf("the reply is %s", f.Raw)
	}
	tb.follow(t, c, map[string]string{"stays": "1"})
}

// A topic remembers as many removals as it has keys. So a client that has missed fewer is told of them,
// and does not begin anew. A key that comes and goes many times is one removal.
func TestLargeTopicRemembersAsManyRemovalsAsKeys(t *testing.T) {
	t.Parallel()
	h := keyedHost(t, live.TopicOptions{History: 2000}, 0)
	want := make(map[string]string)
	for i := range 1000 {
		put(t, h, strconv.Itoa(i), "1")
		want[strconv.Itoa(i)] = "1"
	}
	var tb keyTable
	c := livetest.DialV1(t, h.Endpoint)
	tb.subscribe(t, c)
	tb.follow(t, c, want)
	for tb.at == "" {
		tb.take(c.Next())
	}
	c.Drop()
	for i := range 400 {
		remove(t, h, strconv.Itoa(i))
		delete(want, strconv.Itoa(i))
	}
	for range 1000 {
		put(t, h, "comes and goes", "1")
		remove(t, h, "comes and goes")
	}
	again := livetest.DialV1(t, h.Endpoint)
	if f := tb.subscribe(t, again); !f.WasRecovered() {
		t.Errorf("the reply is %.100s", f.Raw)
	}
	tb.follow(t, again, want)
	if tb.gaps > 0 {
		t.Errorf("%d gaps", tb.gaps)
	}
}

// A client that reads 20 KB/s follows 400 keys, all of which change all the time. It gets
// every key in turn, is never closed, and has the truth in the end.
func TestSlowClientSeesTheNewestOfEachKey(t *testing.T) {
	t.Parallel()
	const keys = 400
	h := keyedHost(t, live.TopicOptions{}, livetest.SmallBuffer)
	want := make(map[string]string)
	key := func(i int) string { return fmt.Sprintf("cursor-%d", i) }
	data := func(round int) string { return fmt.Sprintf(`{"round":%d,"fill":%q}`, round, strings.Repeat("x", 40)) }
	for i := range keys {
		put(t, h, key(i), data(0))
	}
	c := h.Connect(t, livetest.Dialing{V1: true, Buffer: livetest.SmallBuffer}).Attend().Greeted()
	var tb keyTable
	tb.subscribe(t, c)
	rounds := 0
	c.Line.Stall()
	livetest.Eventually(t, "the client is behind", func() bool {
		rounds++
		for i := range keys {
			put(t, h, key(i), data(rounds))
		}
		return h.Stats().CatchingUp > 0
	})
	c.Line.SetPace(20 << 10)
	c.Line.Resume()
	seen := make(map[string]bool) // the keys that came while all of them changed
	livetest.Eventually(t, "every key has come", func() bool {
		rounds++
		for i := range keys {
			put(t, h, key(i), data(rounds))
		}
		for c.Waiting() > 0 {
			f := c.Next()
			tb.take(f)
			seen[f.Key] = true
		}
		return len(seen) >= keys
	})
	for i := range keys {
		want[key(i)] = data(rounds)
	}
	c.Line.SetPace(0)
	tb.follow(t, c, want)
	if tb.gaps > 0 {
		t.Errorf("%d gaps", tb.gaps)
	}
	if stats := h.Stats(); stats.QueueFull > 0 {
		t.Error("the session was closed")
	}
	livetest.Eventually(t, "the subscription is live again", func() bool { return h.Stats().CatchingUp == 0 })
	put(t, h, key(0), `"last"`)
	want[key(0)] = `"last"`
	tb.follow(t, c, want)
}

// Clients stall, leave, come back and begin anew while keys come, change and go. In the end each has
// the truth.
func TestEachClientHasTheTruthInTheEnd(t *testing.T) {
	t.Parallel()
	for seed := range uint64(8) {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			t.Parallel()
			random := rand.New(rand.NewPCG(seed, 1))
			h := keyedHost(t, live.TopicOptions{History: 400}, livetest.SmallBuffer)
			want := make(map[string]string)
			change := func() {
				key := strconv.Itoa(random.IntN(350))
				if random.IntN(5) == 0 {
					delete(want, key)
					if err := h.Remove("k", key); err != nil {
						t.Error(err)
					}
					return
				}
				want[key] = strconv.Quote(strconv.Itoa(random.Int()) + strings.Repeat("y", random.IntN(300)))
				put(t, h, key, want[key])
			}
			clients := make([]*livetest.Client, 6)
			tables := make([]keyTable, len(clients))
			for range 3000 {
				i := random.IntN(len(clients))
				c, tb := clients[i], &tables[i]
				switch {
				case random.IntN(10) > 0:
					change()
				case c == nil:
					clients[i] = h.Connect(t, livetest.Dialing{V1: true, Buffer: livetest.SmallBuffer, Deflate: i == 0}).Attend().Greeted()
					tb.subscribe(t, clients[i])
				case random.IntN(4) == 0:
					for c.Waiting() > 0 {
						tb.take(c.Next())
					}
					c.Drop()
					clients[i] = nil
				case random.IntN(2) == 0:
					c.Line.Stall()
				default:
					c.Line.Resume()
					for c.Waiting() > 0 {
						tb.take(c.Next())
					}
				}
			}
			for i, c := range clients {
				if c == nil {
					c = h.Connect(t, livetest.Dialing{V1: true}).Attend().Greeted()
					tables[i].subscribe(t, c)
				} else {
					c.Line.Resume()
				}
				tables[i].follow(t, c, want)
			}
		})
	}
}

func TestKeyedTopicHasSoManyKeys(t *testing.T) {
	t.Parallel()
	h := keyedHost(t, live.TopicOptions{History: 2}, 0)
	put(t, h, "a", "1")
	put(t, h, "b", "1")
	if err := h.Publish("k", []byte("1"), live.Key("c")); !errors.Is(err, live.ErrTooManyKeys) {
		t.Errorf("the third key: %v", err)
	}
	put(t, h, "a", "2")
	if err := h.Remove("k", "b"); err != nil {
		t.Fatal(err)
	}
	put(t, h, "c", "1")
	messages, err := h.History(t.Context(), "k", 10)
	if err != nil || len(messages) != 2 || messages[0].Key != "a" || string(messages[0].Data) != "2" || messages[1].Key != "c" {
		t.Errorf("the history is %v, %v", messages, err)
	}
}

func TestKeyedTopicHasSoManyBytes(t *testing.T) {
	t.Parallel()
	broker := live.NewMemoryBroker(live.MemoryOptions{MaxBytes: 20_000})
	server := livetest.NewHistoryServer(t, live.TopicOptions{Keyed: true}, broker)
	var err error
	n := 0
	for ; err == nil && n < 100; n++ {
		err = server.Publish("k", []byte(livetest.Padded(n, 1000)), live.Key(strconv.Itoa(n)))
	}
	if !errors.Is(err, live.ErrTooManyKeys) || n < 5 || n > 10 {
		t.Errorf("after %d keys of 1 KB in 20 KB: %v", n, err)
	}
	messages, err := server.History(t.Context(), "k", 100)
	if err != nil || len(messages) != n-1 {
		t.Errorf("%d of %d keys are kept, %v", len(messages), n-1, err)
	}
}

// The broker has dropped the topic's history for want of space. A key that clients still have can be
// removed all the same.
func TestKeyOfADroppedHistoryCanBeRemoved(t *testing.T) {
	t.Parallel()
	h := livetest.Hosting{}.Start(t, livetest.Open(live.Options{
		Broker: live.NewMemoryBroker(live.MemoryOptions{MaxBytes: 20_000}),
		Topics: func(topic string) live.TopicOptions { return live.TopicOptions{Keyed: true} },
		Logger: livetest.Quiet,
	}))
	put(t, h, "a", "1")
	c := livetest.DialV1(t, h.Endpoint)
	var tb keyTable
	tb.subscribe(t, c)
	for i := range 6 {
		for _, topic := range []string{"other", "another", "third"} {
			if err := h.Publish(topic, []byte(livetest.Padded(i, 1000)), live.Key(strconv.Itoa(i))); err != nil {
				t.Fatal(err)
			}
		}
	}
	if messages, err := h.History(t.Context(), "k", 10); err != nil || len(messages) > 0 {
		t.Fatalf("the history has %v, %v", messages, err)
	}
	if err := h.Remove("k", "a"); err != nil {
		t.Fatal(err)
	}
	tb.follow(t, c, map[string]string{})
}

func TestKeyedTopicNeedsKeys(t *testing.T) {
	t.Parallel()
	h := livetest.Hosting{}.Start(t, livetest.Open(live.Options{
		Topics: func(topic string) live.TopicOptions { return live.TopicOptions{Keyed: topic == "k"} },
		Logger: livetest.Quiet,
	}))
	for what, err := range map[string]error{
		"no key":                   h.Publish("k", []byte("1")),
		"removing no key":          h.Remove("k", ""),
		"removing where no key is": h.Remove("other", "a"),
	} {
		if !errors.Is(err, live.ErrNoKey) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for _, key := range []string{strings.Repeat("x", 129), "\xff"} {
		if err := h.Publish("k", []byte("1"), live.Key(key)); err == nil {
			t.Errorf("the key %q was taken", key)
		}
	}
	c := livetest.DialV1(t, h.Endpoint)
	livetest.Refused(t, "a client without a key", c.Do(livetest.Operation("publish", 1, "k", "data", 1)), 1, "forbidden")
}

func TestClientsPublishUnderTheKeyThatTheApplicationGives(t *testing.T) {
	t.Parallel()
	h := keyedHost(t, live.TopicOptions{ClientKey: func(s *live.Session, data []byte) string { return "of " + string(data) }}, 0)
	c := livetest.DialV1(t, h.Endpoint)
	var tb keyTable
	tb.subscribe(t, c)
	c.Send(livetest.Operation("publish", 2, "k", "data", 7))
	tb.follow(t, c, map[string]string{"of 7": "7"})
}

func TestKeyThatIsNotRenewedIsRemoved(t *testing.T) {
	t.Parallel()
	h := keyedHost(t, live.TopicOptions{HistoryAge: 400 * time.Millisecond}, 0)
	put(t, h, "old", "1")
	c := livetest.DialV1(t, h.Endpoint)
	var tb keyTable
	tb.subscribe(t, c)
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
				put(t, h, "renewed", "1")
			}
		}
	}()
	livetest.Eventually(t, "the old key is removed", func() bool {
		for c.Waiting() > 0 {
			tb.take(c.Next())
		}
		return tb.keys["renewed"] == "1" && tb.keys["old"] == ""
	})
	close(stop)
	<-done
	tb.follow(t, c, map[string]string{})
	if tb.gaps > 0 {
		t.Errorf("%d gaps", tb.gaps)
	}
}

func TestListenersAreToldOfKeys(t *testing.T) {
	t.Parallel()
	h := keyedHost(t, live.TopicOptions{}, 0)
	heard := make(chan live.Message, 8)
	if _, err := h.Listen("k", func(m live.Message) { heard <- m }); err != nil {
		t.Fatal(err)
	}
	put(t, h, "a", "1")
	if err := h.Remove("k", "a"); err != nil {
		t.Fatal(err)
	}
	if err := h.Remove("k", "a"); err != nil { // it is not there any more
		t.Fatal(err)
	}
	put(t, h, "b", "2")
	for _, want := range []live.Message{{Key: "a", Data: []byte("1")}, {Key: "a", Removed: true}, {Key: "b", Data: []byte("2")}} {
		if m := livetest.Receive(t, heard); m.Key != want.Key || string(m.Data) != string(want.Data) || m.Removed != want.Removed {
			t.Errorf("heard %+v, want %+v", m, want)
		}
	}
}

func TestPlainClientsGetKeysToo(t *testing.T) {
	t.Parallel()
	var server *live.Server
	opts := livetest.Subscriber(&server)
	opts.Topics = func(string) live.TopicOptions { return live.TopicOptions{Keyed: true} }
	server = livetest.NewServer(t, opts)
	if err := server.Publish("k", []byte("1"), live.Key("a")); err != nil {
		t.Fatal(err)
	}
	c := livetest.Dial(t, livetest.Serve(t, server.Handler()))
	c.SendMessage("k", nil)
	texts := c.ReadN(2)
	if !strings.Contains(strings.Join(texts, " "), `{"topic":"k","key":"a","data":1}`) {
		t.Errorf("came %q", texts)
	}
	if err := server.Remove("k", "a"); err != nil {
		t.Fatal(err)
	}
	if text := c.Read(); text != `{"topic":"k","key":"a","removed":true}` {
		t.Errorf("came %s", text)
	}
}

// On a topic that drops publications for slow clients, a newer value takes the place of older ones
// of its own key, and of no other.
func TestOverflowDropsOlderValuesOfTheSameKeyOnly(t *testing.T) {
	t.Parallel()
	h := livetest.Hosting{Buffer: livetest.SmallBuffer}.Start(t, livetest.Open(live.Options{
		QueueSize: 64,
		Topics:    func(string) live.TopicOptions { return live.TopicOptions{Overflow: live.OverflowLatest} },
	}))
	c := h.Connect(t, livetest.Dialing{V1: true, Buffer: livetest.SmallBuffer}).Attend().Greeted()
	c.Must(livetest.SubscribeTo(1, "k"))
	c.Line.Stall()
	const rounds = 400
	for i := range rounds {
		for _, key := range []string{"a", "b", "c"} {
			put(t, h, key, livetest.Padded(i, 500))
		}
	}
	livetest.Eventually(t, "publications are dropped", func() bool { return h.Stats().Dropped > 0 })
	c.Line.Resume()
	newest := map[string]int{}
	for newest["a"] < rounds-1 || newest["b"] < rounds-1 || newest["c"] < rounds-1 {
		if f := c.Next(); f.IsPublication() {
			n := livetest.NumberOf(f.Data)
			if n < newest[f.Key] {
				t.Fatalf("%d of %s came after %d", n, f.Key, newest[f.Key])
			}
			newest[f.Key] = n
		}
	}
}

func TestKeyedTopicWithoutHistoryIsRefused(t *testing.T) {
	t.Parallel()
	server := livetest.NewServer(t, livetest.Open(live.Options{
		Broker: live.FromPubSub(nowhere{}),
		Topics: func(string) live.TopicOptions { return live.TopicOptions{Keyed: true} },
		Logger: livetest.Quiet,
	}))
	c := livetest.DialV1(t, livetest.Serve(t, server.Handler()))
	livetest.Refused(t, "a keyed topic of a broker without history", c.Do(livetest.SubscribeTo(1, "k")), 1, "no_history")
}

// nowhere is a backend that carries nothing.
type nowhere struct{}

func (nowhere) Publish(string, []byte) error                              { return nil }
func (nowhere) Subscribe(string, func([]byte)) (live.Subscription, error) { return nowhere{}, nil }
func (nowhere) Unsubscribe() error                                        { return nil }
func (nowhere) Close() error                                              { return nil }

// lossyKeys is a broker that loses the deliveries of one key when a test says so.
type lossyKeys struct {
	*live.MemoryBroker
	inProcess bool
	complete  bool                   // the history says that it remembers all removals
	lost      atomic.Value           // the key, a string
	lasts     atomic.Int64           // calls of Last
	onRead    atomic.Pointer[func()] // called once, by the next Read

	wrap func(broker.Sink) broker.Sink // returns the sink that gets the deliveries instead; nil: none
}

func newLossyKeys() *lossyKeys {
	return &lossyKeys{MemoryBroker: live.NewMemoryBroker(live.MemoryOptions{})}
}

func (b *lossyKeys) InProcess() bool { return b.inProcess }

func (b *lossyKeys) Start(s broker.Sink) {
	rules := s.(broker.Rules)
	if b.wrap != nil {
		s = b.wrap(s)
	}
	b.MemoryBroker.Start(lossyKeysSink{s, rules, b})
}

func (b *lossyKeys) Last(ctx context.Context, topic string) (live.Position, error) {
	b.lasts.Add(1)
	return b.MemoryBroker.Last(ctx, topic)
}

func (b *lossyKeys) Read(ctx context.Context, topic string, after, upto uint64, limit int) (broker.Page, error) {
	page, err := b.MemoryBroker.Read(ctx, topic, after, upto, limit)
	page.Complete = page.Complete || b.complete
	if f := b.onRead.Swap(nil); f != nil {
		(*f)()
	}
	return page, err
}

type lossyKeysSink struct {
	broker.Sink
	broker.Rules
	broker *lossyKeys
}

func (s lossyKeysSink) Deliver(p *broker.Publication) {
	if s.broker.lost.Load() != p.Key {
		s.Sink.Deliver(p)
	}
}

func lossyKeysHost(t testing.TB, b *lossyKeys) *livetest.Host {
	return livetest.Hosting{}.Start(t, livetest.Open(live.Options{
		Broker: b,
		Topics: func(string) live.TopicOptions { return live.TopicOptions{Keyed: true} },
		Logger: livetest.Quiet,
	}))
}

func remove(t testing.TB, h *livetest.Host, key string) {
	t.Helper()
	if err := h.Remove("k", key); err != nil {
		t.Fatal(err)
	}
}

// The delivery of a new key is lost. Then come so many removals that the table forgets some of them
// before it is compared with the history.
func TestLostKeyIsFoundAfterManyRemovals(t *testing.T) {
	t.Parallel()
	b := newLossyKeys()
	b.complete = true
	h := lossyKeysHost(t, b)
	for i := range 300 {
		put(t, h, strconv.Itoa(i), "1")
	}
	c := livetest.DialV1(t, h.Endpoint)
	var tb keyTable
	tb.subscribe(t, c)
	b.lost.Store("new")
	put(t, h, "new", "1")
	b.lost.Store("")
	for i := range 300 {
		remove(t, h, strconv.Itoa(i))
	}
	tb.follow(t, c, map[string]string{"new": "1"})
}

// chained is a sink whose publications say what came before of their key, also if that was removed long
// ago, as NATS does.
type chained struct {
	broker.Sink
	newest map[string]*broker.Publication
	before map[string]*broker.Publication
}

func (c *chained) Deliver(p *broker.Publication) {
	next := *p
	if last := c.newest[p.Key]; last != nil {
		next.Prev, c.before[p.Key] = last.Offset, last
	}
	c.newest[p.Key] = &next
	c.Sink.Deliver(&next)
}

// forgetful returns a host whose table has forgotten the removal of a key, and has not been compared with
// the history since.
func forgetful(t *testing.T, key string) (*lossyKeys, *chained, *livetest.Host, *livetest.Client, *keyTable) {
	b := newLossyKeys()
	b.complete = true
	c := &chained{newest: make(map[string]*broker.Publication), before: make(map[string]*broker.Publication)}
	b.wrap = func(s broker.Sink) broker.Sink { c.Sink = s; return c }
	h := lossyKeysHost(t, b)
	client, tb := livetest.DialV1(t, h.Endpoint), &keyTable{}
	tb.subscribe(t, client)
	livetest.Eventually(t, "the comparisons after the beginning are over", func() bool { return b.lasts.Load() >= 3 })
	put(t, h, key, "1")
	remove(t, h, key)
	for i := range 300 {
		put(t, h, strconv.Itoa(i), "1")
		remove(t, h, strconv.Itoa(i))
	}
	put(t, h, "last", "1")
	tb.follow(t, client, map[string]string{"last": "1"})
	return b, c, h, client, tb
}

// A key comes back whose removal the table has forgotten. That is no reason to ask the history.
func TestKeyThatComesBackIsApplied(t *testing.T) {
	t.Parallel()
	b, _, h, c, tb := forgetful(t, "a")
	before := b.lasts.Load()
	put(t, h, "a", "2")
	tb.follow(t, c, map[string]string{"last": "1", "a": "2"})
	if asked := b.lasts.Load() - before; asked > 0 {
		t.Errorf("the history was asked %d times", asked)
	}
}

// An old value comes again after its removal, which the table has forgotten. The key stays removed.
func TestOldValueThatComesAgainBringsNoKeyBack(t *testing.T) {
	t.Parallel()
	b, chain, h, c, tb := forgetful(t, "a")
	before := b.lasts.Load()
	chain.Sink.Deliver(chain.before["a"])
	livetest.Eventually(t, "the history was asked", func() bool { return b.lasts.Load() > before })
	put(t, h, "end", "1")
	tb.follow(t, c, map[string]string{"last": "1", "end": "1"})
	if tb.keys["a"] != "" || tb.came["a"] > 1 {
		t.Errorf("the key came %d times", tb.came["a"])
	}
}

// While the server asks the history for removals that a client has missed, so many keys are removed
// that the table forgets some. The client must not be told that it has all removals.
func TestRemovalsForgottenDuringAQuestionAreNoSilentLoss(t *testing.T) {
	t.Parallel()
	b := newLossyKeys()
	b.inProcess = true
	h := lossyKeysHost(t, b)
	for i := range 300 {
		put(t, h, strconv.Itoa(i), "1")
	}
	c := livetest.DialV1(t, h.Endpoint)
	var tb keyTable
	tb.subscribe(t, c)
	c.Drop()
	livetest.Eventually(t, "the topic has no subscriber", func() bool { return h.Stats().Topics == 0 })
	put(t, h, "new", "1")
	var other keyTable
	other.subscribe(t, livetest.DialV1(t, h.Endpoint))
	removals := func() {
		for i := range 300 {
			remove(t, h, strconv.Itoa(i))
		}
	}
	b.onRead.Store(&removals)
	again := livetest.DialV1(t, h.Endpoint)
	tb.subscribe(t, again)
	tb.follow(t, again, map[string]string{"new": "1"})
}

// The broker drops the table of a topic with subscribers for want of space. The clients are told, and
// do not keep keys that nothing would end.
func TestClientsAreToldThatATableWasDropped(t *testing.T) {
	t.Parallel()
	for _, then := range []string{"nothing follows", "a key follows"} {
		t.Run(then, func(t *testing.T) {
			t.Parallel()
			h := livetest.Hosting{}.Start(t, livetest.Open(live.Options{
				Broker: live.NewMemoryBroker(live.MemoryOptions{MaxBytes: 20_000}),
				Topics: func(string) live.TopicOptions { return live.TopicOptions{Keyed: true} },
				Logger: livetest.Quiet,
			}))
			put(t, h, "old", "1")
			c := livetest.DialV1(t, h.Endpoint)
			var tb keyTable
			tb.subscribe(t, c)
			for i := range 6 {
				for _, topic := range []string{"other", "another", "third"} {
					if err := h.Publish(topic, []byte(livetest.Padded(i, 1000)), live.Key(strconv.Itoa(i))); err != nil {
						t.Fatal(err)
					}
				}
			}
			want := map[string]string{}
			if then == "a key follows" {
				put(t, h, "new", "1")
				want["new"] = "1"
			}
			tb.follow(t, c, want)
			if tb.gaps != 1 {
				t.Errorf("%d gaps", tb.gaps)
			}
		})
	}
}

// A client was at the newest position of a table when that was dropped.
func TestClientOfADroppedTableBeginsAnew(t *testing.T) {
	t.Parallel()
	h := livetest.Hosting{}.Start(t, livetest.Open(live.Options{
		Broker: live.NewMemoryBroker(live.MemoryOptions{MaxTopics: 1}),
		Topics: func(string) live.TopicOptions { return live.TopicOptions{Keyed: true} },
		Logger: livetest.Quiet,
	}))
	put(t, h, "a", "1")
	c := livetest.DialV1(t, h.Endpoint)
	var tb keyTable
	tb.subscribe(t, c)
	c.Drop()
	livetest.Eventually(t, "the topic has no subscriber", func() bool { return h.Stats().Topics == 0 })
	if err := h.Publish("other", []byte("1"), live.Key("a")); err != nil {
		t.Fatal(err)
	}
	if messages, err := h.History(t.Context(), "k", 10); err != nil || len(messages) > 0 {
		t.Fatalf("the history has %v, %v", messages, err)
	}
	if f := tb.subscribe(t, livetest.DialV1(t, h.Endpoint)); f.WasRecovered() || len(tb.keys) > 0 {
		t.Errorf("the reply is %s", f.Raw)
	}
}

// After a gap a client forgets its keys, also those that it was not sent since it had published them
// itself. So it is sent these too.
func TestAfterAGapAClientGetsItsOwnKeysToo(t *testing.T) {
	t.Parallel()
	b := newLossyKeys()
	sessions := make(chan *live.Session, 1)
	h := livetest.Hosting{}.Start(t, livetest.Open(live.Options{
		Broker:    b,
		OnConnect: func(_ context.Context, s *live.Session) error { sessions <- s; return nil },
		Topics:    func(string) live.TopicOptions { return live.TopicOptions{Keyed: true} },
		Logger:    livetest.Quiet,
	}))
	c := livetest.DialV1(t, h.Endpoint)
	var tb keyTable
	tb.subscribe(t, c)
	if err := h.Publish("k", []byte("1"), live.Key("own"), live.Except(livetest.Receive(t, sessions))); err != nil {
		t.Fatal(err)
	}
	for i := range 300 { // the server misses more removals than the history remembers
		key := strconv.Itoa(i)
		b.lost.Store(key)
		put(t, h, key, "1")
		remove(t, h, key)
	}
	b.lost.Store("")
	for tb.gaps == 0 {
		tb.take(c.Next())
	}
	tb.follow(t, c, map[string]string{"own": "1"})
}

// While a client reads the table once, more keys are removed than the topic remembers. So it begins
// anew again and again, and still every key has its turn.
func TestEveryKeyHasItsTurnDespiteManyRemovals(t *testing.T) {
	t.Parallel()
	const keys = 1000
	h := keyedHost(t, live.TopicOptions{History: 2 * keys}, livetest.SmallBuffer)
	data := strconv.Quote(strings.Repeat("x", 60))
	want := make(map[string]string)
	for i := range keys {
		want[strconv.Itoa(i)] = data
		put(t, h, strconv.Itoa(i), data)
	}
	c := h.Connect(t, livetest.Dialing{V1: true, Buffer: livetest.SmallBuffer}).Attend().Greeted()
	var tb keyTable
	seen := make(map[string]bool)
	for _, m := range tb.subscribe(t, c).Messages {
		seen[m.Key] = true
	}
	c.Line.SetPace(40 << 10)
	passing := 0
	livetest.Eventually(t, "every key has come", func() bool {
		for range 200 {
			passing++
			key := fmt.Sprint("passing-", passing)
			put(t, h, key, data)
			remove(t, h, key)
		}
		for c.Waiting() > 0 {
			f := c.Next()
			tb.take(f)
			if want[f.Key] != "" {
				seen[f.Key] = true
			}
		}
		return len(seen) == keys
	})
	c.Line.SetPace(0)
	tb.follow(t, c, want)
	if tb.gaps == 0 {
		t.Error("the client never began anew")
	}
}

// A client asks for all keys anew, and its connection ends before it has them. The position that it had
// before does not count any more, so it gets the others on its next connection.
func TestClientThatIsCutWhileItBeginsAnewLacksNothing(t *testing.T) {
	t.Parallel()
	h := keyedHost(t, live.TopicOptions{}, 0)
	want := make(map[string]string)
	for i := range 500 {
		want[strconv.Itoa(i)] = livetest.Padded(i, 500)
		put(t, h, strconv.Itoa(i), want[strconv.Itoa(i)])
	}
	c := livetest.DialV1(t, h.Endpoint)
	var tb keyTable
	tb.subscribe(t, c)
	tb.follow(t, c, want)
	for tb.at == "" {
		tb.take(c.Next())
	}
	c.Must(livetest.UnsubscribeFrom(2, "k"))
	c.Send(livetest.SubscribeTo(3, "k"))
	f, _ := c.Reply(3)
	if tb.take(f); len(tb.keys) == len(want) {
		t.Fatal("the reply has all keys, so nothing is tested")
	}
	c.Drop()
	again := livetest.DialV1(t, h.Endpoint)
	tb.subscribe(t, again)
	tb.follow(t, again, want)
}
