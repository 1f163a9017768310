package live_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
)

// cuts are the ways in which a line ends.
var cuts = []struct {
	name string
	cut  func(*livetest.Relay)
}{
	{"closed", (*livetest.Relay).HangUp},
	{"reset", (*livetest.Relay).Reset},
}

// Wherever a frame is cut off, there was no message, and the session is over.
// The frame has a header of 8 bytes and 200 of payload.
func TestFrameCutOnItsWayToTheServer(t *testing.T) {
	t.Parallel()
	for _, way := range cuts {
		for _, n := range []int{0, 1, 2, 3, 4, 7, 8, 9, 100, 207} {
			t.Run(fmt.Sprintf("%s after %d bytes", way.name, n), func(t *testing.T) {
				t.Parallel()
				var ended livetest.Ends
				heard := make(chan string, 1)
				server := livetest.NewServer(t, live.Options{
					OnMessage: func(_ context.Context, s *live.Session, topic string, data []byte) { heard <- string(data) },
					OnClose:   ended.OnClose,
				})
				l := livetest.Through(t, livetest.Serve(t, server.Handler()))
				c := livetest.Dial(t, l.Endpoint)
				c.Send(`{"data":1}`)
				<-heard
				l.CutUp(n, func() { way.cut(l) })
				c.Say(livetest.Fill(200))
				if err := ended.Only(t); err == nil {
					t.Error("OnClose got nil, as if the client had closed")
				}
				select {
				case text := <-heard:
					t.Errorf("OnMessage got %s", text)
				default:
				}
			})
		}
	}
}

// The frame has a header of 4 bytes and 200 of payload. Over TLS all cuts are
// within the record around it.
func TestFrameCutOnItsWayToTheClient(t *testing.T) {
	t.Parallel()
	for _, way := range cuts {
		for _, n := range []int{0, 1, 2, 3, 4, 5, 100, 203} {
			t.Run(fmt.Sprintf("%s after %d bytes", way.name, n), func(t *testing.T) {
				livetest.OverEach(t, func(t *testing.T, serve livetest.Serving) {
					var ended livetest.Ends
					server := livetest.NewServer(t, live.Options{OnMessage: livetest.Echo, OnClose: ended.OnClose})
					l := livetest.Through(t, serve(t, server.Handler()))
					c := livetest.Dial(t, l.Endpoint)
					c.Send(`{"data":1}`)
					livetest.Check(t, "the client", c.Read(), `{"data":1}`)
					l.CutDown(n, func() { way.cut(l) })
					c.Send(livetest.Fill(200))
					if got, code := c.Rest(); len(got) != 0 || code != 0 {
						t.Errorf("the client got %v and code %d", got, code)
					}
					if err := ended.Only(t); err == nil {
						t.Error("OnClose got nil, as if the client had closed")
					}
				})
			})
		}
	}
}

var cutClients = flag.Int("cut.clients", 250, "clients of TestClientsOnLinesThatAreCut")

// Many clients are on lines that are cut again and again, while numbers are
// published. With a history that is long enough each has every number, once and in
// order. With one that is not each hole is announced where it is, and there is none
// where none is announced.
func TestClientsOnLinesThatAreCut(t *testing.T) {
	for _, test := range []struct {
		name     string
		history  int
		complete bool
	}{
		{"all is kept", 1000, true},
		{"little is kept", 2, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			clients := *cutClients
			const atLeast, every = 3 * time.Second, 150 * time.Millisecond
			server := livetest.NewHistoryServer(t, live.TopicOptions{History: test.history}, nil)
			at := livetest.Serve(t, server.Handler())
			topics := []string{"a", "b", "c", "d"}

			calm := make(chan struct{})
			var published atomic.Int64 // the newest number of each topic, or the next
			var last [4]atomic.Int64   // set when calm
			done := func(r *livetest.Roamer) bool {
				for i, topic := range topics {
					if a := r.Ledgers[topic]; a != nil && (last[i].Load() == 0 || int64(a.Seen) < last[i].Load()) {
						return false
					}
				}
				return true
			}
			all := make([]*livetest.Roamer, clients)
			var roaming sync.WaitGroup
			for i := range all {
				r := &livetest.Roamer{
					T: t, At: at, Calm: calm, Done: done,
					Topics:  []string{topics[i%4], topics[(i+1)%4]},
					Ledgers: map[string]*livetest.Ledger{topics[i%4]: {}, topics[(i+1)%4]: {}},
					Up:      600 * time.Millisecond, Down: 150 * time.Millisecond,
					Take: func(r *livetest.Roamer, f livetest.Frame) error {
						if f.Op == "gap" {
							return r.Ledgers[f.Topic].Lost(f, int(published.Load()), test.history)
						}
						n, err := strconv.Atoi(string(f.Data))
						if err != nil {
							return err
						}
						return r.Ledgers[f.Topic].Heard(n, f)
					},
					Answered: func(_ *livetest.Roamer, a *livetest.Ledger, f livetest.Frame) error { return a.Subscribed(f) },
				}
				all[i] = r
				roaming.Go(func() {
					time.Sleep(rand.N(time.Second)) // they do not come all at once
					r.Roam()
				})
			}
			n := 0
			dials := func() (sum int) {
				for _, r := range all {
					sum += int(r.Dials.Load())
				}
				return sum
			}
			// Until each line has been cut, most of them more than once.
			for start := time.Now(); time.Since(start) < atLeast || dials() < 5*clients/2 && time.Since(start) < 2*livetest.Patience; time.Sleep(every) {
				n++
				published.Store(int64(n))
				for _, topic := range topics {
					livetest.PublishNumbers(t, server, topic, n, n)
				}
			}
			close(calm)
			n++
			published.Store(int64(n))
			for i, topic := range topics {
				last[i].Store(int64(n + 1))
				livetest.PublishNumbers(t, server, topic, n, n)
			}
			time.Sleep(every)
			published.Store(int64(n + 1))
			for _, topic := range topics {
				livetest.PublishNumbers(t, server, topic, n+1, n+1)
			}
			roaming.Wait()

			gaps := 0
			for _, r := range all {
				for _, a := range r.Ledgers {
					gaps += a.Gaps
				}
			}
			t.Logf("%d connections, %d publications of each topic, %d gaps", dials(), n+1, gaps)
			if dials() < 2*clients {
				t.Errorf("%d connections of %d clients: the lines were hardly cut", dials(), clients)
			}
			if test.complete != (gaps == 0) {
				t.Errorf("%d gaps", gaps)
			}
			livetest.Eventually(t, "the sessions' end", func() bool { return server.Stats().Sessions == 0 })
		})
	}
}
