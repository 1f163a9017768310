package live_test

import (
	"context"
	"errors"
	"fmt"
	"net"
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

// A client that stalls for less than WriteTimeout and then reads on is well, also if what comes
// next is late. Here its buffer is smaller than a segment, so the server's kernel sends only
// when a timer runs out, which doubles during the stall: after 0.2, 0.6, 1.4, 3 and 6.2 s.
func TestClientThatReadsOnAfterAStallIsNotGivenUp(t *testing.T) {
	t.Parallel()
	const writeTimeout, stall = 4 * time.Second, 3400 * time.Millisecond
	const messages, size = 40, 5000
	livetest.OverBoth(t, func(t *testing.T, secure bool) {
		ends := make(chan error, 1)
		opts, sessions := livetest.Connected(live.Options{
			WriteTimeout: writeTimeout,
			OnClose:      func(_ *live.Session, err error) { ends <- err },
		})
		h := livetest.Hosting{Secure: secure, Buffer: 32 << 10}.Start(t, opts)
		p := h.Connect(t, livetest.Dialing{})
		// After the handshake, so that the kernels have agreed on large segments.
		p.Line.Conn.(*net.TCPConn).SetReadBuffer(16 << 10)
		s := livetest.Receive(t, sessions)
		for i := range messages {
			s.Send(live.Message{Data: []byte(livetest.Padded(i, size))})
		}
		time.Sleep(stall)
		p.Attend()
		for i := range messages {
			f, ok := p.TryNext()
			if !ok {
				t.Fatalf("given up after %d messages: %v", i, livetest.Receive(t, ends))
			}
			if livetest.NumberOf(f.Data) != i {
				t.Fatalf("got %s, want number %d", f, i)
			}
		}
		if s.IsClosed() {
			t.Error("the session has ended:", livetest.Receive(t, ends))
		}
	})
}

// A client that takes something before each WriteTimeout is over is not given up, though one write takes
// longer than that.
func TestClientThatTakesSomethingInTimeIsNotGivenUp(t *testing.T) {
	t.Parallel()
	const writeTimeout, stall, burst = 8 * time.Second, 3 * time.Second, 100 * time.Millisecond // a busy machine may lose five seconds
	const rounds, size, pace = 3, 2_000_000, 1_000_000                                          // bursts take less than half of it
	livetest.OverBoth(t, func(t *testing.T, secure bool) {
		ends := make(chan error, 1)
		opts, sessions := livetest.Connected(live.Options{
			WriteTimeout: writeTimeout,
			OnClose:      func(_ *live.Session, err error) { ends <- err },
		})
		h := livetest.Hosting{Secure: secure, Buffer: 32 << 10}.Start(t, opts)
		p := h.Connect(t, livetest.Dialing{Buffer: 8 << 10, Pace: pace}).Attend()
		s := livetest.Receive(t, sessions)
		s.Send(live.Message{Data: []byte(livetest.Padded(1, size))})
		for range rounds {
			p.Line.Stall()
			time.Sleep(stall)
			p.Line.Resume()
			time.Sleep(burst)
			if s.IsClosed() {
				t.Fatal("given up:", livetest.Receive(t, ends))
			}
		}
		p.Line.SetPace(0)
		p.ExpectNumbers("", 1, 1)
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

// Close sends what is queued first, also where that takes longer than a peer
// has to answer a close frame. The line is a slow phone's, but it moves: no
// WriteTimeout passes without a byte.
func TestCloseFlushesTheQueueOverASlowLine(t *testing.T) {
	t.Parallel()
	const messages, size, perSecond = 60, 8 << 10, 64 << 10 // 7.5 seconds
	livetest.OverEachSmall(t, func(t *testing.T, serve livetest.Serving) {
		var ended livetest.Ends
		pad := strings.Repeat("x", size)
		server := livetest.NewServer(t, live.Options{
			OnMessage: func(_ context.Context, s *live.Session, topic string, _ []byte) {
				for i := range messages {
					s.Send(live.Message{Topic: topic, Data: fmt.Appendf(nil, `"%d %s"`, i, pad)})
				}
				s.Close()
			},
			OnClose: ended.OnClose,
		})
		l := livetest.Through(t, serve(t, server.Handler()))
		l.Slow(perSecond)
		c := livetest.Dial(t, l.Endpoint)
		c.Send(`{"topic":"t"}`)
		got := 0
		for _, ok := c.TryNext(); ok; _, ok = c.TryNext() { // each comes in time, however slow all are
			got++
		}
		if _, code := c.Rest(); got != messages || code != live.CloseNormal {
			t.Errorf("got %d messages and close code %d (%v), want %d and 1000", got, code, c.Err(), messages)
		}
		if err := ended.Only(t); err != nil {
			t.Errorf("OnClose got %v, want nil", err)
		}
	})
}

// A line that is stalled while the queue is far from full ends its session too.
// It may take a last bit now and then, when the kernels on the way move what
// they hold, and each starts WriteTimeout anew.
func TestSocketThatTakesNothingIsGivenUp(t *testing.T) {
	t.Parallel()
	const writeTimeout, slack = 500 * time.Millisecond, 4 * time.Second
	livetest.OverEachSmall(t, func(t *testing.T, serve livetest.Serving) {
		var ended livetest.Ends
		var server *live.Server
		opts := livetest.Subscriber(&server)
		opts.WriteTimeout, opts.OnClose = writeTimeout, ended.OnClose
		server = livetest.NewServer(t, opts)
		slow := livetest.Through(t, serve(t, server.Handler()))
		livetest.Dial(t, slow.Endpoint).Subscribe("t")
		slow.Stall()
		for range 100 {
			server.Publish("t", []byte(`"`+strings.Repeat("x", 4<<10)+`"`))
		}
		start := time.Now()
		err := ended.Only(t)
		if took := time.Since(start); took > writeTimeout+slack {
			t.Errorf("given up after %v, with a WriteTimeout of %v", took, writeTimeout)
		}
		if !errors.Is(err, live.ErrWriteFailed) {
			t.Errorf("OnClose got %v, want ErrWriteFailed", err)
		}
	})
}

// Topics of every kind share a slow line: each has its order, its newest publication at the
// end, and a gap exactly where something is missing.
func TestTopicsOfEveryKindShareASlowLine(t *testing.T) {
	t.Parallel()
	const n, size, pace = 600, 300, 150_000
	rules := map[string]live.TopicOptions{
		"history":                {History: 10 * n},
		"oldest":                 {Overflow: live.OverflowDropOldest},
		"latest":                 {Overflow: live.OverflowLatest},
		"oldest, with history":   {Overflow: live.OverflowDropOldest, History: 50},
		"latest, with history":   {Overflow: live.OverflowLatest, History: 50},
		"history, and much more": {History: 10 * n},
	}
	opts, sessions := livetest.Connected(live.Options{
		QueueSize: 32, QueueBytes: 16 << 10,
		Topics: func(topic string) live.TopicOptions { return rules[topic] },
	})
	h := livetest.Hosting{Buffer: 8 << 10}.Start(t, opts)
	p := slowPeer(h, t, true, pace).Attend()
	p.Next() // hello
	s := livetest.Receive(t, sessions)
	for topic := range rules {
		h.Subscribe(s, topic)
	}
	livetest.AtOnce(t, func(g *livetest.Together) {
		for topic := range rules {
			g.Go(func() { h.PublishSlowly(t, topic, 1, n, size, 1000) })
		}
	})
	last, told := make(map[string]int), make(map[string]bool)
	for complete := 0; complete < len(rules); {
		f := p.Next()
		if f.Op == "gap" {
			told[f.Topic] = true
			continue
		}
		i := livetest.NumberOf(f.Data)
		switch lost := i > last[f.Topic]+1; {
		case i <= last[f.Topic]:
			t.Fatalf("number %d of %s after %d", i, f.Topic, last[f.Topic])
		case lost && rules[f.Topic].Overflow == live.OverflowDefault:
			t.Errorf("number %d of %s after %d", i, f.Topic, last[f.Topic])
		case lost != told[f.Topic]:
			t.Errorf("number %d of %s after %d, gap: %v", i, f.Topic, last[f.Topic], told[f.Topic])
		}
		last[f.Topic], told[f.Topic] = i, false
		if i == n {
			complete++
		}
	}
	if st := h.Stats(); st.Sessions != 1 || st.Dropped == 0 {
		t.Errorf("%+v", st)
	}
}
