package live_test

import (
	"context"
	"fmt"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
)

// A callback that ends its goroutine ends its session, and those of others are called as
// before, also by goroutines that have rested.
func TestWorkersOutliveACallbackThatEndsItsGoroutine(t *testing.T) {
	heard := make(chan string, 1000)
	ended := make(chan error, 100)
	_, url := serve(t, live.Options{
		OnMessage: func(_ context.Context, _ *live.Session, topic string, _ []byte) {
			if topic == "end" {
				runtime.Goexit()
			}
			heard <- topic
		},
		OnClose: func(_ *live.Session, err error) { ended <- err },
	})
	stays := dial(t, url)
	for i := range 20 {
		c := dial(t, url)
		c.SendMessage("end", 0)
		if code, _, _ := c.Closed(); code != live.ClosePanic {
			t.Fatalf("closed with %d", code)
		}
		if err := livetest.Receive(t, ended); err == nil {
			t.Error("OnClose got no error")
		}
		topic := fmt.Sprint(i)
		stays.SendMessage(topic, 0)
		if got := livetest.Receive(t, heard); got != topic {
			t.Fatalf("heard %s, want %s", got, topic)
		}
	}
}

// A goroutine that has dealt with messages rests for a second at most, and not after
// Shutdown.
func TestWorkersRestForAWhileOnly(t *testing.T) {
	for _, shutdown := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			srv := live.New(live.Options{})
			live.RunWorker(srv)()
			synctest.Wait()
			if n := live.RestingWorkers(srv); n != 1 {
				t.Fatalf("%d rest", n)
			}
			if shutdown {
				if err := srv.Shutdown(context.Background()); err != nil {
					t.Fatal(err)
				}
			} else {
				time.Sleep(2 * time.Second)
			}
			synctest.Wait()
			if n := live.RestingWorkers(srv); n != 0 {
				t.Errorf("%d rest, shutdown: %t", n, shutdown)
			}
		})
	}
}
