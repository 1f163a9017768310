package liveclient

import (
	"cmp"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/livetopic/livetopic/live/internal/closecode"
)

// run connects, serves the connection until it is lost, and begins again.
func (c *Client) run() {
	defer close(c.done)
	for {
		c.mu.Lock()
		select {
		case <-c.hurry: // it was for the wait that is over
		default:
		}
		if !c.closing {
			c.become(Connecting, c.lastErr, 0)
		}
		c.mu.Unlock()
		cn, err := c.connect()
		if err == nil {
			err = c.serve(cn)
		}
		wait, ended := c.lost(cn, err)
		if ended {
			return
		}
		c.pause(wait)
	}
}

// pause waits before the next attempt to connect.
func (c *Client) pause(wait time.Duration) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-c.hurry:
	case <-c.ctx.Done():
	}
}

// serve reads a connection until it ends, and returns why.
func (c *Client) serve(cn *conn) error {
	var writing sync.WaitGroup
	writing.Go(func() { c.write(cn) }) // ends with the connection
	stop := cn.watch()
	c.open(cn)
	var err error
	for {
		var raw []byte
		if raw, err = cn.read(); err != nil {
			break
		}
		c.receive(cn, raw)
	}
	err = cn.ending(err)
	stop()
	cn.kill(err)
	writing.Wait()
	return err
}

// open makes a connection the client's, and sends what has waited for one.
func (c *Client) open(cn *conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	cn.openedAt = time.Now()
	if c.closing {
		cn.closing = true
		cn.wakeWriter()
		time.AfterFunc(c.opts.CloseTimeout, func() { cn.kill(ErrClosed) })
		return
	}
	c.conn = cn
	c.status.Session = cn.session
	c.joinAll()
	waiting := c.waiting
	c.waiting = nil
	for _, call := range waiting {
		c.give(cn, call)
	}
	c.showAgain()
	c.become(Open, nil, 0)
	select {
	case <-c.opened:
	default:
		close(c.opened)
	}
}

// lost decides what comes after a connection or an attempt to connect has ended. cn is nil if the attempt has failed.
func (c *Client) lost(cn *conn, err error) (wait time.Duration, ended bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	code, reason := codeOf(err)
	reaction := closecode.ReactionTo(code, reason)
	wasOpen := c.conn != nil
	c.conn = nil
	c.lastErr = err
	if cn != nil {
		wakeAll(&cn.space) // those who wait for it hand their operations in again
	}
	switch {
	case c.closing:
		c.finish(ErrClosed)
		return 0, true
	case reaction.Action == closecode.Stop, !c.isOpened() && isLasting(err):
		c.finish(err)
		return 0, true
	}
	c.takeBack(reaction.Suspect)
	for _, s := range c.subs {
		s.state, s.askedOn = idle, nil
		s.coming = nil
	}
	if wasOpen {
		for _, ping := range cn.pings {
			close(ping)
		}
		if time.Since(cn.openedAt) >= c.opts.StableAfter {
			c.status.Attempt = 0
		}
	}
	wait = c.backoff(cn, code, reason, err)
	c.status.Attempt++
	c.event(func() { c.opts.Logger.Info("liveclient: not connected", "err", err, "retry_in", wait) })
	c.become(Waiting, err, wait)
	return wait, false
}

// backoff returns a random time to wait; mu is held. docs/protocol.md says what each close code asks for.
func (c *Client) backoff(cn *conn, code int, reason string, err error) time.Duration {
	var refused *RefusedError
	if errors.As(err, &refused) && refused.RetryAfter > 0 {
		after := min(refused.RetryAfter, closecode.MaxWindow)
		return after + c.random(after/2)
	}
	window := closecode.Window(code, reason)
	if window == 0 && cn != nil {
		window = min(cn.window, closecode.MaxWindow)
	}
	if closecode.ReactionTo(code, reason).Action == closecode.Renew && c.status.Attempt == 0 {
		window = closecode.RenewWindow
	}
	if window > 0 {
		return c.random(window)
	}
	bound := c.opts.MinBackoff
	for n := c.status.Attempt; n > 0 && bound < c.opts.MaxBackoff; n-- {
		bound *= 2
	}
	return c.random(min(bound, c.opts.MaxBackoff))
}

func (c *Client) random(bound time.Duration) time.Duration {
	return time.Duration(c.opts.random() * float64(bound))
}

// takeBack decides about the operations that wait for an answer when the connection is lost; mu is held. Operations that
// were not written yet wait for the next connection, and so do publications. suspect says that one of the operations may be
// the cause of the loss. Then those that were written fail.
func (c *Client) takeBack(suspect bool) {
	asked := make([]*operation, 0, len(c.asked))
	for _, call := range c.asked {
		asked = append(asked, call)
	}
	slices.SortFunc(asked, func(a, b *operation) int { return cmp.Compare(a.id, b.id) })
	clear(c.asked)
	c.checkQuiet()
	space := max(c.opts.MaxWaiting, 0) - len(c.waiting)
	var again []*operation
	for _, call := range asked {
		switch {
		case call.over:
		case call.sub != nil:
			call.over = true // the next connection asks anew
		case call.onlyConnected, call.sent && (suspect || !call.repeatable):
			call.fail(ErrDisconnected)
		case len(again) >= space:
			call.fail(ErrTooManyWaiting)
		default:
			again = append(again, call)
		}
	}
	c.waiting = append(again, c.waiting...)
}

// finish ends the client for good; mu is held.
func (c *Client) finish(err error) {
	c.end = err
	c.cancel()
	why := c.isClosed()
	for _, call := range c.asked {
		call.fail(why)
	}
	for _, call := range c.waiting {
		call.fail(why)
	}
	clear(c.asked)
	c.waiting = nil
	c.checkQuiet()
	for _, s := range c.subs {
		s.finish(&Error{Op: "subscribe", Topic: s.topic, Err: why})
	}
	clear(c.subs)
	clear(c.infos)
	c.become(Closed, err, 0)
}

// checkQuiet tells Close that no answer is due any more; mu is held.
func (c *Client) checkQuiet() {
	if len(c.asked) == 0 {
		wakeAll(&c.quiet)
	}
}
