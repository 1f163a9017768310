package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/livetopic/livetopic/live/natsbroker"
)

// patience is how long a test waits for what must happen: longer than all that the
// program waits for a cluster.
const patience = 20 * time.Second

// childEnv is set for processes of this test that are to be the program itself.
const childEnv = "CHAT_TEST_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		main() // this process is a program that a test has started
		return
	}
	// The app logs every request, which is of no use here.
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		log.Fatal(err)
	}
	stderr := os.Stderr
	os.Stderr = null
	code := m.Run()
	os.Stderr = stderr
	os.Exit(code)
}

// serve starts a chat on loopback, in which who leaves is gone after grace.
func serve(t *testing.T, grace time.Duration) (*Chat, string) {
	t.Helper()
	return serveOn(t, natsbroker.Options{}, grace)
}

// serveOn starts one on a NATS.
func serveOn(t *testing.T, o natsbroker.Options, grace time.Duration) (*Chat, string) {
	t.Helper()
	if o.Streams == nil {
		o.Streams = streams()
	}
	o.Logger = slog.New(slog.DiscardHandler)
	nats, err := natsbroker.New(o)
	if err != nil {
		t.Fatal(err)
	}
	ready, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := nats.Ready(ready); err != nil {
		t.Fatal(err)
	}
	chat := NewChat(nats, grace)
	server := httptest.NewServer(chat.Routes())
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := chat.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		server.Close()
	})
	return chat, server.URL
}

// event is anything that the server sends a page.
type event struct {
	Op    string
	ID    int
	Topic string
	At    string

	Code, Message string // error
	Recovered     bool   // reply
	Messages      []struct {
		At   string
		Data message
	}

	Members, Joined, Changed []member // presence; a list has fewer than one frame holds here
	Left                     []string

	Data struct {
		Key, Person, Name, Text, Via string
		You                          string

		Number, Progress int
		Stage            string
	}
}

// member is a person in a room.
type member struct {
	ID       string
	Sessions []info
}

// is reports whether it is a publication in topics of that kind.
func (e event) is(prefix string) bool { return e.Op == "" && strings.HasPrefix(e.Topic, prefix) }

// tab is a page, as a WebSocket client of live.v1.
type tab struct {
	t      *testing.T
	ws     *websocket.Conn
	lastID int
	room   string            // "": it is in none
	people map[string]member // in the room that it has entered last
	events chan event        // closed when the connection has ended
	ended  error             // why; to be read after that
}

// open connects a tab of the person with that cookie; "" is someone new.
func open(t *testing.T, url, cookie string) *tab {
	t.Helper()
	header := http.Header{}
	if cookie != "" {
		header.Set("Cookie", personCookie+"="+cookie)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	options := &websocket.DialOptions{HTTPHeader: header, Subprotocols: []string{"live.v1"}}
	ws, _, err := websocket.Dial(ctx, url+"/live", options)
	if err != nil {
		t.Fatal(err)
	}
	ws.SetReadLimit(-1)
	p := &tab{t: t, ws: ws, events: make(chan event, 1000)}
	t.Cleanup(func() { ws.CloseNow() })
	go p.read() // ends with the connection
	return p
}

func (p *tab) read() {
	defer close(p.events)
	for {
		_, raw, err := p.ws.Read(context.Background())
		if err != nil {
			p.ended = err
			return
		}
		var e event
		if err := json.Unmarshal(raw, &e); err != nil {
			p.t.Errorf("the server sent %s: %v", raw, err)
		}
		p.events <- e
	}
}

// object is one of JSON.
type object map[string]any

// send sends an operation and returns its id.
func (p *tab) send(op, topic string, members object) int {
	p.t.Helper()
	p.lastID++
	frame := object{"op": op, "id": p.lastID, "topic": topic}
	maps.Copy(frame, members)
	raw, err := json.Marshal(frame)
	if err != nil {
		p.t.Fatal(err)
	}
	if err := p.ws.Write(context.Background(), websocket.MessageText, raw); err != nil {
		p.t.Fatal(err)
	}
	return p.lastID
}

// ask sends an operation and returns its answer. What comes before it is lost.
func (p *tab) ask(op, topic string, members object) event {
	p.t.Helper()
	id := p.send(op, topic, members)
	return p.until(func(e event) bool { return e.ID == id })
}

// enter goes into a room as a page does, and returns what is said of the history.
func (p *tab) enter(room, name string) event {
	p.t.Helper()
	if p.room != "" {
		p.ask("unsubscribe", roomPrefix+p.room, nil)
	}
	p.room, p.people = room, nil
	history := p.ask("subscribe", roomPrefix+room, object{"last": maxHistory, "info": info{Name: name}})
	if history.Op != "reply" {
		p.t.Fatalf("%s could not enter %s: %s", name, room, history.Message)
	}
	return history
}

// shows changes what the others see of the tab.
func (p *tab) shows(i info) event {
	p.t.Helper()
	return p.ask("present", roomPrefix+p.room, object{"info": i})
}

// say says something without waiting for the answer.
func (p *tab) say(room, text, key string) int {
	p.t.Helper()
	return p.send("request", "say", object{"data": object{"room": room, "text": text, "key": key}})
}

// until returns the next event for which ok.
func (p *tab) until(ok func(event) bool) event {
	p.t.Helper()
	timeout := time.After(patience)
	for {
		select {
		case e, open := <-p.events:
			if !open {
				p.t.Fatal("the connection has ended: ", p.ended)
			}
			if e.Op == "presence" && e.Topic == roomPrefix+p.room {
				p.meet(e)
			}
			if ok(e) {
				return e
			}
		case <-timeout:
			p.t.Fatal("what was waited for did not come")
		}
	}
}

// meet folds a presence frame into the people.
func (p *tab) meet(e event) {
	if e.Members != nil {
		p.people = make(map[string]member)
	}
	for _, m := range slices.Concat(e.Members, e.Joined, e.Changed) {
		p.people[m.ID] = m
	}
	for _, id := range e.Left {
		delete(p.people, id)
	}
}

// list writes who is here as "2: Ana(2) Bo", where one is there with two tabs.
func (p *tab) list() string {
	var names []string
	for _, m := range p.people {
		name := ""
		for _, s := range m.Sessions {
			name = max(name, s.Name)
		}
		if len(m.Sessions) > 1 {
			name += fmt.Sprintf("(%d)", len(m.Sessions))
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return strings.Join(append([]string{fmt.Sprint(len(names), ":")}, names...), " ")
}

// untilHere waits until so many people are here as the list says.
func (p *tab) untilHere(want string) {
	p.t.Helper()
	if p.list() != want {
		p.until(func(event) bool { return p.list() == want })
	}
}

// awaitEnd returns when the connection has ended.
func (p *tab) awaitEnd() {
	p.t.Helper()
	timeout := time.After(patience)
	for {
		select {
		case _, open := <-p.events:
			if !open {
				return
			}
		case <-timeout:
			p.t.Fatal("the connection did not end")
		}
	}
}

// wantText checks that the next message has that text, and returns it.
func (p *tab) wantText(text string) event {
	p.t.Helper()
	e := p.until(func(e event) bool { return e.is(roomPrefix) })
	if e.Data.Text != text {
		p.t.Errorf("heard %q, want %q", e.Data.Text, text)
	}
	return e
}

// publish publishes over HTTP, as curl does.
func publish(t *testing.T, url, topic, data string) (status int, answer string) {
	t.Helper()
	resp, err := http.Post(url+"/publish", "application/json", strings.NewReader(`{"topic":"`+topic+`","data":`+data+`}`))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(raw)
}

// texts returns those of an answer's messages.
func texts(e event) string {
	var all []string
	for _, m := range e.Messages {
		all = append(all, m.Data.Text)
	}
	return strings.Join(all, " ")
}

// said returns what a room remembers.
func said(t *testing.T, chat *Chat, room string) []message {
	t.Helper()
	all, err := chat.History(t.Context(), room)
	if err != nil {
		t.Fatal(err)
	}
	return all
}
