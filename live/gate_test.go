package live_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/broker"
)

// slowDisk is a broker whose history takes its time.
type slowDisk struct {
	*remote
	takes           time.Duration
	underWay, most  atomic.Int64
	tails, readings atomic.Int64
}

func newSlowDisk(takes time.Duration) *slowDisk {
	return &slowDisk{remote: newRemote(), takes: takes}
}

func (d *slowDisk) read(ctx context.Context) {
	d.most.Store(max(d.most.Load(), d.underWay.Add(1)))
	defer d.underWay.Add(-1)
	select {
	case <-time.After(d.takes):
	case <-ctx.Done():
	}
}

func (d *slowDisk) Tail(ctx context.Context, topic string, limit int) (broker.Page, error) {
	d.tails.Add(1)
	d.read(ctx)
	return d.remote.Tail(ctx, topic, limit)
}

func (d *slowDisk) Read(ctx context.Context, topic string, after, upto uint64, limit int) (broker.Page, error) {
	d.readings.Add(1)
	d.read(ctx)
	return d.remote.Read(ctx, topic, after, upto, limit)
}

func coldTopic(i int) string { return fmt.Sprint("cold:", i) }

// questions are those that make a server read the broker's history.
var questions = map[string]func(d *slowDisk, id int, topic string) string{
	"history": func(_ *slowDisk, id int, topic string) string {
		return livetest.Operation("history", id, topic, "limit", 10)
	},
	"last": func(_ *slowDisk, id int, topic string) string {
		return livetest.Operation("subscribe", id, topic, "last", 10)
	},
	"since": func(d *slowDisk, id int, topic string) string {
		at, _ := d.MemoryBroker.Last(context.Background(), topic)
		at.Offset = 1
		return livetest.Operation("subscribe", id, topic, "since", at.String())
	},
}

// Clients that ask for history without end get few answers at a time, and one that comes after
// them does not wait for them all.
func TestReadsOfManyClientsAreFewAtOnceAndFair(t *testing.T) {
	const clients, takes = 60, 100 * time.Millisecond
	for name, question := range questions {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newSlowDisk(takes)
				withFalseTime(t, livetest.Open(keeping(d, live.TopicOptions{History: 100})), func(t *testing.T, srv *live.Server, dial func() *livetest.Client) {
					for i := range 5000 {
						srv.Publish(coldTopic(i%2500), []byte("1"))
					}
					topics := 0
					next := func() string { topics++; return coldTopic(topics % 2500) }
					for range clients {
						c := dial()
						for id := range 20 {
							c.Say(question(d, id+1, next()))
						}
					}
					time.Sleep(5 * time.Second) // each has asked several times
					began := time.Now()
					c := dial()
					c.Say(question(d, 1, next()))
					if f, _ := c.Reply(1); f.Op != "reply" || len(f.Messages) == 0 {
						t.Errorf("the newcomer is answered by %s", &f)
					}
					if took := time.Since(began); took > 3*takes {
						t.Errorf("the newcomer has waited for %v", took)
					}
					if n := d.most.Load(); n > 4 {
						t.Errorf("%d reads were under way at once", n)
					}
				})
			})
		})
	}
}

// Clients that subscribe to one new topic after another do not hold up others either.
func TestLookupsOfManyClientsAreFair(t *testing.T) {
	const clients, takes = 60, 100 * time.Millisecond
	for name, more := range map[string][]any{"a new topic": nil, "a position ahead": {"since", "?.1099511627776"}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newRemote()
				b.look = func() { time.Sleep(takes) }
				withFalseTime(t, livetest.Open(keeping(b, live.TopicOptions{History: 100})), func(t *testing.T, _ *live.Server, dial func() *livetest.Client) {
					topics := 0
					next := func() string { topics++; return coldTopic(topics) }
					for range clients {
						c := dial()
						for id := range 20 {
							c.Say(livetest.Operation("subscribe", id+1, next(), more...))
						}
					}
					time.Sleep(5 * time.Second)
					began := time.Now()
					c := dial()
					c.Say(livetest.Operation("subscribe", 1, next()))
					if f, _ := c.Reply(1); f.Op != "reply" || time.Since(began) > 3*takes {
						t.Errorf("the newcomer is answered by %s after %v", &f, time.Since(began))
					}
				})
				time.Sleep(2 * takes) // lookups end
			})
		})
	}
}

// However fast the broker is, a client has a budget of questions.
func TestQuestionsToTheBrokerCountForTheRate(t *testing.T) {
	for name, question := range questions {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newSlowDisk(0)
				withFalseTime(t, livetest.Open(keeping(d, live.TopicOptions{History: 100})), func(t *testing.T, srv *live.Server, dial func() *livetest.Client) {
					for i := range 4000 {
						srv.Publish(coldTopic(i%2000), []byte("1"))
					}
					c := dial()
					go func() { // ends with the connection
						for id := 1; c.Say(question(d, id, coldTopic(id%2000))) == nil; id++ {
						}
					}()
					time.Sleep(10 * time.Second)
					c.Line.Close()
					if n := d.tails.Load() + d.readings.Load(); n < 300 || n > 600 {
						t.Errorf("a client had the broker asked %d times in ten seconds", n)
					}
				})
			})
		})
	}
}
