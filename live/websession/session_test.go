package websession_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alexedwards/scs/v2"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/websession"
)

var someTime = time.Date(2024, 2, 29, 12, 0, 0, 0, time.UTC)

// values has one value of every type that has a getter.
var values = []struct {
	name  string
	value any
	get   func(s *websession.Session, key string) any
	pop   func(s *websession.Session, key string) any
}{
	{"any", []byte{1}, (*websession.Session).Get, (*websession.Session).Pop},
	{"string", "text", of((*websession.Session).GetString), of((*websession.Session).PopString)},
	{"int", 42, of((*websession.Session).GetInt), of((*websession.Session).PopInt)},
	{"bool", true, of((*websession.Session).GetBool), of((*websession.Session).PopBool)},
	{"float64", 1.5, of((*websession.Session).GetFloat64), of((*websession.Session).PopFloat64)},
	{"time", someTime, of((*websession.Session).GetTime), of((*websession.Session).PopTime)},
	{"bytes", []byte("bytes"), of((*websession.Session).GetBytes), of((*websession.Session).PopBytes)},
}

func of[T any](f func(*websession.Session, string) T) func(*websession.Session, string) any {
	return func(s *websession.Session, key string) any { return f(s, key) }
}

// zero reports whether a getter has found nothing.
func zero(v any) bool { return v == nil || reflect.ValueOf(v).IsZero() }

// everyWay runs a test in one request, in two requests of one browser, after the head of a response,
// and on a socket.
func everyWay(t *testing.T, sm func() *scs.SessionManager, first, then func(t *testing.T, s *websession.Session)) {
	t.Run("request", func(t *testing.T) {
		n, b := start(t, setting{sm: sm()}), newBrowser(t)
		n.handle("/first", func(_ http.ResponseWriter, _ *http.Request, s *websession.Session) { first(t, s); then(t, s) })
		b.get(n.url + "/first")
	})
	t.Run("next request", func(t *testing.T) {
		n, b := start(t, setting{sm: sm()}), newBrowser(t)
		n.handle("/first", func(_ http.ResponseWriter, _ *http.Request, s *websession.Session) { first(t, s) })
		n.handle("/then", func(_ http.ResponseWriter, _ *http.Request, s *websession.Session) { then(t, s) })
		b.get(n.url + "/first")
		b.get(n.url + "/then")
	})
	t.Run("after the head", func(t *testing.T) {
		n, b := start(t, setting{sm: sm()}), newBrowser(t)
		n.handle("/first", func(w http.ResponseWriter, _ *http.Request, s *websession.Session) {
			first(t, s)
			io.WriteString(w, "head")
			then(t, s)
		})
		b.get(n.url + "/first")
	})
	t.Run("socket", func(t *testing.T) {
		n, b := start(t, setting{sm: sm()}), newBrowser(t)
		b.get(n.url + "/set?made=1")
		_, l := b.dial(n)
		first(t, websession.FromLive(l))
		then(t, websession.FromLive(l))
	})
}

func TestValuesAreFoundAgain(t *testing.T) {
	for name, sm := range map[string]func() *scs.SessionManager{"memory": memory, "hashed tokens": hashed} {
		t.Run(name, func(t *testing.T) {
			everyWay(t, sm, func(t *testing.T, s *websession.Session) {
				for _, v := range values {
					if err := s.Set(v.name, v.value); err != nil {
						t.Errorf("set %s: %v", v.name, err)
					}
				}
			}, func(t *testing.T, s *websession.Session) {
				for _, v := range values {
					if got := v.get(s, v.name); !reflect.DeepEqual(got, v.value) {
						t.Errorf("%s is %v", v.name, got)
					}
					if !s.Exists(v.name) || s.Exists("no "+v.name) {
						t.Errorf("%s does not exist, or what is not does", v.name)
					}
					for _, other := range values {
						if other.name != v.name && other.name != "any" && v.name != "any" && !zero(v.get(s, other.name)) {
							t.Errorf("a %s was found as %s", other.name, v.name)
						}
					}
				}
				keys := slices.DeleteFunc(s.Keys(), func(key string) bool { return key == "made" })
				if want := []string{"any", "bool", "bytes", "float64", "int", "string", "time"}; !slices.Equal(keys, want) {
					t.Errorf("keys are %v", keys)
				}
				if s.Deadline().Before(time.Now()) {
					t.Errorf("deadline is %v", s.Deadline())
				}
				if err := s.Err(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func TestPopGivesOnce(t *testing.T) {
	everyWay(t, memory, func(t *testing.T, s *websession.Session) {
		for _, v := range values {
			s.Set(v.name, v.value)
		}
	}, func(t *testing.T, s *websession.Session) {
		for _, v := range values {
			if got := v.pop(s, v.name); !reflect.DeepEqual(got, v.value) {
				t.Errorf("popped %v as %s", got, v.name)
			}
			if got := v.pop(s, v.name); !zero(got) || s.Exists(v.name) {
				t.Errorf("popped %v a second time", got)
			}
		}
	})
}

func TestDeleteClearAndUpdate(t *testing.T) {
	everyWay(t, memory, func(t *testing.T, s *websession.Session) {
		for _, key := range []string{"a", "b", "c"} {
			s.Set(key, key)
		}
		refused := errors.New("refused")
		if err := s.Update(func(map[string]any) error { return refused }); err != refused {
			t.Errorf("update returned %v", err)
		}
	}, func(t *testing.T, s *websession.Session) {
		if err := errors.Join(s.Delete("a"), s.Delete("not there")); err != nil || s.Exists("a") || !s.Exists("b") {
			t.Errorf("deleted a, and there are %v, %v", s.Keys(), err)
		}
		err := s.Update(func(values map[string]any) error {
			delete(values, "b")
			values["d"] = values["c"]
			return nil
		})
		if err != nil || s.Exists("b") || s.GetString("d") != "c" {
			t.Errorf("updated, and there are %v, %v", s.Keys(), err)
		}
		if err := s.Clear(); err != nil || len(s.Keys()) > 0 {
			t.Errorf("cleared, and there are %v, %v", s.Keys(), err)
		}
	})
}

// unregistered is a type that gob does not know.
type unregistered struct{ X int }

func TestWhatCannotBeStoredIsRefusedAtOnce(t *testing.T) {
	everyWay(t, memory, func(t *testing.T, s *websession.Session) {
		s.Set("kept", "kept")
		err := s.Set("bad", unregistered{1})
		if err == nil || !strings.Contains(err.Error(), "unregistered") {
			t.Errorf("set returned %v", err)
		}
		err = s.Update(func(values map[string]any) error { values["bad"] = unregistered{1}; return nil })
		if err == nil {
			t.Error("update took what cannot be stored")
		}
	}, func(t *testing.T, s *websession.Session) {
		if s.GetString("kept") != "kept" || s.Exists("bad") {
			t.Errorf("there are %v", s.Keys())
		}
	})
}

// checkNothing checks a Session without a session: reads find nothing, changes return ErrNoSession, and
// nothing panics.
func checkNothing(t *testing.T, s *websession.Session) {
	t.Helper()
	for _, v := range values {
		if got := v.get(s, v.name); !zero(got) {
			t.Errorf("get %s: %v", v.name, got)
		}
		if got := v.pop(s, v.name); !zero(got) {
			t.Errorf("pop %s: %v", v.name, got)
		}
	}
	if s.Exists("a") || len(s.Keys()) > 0 || !s.Deadline().IsZero() || s.Err() != nil {
		t.Errorf("exists %v, keys %v, deadline %v, err %v", s.Exists("a"), s.Keys(), s.Deadline(), s.Err())
	}
	for name, err := range map[string]error{
		"Set":    s.Set("a", 1),
		"Delete": s.Delete("a"),
		"Clear":  s.Clear(),
		"Update": s.Update(func(map[string]any) error { return nil }),
	} {
		if !errors.Is(err, websession.ErrNoSession) {
			t.Errorf("%s returned %v", name, err)
		}
	}
	if s.RenewToken() == nil {
		t.Error("RenewToken succeeded")
	}
	if err := s.Destroy(); err != nil {
		t.Errorf("Destroy: %v", err)
	}
	_ = fmt.Sprintf("%v %+v %#v", s, s, s)
}

func TestWithoutASession(t *testing.T) {
	t.Run("nil", func(t *testing.T) {
		checkNothing(t, nil)
		if s := (*websession.Session)(nil); s.ID() != "" || s.Fingerprint() != "" {
			t.Error("nil has an ID")
		}
	})
	t.Run("no request, no middleware", func(t *testing.T) {
		checkNothing(t, websession.FromRequest(nil))
		checkNothing(t, websession.FromRequest(httptest.NewRequest("GET", "/", nil)))
		checkNothing(t, websession.FromContext(context.Background()))
		checkNothing(t, websession.FromContext(nil)) //lint:ignore SA1012 it must not panic
		checkNothing(t, websession.FromLive(nil))
		checkNothing(t, websession.FromLive(new(live.Session)))
	})
	t.Run("a socket without a cookie", func(t *testing.T) {
		n, b := start(t, setting{}), newBrowser(t)
		_, l := b.dial(n)
		checkNothing(t, websession.FromLive(l))
		if websession.FromLive(l).ID() != "" {
			t.Error("it has an ID")
		}
	})
	t.Run("after the end", func(t *testing.T) {
		n, b := start(t, setting{}), newBrowser(t)
		b.get(n.url + "/set?a=1")
		c, l := b.dial(n)
		s := websession.FromLive(l)
		if err := s.Destroy(); err != nil {
			t.Fatal(err)
		}
		checkNothing(t, s)
		c.endsWith(live.CloseRevoked)
		livetest.Eventually(t, "the socket is forgotten", func() bool { return websession.FromLive(l) == nil })
		checkNothing(t, s)
	})
}

func TestNothingReadSetsNoCookie(t *testing.T) {
	n, b := start(t, setting{}), newBrowser(t)
	_, _, header := b.ask(n.url + "/get?key=a")
	if got := header.Values("Set-Cookie"); len(got) > 0 {
		t.Errorf("set %v", got)
	}
	if header.Get("Vary") != "Cookie" {
		t.Errorf("Vary is %q", header.Get("Vary"))
	}
}

func TestDestroyThenSetIsANewSession(t *testing.T) {
	n, b := start(t, setting{}), newBrowser(t)
	n.handle("/leave", func(_ http.ResponseWriter, _ *http.Request, s *websession.Session) {
		n.check(s.Destroy())
		n.check(s.Set("flash", "You are signed out"))
	})
	b.get(n.url + "/login?user=ana")
	before := b.cookie(n.url)
	b.get(n.url + "/leave")
	if after := b.cookie(n.url); after == "" || after == before {
		t.Errorf("the cookie is %q", after)
	}
	if b.get(n.url+"/get?key=flash") == "" || b.get(n.url+"/get?key=username") != "" {
		t.Error("the flash is lost, or the user is not")
	}
}

func TestConcurrentChangesAreAllKept(t *testing.T) {
	n, b := start(t, setting{}), newBrowser(t)
	b.get(n.url + "/set?made=1")
	_, l := b.dial(n)
	s := websession.FromLive(l)
	s.Set("flash", "once")

	var popped sync.Map
	var running sync.WaitGroup
	for i := range 8 {
		running.Go(func() {
			for range 50 {
				err := s.Update(func(values map[string]any) error {
					n, _ := values["count"].(int)
					values["count"] = n + 1
					return nil
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
		running.Go(func() {
			if s.PopString("flash") != "" {
				popped.Store(i, true)
			}
		})
	}
	running.Wait()
	if got := s.GetInt("count"); got != 400 {
		t.Errorf("counted %d of 400", got)
	}
	times := 0
	popped.Range(func(_, _ any) bool { times++; return true })
	if times != 1 {
		t.Errorf("popped %d times", times)
	}
}

// A request saves what it has changed, and does not undo what others did while it ran.
func TestRequestsDoNotUndoEachOther(t *testing.T) {
	n, b := start(t, setting{}), newBrowser(t)
	entered, goOn := make(chan bool), make(chan bool)
	n.handle("/slow", func(_ http.ResponseWriter, _ *http.Request, s *websession.Session) {
		n.check(s.Set("slow", "slow"))
		n.check(s.Delete("old"))
		entered <- true
		<-goOn
	})
	b.get(n.url + "/set?old=1&kept=1")
	_, l := b.dial(n)
	done := make(chan bool)
	go func() { b.get(n.url + "/slow"); close(done) }()
	livetest.Receive(t, entered)
	b.get(n.url + "/set?quick=quick")
	if err := websession.FromLive(l).Set("socket", "socket"); err != nil {
		t.Error(err)
	}
	goOn <- true
	livetest.Receive(t, done)
	if keys := websession.FromLive(l).Keys(); !slices.Equal(keys, []string{"kept", "quick", "slow", "socket"}) {
		t.Errorf("there are %v", keys)
	}
}

func TestTokensCannotBeFixed(t *testing.T) {
	n := start(t, setting{})
	attacker := newBrowser(t)
	attacker.get(n.url + "/set?bait=1")
	valid := attacker.cookie(n.url)
	for name, token := range map[string]string{"of another": valid, "made up": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"} {
		victim := newBrowser(t)
		victim.setCookie(n.url, token)
		victim.get(n.url + "/login?user=ana")
		if victim.cookie(n.url) == token {
			t.Errorf("%s: the token is the same after the login", name)
		}
		attacker.setCookie(n.url, token)
		if got := attacker.get(n.url + "/get?key=username"); got != "" {
			t.Errorf("%s: the attacker is %s", name, got)
		}
		if got := victim.get(n.url + "/get?key=username"); got != "ana" {
			t.Errorf("%s: the victim is %q", name, got)
		}
	}
}
