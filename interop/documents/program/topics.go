package program

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"

	"github.com/livetopic/livetopic/interop/documents"

	"github.com/livetopic/livetopic/live"
)

// userOfQuery is the authentication of programs whose page shows none.
func userOfQuery(ctx context.Context, r *http.Request) (any, error) {
	return r.URL.Query().Get("user"), nil
}

// subscribing is "Subscribing".
func subscribing() (http.Handler, documents.Publish) {
	var server *live.Server
	server = live.New(live.Options{
		// In OnMessage handler
		OnMessage: func(ctx context.Context, s *live.Session, topic string, data []byte) {
			if topic == "subscribe" {
				var req struct {
					Topic string `json:"topic"`
				}
				json.Unmarshal(data, &req)
				server.Subscribe(s, req.Topic)
			}
			if topic == "unsubscribe" {
				var req struct {
					Topic string `json:"topic"`
				}
				json.Unmarshal(data, &req)
				server.Unsubscribe(s, req.Topic)
			}
		},
	})
	return server.Handler(), func(topic string, data []byte) { server.Publish(topic, data) }
}

// singleSession is "To a Single Session".
func singleSession() http.Handler {
	server := live.New(live.Options{
		OnMessage: func(ctx context.Context, s *live.Session, topic string, data []byte) {
			s.Send(live.Message{
				Topic: "notification",
				Data:  []byte(`{"title":"Hello"}`),
			})
		},
	})
	return server.Handler()
}

// chatRoom is "Chat Room".
func chatRoom() http.Handler {
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
				server.Subscribe(s, "room:"+req.Room)
				// Announce join
				msg, _ := json.Marshal(map[string]string{"type": "join", "user": userID})
				server.Publish("room:"+req.Room, msg)
			case "chat":
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

// notifications is "Notifications". A user's sessions subscribe on "init".
func notifications() (http.Handler, func(userID string, notification documents.Notification)) {
	var server *live.Server
	server = live.New(live.Options{
		OnAuth: userOfQuery,
		OnMessage: func(ctx context.Context, s *live.Session, topic string, data []byte) {
			if topic == "init" {
				userID := s.Value().(string)
				server.Subscribe(s, "user:"+userID+":notifications")
				s.Send(live.Message{Topic: "welcome"})
			}
		},
	})
	// Send notification from anywhere in your app
	NotifyUser := func(userID string, notification documents.Notification) {
		data, _ := json.Marshal(notification)
		server.Publish("user:"+userID+":notifications", data)
	}
	return server.Handler(), NotifyUser
}

// realTime is "Real-time Updates". A client watches the item it names.
func realTime(db *documents.DB) (http.Handler, func(item documents.Item) error) {
	var server *live.Server
	server = live.New(live.Options{
		OnMessage: func(ctx context.Context, s *live.Session, topic string, data []byte) {
			if topic == "watch" {
				var itemID string
				json.Unmarshal(data, &itemID)
				server.Subscribe(s, "item:"+itemID)
				s.Send(live.Message{Topic: "watching", Data: data})
			}
		},
	})
	// When data changes, notify watchers
	UpdateItem := func(item documents.Item) error {
		// Save to database
		if err := db.Save(item); err != nil {
			return err
		}
		// Notify all watchers
		data, _ := json.Marshal(map[string]any{
			"type": "updated",
			"item": item,
		})
		server.Publish("item:"+item.ID, data)
		return nil
	}
	return server.Handler(), UpdateItem
}

// presenceTopics is "Presence". The note in its OnClose is followed: the rooms
// of a session are tracked.
func presenceTopics() http.Handler {
	var server *live.Server
	rooms := newRooms()
	server = live.New(live.Options{
		OnAuth: userOfQuery,
		OnMessage: func(ctx context.Context, s *live.Session, topic string, data []byte) {
			userID := s.Value().(string)
			if topic == "join_room" {
				var req struct {
					Room string `json:"room"`
				}
				json.Unmarshal(data, &req)
				// Subscribe to room presence and messages
				server.Subscribe(s, "room:"+req.Room+":presence")
				server.Subscribe(s, "room:"+req.Room+":messages")
				// Announce presence
				msg, _ := json.Marshal(map[string]string{"type": "join", "user": userID})
				server.Publish("room:"+req.Room+":presence", msg)
				rooms.add(s.ID(), req.Room)
			}
			if topic == "room_message" {
				var req struct {
					Room string `json:"room"`
				}
				json.Unmarshal(data, &req)
				server.Publish("room:"+req.Room+":messages", data)
			}
		},
		OnClose: func(s *live.Session, err error) {
			userID := s.Value().(string)
			// Note: You'd need to track which rooms the user was in
			// to announce departure
			for _, room := range rooms.take(s.ID()) {
				msg, _ := json.Marshal(map[string]string{"type": "leave", "user": userID})
				server.Publish("room:"+room+":presence", msg)
			}
		},
	})
	return server.Handler()
}

// background is "Background job publishes updates". A client follows the job
// it names.
func background() (http.Handler, func(job documents.Job)) {
	var server *live.Server
	server = live.New(live.Options{
		OnMessage: func(ctx context.Context, s *live.Session, topic string, data []byte) {
			if topic == "follow" {
				var jobID string
				json.Unmarshal(data, &jobID)
				server.Subscribe(s, "job:"+jobID)
				s.Send(live.Message{Topic: "following", Data: data})
			}
		},
	})
	// Background job publishes updates
	processJob := func(job documents.Job) {
		// ... do work ...
		progress, _ := json.Marshal(map[string]any{
			"type":     "progress",
			"job_id":   job.ID,
			"progress": job.Progress,
		})
		server.Publish("job:"+job.ID, progress)
	}
	return server.Handler(), processJob
}

// granularity is "Topic Granularity": all three ways of the page, each asked
// for by name.
func granularity() (http.Handler, documents.Publish) {
	var server *live.Server
	server = live.New(live.Options{
		OnAuth: userOfQuery,
		OnMessage: func(ctx context.Context, s *live.Session, topic string, data []byte) {
			userID := s.Value().(string)
			var teamID string
			json.Unmarshal(data, &teamID)
			switch topic {
			case "broad":
				// Too broad - everyone gets everything
				server.Subscribe(s, "all_updates")
			case "narrow":
				// Too narrow - many small topics
				server.Subscribe(s, "user:123:item:456:field:name")
			case "right":
				// Just right - meaningful groups
				server.Subscribe(s, "user:"+userID)
				server.Subscribe(s, "team:"+teamID)
			}
			s.Send(live.Message{Topic: "subscribed"})
		},
	})
	return server.Handler(), func(topic string, data []byte) { server.Publish(topic, data) }
}

// validation is "Subscription Validation". What the client may have is
// acknowledged.
func validation() (http.Handler, documents.Publish) {
	var server *live.Server
	server = live.New(live.Options{
		OnAuth: userOfQuery,
		OnMessage: func(ctx context.Context, s *live.Session, topic string, data []byte) {
			if topic == "subscribe" {
				var req struct {
					Topic string `json:"topic"`
				}
				json.Unmarshal(data, &req)
				userID := s.Value().(string)
				// Validate permission
				if !canSubscribe(userID, req.Topic) {
					s.Send(live.Message{
						Topic: "error",
						Data:  []byte(`{"message":"not authorized"}`),
					})
					return
				}
				server.Subscribe(s, req.Topic)
				s.Send(live.Message{Topic: "subscribed"})
			}
		},
	})
	return server.Handler(), func(topic string, data []byte) { server.Publish(topic, data) }
}

func canSubscribe(userID, topic string) bool {
	// Check topic patterns
	if strings.HasPrefix(topic, "admin:") {
		return isAdmin(userID)
	}
	if strings.HasPrefix(topic, "team:") {
		teamID := strings.Split(strings.TrimPrefix(topic, "team:"), ":")[0]
		return isTeamMember(userID, teamID)
	}
	if strings.HasPrefix(topic, "user:") {
		targetUser := strings.Split(strings.TrimPrefix(topic, "user:"), ":")[0]
		return targetUser == userID // Can only subscribe to own topics
	}
	return true
}

func isAdmin(userID string) bool { return userID == "root" }

func isTeamMember(userID, teamID string) bool { return userID == "alice" && teamID == "red" }

// consistent is "Consistent Message Format". Every client is in chat:room1.
func consistent() (http.Handler, func(topic string, msgType string, data any)) {
	var server *live.Server
	server = live.New(live.Options{
		OnMessage: func(ctx context.Context, s *live.Session, topic string, data []byte) {
			if topic == "init" {
				server.Subscribe(s, "chat:room1")
				s.Send(live.Message{Topic: "welcome"})
			}
		},
	})
	type Message struct {
		Type string `json:"type"`
		Data any    `json:"data,omitempty"`
	}
	publish := func(topic string, msgType string, data any) {
		msg := Message{Type: msgType, Data: data}
		bytes, _ := json.Marshal(msg)
		server.Publish(topic, bytes)
	}
	return server.Handler(), publish
}
