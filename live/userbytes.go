package live

import (
	"cmp"
	"log/slog"
	"slices"
	"time"
)

// What the sessions of one user hold together is measured by the sweeper, and not where a frame is
// queued: there it would cost each delivery a counter that many goroutines write. So a user may hold
// more for a second, up to the bounds of each session.

// userBytesEvery is the time between two measurements. A client on a fast connection fills its queue in a
// few milliseconds, so a shorter time would not bound a user better without costing much more. A walk
// over 100,000 sessions takes 10 to 20 ms (BenchmarkBoundUsers), so 1 to 2 % of a core.
const userBytesEvery = time.Second

// holding is a session with the bytes that it holds.
type holding struct {
	session *Session
	bytes   int
}

// boundUsers ends sessions of users that hold more than MaxBytesPerUser. Of such a user, the session that holds
// most comes first, because its client is the slowest. Sessions end until the rest fit.
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

// holds returns the bytes that wait for the client and for the application. The message that a callback
// handles counts, too. A session that has ended holds nothing for long.
func (s *Session) holds() int {
	in := &s.inbound
	in.mu.Lock()
	received := in.bytes + in.inWork
	in.mu.Unlock()
	n := received + s.out.Held()
	if n == 0 || s.IsClosed() {
		return 0
	}
	return n
}

func (s *Session) endForUserBytes(sum int) {
	if !s.end(closing{code: CloseUserBytes, reason: "too much waits for this user", err: ErrUserBytes, discard: true}) {
		return
	}
	s.server.counters.userBytes.Add(1)
	s.server.logOfClient(slog.LevelInfo, "live: session closed: MaxBytesPerUser reached", "session", s.id, "user", s.user, "bytes", sum)
}
