//go:build unix

package natsbroker

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/livetopic/livetopic/live"
)

var (
	guestCount = flag.Int("guests", 50, "clients of TestPresenceOverProcesses")
	guestTime  = flag.Duration("guests.time", 0, "how long TestPresenceOverProcesses makes faults at random; 0: a few seconds of fixed faults")
	guestSeed  = flag.Uint64("guests.seed", 0, "of TestPresenceOverProcesses; 0: a random one")
)

// The topics of the guests. The first word says what clients see.
var hallTopics = []string{"visible.1", "visible.2", "counted.1", "private.1"}

func hallRules(topic string) live.TopicOptions {
	seen := map[string]live.Presence{"visible": live.PresenceVisible, "counted": live.PresenceCounted, "private": live.PresencePrivate}
	kind, _, _ := strings.Cut(topic, ".")
	return live.TopicOptions{Presence: seen[kind], PresenceLimit: 10_000}
}

// hallView is what a server shows, as its process tells the test.
type hallView struct {
	Topics map[string]topicView
	Nodes  []string // the name and the sessions of each
}

type topicView struct {
	Count   int
	Members map[string][]string // the infos of each user, sorted
}

// The environment of a child.
const (
	envCluster = "NATSBROKER_TEST_CLUSTER" // its Cluster, as JSON
	envServe   = "NATSBROKER_TEST_SERVE"   // its address for clients and for the test
	envName    = "NATSBROKER_TEST_NAME"
)

// serveHall is the process of one node.
func serveHall(t *testing.T) {
	var cluster Cluster
	if err := json.Unmarshal([]byte(os.Getenv(envCluster)), &cluster); err != nil {
		t.Fatal(err)
	}
	b, err := New(Options{Cluster: &cluster, Logger: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	server := live.New(live.Options{
		NodeName:    os.Getenv(envName),
		Broker:      b,
		Logger:      quiet(),
		Topics:      hallRules,
		OnAuth:      func(_ context.Context, r *http.Request) (any, error) { return r.Header.Get("User"), nil },
		OnSubscribe: func(context.Context, *live.Session, string) error { return nil },
		OnPresence:  func(_ context.Context, _ *live.Session, _ string, info []byte) ([]byte, error) { return info, nil },
	})
	mux := http.NewServeMux()
	mux.Handle("/live", server.Handler())
	mux.HandleFunc("/view", func(w http.ResponseWriter, _ *http.Request) { json.NewEncoder(w).Encode(viewAll(server)) })
	mux.HandleFunc("/shutdown", func(_ http.ResponseWriter, r *http.Request) { server.Shutdown(r.Context()) })
	ln, err := net.Listen("tcp", os.Getenv(envServe))
	if err != nil {
		t.Fatal(err)
	}
	go http.Serve(ln, mux) // ends with the process
	fmt.Println("ready")
	awaitParent()
}

func viewAll(s *live.Server) hallView {
	v := hallView{Topics: make(map[string]topicView)}
	for _, topic := range hallTopics {
		tv := topicView{Count: s.PresenceCount(topic), Members: make(map[string][]string)}
		for _, m := range s.Presence(topic) {
			infos := []string{}
			for _, session := range m.Sessions {
				infos = append(infos, infoText(session.Info))
			}
			slices.Sort(infos)
			tv.Members[m.UserID] = infos
		}
		v.Topics[topic] = tv
	}
	for _, n := range s.Nodes() {
		v.Nodes = append(v.Nodes, fmt.Sprint(n.Name, ": ", n.Stats.Sessions))
	}
	return v
}

func infoText(info json.RawMessage) string {
	if info == nil {
		return "null"
	}
	return string(info)
}

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
		addrs:  freeAddresses(t, meshSize),
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
	cluster, err := json.Marshal(c)
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

// ghostBound is how long somebody may be shown who is gone, and ghostSlack what a busy machine and
// the pauses of the monitor add.
const (
	ghostBound = 10 * time.Second
	ghostSlack = 2 * time.Second
)

// monitor checks the servers that run until the result is called: no count is negative, and nobody is
// shown whose last session has ended too long ago. A session at a server that is out of reach
// counts as ended.
func (h *houses) monitor() (end func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var watching sync.WaitGroup
	watching.Go(func() { // ends with ctx
		for ctx.Err() == nil {
			h.note()
			for i := range meshSize {
				if p, serves := h.at(i); serves {
					asked := time.Now()
					if v, err := h.view(p); err == nil {
						h.checkGhosts(p, v, asked)
					}
				}
			}
			sleep(ctx, 100*time.Millisecond)
		}
	})
	return func() {
		cancel()
		watching.Wait()
	}
}

// note notes who is present where.
func (h *houses) note() {
	for _, g := range h.guests {
		if v := g.now(); v != nil {
			g.each(nil, func(_ *process, topic string, s *stay) {
				if s.present {
					h.saw(v, topic)
				}
			})
		}
	}
}

// saw notes that the user of a connection is present in a topic now, or may be.
func (h *houses) saw(v *visit, topic string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	key := topic + " " + v.guest.user
	if h.seen[key] == nil {
		h.seen[key] = make(map[*process]time.Time)
	}
	h.seen[key][v.at] = time.Now()
}

func (h *houses) checkGhosts(p *process, v hallView, asked time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if p.stopped || p.down {
		return
	}
	h.views++
	for topic, tv := range v.Topics {
		if tv.Count < 0 {
			h.test.Errorf("node %d counts %d members of %s", p.node, tv.Count, topic)
		}
		for user := range tv.Members {
			var last time.Time
			for at, when := range h.seen[topic+" "+user] {
				last = later(last, p.mayShow(at, when))
			}
			if last.IsZero() {
				continue // its first answer is still to come
			}
			age := asked.Sub(last)
			h.oldest = max(h.oldest, age)
			if age > ghostBound+ghostSlack {
				h.test.Errorf("node %d shows %s in %s, who has been gone for %v", p.node, user, topic, age)
			}
		}
	}
}

// churn has the guests do what they like for a while.
func (h *houses) churn(d time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	h.during(ctx)
}

func (h *houses) during(ctx context.Context) {
	var all sync.WaitGroup
	for _, g := range h.guests {
		all.Go(func() {
			for ctx.Err() == nil {
				sleep(ctx, time.Duration(g.rand.IntN(2*guestPause)))
				g.act()
			}
		})
	}
	all.Wait()
}

// guestPause is about how long a guest waits between two deeds.
const guestPause = int(600 * time.Millisecond)

// drain shuts a server down while nobody does anything else. Its guests go to other servers while they
// are still shown, and nobody there may notice.
func (h *houses) drain(i int) {
	h.test.Helper()
	p, _ := h.at(i)
	began := time.Now()
	noticed := make(map[*visit]int)
	var moving sync.WaitGroup
	moved := 0
	for _, g := range h.guests {
		v := g.now()
		switch {
		case v == nil:
		case v.at != p:
			noticed[v] = v.noticed()
		default:
			moved++
			moving.Go(func() { g.moveAfter(v, i) }) // ends when the guest has moved
		}
	}
	h.change(i, func(p *process) { p.down = true })
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, "GET", p.url+"/shutdown", nil)
	if err != nil {
		h.test.Fatal(err)
	}
	if answer, err := http.DefaultClient.Do(r); err != nil {
		h.test.Errorf("node %d did not shut down: %v", i, err)
	} else {
		answer.Body.Close()
	}
	p.Process.Kill()
	p.Wait()
	moving.Wait()
	time.Sleep(time.Until(began.Add(5 * time.Second))) // other servers show those who leave for four seconds
	for v, before := range noticed {
		if n := v.noticed() - before; n > 0 {
			h.test.Errorf("a client at node %d was told %d times that somebody joined or left", v.at.node, n)
		}
	}
	h.test.Logf("node %d was drained: %d guests moved, %d watched", i, moved, len(noticed))
}

// pause stops a server for longer than the bound while nobody does anything. The others show its users
// no longer, and then again. The clients of the server notice nothing: nobody has come or gone.
func (h *houses) pause(i int) {
	h.test.Helper()
	noticed := make(map[*visit]int)
	for _, g := range h.guests {
		if v := g.now(); v != nil && v.at.node == i {
			noticed[v] = v.noticed()
		}
	}
	h.stopHard(i)
	time.Sleep(ghostBound + 500*time.Millisecond)
	for j := range meshSize {
		if j == i {
			continue
		}
		p, _ := h.at(j)
		v, err := h.view(p)
		if err != nil {
			h.test.Errorf("node %d does not answer: %v", j, err)
		} else if d := difference(v, h.truthWithout(i)); d != "" {
			h.test.Errorf("ten seconds after a stop of node %d node %d shows what is not true:\n%s", i, j, d)
		}
	}
	time.Sleep(2 * time.Second)
	h.goOn(i)
	h.awaitTruth("a server was stopped while nobody did anything")
	time.Sleep(3 * time.Second) // so that a beat has come
	for v, before := range noticed {
		if n := v.noticed() - before; n > 0 {
			h.test.Errorf("a client of the server that was stopped was told %d times that somebody joined or left", n)
		}
	}
}

// Three processes serve users who come, go, change and come back, while processes are killed, stopped,
// cut off and drained. Nobody is shown who has been gone for longer than ten seconds, and ten
// seconds after the last fault every server and every client shows the sockets that are open.
func TestPresenceOverProcesses(t *testing.T) {
	if isChild(t) {
		serveHall(t)
		return
	}
	if testing.Short() {
		t.Skip("takes a quarter of a minute")
	}
	t.Parallel()
	h := newHouses(t)
	end := h.monitor()
	defer func() { end() }()
	if *guestTime > 0 {
		h.faultsAtRandom(*guestTime)
	} else {
		h.fixedFaults()
	}
	end()
	t.Logf("%d processes; %d views, and nobody was shown who had been gone for more than %v", h.born, h.views, h.oldest.Round(10*time.Millisecond))
}

func (h *houses) fixedFaults() {
	h.churn(500 * time.Millisecond)
	h.whileChurning(func() {
		h.killHard(1)
		time.Sleep(500 * time.Millisecond)
		h.start(1)
		h.stopHard(2)
		h.cutOff(0, linkCut)
		time.Sleep(2 * time.Second)
		h.join(0)
		h.goOn(2)
		time.Sleep(500 * time.Millisecond)
	})
	h.awaitTruth("a server killed, one stopped and one cut off")
	h.drain(h.rand.IntN(meshSize))
}

// whileChurning does something while guests come and go.
func (h *houses) whileChurning(do func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan bool)
	go func() { // ends after the cancel
		h.during(ctx)
		close(done)
	}()
	do()
	cancel()
	<-done
}

// faultsAtRandom makes one fault after another, and now and then all is quiet.
func (h *houses) faultsAtRandom(d time.Duration) {
	h.churn(5 * time.Second)
	faults := []struct {
		name string
		do   func(i int)
	}{
		{"a server is killed", func(i int) {
			h.killHard(i)
			time.Sleep(time.Duration(h.rand.IntN(12)) * time.Second)
			h.start(i)
		}},
		{"a server is stopped for long", func(i int) {
			h.stopHard(i)
			time.Sleep(14 * time.Second)
			h.goOn(i)
		}},
		{"a server is cut off for long", func(i int) {
			h.cutOff(i, []linkState{linkCut, linkBlackhole}[h.rand.IntN(2)])
			time.Sleep(14 * time.Second)
			h.join(i)
		}},
		{"two servers have faults", func(i int) {
			h.stopHard(i)
			time.Sleep(2 * time.Second)
			h.cutOff((i+1)%meshSize, linkBlackhole)
			time.Sleep(3 * time.Second)
			h.join((i + 1) % meshSize)
			h.killHard((i + 2) % meshSize)
			time.Sleep(time.Second)
			h.start((i + 2) % meshSize)
			h.goOn(i)
		}},
		{"all are killed at once", func(int) {
			for i := range meshSize {
				h.killHard(i)
			}
			for i := range meshSize {
				h.start(i)
			}
		}},
	}
	for end := time.Now().Add(d); time.Now().Before(end); {
		h.rand.Shuffle(len(faults), func(i, j int) { faults[i], faults[j] = faults[j], faults[i] })
		for _, f := range faults {
			i := h.rand.IntN(meshSize)
			h.whileChurning(func() {
				f.do(i)
				time.Sleep(2 * time.Second)
			})
			h.awaitTruth(f.name)
		}
		i := h.rand.IntN(meshSize)
		h.drain(i)
		h.start(i)
		h.awaitTruth("a server was drained")
		h.pause((i + 1) % meshSize)
	}
}
