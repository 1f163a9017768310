package websession_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/alexedwards/scs/v2"

	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/websession"
)

func TestFindListsAUsersSessions(t *testing.T) {
	for name, sm := range map[string]func() *scs.SessionManager{"memory": memory, "hashed tokens": hashed} {
		t.Run(name, func(t *testing.T) {
			n := start(t, setting{sm: sm()})
			phone, laptop, other := newBrowser(t), newBrowser(t), newBrowser(t)
			phone.get(n.url + "/login?user=ana")
			laptop.get(n.url + "/login?user=ana")
			other.get(n.url + "/login?user=bo")
			one, _ := phone.dial(n)
			two, _ := laptop.dial(n)
			three, _ := other.dial(n)

			anas := func(values map[string]any) bool { return values["username"] == "ana" }
			found, err := n.sessions.Find(context.Background(), anas)
			if err != nil || len(found) != 2 {
				t.Fatalf("found %v, %v", found, err)
			}
			for _, s := range found {
				if s.GetString("username") != "ana" || len(s.Fingerprint()) != 32 {
					t.Errorf("%v is of %s", s, s.GetString("username"))
				}
				if err := s.Destroy(); err != nil {
					t.Error(err)
				}
			}
			one.endsWith(live.CloseRevoked)
			two.endsWith(live.CloseRevoked)
			if phone.get(n.url+"/get?key=username") != "" || other.get(n.url+"/get?key=username") != "bo" {
				t.Error("the wrong one is signed out")
			}
			three.ws.CloseNow()
		})
	}
}

func TestASessionThatDoesNotDecodeHidesNoOther(t *testing.T) {
	n, b := start(t, setting{}), newBrowser(t)
	b.get(n.url + "/login?user=ana")
	if err := n.sessions.SCS().Store.Commit("broken", []byte("no gob"), time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	found, err := n.sessions.Find(context.Background(), func(map[string]any) bool { return true })
	if err != nil || len(found) != 1 {
		t.Errorf("found %v, %v", found, err)
	}
	if !strings.Contains(n.logs.String(), "does not decode") || strings.Contains(n.logs.String(), "broken") {
		t.Error("it is not logged, or with its token")
	}
}

// listless is a store with the least methods: it cannot list its sessions.
type listless struct{ scs.Store }

func TestAStoreThatCannotListSaysSo(t *testing.T) {
	sm := scs.New()
	sm.Store = listless{sm.Store}
	m := websession.New(sm, websession.Options{})
	if _, err := m.Find(context.Background(), func(map[string]any) bool { return true }); err == nil {
		t.Error("it could")
	}
}
