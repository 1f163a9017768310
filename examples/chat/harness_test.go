package main

import (
	"context"
	"encoding/json"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// patience is how long a test waits for what must happen.
const patience = 10 * time.Second

func TestMain(m *testing.M) {
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
	chat := NewChat()
	chat.grace = grace
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
	Topic string
	Data  struct {
		Type string

		ID                           int64
		Person, Name, Text, Via, Key string

		You      string
		Messages []message
		Last     int64
		Gap      bool

		Count  int
		People []shown

		Reason  string
		Message string

		Number, Progress int
		Stage            string
	}
}

// tab is a page, as a plain WebSocket client.
type tab struct {
	t      *testing.T
	ws     *websocket.Conn
	events chan event // closed when the connection has ended
	ended  error      // why; to be read after that
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
	ws, _, err := websocket.Dial(ctx, url+"/live", &websocket.DialOptions{HTTPHeader: header})
	if err != nil {
		t.Fatal(err)
	}
	ws.SetReadLimit(-1)
	p := &tab{t: t, ws: ws, events: make(chan event, 1000)}
	t.Cleanup(func() { ws.CloseNow() })
	go p.read()
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

func (p *tab) send(topic string, data any) {
	p.t.Helper()
	raw, err := json.Marshal(map[string]any{"topic": topic, "data": data})
	if err != nil {
		p.t.Fatal(err)
	}
	if err := p.ws.Write(context.Background(), websocket.MessageText, raw); err != nil {
		p.t.Fatal(err)
	}
}

// enter goes into a room and returns the history that comes back.
func (p *tab) enter(room, name string, after int64) event {
	p.t.Helper()
	p.send("subscribe", map[string]any{"topic": roomPrefix + room, "name": name, "after": after})
	return p.next("history")
}

func (p *tab) say(room, text, key string) {
	p.t.Helper()
	p.send("publish", map[string]any{"topic": roomPrefix + room, "data": map[string]string{"text": text, "key": key}})
}

// next returns the next event of a type; "error" is the topic of that name.
func (p *tab) next(kind string) event {
	p.t.Helper()
	return p.until(func(e event) bool { return e.Data.Type == kind || e.Topic == kind })
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
			if ok(e) {
				return e
			}
		case <-timeout:
			p.t.Fatal("what was waited for did not come")
		}
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
	e := p.next("message")
	if e.Data.Text != text {
		p.t.Errorf("heard %q, want %q", e.Data.Text, text)
	}
	return e
}

// postTo posts a body and returns the answer.
func postTo(t *testing.T, url, kind, body string) (status int, answer string) {
	t.Helper()
	resp, err := http.Post(url, kind, strings.NewReader(body))
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

func texts(messages []message) string {
	var all []string
	for _, m := range messages {
		all = append(all, m.Text)
	}
	return strings.Join(all, " ")
}
