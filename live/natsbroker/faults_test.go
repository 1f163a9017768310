package natsbroker

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/broker"
)

// chat is a stream for tests. It has space for all publications.
var chat = StreamConfig{Name: "CHAT", Subjects: []string{"chat.>"}}

const (
	room        = "chat.room"
	roomStored  = "live.s.chat.room"
	roomDeliver = "live.d.chat.room"
)

// A process that is killed loses nothing that it has acknowledged. Its clients continue at the
// next process from their positions.
func TestKilledProcessLosesNothingAcknowledged(t *testing.T) {
	const (
		env           = "NATSBROKER_TEST_KILLED"
		killedViewers = 4
	)
	if isChild(t) {
		b := open(t, Options{StoreDir: os.Getenv(env), Streams: []StreamConfig{chat}})
		in := runInstance(t, 0, b, nil)
		fmt.Println("ready")
		fmt.Println(in.url())
		waitFor(t, "the parent's viewers", func() bool { return in.server.Stats().Subscriptions == killedViewers })
		for i := range 8 {
			p := &press{topic: room, name: fmt.Sprint(i)}
			go func() { // ends with the process
				for {
					if p.publish(in) == nil {
						fmt.Println(p.acked[len(p.acked)-1])
					}
				}
			}()
		}
		awaitParent()
		return
	}
	dir := t.TempDir()
	c := startChild(t, env+"="+dir)
	line := func() string {
		s, err := c.out.ReadString('\n')
		if err != nil {
			return ""
		}
		return strings.TrimSuffix(s, "\n")
	}
	url := line()
	viewers := make([]*viewer, killedViewers)
	for i := range viewers {
		viewers[i] = &viewer{topic: room, name: fmt.Sprint("viewer ", i)}
		if err := viewers[i].connect(t.Context(), 0, url); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(viewers[i].hangUp)
	}
	var acked []string
	for len(acked) < 500 {
		acked = append(acked, line())
	}
	if err := c.Process.Kill(); err != nil { // like kill -9
		t.Fatal(err)
	}
	for s := line(); s != ""; s = line() { // it has printed these before
		acked = append(acked, s)
	}
	c.Wait()
	for _, v := range viewers {
		<-v.ended
	}

	in := runInstance(t, 1, open(t, Options{StoreDir: dir, Streams: []StreamConfig{chat}}), nil)
	after := &press{topic: room, name: "after"}
	after.publish(in)
	all := contents(t, in.broker.server, "CHAT", roomStored)
	have := make(map[string]bool)
	for _, s := range all {
		if have[s.data] {
			t.Errorf("%v is stored twice", s)
		}
		have[s.data] = true
	}
	for _, data := range append(acked, after.acked...) {
		if !have[data] {
			t.Errorf("%s was acknowledged, and is not stored", data)
		}
	}
	for _, v := range viewers {
		before := epochOf(v.position())
		v.mustConnect(t, in)
		v.awaitLast(t, all)
		v.verifyWhole(t, all)
		if now := epochOf(v.position()); now != before {
			t.Errorf("%s: the epoch was %s and is %s", v.name, before, now)
		}
	}
}

// Streams in memory end with the process, and clients are told of a gap.
func TestMemoryStreamBeginsAnew(t *testing.T) {
	t.Parallel()
	in := runInstance(t, 0, open(t, Options{Streams: []StreamConfig{chat}}), nil)
	p := &press{topic: room, name: "p"}
	for range 3 {
		p.publish(in)
	}
	v := view(t, room, in)
	p.publish(in)
	v.awaitLast(t, contents(t, in.broker.server, "CHAT", roomStored))
	before := v.position()
	in.stop()
	<-v.ended

	in = runInstance(t, 1, open(t, Options{Streams: []StreamConfig{chat}}), nil)
	again := &press{topic: room, name: "again"}
	for range 10 { // more than the viewer's position
		again.publish(in)
	}
	v.mustConnect(t, in)
	again.publish(in)
	all := contents(t, in.broker.server, "CHAT", roomStored)
	v.awaitLast(t, all)
	if now := epochOf(v.position()); now == epochOf(before) {
		t.Errorf("the epoch is %s, as before", now)
	}
	v.start = 0
	v.told = v.told[1:] // without what it was told before
	v.verify(t, all)
	if v.gaps() != 1 {
		t.Errorf("was told %v, want one gap", v.told)
	}
	verifyStored(t, all, again)
}

// Somebody deletes the stream, and makes another stream of the same name.
func TestStreamMadeAnewIsAGap(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		others  int // publications of other topics that come first in the new stream
		replace int // publications in the new stream before the broker notices it
		known   bool
	}{
		{"and nothing published", 0, 0, true},
		{"and less published", 0, 3, true},
		{"and as much published", 0, 10, true},
		{"and more published", 0, 25, true},
		{"and published after others", 10, 1, true},
		{"and published after more others", 15, 5, true},
		{"by nobody", 0, 0, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			in := runInstance(t, 0, open(t, Options{Streams: []StreamConfig{chat}}), nil)
			p := &press{topic: room, name: "old"}
			v := view(t, room, in)
			for range 10 {
				p.publish(in)
			}
			old := contents(t, in.broker.server, "CHAT", roomStored)
			v.awaitLast(t, old)
			v.verifyWhole(t, old)
			before := v.position()

			js := streamsOf(t, in.broker.server)
			s, err := js.Stream(t.Context(), "CHAT")
			if err != nil {
				t.Fatal(err)
			}
			if err := js.DeleteStream(t.Context(), "CHAT"); err != nil {
				t.Fatal(err)
			}
			if test.known {
				if _, err := js.CreateStream(t.Context(), s.CachedInfo().Config); err != nil {
					t.Fatal(err)
				}
			}
			foreign := func(subject string, n int) {
				for i := range n {
					if _, err := js.Publish(t.Context(), subject, fmt.Appendf(nil, `"new.%d"`, i)); err != nil {
						t.Fatal(err)
					}
				}
			}
			foreign("live.s.chat.other", test.others)
			foreign(roomStored, test.replace)
			if err := p.publish(in); err != nil {
				t.Fatalf("publish to the stream that was made anew: %v", err)
			}
			waitFor(t, "a gap", func() bool { return v.gaps() > 0 && epochOf(v.position()) != epochOf(before) })
			p.publish(in)
			all := contents(t, in.broker.server, "CHAT", roomStored)
			v.awaitLast(t, all)

			// Before the gap all publications are of the old stream. After it they must be all
			// publications of the new stream, or all after a position that was told.
			// all of the new one, or after a position that was told.
			v.mu.Lock()
			for i, e := range v.told {
				if e.gap && epochOf(e.at) != epochOf(before) {
					v.told = v.told[i:]
					break
				}
			}
			v.start = 0
			v.mu.Unlock()
			v.verify(t, all)
			if v.told[0].node != 0 || v.countLines() != 1 {
				t.Errorf("the viewer had %d lines", v.countLines())
			}
			// The new stream now works like any other.
			v.hangUp()
			p.publish(in)
			v.mustConnect(t, in)
			all = contents(t, in.broker.server, "CHAT", roomStored)
			v.awaitLast(t, all)
			v.verify(t, all)
		})
	}
}

// The connection between the broker and its server breaks again and again.
func TestBrokenConnectionLosesNothing(t *testing.T) {
	t.Parallel()
	in := runInstance(t, 0, open(t, Options{Streams: []StreamConfig{chat}}), nil)
	viewers := make([]*viewer, 3)
	for i := range viewers {
		viewers[i] = view(t, room, in)
	}
	presses := make([]*press, 4)
	var publishing sync.WaitGroup
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	for i := range presses {
		presses[i] = &press{topic: room, name: fmt.Sprint(i)}
		publishing.Go(func() { presses[i].run(ctx, 2*time.Millisecond, func() *instance { return in }) })
	}
	for kick := range 5 {
		reached := presses[0].count() + 25
		waitFor(t, "publications after a kick", func() bool { return presses[0].count() >= reached })
		id, err := in.broker.NATSConn().GetClientID()
		if err != nil {
			t.Fatal(err)
		}
		if err := in.broker.server.srv.DisconnectClientByID(id); err != nil {
			t.Fatal(err)
		}
		waitFor(t, "another connection", func() bool { return in.broker.NATSConn().Stats().Reconnects > uint64(kick) })
	}
	stop()
	publishing.Wait()
	all := contents(t, in.broker.server, "CHAT", roomStored)
	verifyStored(t, all, presses...)
	for _, p := range presses {
		if len(p.acked) != len(p.tried) {
			t.Errorf("press %s: %d of %d publications were acknowledged", p.name, len(p.acked), len(p.tried))
		}
	}
	for _, v := range viewers {
		v.awaitLast(t, all)
		v.verifyWhole(t, all)
		if v.countLines() != 1 {
			t.Errorf("%s had %d lines", v.name, v.countLines())
		}
	}
}

// An answer with less than was known may come from a former leader. It is believed if it lasts,
// since the newest publication may have been deleted.
func TestStepBackIsNotBelievedAtOnce(t *testing.T) {
	t.Parallel()
	b := open(t, Options{Streams: []StreamConfig{chat}})
	b.Start(devNull{})
	if err := b.Subscribe(t.Context(), room); err != nil {
		t.Fatal(err)
	}
	var ends []uint64
	for range 2 {
		at, err := b.Publish(t.Context(), room, []byte("1"), broker.PublishOptions{})
		if err != nil {
			t.Fatal(err)
		}
		ends = append(ends, at.Offset)
	}
	if at, err := b.Last(t.Context(), room); err != nil || at.Offset != ends[1] {
		t.Fatalf("the newest position is %v, %v; want %d", at, err, ends[1])
	}
	s, err := streamsOf(t, b.server).Stream(t.Context(), "CHAT")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.DeleteMsg(t.Context(), ends[1]); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if at, err := b.Last(t.Context(), room); !errors.Is(err, live.ErrUnavailable) {
		t.Errorf("a step back is believed at once: %v, %v", at, err)
	}
	waitFor(t, "a step back to be believed", func() bool {
		at, err := b.Last(t.Context(), room)
		return err == nil && at.Offset == ends[0]
	})
	if d := time.Since(began); d < leaseTime {
		t.Errorf("a step back was believed after %v", d)
	}
}

// gate is a broker that holds back its deliveries while it is shut.
type gate struct {
	*Broker
	shut sync.RWMutex // write-locked while the gate is shut
}

func (g *gate) Start(s broker.Sink) { g.Broker.Start(gateSink{s.(serverSink), g}) }

// serverSink is all that a live.Server gives to a broker.
type serverSink interface {
	broker.Sink
	broker.Rules
}

type gateSink struct {
	serverSink
	gate *gate
}

func (s gateSink) Deliver(p *broker.Publication) {
	s.gate.shut.RLock()
	defer s.gate.shut.RUnlock()
	s.serverSink.Deliver(p)
}

// startServer starts a NATS server with a port, as if it ran elsewhere.
func startServer(t testing.TB) *server.Server {
	t.Helper()
	return runServer(t, func(*server.Options) {})
}

// Shutdown returns in time in every state of NATS, and leaves no goroutine behind.
func TestShutdownNeverHangs(t *testing.T) {
	for _, test := range []struct {
		name  string
		lost  bool // NATS or its majority has gone when Shutdown is called
		start func(t *testing.T) (o Options, before func())
	}{
		{"in memory", false, func(t *testing.T) (Options, func()) { return Options{}, nil }},
		{"on disk", false, func(t *testing.T) (Options, func()) { return Options{StoreDir: t.TempDir()}, nil }},
		{"elsewhere", false, func(t *testing.T) (Options, func()) {
			return Options{Servers: []string{startServer(t).ClientURL()}}, nil
		}},
		{"elsewhere, which has died", true, func(t *testing.T) (Options, func()) {
			s := startServer(t)
			return Options{Servers: []string{s.ClientURL()}}, func() { s.Shutdown(); s.WaitForShutdown() }
		}},
		{"elsewhere, which says nothing", true, func(t *testing.T) (Options, func()) {
			l := newLink(t, startServer(t).Addr().String())
			return Options{Servers: []string{"nats://" + l.addr()}}, func() { l.set(linkBlackhole) }
		}},
		{"one node of three", false, func(t *testing.T) (Options, func()) {
			m := newMesh(t)
			m.start(1, 2)
			return m.options(0), nil
		}},
		{"one node of three, alone", true, func(t *testing.T) (Options, func()) {
			m := newMesh(t)
			m.start(1, 2)
			return m.options(0), func() { m.kill(1); m.kill(2) }
		}},
		{"one node of three, cut off", true, func(t *testing.T) (Options, func()) {
			m := newMesh(t)
			m.start(1, 2)
			return m.options(0), func() { m.isolate(0, linkBlackhole) }
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			http.DefaultClient.CloseIdleConnections()
			settled := settledGoroutines()
			t.Run("run", func(t *testing.T) {
				o, before := test.start(t)
				o.Streams = []StreamConfig{chat}
				in := runInstance(t, 0, open(t, o), nil)
				for range 3 {
					view(t, room, in)
					view(t, "plain", in)
				}
				p := &press{topic: room, name: "p"}
				if err := p.publish(in); err != nil {
					t.Fatal(err)
				}
				if before != nil {
					before()
				}
				var waiting sync.WaitGroup
				if test.lost {
					waiting.Go(func() {
						if err := p.publish(in); err == nil {
							t.Error("a publication was acknowledged by nobody")
						}
					})
				}
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				began := time.Now()
				if err := in.server.Shutdown(ctx); err != nil {
					t.Errorf("Shutdown: %v", err)
				}
				t.Logf("down in %v", time.Since(began))
				waiting.Wait()
				if d := time.Since(began); d > 8*time.Second {
					t.Errorf("it took %v", d)
				}
				if err := p.publish(in); !errors.Is(err, live.ErrServerClosed) {
					t.Errorf("publish after Shutdown: %v", err)
				}
			})
			http.DefaultClient.CloseIdleConnections()
			waitFor(t, fmt.Sprintf("%d goroutines as before", settled), func() bool { return runtime.NumGoroutine() <= settled })
		})
	}
}

// settledGoroutines counts goroutines after those that are ending have ended.
func settledGoroutines() int {
	settled := runtime.NumGoroutine()
	for quiet := 0; quiet < 20; quiet++ {
		time.Sleep(5 * time.Millisecond)
		if n := runtime.NumGoroutine(); n < settled {
			settled, quiet = n, 0
		}
	}
	return settled
}
