// Command testserver is a live server for tests of pages: it says what it sees of
// each page, gives out tokens that can expire, and pings as often as it is told.
//
//	go run ./examples/testserver -ping 300ms
//
// Its page subscribes to the topic "ticks", of which the newest 100 publications
// are kept. The page /presence shows who is present in the topic "room". The topic "scores" has a state, the newest score of
// each player, and each page's publication to "votes" takes the place of its last one. The page /inspect/ is the
// inspector, which allows everything. The tests in client/test/browser stop, kill and cut the server.
package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/livetopic/livetopic/client"
	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/inspector"
)

// maxHistory is how many ticks are kept: a test that wants a gap publishes more.
const maxHistory = 100

//go:embed page.html
var page string

//go:embed presence.html
var presencePage string

func main() {
	addr := flag.String("addr", "localhost:0", "`address` to listen on")
	ping := flag.Duration("ping", 0, "how long a client may be silent before it is pinged; 0: as the library has it")
	flag.Parse()

	listener, err := net.Listen("tcp", *addr)
	if err != nil {
		log.Fatal("testserver: ", err)
	}
	server := newServer(*ping)
	web := &http.Server{Handler: server.routes(), ReadHeaderTimeout: 5 * time.Second}
	fmt.Printf("Test server: http://%s\n", listener.Addr())
	if err := server.live.Run(context.Background(), func() error { return web.Serve(listener) }, web.Shutdown); err != nil {
		log.Fatal("testserver: ", err)
	}
}

// server is the live server and what it has seen.
type server struct {
	live *live.Server

	mu     sync.Mutex
	pages  map[string]*visits // by the page's id
	issued int                // tokens; only the newest is valid
	ticks  int
	scores map[string]int // by player
}

// visits are the sessions of one page.
type visits struct {
	Open  int `json:"open"`
	Most  int `json:"most"` // that were open at one time
	Total int `json:"total"`
}

func newServer(ping time.Duration) *server {
	s := &server{pages: make(map[string]*visits), scores: make(map[string]int)}
	s.live = live.New(live.Options{
		OnAuth:       s.authenticate,
		OnConnect:    s.connected,
		OnClose:      s.closed,
		OnSubscribe:  func(context.Context, *live.Session, string) error { return nil },
		OnPublish:    s.publish,
		OnRequest:    echo,
		OnPresence:   func(_ context.Context, _ *live.Session, _ string, info []byte) ([]byte, error) { return info, nil },
		Topics:       s.topicOptions,
		PingInterval: ping,
	})
	return s
}

// topicOptions shows who is present in the topic "room", and in those that begin with "room:". A page's id is its user.
func (s *server) topicOptions(topic string) live.TopicOptions {
	if strings.HasPrefix(topic, "room:") {
		return live.TopicOptions{Presence: live.PresenceVisible, History: maxHistory}
	}
	switch topic {
	case "room":
		return live.TopicOptions{Presence: live.PresenceVisible}
	case "scores":
		return live.TopicOptions{Snapshot: s.standings}
	case "votes":
		return live.TopicOptions{Keyed: true, ClientKey: func(sess *live.Session, _ []byte) string { return sess.Value().(string) }}
	}
	return live.TopicOptions{History: maxHistory}
}

// publish lets every page publish, and notes the scores.
func (s *server) publish(_ context.Context, _ *live.Session, topic string, data []byte) ([]byte, error) {
	if topic != "scores" {
		return data, nil
	}
	var score struct {
		Player string
		Score  int
	}
	if err := json.Unmarshal(data, &score); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.scores[score.Player] = score.Score
	return data, nil
}

func (s *server) standings(context.Context, string) (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.scores), nil
}

// authenticate returns the page's id. A token, where there is one, must be the newest.
func (s *server) authenticate(_ context.Context, r *http.Request) (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if token := live.Token(r); token != "" && token != strconv.Itoa(s.issued) {
		return nil, errors.New("the token has expired")
	}
	return r.URL.Query().Get("page"), nil
}

func (s *server) connected(_ context.Context, sess *live.Session) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	id := sess.Value().(string)
	if s.pages[id] == nil {
		s.pages[id] = &visits{}
	}
	v := s.pages[id]
	v.Open++
	v.Total++
	v.Most = max(v.Most, v.Open)
	return nil
}

func (s *server) closed(sess *live.Session, _ error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pages[sess.Value().(string)].Open--
}

func echo(_ context.Context, _ *live.Session, _ string, data []byte) (any, error) {
	return json.RawMessage(data), nil
}

func (s *server) routes() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/live", s.live.Handler())
	mux.Handle("/live.js", client.Handler())
	mux.Handle("/element.js", client.Files())
	mux.Handle("/livetopic/", client.Files())
	mux.HandleFunc("GET /presence", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, presencePage) })
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, page) })
	mux.HandleFunc("GET /elsewhere", func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "<!doctype html><title>Elsewhere</title>")
	})
	mux.HandleFunc("GET /stats", s.stats)
	mux.HandleFunc("POST /token", s.token)
	mux.HandleFunc("POST /ticks", s.tick)
	mux.HandleFunc("POST /publish", s.publishTexts)
	mux.HandleFunc("POST /disconnect", s.disconnect)
	mux.Handle("/inspect/", inspector.New(s.live, inspector.Options{
		Auth:  inspector.Loopback,
		Allow: inspector.Allow{Payloads: true, Publish: true, Close: true, SlowReader: true},
		Drain: s.live.Shutdown,
	}))
	return mux
}

// stats tells what the server sees, and how many sessions have the parameter topic.
func (s *server) stats(w http.ResponseWriter, r *http.Request) {
	stats := s.live.Stats()
	s.mu.Lock()
	defer s.mu.Unlock()
	answer(w, map[string]any{
		"sessions": stats.Sessions, "accepted": stats.Accepted, "refused": stats.Refused,
		"pages": s.pages, "tokens": s.issued, "subscribers": s.live.Subscribers(r.FormValue("topic")),
	})
}

// token gives out a new token, and ends the ones before.
func (s *server) token(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.issued++
	answer(w, map[string]string{"token": strconv.Itoa(s.issued)})
}

// tick publishes the next numbers, as many as the parameter n says.
func (s *server) tick(w http.ResponseWriter, r *http.Request) {
	n, err := strconv.Atoi(r.FormValue("n"))
	if err != nil || n < 1 {
		http.Error(w, "n must be a number from 1", http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for range n {
		s.ticks++
		if err := live.Publish(s.live, "ticks", s.ticks); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
	}
	answer(w, map[string]int{"last": s.ticks})
}

// publishTexts publishes texts to the topic in the parameter topic: as many as n says, of size bytes each.
func (s *server) publishTexts(w http.ResponseWriter, r *http.Request) {
	n, errN := strconv.Atoi(r.FormValue("n"))
	size, errSize := strconv.Atoi(r.FormValue("size"))
	if errN != nil || errSize != nil || n < 1 || size < 0 || size > 1<<20 {
		http.Error(w, "n must be a number from 1, and size one from 0 to 1048576", http.StatusBadRequest)
		return
	}
	text := strings.Repeat("x", size)
	for range n {
		if err := live.Publish(s.live, r.FormValue("topic"), text); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
	}
	answer(w, map[string]int{"published": n})
}

// disconnect ends all sessions of the user in the parameter user.
func (s *server) disconnect(w http.ResponseWriter, r *http.Request) {
	if err := s.live.DisconnectUser(r.FormValue("user"), r.FormValue("reason")); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	answer(w, map[string]string{"disconnected": r.FormValue("user")})
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(v)
}
