package live

import (
	"context"
	"log/slog"
	"time"

	"github.com/livetopic/livetopic/live/internal/clock"
)

// One goroutine does all timed work of presence. It broadcasts to the other servers, hides sessions
// whose grace is over, and tells clients and listeners what has changed. It runs only while there is
// such work, or another server whose silence must be noticed.

// presenceTick is the shortest time between two steps of this goroutine. Changes within that time are
// told together. A person does not notice 50 ms.
const presenceTick = 50 * time.Millisecond

// wake makes the goroutine take a step soon, and starts it if it does not run; mu is held.
func (p *presenceState) wake() {
	if p.stopped {
		return
	}
	if !p.running {
		p.running = true
		go p.run() // ends when nothing is left to do, or with Shutdown; see stop
		return
	}
	select {
	case p.wakes <- struct{}{}:
	default:
	}
}

// run takes steps until there is nothing left to do.
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

// step does what is due. next is when the next step must follow. If more is false, nothing is left to
// do: running is then false, and the goroutine must end.
func (p *presenceState) step() (next int64, more bool) {
	now := clock.Now()
	p.mu.Lock()
	out := p.table.Tick(now)
	for _, topic := range p.table.Marked() {
		p.untold[topic] = true
	}
	untold := p.untold
	p.untold = make(map[string]bool)
	p.mu.Unlock()
	for _, b := range out {
		p.broadcast(b)
	}
	for topic, changed := range untold {
		if rerun, stillChanged := p.serve(topic, changed, now); rerun {
			p.mu.Lock()
			p.untold[topic] = p.untold[topic] || stillChanged
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

// broadcast sends a message of package presence to all servers. If that fails, the other servers ask
// for it again later.
func (p *presenceState) broadcast(b []byte) {
	ctx, cancel := context.WithTimeout(context.Background(), brokerTimeout)
	defer cancel()
	p.server.callSafely("Bus.Broadcast", "kind", "presence", func() {
		if err := p.server.broadcast(ctx, encodeBroadcast(typePresence, "", b)); err != nil {
			p.server.logOfClient(slog.LevelInfo, "live: presence was not sent to the other servers", "err", err)
		}
	})
}

// hear handles a message of package presence, from any server, this one included.
func (p *presenceState) hear(b []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopped {
		return
	}
	p.use().Hear(b, clock.Now())
	p.wake()
}

// drain is called when Shutdown closes the sessions. within is the time in which clients are told to
// come back. Until then, and for the grace, the other servers still show them.
func (p *presenceState) drain(within time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.table != nil {
		p.table.Drain(max(within, minReturn) + max(p.server.opts.PresenceGrace, 0))
		p.wake()
	}
}

// stop ends the goroutine of run, and waits for it. Then it tells the other servers the last changes.
// It is called when all sessions have ended.
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
		out = p.table.Tick(clock.Now() + int64(time.Second)) // a second later all collected changes are due
	}
	p.mu.Unlock()
	for _, b := range out {
		p.broadcast(b)
	}
}
