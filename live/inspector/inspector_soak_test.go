//go:build soak && unix

package inspector_test

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
)

// Ten thousand sessions, or as many as files can be open, get 50,000 deliveries in a second. The
// figures say how long a look takes meanwhile, and what looking costs:
//
//	go test -tags soak -run TenThousand -v ./live/inspector
func TestTenThousandSessionsAreLookedAtWhileTheyAreBusy(t *testing.T) {
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		t.Fatal(err)
	}
	n := min(10_000, int(files.Cur)/2-100) // each is two sockets of this process
	opts, sessions := named(live.Options{})
	h := livetest.Hosting{}.Start(t, opts)
	for i := range n {
		c := livetest.Connect(t, h.With(fmt.Sprint("user=user-", i)), livetest.Dialing{})
		s := livetest.Receive(t, sessions)
		h.Subscribe(s, "all")
		h.Subscribe(s, fmt.Sprint("own of ", i))
		go io.Copy(io.Discard, c.In) // ends with the connection
	}
	stop := make(chan struct{})
	stopped := make(chan struct{})
	go func() { // ends with stop
		defer close(stopped)
		every := time.NewTicker(time.Second * time.Duration(n) / 50_000)
		defer every.Stop()
		for {
			select {
			case <-every.C:
				h.Publish("all", []byte(`"hello, everybody"`))
			case <-stop:
				return
			}
		}
	}()
	const seconds = 10
	measure := func(looks func()) (cpu time.Duration, delivered float64) {
		before, begun, from := processTime(t), time.Now(), h.Stats().Delivered
		looks()
		time.Sleep(time.Until(begun.Add(seconds * time.Second)))
		return processTime(t) - before, float64(h.Stats().Delivered-from) / time.Since(begun).Seconds()
	}
	quiet, rate := measure(func() {})
	t.Logf("%d sessions, nobody looks: %.0f deliveries/s, %.2f s of CPU in %d s", n, rate, quiet.Seconds(), seconds)

	p := open(t, h.Server, everything)
	took := make(map[string][]time.Duration)
	look := func(name string) {
		begun := time.Now()
		if w := p.serve("GET", name, "", nil); w.Code != http.StatusOK {
			t.Errorf("%s: %d %s", name, w.Code, w.Body)
		}
		took[name] = append(took[name], time.Since(begun))
	}
	looked, rate := measure(func() {
		for begun := time.Now(); time.Since(begun) < (seconds-1)*time.Second; time.Sleep(2 * time.Second) {
			for _, name := range []string{"figures", "sessions?sort=queue&desc=1", "topics?sort=rate&desc=1", "ends", "sessions?search=user-77"} {
				look(name)
			}
		}
	})
	t.Logf("one person looks at all tables every two seconds: %.0f deliveries/s, %.2f s of CPU in %d s", rate, looked.Seconds(), seconds)
	for name, times := range took {
		slices.Sort(times)
		t.Logf("%-28s median %v, longest %v", name, times[len(times)/2], times[len(times)-1])
	}
	close(stop)
	<-stopped
	all := get[table](p, "sessions")
	if all.Total != h.Stats().Sessions || len(all.Rows) != 100 {
		t.Errorf("%d of %d sessions are seen, %d on a page", all.Total, n, len(all.Rows))
	}
}

// processTime returns the CPU time of this process so far.
func processTime(t *testing.T) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
