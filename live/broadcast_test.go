package live_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
)

// relay is a messaging system in memory that may be down.
type relay struct {
	mu   sync.Mutex // guards what follows
	subs map[*relaySubscription]bool
	down bool
}

type relaySubscription struct {
	relay   *relay
	subject string
	handler func([]byte)
}

var errDown = errors.New("relay is down")

func newRelay() *relay { return &relay{subs: make(map[*relaySubscription]bool)} }

func (r *relay) set(down bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.down = down
}

func (r *relay) Publish(subject string, data []byte) error {
	r.mu.Lock()
	if r.down {
		r.mu.Unlock()
		return errDown
	}
	var to []*relaySubscription
	for s := range r.subs {
		if s.subject == subject {
			to = append(to, s)
		}
	}
	r.mu.Unlock()
	for _, s := range to {
		buf := slices.Clone(data)
		s.handler(buf)
		clear(buf) // it is the relay's again
	}
	return nil
}

func (r *relay) Subscribe(subject string, handler func([]byte)) (live.Subscription, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.down {
		return nil, errDown
	}
	s := &relaySubscription{r, subject, handler}
	r.subs[s] = true
	return s, nil
}

func (s *relaySubscription) Unsubscribe() error {
	s.relay.mu.Lock()
	defer s.relay.mu.Unlock()
	delete(s.relay.subs, s)
	return nil
}

func (r *relay) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.subs)
}

func (r *relay) Close() error { return nil }

// lonely is a broker that is neither a Bus nor a Recoverer.
type lonely struct{ live.Broker }

// systems are brokers, as many as there are servers.
var systems = map[string]func() []live.Broker{
	"memory": func() []live.Broker { return []live.Broker{live.NewMemoryBroker(live.MemoryOptions{})} },
	"no Bus": func() []live.Broker { return []live.Broker{lonely{live.NewMemoryBroker(live.MemoryOptions{})}} },
	"PubSub": func() []live.Broker {
		r := newRelay()
		return []live.Broker{live.FromPubSub(r), live.FromPubSub(r), live.FromPubSub(r)}
	},
}

// quietly returns a server without sessions, shut down with the test.
func quietly(t *testing.T, broker live.Broker) *live.Server {
	srv := live.New(live.Options{Broker: broker, Logger: slog.New(slog.DiscardHandler)})
	t.Cleanup(func() { shut(t, srv) })
	return srv
}

// heard collects what broadcasts bring.
type heard struct {
	mu   sync.Mutex
	data []string
}

func (h *heard) take(data []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.data = append(h.data, string(data))
}

func (h *heard) with(prefix string) []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(h.data), func(s string) bool { return !strings.HasPrefix(s, prefix) })
}

func TestBroadcastReachesEveryServerInOrder(t *testing.T) {
	for name, system := range systems {
		t.Run(name, func(t *testing.T) {
			var servers []*live.Server
			var ears []*heard // two for each server
			for _, broker := range system() {
				srv := quietly(t, broker)
				servers = append(servers, srv)
				for range 2 {
					ear := &heard{}
					ears = append(ears, ear)
					srv.OnBroadcast("k\x00ind", func([]byte) { panic("of one that fails") })
					srv.OnBroadcast("k\x00ind", ear.take)
				}
				srv.OnBroadcast("k", func([]byte) { t.Error("it is of another kind") })
			}
			var want [3][]string
			var wg sync.WaitGroup
			for i, srv := range servers {
				for j := range 100 {
					want[i] = append(want[i], fmt.Sprintf("%d: %d\x00\xff", i, j))
				}
				wg.Go(func() {
					for _, data := range want[i] {
						b := []byte(data)
						if err := srv.Broadcast(t.Context(), "k\x00ind", b); err != nil {
							t.Error(err)
						}
						clear(b)
					}
				})
			}
			wg.Wait()
			for _, ear := range ears {
				for i := range servers {
					prefix := fmt.Sprintf("%d:", i)
					livetest.Eventually(t, "all broadcasts", func() bool { return len(ear.with(prefix)) >= len(want[i]) })
					if got := ear.with(prefix); !slices.Equal(got, want[i]) {
						t.Fatalf("of server %d came %q", i, got)
					}
				}
			}
			if n := servers[0].Stats().Panics; n != uint64(len(servers)*2*100) {
				t.Errorf("%d panics are counted", n)
			}
			servers[0].Broadcast(t.Context(), "nobody listens", nil)
			shut(t, servers[0])
			if err := servers[0].Broadcast(t.Context(), "k", nil); !errors.Is(err, live.ErrServerClosed) {
				t.Errorf("after Shutdown: %v", err)
			}
		})
	}
}

func TestBroadcastFromWithinABroadcast(t *testing.T) {
	for name, system := range systems {
		t.Run(name, func(t *testing.T) {
			srv := quietly(t, system()[0])
			echo := make(chan string, 1)
			srv.OnBroadcast("call", func(data []byte) {
				srv.OnBroadcast("echo", func(data []byte) { echo <- string(data) })
				srv.Broadcast(t.Context(), "echo", data)
			})
			srv.Broadcast(t.Context(), "call", []byte("hello"))
			if got := livetest.Receive(t, echo); got != "hello" {
				t.Error(got)
			}
		})
	}
}

// byHeader signs clients in as whom they say they are.
func byHeader(_ context.Context, r *http.Request) (any, error) { return r.Header.Get("User"), nil }

func dialAs(t *testing.T, url, user string) *livetest.Client {
	t.Helper()
	return livetest.Connect(t, livetest.Endpoint{URL: url}, livetest.Dialing{Header: http.Header{"User": {user}}})
}

func TestDisconnectUserEndsTheSessionsOnEveryServer(t *testing.T) {
	for name, system := range systems {
		t.Run(name, func(t *testing.T) {
			ends := make(chan error, 100)
			var servers []*live.Server
			var anna, others []*livetest.Client
			for _, broker := range system() {
				srv, url := serve(t, live.Options{
					Broker: broker, OnAuth: byHeader, OnClose: func(_ *live.Session, err error) { ends <- err },
				})
				servers = append(servers, srv)
				anna = append(anna, dialAs(t, url, "anna"), dialAs(t, url, "anna"))
				others = append(others, dialAs(t, url, "ann"), dialAs(t, url, ""))
			}
			if err := servers[0].DisconnectUser("", "everyone"); err == nil {
				t.Error("nobody in particular was disconnected")
			}
			if err := servers[0].DisconnectUser("nobody", ""); err != nil {
				t.Error(err)
			}
			if err := servers[0].DisconnectUser("anna", "signed out"); err != nil {
				t.Fatal(err)
			}
			for _, c := range anna {
				if code, reason, _ := c.Closed(); code != live.CloseRevoked || reason != "signed out" {
					t.Errorf("closed with %d %q", code, reason)
				}
				if err := livetest.Receive(t, ends); !errors.Is(err, live.ErrDisconnected) {
					t.Error(err)
				}
			}
			for i, srv := range servers {
				srv.Broadcast(t.Context(), "nothing", nil)
				livetest.Eventually(t, "only the others are left", func() bool { return srv.Stats().Sessions == 2 })
				others[2*i].SendMessage("alive", 1)
			}
			for _, c := range others {
				c.Drop()
			}
			shut(t, servers[0])
			if err := servers[0].DisconnectUser("anna", ""); !errors.Is(err, live.ErrServerClosed) {
				t.Errorf("after Shutdown: %v", err)
			}
		})
	}
}

// OnAuth may have looked before the right was revoked.
func TestDisconnectUserEndsAHandshakeThatIsUnderWay(t *testing.T) {
	looked, goOn := make(chan bool), make(chan bool)
	srv, url := serve(t, live.Options{
		OnAuth: func(ctx context.Context, r *http.Request) (any, error) {
			looked <- true
			<-goOn
			return byHeader(ctx, r)
		},
	})
	dialed := make(chan *livetest.Client)
	go func() { dialed <- dialAs(t, url, "anna") }()
	<-looked
	if err := srv.DisconnectUser("anna", "revoked"); err != nil {
		t.Fatal(err)
	}
	goOn <- true
	if code, _, _ := (<-dialed).Closed(); code != live.CloseRevoked {
		t.Errorf("closed with %d", code)
	}
	go func() { dialed <- dialAs(t, url, "anna") }() // signed in anew
	<-looked
	goOn <- true
	c := <-dialed
	c.SendMessage("alive", 1)
	livetest.Eventually(t, "one session", func() bool { return srv.Stats().Sessions == 1 && srv.Stats().Received == 1 })
}

func TestDisconnectUserWithoutABusEndsTheSessionsHere(t *testing.T) {
	r := newRelay()
	srv, url := serve(t, live.Options{Broker: live.FromPubSub(r), OnAuth: byHeader})
	c := dialAs(t, url, "anna")
	r.set(true)
	if err := srv.DisconnectUser("anna", "revoked"); !errors.Is(err, errDown) {
		t.Errorf("the error is %v", err)
	}
	if code, _, _ := c.Closed(); code != live.CloseRevoked {
		t.Errorf("closed with %d", code)
	}
}

// A messaging system that is down at the start is asked again. Until then
// broadcasts reach this server.
func TestPubSubThatIsDownAtTheStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRelay()
		r.set(true)
		var ears [2]heard
		var servers [2]*live.Server
		for i := range servers {
			servers[i] = quietly(t, live.FromPubSub(r))
			servers[i].OnBroadcast("k", ears[i].take)
		}
		if err := servers[0].Broadcast(t.Context(), "k", []byte("1")); !errors.Is(err, errDown) {
			t.Errorf("the error is %v", err)
		}
		r.set(false)
		if err := servers[0].Broadcast(t.Context(), "k", []byte("2")); err != nil {
			t.Error(err)
		}
		time.Sleep(10 * time.Second)
		servers[0].Broadcast(t.Context(), "k", []byte("3"))
		if one, other := ears[0].with(""), ears[1].with(""); !slices.Equal(one, []string{"1", "2", "3"}) || !slices.Equal(other, []string{"3"}) {
			t.Errorf("the sender heard %q, the other %q", one, other)
		}
		for _, srv := range servers {
			shut(t, srv)
		}
		if n := r.count(); n != 0 {
			t.Errorf("%d subscriptions are left", n)
		}
	})
}

// Who could publish to the subject of broadcasts could end anybody's session.
func TestSubjectOfBroadcastsIsNoTopic(t *testing.T) {
	const subject = "__live.broadcast"
	r := newRelay()
	var log strings.Builder
	srv := live.New(live.Options{Broker: live.FromPubSub(r), Logger: slog.New(slog.NewTextHandler(&log, nil))})
	defer shut(t, srv)
	if err := srv.Publish(subject, []byte("1")); !errors.Is(err, live.ErrInvalidTopic) {
		t.Errorf("Publish: %v", err)
	}
	if _, err := srv.Listen(subject, func(live.Message) {}); !errors.Is(err, live.ErrInvalidTopic) {
		t.Errorf("Listen: %v", err)
	}
	srv.OnBroadcast("", func(data []byte) { t.Errorf("%q was taken for a broadcast", data) })
	for _, junk := range []string{"", "x", "a", "\xff", "a\x05x", "d\x00", "z\x00"} {
		r.Publish(subject, []byte(junk))
	}
	if !strings.Contains(log.String(), "unknown broadcast ignored") {
		t.Errorf("nobody was told: %s", log.String())
	}
}
