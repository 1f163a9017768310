//go:build unix

package natsbroker

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"
)

// guest is a client that comes and goes as it likes. Only one goroutine at a time makes it do things.
type guest struct {
	houses *houses
	user   string
	rand   *rand.Rand

	mu    sync.Mutex // guards visit
	visit *visit     // the newest; nil: there was none
}

// visit is one connection of a guest.
type visit struct {
	guest   *guest
	at      *process
	ws      *websocket.Conn
	ended   chan struct{} // closed when nothing is read any more
	answers chan hallFrame

	mu      sync.Mutex // guards the fields below
	over    bool       // the connection has ended
	stays   map[string]*stay
	asked   uint64        // the ID of the newest operation
	effect  func(s *stay) // of that operation, if it succeeds
	about   *stay         // what effect changes
	notices int           // how many times somebody joined or left, as the client was told
}

// stay is a client in a topic: what is true, and what it was told.
type stay struct {
	subscribed, present bool
	info                string // "null": none

	told    bool
	partial bool // more of a state is to come
	members map[string][]string
	count   int
}

// hallFrame is a frame of live.v1.
type hallFrame struct {
	Op              string
	ID              uint64
	Topic           string
	Code            string
	Count           *int
	Members         *[]hallMember
	Joined, Changed []hallMember
	Left            []string
	Continued, More bool
}

type hallMember struct {
	ID       string
	Sessions []json.RawMessage
}

// patienceOfGuest is how long a guest waits for an answer before it hangs up.
const patienceOfGuest = 3 * time.Second

// now returns the connection of a guest; nil: there is none.
func (g *guest) now() *visit {
	g.mu.Lock()
	v := g.visit
	g.mu.Unlock()
	if v == nil {
		return nil
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.over {
		return nil
	}
	return v
}

// each calls functions for the open connection of a guest, and for each of its topics.
func (g *guest) each(connection func(at *process), topic func(at *process, topic string, s *stay)) {
	v := g.now()
	if v == nil {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.over {
		return
	}
	if connection != nil {
		connection(v.at)
	}
	if topic != nil {
		for name, s := range v.stays {
			topic(v.at, name, s)
		}
	}
}

// act does something.
func (g *guest) act() {
	v := g.now()
	if v == nil {
		g.connect(g.rand.IntN(meshSize))
		return
	}
	topic := hallTopics[g.rand.IntN(len(hallTopics))]
	v.mu.Lock()
	s := *v.stays[topic]
	v.mu.Unlock()
	info := []string{`1`, `{"typing":true}`, fmt.Sprintf(`"%d"`, g.rand.IntN(100))}[g.rand.IntN(3)]
	switch n := g.rand.IntN(12); {
	case n < 4 && !s.subscribed && g.rand.IntN(4) == 0:
		v.do("subscribe", topic, `,"unseen":true`, func(s *stay) { s.subscribed = true })
	case n < 4 && !s.subscribed:
		v.do("subscribe", topic, `,"info":`+info, func(s *stay) { s.subscribed, s.present, s.info = true, true, info })
	case n < 5 && s.subscribed:
		v.do("unsubscribe", topic, "", func(s *stay) { *s = stay{} })
	case n < 9:
		v.do("present", topic, `,"info":`+info, func(s *stay) { s.present, s.info = true, info })
	case n < 10:
		v.do("absent", topic, "", func(s *stay) { s.present, s.info = false, "" })
	case n < 11:
		v.end()
		go v.ws.Close(websocket.StatusGoingAway, "") // ends after the server's answer, or five seconds
	default:
		v.drop()
	}
}

// connect opens a connection to a node, if its process runs. Now and then it tries one that has
// stopped.
func (g *guest) connect(node int) *visit {
	p, serves := g.houses.at(node)
	if !serves && g.rand.IntN(10) > 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), patienceOfGuest)
	defer cancel()
	ws, _, err := websocket.Dial(ctx, p.url+"/live", &websocket.DialOptions{
		Subprotocols: []string{"live.v1"}, HTTPHeader: http.Header{"User": {g.user}},
	})
	if err != nil {
		return nil
	}
	ws.SetReadLimit(-1)
	v := &visit{guest: g, at: p, ws: ws, ended: make(chan struct{}), answers: make(chan hallFrame, 1), stays: make(map[string]*stay)}
	for _, topic := range hallTopics {
		v.stays[topic] = &stay{}
	}
	g.mu.Lock()
	g.visit = v
	g.mu.Unlock()
	go v.read() // ends with the connection
	return v
}

// drop breaks the connection, if there is one.
func (g *guest) drop() {
	if v := g.now(); v != nil {
		v.drop()
	}
}

// moveAfter waits until a connection has ended, and makes the same at another node than this.
func (g *guest) moveAfter(old *visit, node int) {
	<-old.ended
	time.Sleep(time.Duration(g.rand.IntN(3500)) * time.Millisecond)
	v := g.connect((node + 1 + g.rand.IntN(meshSize-1)) % meshSize)
	if v == nil {
		g.houses.test.Errorf("%s could not move", g.user)
		return
	}
	for topic, s := range old.stays {
		s := *s
		switch {
		case s.subscribed && s.present && s.info != "null":
			v.do("subscribe", topic, `,"info":`+s.info, func(n *stay) { n.subscribed, n.present, n.info = true, true, s.info })
		case s.subscribed:
			v.do("subscribe", topic, `,"unseen":true`, func(n *stay) { n.subscribed = true })
		case s.present:
			v.do("present", topic, `,"info":`+s.info, func(n *stay) { n.present, n.info = true, s.info })
		}
	}
}

// do makes an operation. Without an answer in time the guest hangs up, since nobody knows whether it was
// made.
func (v *visit) do(op, topic, more string, effect func(s *stay)) {
	v.mu.Lock()
	v.asked++
	v.effect, v.about = effect, v.stays[topic]
	text := fmt.Sprintf(`{"op":%q,"id":%d,"topic":%q%s}`, op, v.asked, topic, more)
	v.mu.Unlock()
	v.guest.houses.saw(v, topic) // the server may show the user from now on, and until the answer has come
	defer v.guest.houses.saw(v, topic)
	ctx, cancel := context.WithTimeout(context.Background(), patienceOfGuest)
	defer cancel()
	if err := v.ws.Write(ctx, websocket.MessageText, []byte(text)); err != nil {
		v.drop()
		return
	}
	select {
	case f := <-v.answers:
		if f.Op == "error" && f.Code != "unavailable" {
			panic(fmt.Sprintf("%s was refused: %+v", text, f))
		}
	case <-v.ended:
	case <-ctx.Done():
		v.drop()
	}
}

// end notes that the connection has ended.
func (v *visit) end() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.over {
		return
	}
	v.over = true
	for topic, s := range v.stays {
		if s.present {
			v.guest.houses.saw(v, topic)
		}
	}
}

// drop breaks the connection without a farewell.
func (v *visit) drop() {
	v.end()
	v.ws.CloseNow()
}

func (v *visit) noticed() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.notices
}

func (v *visit) read() {
	defer close(v.ended)
	defer v.drop()
	for {
		_, raw, err := v.ws.Read(context.Background())
		if err != nil {
			return
		}
		var f hallFrame
		if err := json.Unmarshal(raw, &f); err != nil {
			panic(fmt.Sprintf("%q: %v", raw, err))
		}
		switch f.Op {
		case "ping":
			v.ws.Write(context.Background(), websocket.MessageText, []byte(`{"op":"pong"}`))
		case "presence":
			v.take(f)
		case "reply", "error":
			v.answered(f)
		}
	}
}

func (v *visit) answered(f hallFrame) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if f.ID != v.asked || v.over {
		return
	}
	if f.Op == "reply" {
		v.effect(v.about)
	}
	v.answers <- f
}

// take takes a frame of presence, as docs/protocol.md says.
func (v *visit) take(f hallFrame) {
	v.mu.Lock()
	defer v.mu.Unlock()
	s := v.stays[f.Topic]
	if s == nil || !s.subscribed {
		panic(fmt.Sprintf("presence of a topic to which nobody has subscribed: %+v", f))
	}
	v.notices += len(f.Joined) + len(f.Left)
	if f.Count != nil {
		if s.told && *f.Count != s.count {
			v.notices++
		}
		s.told, s.count = true, *f.Count
		return
	}
	if f.Members != nil {
		s.partial = f.More
		if !f.Continued {
			s.told, s.members = true, make(map[string][]string)
		}
		s.set(*f.Members)
	}
	s.set(f.Joined)
	s.set(f.Changed)
	for _, id := range f.Left {
		delete(s.members, id)
	}
	s.count = len(s.members)
}

func (s *stay) set(members []hallMember) {
	for _, m := range members {
		infos := []string{}
		for _, info := range m.Sessions {
			infos = append(infos, infoText(info))
		}
		slices.Sort(infos)
		s.members[m.ID] = infos
	}
}

// difference says how what a client was told differs from what is true; "": not at all.
func (s *stay) difference(topic string, want topicView) string {
	kind, _, _ := strings.Cut(topic, ".")
	switch {
	case kind == "private":
		return ""
	case !s.told || s.partial:
		return topic + ": it has not heard all"
	case s.count != want.Count:
		return fmt.Sprintf("%s: the count is %d, want %d", topic, s.count, want.Count)
	case kind == "counted":
		return ""
	}
	return strings.Join(differingMembers(topic, s.members, want.Members), "\n")
}
