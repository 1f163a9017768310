package natsbroker

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/livetopic/livetopic/live"
)

// A server pauses until a lane overflows. It then gets the lost publications from the stream,
// even if no further publication comes.
func TestOverflowedLanesLoseNothing(t *testing.T) {
	t.Parallel()
	const size, surplus = 64, 150
	b := open(t, Options{Streams: []StreamConfig{chat}})
	for i := range b.hub.lanes {
		b.hub.lanes[i].messages = make(chan *nats.Msg, size)
	}
	var g *gate
	in := runInstance(t, 0, b, func(b *Broker) live.Broker {
		g = &gate{Broker: b}
		return g
	})
	v := view(t, room, in)
	p := &press{topic: room, name: "p"}
	for round := range 3 {
		g.shut.Lock()
		for range size {
			p.publish(in)
		}
		// NATS reports the overflow once, at its beginning. The repair after that ends before
		// the last publication is lost.
		for i := range surplus {
			p.publish(in)
			if i == surplus/2 {
				at := uint64(0)
				waitFor(t, "a repair while deliveries wait", func() bool {
					v.mu.Lock()
					defer v.mu.Unlock()
					if v.at != "" {
						at = offsetOf(v.at)
					}
					return at > uint64(round*(size+surplus)+size)
				})
			}
		}
		g.shut.Unlock()
		all := contents(t, b.server, "CHAT", roomStored)
		began := time.Now()
		v.awaitLast(t, all)
		t.Logf("round %d: %v", round, time.Since(began))
		if d := time.Since(began); d > 10*time.Second {
			t.Errorf("round %d: what was lost came after %v", round, d)
		}
		v.verifyWhole(t, all)
	}
}

// Other programs may write anything to NATS. What is not a publication reaches no client, and
// other publications still arrive.
func TestForeignPublicationsBreakNothing(t *testing.T) {
	t.Parallel()
	in := runInstance(t, 0, open(t, Options{Streams: []StreamConfig{chat}}), nil)
	nc := connectTo(t, in.broker.server)
	js := streamsOf(t, in.broker.server)
	stored, plain := view(t, room, in), view(t, "plain.room", in)
	others := []*viewer{
		view(t, ">", in), view(t, "*", in), view(t, "plain.*", in), view(t, "plain.>", in), view(t, "chat.*", in), view(t, "chat.>", in),
		view(t, "plain", in), view(t, "plain:room", in), view(t, "plain.room.", in),
	}
	p := &press{topic: room, name: "p"}
	garbage := [][]byte{nil, []byte("x"), []byte("{"), []byte(`{"a":1}}`), []byte("\xff\xfe"), {0}, []byte(`"` + strings.Repeat("x", 100_000))}
	subjects := []string{
		"live.d.*", "live.d.>", "live.d.plain.*", "live.d.plain.>", "live.d.PLAIN.room", "live.d.plain.room.more", "live.d.=", "live.d.=2",
		"live.d.=zz", "live.d.=_", "live.d.plain.=72oom", "live.d.plain.:room=", "live.s.other", "live.h.plain.room", "live.x.plain.room", "live", "live.d",
		"live.b.live", "live.b.other",
	}
	want := 0
	for i := range 10 {
		for _, g := range garbage {
			if len(g) > 0 { // an empty one is a message without data
				nc.Publish(roomDeliver, g)
				nc.Publish("live.d.plain.room", g)
			}
			if _, err := js.Publish(t.Context(), roomStored, g); err != nil {
				t.Fatal(err)
			}
		}
		for _, s := range subjects {
			nc.Publish(s, []byte(`"foreign"`))
			nc.Publish(s, []byte("garbage"))
		}
		if err := nc.Flush(); err != nil {
			t.Fatal(err)
		}
		if err := p.publish(in); err != nil {
			t.Fatal(err)
		}
		if err := in.server.Publish("plain.room", fmt.Append(nil, i)); err != nil {
			t.Fatal(err)
		}
		want++
	}
	waitFor(t, "the server's own messages", func() bool { return len(plain.data()) >= want })
	for i, data := range plain.data() {
		if data != fmt.Sprint(i) {
			t.Errorf("message %d of a topic without history is %s", i, data)
		}
	}
	all := contents(t, in.broker.server, "CHAT", roomStored)
	stored.awaitLast(t, all)
	good := all[:0]
	for _, s := range all {
		if s.data == "" || s.data[0] == '"' && len(s.data) < 100 {
			good = append(good, s)
		}
	}
	stored.verifyWhole(t, good)
	for _, v := range others {
		if data := v.data(); len(data) > 0 {
			t.Errorf("the viewer of %q was told %v", v.topic, data)
		}
	}
}
