package live

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// While one topic's fan-out is under way, all others go on, those of its shard
// among them.
func TestFanOutHoldsUpNoOtherTopic(t *testing.T) {
	x := New(Options{}).topics
	busy := x.lock("busy")
	defer x.unlock(busy)
	done := make(chan struct{})
	go func() {
		defer close(done)
		s := &Session{}
		for i := range 10 * shardCount {
			name := fmt.Sprint("topic", i)
			if _, err := x.subscribe(context.Background(), s, name, 1<<20, subscribing{}); err != nil {
				t.Error(err)
			}
			if x.find(name) == nil {
				t.Error("not there:", name)
			}
			x.unsubscribe(s, name)
		}
	}()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatal("held up")
	}
}

// Under -race sync.Pool forgets a quarter of what it is given, which makes some
// hundred allocations out of four; one for each delivery would add 200.
func TestDeliveryAllocatesNothing(t *testing.T) {
	const n = 200
	var srv *Server
	srv = New(Options{OnConnect: func(_ context.Context, s *Session) error { return srv.Subscribe(s, "t") }})
	hs := httptest.NewServer(srv.Handler())
	defer hs.Close()
	for range n {
		conn, err := net.Dial("tcp", strings.TrimPrefix(hs.URL, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		r, _ := http.NewRequest("GET", hs.URL, nil)
		for key, value := range map[string]string{
			"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
		} {
			r.Header.Set(key, value)
		}
		if err := r.Write(conn); err != nil {
			t.Fatal(err)
		}
		go io.Copy(io.Discard, conn)
	}
	for deadline := time.Now().Add(20 * time.Second); srv.Stats().Subscriptions < n; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%+v", srv.Stats())
		}
	}
	sessions := srv.snapshot()
	data := []byte(`{"text":"hello"}`)
	allocs := testing.AllocsPerRun(50, func() {
		if err := srv.Publish("t", data); err != nil {
			t.Fatal(err)
		}
		for _, s := range sessions {
			for frames := 1; frames > 0; frames, _ = s.out.Queued() {
				time.Sleep(0)
			}
		}
	})
	if allocs >= n {
		t.Errorf("%v allocations for %d deliveries", allocs, n)
	}
	for _, s := range sessions {
		s.out.Kill()
	}
}
