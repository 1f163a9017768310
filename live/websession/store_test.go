package websession_test

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alexedwards/scs/v2"
	"github.com/alexedwards/scs/v2/memstore"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live/websession"
)

// failing is a store that can fail.
type failing struct {
	*memstore.MemStore
	fails atomic.Bool
}

func (f *failing) Find(token string) ([]byte, bool, error) {
	if f.fails.Load() {
		return nil, false, errStore
	}
	return f.MemStore.Find(token)
}

func (f *failing) Delete(token string) error {
	if f.fails.Load() {
		return errStore
	}
	return f.MemStore.Delete(token)
}

func (f *failing) Commit(token string, b []byte, expiry time.Time) error {
	if f.fails.Load() {
		return errStore
	}
	return f.MemStore.Commit(token, b, expiry)
}

var errStore = errors.New("the store is down")

func startFailing(t *testing.T, o websession.Options) (*node, *failing) {
	store := &failing{MemStore: memstore.New()}
	sm := scs.New()
	sm.Store = store
	sm.ErrorFunc = func(w http.ResponseWriter, _ *http.Request, err error) {
		http.Error(w, err.Error(), http.StatusTeapot)
	}
	return start(t, setting{sm: sm, options: o}), store
}

func TestErrorsOfTheStoreAreTold(t *testing.T) {
	n, store := startFailing(t, websession.Options{Revalidate: 5 * time.Millisecond})
	b := newBrowser(t)
	b.get(n.url + "/set?a=1")
	c, l := b.dial(n)
	store.fails.Store(true)
	s := websession.FromLive(l)
	for name, err := range map[string]error{
		"Set": s.Set("a", 2), "Delete": s.Delete("a"), "Clear": s.Clear(), "Destroy": s.Destroy(),
	} {
		if !errors.Is(err, errStore) {
			t.Errorf("%s returned %v", name, err)
		}
	}
	for name, read := range map[string]func(s *websession.Session){
		"Get":      func(s *websession.Session) { s.Get("a") },
		"Pop":      func(s *websession.Session) { s.Pop("a") },
		"Exists":   func(s *websession.Session) { s.Exists("a") },
		"Keys":     func(s *websession.Session) { s.Keys() },
		"Deadline": func(s *websession.Session) { s.Deadline() },
	} {
		s := websession.FromLive(l)
		if read(s); !errors.Is(s.Err(), errStore) {
			t.Errorf("%s left %v", name, s.Err())
		}
	}
	if status, body, _ := b.ask(n.url + "/get?key=a"); status != http.StatusTeapot || !strings.Contains(body, "down") {
		t.Errorf("a request got %d %q", status, body)
	}
	// The sockets stay open meanwhile, and the failed sign-out has changed nothing.
	livetest.Eventually(t, "it was noticed", func() bool { return strings.Count(n.logs.String(), "not looked up") > 2 })
	store.fails.Store(false)
	if got := websession.FromLive(l).GetString("a"); got != "1" {
		t.Errorf("a is %q", got)
	}
	select {
	case <-c.ended:
		t.Error("the socket was closed")
	default:
	}
}

func TestASessionThatCannotBeSavedIsAnError(t *testing.T) {
	n, store := startFailing(t, websession.Options{})
	b := newBrowser(t)
	n.handle("/fail", func(w http.ResponseWriter, _ *http.Request, s *websession.Session) {
		n.check(s.Set("a", 1))
		store.fails.Store(true)
		if _, err := io.WriteString(w, "all is well"); !errors.Is(err, errStore) {
			t.Errorf("the handler was told %v", err)
		}
		w.WriteHeader(http.StatusOK)
	})
	if status, body, _ := b.ask(n.url + "/fail"); status != http.StatusTeapot || strings.Contains(body, "well") {
		t.Errorf("answered %d %q", status, body)
	}
}
