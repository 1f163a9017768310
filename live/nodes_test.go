package live_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
)

// nodeNamed returns a server on a relay, shut down with the test.
func nodeNamed(t *testing.T, name string, broker live.Broker) *live.Server {
	srv := live.New(live.Options{NodeName: name, Broker: broker, Logger: slog.New(slog.DiscardHandler)})
	t.Cleanup(func() { shut(t, srv) })
	return srv
}

// nodesOf has the names of a server's nodes, and how many topics each has. The server itself is
// marked with '*', and those that are draining with '!'.
func nodesOf(s *live.Server) string {
	var all []string
	for _, n := range s.Nodes() {
		text := fmt.Sprint(n.Name, " ", n.Stats.Topics)
		if n.Self {
			text += "*"
		}
		if n.Draining {
			text += "!"
		}
		all = append(all, text)
	}
	return strings.Join(all, ", ")
}

func expectNodes(t *testing.T, s *live.Server, want string) {
	t.Helper()
	if got := nodesOf(s); got != want {
		t.Errorf("the nodes are %q, want %q", got, want)
	}
}

func TestServersKnowEachOthersFigures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRelay()
		a := nodeNamed(t, "a", live.FromPubSub(r))
		b := nodeNamed(t, "b", live.FromPubSub(r))
		begun := time.Now()
		time.Sleep(2100 * time.Millisecond)
		expectNodes(t, a, "a 0*, b 0")
		expectNodes(t, b, "a 0, b 0*")
		for i := range 3 {
			if _, err := a.Listen(fmt.Sprint("topic ", i), func(live.Message) {}); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Minute)
		c := nodeNamed(t, "c", live.FromPubSub(r))
		time.Sleep(2100 * time.Millisecond)
		expectNodes(t, b, "a 3, b 0*, c 0")
		expectNodes(t, c, "a 3, b 0, c 0*")
		now := time.Now()
		for i, n := range c.Nodes() {
			if i < 2 && n.Since != begun || n.ID == "" || now.Sub(n.Heard) > 2*time.Second {
				t.Errorf("%+v at %v", n, now)
			}
		}
	})
}

// Nobody hears of the end of a server that is killed.
func TestSilentServerIsGoneWithinTenSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRelay()
		a := nodeNamed(t, "a", live.FromPubSub(r))
		nodeNamed(t, "b", live.FromPubSub(r))
		time.Sleep(3 * time.Second)
		r.set(true) // the servers are cut off from each other
		time.Sleep(6 * time.Second)
		expectNodes(t, a, "a 0*, b 0")
		time.Sleep(4 * time.Second)
		expectNodes(t, a, "a 0*")
		r.set(false)
		time.Sleep(2 * time.Second)
		expectNodes(t, a, "a 0*, b 0")
	})
}

func TestServerThatShutsDownLeavesTheNodes(t *testing.T) {
	inMemory(t, func(t *testing.T, serve func(live.Options) *live.Server, dial func() net.Conn) {
		r := newRelay()
		a := nodeNamed(t, "a", live.FromPubSub(r))
		goOn := make(chan bool)
		b := serve(live.Options{NodeName: "b", Broker: live.FromPubSub(r), OnClose: func(*live.Session, error) { <-goOn }})
		go swallow(dial()) // ends with the session
		time.Sleep(3 * time.Second)
		ended := make(chan error)
		go func() { ended <- b.Shutdown(context.Background()) }()
		time.Sleep(100 * time.Millisecond)
		expectNodes(t, a, "a 0*, b 0!")
		expectNodes(t, b, "a 0, b 0*!")
		goOn <- true
		if err := <-ended; err != nil {
			t.Error(err)
		}
		expectNodes(t, a, "a 0*") // at once
		time.Sleep(time.Minute)
		expectNodes(t, a, "a 0*")
	})
}

// The bus may double messages, and change their order. Anybody who may publish to it may send
// anything.
func TestLateAndBrokenBeatsChangeNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRelay()
		a := nodeNamed(t, "a", live.FromPubSub(r))
		synctest.Wait()
		say := func(id, beat string) {
			r.Publish("__live.broadcast", append([]byte{'n', byte(len(id))}, id+beat...))
		}
		say("x", `{"number":2,"name":"x","stats":{"Topics":2},"later":{"versions":["tell more"]}}`)
		expectNodes(t, a, "a 0*, x 2")
		say("x", `{"number":1,"name":"x","stats":{"Topics":1}}`)
		say("x", `{"number":3`)
		say("y", ``)
		say("y", `{"number":1,"name":"`+strings.Repeat("y", 20_000)+`"}`)
		say(strings.Repeat("z", 100), `{"number":1,"name":"z"}`)
		expectNodes(t, a, "a 0*, x 2")
		say("x", `{"number":4,"name":"x","gone":true}`)
		say("x", `{"number":3,"name":"x"}`)
		expectNodes(t, a, "a 0*")
		for _, age := range []string{"-9000000000000000000", "9000000000000000000"} {
			say("age", `{"number":1,"name":"old","age":`+age+`}`)
			since := a.Nodes()[1].Since
			if now := time.Now(); since.After(now) || since.Before(now.AddDate(-101, 0, 0)) {
				t.Errorf("a server of an age of %s ms was made at %v", age, since)
			}
			say("age", `{"number":2,"gone":true}`)
			time.Sleep(10 * time.Second)
		}
		for i := range 2000 {
			say(fmt.Sprint(i), `{"number":1,"name":"`+strings.Repeat("n", 1000)+`"}`)
		}
		all := a.Nodes()
		if len(all) > 1100 || len(all[1].Name) > 255 {
			t.Errorf("%d nodes, and a name of %d bytes", len(all), len(all[1].Name))
		}
		time.Sleep(10 * time.Second)
		expectNodes(t, a, "a 0*")
	})
}

func TestServerOfOneProcessIsItsOnlyNode(t *testing.T) {
	for _, name := range []string{"memory", "no Bus"} {
		synctest.Test(t, func(t *testing.T) {
			broker := systems[name]()[0]
			srv := live.New(live.Options{NodeName: "one", Broker: broker})
			expectNodes(t, srv, "one 0*")
			time.Sleep(time.Minute) // nothing runs, so the bubble ends without Shutdown
			expectNodes(t, srv, "one 0*")
		})
	}
	srv := live.New(live.Options{})
	if all := srv.Nodes(); len(all) != 1 || all[0].Name == "" || all[0].ID == "" || all[0].Since.IsZero() {
		t.Errorf("%+v", all)
	}
}

// A messaging system that hangs makes Shutdown wait for five seconds, and not for ever.
func TestShutdownDoesNotWaitForABusThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hung := &hangingRelay{relay: newRelay(), release: make(chan bool)}
		srv := live.New(live.Options{Broker: live.FromPubSub(hung)})
		time.Sleep(time.Second)
		begun := time.Now()
		srv.Shutdown(context.Background())
		if took := time.Since(begun); took > 6*time.Second {
			t.Errorf("Shutdown took %v", took)
		}
		close(hung.release)
	})
}

type hangingRelay struct {
	*relay
	release chan bool
}

func (r *hangingRelay) Publish(string, []byte) error {
	<-r.release
	return nil
}

// The figures of all servers together are those of the application.
func TestFiguresOfAllServersAddUp(t *testing.T) {
	t.Parallel()
	r := newRelay()
	var hosts []*livetest.Host
	for i := range 3 {
		opts := present(visible)
		opts.Broker = live.FromPubSub(r)
		hosts = append(hosts, livetest.Hosting{}.Start(t, opts))
		for j := range i + 1 {
			enter(t, hosts[i], fmt.Sprint("user ", i, j), "")
		}
	}
	for _, h := range hosts {
		livetest.Eventually(t, "all sessions are counted", func() bool {
			nodes, sessions, subscriptions := h.Nodes(), 0, 0
			for _, n := range nodes {
				sessions += n.Stats.Sessions
				subscriptions += n.Stats.Subscriptions
			}
			return len(nodes) == 3 && sessions == 6 && subscriptions == 6
		})
	}
}
