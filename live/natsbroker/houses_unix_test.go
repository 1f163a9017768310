//go:build unix

package natsbroker

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/livetopic/livetopic/internal/livetest"
)

// process is one start of a node.
type process struct {
	*child
	node    int
	url     string // for clients and for the test
	down    bool   // it was killed, or has shut down
	stopped bool
	cut     bool
	changed time.Time // when one of these changed last, or when it started
}

// mayShow returns until when a process could know from another that a user is present there, who was
// last present there at a time.
func (p *process) mayShow(at *process, last time.Time) time.Time {
	switch {
	case at == p:
	case at.down || at.stopped || at.cut:
		last = earlier(last, at.changed)
	case p.cut:
		last = earlier(last, p.changed)
	default:
		last = later(last, at.changed) // when it can be reached again, what it shows may be old at first
	}
	if !p.cut {
		last = later(last, p.changed) // so may what has waited for this process
	}
	return last
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// houses are the processes of three nodes, and the guests who come and go.
type houses struct {
	*mesh
	test   *testing.T
	rand   *rand.Rand // for the faults
	addrs  []string
	guests []*guest
	client http.Client

	mu        sync.Mutex // guards the fields below, and those of the processes
	processes [meshSize]*process
	born      int
	seen      map[string]map[*process]time.Time // when a user was last present in a topic at a process
	oldest    time.Duration                     // the age of the oldest ghost
	views     int                               // how many the monitor has checked
}

func newHouses(t *testing.T) *houses {
	h := &houses{
		mesh:   newMesh(t),
		test:   t,
		rand:   seedFor(t, *guestSeed),
		addrs:  livetest.FreeAddresses(t, meshSize),
		client: http.Client{Timeout: 2 * time.Second},
		seen:   make(map[string]map[*process]time.Time),
	}
	for i := range meshSize {
		h.start(i)
	}
	for i := range *guestCount {
		// Some users have two connections, and some have one.
		h.guests = append(h.guests, &guest{houses: h, user: fmt.Sprint("user ", i%(*guestCount*2/3)), rand: rand.New(rand.NewPCG(h.rand.Uint64(), 0))})
	}
	t.Cleanup(func() {
		for _, g := range h.guests {
			g.drop()
		}
	})
	return h
}

// start starts the process of a node.
func (h *houses) start(i int) {
	h.test.Helper()
	c := h.options(i).Cluster
	c.NoStore = true
	cluster, err := json.Marshal(map[string]any{ // without TLS, which is no JSON
		"Name": c.Name, "Listen": c.Listen, "Advertise": c.Advertise, "Routes": c.Routes, "NoStore": c.NoStore,
		"Username": c.Username, "Password": c.Password,
	})
	if err != nil {
		h.test.Fatal(err)
	}
	h.mesh.heal(i)
	p := &process{node: i, url: "http://" + h.addrs[i]}
	p.child = startChild(h.test, envCluster+"="+string(cluster), envServe+"="+h.addrs[i], fmt.Sprint(envName, "=node ", i))
	h.mu.Lock()
	defer h.mu.Unlock()
	p.changed = time.Now()
	h.processes[i] = p
	h.born++
}

// change changes what is wrong with the process of a node.
func (h *houses) change(i int, what func(p *process)) *process {
	h.mu.Lock()
	defer h.mu.Unlock()
	p := h.processes[i]
	what(p)
	p.changed = time.Now()
	return p
}

func (h *houses) killHard(i int) {
	p := h.change(i, func(p *process) { p.down = true })
	p.Process.Kill()
	p.Wait()
}

func (h *houses) stopHard(i int) {
	h.change(i, func(p *process) { p.stopped = true }).Process.Signal(syscall.SIGSTOP)
}

func (h *houses) goOn(i int) {
	h.change(i, func(p *process) { p.stopped = false }).Process.Signal(syscall.SIGCONT)
}

func (h *houses) cutOff(i int, how linkState) {
	h.mesh.isolate(i, how)
	h.change(i, func(p *process) { p.cut = true })
}

func (h *houses) join(i int) {
	h.mesh.heal(i)
	h.change(i, func(p *process) { p.cut = false })
}

// at returns the process of a node. serves says that it runs.
func (h *houses) at(i int) (p *process, serves bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	p = h.processes[i]
	return p, !p.down && !p.stopped
}

// view asks a process what its server shows.
func (h *houses) view(p *process) (v hallView, err error) {
	r, err := h.client.Get(p.url + "/view")
	if err != nil {
		return v, err
	}
	defer r.Body.Close()
	return v, json.NewDecoder(r.Body).Decode(&v)
}

// truth is who is present: the infos of each user in each topic.
func (h *houses) truth() hallView { return h.truthWithout(-1) }

// truthWithout is the truth for servers that one node cannot reach.
func (h *houses) truthWithout(node int) hallView {
	v := hallView{Topics: make(map[string]topicView)}
	for _, topic := range hallTopics {
		v.Topics[topic] = topicView{Members: make(map[string][]string)}
	}
	var sessions [meshSize]int
	for _, g := range h.guests {
		g.each(func(at *process) { sessions[at.node]++ }, func(at *process, topic string, s *stay) {
			if s.present && at.node != node {
				v.Topics[topic].Members[g.user] = append(v.Topics[topic].Members[g.user], s.info)
			}
		})
	}
	for topic, tv := range v.Topics {
		for _, infos := range tv.Members {
			slices.Sort(infos)
		}
		tv.Count = len(tv.Members)
		v.Topics[topic] = tv
	}
	for i, n := range sessions {
		if i == node {
			continue
		}
		v.Nodes = append(v.Nodes, fmt.Sprintf("node %d: %d", i, n))
	}
	return v
}

// difference says how two views differ; "": not at all.
func difference(got, want hallView) string {
	var all []string
	for _, topic := range hallTopics {
		g, w := got.Topics[topic], want.Topics[topic]
		if g.Count != w.Count {
			all = append(all, fmt.Sprintf("%s: the count is %d, want %d", topic, g.Count, w.Count))
		}
		all = append(all, differingMembers(topic, g.Members, w.Members)...)
	}
	if !slices.Equal(got.Nodes, want.Nodes) {
		all = append(all, fmt.Sprintf("the nodes are %q, want %q", got.Nodes, want.Nodes))
	}
	return strings.Join(all[:min(len(all), 20)], "\n")
}

func differingMembers(topic string, got, want map[string][]string) (all []string) {
	for user, infos := range got {
		if !slices.Equal(infos, want[user]) {
			all = append(all, fmt.Sprintf("%s: %s has %q, want %q", topic, user, infos, want[user]))
		}
	}
	for user, infos := range want {
		if _, ok := got[user]; !ok {
			all = append(all, fmt.Sprintf("%s: %s is missing, want %q", topic, user, infos))
		}
	}
	return all
}

// awaitTruth waits until every server and every client shows the sockets that are open. It may take
// ten seconds.
func (h *houses) awaitTruth(after string) {
	h.test.Helper()
	began := time.Now()
	for {
		wrong := h.whatIsWrong()
		took := time.Since(began).Round(10 * time.Millisecond)
		if wrong == "" {
			h.test.Logf("%s: true everywhere after %v, %d guests at %v", after, took, len(h.guests), h.truth().Nodes)
			return
		}
		if took > 10*time.Second {
			h.test.Fatalf("%s: ten seconds later %s", after, wrong)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func (h *houses) whatIsWrong() string {
	for i := range meshSize {
		p, _ := h.at(i)
		v, err := h.view(p)
		if err != nil {
			return fmt.Sprintf("node %d does not answer: %v", i, err)
		}
		if d := difference(v, h.truth()); d != "" {
			return fmt.Sprintf("node %d shows what is not true:\n%s", i, d)
		}
	}
	truth := h.truth()
	for i, g := range h.guests {
		wrong := ""
		g.each(nil, func(at *process, topic string, s *stay) {
			if d := s.difference(topic, truth.Topics[topic]); d != "" && s.subscribed {
				wrong = fmt.Sprintf("client %d at node %d shows what is not true:\n%s", i, at.node, d)
			}
		})
		if wrong != "" {
			return wrong
		}
	}
	return ""
}
