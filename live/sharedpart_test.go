package live_test

import (
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
)

// What is kept of parts is what it counts for: not what they were made of.
func TestPartsKeepNoPublications(t *testing.T) {
	b := new(renewed)
	h := livetest.Hosting{Buffer: 8 << 10}.Start(t, livetest.Open(live.Options{Broker: b, Topics: keepingMuch, Compression: true, InboundRate: -1}))
	behind(t, h)
	held := func() int {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int(m.HeapAlloc)
	}
	large := []byte(`"` + strings.Repeat("lorem ipsum ", 20_000) + `"`)
	p := h.Connect(t, livetest.Dialing{V1: true, Deflate: true})
	go io.Copy(io.Discard, p.In)
	const maxShared = 4 << 20 // in sharedpart.go
	const rounds = 100
	before := held()
	for i := range rounds {
		topic := fmt.Sprint("t", i)
		h.Publish(topic, []byte("1"))
		h.Publish(topic, large) // in the reply
		h.Publish(topic, large) // in a part of its own
		p.Say(livetest.Operation("subscribe", 2*i+1, topic, "since", "e1.1"))
		livetest.Eventually(t, "the subscription", func() bool { st := h.Stats(); return st.Subscriptions == 2 && st.CatchingUp == 1 })
		p.Say(livetest.Operation("unsubscribe", 2*i+2, topic))
		livetest.Eventually(t, "its end", func() bool { return h.Stats().Subscriptions == 1 })
		b.mu.Lock()
		delete(b.all, topic)
		b.mu.Unlock()
	}
	if grown := held() - before; grown > 3*maxShared/2 {
		t.Errorf("%d bytes are held of %d", grown, 2*rounds*len(large))
	}
	runtime.KeepAlive(large)
}
