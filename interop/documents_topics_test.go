package interop

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/interop/documents"
)

// The figure at the page's head: sessions A, B and D are subscribed, C is not.
func TestPublishReachesAllSubscribersAndNobodyElse(t *testing.T) {
	withPrograms(t, func(t *testing.T, p documents.Programs) {
		handler, publish := p.Subscribing()
		at := livetest.Serve(t, handler)
		a, b, c, d := livetest.Dial(t, at), livetest.Dial(t, at), livetest.Dial(t, at), livetest.Dial(t, at)
		for _, subscriber := range []*livetest.Client{a, b, d} {
			subscriber.Send(`{"topic":"subscribe","data":{"topic":"chat:room1"}}`)
			settle(t, subscriber, publish)
		}
		c.Send(`{"topic":"subscribe","data":{"topic":"chat:room2"}}`)
		settle(t, c, publish)

		publish("chat:room1", []byte(`{"text":"Hello everyone!"}`))
		publish("chat:room2", []byte(`"marker"`))
		for _, subscriber := range []*livetest.Client{a, b, d} {
			livetest.Check(t, "a subscriber", subscriber.Read(), `{"topic":"chat:room1","data":{"text":"Hello everyone!"}}`)
		}
		livetest.Check(t, "who is not subscribed", c.Read(), `{"topic":"chat:room2","data":"marker"}`)
	})
}

func TestUnsubscribedClientHearsNothing(t *testing.T) {
	withPrograms(t, func(t *testing.T, p documents.Programs) {
		handler, publish := p.Subscribing()
		c := livetest.Dial(t, livetest.Serve(t, handler))
		c.Send(`{"topic":"subscribe","data":{"topic":"chat:room1"}}`)
		c.Send(`{"topic":"subscribe","data":{"topic":"chat:room2"}}`)
		settle(t, c, publish)
		publish("chat:room1", []byte(`1`))
		livetest.Check(t, "the subscriber", c.Read(), `{"topic":"chat:room1","data":1}`)

		c.Send(`{"topic":"unsubscribe","data":{"topic":"chat:room1"}}`)
		settle(t, c, publish)
		publish("chat:room1", []byte(`2`))
		publish("chat:room2", []byte(`"marker"`))
		livetest.Check(t, "who has unsubscribed", c.Read(), `{"topic":"chat:room2","data":"marker"}`)
	})
}

func TestPublishWithJSONData(t *testing.T) {
	withPrograms(t, func(t *testing.T, p documents.Programs) {
		handler, publish := p.Subscribing()
		c := livetest.Dial(t, livetest.Serve(t, handler))
		c.Send(`{"topic":"subscribe","data":{"topic":"chat:room1"}}`)
		settle(t, c, publish)
		userID := "alice"
		data, _ := json.Marshal(map[string]any{
			"type": "message",
			"user": userID,
			"text": "Hello!",
		})
		publish("chat:room1", data)
		livetest.Check(t, "the subscriber", c.Read(), `{"topic":"chat:room1","data":{"text":"Hello!","type":"message","user":"alice"}}`)
	})
}

// "Message Format": an object with these two members, and nothing else.
func TestMessageFormatSeenByTheClient(t *testing.T) {
	withPrograms(t, func(t *testing.T, p documents.Programs) {
		handler, publish := p.Subscribing()
		c := livetest.Dial(t, livetest.Serve(t, handler))
		c.Send(`{"topic":"subscribe","data":{"topic":"chat:room1"}}`)
		settle(t, c, publish)
		publish("chat:room1", []byte(`{"type":"message","user":"alice","text":"Hello!"}`))
		var msg map[string]any
		if err := json.Unmarshal([]byte(c.Read()), &msg); err != nil {
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
		at := livetest.Serve(t, p.SingleSession())
		one, other := livetest.Dial(t, at), livetest.Dial(t, at)
		const want = `{"topic":"notification","data":{"title":"Hello"}}`
		livetest.Check(t, "who asked", one.Ask(`{"topic":"anything"}`), want)
		livetest.Check(t, "the other, having asked", other.Ask(`{"topic":"anything"}`), want)
		if n := other.Waiting(); n != 0 {
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
		at := livetest.Serve(t, handler)
		clients := make([]*livetest.Client, len(names))
		for i, name := range names {
			clients[i] = livetest.Dial(t, at)
			clients[i].Send(fmt.Sprintf(`{"topic":"subscribe","data":{"topic":%q}}`, name))
			settle(t, clients[i], publish)
		}
		for _, round := range []int{1, 2} {
			for _, name := range names {
				publish(name, fmt.Appendf(nil, `%d`, round))
			}
			for i, name := range names {
				livetest.Check(t, "the subscriber of "+name, clients[i].Read(), fmt.Sprintf(`{"topic":%q,"data":%d}`, name, round))
			}
		}
	})
}

func TestChatRoomAnnouncesWhoJoins(t *testing.T) {
	withPrograms(t, func(t *testing.T, p documents.Programs) {
		at := livetest.Serve(t, p.ChatRoom())
		alice, bob, carol := join(t, at, "alice"), join(t, at, "bob"), join(t, at, "carol")

		livetest.Check(t, "alice", alice.Ask(`{"topic":"join_room","data":{"room":"go"}}`), `{"topic":"room:go","data":{"type":"join","user":"alice"}}`)
		const bobJoined = `{"topic":"room:go","data":{"type":"join","user":"bob"}}`
		livetest.Check(t, "bob", bob.Ask(`{"topic":"join_room","data":{"room":"go"}}`), bobJoined)
		livetest.Check(t, "alice", alice.Read(), bobJoined)
		livetest.Check(t, "carol", carol.Ask(`{"topic":"join_room","data":{"room":"rust"}}`), `{"topic":"room:rust","data":{"type":"join","user":"carol"}}`)

		const said = `{"topic":"room:go","data":{"text":"hi all","type":"message","user":"alice"}}`
		livetest.Check(t, "alice", alice.Ask(`{"topic":"chat","data":{"room":"go","text":"hi all"}}`), said)
		livetest.Check(t, "bob", bob.Read(), said)
		livetest.Check(t, "carol, in another room,", carol.Ask(`{"topic":"chat","data":{"room":"rust","text":"alone"}}`),
			`{"topic":"room:rust","data":{"text":"alone","type":"message","user":"carol"}}`)
	})
}

func TestNotificationsReachAllSessionsOfTheUser(t *testing.T) {
	withPrograms(t, func(t *testing.T, p documents.Programs) {
		handler, NotifyUser := p.Notifications()
		at := livetest.Serve(t, handler)
		phone, laptop, other := join(t, at, "user123"), join(t, at, "user123"), join(t, at, "user456")
		for _, c := range []*livetest.Client{phone, laptop, other} {
			livetest.Check(t, "a client", c.Ask(`{"topic":"init","data":{}}`), `{"topic":"welcome"}`)
		}
		NotifyUser("user123", documents.Notification{
			Title:   "Order Shipped",
			Message: "Your order #456 has shipped!",
		})
		NotifyUser("user456", documents.Notification{Title: "marker"})
		const want = `{"topic":"user:user123:notifications","data":{"title":"Order Shipped","message":"Your order #456 has shipped!"}}`
		livetest.Check(t, "the user's phone", phone.Read(), want)
		livetest.Check(t, "the user's laptop", laptop.Read(), want)
		livetest.Check(t, "another user", other.Read(), `{"topic":"user:user456:notifications","data":{"title":"marker","message":""}}`)
	})
}

func TestWatchersOfAnItemSeeItsUpdates(t *testing.T) {
	withPrograms(t, func(t *testing.T, p documents.Programs) {
		var db documents.DB
		handler, UpdateItem := p.RealTime(&db)
		at := livetest.Serve(t, handler)
		watcher, other := livetest.Dial(t, at), livetest.Dial(t, at)
		livetest.Check(t, "the watcher", watcher.Ask(`{"topic":"watch","data":"7"}`), `{"topic":"watching","data":"7"}`)
		livetest.Check(t, "the other", other.Ask(`{"topic":"watch","data":"8"}`), `{"topic":"watching","data":"8"}`)

		if err := UpdateItem(documents.Item{Name: "without ID"}); err == nil {
			t.Error("the database took an item without ID")
		}
		if err := UpdateItem(documents.Item{ID: "7", Name: "lamp"}); err != nil {
			t.Fatal(err)
		}
		if err := UpdateItem(documents.Item{ID: "8", Name: "chair"}); err != nil {
			t.Fatal(err)
		}
		livetest.Check(t, "the watcher of 7", watcher.Read(), `{"topic":"item:7","data":{"item":{"id":"7","name":"lamp"},"type":"updated"}}`)
		livetest.Check(t, "the watcher of 8", other.Read(), `{"topic":"item:8","data":{"item":{"id":"8","name":"chair"},"type":"updated"}}`)
		if item, ok := db.Item("7"); !ok || item.Name != "lamp" {
			t.Errorf("saved %v", item)
		}
	})
}

func TestPresenceTopicsAnnounceWhoComesAndGoes(t *testing.T) {
	withPrograms(t, func(t *testing.T, p documents.Programs) {
		at := livetest.Serve(t, p.PresenceTopics())
		alice, bob := join(t, at, "alice"), join(t, at, "bob")
		livetest.Check(t, "alice", alice.Ask(`{"topic":"join_room","data":{"room":"go"}}`), `{"topic":"room:go:presence","data":{"type":"join","user":"alice"}}`)
		const bobJoined = `{"topic":"room:go:presence","data":{"type":"join","user":"bob"}}`
		livetest.Check(t, "bob", bob.Ask(`{"topic":"join_room","data":{"room":"go"}}`), bobJoined)
		livetest.Check(t, "alice", alice.Read(), bobJoined)

		const said = `{"topic":"room:go:messages","data":{"room":"go","text":"hi"}}`
		livetest.Check(t, "bob", bob.Ask(`{"topic":"room_message","data":{"room":"go","text":"hi"}}`), said)
		livetest.Check(t, "alice", alice.Read(), said)

		bob.Leave()
		livetest.Check(t, "alice", alice.Read(), `{"topic":"room:go:presence","data":{"type":"leave","user":"bob"}}`)
	})
}

func TestBackgroundJobPublishesProgress(t *testing.T) {
	withPrograms(t, func(t *testing.T, p documents.Programs) {
		handler, processJob := p.Background()
		c := livetest.Dial(t, livetest.Serve(t, handler))
		livetest.Check(t, "the client", c.Ask(`{"topic":"follow","data":"42"}`), `{"topic":"following","data":"42"}`)
		go func() {
			for progress := 0; progress <= 100; progress += 10 {
				processJob(documents.Job{ID: "41", Progress: progress}) // nobody follows it
				processJob(documents.Job{ID: "42", Progress: progress})
			}
		}()
		for progress := 0; progress <= 100; progress += 10 {
			livetest.Check(t, "the client", c.Read(), fmt.Sprintf(`{"topic":"job:42","data":{"job_id":"42","progress":%d,"type":"progress"}}`, progress))
		}
	})
}

func TestTopicGranularity(t *testing.T) {
	withPrograms(t, func(t *testing.T, p documents.Programs) {
		handler, publish := p.Granularity()
		at := livetest.Serve(t, handler)
		broad, narrow, right := join(t, at, "ann"), join(t, at, "ben"), join(t, at, "cat")
		livetest.Check(t, "broad", broad.Ask(`{"topic":"broad"}`), `{"topic":"subscribed"}`)
		livetest.Check(t, "narrow", narrow.Ask(`{"topic":"narrow"}`), `{"topic":"subscribed"}`)
		livetest.Check(t, "right", right.Ask(`{"topic":"right","data":"red"}`), `{"topic":"subscribed"}`)

		publish("all_updates", []byte(`1`))
		publish("user:123:item:456:field:name", []byte(`2`))
		publish("user:cat", []byte(`3`))
		publish("team:blue", []byte(`4`))
		// Good: send just what changed
		publish("team:red", []byte(`{"id":"123","status":"updated"}`))

		livetest.Check(t, "broad", broad.Read(), `{"topic":"all_updates","data":1}`)
		livetest.Check(t, "narrow", narrow.Read(), `{"topic":"user:123:item:456:field:name","data":2}`)
		livetest.Check(t, "right", right.Read(), `{"topic":"user:cat","data":3}`)
		livetest.Check(t, "right", right.Read(), `{"topic":"team:red","data":{"id":"123","status":"updated"}}`)
	})
}

func TestSubscriptionValidation(t *testing.T) {
	const refused = `{"topic":"error","data":{"message":"not authorized"}}`
	const accepted = `{"topic":"subscribed"}`
	withPrograms(t, func(t *testing.T, p documents.Programs) {
		handler, publish := p.Validation()
		at := livetest.Serve(t, handler)
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
			livetest.Check(t, test.user+" asking for "+test.topic, c.Ask(`{"topic":"subscribe","data":{"topic":"`+test.topic+`"}}`), test.want)

			// And the answer is true.
			publish(test.topic, []byte(`"secret"`))
			if test.want == accepted {
				livetest.Check(t, test.user, c.Read(), `{"topic":"`+test.topic+`","data":"secret"}`)
			}
			livetest.Check(t, test.user, c.Ask(`{"topic":"subscribe","data":{"topic":"open"}}`), accepted)
			c.Leave()
		}
	})
}

func TestConsistentMessageFormat(t *testing.T) {
	withPrograms(t, func(t *testing.T, p documents.Programs) {
		handler, publish := p.Consistent()
		c := livetest.Dial(t, livetest.Serve(t, handler))
		livetest.Check(t, "the client", c.Ask(`{"topic":"init","data":{}}`), `{"topic":"welcome"}`)
		publish("chat:room1", "message", documents.ChatMessage{User: "alice", Text: "Hi"})
		publish("chat:room1", "typing", documents.TypingIndicator{User: "bob"})
		publish("chat:room1", "empty", nil)
		livetest.Check(t, "the client", c.Read(), `{"topic":"chat:room1","data":{"type":"message","data":{"user":"alice","text":"Hi"}}}`)
		livetest.Check(t, "the client", c.Read(), `{"topic":"chat:room1","data":{"type":"typing","data":{"user":"bob"}}}`)
		livetest.Check(t, "the client", c.Read(), `{"topic":"chat:room1","data":{"type":"empty"}}`)
	})
}
