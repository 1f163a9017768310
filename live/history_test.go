package live_test

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/broker"
)

// remote is a broker whose calls are counted, and which the server does not take for
// the one in memory.
type remote struct {
	*live.MemoryBroker
	last, tail atomic.Int64
	reads      atomic.Int64

	// What it does otherwise; each may be nil.
	keep    int                                             // publications, whatever the server says; 0: as many as it says
	answer  func(ctx context.Context, p *broker.Page) error // of Tail
	deliver func(s broker.Sink, p *broker.Publication)      // instead of s.Deliver
	look    func()                                          // before Last
	read    func()                                          // before Read

	sink broker.Sink
}

func (*remote) InProcess() bool { return false }

func newRemote() *remote { return &remote{MemoryBroker: live.NewMemoryBroker(live.MemoryOptions{})} }

func (r *remote) Start(s broker.Sink) {
	r.sink = s
	r.MemoryBroker.Start(remoteSink{s, s.(broker.Rules), r})
}

type remoteSink struct {
	broker.Sink
	broker.Rules
	remote *remote
}

func (s remoteSink) Deliver(p *broker.Publication) {
	if s.remote.deliver != nil {
		s.remote.deliver(s.Sink, p)
		return
	}
	s.Sink.Deliver(p)
}

func (r *remote) Publish(ctx context.Context, topic string, data []byte, o broker.PublishOptions) (live.Position, error) {
	if r.keep > 0 {
		o.History = r.keep
	}
	return r.MemoryBroker.Publish(ctx, topic, data, o)
}

func (r *remote) Last(ctx context.Context, topic string) (live.Position, error) {
	r.last.Add(1)
	if r.look != nil {
		r.look()
	}
	return r.MemoryBroker.Last(ctx, topic)
}

func (r *remote) Tail(ctx context.Context, topic string, limit int) (broker.Page, error) {
	r.tail.Add(1)
	page, err := r.MemoryBroker.Tail(ctx, topic, limit)
	if err == nil && r.answer != nil {
		err = r.answer(ctx, &page)
	}
	return page, err
}

func (r *remote) Read(ctx context.Context, topic string, after, upto uint64, limit int) (broker.Page, error) {
	r.reads.Add(1)
	if r.read != nil {
		r.read()
	}
	return r.MemoryBroker.Read(ctx, topic, after, upto, limit)
}

// keeping returns options for topics that all keep so much.
func keeping(broker live.Broker, rules live.TopicOptions) live.Options {
	return live.Options{
		Broker: broker,
		Topics: func(string) live.TopicOptions { return rules },
		Logger: slog.New(slog.DiscardHandler),
	}
}

// A topic of a broker of many servers is compared with the history now and then,
// without a goroutine that waits for it.
func TestTopicCostsNoGoroutine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		br := newRemote()
		srv := live.New(keeping(br, live.TopicOptions{History: 10}))
		const topics = 500
		before := runtime.NumGoroutine()
		var all []live.Subscription
		for i := range topics {
			l, err := srv.Listen(fmt.Sprint(i), func(live.Message) {})
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, l)
		}
		if n := runtime.NumGoroutine(); n > before+10 {
			t.Errorf("%d goroutines for %d topics", n-before, topics)
		}
		for _, look := range []time.Duration{200 * time.Millisecond, 2 * time.Second, time.Minute, time.Minute} {
			asked := br.last.Load()
			time.Sleep(look)
			synctest.Wait()
			if n := br.last.Load() - asked; n < topics || n > 2*topics+10 {
				t.Errorf("within %v the history of %d topics was asked %d times", look, topics, n)
			}
		}
		for _, l := range all {
			l.Unsubscribe()
		}
		asked := br.last.Load()
		time.Sleep(time.Hour)
		synctest.Wait()
		if n := br.last.Load(); n != asked {
			t.Errorf("%d times the history of a topic was asked that has no subscriber", n-asked)
		}
		shut(t, srv)
	})
}

// What has subscribers still when the server ends is looked after no more: the broker is
// closed, and would be asked for ever.
func TestNothingIsAskedOfTheBrokerAfterShutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		br := newRemote()
		srv := live.New(keeping(br, live.TopicOptions{History: 10}))
		for i := range 100 {
			if _, err := srv.Listen(fmt.Sprint(i), func(live.Message) {}); err != nil {
				t.Fatal(err)
			}
		}
		if err := srv.Shutdown(context.Background()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		asked := br.last.Load()
		time.Sleep(time.Hour)
		synctest.Wait()
		if n := br.last.Load() - asked; n > 0 {
			t.Errorf("it was asked %d times", n)
		}
	})
}

func TestLastAndHistory(t *testing.T) {
	t.Parallel()
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
	t.Parallel()
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
	t.Parallel()
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
