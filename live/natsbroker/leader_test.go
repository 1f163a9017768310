package natsbroker

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/livetopic/livetopic/live"
)

func TestWhoMayAnswerForAStream(t *testing.T) {
	peers := func(active ...time.Duration) []*jetstream.PeerInfo {
		var all []*jetstream.PeerInfo
		for _, a := range active {
			all = append(all, &jetstream.PeerInfo{Active: a})
		}
		return all
	}
	for _, c := range []struct {
		name    string
		copies  int
		cluster *jetstream.ClusterInfo
		may     bool
	}{
		{"a server that is alone", 1, nil, true},
		{"the only copy", 1, &jetstream.ClusterInfo{Leader: "a"}, true},
		{"a node that has not joined the other copies", 3, &jetstream.ClusterInfo{Leader: "a"}, false},
		{"a leader that hears all", 3, &jetstream.ClusterInfo{Leader: "a", Replicas: peers(time.Second, time.Second)}, true},
		{"a leader that hears a majority", 3, &jetstream.ClusterInfo{Leader: "a", Replicas: peers(time.Second, time.Minute)}, true},
		{"a leader that was just elected", 3, &jetstream.ClusterInfo{Leader: "a", Replicas: peers(0, 0)}, true},
		{"a leader that is cut off", 3, &jetstream.ClusterInfo{Leader: "a", Replicas: peers(leaseTime, leaseTime)}, false},
		{"a leader whose others are gone", 3, &jetstream.ClusterInfo{Leader: "a", Replicas: []*jetstream.PeerInfo{{Offline: true}, {Offline: true}}}, false},
		{"a copy that hears all, and no leader", 3, &jetstream.ClusterInfo{Replicas: peers(time.Second, time.Second, time.Second)}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := deposed(&jetstream.StreamInfo{Config: jetstream.StreamConfig{Replicas: c.copies}, Cluster: c.cluster})
			if c.may && err != nil || !c.may && !errors.Is(err, live.ErrUnavailable) {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestAnswersThatHaveLess(t *testing.T) {
	for _, c := range []struct {
		name  string
		waits []time.Duration // the time before each answer with less; -1: an answer with everything
		last  bool            // the last answer is believed
	}{
		{"the first", []time.Duration{0}, false},
		{"two at once", []time.Duration{0, 0}, false},
		{"short of the time", []time.Duration{0, time.Second, time.Second}, false},
		{"long enough", []time.Duration{0, time.Second, time.Second, time.Second}, true},
		{"two, far enough apart", []time.Duration{0, leaseTime}, true},
		{"two, with silence between them", []time.Duration{0, maxPause + 1}, false},
		{"silence, and long enough after it", []time.Duration{0, time.Minute, time.Second, 2 * time.Second}, true},
		{"with one between them that has all", []time.Duration{0, 2 * time.Second, -1, time.Second}, false},
		{"on and on", []time.Duration{0, leaseTime, 0, time.Second}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var l lossCheck
				believed := false
				for _, wait := range c.waits {
					if wait < 0 {
						l.sawAll()
						continue
					}
					time.Sleep(wait)
					believed = l.sawLess()
				}
				if believed != c.last {
					t.Errorf("the last answer is believed: %t", believed)
				}
			})
		})
	}
}
