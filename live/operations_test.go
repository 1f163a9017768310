package live_test

import (
	"context"
	"log/slog"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/livetopic/livetopic/internal/livetest"

	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/broker"
)

// withFalseTime runs f with false time: dial connects a client of live.v1 to a server of opts.
func withFalseTime(t *testing.T, opts live.Options, f func(t *testing.T, srv *live.Server, dial func() *livetest.Client)) {
	t.Helper()
	p := newPipes()
	opts.Logger = slog.New(slog.DiscardHandler)
	srv := live.New(opts)
	hs := &http.Server{Handler: srv.Handler()}
	go hs.Serve(p) // ends with hs
	defer hs.Close()
	defer shut(t, srv)
	f(t, srv, func() *livetest.Client {
		conn := p.dial()
		return livetest.Over(t, conn, livetest.Dialing{V1: true}).Attend().Greeted()
	})
}

// electing is a broker that acknowledges publications of the topic "slow" only when time has
// passed.
type electing struct {
	*live.MemoryBroker
	election time.Duration
	waiting  atomic.Int64 // publications that wait
	most     atomic.Int64 // of them at a time
}

func (*electing) InProcess() bool { return false }

func newElecting(election time.Duration) *electing {
	return &electing{MemoryBroker: live.NewMemoryBroker(live.MemoryOptions{}), election: election}
}

func (b *electing) Publish(ctx context.Context, topic string, data []byte, o broker.PublishOptions) (live.Position, error) {
	if topic == "slow" {
		b.most.Store(max(b.most.Load(), b.waiting.Add(1)))
		defer b.waiting.Add(-1)
		select {
		case <-time.After(b.election):
		case <-ctx.Done():
			return live.Position{}, ctx.Err()
		}
	}
	return b.MemoryBroker.Publish(ctx, topic, data, o)
}

// A cluster elects another leader within ten seconds. A publication waits for that, and nothing
// waits for the publication except its own client's later operations.
func TestClientsPublicationWaitsForAnElection(t *testing.T) {
	for _, election := range []time.Duration{4 * time.Second, 9 * time.Second, 10 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			b := newElecting(election)
			withFalseTime(t, livetest.Open(keeping(b, live.TopicOptions{History: 10})), func(t *testing.T, _ *live.Server, dial func() *livetest.Client) {
				c, other := dial(), dial()
				began := time.Now()
				c.Say(livetest.Operation("publish", 1, "slow", "data", 1), livetest.Operation("publish", 2, "quick", "data", 2))
				synctest.Wait()
				c.Say(`{"op":"ping"}`)
				if f := c.Next(); f.Op != "pong" || time.Since(began) > time.Second {
					t.Errorf("the answer to a ping is %s, after %v", &f, time.Since(began))
				}
				other.Say(livetest.Operation("publish", 1, "quick", "data", 3))
				if f, _ := other.Reply(1); f.Op != "reply" || time.Since(began) > time.Second {
					t.Errorf("another client's publication: %s, after %v", &f, time.Since(began))
				}
				if f, _ := c.Reply(1); f.Op != "reply" || time.Since(began) != election {
					t.Errorf("an election of %v: %s, after %v", election, &f, time.Since(began))
				}
				if f, _ := c.Reply(2); f.Op != "reply" {
					t.Errorf("the next publication: %s", &f)
				}
			})
		})
	}
}

func TestPublicationThatIsNotAcknowledgedFailsInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newElecting(time.Hour)
		withFalseTime(t, livetest.Open(keeping(b, live.TopicOptions{})), func(t *testing.T, _ *live.Server, dial func() *livetest.Client) {
			c := dial()
			began := time.Now()
			c.Say(livetest.Operation("publish", 1, "slow", "data", 1))
			f, _ := c.Reply(1)
			if took := time.Since(began); f.Op != "error" || f.Code != "unavailable" || took > 15*time.Second {
				t.Errorf("%s after %v", &f, took)
			}
		})
	})
}

// However many publications a client sends, the server waits for one of them, and for none when
// the client has left.
func TestOnePublicationOfAClientWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newElecting(time.Hour)
		withFalseTime(t, livetest.Open(keeping(b, live.TopicOptions{})), func(t *testing.T, srv *live.Server, dial func() *livetest.Client) {
			c := dial()
			for i := range 30 {
				c.Say(livetest.Operation("publish", i+1, "slow", "data", 1))
			}
			time.Sleep(3 * time.Second)
			if n := b.most.Load(); n != 1 {
				t.Errorf("%d publications wait", n)
			}
			c.Line.Close()
			time.Sleep(2 * time.Second)
			if n := b.waiting.Load(); n != 0 || srv.Stats().Sessions != 0 {
				t.Errorf("%d publications wait for a client that has left, %d sessions", n, srv.Stats().Sessions)
			}
		})
	})
}
