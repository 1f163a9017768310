package live_test

import (
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
)

// Sessions that begin together reach MaxSessionAge one after another, in its last fifth. A sign-in that expires
// earlier counts.
func TestSessionsEndAtTheirAge(t *testing.T) {
	inMemory(t, func(t *testing.T, serve func(live.Options) *live.Server, dial func() net.Conn) {
		const n, age = 50, 100 * time.Minute
		ended := make(chan error, n+1)
		opts, sessions := livetest.Connected(live.Options{
			PingInterval: -1, MaxSessionAge: age,
			OnClose: func(_ *live.Session, err error) { ended <- err },
		})
		serve(opts)
		start := time.Now()
		times := make(chan time.Duration, n)
		for range n {
			conn := dial()
			go func() {
				code, at := closing(conn)
				if code != live.CloseRestart {
					t.Errorf("closed with %d", code)
				}
				times <- at.Sub(start)
			}()
			<-sessions
		}
		conn := dial()
		signedOut := make(chan int, 1)
		go func() {
			code, _ := closing(conn)
			signedOut <- code
		}()
		(<-sessions).ExpireAt(start.Add(time.Hour))
		if code := <-signedOut; code != live.CloseSignInExpired || time.Since(start) > time.Hour+time.Second {
			t.Errorf("closed with %d after %v", code, time.Since(start))
		}
		<-ended
		seconds := make(map[time.Duration]bool)
		for range n {
			at := <-times
			if at < age*8/10 || at > age {
				t.Errorf("ended after %v", at)
			}
			seconds[at.Truncate(time.Second)] = true
			if err := <-ended; err != live.ErrSessionAge {
				t.Errorf("OnClose got %v", err)
			}
		}
		if len(seconds) < n/2 {
			t.Errorf("%d sessions ended within %d different seconds", n, len(seconds))
		}
	})
}

// Also a short age is kept to, whatever the fraction of the second at which a session begins.
func TestShortSessionAgeIsExact(t *testing.T) {
	for _, age := range []time.Duration{50 * time.Millisecond, 2 * time.Second, 5 * time.Second, time.Minute} {
		inMemory(t, func(t *testing.T, serve func(live.Options) *live.Server, dial func() net.Conn) {
			serve(live.Options{PingInterval: -1, MaxSessionAge: age})
			var all sync.WaitGroup
			for range 100 {
				time.Sleep(73 * time.Millisecond)
				conn, began := dial(), time.Now()
				all.Go(func() {
					_, at := closing(conn)
					if lasted := at.Sub(began); lasted < age*8/10 || lasted > age {
						t.Errorf("a session ended after %v, and MaxSessionAge is %v", lasted, age)
					}
				})
			}
			all.Wait()
		})
	}
}

// If many sessions reach their age at the same time, their clients are told to take longer to come back: a
// second for each thousand.
func TestManyOldSessionsReturnOverALongerTime(t *testing.T) {
	inMemory(t, func(t *testing.T, serve func(live.Options) *live.Server, dial func() net.Conn) {
		const n = 1100
		server := serve(live.Options{PingInterval: -1, MaxSessionAge: time.Hour})
		var all sync.WaitGroup
		for range n {
			conn := dial()
			all.Go(func() {
				if _, reason, _ := closingFor(conn); reason != "session is old; return within 1100 ms" {
					t.Errorf("the reason is %q", reason)
				}
			})
		}
		synctest.Wait()
		live.EndAll(server)
		all.Wait()
	})
}
