package live_test

import (
	"context"
	"testing"
	"time"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
)

func TestInboundRateSlowsAClientDownAndLosesNothing(t *testing.T) {
	times := make(chan time.Time, 100)
	_, url := serve(t, live.Options{
		InboundRate: 100, InboundBurst: 10,
		OnMessage: func(context.Context, *live.Session, string, []byte) { times <- time.Now() },
	})
	c := dial(t, url)
	start := time.Now()
	const n = 40
	for i := range n {
		c.SendMessage("t", i)
	}
	var last time.Time
	for range n {
		last = livetest.Receive(t, times)
	}
	// 30 messages over the burst, at 10 ms each; that it is not less is certain.
	if took := last.Sub(start); took < 290*time.Millisecond {
		t.Fatalf("%d messages in %v", n, took)
	}
}
