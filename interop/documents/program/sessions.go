package program

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"sync"

	"github.com/livetopic/livetopic/interop/documents"

	"github.com/livetopic/livetopic/live"
)

// lifecycle is "Session Lifecycle" with "ID", "Close", "IsClosed" and
// "Subscription Management".
func lifecycle(log *documents.Log) http.Handler {
	var server *live.Server
	server = live.New(live.Options{
		OnAuth: func(ctx context.Context, r *http.Request) (any, error) {
			userID := r.URL.Query().Get("user")
			if userID == "" {
				return nil, errors.New("who are you?")
			}
			// Good: just the user ID
			return userID, nil
		},
		OnMessage: func(ctx context.Context, s *live.Session, topic string, data []byte) {
			sessionID := s.ID()
			log.Printf("Message from session: %s", sessionID)
			switch topic {
			case "join":
				// Subscribe a session to a topic
				server.Subscribe(s, "chat:room1")
			case "leave":
				// Unsubscribe from a topic
				server.Unsubscribe(s, "chat:room1")
			case "say":
				server.Publish("chat:room1", data)
			case "close":
				s.Close()
			}
			if s.IsClosed() {
				return // Don't send to closed session
			}
			s.Send(live.Message{Topic: "id", Data: []byte(`"` + sessionID + `"`)})
		},
		OnClose: func(s *live.Session, err error) {
			log.Printf("Closed %s of %s: %v, %v", s.ID(), s.Value(), s.IsClosed(), err == s.CloseError())
			if err := s.Send(live.Message{Topic: "too late"}); err == live.ErrSessionClosed {
				log.Println("Session already closed")
			}
		},
	})
	return server.Handler()
}

// sendErrors is "Send" with "CloseError": it sends until that fails, and once
// more.
func sendErrors(log *documents.Log) http.Handler {
	large, _ := json.Marshal(make([]byte, 64<<10))
	server := live.New(live.Options{
		QueueSize: 8,
		OnMessage: func(ctx context.Context, s *live.Session, topic string, data []byte) {
			var err error
			for err == nil {
				err = s.Send(live.Message{Topic: "notification", Data: large})
			}
			for range 2 {
				// Send a message
				if err == live.ErrSessionClosed {
					log.Println("Session already closed")
				} else if err == live.ErrQueueFull {
					log.Println("Queue full, session closed")
				}
				err = s.Send(live.Message{
					Topic: "notification",
					Data:  []byte(`{"title":"Hello"}`),
				})
			}
			log.Printf("IsClosed: %v", s.IsClosed())
		},
		OnClose: func(s *live.Session, err error) {
			closeErr := s.CloseError()
			if closeErr == live.ErrQueueFull {
				log.Println("Client couldn't keep up")
			}
		},
	})
	return server.Handler()
}

// authentication is "User Authentication" with "Value". A message that passes
// the check is answered.
func authentication(log *documents.Log) http.Handler {
	server := live.New(live.Options{
		OnAuth: func(ctx context.Context, r *http.Request) (any, error) {
			token := r.Header.Get("Authorization")
			user, err := documents.ValidateToken(token)
			if err != nil {
				return nil, err
			}
			return user, nil
		},
		OnMessage: func(ctx context.Context, s *live.Session, topic string, data []byte) {
			// Retrieve user info
			user := s.Value().(documents.UserInfo)
			log.Printf("Message from user: %s", user.Name)
			// Check permissions
			if topic == "admin" && user.Role != "admin" {
				s.Send(live.Message{Topic: "error", Data: []byte(`"unauthorized"`)})
				return
			}
			// Handle message...
			s.Send(live.Message{Topic: "handled", Data: data})
		},
	})
	return server.Handler()
}

// autoSubscribe is "Auto-Subscribe on Connect".
func autoSubscribe() (http.Handler, documents.Publish) {
	var server *live.Server
	server = live.New(live.Options{
		OnAuth: func(ctx context.Context, r *http.Request) (any, error) {
			// Store user info
			return documents.UserInfo{ID: r.URL.Query().Get("user")}, nil
		},
		OnMessage: func(ctx context.Context, s *live.Session, topic string, data []byte) {
			user := s.Value().(documents.UserInfo)
			switch topic {
			case "init":
				// Subscribe to default topics
				server.Subscribe(s, "user:"+user.ID)
				server.Subscribe(s, "global")
				// Send welcome message
				s.Send(live.Message{
					Topic: "welcome",
					Data:  []byte(`{"status":"connected"}`),
				})
			case "subscribe":
				// Handle explicit subscription requests
				var req struct {
					Topic string `json:"topic"`
				}
				json.Unmarshal(data, &req)
				server.Subscribe(s, req.Topic)
			}
		},
	})
	return server.Handler(), func(topic string, data []byte) { server.Publish(topic, data) }
}

// presenceTracking is "Presence Tracking".
func presenceTracking(onlineUsers *sync.Map) http.Handler {
	var server *live.Server
	server = live.New(live.Options{
		OnAuth: func(ctx context.Context, r *http.Request) (any, error) {
			userID := r.URL.Query().Get("user")
			return userID, nil
		},
		OnMessage: func(ctx context.Context, s *live.Session, topic string, data []byte) {
			userID := s.Value().(string)
			if topic == "init" {
				// Mark user online
				onlineUsers.Store(userID, s.ID())
				// Subscribe to presence
				server.Subscribe(s, "presence")
				// Notify others
				server.Publish("presence", []byte(`{"type":"join","user":"`+userID+`"}`))
			}
		},
		OnClose: func(s *live.Session, err error) {
			userID := s.Value().(string)
			// Mark offline
			onlineUsers.Delete(userID)
			// Notify others
			server.Publish("presence", []byte(`{"type":"leave","user":"`+userID+`"}`))
		},
	})
	return server.Handler()
}

// directMessaging is "Direct Messaging". "init" is acknowledged.
func directMessaging() http.Handler {
	// Store sessions by user ID
	var userSessions sync.Map // userID -> *live.Session
	server := live.New(live.Options{
		OnAuth: userOfQuery,
		OnMessage: func(ctx context.Context, s *live.Session, topic string, data []byte) {
			userID := s.Value().(string)
			switch topic {
			case "init":
				userSessions.Store(userID, s)
				s.Send(live.Message{Topic: "welcome"})
			case "dm":
				var req struct {
					To   string `json:"to"`
					Text string `json:"text"`
				}
				json.Unmarshal(data, &req)
				// Find recipient
				if recipient, ok := userSessions.Load(req.To); ok {
					sess := recipient.(*live.Session)
					msg, _ := json.Marshal(map[string]string{
						"from": userID,
						"text": req.Text,
					})
					sess.Send(live.Message{Topic: "dm", Data: msg})
				}
			}
		},
		OnClose: func(s *live.Session, err error) {
			userID := s.Value().(string)
			userSessions.Delete(userID)
		},
	})
	return server.Handler()
}

// roomManagement is "Room Management".
func roomManagement() http.Handler {
	var server *live.Server
	server = live.New(live.Options{
		OnAuth: userOfQuery,
		OnMessage: func(ctx context.Context, s *live.Session, topic string, data []byte) {
			userID := s.Value().(string)
			switch topic {
			case "join_room":
				var req struct {
					Room string `json:"room"`
				}
				json.Unmarshal(data, &req)
				// Subscribe to room
				server.Subscribe(s, "room:"+req.Room)
				// Notify room
				msg, _ := json.Marshal(map[string]string{"type": "join", "user": userID})
				server.Publish("room:"+req.Room, msg)
			case "leave_room":
				var req struct {
					Room string `json:"room"`
				}
				json.Unmarshal(data, &req)
				// Notify room
				msg, _ := json.Marshal(map[string]string{"type": "leave", "user": userID})
				server.Publish("room:"+req.Room, msg)
				// Unsubscribe
				server.Unsubscribe(s, "room:"+req.Room)
			case "room_message":
				var req struct {
					Room string `json:"room"`
					Text string `json:"text"`
				}
				json.Unmarshal(data, &req)
				msg, _ := json.Marshal(map[string]string{
					"type": "message",
					"user": userID,
					"text": req.Text,
				})
				server.Publish("room:"+req.Room, msg)
			}
		},
	})
	return server.Handler()
}

// gracefulClose is "Handle Close Gracefully" with "Check Before Sending": on
// "init" a user is remembered, and told if the session is still open.
func gracefulClose(onlineUsers, userSessions *sync.Map) http.Handler {
	var server *live.Server
	server = live.New(live.Options{
		OnAuth: userOfQuery,
		OnMessage: func(ctx context.Context, s *live.Session, topic string, data []byte) {
			userID := s.Value().(string)
			if topic == "init" {
				onlineUsers.Store(userID, s.ID())
				userSessions.Store(userID, s)
				server.Subscribe(s, "presence")
				message := live.Message{Topic: "welcome"}
				if !s.IsClosed() {
					s.Send(message)
				}
			}
		},
		OnClose: func(s *live.Session, err error) {
			userID := s.Value().(string)
			// Clean up all resources
			onlineUsers.Delete(userID)
			userSessions.Delete(userID)
			// Notify others if needed
			server.Publish("presence", []byte(`{"type":"leave","user":"`+userID+`"}`))
		},
	})
	return server.Handler()
}
