package interop

import (
	"context"
	"fmt"
	"math/rand/v2"
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

// A client that has seen the first seen of so many publications comes back.
func TestResumeReturnsExactlyWhatWasMissed(t *testing.T) {
	for _, test := range []struct {
		history, published, seen int
		recovered                bool
	}{
		{10, 0, 0, true},
		{10, 1, 0, true},
		{10, 1, 1, true},
		{10, 10, 0, true},  // exactly what is kept
		{10, 11, 0, false}, // one less
		{10, 11, 1, true},
		{10, 500, 489, false},
		{10, 500, 490, true},
		{10, 500, 499, true},
		{10, 500, 500, true},
		{1, 5, 3, false},
		{1, 5, 4, true},
		{256, 256, 0, true}, // what the server has at hand
		{257, 257, 0, true}, // and one more
		{256, 257, 0, false},
		{2000, 600, 100, true},
		{2000, 600, 343, true},
		{2000, 600, 344, true},
		{2000, 600, 345, true},
		{2000, 1500, 500, true},
		{2000, 1500, 499, true}, // 1,001, which no single page of a history has
		{2000, 1500, 0, true},
		{2000, 1500, 1400, true},
		{1000, 1500, 500, true},
		{1000, 1500, 499, false},
		{4000, 4000, 0, true}, // whatever the history holds
		{4000, 4001, 0, false},
	} {
		for _, someoneStays := range []bool{false, true} { // whose subscription keeps the topic awake
			name := fmt.Sprintf("history %d, %d of %d seen, someone stays: %t", test.history, test.seen, test.published, someoneStays)
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				server := livetest.NewHistoryServer(t, live.TopicOptions{History: test.history}, nil)
				at := livetest.Serve(t, server.Handler())
				c := livetest.DialV1(t, at)
				if someoneStays {
					listening, err := server.Listen("t", func(live.Message) {})
					if err != nil {
						t.Fatal(err)
					}
					defer listening.Unsubscribe()
				}
				since := c.Must(livetest.SubscribeTo(1, "t")).At
				for n := range test.seen {
					server.Publish("t", fmt.Appendf(nil, `%d`, n+1))
					since = c.Hears("t", fmt.Sprint(n+1))[0].At
				}
				c.Drop()
				livetest.Eventually(t, "the session's end", func() bool { return server.Stats().Sessions == 0 })
				livetest.PublishNumbers(t, server, "t", test.seen+1, test.published)

				c = livetest.DialV1(t, at)
				f := c.Recovers(livetest.ResumeFrom(1, "t", since), test.published)
				if f.Recovered == nil || *f.Recovered != test.recovered {
					t.Fatalf("answered by %.200s, want recovered %t", f.Raw, test.recovered)
				}
				if !test.recovered {
					if f.Messages != nil {
						t.Errorf("with a gap came %d messages", len(f.Messages))
					}
				} else {
					if f.Messages == nil {
						t.Fatalf("answered by %s, without messages", f.Raw)
					}
					if got := livetest.DataOf(f.Messages); !slices.Equal(got, livetest.Numbers(test.seen+1, test.published)) {
						t.Errorf("got %d messages: %.200v", len(got), got)
					}
					if n := len(f.Messages); n > 0 && f.Messages[n-1].At != f.At {
						t.Errorf("the last has the position %s, the reply %s", f.Messages[n-1].At, f.At)
					}
				}
				livetest.PublishNumbers(t, server, "t", test.published+1, test.published+3)
				c.Hears("t", livetest.Numbers(test.published+1, test.published+3)...)
			})
		}
	}
}

// From any position of which the client has been told it can go on.
func TestEveryPositionIsGoodToResumeFrom(t *testing.T) {
	const published = 300
	server := livetest.NewHistoryServer(t, live.TopicOptions{History: 1000}, nil)
	c := livetest.DialV1(t, livetest.Serve(t, server.Handler()))
	positions := []string{c.Must(livetest.SubscribeTo(1, "t")).At}
	for n := range published {
		server.Publish("t", fmt.Appendf(nil, `%d`, n+1))
		positions = append(positions, c.Hears("t", fmt.Sprint(n+1))[0].At)
	}
	if all := slices.Compact(slices.Sorted(slices.Values(positions))); len(all) != published+1 {
		t.Errorf("%d positions for %d publications", len(all), published)
	}
	for seen, since := range positions {
		c.Must(livetest.UnsubscribeFrom(1, "t"))
		f := c.Recovers(livetest.ResumeFrom(2, "t", since), published)
		if got := livetest.DataOf(f.Messages); !f.WasRecovered() || !slices.Equal(got, livetest.Numbers(seen+1, published)) {
			t.Fatalf("since %s, the %dth: %.200s", since, seen, f.Raw)
		}
		if f.At != positions[published] {
			t.Errorf("the topic is at %s, the reply says %s", positions[published], f.At)
		}
		for i, m := range f.Messages {
			if m.At != positions[seen+1+i] {
				t.Errorf("publication %s came at %s, and is now at %s", m.Data, positions[seen+1+i], m.At)
			}
		}
	}
}

func TestPositionThatIsNoneOfThisHistoryIsAGap(t *testing.T) {
	server := livetest.NewHistoryServer(t, live.TopicOptions{History: 10}, nil)
	livetest.PublishNumbers(t, server, "t", 1, 5)
	c := livetest.DialV1(t, livetest.Serve(t, server.Handler()))
	at := c.Must(livetest.SubscribeTo(1, "t")).At
	epoch := strings.TrimSuffix(at, ".5")
	for _, since := range []string{
		"otherepoch.3", "otherepoch.5", "otherepoch.0", "a.b.c.5", `\u0000.5`,
		epoch + ".6", epoch + ".18446744073709551615", // ahead
		strings.ToUpper(epoch) + ".4",
	} {
		if since == epoch+".4" {
			continue // an epoch without a letter
		}
		c.Must(livetest.UnsubscribeFrom(2, "t"))
		livetest.Same(t, since, c.Do(fmt.Sprintf(`{"op":"subscribe","id":3,"topic":"t","since":"%s"}`, since)).Raw,
			`{"op":"reply","id":3,"at":"`+at+`","recovered":false}`)
	}
	server.Publish("t", []byte(`6`))
	c.Hears("t", "6")
}

// A client that is subscribed already is answered all the same, and hears
// everything once.
func TestResumingWhileSubscribedChangesNothing(t *testing.T) {
	server := livetest.NewHistoryServer(t, live.TopicOptions{History: 10}, nil)
	c := livetest.DialV1(t, livetest.Serve(t, server.Handler()))
	c.Must(livetest.SubscribeTo(1, "t"))
	livetest.PublishNumbers(t, server, "t", 1, 3)
	since := c.Hears("t", "1", "2", "3")[1].At
	f := c.Must(livetest.ResumeFrom(2, "t", since))
	if got := livetest.DataOf(f.Messages); !f.WasRecovered() || !slices.Equal(got, []string{"3"}) {
		t.Errorf("answered by %s", f.Raw)
	}
	server.Publish("t", []byte(`4`))
	c.Hears("t", "4")
	if extra := c.Settled(); len(extra) != 0 {
		t.Errorf("then came %s", extra[0].Raw)
	}
}

func TestLastAndHistory(t *testing.T) {
	const published = 1500
	server := livetest.NewHistoryServer(t, live.TopicOptions{History: 1200}, nil)
	livetest.PublishNumbers(t, server, "t", 1, published)
	c := livetest.DialV1(t, livetest.Serve(t, server.Handler()))
	check := func(asked int, what string, f livetest.Frame) {
		t.Helper()
		n := min(asked, 1000)
		if got := livetest.DataOf(f.Messages); !slices.Equal(got, livetest.Numbers(published-n+1, published)) {
			t.Errorf("%s of %d: %d messages, %.200s", what, asked, len(got), f.Raw)
		}
	}
	for _, asked := range []int{1, 5, 255, 256, 257, 999, 1000, 1001, 1_000_000} {
		f := c.Recovers(fmt.Sprintf(`{"op":"subscribe","id":1,"topic":"t","last":%d}`, asked), published)
		check(asked, "last", f)
		if f.At == "" || f.Recovered != nil {
			t.Errorf("last was answered by %.100s … %s", f.Raw, f.Raw[len(f.Raw)-20:])
		}
		check(asked, "history", c.Must(fmt.Sprintf(`{"op":"history","id":1,"topic":"t","limit":%d}`, asked)))
		c.Must(livetest.UnsubscribeFrom(1, "t"))
		messages, err := server.History(context.Background(), "t", asked)
		if err != nil || len(messages) != min(asked, 1000) {
			t.Errorf("History of %d: %d messages, %v", asked, len(messages), err)
		}
	}
	if f := c.Must(`{"op":"subscribe","id":1,"topic":"new","last":5}`); f.Messages == nil || len(f.Messages) != 0 {
		t.Errorf("last of a new topic: %s", f.Raw)
	}
	if f := c.Must(`{"op":"subscribe","id":1,"topic":"t","last":0}`); f.Messages != nil {
		t.Errorf("last of 0: %s", f.Raw)
	}
}

// Nothing is lost between what last brings and what follows. 900 come in parts.
func TestLastWhilePublishing(t *testing.T) {
	for _, last := range []int{3, 400, 900} {
		t.Run(fmt.Sprint(last), func(t *testing.T) {
			server := livetest.NewHistoryServer(t, live.TopicOptions{History: 1500}, nil)
			at := livetest.Serve(t, server.Handler())
			livetest.PublishNumbers(t, server, "t", 0, 900)
			defer count(server, "t", 901)()
			livetest.Each(6, func(i int) {
				c := livetest.DialV1(t, at)
				for round := range 30 {
					f := c.Must(fmt.Sprintf(`{"op":"subscribe","id":1,"topic":"t","last":%d}`, last))
					data := livetest.DataOf(f.Messages)
					if len(data) < last {
						f.CheckMore(t)
					}
					for len(data) < last+round%5 {
						f := c.Next()
						if !f.IsPublication() || f.WasRecovered() != (len(data) < last) {
							t.Errorf("client %d, round %d: publication %d since last is %s", i, round, len(data), f.Raw)
							return
						}
						data = append(data, string(f.Data))
					}
					if len(data) != last+round%5 {
						t.Errorf("last of %d brought %d", last, len(data))
					}
					if hole := holeIn(data); hole != "" {
						t.Errorf("client %d, round %d: %s", i, round, hole)
						return
					}
					c.Send(livetest.UnsubscribeFrom(2, "t"))
					c.Answer()
				}
			})
		})
	}
}

// count is hammer from a number on.
func count(server *live.Server, topic string, from int) (stop func() (last int)) {
	return countOn(server, topic, from, new(atomic.Int64))
}

// countOn is count that tells how far it is: newest is the last number that is published,
// or about to be.
func countOn(server *live.Server, topic string, from int, newest *atomic.Int64) (stop func() (last int)) {
	var ended atomic.Bool
	var running sync.WaitGroup
	newest.Store(int64(from - 1))
	running.Go(func() {
		for i := from; !ended.Load(); i++ {
			newest.Store(int64(i))
			server.Publish(topic, fmt.Appendf(nil, `%d`, i))
			time.Sleep(500 * time.Microsecond)
		}
	})
	return func() int {
		ended.Store(true)
		running.Wait()
		return int(newest.Load())
	}
}

// holeIn says where numbers do not follow one another.
func holeIn(data []string) string {
	for i := 1; i < len(data); i++ {
		before, _ := strconv.Atoi(data[i-1])
		if data[i] != strconv.Itoa(before+1) {
			return fmt.Sprintf("after %s came %s", data[i-1], data[i])
		}
	}
	return ""
}

// slowHistory is a broker whose history takes as long to read as a test wants.
type slowHistory struct {
	*live.MemoryBroker
	during atomic.Pointer[func()] // called once, between reading and returning
}

func (*slowHistory) InProcess() bool { return false }

func (b *slowHistory) wait() {
	if f := b.during.Swap(nil); f != nil {
		(*f)()
	}
}

func (b *slowHistory) Tail(ctx context.Context, topic string, limit int) (broker.Page, error) {
	defer b.wait()
	return b.MemoryBroker.Tail(ctx, topic, limit)
}

func (b *slowHistory) Read(ctx context.Context, topic string, after, upto uint64, limit int) (broker.Page, error) {
	defer b.wait()
	return b.MemoryBroker.Read(ctx, topic, after, upto, limit)
}

func (b *slowHistory) Last(ctx context.Context, topic string) (live.Position, error) {
	defer b.wait()
	return b.MemoryBroker.Last(ctx, topic)
}

// While the history is being read much may be published, more than the server has
// at hand afterwards.
func TestHistoryThatIsReadWhilePublishing(t *testing.T) {
	for _, meanwhile := range []int{0, 1, 255, 256, 257, 700} {
		for _, test := range []struct {
			name, op string
			from     int // the first number that the reply has, if nothing came meanwhile
		}{
			{"resume", `"since":"%s.100"`, 101},
			{"last", `"last":300`, 101},
		} {
			t.Run(fmt.Sprintf("%s, %d meanwhile", test.name, meanwhile), func(t *testing.T) {
				t.Parallel()
				br := &slowHistory{MemoryBroker: live.NewMemoryBroker(live.MemoryOptions{})}
				server := livetest.NewHistoryServer(t, live.TopicOptions{History: 2000}, br)
				c := livetest.DialV1(t, livetest.Serve(t, server.Handler()))
				epoch := strings.TrimSuffix(c.Must(livetest.SubscribeTo(1, "t")).At, ".0")
				listening, err := server.Listen("t", func(live.Message) {}) // keeps the topic awake
				if err != nil {
					t.Fatal(err)
				}
				defer listening.Unsubscribe()
				c.Must(livetest.UnsubscribeFrom(1, "t"))
				livetest.PublishNumbers(t, server, "t", 1, 400)
				during := func() { livetest.PublishNumbers(t, server, "t", 401, 400+meanwhile) }
				br.during.Store(&during)

				op := strings.ReplaceAll(test.op, "%s", epoch)
				f := c.Must(`{"op":"subscribe","id":2,"topic":"t",` + op + `}`)
				if br.during.Load() != nil {
					t.Fatal("the history was not read, so that nothing was tested")
				}
				livetest.PublishNumbers(t, server, "t", 401+meanwhile, 410+meanwhile)
				data := livetest.DataOf(f.Messages)
				if test.name == "resume" && (!f.WasRecovered() || data[0] != "101") {
					t.Errorf("answered by %.100s", f.Raw)
				}
				if test.name == "last" && len(data) != 300 {
					t.Errorf("%d messages, want 300", len(data))
				}
				asked := data // what the subscribe asked for
				for data[len(data)-1] != fmt.Sprint(410+meanwhile) {
					f := c.Next()
					if !f.IsPublication() || f.WasRecovered() && len(asked) < len(data) {
						t.Fatalf("after %s came %s", data[len(data)-1], f.Raw)
					}
					data = append(data, string(f.Data))
					if f.WasRecovered() {
						asked = data
					}
				}
				if hole := holeIn(data); hole != "" {
					t.Error(hole)
				}
				if n, _ := strconv.Atoi(asked[len(asked)-1]); n < 400 || n > 400+meanwhile {
					t.Errorf("%d is the last that was missed, want one of 400 to %d", n, 400+meanwhile)
				}
			})
		}
	}
}

func TestHistoryAge(t *testing.T) {
	const age = 250 * time.Millisecond
	server := livetest.NewHistoryServer(t, live.TopicOptions{History: 1000, HistoryAge: age}, nil)
	at := livetest.Serve(t, server.Handler())
	for _, someoneStays := range []bool{false, true} {
		topic := fmt.Sprint("t", someoneStays)
		t.Run(topic, func(t *testing.T) {
			if someoneStays {
				listening, err := server.Listen(topic, func(live.Message) {})
				if err != nil {
					t.Fatal(err)
				}
				defer listening.Unsubscribe()
			}
			c := livetest.DialV1(t, at)
			since := c.Must(livetest.SubscribeTo(1, topic)).At
			began := time.Now()
			livetest.PublishNumbers(t, server, topic, 1, 5)
			c.Hears(topic, livetest.Numbers(1, 5)...)
			c.Must(livetest.UnsubscribeFrom(2, topic))
			f := c.Must(livetest.ResumeFrom(3, topic, since))
			if got := livetest.DataOf(f.Messages); time.Since(began) < age && (!f.WasRecovered() || !slices.Equal(got, livetest.Numbers(1, 5))) {
				t.Errorf("soon afterwards: %s", f.Raw)
			}
			c.Must(livetest.UnsubscribeFrom(4, topic))

			time.Sleep(age + 50*time.Millisecond) // the age itself is what is tested
			f = c.Must(livetest.ResumeFrom(5, topic, since))
			if f.Recovered == nil || f.WasRecovered() != (len(f.Messages) == 5) {
				t.Errorf("when all is too old: %s", f.Raw)
			}
			if f.WasRecovered() {
				t.Errorf("what is older than HistoryAge was recovered: %s", f.Raw)
			}
			at := f.At
			c.Must(livetest.UnsubscribeFrom(6, topic))
			livetest.Same(t, "the newest position", c.Do(livetest.ResumeFrom(7, topic, at)).Raw,
				`{"op":"reply","id":7,"at":"`+at+`","recovered":true,"messages":[]}`)
			c.Must(livetest.UnsubscribeFrom(8, topic))
			for _, op := range []string{
				`{"op":"history","id":9,"topic":"` + topic + `","limit":10}`,
				`{"op":"subscribe","id":9,"topic":"` + topic + `","last":10}`,
			} {
				if f := c.Must(op); len(f.Messages) != 0 {
					t.Errorf("%s brought what is too old: %s", op, f.Raw)
				}
			}
			if messages, err := server.History(context.Background(), topic, 10); err != nil || len(messages) != 0 {
				t.Errorf("History: %d messages, %v", len(messages), err)
			}
			server.Publish(topic, []byte(`6`)) // the next position, whatever became of those before
			if f := c.Hears(topic, "6")[0]; !strings.HasSuffix(f.At, ".6") || f.At[:len(f.At)-2] != at[:len(at)-2] {
				t.Errorf("after %s came %s", at, f.At)
			}
		})
	}
}

// A crowd comes and goes, in every way, while numbers are published. Each of them
// has every number, once and in order, or is told that it has not.
func TestResumingWhilePublishing(t *testing.T) {
	for _, test := range []struct {
		name     string
		history  int
		complete bool
	}{
		{"all is kept", 20_000, true},
		{"little is kept", 8, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			const clients, rounds = 80, 8
			server := livetest.NewHistoryServer(t, live.TopicOptions{History: test.history}, nil)
			at := livetest.Serve(t, server.Handler())
			topics := []string{"a", "b", "c"}
			newest := make([]atomic.Int64, len(topics))
			var stops []func() int
			for i, topic := range topics {
				stops = append(stops, countOn(server, topic, 1, &newest[i]))
			}
			all := make([]*follower, clients)
			livetest.Each(clients, func(i int) {
				f := &follower{
					t: t, at: at, topic: topics[i%len(topics)], history: test.history, newest: &newest[i%len(topics)],
					rand: rand.New(rand.NewPCG(7, uint64(i))),
				}
				all[i] = f
				f.connect()
				for range rounds {
					f.readSome()
					switch f.rand.IntN(3) {
					case 0:
						f.c.Drop()
						f.c.Rest()
						f.connect()
					case 1:
						f.unsubscribe()
						f.subscribe()
					case 2:
						f.c.Send("[" + livetest.UnsubscribeFrom(5, f.topic) + "]")
						f.c.Drop() // may or may not have arrived
						f.c.Rest()
						f.connect()
					}
				}
			})
			gaps := 0
			for i, stop := range stops {
				last := stop()
				for _, f := range all {
					if f.topic == topics[i] {
						f.readTo(last)
						gaps += f.gaps
					}
				}
			}
			if test.complete && gaps > 0 {
				t.Errorf("%d gaps, though all is kept", gaps)
			}
			if !test.complete && gaps == 0 {
				t.Error("no gap, though little is kept: nothing was tested")
			}
		})
	}
}

// follower is a client that keeps account of the numbers it has seen of a topic. A
// number is its publication's offset.
type follower struct {
	t         testing.TB
	at        livetest.Endpoint
	topic     string
	history   int           // what the topic keeps
	newest    *atomic.Int64 // see countOn
	rand      *rand.Rand
	c         *livetest.Client
	since     string
	next      int  // the number that is due; 0: it has not subscribed yet
	answering bool // what was missed may still come
	gaps      int
}

func (f *follower) connect() {
	f.c = livetest.DialV1(f.t, f.at)
	f.subscribe()
}

func (f *follower) subscribe() {
	op := livetest.SubscribeTo(1, f.topic)
	if f.since != "" {
		op = livetest.ResumeFrom(1, f.topic, f.since)
	}
	reply := f.c.Must(op)
	f.answering = reply.WasRecovered()
	switch {
	case f.since == "":
		f.goOn(reply.At)
	case reply.WasRecovered():
		for _, m := range reply.Messages {
			f.take(string(m.Data), m.At)
		}
	default:
		f.lose(reply.At, f.next) // what it still has begins after that
	}
	if f.since != reply.At {
		f.t.Errorf("the reply's position is %s, its last message's %s", reply.At, f.since)
	}
}

// goOn makes what follows a position due.
func (f *follower) goOn(at string) {
	_, offset := livetest.OffsetOf(at)
	f.since, f.next = at, offset+1
}

// lose takes the word that what comes up to a position is lost. That may be so only if
// something was missed, and the history has dropped the numbers up to one.
func (f *follower) lose(at string, dropped int) {
	f.gaps++
	if _, offset := livetest.OffsetOf(at); offset < f.next {
		f.t.Errorf("topic %s: a gap up to %s when %d was due", f.topic, at, f.next)
	}
	if newest := int(f.newest.Load()); newest < dropped+f.history {
		f.t.Errorf("topic %s: a gap up to %s when %d was due; with %d published the history has %d",
			f.topic, at, f.next, newest, dropped)
	}
	f.goOn(at)
}

func (f *follower) take(data, at string) {
	if data != strconv.Itoa(f.next) {
		f.t.Errorf("topic %s: %s came when %d was due", f.topic, data, f.next)
	}
	if want := "." + data; !strings.HasSuffix(at, want) {
		f.t.Errorf("%s has the position %s", data, at)
	}
	f.goOn(at)
}

// hear takes the next frame. What was missed comes before what is new.
func (f *follower) hear(m livetest.Frame) {
	switch {
	case m.Op == "gap" && m.Topic == f.topic:
		_, dropped := livetest.OffsetOf(m.At)
		f.lose(m.At, dropped)
	case !m.IsPublication() || m.Topic != f.topic || m.WasRecovered() && !f.answering:
		f.t.Errorf("topic %s: got %s when %d was due", f.topic, m.Raw, f.next)
	default:
		f.answering = m.WasRecovered()
		f.take(string(m.Data), m.At)
	}
}

func (f *follower) readSome() {
	for range f.rand.IntN(6) {
		f.hear(f.c.Next())
	}
}

func (f *follower) unsubscribe() {
	f.c.Send(livetest.UnsubscribeFrom(2, f.topic))
	_, before := f.c.Answer()
	for _, m := range before {
		f.hear(m)
	}
}

// readTo reads until the number has come.
func (f *follower) readTo(last int) {
	f.t.Helper()
	for f.next <= last {
		f.hear(f.c.Next())
	}
	if extra := f.c.Settled(); len(extra) != 0 {
		f.t.Errorf("then came %s", extra[0].Raw)
	}
}

// The server's own Subscribe sends what was missed as publications.
func TestSubscribeWithSinceOrLast(t *testing.T) {
	const published = 1000
	for _, n := range []int{0, 1, 10, 256, 257, 1000} {
		for _, test := range []struct {
			name string
			opt  func(live.Position) live.SubscribeOption
		}{
			{"Last", func(live.Position) live.SubscribeOption { return live.Last(n) }},
			{"Since", func(at live.Position) live.SubscribeOption {
				at.Offset -= uint64(n)
				return live.Since(at)
			}},
		} {
			t.Run(fmt.Sprintf("%s %d", test.name, n), func(t *testing.T) {
				var server *live.Server
				opts := livetest.Permissive()
				opts.Topics = livetest.Keeping("", live.TopicOptions{History: published})
				opts.OnRequest = func(_ context.Context, s *live.Session, topic string, data []byte) (any, error) {
					var at live.Position
					f := strings.Trim(string(data), `"`)
					at, err := live.ParsePosition(f)
					if err != nil {
						return nil, err
					}
					return nil, server.Subscribe(s, topic, test.opt(at))
				}
				server = livetest.NewServer(t, opts)
				c := livetest.DialV1(t, livetest.Serve(t, server.Handler()))
				livetest.PublishNumbers(t, server, "t", 1, published)
				at := c.Must(livetest.SubscribeTo(1, "t")).At
				c.Must(livetest.UnsubscribeFrom(2, "t"))
				c.Send(`{"op":"request","id":3,"topic":"t","data":"` + at + `"}`)
				var heard []string
				reply, before := c.Answer()
				if reply.Op != "reply" {
					t.Fatalf("answered by %s", reply.Raw)
				}
				for _, f := range before {
					heard = append(heard, string(f.Data))
				}
				server.Publish("t", fmt.Appendf(nil, `%d`, published+1))
				for len(heard) == 0 || heard[len(heard)-1] != fmt.Sprint(published+1) {
					heard = append(heard, string(c.Next().Data))
				}
				if want := livetest.Numbers(published-n+1, published+1); !slices.Equal(heard, want) {
					t.Errorf("heard %d publications: %s; want %d", len(heard), holeIn(heard), len(want))
				}
			})
		}
	}
}

// The newest after a gap are publications like others, and the gap lies before them.
func TestSubscribeWithSinceAndLast(t *testing.T) {
	var server *live.Server
	opts := livetest.Permissive()
	opts.Topics = livetest.Keeping("", live.TopicOptions{History: 5})
	opts.OnRequest = func(_ context.Context, s *live.Session, topic string, data []byte) (any, error) {
		at, err := live.ParsePosition(strings.Trim(string(data), `"`))
		if err != nil {
			return nil, err
		}
		return nil, server.Subscribe(s, topic, live.Since(at), live.Last(2))
	}
	server = livetest.NewServer(t, opts)
	where := livetest.Serve(t, server.Handler())
	livetest.PublishNumbers(t, server, "t", 1, 9)
	at := livetest.DialV1(t, where).Must(livetest.SubscribeTo(1, "t")).At
	epoch, _, _ := strings.Cut(at, ".")
	for _, test := range []struct {
		since string
		gap   string // "": none
		want  []string
	}{
		{epoch + ".2", epoch + ".7", livetest.Numbers(8, 9)},
		{"bygone.8", epoch + ".7", livetest.Numbers(8, 9)},
		{epoch + ".10", epoch + ".9", nil}, // it was ahead, and has what the newest are
		{epoch + ".5", "", livetest.Numbers(6, 9)},
		{epoch + ".9", "", nil},
	} {
		c := livetest.DialV1(t, where)
		c.Send(`{"op":"request","id":2,"topic":"t","data":"` + test.since + `"}`)
		_, before := c.Answer()
		if test.gap != "" {
			if len(before) == 0 {
				t.Fatalf("since %s: no gap", test.since)
			}
			livetest.Same(t, "since "+test.since, before[0].Raw, `{"op":"gap","topic":"t","at":"`+test.gap+`"}`)
			before = before[1:]
		}
		var heard []string
		for _, f := range before {
			heard = append(heard, string(f.Data))
		}
		if !slices.Equal(heard, test.want) {
			t.Errorf("since %s came %q, want %q", test.since, heard, test.want)
		}

		reply := c.Do(`{"op":"subscribe","id":3,"topic":"t","since":"` + test.since + `","last":2}`)
		if reply.Recovered == nil || *reply.Recovered != (test.gap == "") || reply.At != at {
			t.Errorf("since %s: answered by %s", test.since, reply.Raw)
		}
		heard = nil
		for _, m := range reply.Messages {
			heard = append(heard, string(m.Data))
		}
		if !slices.Equal(heard, test.want) {
			t.Errorf("since %s the answer has %q, want %q", test.since, heard, test.want)
		}
	}
	livetest.Same(t, "a topic without history", livetest.DialV1(t, livetest.Serve(t, livetest.NewServer(t, livetest.Permissive()).Handler())).Do(`{"op":"subscribe","id":4,"topic":"t","since":"a.1","last":2}`).Raw,
		`{"op":"reply","id":4,"recovered":false,"messages":[]}`)
}

// Where it is not all to be had, the client is told, with the position from which
// it goes on. A plain client knows no positions and is not.
func TestSubscribeSinceWhatIsNotKept(t *testing.T) {
	var server *live.Server
	opts := livetest.Permissive()
	opts.Topics = livetest.Keeping("", live.TopicOptions{History: 3})
	opts.OnMessage = func(_ context.Context, s *live.Session, topic string, _ []byte) {
		server.Subscribe(s, topic, live.Since(live.Position{Epoch: "bygone", Offset: 7}))
		s.Send(live.Message{Topic: "done"})
	}
	server = livetest.NewServer(t, opts)
	at := livetest.Serve(t, server.Handler())
	livetest.PublishNumbers(t, server, "t", 1, 9)
	c := livetest.DialV1(t, at)
	livetest.Same(t, "first", c.Do(`{"topic":"t"}`).Raw, `{"op":"gap","topic":"t","at":"E.9"}`)
	livetest.Same(t, "then", c.Next().Raw, `{"topic":"done"}`)
	plain := livetest.Dial(t, at)
	livetest.Check(t, "the plain client", plain.Ask(`{"topic":"t"}`), `{"topic":"done"}`)
	server.Publish("t", []byte(`10`))
	c.Hears("t", "10")
	livetest.Check(t, "the plain client", plain.Read(), `{"topic":"t","data":10}`)
}

// The memory of a process is bounded. A topic that was dropped begins anew, and
// whoever comes back to it is told.
func TestMemoryBrokerThatForgetsTellsAGap(t *testing.T) {
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

// tapped is a broker through whose sink a test can deliver.
type tapped struct {
	*live.MemoryBroker
	sink broker.Sink
}

func (*tapped) InProcess() bool { return false }

func (b *tapped) Start(s broker.Sink) {
	b.sink = s
	b.MemoryBroker.Start(s)
}

// A delivery of a history that is no more may come late. It belongs nowhere, and
// what follows is not held up.
func TestDeliveryOfABygoneHistoryIsDropped(t *testing.T) {
	br := &tapped{MemoryBroker: live.NewMemoryBroker(live.MemoryOptions{})}
	server := livetest.NewHistoryServer(t, live.TopicOptions{History: 10}, br)
	c := livetest.DialV1(t, livetest.Serve(t, server.Handler()))
	c.Must(livetest.SubscribeTo(1, "t"))
	livetest.PublishNumbers(t, server, "t", 1, 2)
	c.Hears("t", "1", "2")
	br.sink.Deliver(&broker.Publication{
		Topic: "t", Data: []byte(`"late"`), Time: time.Now(), Position: live.Position{Epoch: "bygone", Offset: 7}, Prev: 6,
	})
	livetest.PublishNumbers(t, server, "t", 3, 4)
	for heard := 0; heard < 2; {
		f := c.Next()
		if f.Op == "gap" {
			continue
		}
		if want := fmt.Sprint(3 + heard); string(f.Data) != want {
			t.Fatalf("got %s, want %s", f.Raw, want)
		}
		heard++
	}
	c.Must(livetest.UnsubscribeFrom(2, "t"))
	livetest.Eventually(t, "the topic's end", func() bool { return server.Stats().Topics == 0 })
}
