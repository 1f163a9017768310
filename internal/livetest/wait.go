package livetest

import (
	"sync"
	"testing"
	"time"
)

// Patience is how long a test waits for an event that must happen. The event may take as long as
// that.
const Patience = 20 * time.Second

// Eventually waits until a condition holds.
func Eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(Patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
	}
}

// Receive waits for a value.
func Receive[T any](t testing.TB, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(Patience):
		t.Fatal("nothing came")
		panic("unreachable")
	}
}

// Each runs f for 0 to n-1 at the same time.
func Each(n int, f func(i int)) {
	var running sync.WaitGroup
	for i := range n {
		running.Go(func() { f(i) })
	}
	running.Wait()
}

// Together runs subtests at the same time. t.Parallel would run only one for each CPU, but the
// subtests mostly wait.
type Together struct {
	t  *testing.T
	wg sync.WaitGroup
}

// AtOnce calls group with a Together. It returns when group has returned and all its subtests have
// ended.
func AtOnce(t *testing.T, group func(g *Together)) {
	t.Helper()
	g := &Together{t: t}
	defer g.wg.Wait()
	group(g)
}

// Run begins a subtest.
func (g *Together) Run(name string, test func(t *testing.T)) {
	g.wg.Go(func() { g.t.Run(name, test) })
}

// Go runs f beside the subtests.
func (g *Together) Go(f func()) { g.wg.Go(f) }

// OverBoth runs a test over TCP and over TLS at the same time.
func OverBoth(t *testing.T, test func(t *testing.T, secure bool)) {
	t.Helper()
	AtOnce(t, func(g *Together) {
		g.Run("TCP", func(t *testing.T) { test(t, false) })
		g.Run("TLS", func(t *testing.T) { test(t, true) })
	})
}
