package live_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
)

// askedFor are the operations whose answer is the newest n publications of topic t, of which
// there are n.
var askedFor = []struct {
	name string
	op   func(n int, epoch string) string
}{
	{"since", func(_ int, epoch string) string { return livetest.ResumeFrom(2, "t", epoch+".0") }},
	{"last", func(n int, _ string) string { return fmt.Sprintf(`{"op":"subscribe","id":2,"topic":"t","last":%d}`, n) }},
	{"history", func(n int, _ string) string { return fmt.Sprintf(`{"op":"history","id":2,"topic":"t","limit":%d}`, n) }},
}

// However many and large publications are, and however little may wait for a client, it
// gets them all, once and in order, in frames that are not too large.
func TestLargeAnswersOfAHistory(t *testing.T) {
	t.Parallel()
	for _, what := range []struct {
		name  string
		n     int
		sizes []int // of data, in turn
	}{
		{"1,000 of 10 bytes", 1000, []int{10}},
		{"500 of 500 bytes", 500, []int{500}},
		{"100 of 500 or 20,000 bytes", 100, []int{500, 20_000}},
		{"10 of 100,000 bytes", 10, []int{100_000}},
	} {
		for _, queue := range []int{1, 16, 256} {
			for _, asked := range askedFor {
				t.Run(fmt.Sprintf("%s, %s, a queue of %d", asked.name, what.name, queue), func(t *testing.T) {
					t.Parallel()
					opts := livetest.Permissive()
					opts.QueueSize = queue
					opts.Topics = livetest.Keeping("", live.TopicOptions{History: what.n})
					server := livetest.NewServer(t, opts)
					c := livetest.DialV1(t, livetest.Serve(t, server.Handler()))
					at := c.Must(livetest.SubscribeTo(1, "t")).At
					c.Must(livetest.UnsubscribeFrom(2, "t"))
					epoch, _ := livetest.OffsetOf(at)
					want := make([]string, what.n)
					for i := range want {
						size := what.sizes[i%len(what.sizes)]
						want[i] = fmt.Sprintf(`"%0*d"`, size-2, i)
						server.Publish("t", []byte(want[i]))
					}

					op := asked.op(what.n, epoch)
					var f livetest.Frame
					if asked.name == "history" {
						f = c.Must(op)
					} else {
						f = c.Recovers(op, what.n)
					}
					if got := livetest.DataOf(f.Messages); !slices.Equal(got, want) {
						t.Errorf("%d messages, want %d: %.200s", len(got), len(want), got)
					}
					for i, m := range f.Messages {
						if m.At != fmt.Sprintf("%s.%d", epoch, i+1) {
							t.Fatalf("message %d is at %s", i, m.At)
						}
					}
					if extra := c.Settled(); len(extra) != 0 {
						t.Errorf("then came %.200s", extra[0].Raw)
					}
					if asked.name != "history" {
						server.Publish("t", []byte(`"new"`))
						c.Hears("t", `"new"`)
					}
				})
			}
		}
	}
}

// A client on a slow line hears of other topics while a large answer is on its way.
func TestOtherTopicsGoOnBetweenTheParts(t *testing.T) {
	t.Parallel()
	const n, size, perSecond = 1000, 500, 512 << 10 // a second
	all := append(slices.Clone(askedFor), struct {
		name string
		op   func(int, string) string
	}{"request", func(int, string) string { return `{"op":"request","id":2,"topic":"q"}` }})
	for _, asked := range all {
		t.Run(asked.name, func(t *testing.T) {
			t.Parallel()
			opts := livetest.Permissive()
			opts.QueueBytes = 64 << 10 // half of the answer
			opts.Topics = livetest.Keeping("t", live.TopicOptions{History: n})
			opts.OnRequest = func(context.Context, *live.Session, string, []byte) (any, error) {
				return strings.Repeat("x", n*size), nil
			}
			server := livetest.NewServer(t, opts)
			slow := livetest.Through(t, livetest.ServeSmall(t, server.Handler()))
			c := livetest.DialV1(t, slow.Endpoint)
			c.Must(livetest.SubscribeTo(1, "other"))
			epoch, _ := livetest.OffsetOf(c.Must(livetest.SubscribeTo(1, "t")).At)
			c.Must(livetest.UnsubscribeFrom(1, "t"))
			for range n {
				server.Publish("t", fmt.Appendf(nil, `"%0*d"`, size-2, 0))
			}
			slow.Slow(perSecond)
			c.Send(asked.op(n, epoch))
			var parts livetest.AnswerParts
			frames, heard := 0, 0
			for had, complete := 0, false; !complete; frames++ {
				f := c.Next()
				if f.Topic == "other" {
					heard++
					continue
				}
				if frames%10 == 0 {
					server.Publish("other", []byte(`1`))
				}
				switch {
				case f.IsPublication():
					had++
				case parts.Add(t, &f):
					had += len(f.Messages)
				}
				complete = had == n || f.Op == "reply" && f.Data != nil
			}
			if heard == 0 {
				t.Errorf("nothing of the other topic came in %d frames of the answer", frames)
			}
		})
	}
}
