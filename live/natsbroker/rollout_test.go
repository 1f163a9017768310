package natsbroker

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// A machine that does much else at the same time makes clients late. So only a rollout that runs alone has
// the bound that users are promised.
var (
	rolloutClients = flag.Int("rollout.clients", 150, "clients of TestRollout")
	rolloutLate    = flag.Duration("rollout.late", 15*time.Second, "how much longer than its window 95 % of the clients of TestRollout may be away")
)

// maxReturns is how many clients may come back to the other nodes in a second: so many sessions
// does a server close in a second. Half of them again is for a machine that was busy for a moment.
const maxReturns = 1500

// follower is a viewer that comes back as live.js does, and measures how long it was away.
type follower struct {
	viewer
	away []time.Duration
}

// window returns the time over which a server has told its clients to come back.
func (v *viewer) window() time.Duration {
	v.mu.Lock()
	defer v.mu.Unlock()
	var e websocket.CloseError
	if errors.As(v.reason, &e) && e.Code == websocket.StatusServiceRestart {
		if found := regexp.MustCompile(`return within (\d+) ms`).FindStringSubmatch(e.Reason); found != nil {
			n, _ := strconv.Atoi(found[1])
			return time.Duration(n) * time.Millisecond
		}
	}
	return 0
}

// run follows the topic until ctx ends, at a server that a load balancer chooses.
func (f *follower) run(ctx context.Context, choose func() (int, string)) {
	var left time.Time // when the last connection ended
	for ctx.Err() == nil {
		node, url := choose()
		if f.connect(ctx, node, url) != nil {
			sleep(ctx, rand.N(500*time.Millisecond))
			continue
		}
		f.mu.Lock()
		if !left.IsZero() {
			f.away = append(f.away, time.Since(left))
		}
		ended := f.ended
		f.mu.Unlock()
		select {
		case <-ended:
		case <-ctx.Done():
		}
		left = time.Now()
		if ctx.Err() == nil {
			sleep(ctx, rand.N(f.window()+1))
		}
	}
	f.hangUp()
}

// Three nodes are restarted one after another, while numbers are published. Every client comes back in time, and
// misses nothing. The nodes that go on are not run over.
func TestRollout(t *testing.T) {
	t.Parallel()
	f := newFleet(t, chat)
	f.bootAll()
	f.awaitLeader("CHAT")
	n := *rolloutClients
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	t.Cleanup(func() { cancel(); all.Wait() })

	balancer := func() (int, string) { // which knows the servers that are ready
		for {
			i := rand.IntN(meshSize)
			if in := f.at(i); in != nil && in.server.Ready(ctx) == nil || ctx.Err() != nil {
				return i, in.url()
			}
			sleep(ctx, 10*time.Millisecond)
		}
	}
	clients := make([]*follower, n)
	connecting := make(chan struct{}, 50)
	for i := range clients {
		c := &follower{viewer: viewer{topic: room, name: fmt.Sprint("client ", i)}}
		clients[i] = c
		connecting <- struct{}{}
		all.Go(func() { c.run(ctx, balancer) })
		go func() { // ends when the client is connected
			waitFor(t, "a client", func() bool { return c.position() != "" })
			<-connecting
		}()
	}
	connected := func() (sum int) {
		for i := range meshSize {
			if in := f.at(i); in != nil {
				sum += in.server.Stats().Subscriptions
			}
		}
		return sum
	}
	waitFor(t, "all clients", func() bool { return connected() == n })
	p := &press{topic: room, name: "press", repeats: true}
	pressing, stop := context.WithCancel(ctx)
	var pressed sync.WaitGroup
	pressed.Go(func() {
		p.run(pressing, 20*time.Millisecond, func() *instance { return f.at(rand.IntN(meshSize)) })
	})

	var windows time.Duration
	busiest := 0 // accepted by the other nodes together in a second
	for i := range meshSize {
		before := p.count()
		waitFor(t, "publications", func() bool { return p.count() > before+20 })
		in := f.at(i)
		windows = max(windows, time.Second, time.Duration(in.server.Stats().Sessions)*time.Millisecond)
		f.mu.Lock()
		f.instances[i] = nil
		f.mu.Unlock()
		stopCounting := f.countAccepted(&busiest)
		ending, done := context.WithTimeout(ctx, patience)
		if err := in.server.Shutdown(ending); err != nil {
			t.Errorf("node %d: %v", i, err)
		}
		done()
		in.http.Close()
		f.boot(i)
		f.awaitReady()
		waitFor(t, "all clients to be back", func() bool { return connected() == n })
		stopCounting()
	}
	stop()
	pressed.Wait()
	waitFor(t, "the last publication", func() bool { return p.publish(f.at(0)) == nil })
	stored := f.contents(room)
	verifyStored(t, stored, p)

	var away []time.Duration
	for _, c := range clients {
		c.awaitLast(t, stored)
		c.verifyWhole(t, stored)
		c.mu.Lock()
		away = append(away, c.away...)
		c.mu.Unlock()
	}
	slices.Sort(away)
	p95 := away[len(away)*95/100]
	t.Logf("%d clients came back %d times, half of them within %v, 95 %% within %v, all within %v; told to come back within %v; at most %d in a second",
		n, len(away), away[len(away)/2], p95, away[len(away)-1], windows, busiest)
	if p95 > windows+*rolloutLate {
		t.Errorf("5 %% of the clients were away for longer than %v; they were told to come back within %v", p95, windows)
	}
	if busiest > maxReturns {
		t.Errorf("%d clients came back in one second", busiest)
	}
	if len(away) < n {
		t.Errorf("%d times a client was away, and there are %d", len(away), n)
	}
}

// countAccepted notes how many clients the nodes together accept in a second at most, until it is stopped.
func (f *fleet) countAccepted(most *int) (stop func()) {
	const perSecond = 10
	over := make(chan struct{})
	var counting sync.WaitGroup
	counting.Go(func() {
		before := make(map[*instance]uint64)
		var accepted [perSecond]int // in each tenth of the last second
		for tenth := 0; ; tenth++ {
			accepted[tenth%perSecond] = 0
			for i := range f.instances {
				if in := f.at(i); in != nil {
					now := in.server.Stats().Accepted
					if last, ok := before[in]; ok {
						accepted[tenth%perSecond] += int(now - last)
					}
					before[in] = now
				}
			}
			sum := 0
			for _, n := range accepted {
				sum += n
			}
			*most = max(*most, sum)
			select {
			case <-over:
				return
			case <-time.After(time.Second / perSecond):
			}
		}
	})
	return func() { close(over); counting.Wait() }
}
