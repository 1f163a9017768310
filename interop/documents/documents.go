// Package documents describes the programs of two pages of mizu's
// documentation, on topics and on sessions. Package program has them, and imports this
// project's live. A test compiles it against mizu's live too, by changing that import.
package documents

import (
	"errors"
	"fmt"
	"net/http"
	"sync"
)

// Publish publishes to a topic of the program's server.
type Publish func(topic string, data []byte)

// Programs are the programs of the pages. Each field makes a fresh one.
type Programs struct {
	// Of the page on topics.
	Subscribing    func() (http.Handler, Publish)
	SingleSession  func() http.Handler
	ChatRoom       func() http.Handler
	Notifications  func() (http.Handler, func(userID string, n Notification))
	RealTime       func(db *DB) (http.Handler, func(item Item) error)
	PresenceTopics func() http.Handler
	Background     func() (http.Handler, func(job Job))
	Granularity    func() (http.Handler, Publish)
	Validation     func() (http.Handler, Publish)
	Consistent     func() (http.Handler, func(topic, msgType string, data any))

	// Of the page on sessions.
	Lifecycle        func(log *Log) http.Handler
	SendErrors       func(log *Log) http.Handler
	Authentication   func(log *Log) http.Handler
	AutoSubscribe    func() (http.Handler, Publish)
	PresenceTracking func(online *sync.Map) http.Handler
	DirectMessaging  func() http.Handler
	RoomManagement   func() http.Handler
	GracefulClose    func(onlineUsers, userSessions *sync.Map) http.Handler
}

// UserInfo is who a session belongs to.
type UserInfo struct {
	ID   string
	Name string
	Role string
}

// Notification is what a user is told.
type Notification struct {
	Title   string `json:"title"`
	Message string `json:"message"`
}

// Item is what a user watches, or a team owns.
type Item struct {
	ID     string `json:"id"`
	TeamID string `json:"team_id,omitempty"`
	Name   string `json:"name"`
}

// Job is work in the background.
type Job struct {
	ID       string
	Progress int
}

// ChatMessage is what a user wrote in a room.
type ChatMessage struct {
	User string `json:"user"`
	Text string `json:"text"`
}

// TypingIndicator says that a user is writing.
type TypingIndicator struct {
	User string `json:"user"`
}

// DB is the database of the pages. It refuses what has no ID.
type DB struct {
	mu    sync.Mutex
	items map[string]Item
}

// Save stores an item.
func (db *DB) Save(item Item) error {
	if item.ID == "" {
		return errors.New("an item needs an ID")
	}
	db.mu.Lock()
	defer db.mu.Unlock()
	if db.items == nil {
		db.items = make(map[string]Item)
	}
	db.items[item.ID] = item
	return nil
}

// Item returns what was saved under id.
func (db *DB) Item(id string) (Item, bool) {
	db.mu.Lock()
	defer db.mu.Unlock()
	item, ok := db.items[id]
	return item, ok
}

// ValidateToken knows two users by their tokens.
func ValidateToken(token string) (UserInfo, error) {
	switch token {
	case "Bearer alice":
		return UserInfo{ID: "123", Name: "Alice", Role: "admin"}, nil
	case "Bearer bob":
		return UserInfo{ID: "456", Name: "Bob", Role: "member"}, nil
	}
	return UserInfo{}, errors.New("unknown token")
}

// Log keeps what a program logs.
type Log struct {
	mu    sync.Mutex
	lines []string
}

// Printf adds a line.
func (l *Log) Printf(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, fmt.Sprintf(format, args...))
}

// Println adds a line.
func (l *Log) Println(line string) { l.Printf("%s", line) }

// Lines returns what was logged.
func (l *Log) Lines() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string(nil), l.lines...)
}
