package live_test

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/broker"
)

// asking is a broker that asks for the server's rules.
type asking struct {
	live.Broker
	rules broker.Rules
}

func (a *asking) Start(s broker.Sink) {
	a.rules = s.(broker.Rules)
	a.Broker.Start(s)
}

func TestBrokerMayAskForTheServersRules(t *testing.T) {
	a := &asking{Broker: live.NewMemoryBroker(live.MemoryOptions{})}
	srv := live.New(live.Options{Broker: a, Topics: func(topic string) live.TopicOptions {
		return live.TopicOptions{History: len(topic), HistoryAge: time.Minute}
	}})
	defer shut(t, srv)
	if size, age := a.rules.History("1234"); size != 4 || age != time.Minute {
		t.Errorf("%d, %v", size, age)
	}
}

// counted is the broker in memory in a type of the application's own.
type counted struct {
	*live.MemoryBroker
	lasts atomic.Int64
}

func (c *counted) Last(ctx context.Context, topic string) (live.Position, error) {
	c.lasts.Add(1)
	return c.MemoryBroker.Last(ctx, topic)
}

// A type that wraps the broker in memory is treated as it is: nothing of it can be lost, so its
// positions are not compared every minute.
func TestWrappedMemoryBrokerIsInProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &counted{MemoryBroker: live.NewMemoryBroker(live.MemoryOptions{})}
		srv := live.New(live.Options{Broker: c, Topics: func(string) live.TopicOptions { return live.TopicOptions{History: 1} }})
		defer shut(t, srv)
		sub, err := srv.Listen("t", func(live.Message) {})
		if err != nil {
			t.Fatal(err)
		}
		defer sub.Unsubscribe()
		atFirst := c.lasts.Load()
		time.Sleep(time.Hour)
		if n := c.lasts.Load() - atFirst; n != 0 {
			t.Errorf("it was asked for its position %d times", n)
		}
	})
}
