package interop

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/livetopic/livetopic/live"
)

// A large answer comes in parts "of some tens of kilobytes". These are the sizes in bytes
// that tests hold the server to.
const (
	// mostOfPart bounds a frame with several publications, and a piece of text.
	mostOfPart = 40 << 10

	// mostInOne bounds the data of an answer that comes in one piece.
	mostInOne = 80 << 10

	// leastOfPart is how long a part is at least that is not the last. An answer that is
	// smaller comes in one frame.
	leastOfPart = 8 << 10
)

// answerParts joins the parts of an answer to a request or a history.
type answerParts struct {
	id       uint64 // of the answer that has begun; 0: none has
	texts    []string
	messages []past
}

// add takes the next frame and reports whether it is complete. The last part of an answer
// gets what came in all of them.
func (p *answerParts) add(t testing.TB, f *frame) bool {
	t.Helper()
	more := f.Op == "part" || f.More
	switch {
	case p.id == 0 && !more && f.Text == nil:
		return true // it is no part of anything
	case p.id != 0 && f.ID != p.id:
		t.Fatalf("between the parts of answer %d came %.200s", p.id, f.text)
	}
	if more {
		f.checkMore(t)
	}
	p.id = f.ID
	if f.Text != nil {
		p.texts = append(p.texts, *f.Text)
	}
	p.messages = append(p.messages, f.messages()...)
	if !more {
		p.join(t, f)
	}
	return !more
}

// join gives the last frame what came in all of them.
func (p *answerParts) join(t testing.TB, f *frame) {
	t.Helper()
	switch {
	case f.Op == "error":
	case len(p.texts) > 0 && f.Text != nil && f.Messages == nil:
		whole := strings.Join(p.texts, "")
		if !json.Valid([]byte(whole)) {
			t.Fatalf("the texts of answer %d are no JSON: %.200s", f.ID, whole)
		}
		f.Text, f.Data = nil, json.RawMessage(whole)
	case len(p.texts) == 0 && f.Messages != nil:
		f.Messages = &p.messages
	default:
		t.Fatalf("answer %d ends with %.200s", f.ID, f.text)
	}
}

// checkSize checks that an answer, or a part of one, is not too large for a frame.
func (f frame) checkSize(t testing.TB) {
	t.Helper()
	size, most := len(f.text), mostOfPart
	switch {
	case f.Op != "reply" && f.Op != "part", len(f.messages()) == 1:
		return // a single publication may be of any size
	case f.Text != nil:
		size = len(*f.Text)
	case f.Messages == nil:
		most = mostInOne
	}
	if size > most {
		t.Errorf("%d bytes in one frame, want %d at most: %.100s", size, most, f.text)
	}
}

// checkMore checks that a part of which more follow had to be one.
func (f frame) checkMore(t testing.TB) {
	t.Helper()
	size := len(f.text)
	if f.Text != nil {
		size = len(*f.Text)
	}
	if size < leastOfPart {
		t.Errorf("more follows after %d bytes: %.100s", size, f.text)
	}
}

// recovers does a subscribe with since or last, while nobody publishes. It returns the whole
// answer as if all of it were in the reply: the messages of the reply, and the recovered
// publications that follow, in order and without a hole, until the topic's newest, whose
// position has this number.
func (c *v1) recovers(text string, newest int) frame {
	c.t.Helper()
	return c.followed(text, c.must(text), newest)
}

// followed is recovers when the reply has come.
func (c *v1) followed(text string, reply frame, newest int) frame {
	c.t.Helper()
	var op struct{ Topic string }
	if err := json.Unmarshal([]byte(text), &op); err != nil {
		c.t.Fatal(err)
	}
	all := reply.messages()
	epoch, at := offsetOf(reply.At)
	for i, m := range all {
		if e, offset := offsetOf(m.At); e != epoch || offset != at-len(all)+1+i {
			c.t.Fatalf("message %d of %d is at %s, the reply at %s", i, len(all), m.At, reply.At)
		}
	}
	if at == newest {
		return reply
	}
	if at > newest || len(all) == 0 {
		c.t.Fatalf("the newest position is %d: %.200s", newest, reply.text)
	}
	reply.checkMore(c.t)
	for ; at < newest; at++ {
		f := c.next()
		e, offset := offsetOf(f.At)
		if !f.isPublication() || f.Topic != op.Topic || !f.recovered() || e != epoch || offset != at+1 {
			c.t.Fatalf("after %d of %d, recovered in answer to %s, came %.200s", at, newest, text, f.text)
		}
		all = append(all, past{f.Data, f.At})
		reply.At = f.At
	}
	reply.Messages = &all
	return reply
}

// askedFor are the operations whose answer is the newest n publications of topic t, of which
// there are n.
var askedFor = []struct {
	name string
	op   func(n int, epoch string) string
}{
	{"since", func(_ int, epoch string) string { return resumeFrom(2, "t", epoch+".0") }},
	{"last", func(n int, _ string) string { return fmt.Sprintf(`{"op":"subscribe","id":2,"topic":"t","last":%d}`, n) }},
	{"history", func(n int, _ string) string { return fmt.Sprintf(`{"op":"history","id":2,"topic":"t","limit":%d}`, n) }},
}

// However many and large publications are, and however little may wait for a client, it
// gets them all, once and in order, in frames that are not too large.
func TestLargeAnswersOfAHistory(t *testing.T) {
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
					opts := permissive()
					opts.QueueSize = queue
					opts.Topics = keeping("", live.TopicOptions{History: what.n})
					server := newServer(t, opts)
					c := dialV1(t, serve(t, server.Handler()))
					at := c.must(subscribeTo(1, "t")).At
					c.must(unsubscribeFrom(2, "t"))
					epoch, _ := offsetOf(at)
					want := make([]string, what.n)
					for i := range want {
						size := what.sizes[i%len(what.sizes)]
						want[i] = fmt.Sprintf(`"%0*d"`, size-2, i)
						server.Publish("t", []byte(want[i]))
					}

					op := asked.op(what.n, epoch)
					var f frame
					if asked.name == "history" {
						f = c.must(op)
					} else {
						f = c.recovers(op, what.n)
					}
					if got := dataOf(f.messages()); !slices.Equal(got, want) {
						t.Errorf("%d messages, want %d: %.200s", len(got), len(want), got)
					}
					for i, m := range f.messages() {
						if m.At != fmt.Sprintf("%s.%d", epoch, i+1) {
							t.Fatalf("message %d is at %s", i, m.At)
						}
					}
					if extra := c.settled(); len(extra) != 0 {
						t.Errorf("then came %.200s", extra[0].text)
					}
					if asked.name != "history" {
						server.Publish("t", []byte(`"new"`))
						c.hears("t", `"new"`)
					}
				})
			}
		}
	}
}

// The texts of an answer in pieces are, joined, the JSON that the application returned, at
// whatever character a piece ends.
func TestLargeAnswersOfARequest(t *testing.T) {
	opts := permissive()
	var answer string
	opts.OnRequest = func(context.Context, *live.Session, string, []byte) (any, error) { return answer, nil }
	c := dialV1(t, serve(t, newServer(t, opts).Handler()))
	for _, character := range []string{"x", "ü", "世", "🎉", `"`, `\`, "\n", "<", "\u2028", "\x00"} {
		for _, size := range []int{1, 1 << 10, 32<<10 - 2, 32<<10 - 1, 64<<10 - 2, 64<<10 - 1, 200_000} {
			for shift := range len(character) {
				answer = strings.Repeat("a", shift) + strings.Repeat(character, size/len(character))
				want, err := json.Marshal(answer)
				if err != nil {
					t.Fatal(err)
				}
				c.send(`{"op":"request","id":2,"topic":"q"}`)
				var parts answerParts
				f := c.next()
				inParts := f.Op == "part"
				for !parts.add(t, &f) {
					f = c.next()
				}
				if f.Op != "reply" || f.ID != 2 || string(f.Data) != string(want) {
					t.Errorf("%d bytes of %q: %d bytes came, want %d; the last frame is %.100s", size, character, len(f.Data), len(want), f.text)
				}
				if large := len(want) > mostInOne; large && !inParts || len(want) < leastOfPart && inParts {
					t.Errorf("an answer of %d bytes came in parts: %t", len(want), inParts)
				}
			}
		}
	}
}

// A client on a slow line hears of other topics while a large answer is on its way.
func TestOtherTopicsGoOnBetweenTheParts(t *testing.T) {
	const n, size, perSecond = 1000, 500, 512 << 10 // a second
	all := append(slices.Clone(askedFor), struct {
		name string
		op   func(int, string) string
	}{"request", func(int, string) string { return `{"op":"request","id":2,"topic":"q"}` }})
	for _, asked := range all {
		t.Run(asked.name, func(t *testing.T) {
			t.Parallel()
			opts := permissive()
			opts.QueueBytes = 64 << 10 // half of the answer
			opts.Topics = keeping("t", live.TopicOptions{History: n})
			opts.OnRequest = func(context.Context, *live.Session, string, []byte) (any, error) {
				return strings.Repeat("x", n*size), nil
			}
			server := newServer(t, opts)
			slow := through(t, serveSmall(t, server.Handler()))
			c := dialV1(t, slow.endpoint)
			c.must(subscribeTo(1, "other"))
			epoch, _ := offsetOf(c.must(subscribeTo(1, "t")).At)
			c.must(unsubscribeFrom(1, "t"))
			for range n {
				server.Publish("t", fmt.Appendf(nil, `"%0*d"`, size-2, 0))
			}
			slow.slow(perSecond)
			c.send(asked.op(n, epoch))
			var parts answerParts
			frames, heard := 0, 0
			for had, complete := 0, false; !complete; frames++ {
				f := c.next()
				if f.Topic == "other" {
					heard++
					continue
				}
				if frames%10 == 0 {
					server.Publish("other", []byte(`1`))
				}
				switch {
				case f.isPublication():
					had++
				case parts.add(t, &f):
					had += len(f.messages())
				}
				complete = had == n || f.Op == "reply" && f.Data != nil
			}
			if heard == 0 {
				t.Errorf("nothing of the other topic came in %d frames of the answer", frames)
			}
		})
	}
}
