package live_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
)

// Each figure counts what its comment says, and nothing else.
func TestStatsCountWhatClientsDo(t *testing.T) {
	t.Parallel()
	const pause = 20 * time.Millisecond
	opts := livetest.Permissive()
	opts.OnAuth = func(context.Context, *http.Request) (any, error) { time.Sleep(pause); return "ann", nil }
	opts.OnRequest = func(_ context.Context, _ *live.Session, topic string, _ []byte) (any, error) {
		time.Sleep(pause)
		if topic == "broken" {
			return nil, errors.New("boom")
		}
		return 1, nil
	}
	h := livetest.Hosting{}.Start(t, opts)
	c := livetest.DialV1(t, h.Endpoint)
	c.Must(`{"op":"subscribe","id":1,"topic":"t"}`)
	c.Must(`{"op":"request","id":2,"topic":"t"}`)
	livetest.Refused(t, "request", c.Do(`{"op":"request","id":3,"topic":"broken"}`), 3, "internal")
	livetest.Refused(t, "history", c.Do(`{"op":"history","id":4,"topic":"t","limit":1}`), 4, "no_history")
	for i := range 3 {
		if err := h.Publish("t", fmt.Append(nil, i)); err != nil {
			t.Fatal(err)
		}
		c.Hears("t", fmt.Sprint(i))
	}
	livetest.Eventually(t, "all is written", func() bool { return h.Stats().FramesSent == 1+4+3 }) // hello, four answers
	st := h.Stats()
	if st.Subscribed != 1 || st.OperationsFailed != 1 || st.OperationsRefused != 1 || st.Delivered != 3 || st.Published != 3 || st.PublishFailed != 0 {
		t.Errorf("operations: %+v", st)
	}
	if st.AuthTime.Count() != 1 || st.AuthTime.Sum < pause || st.RequestTime.Count() != 2 || st.RequestTime.Sum < 2*pause {
		t.Errorf("times: %+v, %+v", st.AuthTime, st.RequestTime)
	}
	if sent := len(`{"op":"subscribe","id":1,"topic":"t"}`); st.Received != 4 || st.BytesReceived <= uint64(3*sent) || st.BytesReceived >= uint64(5*sent) {
		t.Errorf("%d messages of %d bytes received", st.Received, st.BytesReceived)
	}
	if st.BytesSent < 8*20 || st.BytesSent > 8*200 {
		t.Errorf("%d bytes sent", st.BytesSent)
	}
	// The first publication is measured. Whether later ones are depends on how fast the test is.
	if n := st.DeliveryTime.Count(); n < 1 || n > 3 || st.DeliveryTime.Sum <= 0 || st.DeliveryTime.Sum > livetest.Patience {
		t.Errorf("deliveries: %+v", st.DeliveryTime)
	}
	if st.PublishTime.Count() != 0 {
		t.Errorf("the broker in memory was measured: %+v", st.PublishTime)
	}
}

// A broker that other servers share is measured, and its errors are counted.
func TestStatsCountTheBrokersFailures(t *testing.T) {
	t.Parallel()
	s := livetest.NewServer(t, live.Options{Logger: livetest.Quiet, Broker: unwilling{live.NewMemoryBroker(live.MemoryOptions{})}})
	if s.Publish("t", []byte("1")) == nil {
		t.Fatal("published")
	}
	if st := s.Stats(); st.PublishFailed != 1 || st.Published != 0 || st.PublishTime.Count() != 1 {
		t.Errorf("%+v", st)
	}
}

// An operator sees how many of the clients that come back have lost something.
func TestStatsCountResumes(t *testing.T) {
	t.Parallel()
	opts := livetest.Open(live.Options{Topics: livetest.Keeping("", live.TopicOptions{History: 5})})
	h := livetest.Hosting{}.Start(t, opts)
	c := livetest.DialV1(t, h.Endpoint)
	c.Must(`{"op":"subscribe","id":1,"topic":"t"}`)
	var at []string
	for i := range 20 {
		if err := h.Publish("t", fmt.Append(nil, i)); err != nil {
			t.Fatal(err)
		}
		at = append(at, c.Next().At)
	}
	back := livetest.DialV1(t, h.Endpoint)
	check := func(what string, subscribed, recovered, notRecovered uint64) {
		t.Helper()
		livetest.Eventually(t, what, func() bool { // a resume is counted after its answer was queued
			st := h.Stats()
			return st.Subscribed == subscribed && st.Recovered == recovered && st.NotRecovered == notRecovered
		})
	}
	check("before", 1, 0, 0)
	back.Must(livetest.ResumeFrom(1, "t", at[19]))
	check("nothing was missed", 2, 1, 0)
	back.Must(livetest.UnsubscribeFrom(2, "t"))
	back.Must(livetest.ResumeFrom(3, "t", at[16]))
	check("the history has it", 3, 2, 0)
	back.Must(livetest.UnsubscribeFrom(4, "t"))
	back.Must(livetest.ResumeFrom(5, "t", at[1]))
	check("the history has lost it", 4, 2, 1)
}

// What waits for a client that does not read is in the figures until it was written, or the session
// has ended.
func TestStatsSayWhatWaits(t *testing.T) {
	t.Parallel()
	const messages, size = 400, 10 << 10
	sessions := make(chan *live.Session, 2)
	h := livetest.Hosting{Buffer: 8 << 10}.Start(t, live.Options{
		QueueSize: 2 * messages, QueueBytes: 2 * messages * size,
		OnConnect: func(_ context.Context, s *live.Session) error { sessions <- s; return s.Subscribe("t") },
	})
	reads, stalls := h.Connect(t, livetest.Dialing{Buffer: 8 << 10}), h.Connect(t, livetest.Dialing{Buffer: 8 << 10})
	livetest.Receive(t, sessions)
	livetest.Receive(t, sessions)
	h.PublishNumbers(t, "t", 1, messages, size)
	if st := h.Stats(); st.WaitingMessages < messages || st.WaitingMessages > 2*messages || st.WaitingBytes < messages*size {
		t.Errorf("%d messages and %d bytes wait", st.WaitingMessages, st.WaitingBytes)
	}
	reads.Attend().ExpectNumbers("t", 1, messages)
	livetest.Eventually(t, "only one client is waited for", func() bool { return h.Stats().WaitingMessages <= messages })
	if st := h.Stats(); st.WaitingMessages < messages/2 {
		t.Errorf("%d messages wait", st.WaitingMessages)
	}
	stalls.Drop()
	livetest.Eventually(t, "nothing waits", func() bool { st := h.Stats(); return st.WaitingMessages == 0 && st.WaitingBytes == 0 })
}

func TestStatsCountSnapshots(t *testing.T) {
	t.Parallel()
	opts := livetest.Open(live.Options{Topics: func(topic string) live.TopicOptions {
		return live.TopicOptions{Snapshot: func(context.Context, string) (any, error) {
			if strings.HasPrefix(topic, "broken") {
				return nil, errors.New("boom")
			}
			return 1, nil
		}}
	}})
	h := livetest.Hosting{}.Start(t, opts)
	c := livetest.DialV1(t, h.Endpoint)
	c.Must(`{"op":"subscribe","id":1,"topic":"t"}`)
	livetest.Refused(t, "subscribe", c.Do(`{"op":"subscribe","id":2,"topic":"broken"}`), 2, "internal")
	if st := h.Stats(); st.Snapshots != 2 || st.SnapshotsFailed != 1 || st.SnapshotTime.Count() != 2 {
		t.Errorf("%+v", st)
	}
}

// The bounds belong to the counts.
func TestBoundsFitTheCounts(t *testing.T) {
	var st live.Stats
	if n := len(live.DurationBounds()) + 1; n != len(st.AuthTime.Counts) {
		t.Errorf("%d bounds, %d counts", n-1, len(st.AuthTime.Counts))
	}
	if n := len(live.WriteSizeBounds()) + 1; n != len(st.WriteSizes) {
		t.Errorf("%d bounds, %d counts", n-1, len(st.WriteSizes))
	}
}

// Nodes asks for the figures every two seconds, and tests ask much more often.
func TestStatsAllocateNothing(t *testing.T) {
	s := livetest.NewServer(t, live.Options{Logger: livetest.Quiet})
	if n := testing.AllocsPerRun(100, func() { s.Stats() }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkStats(b *testing.B) {
	s := live.New(live.Options{})
	for b.Loop() {
		s.Stats()
	}
}
