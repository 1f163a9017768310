package live_test

import (
	"context"
	"errors"
	"net/http"
	"testing"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
)

// A user has sessions at two servers, and another user has one.
func TestUsersAreSubscribedOnEveryServer(t *testing.T) {
	t.Parallel()
	relay := newRelay()
	var hosts []*livetest.Host
	for range 2 {
		hosts = append(hosts, livetest.Hosting{}.Start(t, livetest.Open(live.Options{
			Broker: live.FromPubSub(relay),
			OnAuth: func(_ context.Context, r *http.Request) (any, error) { return r.URL.Query().Get("user"), nil },
			Logger: livetest.Quiet,
		})))
	}
	clients := []*livetest.Client{
		livetest.DialV1(t, hosts[0].Endpoint.With("user=ann")),
		livetest.DialV1(t, hosts[1].Endpoint.With("user=ann")),
	}
	other := livetest.DialV1(t, hosts[0].Endpoint.With("user=bob"))
	subscribers := func() int { return hosts[0].Subscribers("t") + hosts[1].Subscribers("t") }
	if err := hosts[0].SubscribeUser("ann", "t"); err != nil {
		t.Fatal(err)
	}
	livetest.Eventually(t, "both sessions are subscribed", func() bool { return subscribers() == 2 })
	if err := hosts[1].Publish("t", []byte("1")); err != nil {
		t.Fatal(err)
	}
	for _, c := range clients {
		c.Hears("t", "1")
	}
	for range 50 { // the last change counts
		for _, change := range []func(user, topic string) error{hosts[0].SubscribeUser, hosts[0].UnsubscribeUser} {
			if err := change("ann", "t"); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := hosts[0].SubscribeUser("ann", "done"); err != nil {
		t.Fatal(err)
	}
	livetest.Eventually(t, "all changes are made", func() bool {
		return hosts[0].Subscribers("done")+hosts[1].Subscribers("done") == 2
	})
	if n := subscribers(); n != 0 {
		t.Errorf("%d sessions are subscribed", n)
	}
	if n := len(other.Settled()); n > 0 {
		t.Errorf("the other user got %d frames", n)
	}
}

func TestUserAndTopicAreNeeded(t *testing.T) {
	t.Parallel()
	server := livetest.NewServer(t, live.Options{})
	if err := server.SubscribeUser("", "t"); err == nil {
		t.Error("no user")
	}
	if err := server.UnsubscribeUser("ann", ""); !errors.Is(err, live.ErrInvalidTopic) {
		t.Errorf("no topic: %v", err)
	}
}
