package presence

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// sim is an application of several servers, on a bus that loses, doubles, delays and reorders
// messages. What is true is kept beside them.
type sim struct {
	t     *testing.T
	r     *rand.Rand
	now   int64
	nodes []*simNode
	mail  []letter
	incs  uint64

	loss, double float64
	delay        time.Duration // the longest
	cut          map[[2]int]bool

	sent, bytes int
}

// simNode is a server, and a client that hears of everything that Flush tells.
type simNode struct {
	*Table
	sessions map[uint64]session             // that are open: what is true
	heard    map[string]map[string][]string // topic, member, infos
	paused   bool
	waking   bool // it was paused, and does not read yet
}

type session struct{ topic, member, info string }

type letter struct {
	at   int64
	to   int
	data []byte
}

const simGrace = 3 * time.Second

var simTopics = []string{"a", "b", "c"}

func newSim(t *testing.T, seed uint64, nodes int) *sim {
	s := &sim{t: t, r: rand.New(rand.NewPCG(seed, 1)), now: int64(time.Hour), cut: make(map[[2]int]bool)}
	for range nodes {
		s.nodes = append(s.nodes, s.boot())
	}
	return s
}

func (s *sim) boot() *simNode {
	s.incs++
	var inc Incarnation
	binary.BigEndian.PutUint64(inc[:], s.incs)
	n := &simNode{
		Table:    New(Config{Self: inc, Grace: simGrace}),
		sessions: make(map[uint64]session),
		heard:    make(map[string]map[string][]string),
	}
	for _, topic := range simTopics {
		n.Watch(topic)
		n.heard[topic] = make(map[string][]string)
	}
	return n
}

// post sends messages of a server to all, itself included.
func (s *sim) post(from int, messages [][]byte) {
	for _, b := range messages {
		s.sent++
		s.bytes += len(b)
		if len(b) > MaxMessage+MaxEntry {
			s.t.Fatalf("a message of %d bytes", len(b))
		}
		for to := range s.nodes {
			if s.cut[[2]int{from, to}] {
				continue
			}
			for s.r.Float64() >= s.loss {
				at := s.now
				if s.delay > 0 {
					at += s.r.Int64N(int64(s.delay))
				}
				s.mail = append(s.mail, letter{at, to, b})
				if s.r.Float64() >= s.double {
					break
				}
			}
		}
	}
}

const simStep = 50 * time.Millisecond

// run lets time go by. A server that goes on after a stop may do what is due before it reads its mail.
func (s *sim) run(d time.Duration) {
	for end := s.now + int64(d); s.now < end; s.now += int64(simStep) {
		slices.SortStableFunc(s.mail, func(a, b letter) int { return int(a.at - b.at) })
		var later []letter
		for _, l := range s.mail {
			switch n := s.nodes[l.to]; {
			case l.at > s.now || n.paused || n.waking:
				later = append(later, l)
			default:
				n.Hear(l.data, s.now)
			}
		}
		s.mail = later
		for i, n := range s.nodes {
			if n.paused {
				continue
			}
			if at, ok := n.Next(s.now); ok && at <= s.now || s.r.IntN(10) == 0 {
				s.post(i, n.Tick(s.now))
			}
			n.waking = false
			if s.r.IntN(3) == 0 {
				s.flush(n)
			}
		}
	}
}

// flush tells the client of a server what has changed, and checks that it makes sense.
func (s *sim) flush(n *simNode) {
	n.Marked()
	for _, topic := range simTopics {
		d := n.Flush(topic)
		heard := n.heard[topic]
		for _, m := range d.Joined {
			if _, known := heard[m.ID]; known {
				s.t.Errorf("%s joined %s twice", m.ID, topic)
			}
			heard[m.ID] = textsOf(m.Sessions)
		}
		for _, m := range d.Changed {
			before, known := heard[m.ID]
			if !known || slices.Equal(before, textsOf(m.Sessions)) {
				s.t.Errorf("%s changed in %s from %v to %v", m.ID, topic, before, textsOf(m.Sessions))
			}
			heard[m.ID] = textsOf(m.Sessions)
		}
		for _, id := range d.Left {
			if _, known := heard[id]; !known {
				s.t.Errorf("%s left %s, and was not there", id, topic)
			}
			delete(heard, id)
		}
		told := len(d.Joined)+len(d.Changed)+len(d.Left) > 0
		if n.ShownCount(topic) != len(heard) || told && len(n.Shown(topic, 0)) != len(heard) {
			s.t.Errorf("%d members of %s are shown, the client has %d", n.ShownCount(topic), topic, len(heard))
		}
	}
}

func textsOf(infos [][]byte) []string {
	all := make([]string, len(infos))
	for i, info := range infos {
		all[i] = string(info)
	}
	return all
}

// truth is who is in a topic: one line for each member.
func (s *sim) truth(topic string) string {
	members := make(map[string][]string)
	for _, n := range s.nodes {
		for _, sess := range n.sessions {
			if sess.topic == topic {
				members[sess.member] = append(members[sess.member], sess.info)
			}
		}
	}
	return linesOf(members)
}

func linesOf(members map[string][]string) string {
	var lines []string
	for id, infos := range members {
		infos = slices.Sorted(slices.Values(infos))
		lines = append(lines, fmt.Sprintf("%s %q", id, infos))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// check compares every server's view, and what its client has heard, with the truth.
func (s *sim) check(what string) {
	s.t.Helper()
	for i, n := range s.nodes {
		s.flush(n)
		for _, topic := range simTopics {
			view := make(map[string][]string)
			for _, m := range n.Members(topic) {
				view[m.ID] = textsOf(m.Sessions)
			}
			if got, want := linesOf(view), s.truth(topic); got != want {
				s.t.Errorf("%s: server %d has in %s\n%s\nwant\n%s", what, i, topic, got, want)
			}
			if got, want := linesOf(n.heard[topic]), linesOf(view); got != want {
				s.t.Errorf("%s: the client of server %d has\n%s\nwant\n%s", what, i, got, want)
			}
			if n.Count(topic) != len(view) {
				s.t.Errorf("%s: the count is %d, want %d", what, n.Count(topic), len(view))
			}
		}
	}
}

// change has somebody do something.
func (s *sim) change() {
	n := s.nodes[s.r.IntN(len(s.nodes))]
	if n.paused {
		return
	}
	if len(n.sessions) < 8 && s.r.IntN(2) == 0 {
		sess := session{simTopics[s.r.IntN(len(simTopics))], fmt.Sprintf("u%d", s.r.IntN(6)), s.info()}
		n.sessions[n.Enter(sess.topic, sess.member, []byte(sess.info), s.now)] = sess
		return
	}
	refs := make([]uint64, 0, len(n.sessions))
	for ref := range n.sessions {
		refs = append(refs, ref)
	}
	if len(refs) == 0 {
		return
	}
	slices.Sort(refs)
	ref := refs[s.r.IntN(len(refs))]
	if s.r.IntN(3) > 0 {
		n.Leave(ref, s.now)
		delete(n.sessions, ref)
		return
	}
	sess := n.sessions[ref]
	sess.info = s.info()
	n.sessions[ref] = sess
	n.Change(ref, []byte(sess.info), s.now)
}

func (s *sim) info() string {
	return []string{"", `1`, `{"typing":true}`, `"` + strings.Repeat("x", 900) + `"`}[s.r.IntN(4)]
}

// fault makes something go wrong, or right again.
func (s *sim) fault() {
	i, j := s.r.IntN(len(s.nodes)), s.r.IntN(len(s.nodes))
	switch s.r.IntN(8) {
	case 0: // kill -9, and a new start
		s.nodes[i] = s.boot()
	case 1: // SIGSTOP, or SIGCONT
		s.nodes[i].waking = s.nodes[i].paused && s.r.IntN(2) == 0
		s.nodes[i].paused = !s.nodes[i].paused
	case 2:
		s.cut[[2]int{i, j}] = true // in one direction
	case 3:
		s.cut[[2]int{i, j}], s.cut[[2]int{j, i}] = true, true
	case 4:
		s.cut = make(map[[2]int]bool)
	case 5:
		s.loss = []float64{0, 0.05, 0.3}[s.r.IntN(3)]
	case 6:
		s.double = []float64{0, 0.3}[s.r.IntN(2)]
	case 7:
		s.delay = []time.Duration{0, 20 * time.Millisecond, 700 * time.Millisecond}[s.r.IntN(3)]
	}
}

// quiet ends all faults.
func (s *sim) quiet() {
	s.loss, s.double, s.delay = 0, 0, 0
	s.cut = make(map[[2]int]bool)
	for _, n := range s.nodes {
		n.paused = false
	}
}

// seeds is how many runs there are: a few seconds of them.
func seeds() uint64 {
	if testing.Short() {
		return 300
	}
	return defaultSeeds
}

// Whatever was lost, doubled, delayed, cut, stopped or killed: ten seconds after the last fault
// every server has what is true, and so has its client.
func TestEveryViewIsTrueTenSecondsAfterTheLastFault(t *testing.T) {
	for seed := range seeds() {
		s := newSim(t, seed, 2+int(seed%3))
		for range 2 + s.r.IntN(60) {
			if s.r.IntN(4) == 0 {
				s.fault()
			} else {
				s.change()
			}
			if s.r.IntN(2) == 0 {
				s.run(time.Duration(s.r.Int64N(int64(2 * time.Second))))
			}
		}
		s.quiet()
		s.run(10 * time.Second)
		s.check(fmt.Sprintf("seed %d", seed))
		if t.Failed() {
			return
		}
	}
}

// On a bus without faults a view is true a moment later.
func TestViewIsTrueAtOnceWithoutFaults(t *testing.T) {
	s := newSim(t, 1, 3)
	for range 200 {
		s.change()
		s.run(100 * time.Millisecond)
	}
	s.run(simGrace + 200*time.Millisecond) // for those who have left
	s.check("without faults")
}

// Many entries come in chunks, also while they change and messages are lost.
func TestServerThatComesLaterLearnsOfManyEntries(t *testing.T) {
	for _, loss := range []float64{0, 0.05} {
		s := newSim(t, 1, 2)
		for i := range 20_000 {
			sess := session{simTopics[i%3], fmt.Sprintf("user %d", i), ""}
			s.nodes[0].sessions[s.nodes[0].Enter(sess.topic, sess.member, nil, s.now)] = sess
		}
		s.run(time.Second)
		s.nodes[1] = s.boot()
		s.sent, s.bytes, s.loss = 0, 0, loss
		for i := range 100 {
			ref := uint64(1 + i*77)
			s.nodes[0].Leave(ref, s.now)
			delete(s.nodes[0].sessions, ref)
			s.run(50 * time.Millisecond)
		}
		s.run(2 * time.Second)
		t.Logf("loss %v: %d messages, %d KB", loss, s.sent, s.bytes>>10)
		s.quiet()
		s.run(10 * time.Second)
		s.check(fmt.Sprintf("loss %v", loss))
	}
}
