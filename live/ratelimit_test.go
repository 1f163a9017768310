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

// The rate is one of bytes, too: a kilobyte counts as a message does.
func TestInboundRateBoundsBytes(t *testing.T) {
	t.Parallel()
	ends := make(chan time.Time, 1)
	_, url := serve(t, live.Options{
		InboundRate: 100, InboundBurst: 10,
		OnMessage: func(context.Context, *live.Session, string, []byte) { ends <- time.Now() },
	})
	c := dial(t, url)
	start := time.Now()
	c.Send(`{"topic":"t","data":` + livetest.Padded(1, 40<<10) + `}`)
	// 30 kilobytes over the burst, at 10 ms each; that it is not less is certain.
	if took := livetest.Receive(t, ends).Sub(start); took < 290*time.Millisecond {
		t.Errorf("40 KB in %v", took)
	}
}
