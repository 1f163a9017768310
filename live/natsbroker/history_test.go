package natsbroker

import (
	"bytes"
	"slices"
	"testing"

	"github.com/livetopic/livetopic/live/broker"
)

// library is a broker whose stream has long histories, and a record of what is in them.
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

// scrawl stores a message of that many bytes that is not a publication, as other programs may
// do.
func (l *library) scrawl(topic string, size int) (sequence uint64) {
	l.Helper()
	tokens, _ := encode(topic)
	ack, err := l.JetStream().Publish(l.Context(), l.storedSubject(tokens), bytes.Repeat([]byte{'x'}, size))
	if err != nil {
		l.Fatal(err)
	}
	return ack.Sequence
}

// store stores the same message many times.
func (l *library) store(topic, data string, times int) {
	l.Helper()
	tokens, _ := encode(topic)
	for i := range times {
		if _, err := l.JetStream().PublishAsync(l.storedSubject(tokens), []byte(data)); err != nil {
			l.Fatal(err)
		}
		if i%500 == 499 || i == times-1 { // JetStream refuses more at once
			<-l.JetStream().PublishAsyncComplete()
		}
	}
}

// received runs a call, and returns how many bytes came from NATS during it.
func (l *library) received(call func() (broker.Page, error)) (broker.Page, uint64) {
	l.Helper()
	before := l.NATSConn().Stats().InBytes
	page, err := call()
	if err != nil {
		l.Fatal(err)
	}
	return page, l.NATSConn().Stats().InBytes - before
}

// readOn reads page by page, and returns all offsets. A page may have most bytes at most, and
// may cost no more than that.
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

// Publications of half a megabyte lie among others and among messages that are not
// publications. They are read in pages of two. All of them come, once and in order.
func TestHistoryOfLargePublicationsIsReadInPages(t *testing.T) {
	t.Parallel()
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
	// The search for a page also reads messages that are not publications, one after another.
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

// A page of small publications also ends by size, and no page ends long before the bound.
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

// A trimmed history says so in the page with the hole, and in no other page. The publication at
// which a page begins may be larger than a page.
func TestTrimmedHistoryOfLargePublicationsSaysSo(t *testing.T) {
	t.Parallel()
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
		if after != 6 && page.Complete != (after > 6) { // 7 is the oldest, so what was before it is unknown
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

// Messages that are not publications lie between a hole and a page. The page reports the hole.
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

// The smallest publications take more memory than their bytes, so a page has a bound for their
// number. A tail has no such bound: a server would take a short tail for one of a copy that
// lags.
func TestPageOfTheSmallestPublicationsIsCut(t *testing.T) {
	t.Parallel()
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

// Thousands of messages that are not publications do not end a history, and a reader does not
// ask for the same messages again and again.
func TestMessagesThatAreNoPublicationsAreSkipped(t *testing.T) {
	t.Parallel()
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

// During a rollout a newer instance lowers the limit of a topic. The older instance reports the
// hole too, though its own limit is higher. A higher limit at NATS is no hole.
func TestHoleByTheLimitOfAnotherInstanceIsTold(t *testing.T) {
	s := startServer(t)
	with := func(limit int64) *Broker {
		b := open(t, Options{Servers: []string{s.ClientURL()}, Streams: chatStream(StreamConfig{MaxMsgsPerTopic: limit})})
		b.Start(devNull{})
		return b
	}
	publish := func(b *Broker, n int) (at broker.Position) {
		t.Helper()
		for range n {
			var err error
			if at, err = b.Publish(t.Context(), "chat.a", []byte("1"), broker.PublishOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		return at
	}
	for _, c := range []struct {
		mine, theirs int64
		want         int
	}{{1000, 5, 5}, {5, 1000, 20}} {
		mine := with(c.mine)
		// Another topic has the first sequence, so there is no message of this topic at it.
		if _, err := mine.Publish(t.Context(), "chat.b", []byte("1"), broker.PublishOptions{}); err != nil {
			t.Fatal(err)
		}
		before, err := mine.Last(t.Context(), "chat.b")
		if err != nil {
			t.Fatal(err)
		}
		with(c.theirs)
		last := publish(mine, 20)
		page, err := mine.Read(t.Context(), "chat.a", before.Offset, last.Offset, 100)
		if whole := c.want == 20; err != nil || len(page.Publications) != c.want || page.Complete != whole {
			t.Errorf("the limits are %d here and %d at NATS: %d publications, complete %v, %v",
				c.mine, c.theirs, len(page.Publications), page.Complete, err)
		}
		purge(t, mine.JetStream())
	}
}
