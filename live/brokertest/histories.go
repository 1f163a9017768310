package brokertest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/broker"
)

// histories are the promises of a broker that keeps history.
var histories = []promise{
	{"positions grow within one epoch, and each names the one before it", func(s *suite) {
		n, topic := s.nodes[0], s.Topic("t", long)
		n.subscribe(topic)
		s.publishers(4, 100, func(int) *node { return n }, topic, long)
		got := n.awaitCount(topic, 400)
		s.checkOrder(got, 4, 100)
		s.checkChain(got)
		if !n.recoverer().Keeps(topic) {
			s.Errorf("Keeps(%q) is false", topic)
		}
	}},

	{"Publish returns the position that is delivered", func(s *suite) {
		n, topic := s.nodes[0], s.Topic("t", long)
		n.subscribe(topic)
		positions := make(map[string]live.Position)
		var mu sync.Mutex
		var wg sync.WaitGroup
		for g := range 4 {
			wg.Go(func() {
				for i := range 50 {
					at, err := n.Publish(s.ctx(), topic, []byte(number(g, i)), long)
					if err != nil {
						s.Errorf("Publish: %v", err)
						return
					}
					mu.Lock()
					positions[number(g, i)] = at
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		for _, p := range n.awaitCount(topic, 200) {
			if at := positions[string(p.Data)]; p.Position != at {
				s.Errorf("%s: Publish returned %v, delivered was %v", p.Data, at, p.Position)
			}
		}
	}},

	{"Publish returns a position though nobody is subscribed", func(s *suite) {
		n, topic := s.nodes[0], s.Topic("t", short)
		first := n.publish(topic, number(0), short)
		second := n.publish(topic, number(1), short)
		if first.Epoch == "" || second.Epoch != first.Epoch || second.Offset <= first.Offset {
			s.Errorf("%v, then %v", first, second)
		}
		s.quiet()
		n.await(topic)
	}},

	{"an empty topic has a position, and a later publication a greater one", func(s *suite) {
		n, topic := s.nodes[0], s.Topic("t", short)
		n.subscribe(topic)
		empty := n.last(topic)
		if empty.Epoch == "" {
			s.Errorf("an empty topic has no epoch: %v", empty)
		}
		s.wantPage(n.tail(topic, 10), empty.Epoch, 0, 0)
		first := n.publish(topic, number(0), short)
		if first.Epoch != empty.Epoch || first.Offset <= empty.Offset {
			s.Errorf("empty at %v, the first publication at %v", empty, first)
		}
		page := n.read(topic, empty.Offset, first.Offset, 10)
		s.wantPage(page, first.Epoch, 0, 1)
		s.wantComplete(page, true)
	}},

	{"Last is the newest position as soon as Publish has returned", func(s *suite) {
		n, topic := s.nodes[0], s.Topic("t", short)
		for i := range 50 {
			at := n.publish(topic, number(i), short)
			if last := n.last(topic); last != at {
				s.Fatalf("published at %v, Last is %v", at, last)
			}
		}
	}},

	{"a publication with an ID is made once, and has one position", publishWithIDs},

	{"a history that lost its end is another one", func(s *suite) {
		if s.LoseEnd == nil {
			s.Skip("Features.LoseEnd is nil")
		}
		n, topic := s.nodes[0], s.Topic("t", long)
		var before live.Position
		for i := range 20 {
			before = n.publish(topic, number(i), long)
		}
		if b := s.LoseEnd(s.T, n.Broker, topic); b != n.Broker {
			n = s.start(b)
		}
		for i := range 20 { // the offsets of lost publications are used again
			at := n.publish(topic, number(100+i), long)
			if at.Epoch == before.Epoch {
				s.Fatalf("the newest was at %v and is lost; another publication is at %v", before, at)
			}
		}
		if now := n.last(topic); now.Epoch == before.Epoch {
			s.Errorf("the newest was at %v and is lost; the newest is at %v", before, now)
		}
	}},

	{"Read returns what lies between two offsets", func(s *suite) {
		n, topic := s.nodes[0], s.Topic("t", long)
		at := []uint64{n.last(topic).Offset}
		var epoch string
		for i := range 20 {
			p := n.publish(topic, number(i), long)
			at, epoch = append(at, p.Offset), p.Epoch
		}
		for _, c := range []struct{ after, upto, limit, from, to int }{
			{0, 20, 100, 0, 20},
			{0, 20, 20, 0, 20},
			{5, 15, 100, 5, 15},
			{5, 6, 100, 5, 6},
			{19, 20, 1, 19, 20},
			{20, 20, 100, 20, 20},
			{7, 7, 100, 7, 7},
			{0, 20, 7, 0, 7},
			{7, 20, 7, 7, 14},
			{14, 20, 7, 14, 20},
			{3, 20, 1, 3, 4},
		} {
			page := n.read(topic, at[c.after], at[c.upto], c.limit)
			s.wantPage(page, epoch, c.from, c.to)
			s.wantComplete(page, true)
		}
		page := n.read(topic, at[18], at[20]+1000, 100)
		s.wantPage(page, epoch, 18, 20)
	}},

	{"Tail returns the newest", func(s *suite) {
		n, topic := s.nodes[0], s.Topic("t", long)
		var epoch string
		for i := range 20 {
			epoch = n.publish(topic, number(i), long).Epoch
		}
		for _, limit := range []int{1, 7, 20, 100} {
			s.wantPage(n.tail(topic, limit), epoch, max(0, 20-limit), 20)
		}
	}},

	{"large publications are read page by page", func(s *suite) {
		n, topic, other := s.nodes[0], s.Topic("t", long), s.Topic("u", long)
		at := []uint64{n.last(topic).Offset}
		var all []string
		var epoch string
		for i := range 40 {
			data := fmt.Sprintf(`[%d,"%s"]`, i, strings.Repeat("x", 100_000))
			p := n.publish(topic, data, long)
			n.publish(other, number(i), long)
			all, at, epoch = append(all, data), append(at, p.Offset), p.Epoch
		}
		for _, limit := range []int{1, 2, 25, 40, 100} {
			page := n.tail(topic, limit)
			s.wantData(page, epoch, all[max(0, 40-limit):])
			s.wantComplete(page, true)
		}
		for _, c := range []struct{ after, upto, limit, to int }{
			{0, 40, 100, 40}, {0, 40, 25, 25}, {7, 33, 100, 33}, {7, 33, 1, 8}, {39, 40, 100, 40}, {40, 40, 100, 40},
		} {
			page := n.read(topic, at[c.after], at[c.upto], c.limit)
			s.wantData(page, epoch, all[c.after:c.to])
			s.wantComplete(page, true)
		}
		s.wantPage(n.tail(other, 30), n.last(other).Epoch, 10, 40)
	}},

	{"what is read is what was delivered", func(s *suite) {
		n, topic := s.nodes[0], s.Topic("t", long)
		empty := n.last(topic)
		n.subscribe(topic)
		data := []string{"", "null", ` {"a" : "é"} `, `"` + string(slices.Repeat([]byte("x"), 100_000)) + `"`}
		for _, d := range data {
			n.publish(topic, d, long)
		}
		got := n.await(topic, data...)
		for _, page := range []broker.Page{
			n.read(topic, empty.Offset, n.last(topic).Offset, 100),
			n.tail(topic, 100),
		} {
			if len(page.Publications) != len(got) {
				s.Fatalf("%d publications were read, %d delivered", len(page.Publications), len(got))
			}
			for i, p := range page.Publications {
				d := got[i]
				drift := p.Time.Sub(d.Time).Abs()
				if p.Topic != d.Topic || string(p.Data) != string(d.Data) || p.Position != d.Position || drift > time.Second {
					s.Errorf("delivered was %s, %v; read was %s, %v", describe(d), d.Time, describe(p), p.Time)
				}
				if p.Prev != 0 && (i == 0 || p.Prev != got[i-1].Offset) && d.Prev != p.Prev {
					s.Errorf("read was %s", describe(p))
				}
			}
		}
	}},

	{"a history that was trimmed by number says so", func(s *suite) {
		n, topic := s.nodes[0], s.Topic("t", short)
		at := []uint64{n.last(topic).Offset}
		var epoch string
		for i := range 25 {
			p := n.publish(topic, number(i), short)
			at, epoch = append(at, p.Offset), p.Epoch
		}
		s.eventually(func() bool { return len(n.tail(topic, 100).Publications) == 10 }, func() string {
			return fmt.Sprintf("a history of 10 has %d publications", len(n.tail(topic, 100).Publications))
		})
		s.wantPage(n.tail(topic, 100), epoch, 15, 25)
		for after := range 25 {
			page := n.read(topic, at[after], at[25], 100)
			s.wantPage(page, epoch, max(15, after), 25)
			switch {
			case after < 15: // publication after+1 was dropped
				s.wantComplete(page, false)
			case after > 15: // all publications after it are still there
				s.wantComplete(page, true)
			}
		}
		s.wantComplete(n.read(topic, at[3], at[7], 100), false)
		s.wantComplete(n.read(topic, at[3], at[25], 5), false)
	}},

	{"a history that was trimmed by age says so, and keeps its epoch", func(s *suite) {
		n, topic := s.nodes[0], s.Topic("t", fleeting)
		empty := n.last(topic)
		var last live.Position
		for i := range 3 {
			last = n.publish(topic, number(i), fleeting)
		}
		s.eventually(func() bool { return len(n.tail(topic, 100).Publications) == 0 }, func() string {
			return fmt.Sprintf("a history of %v still has %d publications", fleeting.HistoryAge, len(n.tail(topic, 100).Publications))
		})
		s.wantComplete(n.read(topic, empty.Offset, last.Offset, 100), false)
		if now := n.last(topic); now != last {
			s.Errorf("Last was %v, and is %v with an empty history", last, now)
		}
		next := n.publish(topic, number(3), fleeting)
		if next.Epoch != last.Epoch || next.Offset <= last.Offset {
			s.Errorf("after %v came %v", last, next)
		}
		page := n.read(topic, empty.Offset, next.Offset, 100)
		s.wantPage(page, next.Epoch, 3, 4)
		s.wantComplete(page, false)
	}},

	{"histories of topics that look alike never mix", func(s *suite) {
		n := s.nodes[0]
		for i, name := range alike {
			if len(name) > 200 {
				continue // Topic may have to make it longer
			}
			n.publish(s.Topic(name, short), number(i), short)
		}
		for i, name := range alike {
			if len(name) > 200 {
				continue
			}
			if got := dataOf(n.tail(s.Topic(name, short), 100).Publications); !slices.Equal(got, []string{number(i)}) {
				s.Errorf("the history of %q is %q", name, got)
			}
		}
	}},

	{"a history may be read while it grows", func(s *suite) {
		n, topic := s.nodes[0], s.Topic("t", long)
		n.subscribe(topic)
		empty := n.last(topic)
		var pages []broker.Page
		var mu sync.Mutex
		done := make(chan struct{})
		var readers sync.WaitGroup
		for range 3 {
			readers.Go(func() {
				after := empty.Offset
				for i := 0; ; i++ {
					last, err := n.recoverer().Last(s.ctx(), topic)
					if err != nil {
						s.Errorf("Last: %v", err)
						return
					}
					page, err := n.recoverer().Read(s.ctx(), topic, after, last.Offset, 20)
					if err != nil {
						s.Errorf("Read: %v", err)
						return
					}
					if len(page.Publications) > 0 {
						after = page.Publications[len(page.Publications)-1].Offset
						mu.Lock()
						pages = append(pages, page)
						mu.Unlock()
						continue
					}
					select {
					case <-done:
						return
					default:
					}
				}
			})
		}
		s.publishers(4, 50, func(int) *node { return n }, topic, long)
		close(done)
		s.soon("reading", readers.Wait)
		log := n.read(topic, empty.Offset, n.last(topic).Offset, 1000).Publications
		s.checkOrder(log, 4, 50)
		place := make(map[uint64]int)
		for i, p := range log {
			place[p.Offset] = i
		}
		for _, page := range pages {
			s.wantComplete(page, true)
			for i, p := range page.Publications {
				if at := place[p.Offset]; i > 0 && at != place[page.Publications[i-1].Offset]+1 {
					s.Fatalf("a page has %q, which is not in one piece", dataOf(page.Publications))
				}
			}
		}
		if got := dataOf(n.awaitCount(topic, 200)); !slices.Equal(got, dataOf(log)) {
			s.Error("what was delivered has another order than what was read")
		}
	}},

	{"a context that has ended does no harm to the history", func(s *suite) {
		n, topic := s.nodes[0], s.Topic("t", short)
		at := n.publish(topic, number(0), short)
		ended, cancel := context.WithCancel(context.Background())
		cancel()
		s.soon("a call with a context that has ended", func() {
			n.recoverer().Last(ended, topic)
			n.recoverer().Read(ended, topic, 0, at.Offset, 10)
			n.recoverer().Tail(ended, topic, 10)
		})
		if last := n.last(topic); last != at {
			s.Errorf("published at %v, Last is %v", at, last)
		}
		s.wantPage(n.tail(topic, 10), at.Epoch, 0, 1)
	}},

	{"what was read is not changed", func(s *suite) {
		n, topic := s.nodes[0], s.Topic("t", short)
		for i := range 10 {
			n.publish(topic, number(i), short)
		}
		page := n.tail(topic, 10)
		epoch := page.Epoch
		for i := range 10 {
			n.publish(topic, number(10+i), short)
		}
		s.wantPage(page, epoch, 0, 10)
	}},
}

func (n *node) recoverer() broker.Recoverer {
	n.s.Helper()
	r, ok := n.Broker.(broker.Recoverer)
	if !ok {
		n.s.Fatalf("%T is no broker.Recoverer", n.Broker)
	}
	return r
}

func (n *node) last(topic string) live.Position {
	n.s.Helper()
	at, err := n.recoverer().Last(n.s.ctx(), topic)
	if err != nil {
		n.s.Fatalf("Last(%q): %v", topic, err)
	}
	return at
}

// read reads page after page, up to an offset or the newest publication, or until it has
// limit publications. A page may be cut. If the copy that answers lags, read asks again.
func (n *node) read(topic string, after, upto uint64, limit int) broker.Page {
	n.s.Helper()
	reach := min(upto, n.last(topic).Offset)
	all := broker.Page{Upto: after, Complete: true}
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		page, err := n.recoverer().Read(n.s.ctx(), topic, all.Upto, upto, limit-len(all.Publications))
		if err != nil {
			n.s.Fatalf("Read(%q, %d, %d, %d): %v", topic, all.Upto, upto, limit-len(all.Publications), err)
		}
		n.checkPage(page, limit-len(all.Publications))
		all = n.join(all, page)
		if len(all.Publications) >= limit {
			n.checkCut(all, reach)
			return all
		}
		if all.Upto >= reach {
			return all
		}
		if time.Now().After(deadline) {
			n.s.Fatalf("Read(%q, %d, %d, %d) reaches no further than %d", topic, after, upto, limit, all.Upto)
		}
	}
}

// join appends a page to the pages before it, which are joined already. A page that goes no
// further adds nothing.
func (n *node) join(before, next broker.Page) broker.Page {
	n.s.Helper()
	if before.Epoch != "" && next.Epoch != before.Epoch {
		n.s.Fatalf("after a page of epoch %q came one of epoch %q", before.Epoch, next.Epoch)
	}
	before.Epoch = next.Epoch
	before.Complete = before.Complete && (next.Complete || next.Upto <= before.Upto)
	before.Publications = append(slices.Clip(before.Publications), next.Publications...)
	before.Upto = max(before.Upto, next.Upto)
	return before
}

// checkPage checks the rules for every page.
func (n *node) checkPage(page broker.Page, limit int) {
	n.s.Helper()
	got := page.Publications
	if len(got) > limit {
		n.s.Errorf("a page has %d publications, the limit is %d", len(got), limit)
	}
	if len(got) > 0 && page.Upto < got[len(got)-1].Offset {
		n.s.Fatalf("a page reaches to %d only, and has %s", page.Upto, describe(got[len(got)-1]))
	}
}

// checkCut checks how far a full page says that it reaches.
func (n *node) checkCut(page broker.Page, reach uint64) {
	n.s.Helper()
	newest := page.Publications[len(page.Publications)-1].Offset
	if page.Upto < newest || newest < reach && page.Upto != newest {
		n.s.Errorf("a page that a limit has cut at offset %d reaches to %d", newest, page.Upto)
	}
}

// tail reads the newest publications. Tail may return only the oldest of them, if they are large.
// Then tail reads the others. If a small page ends early, the copy that answered lags. It also lags
// if there are more than limit publications in the end. Then tail asks again.
func (n *node) tail(topic string, limit int) broker.Page {
	n.s.Helper()
	reach := n.last(topic).Offset
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		page, err := n.recoverer().Tail(n.s.ctx(), topic, limit)
		if err != nil {
			n.s.Fatalf("Tail(%q, %d): %v", topic, limit, err)
		}
		n.checkPage(page, limit)
		if page.Upto < reach && isLarge(page) {
			page = n.join(page, n.read(topic, page.Upto, reach, limit))
		}
		if page.Upto >= reach && len(page.Publications) <= limit {
			return page
		}
		if time.Now().After(deadline) {
			n.s.Fatalf("Tail(%q, %d), and what follows it, has %d publications, and reaches to %d; Last is %d", topic, limit, len(page.Publications), page.Upto, reach)
		}
	}
}

// isLarge reports whether a tail is so large that it may be cut.
func isLarge(page broker.Page) bool {
	bytes := 0
	for _, p := range page.Publications {
		bytes += len(p.Data)
	}
	return bytes >= broker.MinTailBytes
}

// wantPage checks that a page has the publications numbered from to to-1.
func (s *suite) wantPage(page broker.Page, epoch string, from, to int) {
	s.Helper()
	s.wantData(page, epoch, numbers(from, to))
}

// wantData checks that a page has these publications.
func (s *suite) wantData(page broker.Page, epoch string, want []string) {
	s.Helper()
	if got := dataOf(page.Publications); !slices.Equal(got, want) {
		s.Errorf("a page has %.40q, want %.40q", got, want)
	}
	if page.Epoch != epoch {
		s.Errorf("a page has epoch %q, not %q", page.Epoch, epoch)
	}
	for i, p := range page.Publications {
		if p.Epoch != page.Epoch {
			s.Errorf("a page of epoch %q has %s", page.Epoch, describe(p))
		}
		if i > 0 && p.Offset <= page.Publications[i-1].Offset {
			s.Errorf("a page has %s after %s", describe(p), describe(page.Publications[i-1]))
		}
	}
}

func (s *suite) wantComplete(page broker.Page, want bool) {
	s.Helper()
	if page.Complete != want {
		s.Errorf("a page with %.40q has Complete: %v", dataOf(page.Publications), page.Complete)
	}
}

// checkChain checks the positions of publications that were delivered one after
// another.
func (s *suite) checkChain(got []*broker.Publication) {
	s.Helper()
	for i, p := range got {
		if p.Epoch == "" || p.Offset == 0 {
			s.Fatalf("%s has no position", describe(p))
		}
		if i == 0 {
			continue
		}
		before := got[i-1]
		if p.Epoch != before.Epoch || p.Offset <= before.Offset || p.Prev != 0 && p.Prev != before.Offset {
			s.Fatalf("after %s came %s", describe(before), describe(p))
		}
	}
}

// publishWithIDs publishes the same IDs several times at the same moment, at all nodes.
func publishWithIDs(s *suite) {
	if !s.IDs {
		s.Skip("Features.IDs is false")
	}
	topic, other := s.Topic("t", long), s.Topic("u", long)
	const ids, times = 20, 3
	named := func(id int) broker.PublishOptions {
		o := long
		o.ID = fmt.Sprint("ID ", id)
		return o
	}
	var mu sync.Mutex
	positions := make(map[int]map[live.Position]bool)
	var wg sync.WaitGroup
	for g := range times {
		n := s.nodes[g%len(s.nodes)]
		wg.Go(func() {
			for id := range ids {
				at, err := n.Publish(s.ctx(), topic, []byte(number(id)), named(id))
				if err != nil {
					s.Errorf("Publish: %v", err)
					return
				}
				mu.Lock()
				if positions[id] == nil {
					positions[id] = make(map[live.Position]bool)
				}
				positions[id][at] = true
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	for id, all := range positions {
		if len(all) != 1 {
			s.Errorf("publication %d has the positions %v", id, all)
		}
	}
	n := s.nodes[0]
	n.publish(topic, number(ids), long)
	n.publish(topic, number(ids), long) // without an ID it is a new publication
	if stored := n.tail(topic, 100).Publications; len(stored) != ids+2 {
		s.Errorf("%d publications are stored, want %d", len(stored), ids+2)
	}
	n.publish(other, number(0), named(0))
	if stored := n.tail(other, 100).Publications; len(stored) != 1 {
		s.Errorf("with an ID of another topic %d publications are stored", len(stored))
	}
}
