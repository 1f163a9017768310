package natsbroker

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/broker"
)

// leaderSays makes the time of the stream's leader later than it is.
func leaderSays(st *stream, later time.Duration) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.state.leaderTime = st.state.leaderTime.Add(later)
}

// A newcomer gets the publications within the HistoryAge of the topic, by the clock of the
// stream's leader, which stamps them. Older publications are still there for clients that
// resume.
func TestNewestAreNoOlderThanTheLeaderSays(t *testing.T) {
	b := open(t, Options{})
	s := serve(t, b, func(string) live.TopicOptions { return live.TopicOptions{History: 10, HistoryAge: time.Hour} })
	for range 3 {
		if err := s.Publish("room:1", []byte("1")); err != nil {
			t.Fatal(err)
		}
	}
	_, st := b.streamOf("room:1")
	expect := func(n int) {
		t.Helper()
		page, err := b.Tail(t.Context(), "room:1", 10)
		if err != nil || len(page.Publications) != n || page.Upto != 3 {
			t.Errorf("the newest are %d up to %d, %v; want %d", len(page.Publications), page.Upto, err, n)
		}
	}
	for later, n := range map[time.Duration]int{0: 3, -3 * time.Hour: 3, 30 * time.Minute: 3, 2 * time.Hour: 0} {
		if _, err := st.stateSince(t.Context(), time.Now()); err != nil {
			t.Fatal(err)
		}
		leaderSays(st, later)
		expect(n)
	}
	page, err := b.Read(context.Background(), "room:1", 1, 3, 10)
	if err != nil || len(page.Publications) != 2 || !page.Complete {
		t.Errorf("who was there is sent %d, complete %v, %v", len(page.Publications), page.Complete, err)
	}
}

// A tail begins limit publications before the end, however the topic is spread over its stream.
// If its publications are large, the tail is a page of the oldest, and Read continues it.
func TestTailBeginsWhereItShould(t *testing.T) {
	t.Parallel()
	seed := seedFor(t, 0)
	for name, gap := range map[string]func(i int) int{
		"alone":               func(int) int { return 0 },
		"evenly":              func(int) int { return 5 },
		"at random":           func(int) int { return seed.IntN(20) },
		"busy at the end":     func(i int) int { return max(0, 60-i) },
		"busy at first":       func(i int) int { return max(0, i-60) },
		"busy twice":          func(i int) int { return map[int]int{20: 1000, 99: 1000}[i] },
		"with scrawls":        func(i int) int { return -i % 4 },
		"alone, then no more": func(i int) int { return map[int]int{99: 2000}[i] },
	} {
		for _, size := range []int{100, 40 * kb} {
			t.Run(fmt.Sprint(name, " of ", size), func(t *testing.T) {
				l := openLibrary(t)
				var all []uint64 // all that count for the limit, including messages that are not publications
				for i := range 100 {
					l.write("book.t", size)
					all = append(all, l.written["book.t"][i])
					others := gap(i)
					l.store("book.other", "1", max(others, 0))
					for range -others {
						all = append(all, l.scrawl("book.t", 10))
					}
				}
				published := l.written["book.t"]
				last, err := l.Last(t.Context(), "book.t")
				if err != nil || last.Offset != all[len(all)-1] {
					t.Fatalf("Last is %v, %v", last, err)
				}
				for _, limit := range []int{1, 3, 50, 99, 100, 1000} {
					want := all[max(len(all)-limit, 0):]
					want = slices.DeleteFunc(slices.Clone(want), func(at uint64) bool { return !slices.Contains(published, at) })
					page, cost := l.received(func() (broker.Page, error) { return l.Tail(t.Context(), "book.t", limit) })
					if len(page.Publications) == 0 && len(want) > 0 {
						t.Fatalf("Tail(%d) is empty", limit)
					}
					if size := sizeOf(page); size > 300*kb || cost > mb || page.Upto < last.Offset && (size < cutBytes || page.Upto != offsetsOf(page)[len(page.Publications)-1]) {
						t.Errorf("Tail(%d) has %d bytes, and cost %d", limit, size, cost)
					}
					if size == 100 && page.Upto != last.Offset || !page.Complete {
						t.Errorf("Tail(%d) has %d publications, and ends at %d, complete %v", limit, len(page.Publications), page.Upto, page.Complete)
					}
					got := offsetsOf(page)
					rest, complete := l.readOn("book.t", page.Upto, last.Offset, 1000, 300*kb)
					if got = append(got, rest...); !complete || !slices.Equal(got, want) {
						t.Errorf("Tail(%d) and what follows: %d, want %d", limit, got, want)
					}
				}
			})
		}
	}
}

// Publications come while a tail is read. The tail and the reads after it have no hole and no
// repetition, and at least as many publications as were asked for.
func TestTailOfABusyTopic(t *testing.T) {
	t.Parallel()
	l := openLibrary(t)
	for range 60 {
		l.write("book.t", 20*kb)
	}
	stop := make(chan struct{})
	written := make(chan []uint64)
	go func() { // ends with stop
		var more []uint64
		data := []byte(`"` + strings.Repeat("x", 20*kb) + `"`)
		for {
			select {
			case <-stop:
				written <- more
				return
			default:
			}
			at, err := l.Publish(t.Context(), "book.t", data, broker.PublishOptions{})
			if err != nil {
				t.Error(err)
			}
			more = append(more, at.Offset)
		}
	}()
	type reading struct {
		last uint64 // the last publication before the tail began
		got  []uint64
	}
	var readings []reading
	for range 30 {
		before, err := l.Last(t.Context(), "book.t")
		if err != nil {
			t.Fatal(err)
		}
		page, err := l.Tail(t.Context(), "book.t", 50)
		if err != nil {
			t.Fatal(err)
		}
		got := offsetsOf(page)
		after, err := l.Last(t.Context(), "book.t")
		if err != nil {
			t.Fatal(err)
		}
		rest, _ := l.readOn("book.t", page.Upto, after.Offset, 1000, mb)
		readings = append(readings, reading{before.Offset, append(got, rest...)})
	}
	close(stop)
	all := append(l.written["book.t"], <-written...)
	for _, r := range readings {
		from := slices.Index(all, r.got[0])
		if from < 0 || !slices.Equal(r.got, all[from:from+len(r.got)]) {
			t.Fatalf("read were %d, of %d", r.got, all)
		}
		if at := slices.Index(all, r.last); len(r.got) < 50 || from < at-49 {
			t.Errorf("of a tail %d were read, from %d before the newest at that time", len(r.got), at-from)
		}
	}
}

// copyThatLags answers a broker's reads of stream BOOKS like a copy that lacks the newest
// messages. Requests to the leader still go to the leader.
type copyThatLags struct {
	*testing.T
	nc     *nats.Conn
	stored []*nats.Msg            // messages of one subject, with their sequences in headers
	behind int                    // how many of the newest messages it lacks
	asked  func(from uint64) bool // called before each answer; true: the older half is dropped
}

// lagFor puts a copy that lags between a broker and its stream, for one topic.
func lagFor(l *library, topic string) *copyThatLags {
	l.Helper()
	c := &copyThatLags{T: l.T, nc: l.NATSConn()}
	tokens, _ := encode(topic)
	for _, at := range l.written[topic] {
		s, err := l.JetStream().Stream(l.Context(), "BOOKS")
		if err != nil {
			l.Fatal(err)
		}
		raw, err := s.GetMsg(l.Context(), at)
		if err != nil {
			l.Fatal(err)
		}
		m := nats.NewMsg(l.storedSubject(tokens))
		m.Data = raw.Data
		m.Header.Set(headerSequence, strconv.FormatUint(at, 10))
		m.Header.Set(headerTime, raw.Time.Format(time.RFC3339Nano))
		c.stored = append(c.stored, m)
	}
	sub, err := c.nc.Subscribe("$LAG.API.>", c.answer)
	if err != nil {
		l.Fatal(err)
	}
	l.Cleanup(func() { sub.Unsubscribe() })
	l.api = "$LAG.API."
	return c
}

func (c *copyThatLags) answer(m *nats.Msg) {
	method := strings.TrimPrefix(m.Subject, "$LAG.API.")
	if method != "DIRECT.GET.BOOKS" {
		c.nc.PublishRequest("$JS.API."+method, m.Reply, m.Data)
		return
	}
	var ask getRequest
	if err := json.Unmarshal(m.Data, &ask); err != nil {
		c.Error(err)
	}
	if c.asked != nil && c.asked(ask.Sequence) {
		c.stored = c.stored[len(c.stored)/2:]
	}
	size, sent, pending := 0, 0, 0
	for _, stored := range c.stored[:len(c.stored)-c.behind] {
		at, _ := strconv.ParseUint(stored.Header.Get(headerSequence), 10, 64)
		switch {
		case at < ask.Sequence:
		case sent < ask.Batch && size < ask.MaxBytes:
			size += len(stored.Subject) + len(stored.Data)
			sent++
			answer := *stored
			answer.Subject = m.Reply
			c.nc.PublishMsg(&answer)
		default:
			pending++
		}
	}
	end := nats.NewMsg(m.Reply)
	end.Header.Set("Status", "404")
	if sent > 0 {
		end.Header.Set("Status", "204")
		end.Header.Set("Nats-Num-Pending", strconv.Itoa(pending))
	}
	c.nc.PublishMsg(end)
}

// The tail of a copy that lags does not reach the newest publication. If it is as large as a
// tail that was cut, it is empty, since it starts at the wrong place.
func TestTailOfACopyThatLagsSaysSo(t *testing.T) {
	for _, size := range []int{100, 70 * kb} {
		l := openLibrary(t)
		for range 40 {
			l.write("book.t", size)
			l.write("book.other", 100)
		}
		all := l.written["book.t"]
		c := lagFor(l, "book.t")
		for _, c.behind = range []int{0, 1, 5, 38, 39, 40} {
			held := all[:40-c.behind]
			for _, limit := range []int{1, 10, 30, 100} {
				page, err := l.Tail(t.Context(), "book.t", limit)
				if err != nil {
					t.Fatal(err)
				}
				want := held[max(len(held)-limit, 0):]
				got := offsetsOf(page)
				large := len(want)*size >= cutBytes
				switch cut := (len(want)-1)*size >= pageBytes; {
				case large && c.behind > 0:
					if len(got) > 0 || page.Upto >= want[0] {
						t.Errorf("size %d, %d behind: Tail(%d) is %d, up to %d", size, c.behind, limit, got, page.Upto)
					}
				case cut:
					if sizeOf(page) < cutBytes || !slices.Equal(got, want[:len(got)]) || page.Upto != got[len(got)-1] {
						t.Errorf("size %d: Tail(%d) is %d, up to %d", size, limit, got, page.Upto)
					}
				default:
					upto := uint64(0)
					if len(want) > 0 {
						upto = want[len(want)-1]
					}
					if !slices.Equal(got, want) || page.Upto != upto {
						t.Errorf("size %d, %d behind: Tail(%d) is %d, up to %d", size, c.behind, limit, got, page.Upto)
					}
				}
			}
			// A Read of a copy that lags ends where the copy ends, cut or not.
			var got []uint64
			for after := uint64(0); ; {
				page, err := l.Read(t.Context(), "book.t", after, all[39], 1000)
				if err != nil {
					t.Fatal(err)
				}
				if got = append(got, offsetsOf(page)...); page.Upto == after || page.Upto == all[39] {
					break
				}
				after = page.Upto
			}
			if !slices.Equal(got, held) {
				t.Errorf("size %d, %d behind: read were %d, want %d", size, c.behind, got, held)
			}
		}
	}
}

// Long subjects leave little space for publications in a batch. Their tail is not cut before it
// has some publications.
func TestTailOfATopicWithALongName(t *testing.T) {
	l := openLibrary(t)
	topic := "book." + strings.Repeat("x", 900)
	for i := range 600 {
		l.write(topic, 60)
		if i%100 == 99 {
			l.scrawl(topic, 300*kb)
		}
	}
	all := l.written[topic]
	for _, limit := range []int{1, 290, 606} {
		page, err := l.Tail(t.Context(), topic, limit)
		if want := all[600-limit*600/606:]; err != nil || !slices.Equal(offsetsOf(page), want) || page.Upto < all[599] {
			t.Errorf("Tail(%d) has %d publications up to %d, %v; want %d up to %d", limit, len(page.Publications), page.Upto, err, len(want), all[599])
		}
	}
}

// Messages are dropped between two batches of a tail. The tail has no hole.
func TestTailThatIsTrimmedMeanwhileHasNoHole(t *testing.T) {
	t.Parallel()
	l := openLibrary(t)
	topic := "book." + strings.Repeat("x", 900)
	for range 800 {
		l.write(topic, 60)
	}
	all := l.written[topic]
	c := lagFor(l, topic)
	for _, read := range []int{200, 300, 500, 790} {
		stored, dropped := c.stored, false
		c.asked = func(from uint64) bool {
			now := !dropped && from > all[read] && from < all[799]
			dropped = dropped || now
			return now
		}
		page, err := l.Tail(t.Context(), topic, 750)
		if got := offsetsOf(page); err != nil || len(got) < 400 || !slices.Equal(got, all[800-len(got):]) {
			t.Errorf("dropped when %d were read: %d up to %d, %v", read, got, page.Upto, err)
		}
		c.stored = stored
	}
}

// Publications come between two batches of a tail. They are in the tail, and it has no more
// than limit.
func TestTailThatGrowsMeanwhileKeepsItsLimit(t *testing.T) {
	l := openLibrary(t)
	topic := "book." + strings.Repeat("x", 900)
	for range 700 {
		l.write(topic, 60)
	}
	all := l.written[topic]
	c := lagFor(l, topic)
	c.behind = 100
	c.asked = func(from uint64) bool {
		if from > all[300] && from < all[599] {
			c.behind = 0
		}
		return false
	}
	page, err := l.Tail(t.Context(), topic, 500)
	if got := offsetsOf(page); err != nil || c.behind > 0 || !slices.Equal(got, all[200:]) {
		t.Errorf("%d publications, %d up to %d, %v", len(got), got, page.Upto, err)
	}
}

// Whatever counts the search gets, its guess lies between the two places.
func TestGuessesLieBetween(t *testing.T) {
	r := seedFor(t, 0)
	number := func(most int64) int64 { return 1 + r.Int64N(most) }
	for range 100_000 {
		limit := number(1000)
		low := place{sequence: uint64(number(1 << 40)), count: limit + number(1<<r.IntN(40))}
		high := place{sequence: low.sequence + 1 + uint64(number(1<<r.IntN(40))), count: number(limit) - 1}
		if guess := guessBetween(low, high, limit, r.IntN(2*guesses)); guess <= low.sequence || guess >= high.sequence {
			t.Fatalf("limit %d: %d is not between %+v and %+v", limit, guess, low, high)
		}
	}
}
