package live_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/broker"
)

// What clients do wrong does not fill the log.
func TestFailuresDoNotFillTheLog(t *testing.T) {
	const failures = 1000
	var counted counting
	boom := errors.New("boom")
	h := livetest.Hosting{}.Start(t, live.Options{
		InboundRate: -1, Logger: slog.New(&counted),
		Broker:    unwilling{live.NewMemoryBroker(live.MemoryOptions{})},
		OnRequest: func(context.Context, *live.Session, string, []byte) (any, error) { return nil, boom },
		OnPublish: func(_ context.Context, _ *live.Session, _ string, data []byte) ([]byte, error) { return data, nil },
	})
	p := h.Connect(t, livetest.Dialing{V1: true}).Attend()
	begun := time.Now()
	for i := range failures {
		p.Say(livetest.Operation("request", i+1, "t"), livetest.Operation("publish", i+1, "t"), livetest.Operation("request", i+1, strings.Repeat("t", i)))
		if f, _ := p.Reply(i + 1); f.Op != "error" {
			t.Fatalf("got %s", &f)
		}
	}
	kinds, each := 2, 10+int(time.Since(begun).Seconds())+1
	if n := int(counted.lines.Load()); n > kinds*each {
		t.Errorf("%d lines for %d failures", n, failures)
	}
}

// unwilling is a broker that publishes nothing.
type unwilling struct{ *live.MemoryBroker }

func (unwilling) InProcess() bool { return false }

func (unwilling) Publish(context.Context, string, []byte, broker.PublishOptions) (live.Position, error) {
	return live.Position{}, errors.New("no")
}

// counting is a logger's handler that counts lines above debug level.
type counting struct {
	slog.Handler
	lines atomic.Int64
}

func (c *counting) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelInfo }

func (c *counting) Handle(context.Context, slog.Record) error { c.lines.Add(1); return nil }

func (c *counting) WithAttrs([]slog.Attr) slog.Handler { return c }

func (c *counting) WithGroup(string) slog.Handler { return c }
