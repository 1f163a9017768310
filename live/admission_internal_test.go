package live

import (
	"context"
	"testing"
)

// A page that is loaded again dials before its old session has left. That costs no other session its place.
func TestSessionThatHasEndedIsReplacedFirst(t *testing.T) {
	s := &Server{opts: Options{MaxSessionsPerUser: 2, ReplaceOldest: true}, perUser: make(map[string]*placesOfUser)}
	begin := func() *Session {
		sess := &Session{server: s, user: "ann"}
		sess.ctx, sess.cancel = context.WithCancel(t.Context())
		if err := s.reserveUser("ann"); err != nil {
			t.Fatal(err)
		}
		return sess
	}
	oldest, ended, newest, last := begin(), begin(), begin(), begin()
	for _, sess := range []*Session{oldest, ended} {
		if s.takePlace(sess) != nil {
			t.Fatal("a session was replaced while there was a place")
		}
	}
	ended.cancel()
	if s.takePlace(newest) != ended {
		t.Error("not the session that has ended was replaced")
	}
	if s.takePlace(last) != oldest {
		t.Error("not the oldest session was replaced")
	}
	for _, sess := range []*Session{oldest, ended, newest, last} {
		s.givePlaceBack(sess)
	}
	if len(s.perUser) != 0 {
		t.Errorf("left behind: %v", s.perUser)
	}
}
