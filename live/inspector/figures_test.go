package inspector_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/inspector"
)

// figures is the answer to a look at the figures.
type figures struct {
	Now, Ticks                     int64
	Library, Program, Go, NotReady string
	Nodes                          []struct {
		ID, Name         string
		Self, Draining   bool
		Since, SilentFor int64
		Stats            live.Stats
	}
	Allow map[string]bool
}

func TestFiguresAreThoseOfAllServers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bus := new(pubSub)
		a := livetest.NewServer(t, live.Options{NodeName: "a", Broker: live.FromPubSub(bus), Logger: livetest.Quiet})
		b := livetest.NewServer(t, live.Options{NodeName: "b", Broker: live.FromPubSub(bus), Logger: livetest.Quiet})
		listen(t, b, "t")
		publish(t, b, "t", 7)
		time.Sleep(5 * time.Second)
		f := get[figures](open(t, a, everything), "figures")
		if len(f.Nodes) != 2 || f.Nodes[0].Name != "a" || !f.Nodes[0].Self || f.Nodes[1].Name != "b" || f.Nodes[1].Self {
			t.Fatalf("the servers are %+v", f.Nodes)
		}
		if f.Nodes[1].Stats.Published != 7 || f.Nodes[0].Stats.Published != 0 || f.Nodes[1].Stats.Topics != 1 {
			t.Errorf("the figures are %+v", f.Nodes)
		}
		for _, n := range f.Nodes {
			if up := f.Now - n.Since; up < 4900 || up > 5100 || n.SilentFor < 0 || n.SilentFor > 2100 {
				t.Errorf("%s is up for %d ms, and was heard %d ms ago", n.Name, up, n.SilentFor)
			}
		}
		time.Sleep(time.Second)
		if later := get[figures](open(t, a, everything), "figures"); later.Ticks-f.Ticks != 1000 {
			t.Errorf("in a second the ticks went from %d to %d", f.Ticks, later.Ticks)
		}
		if f.NotReady != "" || f.Library == "" || !strings.HasPrefix(f.Go, "go") {
			t.Errorf("the head is %+v", f)
		}
	})
}

func TestDrainingServerSaysSo(t *testing.T) {
	server := livetest.NewServer(t, live.Options{})
	p := open(t, server, everything)
	server.Shutdown(context.Background())
	if f := get[figures](p, "figures"); !f.Nodes[0].Draining || f.NotReady == "" {
		t.Errorf("after Shutdown: %+v", f)
	}
}

func TestPageKnowsWhatIsAllowed(t *testing.T) {
	server := livetest.NewServer(t, live.Options{})
	all := everything
	all.Drain = server.Shutdown
	for allowed, opts := range map[bool]inspector.Options{false: {Insecure: true}, true: all} {
		f := get[figures](open(t, server, opts), "figures")
		if len(f.Allow) != 5 {
			t.Errorf("%+v", f.Allow)
		}
		for what, is := range f.Allow {
			if is != allowed {
				t.Errorf("%s is allowed: %v, want %v", what, is, allowed)
			}
		}
	}
}
