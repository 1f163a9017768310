package natsbroker

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/livetopic/livetopic/live"
)

var (
	stormClients = flag.Int("storm.clients", 300, "clients of TestStorm")
	stormRounds  = flag.Int("storm.rounds", 1, "how often TestStorm goes through all faults")
	stormSeed    = flag.Uint64("storm.seed", 0, "of TestStorm; 0: a random one")
)

// stormCrowd is the number of clients of each topic.
const stormCrowd = 30

// storm is three instances of an application and many clients. A press publishes at each
// instance, while nodes die and connections break.
type storm struct {
	*fleet
	rand    *rand.Rand
	topics  []string
	presses [meshSize][]*press // one for each topic
	viewers []*viewer
}

// Three instances of an application act as one. Nodes die and connections break. Each client
// still gets each acknowledged message once and in the order of the stream, or is told of a gap
// in its place.
func TestStorm(t *testing.T) {
	t.Parallel()
	s := &storm{fleet: newFleet(t, chat), rand: seedFor(t, *stormSeed)}
	s.serving = []func(*live.Options){func(o *live.Options) { o.QueueSize = 0 }} // the default
	s.bootAll()
	s.awaitLeader("CHAT")
	for i := range (*stormClients + stormCrowd - 1) / stormCrowd {
		s.topics = append(s.topics, fmt.Sprint("chat.", i))
	}
	endPublishing := s.publish()
	s.awaitProgress(10, 0, 1, 2)
	s.connect()
	for range *stormRounds {
		s.rage()
	}
	s.awaitReady()
	s.awaitProgress(30, 0, 1, 2)
	endPublishing()

	published, gaps, lines := 0, 0, 0
	for i, topic := range s.topics {
		all := s.contents(topic)
		published += len(all)
		verifyStored(t, all, s.presses[0][i], s.presses[1][i], s.presses[2][i])
		for _, v := range s.viewers[i*stormCrowd : min((i+1)*stormCrowd, len(s.viewers))] {
			v.awaitLast(t, all)
			v.verify(t, all)
			gaps += v.gaps()
			lines += v.countLines()
		}
		if t.Failed() {
			break // the other clients would say the same
		}
	}
	t.Logf("%d publications, %d clients on %d lines, %d gaps", published, len(s.viewers), lines, gaps)
	if lines < len(s.viewers)*2 && !t.Failed() {
		t.Errorf("%d clients had only %d lines: that was no storm", len(s.viewers), lines)
	}
}

// connect connects each client to some node, and reconnects it when the connection breaks.
func (s *storm) connect() {
	ctx, cancel := context.WithCancel(context.Background())
	var following sync.WaitGroup
	s.t.Cleanup(func() {
		cancel()
		following.Wait()
	})
	for i := range *stormClients {
		v := &viewer{topic: s.topics[i/stormCrowd], name: fmt.Sprint("client ", i)}
		s.viewers = append(s.viewers, v)
		choices := rand.New(rand.NewPCG(s.rand.Uint64(), 0))
		following.Go(func() {
			v.follow(ctx, func() (int, string) {
				node := choices.IntN(meshSize)
				if in := s.at(node); in != nil {
					return node, in.url()
				}
				return node, ""
			})
		})
	}
	for _, v := range s.viewers {
		waitFor(s.t, v.name+" to be connected", func() bool { return v.position() != "" })
	}
}

// publish publishes to all topics at all nodes, until end is called.
func (s *storm) publish() (end func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var publishing sync.WaitGroup
	for i := range s.presses {
		for _, topic := range s.topics {
			s.presses[i] = append(s.presses[i], &press{topic: topic, name: fmt.Sprint(i)})
		}
		publishing.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				if in := s.at(i); in != nil {
					s.presses[i][n%len(s.topics)].publish(in)
				}
				sleep(ctx, 8*time.Millisecond)
			}
		})
	}
	end = func() {
		cancel()
		publishing.Wait()
	}
	s.t.Cleanup(end)
	return end
}

func (s *storm) count(node int) (n int) {
	for _, p := range s.presses[node] {
		n += p.count()
	}
	return n
}

// awaitProgress waits until n more publications of each of the nodes are acknowledged.
func (s *storm) awaitProgress(n int, nodes ...int) {
	s.t.Helper()
	for _, i := range nodes {
		want := s.count(i) + n
		waitFor(s.t, fmt.Sprintf("%d more acknowledgements at node %d", n, i), func() bool { return s.count(i) >= want })
	}
}

// rage makes every fault happen once, in random order, to random nodes.
func (s *storm) rage() {
	faults := []struct {
		name string
		do   func()
	}{
		{"leader dies", func() { s.die(s.awaitLeader("CHAT")) }},
		{"follower dies", func() { s.die(s.follower()) }},
		{"follower cut off", func() { s.cut(s.follower(), linkCut) }},
		{"line stalls", func() { s.cut(s.follower(), linkBlackhole) }},
		{"instance restarts", func() { s.renew(s.rand.IntN(meshSize)) }},
		{"clients lose their lines", s.hangUp},
		{"connection to NATS breaks", func() { s.kick(s.rand.IntN(meshSize)) }},
	}
	s.rand.Shuffle(len(faults), func(i, j int) { faults[i], faults[j] = faults[j], faults[i] })
	for _, f := range faults {
		began := time.Now()
		f.do()
		s.awaitReady()
		s.awaitProgress(10, 0, 1, 2)
		s.t.Logf("%s: %v", f.name, time.Since(began))
	}
}

// follower returns a node that does not lead the stream.
func (s *storm) follower() int {
	a, b := others(s.awaitLeader("CHAT"))
	return []int{a, b}[s.rand.IntN(2)]
}

func (s *storm) die(i int) {
	a, b := others(i)
	s.crash(i)
	s.awaitProgress(10, a, b)
	s.revive(i)
}

func (s *storm) cut(i int, how linkState) {
	a, b := others(i)
	s.isolate(i, how)
	s.awaitProgress(20, a, b)
	s.heal(i)
}

// renew ends an instance in order, as for a new version, and starts it again.
func (s *storm) renew(i int) {
	in := s.at(i)
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	s.mu.Lock()
	s.instances[i] = nil
	s.mu.Unlock()
	if err := in.server.Shutdown(ctx); err != nil && ctx.Err() == nil {
		s.t.Errorf("node %d: %v", i, err)
	}
	in.stop()
	s.nodes[i] = nil
	s.boot(i)
}

// hangUp breaks all connections of clients, one node after another.
func (s *storm) hangUp() {
	for i := range s.instances {
		s.at(i).lines.reset()
		s.awaitProgress(3, i)
	}
}

// kick breaks the connection between a broker and its server.
func (s *storm) kick(i int) {
	in := s.at(i)
	id, err := in.broker.NATSConn().GetClientID()
	if err != nil {
		s.t.Error(err)
		return
	}
	if err := in.broker.server.srv.DisconnectClientByID(id); err != nil {
		s.t.Error(err)
	}
}
