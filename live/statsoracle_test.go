package live_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
)

// books are what a test has counted itself. The test knows the protocol and what it did, and nothing of
// how the server counts.
type books struct {
	t    *testing.T
	h    *livetest.Host
	rand *rand.Rand

	want     live.Stats
	last     live.Stats    // as seen before
	auths    uint64        // calls of OnAuth
	requests uint64        // calls of OnRequest
	states   atomic.Uint64 // calls of Snapshot; clients share states
	lines    int           // bytes that clients have read, without the answers to their handshakes

	clients []*booked
	at      []string // positions of the publications to the topic kept
	number  int
}

// booked is a client with what it is subscribed to.
type booked struct {
	*livetest.Client
	session *live.Session
	answer  int64 // bytes of the answer to the handshake
	topics  map[string]bool
	id      int
}

const (
	kept   = "kept"   // a topic with a history of keptN publications
	plain  = "plain"  // a topic without
	tabled = "tabled" // a keyed topic
	state  = "state"  // a topic with a Snapshot
	keptN  = 5
)

func newBooks(t *testing.T, seed uint64) *books {
	b := &books{t: t, rand: rand.New(rand.NewPCG(seed, 1))}
	opts := live.Options{
		Logger:        livetest.Quiet,
		ReadLimit:     2000,
		ShutdownDelay: -1,
		OnAuth: func(_ context.Context, r *http.Request) (any, error) {
			switch user := r.URL.Query().Get("user"); user {
			case "nobody":
				return nil, errors.New("no")
			case "bomb":
				panic("boom")
			default:
				return user, nil
			}
		},
		OnConnect: func(_ context.Context, s *live.Session) error {
			if s.UserID() == "unwelcome" {
				return errors.New("no")
			}
			return nil
		},
		OnSubscribe: func(_ context.Context, _ *live.Session, topic string) error {
			if topic == "secret" {
				return errors.New("no")
			}
			return nil
		},
		OnPublish: func(_ context.Context, _ *live.Session, topic string, data []byte) ([]byte, error) {
			if topic == "secret" {
				return nil, errors.New("no")
			}
			return data, nil
		},
		OnRequest: func(_ context.Context, _ *live.Session, topic string, _ []byte) (any, error) {
			switch topic {
			case "broken":
				return nil, errors.New("boom")
			case "bomb":
				panic("boom")
			}
			return 1, nil
		},
		Topics: func(topic string) live.TopicOptions {
			switch topic {
			case kept:
				return live.TopicOptions{History: keptN, Presence: live.PresencePrivate}
			case tabled:
				return live.TopicOptions{Keyed: true}
			case state:
				return live.TopicOptions{Snapshot: func(context.Context, string) (any, error) { b.states.Add(1); return 1, nil }}
			case "no state":
				return live.TopicOptions{Snapshot: func(context.Context, string) (any, error) { b.states.Add(1); return nil, errors.New("boom") }}
			}
			return live.TopicOptions{}
		},
	}
	b.h = livetest.Hosting{}.Start(t, opts)
	return b
}

// sent notes a message of a client.
func (b *books) sent(text string) string {
	b.want.Received++
	b.want.BytesReceived += uint64(len(text))
	return text
}

// does has a client send an operation, and notes the answer.
func (b *books) does(c *booked, op, topic string, more ...any) livetest.Frame {
	c.id++
	text := livetest.Operation(op, c.id, topic, more...)
	c.Send(b.sent(text))
	for parts := (livetest.AnswerParts{}); ; {
		f := c.Next()
		b.want.FramesSent++
		if parts.Add(b.t, &f) {
			return f
		}
	}
}

func (b *books) connects(user string) *booked {
	raw, err := livetest.Try(b.t, b.h.With("user="+user), livetest.Dialing{V1: true})
	if err != nil {
		b.t.Fatal(err)
	}
	c := &booked{Client: raw, topics: make(map[string]bool)}
	c.answer = raw.Line.BytesRead() - int64(raw.In.Buffered())
	b.auths++
	b.want.Accepted++
	return c
}

// step does one thing at random, and notes what it does to the figures.
func (b *books) step() string {
	w := &b.want
	refused := func(user string, header http.Header, status int) {
		b.t.Helper()
		if got := livetest.Refusal(b.t, b.h.With("user="+user), header); got != status {
			b.t.Errorf("%s was refused with %d, want %d", user, got, status)
		}
		w.Refused++
	}
	var c *booked
	if len(b.clients) > 0 {
		c = b.clients[b.rand.IntN(len(b.clients))]
	}
	topic := []string{kept, plain, tabled, state}[b.rand.IntN(4)]
	n := b.rand.IntN(31)
	if c == nil {
		n = min(n, 1)
	}
	switch n {
	case 0, 1:
		b.number++
		c := b.connects(fmt.Sprint("user-", b.number))
		c.Attend().Greeted()
		c.session = b.h.SessionByID(c.Hello.Session)
		w.FramesSent++
		w.Sessions++
		b.clients = append(b.clients, c)
		return "connect"
	case 2:
		refused("nobody", nil, 401)
		w.RefusedFor.Auth++
		b.auths++
		return "OnAuth refuses"
	case 3:
		refused("bomb", nil, 500)
		w.RefusedFor.Panic++
		w.Panics++
		b.auths++
		return "OnAuth panics"
	case 4:
		refused("x", http.Header{"Origin": {"https://evil.example"}}, 403)
		w.RefusedFor.Origin++
		return "another origin"
	case 5:
		resp, err := http.Get(b.h.HTTP())
		if err != nil {
			b.t.Fatal(err)
		}
		resp.Body.Close()
		w.Refused++
		w.RefusedFor.BadHandshake++
		return "no handshake"
	case 6:
		c := b.connects("unwelcome")
		c.Attend()
		before, code := c.Rest()
		if code != 1008 {
			b.t.Errorf("OnConnect refused, and the code is %d", code)
		}
		w.FramesSent += uint64(len(before)) // hello
		w.Closed++
		w.ClosedFor.Refused++
		b.left(c, true)
		return "OnConnect refuses"
	case 7, 8, 9:
		first := !c.topics[topic]
		f := b.does(c, "subscribe", topic)
		if f.Op != "reply" {
			b.t.Errorf("subscribe: %s", f.Raw)
		}
		if first {
			b.joined(c, topic)
		}
		return "subscribe to " + topic
	case 10:
		since, lost := b.position()
		if since == "" {
			return ""
		}
		f := b.does(c, "subscribe", kept, "since", since)
		if f.Op != "reply" || f.WasRecovered() == lost {
			b.t.Errorf("since %s, lost: %v: %s", since, lost, f.Raw)
		}
		if lost {
			w.NotRecovered++
			w.Gaps++
		} else {
			w.Recovered++
		}
		if !c.topics[kept] {
			b.joined(c, kept)
		}
		return "resume"
	case 11:
		b.does(c, "unsubscribe", topic)
		b.leave(c, topic)
		return "unsubscribe from " + topic
	case 12:
		livetest.Refused(b.t, "subscribe", b.does(c, "subscribe", "secret"), c.id, "forbidden")
		w.OperationsRefused++
		return "a secret topic"
	case 13, 14, 15, 16:
		b.publishes(topic)
		return "publish to " + topic
	case 17:
		if b.h.Publish(topic, []byte("{")) == nil {
			b.t.Error("no JSON was published")
		}
		return "publish no JSON"
	case 18:
		c.id++
		c.Send(b.sent(livetest.Operation("publish", c.id, plain, "data", b.number)))
		b.delivered(plain, "")
		f, before := c.Answer()
		if f.Op != "reply" {
			b.t.Errorf("publish: %s", f.Raw)
		}
		w.Published++
		w.FramesSent++
		for _, other := range b.clients {
			if other.topics[plain] && (other != c || len(before) == 0) {
				other.Next()
			}
		}
		return "a client publishes"
	case 19:
		livetest.Refused(b.t, "publish", b.does(c, "publish", "secret", "data", 1), c.id, "forbidden")
		w.OperationsRefused++
		return "a client may not publish"
	case 20:
		b.does(c, "request", "t", "data", 1)
		b.requests++
		return "request"
	case 21:
		livetest.Refused(b.t, "request", b.does(c, "request", "broken", "data", 1), c.id, "internal")
		w.OperationsFailed++
		b.requests++
		return "request that fails"
	case 22:
		c.id++
		livetest.Refused(b.t, "unknown", c.Do(b.sent(fmt.Sprintf(`{"op":"dance","id":%d}`, c.id))), c.id, "unknown_op")
		w.FramesSent++
		w.OperationsRefused++
		return "unknown operation"
	case 23:
		c.id++
		livetest.Refused(b.t, "malformed", c.Do(b.sent(fmt.Sprintf(`{"op":"subscribe","id":%d,"topic":1}`, c.id))), c.id, "bad_request")
		w.FramesSent++
		w.OperationsRefused++
		w.Malformed++
		return "malformed operation"
	case 25:
		of := []string{kept, tabled}[b.rand.IntN(2)]
		more := []any{"since", "another.1"}
		if of == kept && b.rand.IntN(2) == 0 {
			more = append(more, "last", 2)
		}
		if f := b.does(c, "subscribe", of, more...); f.Op != "reply" || f.WasRecovered() {
			b.t.Errorf("since the position of another history: %s", f.Raw)
		}
		w.NotRecovered++
		w.Gaps++
		if !c.topics[of] {
			b.joined(c, of)
		}
		return "resume from another history of " + of
	case 26:
		if err := b.h.Publish(plain, []byte("0"), live.Except(c.session)); err != nil {
			b.t.Error(err)
		}
		w.Published++
		for _, other := range b.clients {
			if other.topics[plain] && other != c {
				other.Hears(plain, "0")
				w.Delivered++
				w.FramesSent++
			}
		}
		return "publish to all but one"
	case 24:
		livetest.Refused(b.t, "subscribe", b.does(c, "subscribe", "no state"), c.id, "internal")
		w.OperationsFailed++
		w.Subscribed++ // it has begun, and ended at once
		w.SnapshotsFailed++
		return "a Snapshot that fails"
	}
	return b.ends(c)
}

// position returns the position of a publication to the topic kept, and whether the history has lost
// something since.
func (b *books) position() (since string, lost bool) {
	if len(b.at) == 0 {
		return "", false
	}
	i := b.rand.IntN(len(b.at))
	return b.at[i], len(b.at)-1-i > keptN
}

func (b *books) joined(c *booked, topic string) {
	if b.subscribers(topic) == 0 {
		b.want.Topics++
	}
	c.topics[topic] = true
	b.want.Subscribed++
	b.want.Subscriptions++
	if topic == kept {
		b.want.Present++
	}
}

func (b *books) leave(c *booked, topic string) {
	if !c.topics[topic] {
		return
	}
	delete(c.topics, topic)
	b.want.Subscriptions--
	if topic == kept {
		b.want.Present--
	}
	if b.subscribers(topic) == 0 {
		b.want.Topics--
	}
}

func (b *books) subscribers(topic string) (n uint64) {
	for _, c := range b.clients {
		if c.topics[topic] {
			n++
		}
	}
	return n
}

// delivered notes a publication.
func (b *books) delivered(topic, at string) {
	n := b.subscribers(topic)
	b.want.Delivered += n
	b.want.FramesSent += n
	if topic == kept {
		b.at = append(b.at, at)
	}
}

func (b *books) publishes(topic string) {
	var opts []live.PublishOption
	if topic == tabled {
		opts = append(opts, live.Key(fmt.Sprint(b.rand.IntN(3))))
	}
	b.number++
	at, err := b.h.PublishContext(b.t.Context(), topic, fmt.Append(nil, b.number), opts...)
	if err != nil {
		b.t.Fatal(err)
	}
	b.want.Published++
	b.delivered(topic, at.String())
	for _, c := range b.clients {
		if c.topics[topic] {
			c.Hears(topic, fmt.Sprint(b.number))
		}
	}
}

// ends ends a session in one of many ways.
func (b *books) ends(c *booked) string {
	w := &b.want
	ways := []struct {
		name   string
		count  *uint64
		end    func()
		framed bool // the server sends a close frame
	}{
		{"client", &w.ClosedFor.Client, func() { c.Close(1000, "") }, true},
		{"lost", &w.ClosedFor.Lost, c.Drop, false},
		{"application", &w.ClosedFor.Application, func() { c.session.Close() }, true},
		{"user", &w.ClosedFor.User, func() { b.h.DisconnectUser(c.session.UserID(), "out") }, true},
		{"expired", &w.ClosedFor.Expired, func() { c.session.ExpireAt(time.Unix(1, 0)) }, true},
		{"protocol", &w.ClosedFor.Protocol, func() { w.Malformed++; c.Send(b.sent("no JSON")) }, true},
		{"too big", &w.ClosedFor.TooBig, func() { c.Send(strings.Repeat("x", 2001)) }, true},
		{"panic", &w.ClosedFor.Panic, func() {
			w.Panics++
			b.requests++
			c.Send(b.sent(`{"op":"request","id":1,"topic":"bomb"}`))
		}, true},
	}
	way := ways[b.rand.IntN(len(ways))]
	way.end()
	*way.count++
	w.Closed++
	w.Sessions--
	for topic := range c.topics {
		b.leave(c, topic)
	}
	before, _ := c.Rest()
	b.want.FramesSent += uint64(len(before))
	b.left(c, way.framed)
	for i, other := range b.clients {
		if other == c {
			b.clients = append(b.clients[:i], b.clients[i+1:]...)
			break
		}
	}
	return "end: " + way.name
}

// left notes what a client has read to its end.
func (b *books) left(c *booked, framed bool) {
	if framed {
		b.want.FramesSent++
	}
	b.lines += int(c.Line.BytesRead() - c.answer)
}

// read returns how many bytes all clients have read.
func (b *books) read() (n int) {
	n = b.lines
	for _, c := range b.clients {
		n += int(c.Line.BytesRead() - c.answer)
	}
	return n
}

// check compares the figures with the books. What has ended is counted a moment later.
func (b *books) check(after string) {
	b.t.Helper()
	b.want.Snapshots = b.states.Load()
	var got live.Stats
	for deadline := time.Now().Add(livetest.Patience); ; time.Sleep(100 * time.Microsecond) {
		got = b.h.Stats()
		b.onlyRises(got)
		got = b.settled(got)
		if got == b.want || time.Now().After(deadline) {
			break
		}
	}
	taken := b.want.FramesSent
	for _, c := range b.clients {
		for c.Waiting() > 0 {
			c.Next()
			b.want.FramesSent++
		}
	}
	got.FramesSent += b.want.FramesSent - taken
	for i := range reflect.TypeFor[live.Stats]().NumField() {
		field := reflect.TypeFor[live.Stats]().Field(i)
		if g, w := reflect.ValueOf(got).Field(i).Interface(), reflect.ValueOf(b.want).Field(i).Interface(); g != w {
			b.t.Errorf("after %q: %s is %+v, want %+v", after, field.Name, g, w)
		}
	}
}

// settled checks the figures that the test cannot foretell one by one, and returns the others.
func (b *books) settled(got live.Stats) live.Stats {
	sent := got.FramesSent
	for _, c := range b.clients { // what a subscription was sent after its answer
		got.FramesSent -= uint64(c.Waiting())
	}
	if int(got.BytesSent) == b.read() {
		got.BytesSent = 0
	}
	for _, times := range []struct {
		of    *live.Durations
		count uint64
	}{{&got.AuthTime, b.auths}, {&got.RequestTime, b.requests}, {&got.SnapshotTime, got.Snapshots}} {
		if times.of.Count() == times.count && fits(*times.of) {
			*times.of = live.Durations{}
		}
	}
	if got.DeliveryTime.Count() <= got.Delivered && fits(got.DeliveryTime) {
		got.DeliveryTime = live.Durations{}
	}
	least, most := uint64(0), uint64(0)
	for i, n := range got.WriteSizes[:len(got.WriteSizes)-1] {
		most += n * uint64(live.WriteSizeBounds()[i])
		if least += n; i > 0 {
			least += n * uint64(live.WriteSizeBounds()[i-1])
		}
	}
	if least <= sent && sent <= most {
		got.WriteSizes = b.want.WriteSizes
	}
	return got
}

// fits reports whether the sum of durations is between those of the bounds of their buckets.
func fits(d live.Durations) bool {
	bounds := live.DurationBounds()
	var least, most time.Duration
	for i, n := range d.Counts {
		if i > 0 {
			least += time.Duration(n) * bounds[i-1]
		}
		if most += time.Duration(n) * time.Hour; i < len(bounds) {
			most += time.Duration(n) * (bounds[i] - time.Hour)
		}
	}
	return least <= d.Sum && d.Sum <= most
}

// onlyRises checks that no counter has gone back.
func (b *books) onlyRises(now live.Stats) {
	b.t.Helper()
	var walk func(name string, before, now reflect.Value)
	walk = func(name string, before, now reflect.Value) {
		switch now.Kind() {
		case reflect.Struct:
			for i := range now.NumField() {
				walk(name+"."+now.Type().Field(i).Name, before.Field(i), now.Field(i))
			}
		case reflect.Array:
			for i := range now.Len() {
				walk(fmt.Sprint(name, ".", i), before.Index(i), now.Index(i))
			}
		case reflect.Uint64:
			if now.Uint() < before.Uint() {
				b.t.Errorf("%s went from %d to %d", name, before.Uint(), now.Uint())
			}
		case reflect.Int64:
			if now.Int() < before.Int() {
				b.t.Errorf("%s went from %d to %d", name, before.Int(), now.Int())
			}
		}
	}
	walk("Stats", reflect.ValueOf(b.last), reflect.ValueOf(now))
	b.last = now
}

// Whatever happens in which order, each figure is what the test has counted itself. At the end all
// that rises and falls is zero.
func TestStatsOfARandomHistoryAreRight(t *testing.T) {
	t.Parallel()
	for seed := range uint64(4) {
		b := newBooks(t, seed)
		for i := range 120 {
			what := b.step()
			if b.check(fmt.Sprintf("%s (step %d of seed %d)", what, i, seed)); t.Failed() {
				return
			}
		}
		for len(b.clients) > 0 {
			b.check(b.ends(b.clients[0]))
		}
		b.h.Shutdown(t.Context())
		if st := b.h.Stats(); st.Sessions != 0 || st.Topics != 0 || st.Subscriptions != 0 || st.Present != 0 || st.WaitingMessages != 0 || st.WaitingBytes != 0 || st.CatchingUp != 0 || st.AuthsWaiting != 0 {
			t.Errorf("at the end: %+v", st)
		}
	}
}

// What a full queue drops is counted by its rule: a client that gets on reads all but what was dropped.
func TestStatsOfDroppedPublicationsAddUp(t *testing.T) {
	t.Parallel()
	const published, size = 2000, 2 << 10
	for overflow, dropped := range map[live.Overflow]func(live.Stats) uint64{
		live.OverflowDropOldest: func(st live.Stats) uint64 { return st.DroppedOldest },
		live.OverflowLatest:     func(st live.Stats) uint64 { return st.DroppedLatest },
	} {
		opts := livetest.Open(live.Options{QueueSize: 20, Topics: livetest.Keeping("", live.TopicOptions{Overflow: overflow})})
		h := livetest.Hosting{Buffer: 8 << 10}.Start(t, opts)
		c := h.Connect(t, livetest.Dialing{V1: true, Buffer: 8 << 10}).Attend().Greeted()
		c.Must(livetest.SubscribeTo(1, "t"))
		c.Line.Stall()
		h.PublishNumbers(t, "t", 1, published, size)
		c.Line.Resume()
		heard := uint64(0)
		for last := 0; last < published; heard++ {
			f := c.Next()
			for !f.IsPublication() { // a gap
				f = c.Next()
			}
			last = livetest.NumberOf(f.Data)
		}
		st := h.Stats()
		if n := dropped(st); n != published-heard || n == 0 || st.Dropped != n {
			t.Errorf("overflow %v: %d of %d were read, and %d count as dropped, %d of them by this rule", overflow, heard, published, st.Dropped, n)
		}
	}
}
