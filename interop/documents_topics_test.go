package interop

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/livetopic/livetopic/interop/documents"
)

// The figure at the page's head: sessions A, B and D are subscribed, C is not.
func TestPublishReachesAllSubscribersAndNobodyElse(t *testing.T) {
	withPrograms(t, func(t *testing.T, p documents.Programs) {
		handler, publish := p.Subscribing()
		at := serve(t, handler)
		a, b, c, d := dial(t, at), dial(t, at), dial(t, at), dial(t, at)
		for _, subscriber := range []*client{a, b, d} {
			subscriber.send(`{"topic":"subscribe","data":{"topic":"chat:room1"}}`)
			subscriber.settle(publish)
		}
		c.send(`{"topic":"subscribe","data":{"topic":"chat:room2"}}`)
		c.settle(publish)

		publish("chat:room1", []byte(`{"text":"Hello everyone!"}`))
		publish("chat:room2", []byte(`"marker"`))
		for _, subscriber := range []*client{a, b, d} {
			check(t, "a subscriber", subscriber.read(), `{"topic":"chat:room1","data":{"text":"Hello everyone!"}}`)
		}
		check(t, "who is not subscribed", c.read(), `{"topic":"chat:room2","data":"marker"}`)
	})
}

func TestUnsubscribedClientHearsNothing(t *testing.T) {
	withPrograms(t, func(t *testing.T, p documents.Programs) {
		handler, publish := p.Subscribing()
		c := dial(t, serve(t, handler))
		c.send(`{"topic":"subscribe","data":{"topic":"chat:room1"}}`)
		c.send(`{"topic":"subscribe","data":{"topic":"chat:room2"}}`)
		c.settle(publish)
		publish("chat:room1", []byte(`1`))
		check(t, "the subscriber", c.read(), `{"topic":"chat:room1","data":1}`)

		c.send(`{"topic":"unsubscribe","data":{"topic":"chat:room1"}}`)
		c.settle(publish)
		publish("chat:room1", []byte(`2`))
		publish("chat:room2", []byte(`"marker"`))
		check(t, "who has unsubscribed", c.read(), `{"topic":"chat:room2","data":"marker"}`)
	})
}

func TestPublishWithJSONData(t *testing.T) {
	withPrograms(t, func(t *testing.T, p documents.Programs) {
		handler, publish := p.Subscribing()
		c := dial(t, serve(t, handler))
		c.send(`{"topic":"subscribe","data":{"topic":"chat:room1"}}`)
		c.settle(publish)
		userID := "alice"
		data, _ := json.Marshal(map[string]any{
			"type": "message",
			"user": userID,
			"text": "Hello!",
		})
		publish("chat:room1", data)
		check(t, "the subscriber", c.read(), `{"topic":"chat:room1","data":{"text":"Hello!","type":"message","user":"alice"}}`)
	})
}

// "Message Format": an object with these two members, and nothing else.
func TestMessageFormatSeenByTheClient(t *testing.T) {
	withPrograms(t, func(t *testing.T, p documents.Programs) {
		handler, publish := p.Subscribing()
		c := dial(t, serve(t, handler))
		c.send(`{"topic":"subscribe","data":{"topic":"chat:room1"}}`)
		c.settle(publish)
		publish("chat:room1", []byte(`{"type":"message","user":"alice","text":"Hello!"}`))
		var msg map[string]any
		if err := json.Unmarshal([]byte(c.read()), &msg); err != nil {
			t.Fatal(err)
		}
		if len(msg) != 2 || msg["topic"] != "chat:room1" {
			t.Errorf("got %v, want topic and data", msg)
		}
		data, _ := msg["data"].(map[string]any)
		if len(data) != 3 || data["type"] != "message" || data["user"] != "alice" || data["text"] != "Hello!" {
			t.Errorf("data is %v", msg["data"])
		}
	})
}

func TestSendReachesASingleSession(t *testing.T) {
	withPrograms(t, func(t *testing.T, p documents.Programs) {
		at := serve(t, p.SingleSession())
		one, other := dial(t, at), dial(t, at)
		const want = `{"topic":"notification","data":{"title":"Hello"}}`
		check(t, "who asked", one.ask(`{"topic":"anything"}`), want)
		check(t, "the other, having asked", other.ask(`{"topic":"anything"}`), want)
		if n := len(other.in.messages); n != 0 {
			t.Errorf("the other got %d more", n)
		}
	})
}

// "Topic Naming Patterns": every name is a topic of its own. A hierarchy is a
// convention, no wildcard.
func TestEachTopicNameIsATopicOfItsOwn(t *testing.T) {
	names := []string{
		"user:123", "user:123:notifications",
		"chat:general", "chat:room:123",
		"events:user:created", "events:order:updated",
		"item:123", "team:123",
		"user:456:notifications", "room123", "notifications",
		"user:123:notifs", "chat:123", "presence:123",
	}
	withPrograms(t, func(t *testing.T, p documents.Programs) {
		handler, publish := p.Subscribing()
		at := serve(t, handler)
		clients := make([]*client, len(names))
		for i, name := range names {
			clients[i] = dial(t, at)
			clients[i].send(fmt.Sprintf(`{"topic":"subscribe","data":{"topic":%q}}`, name))
			clients[i].settle(publish)
		}
		for _, round := range []int{1, 2} {
			for _, name := range names {
				publish(name, fmt.Appendf(nil, `%d`, round))
			}
			for i, name := range names {
				check(t, "the subscriber of "+name, clients[i].read(), fmt.Sprintf(`{"topic":%q,"data":%d}`, name, round))
			}
		}
	})
}

func TestChatRoomAnnouncesWhoJoins(t *testing.T) {
	withPrograms(t, func(t *testing.T, p documents.Programs) {
		at := serve(t, p.ChatRoom())
		alice, bob, carol := join(t, at, "alice"), join(t, at, "bob"), join(t, at, "carol")

		check(t, "alice", alice.ask(`{"topic":"join_room","data":{"room":"go"}}`), `{"topic":"room:go","data":{"type":"join","user":"alice"}}`)
		const bobJoined = `{"topic":"room:go","data":{"type":"join","user":"bob"}}`
		check(t, "bob", bob.ask(`{"topic":"join_room","data":{"room":"go"}}`), bobJoined)
		check(t, "alice", alice.read(), bobJoined)
		check(t, "carol", carol.ask(`{"topic":"join_room","data":{"room":"rust"}}`), `{"topic":"room:rust","data":{"type":"join","user":"carol"}}`)

		const said = `{"topic":"room:go","data":{"text":"hi all","type":"message","user":"alice"}}`
		check(t, "alice", alice.ask(`{"topic":"chat","data":{"room":"go","text":"hi all"}}`), said)
		check(t, "bob", bob.read(), said)
		check(t, "carol, in another room,", carol.ask(`{"topic":"chat","data":{"room":"rust","text":"alone"}}`),
			`{"topic":"room:rust","data":{"text":"alone","type":"message","user":"carol"}}`)
	})
}

func TestNotificationsReachAllSessionsOfTheUser(t *testing.T) {
	withPrograms(t, func(t *testing.T, p documents.Programs) {
		handler, NotifyUser := p.Notifications()
		at := serve(t, handler)
		phone, laptop, other := join(t, at, "user123"), join(t, at, "user123"), join(t, at, "user456")
		for _, c := range []*client{phone, laptop, other} {
			check(t, "a client", c.ask(`{"topic":"init","data":{}}`), `{"topic":"welcome"}`)
		}
		NotifyUser("user123", documents.Notification{
			Title:   "Order Shipped",
			Message: "Your order #456 has shipped!",
		})
		NotifyUser("user456", documents.Notification{Title: "marker"})
		const want = `{"topic":"user:user123:notifications","data":{"title":"Order Shipped","message":"Your order #456 has shipped!"}}`
		check(t, "the user's phone", phone.read(), want)
		check(t, "the user's laptop", laptop.read(), want)
		check(t, "another user", other.read(), `{"topic":"user:user456:notifications","data":{"title":"marker","message":""}}`)
	})
}

func TestWatchersOfAnItemSeeItsUpdates(t *testing.T) {
	withPrograms(t, func(t *testing.T, p documents.Programs) {
		var db documents.DB
		handler, UpdateItem := p.RealTime(&db)
		at := serve(t, handler)
		watcher, other := dial(t, at), dial(t, at)
		check(t, "the watcher", watcher.ask(`{"topic":"watch","data":"7"}`), `{"topic":"watching","data":"7"}`)
		check(t, "the other", other.ask(`{"topic":"watch","data":"8"}`), `{"topic":"watching","data":"8"}`)

		if err := UpdateItem(documents.Item{Name: "without ID"}); err == nil {
			t.Error("the database took an item without ID")
		}
		if err := UpdateItem(documents.Item{ID: "7", Name: "lamp"}); err != nil {
			t.Fatal(err)
		}
		if err := UpdateItem(documents.Item{ID: "8", Name: "chair"}); err != nil {
			t.Fatal(err)
		}
		check(t, "the watcher of 7", watcher.read(), `{"topic":"item:7","data":{"item":{"id":"7","name":"lamp"},"type":"updated"}}`)
		check(t, "the watcher of 8", other.read(), `{"topic":"item:8","data":{"item":{"id":"8","name":"chair"},"type":"updated"}}`)
		if item, ok := db.Item("7"); !ok || item.Name != "lamp" {
			t.Errorf("saved %v", item)
		}
	})
}

func TestPresenceTopicsAnnounceWhoComesAndGoes(t *testing.T) {
	withPrograms(t, func(t *testing.T, p documents.Programs) {
		at := serve(t, p.PresenceTopics())
		alice, bob := join(t, at, "alice"), join(t, at, "bob")
		check(t, "alice", alice.ask(`{"topic":"join_room","data":{"room":"go"}}`), `{"topic":"room:go:presence","data":{"type":"join","user":"alice"}}`)
		const bobJoined = `{"topic":"room:go:presence","data":{"type":"join","user":"bob"}}`
		check(t, "bob", bob.ask(`{"topic":"join_room","data":{"room":"go"}}`), bobJoined)
		check(t, "alice", alice.read(), bobJoined)

		const said = `{"topic":"room:go:messages","data":{"room":"go","text":"hi"}}`
		check(t, "bob", bob.ask(`{"topic":"room_message","data":{"room":"go","text":"hi"}}`), said)
		check(t, "alice", alice.read(), said)

		bob.leave()
		check(t, "alice", alice.read(), `{"topic":"room:go:presence","data":{"type":"leave","user":"bob"}}`)
	})
}

func TestBackgroundJobPublishesProgress(t *testing.T) {
	withPrograms(t, func(t *testing.T, p documents.Programs) {
		handler, processJob := p.Background()
		c := dial(t, serve(t, handler))
		check(t, "the client", c.ask(`{"topic":"follow","data":"42"}`), `{"topic":"following","data":"42"}`)
		go func() {
			for progress := 0; progress <= 100; progress += 10 {
				processJob(documents.Job{ID: "41", Progress: progress}) // nobody follows it
				processJob(documents.Job{ID: "42", Progress: progress})
			}
		}()
		for progress := 0; progress <= 100; progress += 10 {
			check(t, "the client", c.read(), fmt.Sprintf(`{"topic":"job:42","data":{"job_id":"42","progress":%d,"type":"progress"}}`, progress))
		}
	})
}

func TestTopicGranularity(t *testing.T) {
	withPrograms(t, func(t *testing.T, p documents.Programs) {
		handler, publish := p.Granularity()
		at := serve(t, handler)
		broad, narrow, right := join(t, at, "ann"), join(t, at, "ben"), join(t, at, "cat")
		check(t, "broad", broad.ask(`{"topic":"broad"}`), `{"topic":"subscribed"}`)
		check(t, "narrow", narrow.ask(`{"topic":"narrow"}`), `{"topic":"subscribed"}`)
		check(t, "right", right.ask(`{"topic":"right","data":"red"}`), `{"topic":"subscribed"}`)

		publish("all_updates", []byte(`1`))
		publish("user:123:item:456:field:name", []byte(`2`))
		publish("user:cat", []byte(`3`))
		publish("team:blue", []byte(`4`))
		// Good: send just what changed
		publish("team:red", []byte(`{"id":"123","status":"updated"}`))

		check(t, "broad", broad.read(), `{"topic":"all_updates","data":1}`)
		check(t, "narrow", narrow.read(), `{"topic":"user:123:item:456:field:name","data":2}`)
		check(t, "right", right.read(), `{"topic":"user:cat","data":3}`)
		check(t, "right", right.read(), `{"topic":"team:red","data":{"id":"123","status":"updated"}}`)
	})
}

func TestSubscriptionValidation(t *testing.T) {
	const refused = `{"topic":"error","data":{"message":"not authorized"}}`
	const accepted = `{"topic":"subscribed"}`
	withPrograms(t, func(t *testing.T, p documents.Programs) {
		handler, publish := p.Validation()
		at := serve(t, handler)
		for _, test := range []struct{ user, topic, want string }{
			{"alice", "admin:logs", refused},
			{"root", "admin:logs", accepted},
			{"alice", "team:red", accepted},
			{"alice", "team:red:chat", accepted},
			{"alice", "team:redder", refused},
			{"root", "team:red", refused},
			{"alice", "user:alice", accepted},
			{"alice", "user:alice:notifications", accepted},
			{"alice", "user:root", refused},
			{"root", "user:alice:notifications", refused},
			{"alice", "chat:room1", accepted},
		} {
			c := join(t, at, test.user)
			check(t, test.user+" asking for "+test.topic, c.ask(`{"topic":"subscribe","data":{"topic":"`+test.topic+`"}}`), test.want)

			// And the answer is true.
			publish(test.topic, []byte(`"secret"`))
			if test.want == accepted {
				check(t, test.user, c.read(), `{"topic":"`+test.topic+`","data":"secret"}`)
			}
			check(t, test.user, c.ask(`{"topic":"subscribe","data":{"topic":"open"}}`), accepted)
			c.leave()
		}
	})
}

func TestConsistentMessageFormat(t *testing.T) {
	withPrograms(t, func(t *testing.T, p documents.Programs) {
		handler, publish := p.Consistent()
		c := dial(t, serve(t, handler))
		check(t, "the client", c.ask(`{"topic":"init","data":{}}`), `{"topic":"welcome"}`)
		publish("chat:room1", "message", documents.ChatMessage{User: "alice", Text: "Hi"})
		publish("chat:room1", "typing", documents.TypingIndicator{User: "bob"})
		publish("chat:room1", "empty", nil)
		check(t, "the client", c.read(), `{"topic":"chat:room1","data":{"type":"message","data":{"user":"alice","text":"Hi"}}}`)
		check(t, "the client", c.read(), `{"topic":"chat:room1","data":{"type":"typing","data":{"user":"bob"}}}`)
		check(t, "the client", c.read(), `{"topic":"chat:room1","data":{"type":"empty"}}`)
	})
}
