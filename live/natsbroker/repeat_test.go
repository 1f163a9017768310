package natsbroker

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
)

// serving is where repeaters find their server.
type serving struct {
	url    string
	newest map[string]int // offset of the newest publication of each topic when the server began
}

// repeater is a client that publishes its numbers one after another. It publishes each under the same ID
// until it has an answer, and then once more.
type repeater struct {
	topic, name string
	at          *atomic.Pointer[serving]

	answered []string // the data of the answered publications
	offsets  []int
	lost     int // answers that were lost, though the publication was stored
	failed   error
}

func (r *repeater) run(t testing.TB, over <-chan struct{}) {
	for r.failed == nil {
		select {
		case <-over:
			return
		case <-time.After(time.Millisecond):
			r.visit(t, r.at.Load(), over)
		}
	}
}

// visit publishes over one connection, until that or the test ends.
func (r *repeater) visit(t testing.TB, s *serving, over <-chan struct{}) {
	scope := &livetest.Scope{TB: t}
	defer scope.End()
	c, err := livetest.Try(scope, livetest.Endpoint{URL: "ws" + strings.TrimPrefix(s.url, "http")}, livetest.Dialing{V1: true})
	if err != nil {
		return // it is killed
	}
	defer c.Drop()
	for id := 1; ; id += 2 {
		select {
		case <-over:
			return
		default:
		}
		data := fmt.Sprint(r.name, ".", len(r.answered))
		offset, err := r.ask(c, id, data)
		if err != nil {
			return
		}
		if offset <= s.newest[r.topic] {
			r.lost++
		}
		r.answered, r.offsets = append(r.answered, data), append(r.offsets, offset)
		again, err := r.ask(c, id+1, data)
		if err != nil {
			return
		}
		if again != offset {
			r.failed = fmt.Errorf("%s is stored at %d, and again at %d", data, offset, again)
			return
		}
	}
}

// ask publishes data, which is its own ID. It returns the offset of the publication.
func (r *repeater) ask(c *livetest.Client, id int, data string) (offset int, err error) {
	err = c.Say(livetest.Operation("publish", id, r.topic, "data", data, "uid", data))
	for err == nil {
		var f livetest.Frame
		if f, err = c.ReadFrame(); f.ID == id {
			if f.Op != "reply" {
				return 0, fmt.Errorf("%s was answered by %s", data, f)
			}
			_, offset = livetest.OffsetOf(f.At)
			return offset, nil
		}
	}
	return 0, err
}

// A publication that is repeated under its ID is stored once, however often the process is killed
// meanwhile, on plain and on keyed topics.
func TestRepeatedPublicationIsStoredOnce(t *testing.T) {
	const env = "NATSBROKER_TEST_REPEATED"
	topics := []string{room, "k"}
	begin := func(t *testing.T, dir string) *instance {
		b := open(t, Options{StoreDir: dir, Streams: []StreamConfig{chat, {Name: "K", Subjects: []string{"k"}, Keyed: true}}})
		return runInstance(t, 0, b, nil, func(o *live.Options) {
			o.Topics = func(topic string) live.TopicOptions {
				if topic == "k" {
					return live.TopicOptions{Keyed: true, ClientKey: func(_ *live.Session, data []byte) string {
						name, _, _ := strings.Cut(string(data), ".")
						return name[1:]
					}}
				}
				return live.TopicOptions{History: 1000}
			}
		})
	}
	if isChild(t) {
		in := begin(t, os.Getenv(env))
		fmt.Println("ready")
		fmt.Println(in.url())
		for _, topic := range topics {
			at, err := in.server.Position(t.Context(), topic)
			if err != nil {
				t.Fatal(err)
			}
			fmt.Println(at.Offset)
		}
		awaitParent()
		return
	}

	dir := t.TempDir()
	var at atomic.Pointer[serving]
	at.Store(&serving{})
	over := make(chan struct{})
	var repeating sync.WaitGroup
	var all []*repeater
	for i := range 8 {
		r := &repeater{topic: topics[i%2], name: fmt.Sprint("r", i), at: &at}
		all = append(all, r)
		repeating.Go(func() { r.run(t, over) })
	}
	for range 8 {
		c := startChild(t, env+"="+dir)
		s := &serving{newest: make(map[string]int)}
		fmt.Fscanln(c.out, &s.url)
		for _, topic := range topics {
			var offset int
			fmt.Fscanln(c.out, &offset)
			s.newest[topic] = offset
		}
		at.Store(s)
		time.Sleep(100*time.Millisecond + rand.N(200*time.Millisecond)) // while they publish
		c.Process.Kill()
		c.Wait()
	}
	close(over)
	repeating.Wait()

	in := begin(t, dir)
	answered, lost := 0, 0
	offsets := make(map[string]map[int]bool)
	for _, topic := range topics {
		offsets[topic] = make(map[int]bool)
	}
	for _, r := range all {
		if r.failed != nil {
			t.Error(r.failed)
		}
		answered += len(r.answered)
		lost += r.lost
		if !slices.IsSorted(r.offsets) {
			t.Errorf("%s was stored out of order", r.name)
		}
		for _, offset := range r.offsets {
			if offsets[r.topic][offset] {
				t.Errorf("two publications have offset %d", offset)
			}
			offsets[r.topic][offset] = true
		}
	}
	count := make(map[string]int)
	for _, s := range contents(t, in.broker.server, "CHAT", roomStored) {
		count[strings.Trim(s.data, `"`)]++
	}
	for _, r := range all {
		for _, data := range r.answered {
			if r.topic == room && count[data] != 1 {
				t.Errorf("%s is stored %d times", data, count[data])
			}
			delete(count, data)
		}
	}
	for data, n := range count { // the last of each may not have been answered
		if n != 1 {
			t.Errorf("%s is stored %d times", data, n)
		}
	}
	t.Logf("%d publications answered, %d of them after their first answer was lost", answered, lost)
	if lost == 0 {
		t.Error("no answer was lost: the test tests nothing")
	}
}
