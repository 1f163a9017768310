package live_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/livetopic/livetopic/internal/livetest"

	"github.com/livetopic/livetopic/live"
)

// A client on a slow line takes something all the time. However long a frame needs on the
// whole, WriteTimeout does not end it.
func TestSlowLineIsNoTimeout(t *testing.T) {
	t.Parallel()
	const size, pace, writeTimeout = 375_000, 75_000, time.Second // five seconds
	livetest.AtOnce(t, func(g *livetest.Together) {
		for name, frames := range map[string]int{"one frame": 1, "many": 25} {
			g.Run(name, func(t *testing.T) {
				livetest.OverBoth(t, func(t *testing.T, secure bool) {
					ends := make(chan error, 1)
					opts, sessions := livetest.Connected(live.Options{
						WriteTimeout: writeTimeout,
						OnClose:      func(_ *live.Session, err error) { ends <- err },
					})
					h := livetest.Hosting{Secure: secure, Buffer: 32 << 10}.Start(t, opts)
					// The kernels tell of what was read in steps of half a buffer.
					p := h.Connect(t, livetest.Dialing{Buffer: 8 << 10, Pace: pace}).Attend()
					s := livetest.Receive(t, sessions)
					for i := range frames {
						s.Send(live.Message{Data: []byte(livetest.Padded(i, size/frames))})
					}
					for i := range frames {
						p.ExpectNumbers("", i, i)
					}
					select {
					case err := <-ends:
						t.Error("the session has ended:", err)
					default:
					}
				})
			})
		}
	})
}

// One that takes nothing at all is given up, after WriteTimeout and not before.
func TestLineThatTakesNothingIsGivenUp(t *testing.T) {
	t.Parallel()
	const writeTimeout = time.Second
	livetest.OverBoth(t, func(t *testing.T, secure bool) {
		ends := make(chan error, 1)
		opts, sessions := livetest.Connected(live.Options{
			WriteTimeout: writeTimeout,
			OnClose:      func(_ *live.Session, err error) { ends <- err },
		})
		h := livetest.Hosting{Secure: secure, Buffer: 32 << 10}.Start(t, opts)
		p := h.Connect(t, livetest.Dialing{Buffer: 8 << 10, Pace: 75_000}).Attend()
		s := livetest.Receive(t, sessions)
		s.Send(live.Message{Data: []byte(livetest.Padded(1, 750_000))})
		time.Sleep(2 * writeTimeout)
		if s.IsClosed() {
			t.Fatal("given up though something was taken:", livetest.Receive(t, ends))
		}
		stalled := time.Now()
		p.Line.Stall()
		err := livetest.Receive(t, ends)
		if took := time.Since(stalled); took < writeTimeout/2 {
			t.Errorf("given up after %v", took)
		}
		if !errors.Is(err, live.ErrWriteFailed) {
			t.Errorf("OnClose got %v", err)
		}
	})
}

// Close waits for a slow client as long as that takes something, whatever it sends
// meanwhile: all messages arrive, and then the close frame.
func TestCloseWaitsForASlowClientThatGoesOnSending(t *testing.T) {
	t.Parallel()
	const messages, size, pace = 9, 72_000, 80_000 // eight seconds
	livetest.AtOnce(t, func(g *livetest.Together) {
		for name, buffer := range map[string]int{"small buffers": 32 << 10, "large buffers": 0} {
			g.Run(name, func(t *testing.T) {
				livetest.OverBoth(t, func(t *testing.T, secure bool) {
					ends := make(chan error, 1)
					opts, sessions := livetest.Connected(live.Options{
						OnMessage: func(context.Context, *live.Session, string, []byte) {},
						OnClose:   func(_ *live.Session, err error) { ends <- err },
					})
					h := livetest.Hosting{Secure: secure, Buffer: buffer}.Start(t, opts)
					p := h.Connect(t, livetest.Dialing{Buffer: buffer, Pace: pace}).Attend()
					s := livetest.Receive(t, sessions)
					for i := range messages {
						s.Send(live.Message{Data: []byte(livetest.Padded(i, size))})
					}
					s.Close()
					stop := make(chan struct{})
					defer close(stop)
					go func() {
						for p.Say(`{"topic":"`+strings.Repeat("t", 100)+`"}`) == nil {
							select {
							case <-stop:
								return
							case <-time.After(20 * time.Millisecond):
							}
						}
					}()
					before, code := p.Rest()
					if code != live.CloseNormal {
						t.Errorf("closed with %d: %v", code, p.Err())
					}
					if len(before) != messages {
						t.Errorf("%d messages, want %d", len(before), messages)
					}
					for i, f := range before {
						if livetest.NumberOf(f.Data) != i {
							t.Errorf("message %d is %s", i, fmt.Sprint(&f))
						}
					}
					if err := livetest.Receive(t, ends); err != nil {
						t.Errorf("OnClose got %v", err)
					}
				})
			})
		}
	})
}
