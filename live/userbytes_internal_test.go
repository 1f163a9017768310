package live

import (
	"fmt"
	"testing"

	"github.com/livetopic/livetopic/live/internal/outbox"
)

// What MaxBytesPerUser costs in a second, with 100,000 sessions of as many users that hold nothing.
func BenchmarkBoundUsers(b *testing.B) {
	s := &Server{opts: Options{MaxBytesPerUser: 1 << 20}}
	sessions := make([]*Session, 100_000)
	for i := range sessions {
		sessions[i] = &Session{server: s, user: fmt.Sprint(i), out: new(outbox.Box)}
	}
	for b.Loop() {
		s.boundUsers(sessions)
	}
}
