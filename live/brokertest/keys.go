package brokertest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/livetopic/livetopic/live/broker"
)

// keyed are the promises of a broker that keeps the newest publication of each key. Several nodes
// publish in turn, if there are several.
var keyed = []promise{
	{"a keyed topic keeps the newest value of each key", func(s *suite) {
		topic := keyedTopic
		want := make(map[string]string)
		random := rand.New(rand.NewPCG(1, 2))
		for i := range 200 {
			n, key := s.nodes[i%len(s.nodes)], fmt.Sprint("key ", random.IntN(20))
			if random.IntN(4) == 0 {
				n.publish(topic, "", remove(key))
				delete(want, key)
			} else {
				n.publish(topic, number(i), put(key))
				want[key] = number(i)
			}
		}
		for _, n := range s.nodes {
			s.wantValues(n.tail(topic, 1000), want)
			s.wantValues(n.read(topic, 0, n.last(topic).Offset, 1000), want)
		}
	}},

	{"a key's publications are chained, and delivered with their keys", func(s *suite) {
		n, topic := s.nodes[0], keyedTopic
		n.subscribe(topic)
		for i := range 30 {
			n.publish(topic, number(i), put(fmt.Sprint(i%3)))
		}
		n.publish(topic, "", remove("1"))
		newest := make(map[string]uint64)
		got := n.awaitCount(topic, 31)
		for i, p := range got {
			if p.Prev != 0 && p.Prev != newest[p.Key] || p.Prev == 0 && newest[p.Key] != 0 {
				s.Errorf("%q at %d follows %d, and its key was at %d", p.Key, p.Offset, p.Prev, newest[p.Key])
			}
			newest[p.Key] = p.Offset
			if p.Removed != (i == 30) || p.Removed && (p.Key != "1" || len(p.Data) > 0) {
				s.Errorf("came %+v", p)
			}
		}
	}},

	{"a Read after an offset tells of the removals that came later", func(s *suite) {
		n, topic := s.nodes[0], keyedTopic
		n.publish(topic, number(0), put("stays"))
		at := n.publish(topic, number(1), put("goes"))
		n.subscribe(topic)
		if last := n.last(topic); last != at {
			s.Fatalf("the topic is at %v, want %v", last, at)
		}
		n.publish(topic, "", remove("goes"))
		page := n.read(topic, at.Offset, n.last(topic).Offset, 10)
		if !page.Complete || len(page.Publications) != 1 || !page.Publications[0].Removed || page.Publications[0].Key != "goes" {
			s.Errorf("the page is %+v", page)
		}
	}},

	{"a keyed topic has as many keys as it may have", func(s *suite) {
		n, topic := s.nodes[0], keyedTopic
		few := put("a")
		few.History = 2
		n.publish(topic, number(0), few)
		few.Key = "b"
		n.publish(topic, number(1), few)
		few.Key = "c"
		if _, err := n.Publish(s.ctx(), topic, []byte("1"), few); !errors.Is(err, broker.ErrTooManyKeys) {
			s.Errorf("the third key: %v", err)
		}
		n.publish(topic, "", remove("a"))
		n.publish(topic, number(2), few)
		s.wantValues(n.tail(topic, 10), map[string]string{"b": number(1), "c": number(2)})
	}},
}

// keyedTopic is the topic of these promises. Nodes are started with keyedRules.
const keyedTopic = "keyed"

// keyedRules is a sink that says which topic is keyed.
type keyedRules struct{ *recorder }

func (keyedRules) Keyed(topic string) bool { return topic == keyedTopic }

func (keyedRules) History(topic string) (size int, age time.Duration) {
	if topic == keyedTopic {
		return 1000, 0
	}
	return 0, 0
}

func put(key string) broker.PublishOptions {
	return broker.PublishOptions{Key: key, Keyed: true, History: 1000}
}

func remove(key string) broker.PublishOptions {
	o := put(key)
	o.Remove = true
	return o
}

// wantValues checks the values of a page, whatever removals it has.
func (s *suite) wantValues(page broker.Page, want map[string]string) {
	s.Helper()
	got := make(map[string]string)
	for _, p := range page.Publications {
		if _, twice := got[p.Key]; twice {
			s.Errorf("%q is in the page twice", p.Key)
		}
		if !p.Removed {
			got[p.Key] = string(p.Data)
		}
	}
	if fmt.Sprint(got) != fmt.Sprint(want) { // which prints a map in the order of its keys
		s.Errorf("the values are %v, want %v", got, want)
	}
}
