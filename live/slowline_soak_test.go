//go:build soak

package live_test

import (
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
)

// Ten fast clients and one that reads a kilobyte a second follow a topic with history, to which a hundred
// kilobytes are published in a second. At p99 the fast ones wait no more than 100 ms longer than without
// the slow one: go test -tags soak -run TestSlowClientDelaysNobody -v ./live
func TestSlowClientDelaysNobody(t *testing.T) {
	const rounds, longest = 5, 100 * time.Millisecond
	for _, secure := range []bool{false, true} {
		name := map[bool]string{false: "plain", true: "TLS"}[secure]
		t.Run(name, func(t *testing.T) {
			var alone, beside []time.Duration
			for range rounds { // in turns, so that what else the machine does falls on both
				alone = append(alone, fastDelays(t, secure, false)...)
				beside = append(beside, fastDelays(t, secure, true)...)
			}
			slices.Sort(alone)
			slices.Sort(beside)
			at := func(all []time.Duration, percent int) time.Duration { return all[len(all)*percent/100] }
			t.Logf("%s: without a slow client p50 %v, p99 %v; beside one p50 %v, p99 %v",
				name, at(alone, 50), at(alone, 99), at(beside, 50), at(beside, 99))
			if longer := at(beside, 99) - at(alone, 99); longer > longest {
				t.Errorf("beside a slow client the fast ones wait %v longer at p99", longer)
			}
		})
	}
}

// fastDelays returns how long each publication took to each of ten fast clients.
func fastDelays(t *testing.T, secure, withSlow bool) []time.Duration {
	const fast, publications, every, size = 10, 500, 10 * time.Millisecond, 1000
	type stamped struct {
		At   time.Time `json:"at"`
		Fill string    `json:"fill"`
	}
	opts := livetest.Open(live.Options{
		Topics: func(string) live.TopicOptions { return live.TopicOptions{History: publications} },
	})
	h := livetest.Hosting{Secure: secure, Buffer: 32 << 10}.Start(t, opts)
	if withSlow {
		slow := h.Connect(t, livetest.Dialing{V1: true, Buffer: 8 << 10}).Attend().Greeted()
		slow.Must(livetest.SubscribeTo(1, "t"))
		slow.Line.SetPace(1000)
		defer slow.Drop()
	}
	var mu sync.Mutex
	var delays []time.Duration
	var all sync.WaitGroup
	for range fast {
		c := h.Connect(t, livetest.Dialing{V1: true}).Attend().Greeted()
		c.Must(livetest.SubscribeTo(1, "t"))
		all.Go(func() {
			defer c.Drop()
			for range publications {
				f := c.Next()
				var p stamped
				if err := json.Unmarshal(f.Data, &p); err != nil {
					t.Errorf("%s: %v", f, err)
					return
				}
				mu.Lock()
				delays = append(delays, time.Since(p.At))
				mu.Unlock()
			}
		})
	}
	fill := strings.Repeat("x", size)
	for range publications {
		time.Sleep(every)
		if err := live.Publish(h.Server, "t", stamped{time.Now(), fill}); err != nil {
			t.Fatal(err)
		}
	}
	all.Wait()
	if withSlow && h.Stats().CatchingUp != 1 {
		t.Error("the slow client keeps up, so the test tests nothing")
	}
	return delays
}
