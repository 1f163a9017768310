package live

import (
	"context"
	"log/slog"
	"time"

	"github.com/livetopic/livetopic/live/internal/clock"
)

// One goroutine does for presence what is due: it speaks to the other servers, ends what was shown
// for long enough, and tells clients and listeners what has changed. It runs only while there is
// something to do, or another server to watch.

// presenceTick is the shortest time between two rounds. What happens in that time is told at once.
const presenceTick = 50 * time.Millisecond

// wake has something done soon; mu is held.
func (p *presenceState) wake() {
	if p.stopped {
		return
	}
	if !p.running {
		p.running = true
		go p.run() // ends when nothing is left to do, or with Shutdown
		return
	}
	select {
	case p.wakes <- struct{}{}:
	default:
	}
}

func (p *presenceState) run() {
	sleep(p.server.topics.life, presenceTick)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		next, more := p.step()
		if !more {
			return
		}
		timer.Reset(max(time.Duration(next-clock.Now()), presenceTick))
		select {
		case <-timer.C:
		case <-p.wakes:
			sleep(p.server.topics.life, presenceTick)
		}
	}
}

// step does what is due. It returns when more is, or ends the running.
func (p *presenceState) step() (next int64, more bool) {
	now := clock.Now()
	p.mu.Lock()
	out := p.table.Tick(now)
	for _, topic := range p.table.Marked() {
		p.untold[topic] = true
	}
	busy := p.untold
	p.untold = make(map[string]bool)
	p.mu.Unlock()
	for _, b := range out {
		p.broadcast(b)
	}
	for topic, changed := range busy {
		if again, changed := p.serve(topic, changed, now); again {
			p.mu.Lock()
			p.untold[topic] = p.untold[topic] || changed
			p.mu.Unlock()
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	next, more = p.table.Next(now)
	if len(p.untold) > 0 {
		next, more = now, true
	}
	if len(p.wakes) > 0 {
		<-p.wakes
		next, more = now, true
	}
	if p.stopped {
		more = false
	}
	if !more {
		p.running = false
		if p.stopped {
			close(p.ended)
		}
	}
	return next, more
}

func (p *presenceState) broadcast(b []byte) {
	ctx, cancel := context.WithTimeout(context.Background(), brokerTimeout)
	defer cancel()
	p.server.callSafely("Bus.Broadcast", "kind", "presence", func() {
		if err := p.server.broadcast(ctx, encodeBroadcast(typePresence, "", b)); err != nil {
			p.server.logOfClient(slog.LevelInfo, "live: presence was not sent to the other servers", "err", err)
		}
	})
}

// hear takes what another server, or this one, has broadcast.
func (p *presenceState) hear(b []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopped {
		return
	}
	p.use().Hear(b, clock.Now())
	p.wake()
}

// drain is called when Shutdown begins. Clients are told to come back within a time. Until then
// other servers show them.
func (p *presenceState) drain(within time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.table != nil {
		p.table.Drain(max(within, minReturn) + max(p.server.opts.PresenceGrace, 0))
		p.wake()
	}
}

// stop ends the running, and tells the other servers what is left to tell. All sessions have
// ended.
func (p *presenceState) stop() {
	p.mu.Lock()
	first := !p.stopped
	p.stopped = true
	running := p.running
	if first {
		p.ended = make(chan struct{})
		select {
		case p.wakes <- struct{}{}:
		default:
		}
	}
	p.mu.Unlock()
	if !first {
		return
	}
	if running {
		<-p.ended
	}
	p.mu.Lock()
	var out [][]byte
	if p.table != nil {
		out = p.table.Tick(clock.Now() + int64(time.Second)) // what waits for a batch is due
	}
	p.mu.Unlock()
	for _, b := range out {
		p.broadcast(b)
	}
}
