//go:build unix

package natsbroker

import (
	"context"
	"flag"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var (
	guestCount = flag.Int("guests", 50, "clients of TestPresenceOverProcesses")
	guestTime  = flag.Duration("guests.time", 0, "how long TestPresenceOverProcesses makes faults at random; 0: a few seconds of fixed faults")
	guestSeed  = flag.Uint64("guests.seed", 0, "of TestPresenceOverProcesses; 0: a random one")
)

// ghostBound is how long somebody may be shown who is gone, and ghostSlack what a busy machine and
// the pauses of the monitor add.
const (
	ghostBound = 10 * time.Second
	ghostSlack = 2 * time.Second
)

// shownAfterDrain is how long other servers show the users of a server that is shut down: a second to
// come back, and the grace.
const shownAfterDrain = 4 * time.Second

// monitor checks the servers that run until the result is called: no count is negative, and nobody is
// shown whose last session has ended too long ago. A session at a server that is out of reach
// counts as ended.
func (h *houses) monitor() (end func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var watching sync.WaitGroup
	watching.Go(func() { // ends with ctx
		for ctx.Err() == nil {
			h.note()
			for i := range meshSize {
				if p, serves := h.at(i); serves {
					asked := time.Now()
					if v, err := h.view(p); err == nil {
						h.checkGhosts(p, v, asked)
					}
				}
			}
			sleep(ctx, 100*time.Millisecond)
		}
	})
	return func() {
		cancel()
		watching.Wait()
	}
}

// note notes who is present where.
func (h *houses) note() {
	for _, g := range h.guests {
		if v := g.now(); v != nil {
			g.each(nil, func(_ *process, topic string, s *stay) {
				if s.present {
					h.saw(v, topic)
				}
			})
		}
	}
}

// saw notes that the user of a connection is present in a topic now, or may be.
func (h *houses) saw(v *visit, topic string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	key := topic + " " + v.guest.user
	if h.seen[key] == nil {
		h.seen[key] = make(map[*process]time.Time)
	}
	h.seen[key][v.at] = time.Now()
}

func (h *houses) checkGhosts(p *process, v hallView, asked time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if p.stopped || p.down {
		return
	}
	h.views++
	for topic, tv := range v.Topics {
		if tv.Count < 0 {
			h.test.Errorf("node %d counts %d members of %s", p.node, tv.Count, topic)
		}
		for user := range tv.Members {
			var last time.Time
			for at, when := range h.seen[topic+" "+user] {
				last = later(last, p.mayShow(at, when))
			}
			if last.IsZero() {
				continue // its first answer is still to come
			}
			age := asked.Sub(last)
			h.oldest = max(h.oldest, age)
			if age > ghostBound+ghostSlack {
				h.test.Errorf("node %d shows %s in %s, who has been gone for %v", p.node, user, topic, age)
			}
		}
	}
}

// churn has the guests do what they like for a while.
func (h *houses) churn(d time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	h.during(ctx)
}

func (h *houses) during(ctx context.Context) {
	var all sync.WaitGroup
	for _, g := range h.guests {
		all.Go(func() {
			for ctx.Err() == nil {
				sleep(ctx, time.Duration(g.rand.IntN(2*guestPause)))
				g.act()
			}
		})
	}
	all.Wait()
}

// guestPause is about how long a guest waits between two deeds.
const guestPause = int(600 * time.Millisecond)

// drain shuts a server down while nobody does anything else. Its guests go to other servers while they
// are still shown, and nobody there may notice.
func (h *houses) drain(i int) {
	h.test.Helper()
	p, _ := h.at(i)
	began := time.Now()
	noticed := make(map[*visit]int)
	var moving sync.WaitGroup
	moved := 0
	var late atomic.Int32 // guests that were away for longer than others are shown, as on a busy machine
	for _, g := range h.guests {
		v := g.now()
		switch {
		case v == nil:
		case v.at != p:
			noticed[v] = v.noticed()
		default:
			moved++
			moving.Go(func() { // ends when the guest has moved
				<-v.ended
				ended := time.Now()
				g.moveAfter(v, i)
				if time.Since(ended) > shownAfterDrain-200*time.Millisecond {
					late.Add(1)
				}
			})
		}
	}
	h.change(i, func(p *process) { p.down = true })
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, "GET", p.url+"/shutdown", nil)
	if err != nil {
		h.test.Fatal(err)
	}
	if answer, err := http.DefaultClient.Do(r); err != nil {
		h.test.Errorf("node %d did not shut down: %v", i, err)
	} else {
		answer.Body.Close()
	}
	p.Process.Kill()
	p.Wait()
	moving.Wait()
	time.Sleep(time.Until(began.Add(shownAfterDrain + time.Second)))
	for v, before := range noticed {
		if n := v.noticed() - before; n > 2*int(late.Load()) { // each of these has left and joined
			h.test.Errorf("a client at node %d was told %d times that somebody joined or left", v.at.node, n)
		}
	}
	h.test.Logf("node %d was drained: %d guests moved, %d of them too late; %d watched", i, moved, late.Load(), len(noticed))
}

// pause stops a server for longer than the bound while nobody does anything. The others show its users
// no longer, and then again. The clients of the server notice nothing: nobody has come or gone.
func (h *houses) pause(i int) {
	h.test.Helper()
	noticed := make(map[*visit]int)
	for _, g := range h.guests {
		if v := g.now(); v != nil && v.at.node == i {
			noticed[v] = v.noticed()
		}
	}
	h.stopHard(i)
	time.Sleep(ghostBound + 500*time.Millisecond)
	for j := range meshSize {
		if j == i {
			continue
		}
		p, _ := h.at(j)
		v, err := h.view(p)
		if err != nil {
			h.test.Errorf("node %d does not answer: %v", j, err)
		} else if d := difference(v, h.truthWithout(i)); d != "" {
			h.test.Errorf("ten seconds after a stop of node %d node %d shows what is not true:\n%s", i, j, d)
		}
	}
	time.Sleep(2 * time.Second)
	h.goOn(i)
	h.awaitTruth("a server was stopped while nobody did anything")
	time.Sleep(3 * time.Second) // so that a beat has come
	for v, before := range noticed {
		if n := v.noticed() - before; n > 0 {
			h.test.Errorf("a client of the server that was stopped was told %d times that somebody joined or left", n)
		}
	}
}

// Three processes serve users who come, go, change and come back, while processes are killed, stopped,
// cut off and drained. Nobody is shown who has been gone for longer than ten seconds, and ten
// seconds after the last fault every server and every client shows the sockets that are open.
func TestPresenceOverProcesses(t *testing.T) {
	if isChild(t) {
		serveHall(t)
		return
	}
	if testing.Short() {
		t.Skip("takes a quarter of a minute")
	}
	t.Parallel()
	h := newHouses(t)
	end := h.monitor()
	defer func() { end() }()
	if *guestTime > 0 {
		h.faultsAtRandom(*guestTime)
	} else {
		h.fixedFaults()
	}
	end()
	t.Logf("%d processes; %d views, and nobody was shown who had been gone for more than %v", h.born, h.views, h.oldest.Round(10*time.Millisecond))
}

func (h *houses) fixedFaults() {
	h.churn(500 * time.Millisecond)
	h.whileChurning(func() {
		h.killHard(1)
		time.Sleep(500 * time.Millisecond)
		h.start(1)
		h.stopHard(2)
		h.cutOff(0, linkCut)
		time.Sleep(2 * time.Second)
		h.join(0)
		h.goOn(2)
		time.Sleep(500 * time.Millisecond)
	})
	h.awaitTruth("a server killed, one stopped and one cut off")
	h.drain(h.rand.IntN(meshSize))
}

// whileChurning does something while guests come and go.
func (h *houses) whileChurning(do func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan bool)
	go func() { // ends after the cancel
		h.during(ctx)
		close(done)
	}()
	do()
	cancel()
	<-done
}

// faultsAtRandom makes one fault after another, and now and then all is quiet.
func (h *houses) faultsAtRandom(d time.Duration) {
	h.churn(5 * time.Second)
	faults := []struct {
		name string
		do   func(i int)
	}{
		{"a server is killed", func(i int) {
			h.killHard(i)
			time.Sleep(time.Duration(h.rand.IntN(12)) * time.Second)
			h.start(i)
		}},
		{"a server is stopped for long", func(i int) {
			h.stopHard(i)
			time.Sleep(14 * time.Second)
			h.goOn(i)
		}},
		{"a server is cut off for long", func(i int) {
			h.cutOff(i, []linkState{linkCut, linkBlackhole}[h.rand.IntN(2)])
			time.Sleep(14 * time.Second)
			h.join(i)
		}},
		{"two servers have faults", func(i int) {
			h.stopHard(i)
			time.Sleep(2 * time.Second)
			h.cutOff((i+1)%meshSize, linkBlackhole)
			time.Sleep(3 * time.Second)
			h.join((i + 1) % meshSize)
			h.killHard((i + 2) % meshSize)
			time.Sleep(time.Second)
			h.start((i + 2) % meshSize)
			h.goOn(i)
		}},
		{"all are killed at once", func(int) {
			for i := range meshSize {
				h.killHard(i)
			}
			for i := range meshSize {
				h.start(i)
			}
		}},
	}
	for end := time.Now().Add(d); time.Now().Before(end); {
		h.rand.Shuffle(len(faults), func(i, j int) { faults[i], faults[j] = faults[j], faults[i] })
		for _, f := range faults {
			i := h.rand.IntN(meshSize)
			h.whileChurning(func() {
				f.do(i)
				time.Sleep(2 * time.Second)
			})
			h.awaitTruth(f.name)
		}
		i := h.rand.IntN(meshSize)
		h.drain(i)
		h.start(i)
		h.awaitTruth("a server was drained")
		h.pause((i + 1) % meshSize)
	}
}
