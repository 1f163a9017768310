package natsbroker

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/broker"
)

// fault happens to a cluster under live servers. No other fault uses its topic.
type fault struct {
	name string
	do   func(t *testing.T, f *fleet, topic string)
}

func TestNodesDie(t *testing.T) {
	t.Parallel()
	suffer(t, []fault{
		{"client at another node", clientMoves},
		{"leader", leaderDies},
		{"all", allDie},
	})
}

func TestNodesAreCutOff(t *testing.T) {
	t.Parallel()
	suffer(t, []fault{
		{"for a moment", blip},
		{"follower out of reach", func(t *testing.T, f *fleet, topic string) { cutOff(t, f, topic, linkBlackhole, false) }},
		{"leader", func(t *testing.T, f *fleet, topic string) { cutOff(t, f, topic, linkCut, true) }},
	})
}

// suffer lets faults happen one after another to the same three nodes. An election takes four
// to nine seconds.
func suffer(t *testing.T, faults []fault) {
	f := newFleet(t, chat)
	f.bootAll()
	for i, fault := range faults {
		t.Run(fault.name, func(t *testing.T) {
			f.t = t
			f.awaitReady()
			f.awaitLeader("CHAT")
			began := time.Now()
			fault.do(t, f, fmt.Sprint("chat.", i))
			t.Logf("%v", time.Since(began))
		})
		f.t = t
		if t.Failed() {
			return // the other faults would only wait in vain
		}
	}
}

// contents reads the stored publications of a topic from a node that runs.
func (f *fleet) contents(topic string) []stored {
	f.t.Helper()
	for i := range f.instances {
		if in := f.at(i); in != nil {
			return contents(f.t, in.broker.server, "CHAT", "live.s."+topic)
		}
	}
	f.t.Fatal("no node runs")
	return nil
}

// crowd is the viewers and presses of one topic on all nodes.
type crowd struct {
	fleet   *fleet
	viewers [meshSize][]*viewer
	presses [meshSize]*press
	idle    [meshSize]atomic.Bool // the press of that node pauses
	stop    func()                // stops the presses, and waits for them
}

// gather has two viewers at each node, and one press at each node that publishes every few
// milliseconds. Two of the presses repeat what was not acknowledged, at any node.
func gather(f *fleet, topic string) *crowd {
	f.t.Helper()
	c := &crowd{fleet: f}
	ctx, cancel := context.WithCancel(context.Background())
	var publishing sync.WaitGroup
	for i := range c.presses {
		c.viewers[i] = []*viewer{view(f.t, topic, f.at(i)), view(f.t, topic, f.at(i))}
		c.presses[i] = &press{topic: topic, name: fmt.Sprint(i), repeats: i > 0}
	}
	for i, p := range c.presses {
		publishing.Go(func() {
			p.run(ctx, 10*time.Millisecond, func() *instance {
				switch {
				case c.idle[i].Load():
					return nil
				case p.isUnsure():
					return f.at(rand.IntN(meshSize))
				}
				return f.at(i)
			})
		})
	}
	c.stop = func() {
		cancel()
		publishing.Wait()
	}
	f.t.Cleanup(c.stop)
	return c
}

// awaitProgress waits until n more publications of each of the nodes are acknowledged.
func (c *crowd) awaitProgress(n int, nodes ...int) {
	c.fleet.t.Helper()
	for _, i := range nodes {
		want := c.presses[i].count() + n
		waitFor(c.fleet.t, fmt.Sprintf("%d more acknowledgements at node %d", n, i), func() bool { return c.presses[i].count() >= want })
	}
}

// verify checks the stored publications, and that each connected viewer has received them to
// the end without a gap.
func (c *crowd) verify() []stored {
	t := c.fleet.t
	t.Helper()
	all := c.fleet.contents(c.presses[0].topic)
	verifyStored(t, all, c.presses[:]...)
	for i := range c.viewers {
		for _, v := range c.viewers[i] {
			v.awaitLast(t, all)
			v.verifyWhole(t, all)
		}
	}
	return all
}

func others(i int) (a, b int) { return (i + 1) % meshSize, (i + 2) % meshSize }

func leaderDies(t *testing.T, f *fleet, topic string) {
	c := gather(f, topic)
	c.awaitProgress(20, 0, 1, 2)
	leader := f.awaitLeader("CHAT")
	a, b := others(leader)
	began := time.Now()
	f.crash(leader)
	c.awaitProgress(20, a, b)
	t.Logf("acknowledgements again after %v", time.Since(began))
	for _, v := range c.viewers[leader] { // they go to a node that still runs
		<-v.ended
		v.mustConnect(t, f.at(a))
	}
	c.awaitProgress(20, a, b)
	c.stop()
	all := c.verify()
	for _, i := range []int{a, b} {
		for _, p := range c.presses[i : i+1] {
			if len(p.acked) != len(p.tried) {
				t.Logf("node %d: %d of %d publications were acknowledged", i, len(p.acked), len(p.tried))
			}
		}
		for _, v := range c.viewers[i] {
			if n := v.countLines(); n != 1 {
				t.Errorf("%s had %d lines", v.name, n)
			}
		}
	}
	back := f.revive(leader)
	for _, v := range c.viewers[a] {
		v.hangUp()
		waitFor(t, "the node that came back to take a client", func() bool { return v.connect(t.Context(), leader, back.url()) == nil })
		v.awaitLast(t, all)
		v.verifyWhole(t, all)
	}
}

// cutOff isolates the leader of the stream, or another node, until the others have recovered.
func cutOff(t *testing.T, f *fleet, topic string, how linkState, leads bool) {
	c := gather(f, topic)
	c.awaitProgress(20, 0, 1, 2)
	alone := f.awaitLeader("CHAT")
	if !leads {
		alone, _ = others(alone)
	}
	a, b := others(alone)
	c.idle[alone].Store(true)
	f.isolate(alone, how)
	began := time.Now()
	c.awaitProgress(50, a, b)
	t.Logf("the others went on after %v", time.Since(began))
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := f.at(alone).broker.Publish(ctx, topic, []byte(`"alone"`), broker.PublishOptions{}); err == nil {
		t.Error("a publication was acknowledged to a node that is cut off")
	}
	asking, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	// A leader that is cut off takes itself for the leader for many seconds.
	if at, err := f.at(alone).broker.Last(asking, topic); err == nil {
		t.Errorf("a node that is cut off says that the newest position is %v", at)
	}
	f.awaitRoutes(alone, 0)
	for i := range c.idle {
		c.idle[i].Store(true) // a later publication would reveal the missing ones
	}
	seen := f.contentsAt(a, topic)
	f.heal(alone)
	began = time.Now()
	for _, v := range c.viewers[alone] {
		v.awaitLast(t, seen)
	}
	t.Logf("what came meanwhile was there after %v", time.Since(began))
	if d := time.Since(began); d > 20*time.Second {
		t.Errorf("what came meanwhile was there after %v", d)
	}
	for i := range c.idle {
		c.idle[i].Store(false)
	}
	c.awaitProgress(20, 0, 1, 2)
	c.stop()
	c.presses[alone].mu.Lock()
	c.presses[alone].tried = append(c.presses[alone].tried, `"alone"`) // it may be stored later
	c.presses[alone].mu.Unlock()
	c.verify()
	for i := range c.viewers {
		for _, v := range c.viewers[i] {
			if n := v.countLines(); n != 1 {
				t.Errorf("%s had %d lines", v.name, n)
			}
		}
	}
}

func (f *fleet) contentsAt(i int, topic string) []stored {
	f.t.Helper()
	return contents(f.t, f.at(i).broker.server, "CHAT", "live.s."+topic)
}

// blip cuts a node off while one publication is made. No later publication reveals that it is
// missing.
func blip(t *testing.T, f *fleet, topic string) {
	p := &press{topic: topic, name: "p"}
	alone, _ := others(f.awaitLeader("CHAT"))
	a, _ := others(alone)
	v := view(t, topic, f.at(alone))
	f.at(alone).awaitSettled(t)
	f.isolate(alone, linkCut)
	if err := p.publish(f.at(a)); err != nil {
		t.Fatal(err)
	}
	f.heal(alone)
	began := time.Now()
	all := f.contentsAt(a, topic)
	v.awaitLast(t, all)
	if d := time.Since(began); d > 10*time.Second {
		t.Errorf("the last publication came after %v", d)
	}
	v.verifyWhole(t, all)
}

// clientMoves has clients resume at another node than the one they left.
func clientMoves(t *testing.T, f *fleet, topic string) {
	p := &press{topic: topic, name: "p"}
	leader := f.awaitLeader("CHAT")
	a, b := others(leader)
	publish := func(n int) []stored {
		t.Helper()
		for range n {
			if err := p.publish(f.at(leader)); err != nil {
				t.Fatal(err)
			}
		}
		return f.contentsAt(leader, topic)
	}
	move := func(v *viewer, to int, all []stored) {
		t.Helper()
		v.mustConnect(t, f.at(to))
		v.awaitLast(t, all)
		v.verifyWhole(t, all)
	}

	v := view(t, topic, f.at(leader))
	v.awaitLast(t, publish(10))
	v.hangUp()
	move(v, a, publish(10)) // to a node that does not know the topic
	v.hangUp()
	far := view(t, topic, f.at(a)) // so that this node keeps the topic
	move(v, a, publish(300))       // more than a node has in memory
	v.hangUp()
	far.awaitLast(t, publish(100))
	move(v, b, publish(300))

	// The client has more than the node to which it comes.
	v.hangUp()
	move(v, leader, publish(1))
	at := view(t, topic, f.at(b))
	f.isolate(b, linkBlackhole) // so briefly that no node notices
	all := publish(20)
	v.awaitLast(t, all)
	v.hangUp()
	if offsetOf(at.position()) >= offsetOf(v.position()) {
		t.Fatal("the node is not behind")
	}
	sessions := f.at(b).server.Stats().Sessions
	arrived := make(chan error, 1)
	go func() { arrived <- v.connect(t.Context(), b, f.at(b).url()) }() // ends within connect's time
	waitFor(t, "the client at the node that is behind", func() bool { return f.at(b).server.Stats().Sessions > sessions })
	f.heal(b)
	if err := <-arrived; err != nil {
		t.Fatal(err)
	}
	all = publish(10)
	for _, v := range []*viewer{v, at, far} {
		v.awaitLast(t, all)
		v.verifyWhole(t, all)
	}
	verifyStored(t, all, p)
}

// allDie stops all nodes at once. Then one node comes back, which is not a majority, and then
// another.
func allDie(t *testing.T, f *fleet, topic string) {
	c := gather(f, topic)
	c.awaitProgress(20, 0, 1, 2)
	c.stop()
	all := c.verify()
	for i := range f.instances {
		f.crash(i)
	}

	const publishTimeout = 2 * time.Second
	f.heal(0)
	in := f.boot(0, func(o *Options) { o.PublishTimeout = publishTimeout })
	var alone sync.WaitGroup
	alone.Go(func() {
		began := time.Now()
		err := c.presses[0].publish(in)
		if d := time.Since(began); !errors.Is(err, live.ErrUnavailable) || d > publishTimeout+time.Second {
			t.Errorf("publishing without a majority: %v after %v", err, d)
		}
	})
	early := c.viewers[0][0]
	alone.Go(func() {
		began := time.Now()
		err := early.connect(t.Context(), 0, in.url())
		if d := time.Since(began); !errors.Is(err, errRefused) || d > 8*time.Second {
			t.Errorf("subscribing without a majority: %v after %v", err, d)
		}
	})
	plain := view(t, "plain", in)
	for i := range 10 {
		if err := in.server.Publish("plain", fmt.Append(nil, i)); err != nil {
			t.Error(err)
		}
	}
	waitFor(t, "topics without history", func() bool { return len(plain.data()) == 10 })
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := in.broker.Ready(ctx); !errors.Is(err, live.ErrUnavailable) {
		t.Errorf("Ready without a majority: %v", err)
	}
	alone.Wait()
	if t.Failed() {
		return
	}

	began := time.Now()
	f.revive(1)
	waitFor(t, "two nodes to be enough", func() bool { return c.presses[0].publish(in) == nil })
	t.Logf("a majority after %v", time.Since(began))
	for i := range c.viewers {
		for _, v := range c.viewers[i] {
			waitFor(t, "a subscription", func() bool { return v.connect(t.Context(), i%2, f.at(i%2).url()) == nil })
		}
	}
	if err := c.presses[0].publish(in); err != nil {
		t.Error(err)
	}
	if after := c.verify(); len(after) < len(all)+2 {
		t.Errorf("%d publications are stored, and there were %d before", len(after), len(all))
	}
	f.revive(2)
	f.awaitReady()
}
