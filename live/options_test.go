package live_test

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"testing"
	"time"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
)

// Options may be as large as their types allow.
func TestOptionsAtTheirTypesMaximum(t *testing.T) {
	t.Parallel()
	const most = time.Duration(math.MaxInt64)
	tests := map[string]func(o *live.Options){
		"QueueSize":          func(o *live.Options) { o.QueueSize = math.MaxInt },
		"QueueBytes":         func(o *live.Options) { o.QueueBytes = math.MaxInt },
		"ReadLimit":          func(o *live.Options) { o.ReadLimit = math.MaxInt },
		"MaxSessions":        func(o *live.Options) { o.MaxSessions = math.MaxInt },
		"MaxSessionsPerUser": func(o *live.Options) { o.MaxSessionsPerUser = math.MaxInt },
		"MaxBytesPerUser":    func(o *live.Options) { o.MaxBytesPerUser = math.MaxInt },
		"MaxAuthsAtOnce":     func(o *live.Options) { o.MaxAuthsAtOnce = math.MaxInt },
		"MaxAuthsWaiting":    func(o *live.Options) { o.MaxAuthsWaiting = math.MaxInt },
		"ReplaceOldest":      func(o *live.Options) { o.MaxSessionsPerUser, o.ReplaceOldest = math.MaxInt, true },
		"PublishRate": func(o *live.Options) {
			o.Topics = func(string) live.TopicOptions {
				return live.TopicOptions{PublishRate: math.MaxInt, PublishBurst: math.MaxInt}
			}
		},
		"MaxTopics":      func(o *live.Options) { o.MaxTopics = math.MaxInt },
		"MaxTopicLength": func(o *live.Options) { o.MaxTopicLength = math.MaxInt },
		"InboundRate":    func(o *live.Options) { o.InboundRate = math.MaxInt },
		"InboundBurst":   func(o *live.Options) { o.InboundRate, o.InboundBurst = 1, math.MaxInt },
		"AuthTimeout":    func(o *live.Options) { o.AuthTimeout = most },
		"WriteTimeout":   func(o *live.Options) { o.WriteTimeout = most },
		"PingInterval":   func(o *live.Options) { o.PingInterval = most },
		"PingTimeout":    func(o *live.Options) { o.PingTimeout = most },
		"InboxSize":      func(o *live.Options) { o.InboxSize = math.MaxInt },
		"InboxBytes":     func(o *live.Options) { o.InboxBytes = math.MaxInt },
	}
	all := make([]func(o *live.Options), 0, len(tests))
	for _, set := range tests {
		all = append(all, set)
	}
	tests["all"] = func(o *live.Options) {
		for _, set := range all {
			set(o)
		}
	}
	livetest.AtOnce(t, func(g *livetest.Together) {
		for name, set := range tests {
			g.Run(name, func(t *testing.T) {
				livetest.OverBoth(t, func(t *testing.T, secure bool) {
					opts, ends := shortPings(livetest.Open(live.Options{
						Compression: true,
						OnAuth: func(ctx context.Context, _ *http.Request) (any, error) {
							return "user", ctx.Err()
						},
					}))
					opts.PingInterval, opts.PingTimeout = 50*time.Millisecond, livetest.Patience
					set(&opts)
					h := livetest.Hosting{Secure: secure, Buffer: 8 << 10}.Start(t, opts)
					p := h.Connect(t, livetest.Dialing{V1: true, Deflate: true, Buffer: 8 << 10}).Attend()
					begun := time.Now()
					for i := range 100 { // with a burst of one they would take a hundred seconds
						p.Say(livetest.Operation("subscribe", i+1, fmt.Sprint("t", i%10)))
						p.Reply(i + 1)
					}
					if took := time.Since(begun); took > 3*livetest.Patience {
						t.Errorf("a hundred operations took %v", took)
					}
					h.PublishNumbers(t, "t1", 1, 1, 400)
					p.ExpectNumbers("t1", 1, 1)
					time.Sleep(100 * time.Millisecond)
					stillOpen(t, h.Server, ends)
				})
			})
		}
	})
}
