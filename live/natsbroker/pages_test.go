package natsbroker

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/livetopic/livetopic/live/broker"
)

// library is a broker whose stream has long histories, and what is in them.
type library struct {
	*testing.T
	*Broker
	written map[string][]uint64 // offsets of a topic's publications, oldest first
}

func openLibrary(t *testing.T, streams ...StreamConfig) *library {
	t.Helper()
	if len(streams) == 0 {
		streams = []StreamConfig{{Name: "BOOKS", Subjects: []string{"book.>"}}}
	}
	b := open(t, Options{StoreDir: t.TempDir(), Streams: streams})
	b.Start(devNull{})
	return &library{t, b, make(map[string][]uint64)}
}

// write publishes a message of that many bytes.
func (l *library) write(topic string, size int) {
	l.Helper()
	data := append(append([]byte{'"'}, bytes.Repeat([]byte{'x'}, size-2)...), '"')
	at, err := l.Publish(l.Context(), topic, data, broker.PublishOptions{})
	if err != nil {
		l.Fatal(err)
	}
	l.written[topic] = append(l.written[topic], at.Offset)
}

// scrawl stores a message of that many bytes that is no publication, as somebody may who
// has access to NATS.
func (l *library) scrawl(topic string, size int) (sequence uint64) {
	l.Helper()
	tokens, _ := encode(topic)
	ack, err := l.JetStream().Publish(l.Context(), l.storedSubject(tokens), bytes.Repeat([]byte{'x'}, size))
	if err != nil {
		l.Fatal(err)
	}
	return ack.Sequence
}

// store has the same message stored many times.
func (l *library) store(topic, data string, times int) {
	l.Helper()
	tokens, _ := encode(topic)
	for i := range times {
		if _, err := l.JetStream().PublishAsync(l.storedSubject(tokens), []byte(data)); err != nil {
			l.Fatal(err)
		}
		if i%500 == 499 || i == times-1 { // more would be refused
			<-l.JetStream().PublishAsyncComplete()
		}
	}
}

// received runs a call and returns how many bytes came from NATS meanwhile.
func (l *library) received(call func() (broker.Page, error)) (broker.Page, uint64) {
	l.Helper()
	before := l.NATSConn().Stats().InBytes
	page, err := call()
	if err != nil {
		l.Fatal(err)
	}
	return page, l.NATSConn().Stats().InBytes - before
}

// readOn reads page by page, and returns the offsets of all. No page may be larger than
// most bytes, nor cost more.
func (l *library) readOn(topic string, after, upto uint64, limit int, most uint64) (all []uint64, complete bool) {
	l.Helper()
	complete = true
	for after < upto {
		page, cost := l.received(func() (broker.Page, error) { return l.Read(l.Context(), topic, after, upto, limit) })
		if len(page.Publications) == 0 && page.Upto < upto || page.Upto <= after {
			l.Fatalf("Read(%d, %d) has %d publications, and ends at %d", after, upto, len(page.Publications), page.Upto)
		}
		if size := sizeOf(page); uint64(size) > most || cost > most {
			l.Fatalf("Read(%d, %d) has %d bytes, and cost %d", after, upto, size, cost)
		}
		if len(page.Publications) > limit {
			l.Fatalf("Read(%d, %d) has %d publications, which are more than %d", after, upto, len(page.Publications), limit)
		}
		all = append(all, offsetsOf(page)...)
		complete = complete && page.Complete
		after = page.Upto
	}
	return all, complete
}

func sizeOf(page broker.Page) int { return bytesOf(page.Publications) }

func offsetsOf(page broker.Page) (offsets []uint64) {
	for _, p := range page.Publications {
		offsets = append(offsets, p.Offset)
	}
	return offsets
}

const kb, mb = 1 << 10, 1 << 20

// Publications of half a megabyte, among others and among messages that are no
// publications, are read in pages of two. All of them come, once and in order.
func TestHistoryOfLargePublicationsIsReadInPages(t *testing.T) {
	l := openLibrary(t)
	begin := l.scrawl("book.large", 10)
	for i := range 100 {
		l.write("book.large", 512*kb)
		if i%3 == 0 {
			l.write("book.small", 100)
			l.write("book.other", 300*kb)
		}
		if i%10 == 0 {
			l.scrawl("book.large", 10)
			l.scrawl("book.large", 700*kb)
		}
	}
	large := l.written["book.large"]
	last := large[len(large)-1]
	// The search for a page reads messages that are no publications, too, one after another.
	got, complete := l.readOn("book.large", begin, last, 1000, 4*mb)
	if !complete || !slices.Equal(got, large) {
		t.Errorf("complete %v, read were %d, want %d", complete, got, large)
	}
	got, complete = l.readOn("book.large", large[79], last, 1, 4*mb)
	if !complete || !slices.Equal(got, large[80:]) {
		t.Errorf("one by one: complete %v, read were %d, want %d", complete, got, large[80:])
	}
	page, err := l.Read(t.Context(), "book.large", 0, last, 1000)
	if err != nil || !slices.Equal(offsetsOf(page), large[:1]) || page.Upto != large[0] {
		t.Errorf("the first page has %d up to %d, %v", offsetsOf(page), page.Upto, err)
	}
	small := l.written["book.small"]
	page, err = l.Read(t.Context(), "book.small", 0, last+10, 1000)
	if err != nil || !slices.Equal(offsetsOf(page), small) || page.Upto != last+10 {
		t.Errorf("small publications among large ones: %d up to %d, %v; want %d", offsetsOf(page), page.Upto, err, small)
	}
}

// Small publications are cut for their size too, and no page ends long before the bound.
func TestPageOfSmallPublicationsIsFull(t *testing.T) {
	l := openLibrary(t)
	for range 200 {
		l.write("book.t", 4*kb)
	}
	all := l.written["book.t"]
	page, err := l.Read(t.Context(), "book.t", 0, all[199], 1000)
	if size := sizeOf(page); err != nil || size < 200*kb || size > 300*kb || page.Upto != all[len(page.Publications)-1] {
		t.Errorf("a page has %d publications and %d bytes, up to %d, %v", len(page.Publications), size, page.Upto, err)
	}
	page, err = l.Tail(t.Context(), "book.t", 150)
	if size := sizeOf(page); err != nil || size < 100*kb || size > 300*kb || offsetsOf(page)[0] != all[50] {
		t.Errorf("a tail has %d publications and %d bytes, %v", len(page.Publications), size, err)
	}
}

// A tail begins at the newest but limit, however the topic is spread over its stream. If
// its publications are large, it is a page of the oldest, and Read continues it.
func TestTailBeginsWhereItShould(t *testing.T) {
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
				var all []uint64 // that count, publications or not
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

// A tail that is read on has no hole and no repetition, and what was asked for at least,
// though publications come all the while.
func TestTailOfABusyTopic(t *testing.T) {
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
		last uint64 // before it began
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

// A history that was trimmed says so in the page that has the hole, and in no other. The
// publication at which a page begins may be larger than a page.
func TestTrimmedHistoryOfLargePublicationsSaysSo(t *testing.T) {
	l := openLibrary(t, StreamConfig{Name: "BOOKS", Subjects: []string{"book.>"}, MaxMsgsPerTopic: 5})
	for range 12 {
		l.write("book.t", 300*kb)
		l.write("book.other", 10)
	}
	all := l.written["book.t"]
	for after := range 11 {
		page, err := l.Read(t.Context(), "book.t", all[after], all[11], 1000)
		if err != nil || len(page.Publications) == 0 || sizeOf(page) > mb {
			t.Fatalf("after publication %d: %d, %v", after, offsetsOf(page), err)
		}
		if want := max(after+1, 7); page.Publications[0].Offset != all[want] {
			t.Errorf("after publication %d: the first is at %d, not at %d", after, page.Publications[0].Offset, all[want])
		}
		if after != 6 && page.Complete != (after > 6) { // 7 is the oldest: what was before it cannot be known
			t.Errorf("after publication %d: complete is %v", after, page.Complete)
		}
		rest, complete := l.readOn("book.t", page.Upto, all[11], 1000, 2*mb)
		if got := append(offsetsOf(page), rest...); !complete || !slices.Equal(got, all[max(after+1, 7):]) {
			t.Errorf("after publication %d: %d, the rest complete: %v", after, got, complete)
		}
	}
	page, err := l.Tail(t.Context(), "book.t", 100)
	if err != nil || page.Publications[0].Offset != all[7] || page.Upto >= all[11] {
		t.Errorf("the tail begins with %d, and ends at %d, %v", offsetsOf(page), page.Upto, err)
	}
}

// A page that follows messages that are no publications knows of a hole before these.
func TestHoleBeforeMessagesThatAreNoPublicationsIsTold(t *testing.T) {
	l := openLibrary(t, StreamConfig{Name: "BOOKS", Subjects: []string{"book.>"}, MaxMsgsPerTopic: 6})
	for range 7 {
		l.write("book.t", 10)
	}
	for range 3 {
		l.scrawl("book.t", 300*kb)
	}
	l.write("book.t", 10)
	l.scrawl("book.t", 10)
	l.write("book.t", 10)
	all := l.written["book.t"]
	for after, complete := range map[uint64]bool{all[0]: false, all[3]: false, all[6] + 1: true, all[6] + 3: true} {
		page, err := l.Read(t.Context(), "book.t", after, all[8], 1000)
		if err != nil || !slices.Equal(offsetsOf(page), all[7:]) || page.Complete != complete {
			t.Errorf("after %d: %d, complete %v, %v", after, offsetsOf(page), page.Complete, err)
		}
	}
}

// The smallest publications take more memory than they have bytes: their number in a page is
// bounded. A tail is not cut for that, since a server would take it for one that lags.
func TestPageOfTheSmallestPublicationsIsCut(t *testing.T) {
	l := openLibrary(t)
	const count = 3000
	l.store("book.t", "1", count)
	page, err := l.Read(t.Context(), "book.t", 0, count, 10*count)
	if err != nil || len(page.Publications) != pageMessages || page.Upto != pageMessages {
		t.Errorf("a page has %d publications, and ends at %d, %v", len(page.Publications), page.Upto, err)
	}
	page, err = l.Tail(t.Context(), "book.t", 10*count)
	if err != nil || len(page.Publications) != count || page.Upto != count {
		t.Errorf("a tail has %d publications, and ends at %d, %v", len(page.Publications), page.Upto, err)
	}
	for _, after := range []uint64{0, 500} {
		got, complete := l.readOn("book.t", after, count, 10*count, mb)
		if !complete || len(got) != int(count-after) || !slices.IsSorted(got) {
			t.Errorf("after %d: %d publications, complete %v", after, len(got), complete)
		}
	}
}

// Thousands of messages that are no publications do not end a history, nor does a reader
// ask for the same again and again.
func TestMessagesThatAreNoPublicationsAreSkipped(t *testing.T) {
	l := openLibrary(t)
	l.write("book.t", 10)
	l.store("book.t", "scrawl", 5000)
	l.write("book.t", 10)
	l.store("book.t", "scrawl", 3000)
	end := l.scrawl("book.t", 300*kb)
	all := l.written["book.t"]
	for _, limit := range []int{100, 1000, 10_000} {
		if got, complete := l.readOn("book.t", 0, end, limit, 3*mb); !complete || !slices.Equal(got, all) {
			t.Errorf("limit %d: read were %d, complete %v, want %d", limit, got, complete, all)
		}
	}
	page, err := l.Read(t.Context(), "book.t", all[1], end, 1000)
	if err != nil || len(page.Publications) > 0 || page.Upto != end || !page.Complete {
		t.Errorf("after the last publication: %d up to %d of %d, %v", offsetsOf(page), page.Upto, end, err)
	}
	for limit, want := range map[int][]uint64{4000: all[1:], 3002: all[1:], 3001: nil, 10: nil, 1 << 60: all} {
		page, err := l.Tail(t.Context(), "book.t", limit)
		if err != nil {
			t.Fatal(err)
		}
		rest, _ := l.readOn("book.t", page.Upto, end, 1000, 3*mb)
		if got := append(offsetsOf(page), rest...); !slices.Equal(got, want) {
			t.Errorf("Tail(%d) and what follows: %d, want %d", limit, got, want)
		}
	}
}

// copyThatLags answers a broker's reads of stream BOOKS as a copy does that lacks the newest
// messages. What is asked of the leader goes to the leader.
type copyThatLags struct {
	*testing.T
	nc     *nats.Conn
	stored []*nats.Msg            // of one subject, with their sequences in headers
	behind int                    // how many of the newest it lacks
	asked  func(from uint64) bool // called before each answer; true: the older half is dropped
}

// lagFor puts a copy of what a library has of a topic before the stream.
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

// A tail of a copy that lags does not reach the newest publication. If it is so large that it
// could be taken for one that was cut, it is empty: its start is not the one that was asked for.
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
			// A Read that lags ends where the copy does, cut or not.
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

// Long subjects leave little space for publications in a batch. A tail of them is not cut
// before it has some.
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

// What is dropped between two batches of a tail leaves no hole in it.
func TestTailThatIsTrimmedMeanwhileHasNoHole(t *testing.T) {
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

// What is published between two batches of a tail is in it, and it still has no more than
// was asked for.
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

// Whatever the counts that a search is given, its guess lies between the two places.
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
