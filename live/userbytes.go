package live

import (
	"cmp"
	"log/slog"
	"slices"
	"time"
)

// The sweeper measures how many bytes the sessions of one user hold together. Measuring where a frame
// is queued would cost more: each delivery would write to a counter that many goroutines share. So a
// user may hold more than MaxBytesPerUser for a second, as much as the bounds of each session allow.

// userBytesEvery is the time between two measurements. A walk over 100,000 sessions takes 10 to 20 ms
// (BenchmarkBoundUsers), which is 1 to 2 % of a core. A shorter time would cost more and bound a user
// hardly better: a queue can be full after a few milliseconds.
const userBytesEvery = time.Second

// holding is a session with the number of bytes that it holds.
type holding struct {
	session *Session
	bytes   int
}

// boundUsers ends sessions of users who hold more than MaxBytesPerUser. The session that holds most
// ends first, because its client is the slowest. Sessions end until the user's other sessions hold no
// more than the bound.
func (s *Server) boundUsers(sessions []*Session) {
	if s.opts.MaxBytesPerUser <= 0 {
		return
	}
	var all []holding
	sums := make(map[string]int)
	for _, sess := range sessions {
		if sess.user == "" {
			continue
		}
		if n := sess.holds(); n > 0 {
			all = append(all, holding{sess, n})
			sums[sess.user] += n
		}
	}
	all = slices.DeleteFunc(all, func(h holding) bool { return sums[h.session.user] <= s.opts.MaxBytesPerUser })
	slices.SortFunc(all, func(a, b holding) int { return cmp.Compare(b.bytes, a.bytes) })
	for _, h := range all {
		sum := sums[h.session.user]
		if sum <= s.opts.MaxBytesPerUser {
			continue
		}
		sums[h.session.user] -= h.bytes
		h.session.endForUserBytes(sum)
	}
}

// holds returns how many bytes wait for the client and for the application. The message that a
// callback is handling counts too, and so does a message that has not come completely. A session
// that has ended counts as 0: it gives its bytes back soon.
func (s *Session) holds() int {
	in := &s.inbound
	in.mu.Lock()
	received := in.bytes + in.inWork + in.coming
	in.mu.Unlock()
	n := received + s.out.Held() + int(s.newestBytes.Load())
	if n == 0 || s.IsClosed() {
		return 0
	}
	return n
}

// endForUserBytes ends a session because its user holds too much: sum bytes.
func (s *Session) endForUserBytes(sum int) {
	if !s.end(closing{code: CloseUserBytes, reason: "too much waits for this user", err: ErrUserBytes, why: closedUserBytes, discard: true}) {
		return
	}
	s.server.logOfClient(slog.LevelInfo, "live: session closed: MaxBytesPerUser reached", "session", s.id, "user", s.user, "bytes", sum)
}
